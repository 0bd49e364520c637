"""A cache of things that are slow to make: each is there whole or not at all.

Makers run as root (device nodes, owners, chroot); who is not root gets there by sudo.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_HALF_MADE = ".half-made-"


def default_cache() -> Path:
    """Return the cache directory: HYPERBUILD_TEST_CACHE, or ~/.cache/hyperbuild-tests."""
    named = os.environ.get("HYPERBUILD_TEST_CACHE")
    return Path(named).absolute() if named else Path.home() / ".cache" / "hyperbuild-tests"


def as_root(*argv: str | Path) -> list[str]:
    """Return argv, behind sudo when the caller is not root."""
    words = [str(word) for word in argv]
    return words if os.geteuid() == 0 else ["sudo", *words]


@dataclass(frozen=True, slots=True)
class Workshop:
    """Where one thing is being made. Its processes keep the lock until the last of them ends."""

    path: Path
    lock: int

    def run(self, *argv: str | Path, stdin: bytes = b"", env: dict[str, str] | None = None) -> str:
        """Run a tool that must succeed, and return its stdout; a failure shows all it said."""
        done = subprocess.run(
            [str(word) for word in argv],
            input=stdin,
            capture_output=True,
            check=False,
            pass_fds=(self.lock,),
            cwd=self.path,
            env=os.environ | {"TMPDIR": str(self.path), "LC_ALL": "C.UTF-8"} | (env or {}),
        )
        if done.returncode:
            said = (done.stdout + done.stderr).decode(errors="replace")
            raise RuntimeError(f"{argv[0]} failed with status {done.returncode}:\n{said[-4000:]}")
        return done.stdout.decode()


def content_key(*parts: str | bytes | Path) -> str:
    """Return 16 hex digits for what a thing is made from; a Path stands for its file's bytes."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, Path):
            content = part.read_bytes()
        else:
            content = part.encode() if isinstance(part, str) else part
        digest.update(len(content).to_bytes(8) + content)
    return digest.hexdigest()[:16]


def made(cache: Path, name: str, make: Callable[[Workshop, Path], None]) -> Path:
    """Return cache/name, made by make(workshop, target) unless it is there already.

    name holds the content key, so what is there never goes stale. A maker that is killed leaves
    a half-made directory under another name, which the next one to make this thing removes.
    """
    target = cache / name
    if target.exists():
        return target
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / f".{name}.lock") as lock:
        work = cache / f"{_HALF_MADE}{name}"
        if work.exists():
            shutil.rmtree(work)
        if target.exists():
            return target
        work.mkdir()
        (work / "tmp").mkdir()
        print(f"making {name} in {cache} …", file=sys.stderr, flush=True)
        try:
            make(Workshop(work / "tmp", lock), work / "made")
            os.sync()
            (work / "made").rename(target)
        finally:
            shutil.rmtree(work)
    return target


@contextmanager
def _locked(path: Path) -> Iterator[int]:
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield fd
    finally:
        os.close(fd)
