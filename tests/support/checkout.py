"""The checkout that the tests lie in: its files, a fresh copy of them, what its documents say."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
ROOMS = ("builder", "converter", "disks", "initramfs", "kernel", "launcher", "recipes")


def tracked_files() -> list[Path]:
    """Return the files of the checkout that are kept: git's list, or all but what git ignores."""
    words = ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    listed = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if listed.returncode == 0:
        names = listed.stdout.split("\0")
    else:
        ignored = {".venv", ".demo", ".git", "build", "dist", "__pycache__"}
        found = (path.relative_to(CHECKOUT) for path in CHECKOUT.rglob("*"))
        names = [str(path) for path in found if not ignored & set(path.parts)]
    return [path for name in names if name and (path := CHECKOUT / name).is_file()]


def copy_of_house(parent: Path) -> Path:
    """Copy the files of the checkout into the directory house below parent, which is new."""
    copy = parent / "house"
    copy.mkdir()
    for path in tracked_files():
        target = copy / path.relative_to(CHECKOUT)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    (copy / ".typing/hyperbuild").mkdir(parents=True, exist_ok=True)
    for room in ROOMS:
        link = copy / ".typing/hyperbuild" / room
        if not link.is_symlink():
            link.symlink_to(f"../../{room}")
    return copy


def code_of(document: str, heading: str) -> str:
    """Return the indented lines of a section of a document: what it has its reader type."""
    text = (CHECKOUT / document).read_text()
    _, found, rest = text.partition(f"\n## {heading}\n")
    assert found, f"{document} has no section {heading}"
    lines = rest.partition("\n## ")[0].splitlines()
    code = "\n".join(line[4:] for line in lines if line.startswith("    "))
    assert code, f"the section {heading} of {document} has no code"
    return code
