"""Where a kernel's source comes from: the distribution, a URL, a tarball or a directory."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import (
    ContentError,
    InputError,
    NotFoundError,
    ToolError,
    VerificationError,
)
from hyperbuild.converter.files import open_regular, write_atomically
from hyperbuild.kernel.download import download
from hyperbuild.kernel.toolchain import PATH, first_error

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hyperbuild.converter.progress import Progress

_DEBIAN = Path("/usr/src")

#: What an x86 kernel is not made of, as tar's patterns for paths below the top directory. Every
#: Kconfig stays, and every Makefile: they include each other across architectures.
SKIPPED = (
    "Documentation/*/*",
    "arch/[a-wyz]*/*.[chS]",
    "arch/[a-wyz]*/*.dts",
    "arch/[a-wyz]*/*.dtsi",
    "tools/testing/*",
)


@dataclass(frozen=True, slots=True)
class KernelSource:
    """A Linux source: ``place`` is a tarball, a directory, or a URL (``str``) of a tarball.

    ``digest`` (``sha256:…``) tells it from others: of the tarball's bytes, or over the names and
    contents of a directory. ``version`` is what its name or Makefile says, for messages.
    """

    version: str
    digest: str
    place: Path | str


def find_source(
    cache: Path, place: str | None, sha256: str | None = None, *, progress: Progress
) -> KernelSource:
    """Return the source at place: a URL (sha256 needed), a tarball, a directory; None is Debian's.

    cache keeps digests already taken. InputError when place and sha256 do not fit, NotFoundError
    when there is nothing at place, VerificationError when a local tarball is not as sha256 says.
    """
    if place is not None and "://" in place:
        return _url_source(place, sha256)
    path = newest_source(_DEBIAN) if place is None else Path(place)
    if not path.exists():
        raise NotFoundError(f"no kernel source at {path}; give a tarball, a directory or a URL")
    if path.is_dir():
        if sha256 is not None:
            raise InputError(f"{path} is a directory, which has no SHA-256; leave it out")
        return KernelSource(_makefile_version(path), _directory_digest(path, progress), path)
    digest = _tarball_digest(path, cache / "kernel" / "digests", progress)
    if sha256 is not None and digest != f"sha256:{_hex_digest(path, sha256)}":
        raise VerificationError(f"{path} has {digest}, not {sha256}; check file and digest")
    return KernelSource(_name_version(path.name), digest, path)


def newest_source(directory: Path) -> Path:
    """Return the newest linux-source-*.tar.xz in directory; NotFoundError says how to get one."""
    found = sorted(directory.glob("linux-source-*.tar.xz"), key=_numbers)
    if not found:
        raise NotFoundError(
            f"no linux-source-*.tar.xz in {directory}; install with: apt install linux-source-6.1"
        )
    return found[-1]


def unpack(source: KernelSource, tree: Path, cache: Path, progress: Progress) -> None:
    """Fill the empty directory tree with source.

    A URL is downloaded unless cache has it. ContentError when it is no Linux source.
    """
    place = source.place
    if isinstance(place, str):
        digest = source.digest.removeprefix("sha256:")
        place = download(place, digest, cache / "kernel" / "sources", progress)
    if place.is_dir():
        _copy(place, tree, progress)
    else:
        with progress.task(f"unpacking Linux {source.version}", unit="step"):
            _untar(place, tree)
    for name in ("Makefile", "scripts/kconfig/merge_config.sh"):
        if not (tree / name).is_file():
            raise ContentError(
                f"{source.place} is not a Linux source tree (no {name}); give one that is"
            )


def _url_source(url: str, sha256: str | None) -> KernelSource:
    if not url.startswith(("http://", "https://")):
        raise InputError(f"{url}: kernel sources come by http or https; give such a URL")
    digest = _hex_digest(url, sha256 or "")
    return KernelSource(_name_version(url.rpartition("/")[2]), f"sha256:{digest}", url)


def _hex_digest(place: Path | str, sha256: str) -> str:
    digest = sha256.removeprefix("sha256:").lower()
    if not re.fullmatch(r"[0-9a-f]{64}", digest):
        raise InputError(f"{place} needs its SHA-256, 64 hex digits, to be checked against")
    return digest


def _numbers(path: Path) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", path.name.partition(".tar")[0]))


def _name_version(name: str) -> str:
    found = re.search(r"\d+(?:\.\d+)+(?:-rc\d+)?", name)
    return found[0] if found else name


def _makefile_version(directory: Path) -> str:
    try:
        text = (directory / "Makefile").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return directory.name
    numbers = re.findall(r"^(?:VERSION|PATCHLEVEL|SUBLEVEL) = (\d+)$", text, re.MULTILINE)
    return ".".join(numbers) or directory.name


def _tarball_digest(path: Path, notes: Path, progress: Progress) -> str:
    """Return the digest of the file path, taken once for each state of it and kept in notes."""
    with os.fdopen(open_regular(path), "rb") as file:
        found = os.fstat(file.fileno())
        state = f"{path.resolve()}:{found.st_ino}:{found.st_size}:{found.st_mtime_ns}"
        note = notes / hashlib.sha256(state.encode("utf-8", "surrogateescape")).hexdigest()
        if note.is_file():
            return note.read_text(encoding="ascii")
        with progress.task(f"checking {path.name}", unit="step"):
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
    notes.mkdir(parents=True, exist_ok=True)
    write_atomically(note, digest.encode())
    return digest


def _directory_digest(root: Path, progress: Progress) -> str:
    """Return a digest over names, types, executable bits and contents of what is built."""
    total = hashlib.sha256()
    with progress.task(f"checking {root}", unit="file") as task:
        for name in sorted(_files(root)):
            path = root / name
            total.update(os.fsencode(name) + b"\0")
            if path.is_symlink():
                total.update(b"l" + os.fsencode(path.readlink()) + b"\0")
            else:
                with os.fdopen(open_regular(path), "rb") as file:
                    executable = os.fstat(file.fileno()).st_mode & 0o100
                    total.update(b"x" if executable else b"-")
                    total.update(hashlib.file_digest(file, "sha256").digest())
            task.advance(1)
    return f"sha256:{total.hexdigest()}"


def _copy(root: Path, tree: Path, progress: Progress) -> None:
    with progress.task(f"copying {root}", unit="file") as task:
        for name in _files(root):
            target = tree / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, target, follow_symlinks=False)
            task.advance(1)


def _files(root: Path) -> Iterator[str]:
    """Yield the relative paths of the files and symlinks below root, less those of git."""
    for folder, folders, names in os.walk(root):
        below = os.path.relpath(folder, root)
        prefix = "" if below == "." else below + "/"
        links = [name for name in folders if (Path(folder) / name).is_symlink()]
        folders[:] = [name for name in folders if name != ".git" and name not in links]
        for name in (*names, *links):
            yield prefix + name


def _untar(tarball: Path, tree: Path) -> None:
    argv = ["tar", "--extract", "--no-same-owner", "--strip-components=1"]
    argv += [f"--file={tarball}", f"--directory={tree}", "--force-local"]
    argv += ["--anchored", "--wildcards", *(f"--exclude=*/{pattern}" for pattern in SKIPPED)]
    try:
        done = subprocess.run(
            argv, capture_output=True, check=False, env={"PATH": PATH, "LC_ALL": "C"}
        )
    except OSError as error:
        raise ToolError("cannot run tar; install with: apt install tar xz-utils") from error
    if done.returncode:
        said = first_error(done.stderr.decode(errors="replace").splitlines())
        raise ContentError(f"{tarball} cannot be unpacked: {said}; give a Linux source tarball")
