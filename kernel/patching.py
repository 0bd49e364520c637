"""Changes to Linux's source that buy boot time: patches/*.patch, each headed by what it does.

They are made for one release line. A source of that line must take all of a profile's patches; any
other is built without them, with a warning, because nobody has looked at what they would do to it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import ContentError, ToolError, UnavailableError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hyperbuild.converter.progress import Progress
    from hyperbuild.kernel.kconfig import Profile
    from hyperbuild.kernel.toolchain import Make

PATCHES = Path(__file__).parent / "patches"

#: The release line that the patches are made for.
RELEASE = "6.1"


@dataclass(frozen=True, slots=True)
class Patch:
    """A unified diff, without the header that says what it does and what it buys."""

    path: Path
    diff: str


def load_patches(profile: Profile) -> tuple[Patch, ...]:
    """Return profile's patches; UnavailableError or ContentError if one is no use."""
    return tuple(_read(PATCHES / f"{name}.patch") for name in profile.patches)


def _read(path: Path) -> Patch:
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UnavailableError(f"cannot read {path}: {error.strerror}") from error
    _, start, diff = text.partition("\n--- ")
    if not start:
        raise ContentError(f"{path} has no diff behind its header; correct the patch")
    return Patch(path, start.lstrip() + diff)


def apply_patches(tree: Path, patches: Sequence[Patch], make: Make, progress: Progress) -> None:
    """Apply patches to the source in tree, or warn if it is of another release line.

    ContentError names the patch that a source of this line does not take.
    """
    release = _release(tree)
    if release != RELEASE:
        progress.warn(
            f"this is Linux {release}, and the patches that speed up booting are for {RELEASE}; "
            "built without them"
        )
        return
    for patch in patches:
        try:
            make.tool("patch", "-p1", "--forward", "--fuzz=0", f"--input={patch.path.absolute()}")
        except ToolError as error:
            raise ContentError(
                f"{patch.path.name} does not apply to this source of Linux {release}: {error}; "
                "give an unchanged source"
            ) from error


def _release(tree: Path) -> str:
    """Return version and patch level ("6.1") as tree's Makefile says."""
    text = (tree / "Makefile").read_text(encoding="utf-8", errors="replace")
    found = (re.search(rf"^{name} *= *(\d+)$", text, re.MULTILINE) for name in _LEVELS)
    return ".".join(match[1] if match else "?" for match in found)


_LEVELS = ("VERSION", "PATCHLEVEL")
