"""Which of the platforms an image is offered for suits the one that was asked for.

The rules for variants are containerd's (its package ``platforms``): a CPU runs what was built for
an earlier variant of its architecture, the nearest one first.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from hyperbuild.converter.oci import Platform

if TYPE_CHECKING:
    from collections.abc import Iterable

_ARCHITECTURES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "i686": "386",
    "armv7l": "arm",
    "armv6l": "arm",
    "armhf": "arm",
    "armel": "arm",
}
_VARIANTS = {"armv6l": "v6", "armel": "v6"}
#: What an architecture without a variant means, by architecture.
_BASE = {"amd64": "v1", "arm64": "v8", "arm": "v7"}
#: Variants below the base that the base still runs.
_OLDEST = {"amd64": 1, "arm64": 8, "arm": 5}

UNKNOWN = Platform("unknown", "unknown")


def normal(platform: Platform) -> Platform:
    """Return platform in the words of GOOS and GOARCH, its variant spelled out."""
    architecture = platform.architecture.lower()
    variant = platform.variant.lower() or _VARIANTS.get(architecture, "")
    architecture = _ARCHITECTURES.get(architecture, architecture)
    if re.fullmatch(r"[0-9.]+", variant):
        variant = f"v{variant}"
    return Platform(platform.os.lower(), architecture, variant or _BASE.get(architecture, ""))


def host_platform(machine: str) -> Platform:
    """Return linux on the machine that uname calls so."""
    return short(normal(Platform("linux", machine.lower())))


def short(platform: Platform) -> Platform:
    """Return platform without a variant that goes without saying."""
    variant = "" if platform.variant == _BASE.get(platform.architecture) else platform.variant
    return Platform(platform.os, platform.architecture, variant)


def rank(wanted: Platform, offered: Platform) -> int | None:
    """Return how well an image offered for one platform suits another: 0 best, None not at all."""
    wanted, offered = normal(wanted), normal(offered)
    if (wanted.os, wanted.architecture) != (offered.os, offered.architecture):
        return None
    if wanted.variant == offered.variant:
        return 0
    ours, theirs = _number(wanted.variant), _number(offered.variant)
    if ours is None or theirs is None:
        return None
    if not (_OLDEST.get(wanted.architecture, 0), 0) <= theirs < ours:
        return None
    return (ours[0] - theirs[0]) * 100 + ours[1] - theirs[1]


def listing(platforms: Iterable[Platform]) -> str:
    """Return platforms as one line of text for an error."""
    return ", ".join(dict.fromkeys(str(short(normal(platform))) for platform in platforms))


def _number(variant: str) -> tuple[int, int] | None:
    match = re.fullmatch(r"v([0-9]{1,3})(?:\.([0-9]{1,3}))?", variant)
    return (int(match[1]), int(match[2] or 0)) if match else None
