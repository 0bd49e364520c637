"""Tables and JSON for people and scripts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hyperbuild.builder.stored import DIGEST_SHOWN
from hyperbuild.converter.errors import NotFoundError, printable
from hyperbuild.kernel.kconfig import PROFILES, load_profile, requests

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from hyperbuild.builder.stored import StoredBundle
    from hyperbuild.kernel.build import Kernel


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[int] = ()
) -> str:
    """Align rows under header in columns two spaces apart, as docker's lists are.

    The columns whose numbers are in right are flush right.
    """
    lines = [list(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def mib(size: int) -> str:
    """Return a size in bytes as people read it."""
    return f"{size / (1 << 20):.1f} MiB"


def bundles_as_table(bundles: Iterable[StoredBundle], profiles: Mapping[str, str]) -> str:
    """Show bundles as ``hyperbuild images`` does; profiles are those of kernels, by digest."""
    return table(
        ("IMAGE", "PLATFORM", "DIGEST", "ROOTFS", "KERNEL", "PROFILE"),
        (
            (
                bundle.name,
                bundle.files.bundle.image.platform,
                bundle.digest[:DIGEST_SHOWN],
                f"{bundle.files.bundle.rootfs.size >> 20} MiB",
                bundle.files.bundle.kernel.version if bundle.files.bundle.kernel else "-",
                _profile(bundle, profiles) or "-",
            )
            for bundle in bundles
        ),
    )


def _profile(bundle: StoredBundle, profiles: Mapping[str, str]) -> str | None:
    """Return the profile of a bundle's kernel; None without one, or if nobody here built it."""
    kernel = bundle.files.bundle.kernel
    return profiles.get(kernel.digest) if kernel else None


def bundles_as_json(bundles: Iterable[StoredBundle], profiles: Mapping[str, str]) -> str:
    """Describe bundles as a JSON array of objects: name, digest, profile, bundle.json's content."""
    return json.dumps(
        [
            {
                "name": bundle.name,
                "digest": bundle.digest,
                "profile": _profile(bundle, profiles),
                "bundle": json.loads(bundle.files.bundle.to_json()),
            }
            for bundle in bundles
        ]
    )


def kernels_as_table(kernels: Iterable[Kernel]) -> str:
    """Show kernels as ``hyperbuild kernel list`` does."""
    return table(
        ("PROFILE", "VERSION", "DIGEST", "SIZE", "PATH"),
        (
            (
                kernel.profile,
                kernel.version,
                kernel.digest[:DIGEST_SHOWN],
                mib(kernel.size),
                str(kernel.path),
            )
            for kernel in kernels
        ),
    )


def profiles_as_table() -> str:
    """Show the kernel's profiles and the fragments they are made of."""
    return table(
        ("PROFILE", "FOR", "FRAGMENTS"),
        (
            (profile.name, profile.purpose, " ".join(profile.fragments))
            for profile in PROFILES.values()
        ),
    )


def option_as_text(name: str) -> str:
    """Say what each profile asks for the kernel option name, and why; NotFoundError if none does.

    Without a request an option is as Linux's own defaults and what others select make it.
    """
    full = name.upper() if name.upper().startswith("CONFIG_") else f"CONFIG_{name.upper()}"
    lines = []
    for profile in PROFILES:
        asked = requests(load_profile(profile)).get(full)
        if asked:
            option, fragment = asked
            lines.append(f"{profile:7}{full}={option.value}  ({fragment.name}.config)")
            lines.append(f"{'':7}{option.reason}")
        else:
            lines.append(f"{profile:7}not asked for")
    if len(lines) == len(PROFILES):
        raise NotFoundError(
            f"no profile asks for {full}; it is as Linux's defaults make it: see the file config "
            "beside a kernel of `hyperbuild kernel list`"
        )
    return "\n".join(lines)
