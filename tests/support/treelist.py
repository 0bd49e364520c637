"""treelist: one program that lists a whole tree, run on the host and as the command of a VM."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.workshop import as_root, content_key, default_cache, made

if TYPE_CHECKING:
    from tests.support.workshop import Workshop

SOURCE = Path(__file__).with_suffix(".c")


def treelist(cache: Path | None = None) -> Path:
    """Return the program, static, so that it runs in every image."""

    def make(shop: Workshop, target: Path) -> None:
        target.mkdir()
        flags = ("-static", "-O2", "-s", "-Wall", "-Wextra", "-Werror")
        shop.run("musl-gcc", *flags, "-o", target / "treelist", SOURCE)

    name = f"treelist-{content_key(SOURCE)}"
    return made(cache or default_cache(), name, make) / "treelist"


def host_tree(root: Path, cache: Path | None = None) -> list[str]:
    """Return the lines of treelist (its fields stand at the top of treelist.c) for root."""
    argv = as_root(treelist(cache), root)
    return subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout.splitlines()
