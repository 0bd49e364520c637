"""The blocks of a page that hold something to type, to write into a file, or to read.

What a block is follows from its fence's word, and where it has none from its first line: `$ `
begins a session, the name of a program a list of commands. A comment before a block says more:

    <!-- given: touch app.env -->          what the reader has before, as shell of any length
    <!-- needs: /dev/net/tun -->           where that is not, no test can run it
    <!-- file: policy.toml -->             the block is that file's content
    <!-- run by tests/test_ci.py -->       another test runs it
    <!-- not run: needs GitHub's CI -->    no test does, and why
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from markdown_it import MarkdownIt

if TYPE_CHECKING:
    from collections.abc import Iterator


class Kind(StrEnum):
    """What a block is; the value is the word of its fence."""

    SESSION = "console"
    SCRIPT = "bash"
    PYTHON = "python"
    TOML = "toml"
    JSON = "json"
    YAML = "yaml"
    MAKE = "make"
    TEXT = "text"


@dataclass(frozen=True, slots=True)
class Block:
    """A block at a line (from 1) of its page, and what the comment before it says."""

    kind: Kind
    text: str
    line: int
    given: str = ""
    needs: str = ""
    file: str = ""
    test: str = ""
    reason: str = ""


#: Programs by which a block without a word is known as one of commands; a fence says it of others.
_PROGRAMS = (
    *("hyperbuild", "make", "pip", "apt", "sudo", "curl", "git", "man", "ci/install.sh", "."),
    *("openssl", "skopeo", "docker", "podman", "python", "python3", "ssh", "ip", "mount"),
    *("qemu-system-x86_64", "qemu-img", "mcopy", "objcopy", "dask", "veritysetup"),
)
_COMMENT = re.compile(
    r"<!--\s*(?:given:\s(?P<given>.+?)|needs: (?P<needs>.+?)|file: (?P<file>.+?)"
    r"|run by (?P<test>.+?)|not run: (?P<reason>.+?))\s*-->",
    re.DOTALL,
)


def read_blocks(page: str) -> Iterator[Block]:
    """Give the blocks of a page, in order; ValueError for a fence whose word is none of Kind."""
    said: dict[str, str] = {}
    for token in MarkdownIt("commonmark").parse(page):
        if token.type == "html_block":
            found = (match.groupdict() for match in _COMMENT.finditer(token.content))
            said |= {key: value for each in found for key, value in each.items() if value}
        elif token.type in ("fence", "code_block"):
            if not token.info.startswith("{"):
                line = token.map[0] + 1 if token.map else 0
                text = token.content.rstrip("\n")
                yield Block(kind_of(token.info, text), text, line, **said)
            said = {}
        else:
            said = {}


def kind_of(word: str, text: str) -> Kind:
    """Return what a block is by its fence's word, "" for none, and its text."""
    if word:
        return Kind(word.strip())
    lines = text.splitlines()
    if lines and lines[0].startswith(("$ ", "# ")):
        return Kind.SESSION
    if any(line.startswith(tuple(f"{name} " for name in _PROGRAMS)) for line in lines):
        return Kind.SCRIPT
    return Kind.TOML if _is_toml(text) else Kind.TEXT


def _is_toml(text: str) -> bool:
    try:
        return bool(tomllib.loads(text))
    except tomllib.TOMLDecodeError:
        return False
