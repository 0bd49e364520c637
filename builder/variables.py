"""The variable of each option: HYPERBUILD_, the command's words, and the option's own long name."""

from __future__ import annotations

import click


def name_variables(command: click.Command, prefix: str) -> None:
    """Let every option of command, and of those below it, be set by a variable of its name.

    Left to itself, click names variables after the parameters of Python's functions. An option that
    has a variable keeps it; ``--help`` and ``--version`` have none.
    """
    for option in command.params:
        if isinstance(option, click.Option) and option.expose_value and option.envvar is None:
            option.envvar = _variable(prefix, max(option.opts, key=len))
    if isinstance(command, click.Group):
        for below in command.commands.values():
            name_variables(below, _variable(prefix, below.name or ""))


def _variable(prefix: str, name: str) -> str:
    return f"{prefix}_{name.strip('-').replace('-', '_').upper()}"
