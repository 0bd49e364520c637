"""``hyperbuild warm``: a template from what the user typed, for ``boot --warm``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hyperbuild.builder.boot_options import BOOT_OPTIONS
from hyperbuild.builder.booting import (
    BootOptions,
    check_words,
    find_both,
    leased,
    machine_options,
    usage,
)
from hyperbuild.launcher.machine import Hold
from hyperbuild.launcher.template import Templates
from hyperbuild.launcher.vm import Streams
from hyperbuild.launcher.warming import make_template

if TYPE_CHECKING:
    from pathlib import Path

    from hyperbuild.builder.context import Context


def warm_image(context: Context, when: str, **given: Any) -> Path:
    """Make the template that stands still at when, and return its path.

    given are fields of BootOptions; the others are as for a boot. Errors as of ``make_template``.
    The application's output goes to stderr.
    """
    defaults = {option.field: option.default for option in BOOT_OPTIONS}
    options = BootOptions(**{**defaults, **given})
    with usage():
        check_words(options)
        machine = machine_options(context, options)
    with leased(context, options.image):
        files, machine = find_both(context, options, machine)
        # Whatever was not used for a month goes.
        context.sealed(context.templates.name)
        path = make_template(
            files,
            machine,
            Hold(when),
            Templates(context.templates),
            search_path=context.environment.get("PATH", ""),
            streams=Streams(stdout=2, stderr=2),
        )
    context.console.say(f"boot --warm will start {files.bundle.image.reference} from here")
    return path
