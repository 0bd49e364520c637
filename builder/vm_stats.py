"""``hyperbuild stats``: two looks at /proc, and what happened between them."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING

import click

from hyperbuild.builder.vm_report import usage_as_table, usage_rows
from hyperbuild.converter.errors import HyperbuildError
from hyperbuild.launcher.client import supervisor_pid
from hyperbuild.launcher.instances import RUNNING
from hyperbuild.launcher.usage import read_usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hyperbuild.launcher.instances import Instance, Instances
    from hyperbuild.launcher.usage import Usage

#: Seconds between two looks: at once for who wants one figure, and for who goes on looking.
_SHORT, _LONG = 0.5, 1.0
_HOME_AND_CLEAR = "\x1b[H\x1b[J"


def show_stats(instances: Instances, names: Sequence[str], *, once: bool, as_json: bool) -> None:
    """Print the usage of the VMs called names (none: all that run), once or without an end."""
    pause = _SHORT
    before = _look(instances, names)
    while True:
        time.sleep(pause)
        now = _look(instances, names)
        earlier = {one.asked.id: usage for one, usage in before}
        rows = usage_rows([(one, earlier.get(one.asked.id), usage) for one, usage in now])
        if as_json:
            click.echo(json.dumps(rows, indent=2))
        else:
            clear = "" if once or not sys.stdout.isatty() else _HOME_AND_CLEAR
            click.echo(clear + usage_as_table(rows))
        if once:
            return
        before, pause = now, _LONG


def _look(instances: Instances, names: Sequence[str]) -> list[tuple[Instance, Usage | None]]:
    chosen = [instances.find(name) for name in names]
    if not names:
        chosen = [one for one in instances.all() if one.state.status == RUNNING]
    return [(one, _usage(instances, one)) for one in chosen]


def _usage(instances: Instances, one: Instance) -> Usage | None:
    if one.is_over:
        return None
    try:
        return read_usage(supervisor_pid(instances, one))
    except HyperbuildError:
        # It has ended since.
        return None
