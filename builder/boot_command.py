"""``hyperbuild boot`` as a command of click, made of the options of ``boot_options``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from hyperbuild.builder.boot_options import (
    BOOT_OPTIONS,
    BootOption,
    count,
    file,
    flag,
    seconds,
    status,
)
from hyperbuild.builder.run_options import RUN_OPTIONS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    _Command = TypeVar("_Command", bound=Callable[..., Any])

_TYPES: dict[Any, click.ParamType[Any]] = {
    str: click.STRING,
    count: click.IntRange(1),
    status: click.IntRange(0, 255),
    seconds: click.FloatRange(0, min_open=True),
    file: click.Path(path_type=Path, dir_okay=False),
    Path: click.Path(path_type=Path),
}


class BootCommand(click.Command):
    """Takes options before and after IMAGE; from the first word behind them on, all is CMD."""

    allow_interspersed_args = False

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Bring args into the order that click reads."""
        image = self._options_end(args)
        if image < len(args) and args[image] != "--":
            command = image + 1 + self._options_end(args[image + 1 :])
            rest = args[command + 1 :] if args[command : command + 1] == ["--"] else args[command:]
            args = [*args[:image], *args[image + 1 : command], "--", args[image], *rest]
        return super().parse_args(ctx, args)

    def _options_end(self, args: list[str]) -> int:
        """Count the words, options and their values, before the first that is neither."""
        position = 0
        while position < len(args) and len(args[position]) > 1 and args[position][0] == "-":
            if args[position] == "--":
                break
            if self._wants_value(args[position]):
                if position + 1 == len(args):
                    name = args[position]
                    raise click.BadOptionUsage(name, f"Option {name!r} requires an argument.")
                position += 1
            position += 1
        return position

    def _wants_value(self, word: str) -> bool:
        """Tell whether the value of the option (or the last of a cluster) is the next word."""
        valued = {
            name
            for option in self.params
            if isinstance(option, click.Option) and not option.is_flag
            for name in option.opts
        }
        if word.startswith("--"):
            return word in valued
        first = next((at for at, letter in enumerate(word[1:], 1) if f"-{letter}" in valued), 0)
        return first == len(word) - 1


def boot_options(command: _Command) -> _Command:
    """Add all options to command."""
    return _with_options(command, BOOT_OPTIONS)


def run_command_options(command: _Command) -> _Command:
    """Add to command all options of ``run``."""
    return _with_options(command, RUN_OPTIONS)


def warm_options(command: _Command) -> _Command:
    """Add to command those options that a template is made with."""
    return _with_options(command, [option for option in BOOT_OPTIONS if option.shapes])


def _with_options(command: _Command, options: Sequence[BootOption]) -> _Command:
    for option in reversed(options):
        command = _decorator(option)(command)
    return command


def _decorator(option: BootOption) -> Callable[[_Command], _Command]:
    names, shown = (*option.names, option.field), option.default not in (None, "", (), False)
    if option.read is flag:
        return click.option(*names, is_flag=True, help=option.help)
    return click.option(
        *names,
        type=click.Choice(option.choices) if option.choices else _TYPES[option.read],
        default=None if option.default == () else option.default,
        multiple=option.default == (),
        show_default=shown,
        metavar=option.metavar,
        envvar=option.variable,
        help=option.help,
    )
