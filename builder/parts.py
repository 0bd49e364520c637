"""The kernel and the initramfs that bundles are joined with."""

from __future__ import annotations

import hashlib
import os
import re
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import InputError, NotFoundError
from hyperbuild.converter.files import open_regular
from hyperbuild.kernel.kconfig import DEFAULT_PROFILE, load_profile, requests
from hyperbuild.launcher.bundle import MACHINE_OPTIONS, KernelInfo
from hyperbuild.launcher.verity import OPTIONS as VERITY_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from hyperbuild.builder.context import Context
    from hyperbuild.initramfs.build import Initramfs
    from hyperbuild.kernel.build import Kernel
    from hyperbuild.kernel.kconfig import Fragment
    from hyperbuild.launcher.bundle import KernelInfo


#: The smallest profile that has dm-verity.
VERITY_PROFILE = "disk"


def make_kernel(
    context: Context,
    *,
    source: str | None = None,
    sha256: str | None = None,
    profile: str = DEFAULT_PROFILE,
    more: Sequence[Fragment] = (),
    jobs: int | None = None,
) -> Kernel:
    """Return the HyperKernel of source and profile from the cache, built first if not there.

    more are fragments beyond the profile's.
    """
    from hyperbuild.kernel.build import build_kernel, find_kernel
    from hyperbuild.kernel.source import find_source

    found = find_source(context.cache, source, sha256, progress=context.console)
    kernel = find_kernel(context.cache, found, profile, more)
    if kernel is None:
        context.console.say(
            f"building the HyperKernel {found.version} ({profile}) once; this takes some minutes"
        )
        kernel = build_kernel(
            context.cache,
            found,
            profile=profile,
            more=more,
            jobs=jobs or os.cpu_count() or 1,
            progress=context.console,
        )
    return kernel


def profile_kernel(context: Context, profile: str, more: Sequence[Fragment] = ()) -> Kernel:
    """Return the HyperKernel as ``make_kernel``; a cached one where there is no source to build."""
    from hyperbuild.kernel.build import cached_kernels

    try:
        return make_kernel(context, profile=profile, more=more)
    except NotFoundError:
        if more:
            raise
        cached = [kernel for kernel in cached_kernels(context.cache) if kernel.profile == profile]
        if not cached:
            raise
        return cached[-1]


def default_profile(*, with_verity: bool) -> str:
    """Return the profile for who has not chosen any."""
    return VERITY_PROFILE if with_verity else DEFAULT_PROFILE


def lacks_verity(profile: str, more: Sequence[Fragment] = ()) -> str:
    """Return an option of dm-verity that profile and the fragments beyond it leave out, or ""."""
    asked = requests((*load_profile(profile), *more))
    missing = (name for name in VERITY_OPTIONS if name not in asked or asked[name][0].value != "y")
    return next(missing, "")


def check_has_verity(profile: str, more: Sequence[Fragment]) -> None:
    """Raise InputError if profile, and the fragments beyond it, leave dm-verity out."""
    if missing := lacks_verity(profile, more):
        raise InputError(
            f"a kernel of profile {profile} has no {missing}, which dm-verity needs; "
            f"take profile {VERITY_PROFILE}, or leave verity out"
        )


def find_kernel_key(context: Context, profile: str, more: Sequence[Fragment] = ()) -> str:
    """Return the key of the kernel that ``profile_kernel`` would return; nothing is built."""
    from hyperbuild.kernel.build import kernel_key
    from hyperbuild.kernel.source import find_source

    try:
        source = find_source(context.cache, None, None, progress=context.console)
        return kernel_key(source, profile, more)
    except NotFoundError:
        return profile_kernel(context, profile, more).key


def custom_kernel(path: Path) -> Kernel:
    """Describe the kernel file path; ContentError if it cannot be booted directly."""
    from hyperbuild.kernel.build import Kernel
    from hyperbuild.kernel.elf import read_kernel

    with os.fdopen(open_regular(path), "rb") as file:
        digest = "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
    image = read_kernel(path)
    return Kernel(
        path=path,
        version=image.version,
        digest=digest,
        size=path.stat().st_size,
        config_digest=digest,
        key="",
        profile="",
    )


def describe_kernel(kernel: Kernel) -> KernelInfo:
    """Return what a bundle says of kernel; of a file of the user's own no options are known."""
    known = tuple(name for name in MACHINE_OPTIONS if kernel.has(name)) if kernel.key else None
    return KernelInfo(kernel.version, kernel.digest, kernel.config_digest, known)


def make_initramfs(context: Context) -> Initramfs:
    """Return the initramfs from the cache, built first if it is not there."""
    from hyperbuild.initramfs.build import build_initramfs

    return build_initramfs(context.cache, progress=context.console)


def built_in_options(context: Context, kernel: KernelInfo) -> frozenset[str] | None:
    """Return the names of what is built into a bundle's kernel, "EROFS_FS" for one.

    None if the cache has no such kernel, whose .config would tell.
    """
    from hyperbuild.kernel.build import cached_kernels

    for cached in cached_kernels(context.cache):
        if cached.digest == kernel.digest and cached.config.is_file():
            raw = cached.config.read_bytes()
            if f"sha256:{hashlib.sha256(raw).hexdigest()}" == kernel.config_digest:
                found = re.findall(
                    r"^CONFIG_(\w+)=y$", raw.decode("ascii", "replace"), re.MULTILINE
                )
                return frozenset(found)
    return None
