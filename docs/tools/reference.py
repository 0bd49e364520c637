"""The reference of the command line as pages of the site, one for each command of the program."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from docs.tools.commands import read_commands

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from docs.tools.commands import Command, Option

_INDEX = """\
# The command line

Made from the program itself, as its `--help` and its manual pages are (`man hyperbuild-convert`).

{usage}

| command | |
|---|---|
{rows}

```{{toctree}}
:hidden:

{names}
```
"""


def write_reference(directory: Path) -> None:
    """Write the pages into directory; what is the same already is not touched."""
    program = read_commands()
    directory.mkdir(parents=True, exist_ok=True)
    commands = [each for each in program.commands if not each.alias_of]
    pages = {f"{each.name}.md": _page(each) for each in commands}
    pages["index.md"] = _INDEX.format(
        usage="\n".join(_body(program)),
        rows="\n".join(f"| [{' '.join(c.words)}]({c.name}.md) | {_cell(c)} |" for c in commands),
        names="\n".join(f"{' '.join(each.words)} <{each.name}>" for each in commands),
    )
    for path in directory.glob("*.md"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        path = directory / name
        if not path.exists() or path.read_text() != text:
            path.write_text(text)


def _page(command: Command) -> str:
    parts = [f"# {' '.join(command.words)}", "", *_body(command)]
    for below in command.commands:
        parts += ["", f"## {' '.join(below.words)}", "", *_body(below)]
    return "\n".join(parts) + "\n"


def _body(command: Command) -> Iterator[str]:
    yield from ("```text", " ".join((*command.words, *command.usage)), "```", "")
    for paragraph in command.paragraphs:
        yield from (_prose(paragraph), "")
    for option in command.options:
        yield from _described(option)


def _described(option: Option) -> Iterator[str]:
    """Give the lines of a definition list: names and value, then what it does."""
    value = f" *{_prose(option.value)}*" if option.value else ""
    yield ", ".join(f"`{name}`" for name in option.names) + value
    variable = f" (`{option.variable}`)" if option.variable else ""
    yield from (f": {_prose(option.help)}{variable}", "")


def _cell(command: Command) -> str:
    return _prose(command.summary).replace("|", r"\|")


def _prose(text: str) -> str:
    """Return text with nothing outside of its backticks that Markdown would read as its own."""
    parts = re.split(r"(`[^`]*`)", text)
    escaped = (re.sub(r"([\\*_\[\]<>$])", r"\\\1", part) for part in parts[::2])
    parts[::2] = escaped
    return "".join(parts)
