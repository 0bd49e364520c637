"""The HyperKernel: built once for each source, configuration and compiler, then kept.

    CACHE/kernel/<key>/vmlinux        stripped, booted directly
    CACHE/kernel/<key>/bzImage        the same as firmware and boot loaders start it (profile disk)
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
from typing import TYPE_CHECKING, Any

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
class BootImage:
    """A bzImage: ``size`` bytes at ``path``, of digest ``sha256:…``."""

    path: Path
    size: int
    digest: str


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel in the cache: ``path`` is its vmlinux, ``size`` bytes; digests are ``sha256:…``.

    ``source`` is the digest of the source, ``toolchain`` the compiler and linker it was built by;
    both are "", as is ``key``, for a kernel that came from elsewhere. ``bzimage`` is the same
    kernel as firmware and boot loaders start it, for a profile that has one.
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
    bzimage: BootImage | None = None

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
    fragments, patches, targets = _loaded(profile, more)
    key = _key(source, fragments, patches, targets)
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
            config = _compile(place / "tree", fragments, targets, make, jobs, progress)
            named = "+".join((profile, *(fragment.name for fragment in more)))
            _collect(_made(place / "out"), place / "tree", config, targets)
            _describe(place / "out", config, source, named)
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
) -> tuple[tuple[Fragment, ...], tuple[Patch, ...], tuple[str, ...]]:
    """Return profile's fragments and more, its patches, and what make is to make."""
    found = find_profile(profile)
    targets = ("vmlinux", "bzImage") if found.bzimage else ("vmlinux",)
    return (*load_profile(profile), *more), load_patches(found), targets


def _key(
    source: KernelSource,
    fragments: Sequence[Fragment],
    patches: Sequence[Patch],
    targets: Sequence[str],
) -> str:
    changes = [patch.diff for patch in patches]
    made_of = [_RECIPE, SKIPPED, source.digest, render(fragments), changes, toolchain()]
    made_of += targets[1:]
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
            _boot_image(directory, note.get("bzimage")),
        )
        return kernel if path.stat().st_size == kernel.size else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _boot_image(directory: Path, note: Any) -> BootImage | None:
    """Return the bzImage that note tells of; OSError or ValueError if it is not there whole."""
    if note is None:
        return None
    image = BootImage(directory / "bzImage", int(note["size"]), str(note["digest"]))
    if image.path.stat().st_size != image.size:
        raise ValueError(f"{image.path} is cut off")
    return image


def _made(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    return directory


def _compile(
    tree: Path,
    fragments: Sequence[Fragment],
    targets: Sequence[str],
    make: Make,
    jobs: int,
    progress: Progress,
) -> str:
    """Configure and build make's targets, with tree/vmlinux stripped; return the .config."""
    # A directory that was built in brings objects of other options along.
    if (tree / ".config").exists():
        make.run("mrproper")
    configured = configure(tree, fragments, make)
    for name in configured.unknown:
        progress.warn(f"this kernel has no option {name}; nothing to turn off")
    with progress.task("compiling the kernel", unit="object") as task:
        make.run(
            f"-j{jobs}",
            *targets,
            on_line=lambda line: task.advance(1) if line.startswith(_COMPILED) else None,
        )
    make.tool("strip", "--strip-all", "vmlinux")
    return configured.text


def _collect(out: Path, tree: Path, config: str, targets: Sequence[str]) -> None:
    """Fill out with what was built in tree, and its config."""
    made = {"vmlinux": tree / "vmlinux", "bzImage": tree / "arch/x86/boot/bzImage"}
    for name in targets:
        shutil.move(made[name], out / name)
    (out / "config").write_text(config, encoding="ascii")


def _describe(out: Path, config: str, source: KernelSource, profile: str) -> None:
    """Write kernel.json for what is in out."""
    image = read_kernel(out / "vmlinux")
    note: dict[str, object] = {
        "version": image.version,
        "digest": _digest(out / "vmlinux"),
        "size": image.size,
        "config_digest": f"sha256:{hashlib.sha256(config.encode()).hexdigest()}",
        "profile": profile,
        "source": source.digest,
        "toolchain": toolchain(),
    }
    bzimage = out / "bzImage"
    if bzimage.exists():
        note["bzimage"] = {"size": bzimage.stat().st_size, "digest": _digest(bzimage)}
    (out / "kernel.json").write_text(json.dumps(note, indent=2) + "\n", encoding="ascii")


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"


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
