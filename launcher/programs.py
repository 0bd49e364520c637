"""Programs of the host, found as a shell finds them (shutil would take longer to load)."""

from __future__ import annotations

import os


def find_program(name: str, search_path: str) -> str | None:
    """Return the first executable file called name along search_path (as in PATH), or None."""
    for folder in search_path.split(os.pathsep):
        path = f"{folder or os.curdir}/{name}"
        if os.access(path, os.X_OK) and os.path.isfile(path):  # noqa: PTH113 - on the way to a boot
            return path
    return None
