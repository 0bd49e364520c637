"""What a worker of a fleet is: its code, and by what it would make kernels and the initramfs."""

from __future__ import annotations

import hashlib
import os
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperbuild.builder.context import read_context
from hyperbuild.builder.parts import find_kernel_key
from hyperbuild.converter.errors import HyperbuildError
from hyperbuild.converter.progress import QUIET
from hyperbuild.initramfs.build import initramfs_key
from hyperbuild.kernel.kconfig import parse_fragment

if TYPE_CHECKING:
    from collections.abc import Iterable

    from hyperbuild.builder.fleet_plan import KernelWish

ROOMS = ("builder", "converter", "initramfs", "kernel", "launcher", "recipes")
_SUFFIXES = {".py", ".c", ".h", ".config", ".patch", ".toml"}


def fingerprint() -> str:
    """Return the version of the hyperbuild that runs here, and a digest of its files."""
    digest = hashlib.sha256()
    for room in ROOMS:
        spec = find_spec(f"hyperbuild.{room}")
        for place in sorted(spec.submodule_search_locations or ()) if spec else ():
            for path in sorted(Path(place).rglob("*")):
                if path.suffix in _SUFFIXES:
                    name = f"{room}/{path.relative_to(place)}"
                    digest.update(f"{name} {path.stat().st_size}\n".encode() + path.read_bytes())
    return f"{version('hyperbuild-vm')} ({digest.hexdigest()[:12]})"


def describe(kernels: Iterable[KernelWish]) -> dict[str, Any]:
    """Return what this worker is: of strings alone, so that any other version can read it.

    {"code": fingerprint, "initramfs": key, "kernels": [the key of each], "problem": what it lacks}
    """
    told: dict[str, Any] = {"code": fingerprint(), "initramfs": "", "kernels": [], "problem": ""}
    try:
        context = read_context(os.environ, QUIET)
        told["initramfs"] = initramfs_key()
        for profile, texts in kernels:
            fragments = [parse_fragment(name, text) for name, text in texts]
            told["kernels"].append(find_kernel_key(context, profile, fragments))
    except HyperbuildError as error:
        told["problem"] = str(error)
    return told
