"""One shell for a page, in the town, to which its steps are given one by one."""

from __future__ import annotations

import re
import shlex
import subprocess
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tests.docs.steps import missing, unhurried

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.docs.steps import Step

#: How long a step, or what is shown of one in the background, may take, in seconds.
_PATIENCE = 300
#: Job control has what runs in the background end by Ctrl-C's signal, as it does for a person.
_DRIVER = r"""
set -m
cd "$0"
exec 9<&0 </dev/null
while read -r -u 9 step; do
    . "$step" >"$step.out" 2>&1 9<&-
    echo $? >"$step.new"
    mv "$step.new" "$step.status"
done
"""
_TERMINAL = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]|\r")


@dataclass(slots=True)
class Shell:
    """A shell that runs, its steps so far, and the directory that their files are in."""

    process: subprocess.Popen[str]
    directory: Path
    cwd: Path
    _steps: int = field(default=0)

    def run(self, step: Step) -> str:
        """Run step, and return what is wrong with it, "" if nothing is."""
        if step.writes and step.shown and not (self.cwd / step.writes).exists():
            self.write(step.writes, "\n".join(step.shown))
        command = unhurried(step.command)
        if step.typed:
            typed = "\n".join(step.typed)
            command = f"script -qec {shlex.quote(command)} /dev/null <<'TYPED'\n{typed}\nTYPED"
        path, status = self._do(f"{{ {command}\n}} &" if step.is_interrupted else command)
        if step.is_in_background:
            wrong = self._wait_for(step, path)
            if step.is_interrupted:
                self._do("kill -INT %%; wait %%")
            return wrong
        output = _text(path)
        if (status != 0) is not step.is_to_fail:
            return f"status {status}\n{output}"
        line = missing(step.shown, output)
        return f"{line!r} is not in\n{output}" if line else ""

    def write(self, name: str, content: str) -> None:
        """Write a file as a page has it."""
        path = self.cwd / name.replace("~", str(self.cwd.parent))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{unhurried(content)}\n")

    def _do(self, command: str) -> tuple[Path, int]:
        """Run a command, and return the path of its output and its status."""
        self._steps += 1
        step = self.directory / f"{self._steps}"
        step.write_text(f"{command}\n")
        assert self.process.stdin
        self.process.stdin.write(f"{step}\n")
        self.process.stdin.flush()
        done = step.with_name(f"{step.name}.status")
        deadline = time.monotonic() + _PATIENCE
        output = step.with_name(f"{step.name}.out")
        while not done.exists():
            if time.monotonic() > deadline or self.process.poll() is not None:
                return output, -1
            time.sleep(0.02)
        return output, int(done.read_text())

    def _wait_for(self, step: Step, path: Path) -> str:
        """Wait until what runs in the background has shown what the page says."""
        deadline = time.monotonic() + _PATIENCE
        if not step.shown:
            return "runs in the background, and nothing is shown to wait for"
        while line := missing(step.shown, _text(path)):
            if time.monotonic() > deadline:
                return f"{line!r} is not in\n{_text(path)}"
            time.sleep(0.05)
        return ""


@contextmanager
def open_shell(town: int, directory: Path, cwd: Path, env: Mapping[str, str]) -> Iterator[Shell]:
    """Give a shell in the town; what it has started is killed at the end."""
    directory.mkdir()
    enter = ["nsenter", "--net", "--mount", f"--target={town}", "--"]
    alone = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    with subprocess.Popen(
        [*enter, *alone, "bash", "-c", _DRIVER, cwd],
        env=dict(env),
        stdin=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Shell(process, directory, cwd)
        finally:
            process.kill()


def _text(path: Path) -> str:
    return _TERMINAL.sub(b"", path.read_bytes()).decode(errors="replace")
