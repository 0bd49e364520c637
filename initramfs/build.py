"""hyperstart compiled, and the initramfs that carries it, both cached by what they are made of."""

from __future__ import annotations

import hashlib
import json
import shutil
import stat
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hyperbuild.converter import files
from hyperbuild.converter.errors import ToolError
from hyperbuild.initramfs.cpio import CpioEntry, write_cpio

if TYPE_CHECKING:
    from hyperbuild.converter.progress import Progress

SOURCES = Path(__file__).parent / "src"
COMPILER = "musl-gcc"
#: musl's own headers come first; Linux's stand beside the C library's that the compiler came with.
FLAGS = (
    "-std=c11",
    "-D_GNU_SOURCE",
    "-Os",
    "-static",
    "-s",
    "-Wall",
    "-Wextra",
    "-Werror",
    "-fno-ident",
    "-Wl,--build-id=none",
    "-idirafter",
    "/usr/include",
    "-idirafter",
    "/usr/include/x86_64-linux-gnu",
)


@dataclass(frozen=True, slots=True)
class Initramfs:
    """An initramfs in the cache: path, "sha256:…" digest, size in bytes."""

    path: Path
    digest: str
    size: int


def build_initramfs(cache: Path, *, progress: Progress) -> Initramfs:
    """Return the initramfs from cache, compiled first if it is not there.

    The bytes depend on sources, flags and compiler version alone. ToolError if the compiler is
    missing or fails.
    """
    compiler = _compiler()
    target = cache / "initramfs" / _key(compiler) / "initramfs.cpio"
    if not target.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        with files.locked(target.parent / ".lock"):
            if not target.exists():
                progress.say("compiling hyperstart")
                files.sweep(target.parent)
                files.write_atomically(target, _archive(_compile(compiler)))
    content = target.read_bytes()
    return Initramfs(target, "sha256:" + hashlib.sha256(content).hexdigest(), len(content))


def _compiler() -> str:
    path = shutil.which(COMPILER)
    if path is None:
        raise ToolError(f"{COMPILER} is missing, which hyperstart needs; apt install musl-tools")
    return path


def _key(compiler: str) -> str:
    said = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=False)
    if said.returncode:
        raise ToolError(f"{compiler} does not run ({said.stderr.strip()}); apt install gcc")
    contents = {path.name: path.read_text() for path in _sources()}
    identity = json.dumps([said.stdout.partition("\n")[0], FLAGS, contents], sort_keys=True)
    return hashlib.sha256(identity.encode()).hexdigest()


def _sources() -> list[Path]:
    return sorted(path for path in SOURCES.iterdir() if path.suffix in (".c", ".h"))


def _compile(compiler: str) -> bytes:
    with tempfile.TemporaryDirectory(prefix="hyperbuild-") as work:
        # A copy: nothing is ever built where the package lies, and no path gets into the binary.
        for source in _sources():
            shutil.copy(source, work)
        units = [source.name for source in _sources() if source.suffix == ".c"]
        done = subprocess.run(
            [compiler, *FLAGS, "-o", "init", *units],
            cwd=work,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), "")
            raise ToolError(f"hyperstart does not compile: {first or done.stderr.strip()}")
        return (Path(work) / "init").read_bytes()


def _archive(init: bytes) -> bytes:
    """Lay out the template: the launcher appends each VM's boot spec to it."""
    return write_cpio(
        (
            CpioEntry("dev", stat.S_IFDIR | 0o755),
            CpioEntry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
            CpioEntry("init", stat.S_IFREG | 0o755, init),
        )
    )
