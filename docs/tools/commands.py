"""The commands of the program, as click has them, in a form that pages can be made of."""

from __future__ import annotations

import re
from dataclasses import dataclass
from inspect import cleandoc
from typing import TYPE_CHECKING

import click

from hyperbuild.builder.cli import cli
from hyperbuild.builder.vm_commands import ALIASES

if TYPE_CHECKING:
    from collections.abc import Iterator

PROGRAM = "hyperbuild"
_MENTIONED = re.compile(r"(?<![\w-])(--[a-z][a-z-]*[a-z]|-[A-Za-z])(?![\w-])")


@dataclass(frozen=True, slots=True)
class Option:
    """An option: ``names`` as ("-p", "--publish"), ``value`` as PORT ("" for a flag).

    ``variable`` is the one that sets it, "" if none does.
    """

    names: tuple[str, ...]
    value: str
    help: str
    variable: str


@dataclass(frozen=True, slots=True)
class Command:
    """A command: ``words`` as ("hyperbuild", "kernel", "build"), ``usage`` what follows them.

    ``summary`` is its help's first sentence, ``paragraphs`` all of it; what is typed has backticks.
    ``alias_of`` is the name of the command that this is another name of, "" for most.
    """

    words: tuple[str, ...]
    usage: tuple[str, ...]
    summary: str
    paragraphs: tuple[str, ...]
    options: tuple[Option, ...]
    commands: tuple[Command, ...]
    alias_of: str

    @property
    def name(self) -> str:
        """Return what its page is called: hyperbuild-kernel-build."""
        return "-".join(self.words)

    def walk(self) -> Iterator[Command]:
        """Give this command and all below it, those of a group behind it."""
        yield self
        for command in self.commands:
            yield from command.walk()


def read_commands() -> Command:
    """Return the program with all its commands."""
    with click.Context(cli, info_name=PROGRAM, **cli.context_settings) as context:
        return _command(cli, context, (PROGRAM,))


def _command(command: click.Command, context: click.Context, words: tuple[str, ...]) -> Command:
    parts = cleandoc(command.help or "").split("\n\n")
    paragraphs = tuple(_marked(" ".join(part.split())) for part in parts if part)
    options = (
        _option(each, context)
        for each in command.get_params(context)
        if isinstance(each, click.Option)
    )
    inside = {}
    if isinstance(command, click.Group):
        inside = {name: command.commands[name] for name in sorted(command.commands)}
    return Command(
        words,
        tuple(command.collect_usage_pieces(context)),
        _first_sentence(paragraphs[0]),
        paragraphs,
        tuple(each for each in options if each),
        tuple(
            _command(each, _context(each, name, context), (*words, name))
            for name, each in inside.items()
        ),
        _real_name(command, words),
    )


def _context(command: click.Command, name: str, parent: click.Context) -> click.Context:
    return click.Context(command, info_name=name, parent=parent, **command.context_settings)


def _real_name(command: click.Command, words: tuple[str, ...]) -> str:
    is_alias = len(words) == 2 and words[1] in ALIASES
    return f"{PROGRAM}-{command.name}" if is_alias else ""


def _marked(text: str) -> str:
    """Return text with the options that it mentions in backticks, as all else that is typed is."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = (_MENTIONED.sub(r"`\g<0>`", part) for part in parts[::2])
    return "".join(parts)


def _first_sentence(text: str) -> str:
    """Return text up to its first full stop, without that; a colon's list is left out as well."""
    return re.split(r"[.;](?:\s|$)", text, maxsplit=1)[0]


def _option(parameter: click.Option, context: click.Context) -> Option | None:
    record = parameter.get_help_record(context)
    if record is None:
        return None
    names, text = record
    found = re.fullmatch(r"((?:-[^\s,]+(?:, )?)+)(.*)", names)
    if not found:
        raise ValueError(f"{names}: not the names of an option")
    variable = parameter.envvar if isinstance(parameter.envvar, str) else ""
    return Option(
        tuple(found[1].strip().split(", ")),
        found[2].strip(),
        _marked(" ".join(text.split())),
        variable,
    )
