"""Runs `hyperbuild` and sends it a signal at its Nth change of a file: every moment can be met.

A change is a file opened for writing, a lock, a write, a sync, a rename or a removal. Used as a
program (python -m tests.support.crash SIGNAL LOG ARGUMENT…) it reads numbers from stdin, runs the
command line once for each in a process of its own, and writes its exit status, as subprocess has
it. ``crashes`` drives it.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_EVENTS = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.truncate", "fcntl.flock"}
_CALLS = ("write", "pwrite", "pwritev", "fsync", "copy_file_range")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_MOMENTS = 500


def crashes(
    number: signal.Signals, arguments: list[str], env: Mapping[str, str], log: Path
) -> Iterator[int]:
    """Yield the exit status of one run after another, hit one change later each time.

    The last is the run that was over before it was hit. Its stderr is in log.
    """
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.support.crash", str(int(number)), log, *arguments],
        env=dict(env), cwd=Path(__file__).parents[2], text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdin
    assert process.stdout
    with process:
        for moment in range(1, _MOMENTS):
            print(moment, file=process.stdin, flush=True)
            status, hit = map(int, process.stdout.readline().split())
            yield status
            if not hit:
                process.stdin.close()
                return
    raise AssertionError(f"more than {_MOMENTS} changes")


def _arm(moment: int, number: int, told: int) -> None:
    left = moment

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os_write(told, b"1")
            os.kill(os.getpid(), number)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in _EVENTS or (event == "open" and (args[2] or 0) & _WRITING):
            count()

    os_write = os.write
    for name in _CALLS:
        call = getattr(os, name)

        def counted(*args: Any, _call: Any = call) -> Any:
            # What is said on stdout and stderr changes no file.
            if args[0] > 2:
                count()
            return _call(*args)

        setattr(os, name, counted)
    sys.addaudithook(hook)


def main() -> None:
    """Run the command line for each number on stdin."""
    from hyperbuild.builder import cli, converting  # noqa: F401 - loaded once
    from hyperbuild.builder import main as program
    from hyperbuild.converter import registry  # noqa: F401

    number, log, *arguments = sys.argv[1:]
    for line in sys.stdin:
        ours, theirs = os.pipe()
        child = os.fork()
        if not child:
            for target, path in ((0, os.devnull), (1, os.devnull), (2, log)):
                os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644), target)
            _arm(int(line), int(number), theirs)
            program.main(arguments)
        os.close(theirs)
        _, status = os.waitpid(child, 0)
        hit = len(os.read(ours, 1))
        os.close(ours)
        print(os.waitstatus_to_exitcode(status), hit, flush=True)


if __name__ == "__main__":
    main()
