"""Manual pages, one for each command: `python -m docs.tools.manpages` writes them to docs/man.

They are in the form of man(7), and depend on the commands and the version alone.
"""

from __future__ import annotations

import re
import textwrap
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

from docs.tools.commands import read_commands

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docs.tools.commands import Command, Option

DIRECTORY = Path(__file__).parents[1] / "man"

#: Of the version; a page that has none is wrong to those who check pages.
_DATE = "2026-11-27"
_STATUSES = (
    ("0", "It is done."),
    ("1", "It failed; one line on standard error says why, and what to do."),
    ("2", "The command line is wrong."),
)
#: What commands whose status is the application's say instead.
_GUESTS = {
    "boot": (
        ("0-255", "The application's own; 128+N if it died by signal N."),
        ("124", "The time of --timeout was over."),
        ("125", "The application could not be started."),
        ("126, 127", "Its command could not be executed, or was not there."),
        ("2", "The command line is wrong."),
    ),
}
_GUESTS["run"] = _GUESTS["exec"] = _GUESTS["boot"]
_FILES = (
    ("~/.config/hyperbuild/registries.toml", "Mirrors, private CAs, registries without TLS."),
    ("~/.local/share/hyperbuild", "The store of bundles (an OCI image layout), VMs and volumes."),
    ("~/.cache/hyperbuild", "Kernels, layers that were read before, templates. It may be deleted."),
)
_VARIABLES = (
    ("HYPERBUILD_ACCEL", "`kvm`, `tcg` or `auto`, for `boot` and all that boots."),
    ("HYPERBUILD_COMMAND_OPTION", "The value of an option, as in HYPERBUILD_CONVERT_PLATFORM."),
    ("REGISTRY_AUTH_FILE, DOCKER_CONFIG", "Where credentials of registries are."),
    ("HTTP_PROXY, HTTPS_PROXY, NO_PROXY", "Proxies on the way to registries."),
    ("XDG_CONFIG_HOME, XDG_DATA_HOME, XDG_CACHE_HOME", "Where the files below are instead."),
    ("SOURCE_DATE_EPOCH", "The time that stands for all times that an image does not give."),
    ("NO_COLOR", "No colors."),
)


def main() -> None:
    """Write all pages, and remove those of commands that are no more."""
    pages = manual_pages()
    DIRECTORY.mkdir(exist_ok=True)
    for path in DIRECTORY.glob("*.1"):
        if path.name not in pages:
            path.unlink()
    for name, text in pages.items():
        (DIRECTORY / name).write_text(text)
    print(f"{len(pages)} pages in {DIRECTORY}")


def manual_pages() -> dict[str, str]:
    """Return the text of each page by the name of its file."""
    program = read_commands()
    return {f"{each.name}.1": _page(each, program) for each in program.walk()}


def _page(command: Command, program: Command) -> str:
    if command.alias_of:
        return f".so man1/{command.alias_of}.1\n"
    return "".join(f"{line}\n" for line in _lines(command, program))


def _lines(command: Command, program: Command) -> Iterator[str]:
    release = f"hyperbuild {version('hyperbuild-vm')}"
    yield f'.TH "{_plain(command.name.upper())}" "1" "{_DATE}" "{release}" "hyperbuild"'
    yield from (".nh", ".ad l", ".SH NAME")
    yield _line(f"{_plain(command.name)} \\- {_prose(command.summary)}")
    yield from (
        ".SH SYNOPSIS",
        f"{_bold(' '.join(command.words))} {_plain(' '.join(command.usage))}",
    )
    yield ".SH DESCRIPTION"
    for number, paragraph in enumerate(command.paragraphs):
        yield from ([".PP"] if number else [])
        yield _line(_prose(paragraph))
    if command.options:
        yield ".SH OPTIONS"
    for option in command.options:
        yield from (".TP", _names(option), _line(_prose(option.help)))
    if command.commands:
        yield ".SH COMMANDS"
    for below in command.commands:
        yield from (".TP", f"{_bold(below.name)}(1)", _line(_prose(below.summary)))
    yield from _environment(command)
    if command is program:
        yield from _listed("FILES", _FILES)
    if not command.commands:
        yield from _listed("EXIT STATUS", _GUESTS.get(command.words[-1], _STATUSES))
    yield from _related(command)


def _environment(command: Command) -> Iterator[str]:
    if len(command.words) == 1:
        yield from _listed("ENVIRONMENT", _VARIABLES)
    elif variables := [option.variable for option in command.options if option.variable]:
        yield from (".SH ENVIRONMENT", "Each of these stands for the option of its name:")
        yield _line(_plain(", ".join(variables)) + ".")


def _related(command: Command) -> Iterator[str]:
    if above := ["-".join(command.words[:length]) for length in range(1, len(command.words))]:
        yield from (".SH SEE ALSO", ",\n".join(f"{_bold(name)}(1)" for name in above))


def _listed(title: str, rows: tuple[tuple[str, str], ...]) -> Iterator[str]:
    yield f".SH {title}"
    for term, text in rows:
        yield from (".TP", _bold(term), _line(_prose(text)))


def _names(option: Option) -> str:
    names = ", ".join(_bold(name) for name in option.names)
    return f"{names} \\fI{_plain(option.value)}\\fR" if option.value else names


def _bold(text: str) -> str:
    return f"\\fB{_plain(text)}\\fR"


def _prose(text: str) -> str:
    """Return text with what stands in backticks in bold."""
    parts = re.split(r"`([^`]*)`", text)
    return "".join(_bold(part) if at % 2 else _plain(part) for at, part in enumerate(parts))


def _plain(text: str) -> str:
    """Return text with nothing in it that roff would read as its own."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq")
    text = text.replace("~", "\\(ti").replace("^", "\\(ha").replace("`", "\\(ga")
    return "".join(char if char.isascii() else f"\\[u{ord(char):04X}]" for char in text)


def _line(text: str) -> str:
    """Return text as input lines, each sentence on its own; none begins as a request does."""
    sentences = re.split(r"(?<=[a-z)\]A-Z0-9][.;:?]) +", text)
    wrap = partial(textwrap.wrap, width=78, break_long_words=False, break_on_hyphens=False)
    lines = (line for sentence in sentences for line in wrap(sentence))
    return "\n".join(f"\\&{line}" if line[0] in ".'" else line for line in lines)


if __name__ == "__main__":
    main()
