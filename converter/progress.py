"""How a long step tells what it does. The command line draws it; a library caller may ignore it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from types import TracebackType


class Task:
    """One step under way: a context manager told of its advance. This one shows nothing."""

    def advance(self, amount: int) -> None:
        """Note that amount more units (as the task was started with) are done."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


class Progress(Protocol):
    """Where long steps report to."""

    def say(self, message: str) -> None:
        """Tell the user one line."""

    def warn(self, message: str) -> None:
        """Tell the user one line that they should act on."""

    def task(self, name: str, total: int | None = None, unit: str = "B") -> Task:
        """Start a step of total units; "B" are bytes."""


class _Quiet:
    def say(self, message: str) -> None:
        pass

    def warn(self, message: str) -> None:
        pass

    def task(self, name: str, total: int | None = None, unit: str = "B") -> Task:  # noqa: ARG002
        return Task()


QUIET: Progress = _Quiet()
