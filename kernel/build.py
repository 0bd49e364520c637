"""The HyperKernel: built once for each source, configuration and compiler, then kept.

    CACHE/kernel/<key>/vmlinux        stripped, booted directly
    CACHE/kernel/<key>/config         its .config
    CACHE/kernel/<key>/kernel.json    what it is and what it was made of
    CACHE/kernel/logs/<key>.log       the output of a build that failed

The build happens in a temporary directory beside them and is renamed into place when it is whole.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import InputError, ToolError
from hyperbuild.converter.files import fsync_directory, locked, scratch
from hyperbuild.kernel.elf import read_kernel
from hyperbuild.kernel.kconfig import (
    DEFAULT_PROFILE,
    configure,
    find_profile,
    load_profile,
    parse_config,
    render,
)
from hyperbuild.kernel.patching import apply_patches, load_patches
from hyperbuild.kernel.source import SKIPPED, unpack
from hyperbuild.kernel.toolchain import Make, check_tools, toolchain

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hyperbuild.converter.progress import Progress
    from hyperbuild.kernel.kconfig import Fragment
    from hyperbuild.kernel.patching import Patch
    from hyperbuild.kernel.source import KernelSource

#: Part of every key: raised when the steps below change what they make.
_RECIPE = 2

_COMPILED = ("  CC ", "  AS ", "  HOSTCC ")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel in the cache: ``path`` is its vmlinux, ``size`` bytes; digests are ``sha256:…``.

    ``source`` is the digest of the source, ``toolchain`` the compiler and linker it was built by;
    both are "", as is ``key``, for a kernel that came from elsewhere.
    """

    path: Path
    version: str
    digest: str
    size: int
    config_digest: str
    key: str
    profile: str
    source: str = ""
    toolchain: str = ""

    @property
    def config(self) -> Path:
        """The .config it was built with."""
        return self.path.with_name("config")

    def has(self, option: str) -> bool:
        """Whether it was built with option ("CONFIG_SMP")."""
        return parse_config(self.config.read_text(encoding="ascii")).get(option) == "y"


def build_kernel(
    cache: Path,
    source: KernelSource,
    *,
    profile: str = DEFAULT_PROFILE,
    more: Sequence[Fragment] = (),
    jobs: int,
    progress: Progress,
) -> Kernel:
    """Return the kernel of source and profile, built with jobs compilers if cache lacks it.

    more are fragments beyond the profile's.
    Two builds of the same kernel at once do the work once. Raises as ``configure`` and the
    source do, and ToolError when a tool is missing or fails; then nothing is published.
    """
    room = cache / "kernel"
    fragments, patches = _loaded(profile, more)
    key = _key(source, fragments, patches)
    if kernel := _load(room / key):
        return kernel
    with locked(room / f".lock-{key}"):
        if kernel := _load(room / key):
            return kernel
        _check_place(room)
        check_tools()
        with scratch(room) as place:
            unpack(source, _made(place / "tree"), cache, progress)
            log = _made(room / "logs") / f"{key}.log"
            log.unlink(missing_ok=True)
            make = Make(place / "tree", log, _made(place / "tmp"))
            apply_patches(place / "tree", patches, make, progress)
            config = _compile(place / "tree", fragments, make, jobs, progress)
            named = "+".join((profile, *(fragment.name for fragment in more)))
            _describe(_made(place / "out"), place / "tree", config, source, named)
            _publish(place / "out", room / key)
            log.unlink()
        kernel = _load(room / key)
        if kernel is None:
            raise ToolError(f"the kernel in {room / key} vanished while it was built; build again")
        return kernel


def kernel_key(
    source: KernelSource, profile: str = DEFAULT_PROFILE, more: Sequence[Fragment] = ()
) -> str:
    """Return the digest, in hex, of all that the bytes of such a kernel depend on."""
    return _key(source, *_loaded(profile, more))


def find_kernel(
    cache: Path,
    source: KernelSource,
    profile: str = DEFAULT_PROFILE,
    more: Sequence[Fragment] = (),
) -> Kernel | None:
    """Return the kernel that ``build_kernel`` would return without building, or None."""
    return load_kernel(cache, kernel_key(source, profile, more))


def load_kernel(cache: Path, key: str) -> Kernel | None:
    """Return the kernel of that ``kernel_key`` if cache has it."""
    return _load(cache / "kernel" / key)


def cached_kernels(cache: Path) -> list[Kernel]:
    """Return the kernels in cache, by version and key."""
    found = (_load(note.parent) for note in (cache / "kernel").glob("*/kernel.json"))
    return sorted((kernel for kernel in found if kernel), key=lambda it: (it.version, it.key))


def _loaded(
    profile: str, more: Sequence[Fragment]
) -> tuple[tuple[Fragment, ...], tuple[Patch, ...]]:
    return (*load_profile(profile), *more), load_patches(find_profile(profile))


def _key(source: KernelSource, fragments: Sequence[Fragment], patches: Sequence[Patch]) -> str:
    changes = [patch.diff for patch in patches]
    made_of = [_RECIPE, SKIPPED, source.digest, render(fragments), changes, toolchain()]
    return hashlib.sha256(json.dumps(made_of).encode()).hexdigest()


def _check_place(room: Path) -> None:
    """Refuse, before any work, what the kernel's Makefile refuses."""
    if re.search(r"[\s:]", str(room.absolute())):
        raise InputError(
            f"no kernel can be built in {room}, whose path has a space or a colon; "
            "choose another cache directory"
        )


def _load(directory: Path) -> Kernel | None:
    """Return the kernel in directory; None when there is none or its size is not as noted."""
    path = directory / "vmlinux"
    try:
        note = json.loads((directory / "kernel.json").read_bytes())
        kernel = Kernel(
            path,
            str(note["version"]),
            str(note["digest"]),
            int(note["size"]),
            str(note["config_digest"]),
            directory.name,
            str(note["profile"]),
            str(note["source"]),
            str(note["toolchain"]),
        )
        return kernel if path.stat().st_size == kernel.size else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _made(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    return directory


def _compile(
    tree: Path, fragments: Sequence[Fragment], make: Make, jobs: int, progress: Progress
) -> str:
    """Configure and build tree/vmlinux, stripped; return the .config."""
    # A directory that was built in brings objects of other options along.
    if (tree / ".config").exists():
        make.run("mrproper")
    configured = configure(tree, fragments, make)
    for name in configured.unknown:
        progress.warn(f"this kernel has no option {name}; nothing to turn off")
    with progress.task("compiling the kernel", unit="object") as task:
        make.run(
            f"-j{jobs}",
            "vmlinux",
            on_line=lambda line: task.advance(1) if line.startswith(_COMPILED) else None,
        )
    make.tool("strip", "--strip-all", "vmlinux")
    return configured.text


def _describe(out: Path, tree: Path, config: str, source: KernelSource, profile: str) -> None:
    """Fill out with vmlinux, config and kernel.json."""
    shutil.move(tree / "vmlinux", out / "vmlinux")
    (out / "config").write_text(config, encoding="ascii")
    with (out / "vmlinux").open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    image = read_kernel(out / "vmlinux")
    note = {
        "version": image.version,
        "digest": f"sha256:{digest}",
        "size": image.size,
        "config_digest": f"sha256:{hashlib.sha256(config.encode()).hexdigest()}",
        "profile": profile,
        "source": source.digest,
        "toolchain": toolchain(),
    }
    (out / "kernel.json").write_text(json.dumps(note, indent=2) + "\n", encoding="ascii")


def _publish(out: Path, target: Path) -> None:
    """Give the directory out its name, durably; a damaged one in its place goes."""
    for path in out.iterdir():
        path.chmod(0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    fsync_directory(out)
    shutil.rmtree(target, ignore_errors=True)
    out.rename(target)
    fsync_directory(target.parent)
