"""What a person sees on stderr while hyperbuild works: messages, warnings and progress bars."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, NoReturn, Self

from hyperbuild.converter.errors import printable
from hyperbuild.converter.progress import Task
from hyperbuild.converter.records import Record

if TYPE_CHECKING:
    from types import TracebackType

    from tqdm import tqdm


class _Bar(Task):
    def __init__(self, bar: tqdm[NoReturn]) -> None:
        self._bar = bar

    def advance(self, amount: int) -> None:
        self._bar.update(amount)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._bar.close()


class Console(Record):
    """Progress on stderr: bars on a terminal only, nothing but warnings when quiet."""

    quiet: bool
    color: bool

    @classmethod
    def for_stderr(cls, *, quiet: bool) -> Self:
        """Return one whose colors fit where stderr leads, unless NO_COLOR is set."""
        return cls(quiet, color=sys.stderr.isatty() and not os.environ.get("NO_COLOR"))

    def say(self, message: str) -> None:
        """Tell the user one line."""
        if not self.quiet:
            self._line(message)

    def warn(self, message: str) -> None:
        """Tell the user one line that they should act on."""
        label = "\x1b[33mWarning:\x1b[0m" if self.color else "Warning:"
        self._line(message, label + " ")

    def task(self, name: str, total: int | None = None, unit: str = "B") -> Task:
        """Start a step and draw its bar, which goes away at its end."""
        if self.quiet or not sys.stderr.isatty():
            return Task()
        from tqdm import tqdm

        bar: tqdm[NoReturn] = tqdm(
            desc=printable(name),
            total=total,
            unit=unit,
            unit_scale=unit == "B",
            unit_divisor=1024 if unit == "B" else 1000,
            leave=False,
            dynamic_ncols=True,
            file=sys.stderr,
        )
        return _Bar(bar)

    def _line(self, message: str, label: str = "") -> None:
        line = label + printable(message)
        if "tqdm" in sys.modules:
            from tqdm import tqdm

            tqdm.write(line, file=sys.stderr)
        else:
            print(line, file=sys.stderr)
