"""Where the program begins: the plain way into a boot, click for all else, and every exit status.

Exit status: 0, 1 for a failure told in one line, 2 for usage; ``boot`` and ``run`` have the guest's
own, or 125 for a failure of ours. What is imported here delays every boot (see ``boot_options``).
"""

from __future__ import annotations

import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import HyperbuildError, InputError, explained, printable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from hyperbuild.builder.boot_options import BootOption

BOOT_FAILURE = 125
INTERRUPTED = 130
#: Commands whose status is the guest's.
_GUESTS = ("boot", "run")


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit with its status."""
    _open_standard_files()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _terminate)
    sys.exit(_run(list(sys.argv[1:] if arguments is None else arguments)))


def _terminate(number: int, _: object) -> None:
    """Leave by an exception, so that everything half-made is taken back on the way out."""
    raise SystemExit(128 + number)


def _open_standard_files() -> None:
    """Put /dev/null where a standard descriptor is closed: the next file opened would take it."""
    for fd in range(3):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, os.O_RDWR)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def _run(arguments: list[str]) -> int:
    command = next((word for word in arguments if not word.startswith("-")), "")
    failure = BOOT_FAILURE if command in _GUESTS else 1
    try:
        status = _boot_plainly(arguments)
        if status is None:
            from hyperbuild.builder.cli import run_cli

            status = run_cli(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return failure
    except HyperbuildError as error:
        # What the guest could not do has a status of its own where the status is the guest's.
        status = max(failure, error.exit_status) if command in _GUESTS else failure
        status = error.exit_status if error.is_status_final else status
        return _fail(error, str(error), status, arguments)
    except Exception as error:
        return _fail(error, explained(error), failure, arguments)
    return status


def _boot_plainly(arguments: list[str]) -> int | None:
    """Boot or run if that is what arguments plainly say; None if click has to read them."""
    if arguments[:1] not in (["boot"], ["run"]):
        return None
    from hyperbuild.builder.boot_options import BOOT_OPTIONS, read_plainly

    known: Sequence[BootOption] = BOOT_OPTIONS
    if arguments[0] == "run":
        from hyperbuild.builder.run_options import RUN_OPTIONS

        known = RUN_OPTIONS
    options: dict[str, Any] | None = read_plainly(arguments[1:], os.environ, arguments[0], known)
    if options is None or not _budgets_are_right(options["budget"]):
        return None
    from hyperbuild.builder.console import Console
    from hyperbuild.builder.context import read_context

    context = read_context(os.environ, Console.for_stderr(quiet=False))
    if arguments[0] == "run":
        from hyperbuild.builder.running import run_image, run_options

        return run_image(context, run_options(options))
    from hyperbuild.builder.booting import BootOptions, boot_image

    return boot_image(context, BootOptions(**options))


def _budgets_are_right(texts: Sequence[str]) -> bool:
    """Tell whether each of texts is a budget; one that is not is a mistake of usage."""
    if texts:
        from hyperbuild.launcher.budget import parse_budget

        try:
            for text in texts:
                parse_budget(text)
        except InputError:
            return False
    return True


def _fail(error: Exception, text: str, status: int, arguments: list[str]) -> int:
    if "--debug" in arguments or os.environ.get("HYPERBUILD_DEBUG"):
        import traceback

        traceback.print_exception(error)
    print(f"Error: {printable(text)}", file=sys.stderr)
    return status
