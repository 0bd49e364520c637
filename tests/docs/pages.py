"""The pages, and those of their blocks that are read instead of typed."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import yaml

from docs.tools.blocks import Block, Kind, read_blocks
from hyperbuild.converter.settings import read_hosts
from hyperbuild.recipes.recipe import parse_recipe
from tests.support.checkout import CHECKOUT, tracked_files

#: What is typed, or run, and not only read.
COMMANDS = (Kind.SESSION, Kind.SCRIPT, Kind.PYTHON)

_HOST = {"mirrors", "ca", "insecure"}


def pages() -> list[str]:
    """Return the paths of all pages, in order; what Sphinx makes itself is not among them."""
    found = (path.relative_to(CHECKOUT) for path in tracked_files() if path.suffix == ".md")
    made = Path("docs/reference")
    return sorted(
        str(path)
        for path in found
        if (path.parts[0] == "docs" and made not in path.parents) or len(path.parts) == 1
    )


def blocks_of(page: str) -> list[Block]:
    """Return the blocks of a page."""
    return list(read_blocks((CHECKOUT / page).read_text()))


def needs_disk_kernel(text: str) -> bool:
    """Tell whether a block has something made that takes a kernel of profile `disk`."""
    words = ("--verity", "--output-format", "profile disk", "verity = true", "disk = ")
    return any(word in text for word in words)


def pages_of_commands(*, are_guides: bool) -> list[str]:
    """Return the pages that have commands: guides for beginners and for a task, or the others."""
    return [
        page
        for page in pages()
        if any(block.kind in COMMANDS for block in blocks_of(page))
        and are_guides is page.startswith(("README", "docs/index", "docs/tutorial", "docs/howto"))
    ]


def check(block: Block, scratch: Path) -> None:
    """Read a block that is data as what takes it does; an exception says what is wrong."""
    if block.kind is Kind.JSON:
        json.loads(block.text)
    elif block.kind is Kind.YAML:
        yaml.safe_load(block.text)
    elif block.kind is Kind.TOML:
        _check_toml(block, scratch)


def _check_toml(block: Block, scratch: Path) -> None:
    """Read the block as a file of registries or a recipe, as it has the tables of one or the other.

    A policy names keys, so it is read where it is used: its block has to be a file of the page's.
    So has a pod's.
    """
    tables = tomllib.loads(block.text)
    if {"allow", "container"} & set(tables):
        assert block.file, "say which file this is"
    elif any(isinstance(table, dict) and _HOST & set(table) for table in tables.values()):
        path, certificates = scratch / "registries.toml", scratch / "ca.pem"
        certificates.touch()
        path.write_text(re.sub(r'(?m)^ca = ".*"', f'ca = "{certificates}"', block.text))
        read_hosts(path)
    else:
        named = {"image", "source"} & set(tables)
        text = block.text if named else f'image = "nginx"\n{block.text}'
        parse_recipe(text.encode(), "block", scratch)
