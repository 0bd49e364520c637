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
#: The file beside an initramfs that says what compiled it.
_TOOLS = "tools"
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
    """An initramfs in the cache: path, "sha256:…" digest, size in bytes.

    ``source`` is the digest of hyperstart's sources and the compiler's flags, ``tools`` says what
    compiled and linked them ("" if an earlier hyperbuild did).
    """

    path: Path
    digest: str
    size: int
    source: str
    tools: str


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
                init, tools = _compile(compiler)
                files.write_atomically(target.with_name(_TOOLS), tools.encode())
                files.write_atomically(target, _archive(init))
    return _read(target)


def initramfs_key() -> str:
    """Return the digest, in hex, of all that the initramfs depends on; ToolError: no compiler."""
    return _key(_compiler())


def find_tools(cache: Path, digest: str) -> str:
    """Return what the initramfs of that digest was compiled by; "" if cache has none of it."""
    for path in (cache / "initramfs").glob("*/initramfs.cpio"):
        found = _read(path)
        if found.digest == digest:
            return found.tools
    return ""


def _read(path: Path) -> Initramfs:
    content, note = path.read_bytes(), path.with_name(_TOOLS)
    tools = note.read_text() if note.exists() else ""
    return Initramfs(path, _digest(content), len(content), source_digest(), tools)


def source_digest() -> str:
    """Return the digest of hyperstart's sources, by name and content, and the compiler's flags."""
    contents = {path.name: path.read_text() for path in _sources()}
    return _digest(json.dumps([FLAGS, contents], sort_keys=True).encode())


def _digest(content: bytes) -> str:
    return f"sha256:{hashlib.sha256(content).hexdigest()}"


def _compiler() -> str:
    path = shutil.which(COMPILER)
    if path is None:
        raise ToolError(f"{COMPILER} is missing, which hyperstart needs; apt install musl-tools")
    return path


def _key(compiler: str) -> str:
    identity = json.dumps([_says(compiler, "--version"), source_digest()])
    return hashlib.sha256(identity.encode()).hexdigest()


def _says(compiler: str, option: str) -> str:
    """Return the first line that the compiler prints for option."""
    said = subprocess.run([compiler, option], capture_output=True, text=True, check=False)
    if said.returncode:
        raise ToolError(f"{compiler} does not run ({said.stderr.strip()}); apt install gcc")
    return said.stdout.partition("\n")[0]


def _sources() -> list[Path]:
    return sorted(path for path in SOURCES.iterdir() if path.suffix in (".c", ".h"))


def _compile(compiler: str) -> tuple[bytes, str]:
    """Return hyperstart, and the versions of what made it."""
    with tempfile.TemporaryDirectory(prefix="hyperbuild-") as work:
        # A copy: nothing is ever built where the package lies, and no path gets into the binary.
        for source in _sources():
            shutil.copy(source, work)
        units = [source.name for source in _sources() if source.suffix == ".c"]
        done = subprocess.run(
            [compiler, *FLAGS, "-Wl,--trace", "-o", "init", *units],
            cwd=work,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            first = next((line for line in done.stderr.splitlines() if "error" in line), "")
            raise ToolError(f"hyperstart does not compile: {first or done.stderr.strip()}")
        return (Path(work) / "init").read_bytes(), _tools(compiler, done.stdout.split())


def _tools(compiler: str, linked: list[str]) -> str:
    """Name the compiler, its linker, and the C library among the files that were linked."""
    library = next((Path(name) for name in linked if name.endswith("/libc.a")), None)
    libc = f"libc.a {_digest(library.read_bytes())}" if library else "no libc.a"
    return " / ".join((_says(compiler, "--version"), _says(compiler, "-Wl,--version"), libc))


def _archive(init: bytes) -> bytes:
    """Lay out the template: the launcher appends each VM's boot spec to it."""
    return write_cpio(
        (
            CpioEntry("dev", stat.S_IFDIR | 0o755),
            CpioEntry("dev/console", stat.S_IFCHR | 0o600, device=(5, 1)),
            CpioEntry("init", stat.S_IFREG | 0o755, init),
        )
    )
