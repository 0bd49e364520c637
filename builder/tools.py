"""Programs of this machine: found, run in an environment of their own, and told of if they fail."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import ToolError

if TYPE_CHECKING:
    from collections.abc import Mapping

_SYSTEM = "/usr/local/sbin:/usr/sbin:/sbin:/usr/bin:/bin"
#: How apt, dpkg and mmdebstrap begin the line of an error.
_ERRORS = ("E: ", "dpkg: error")


class Tools:
    """Programs on the search path of environment, with those of the system behind it."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        path = ":".join(filter(None, (environment.get("PATH", ""), _SYSTEM)))
        kept = {name: environment[name] for name in ("HOME", "TMPDIR") if name in environment}
        self._env = {**kept, "PATH": path, "LC_ALL": "C"}

    def require(self, program: str, package: str, purpose: str) -> None:
        """Raise ToolError if there is no such program."""
        if shutil.which(program, path=self._env["PATH"]) is None:
            raise ToolError(f"{program} is missing, {purpose}; apt install {package}")

    def output(self, *argv: str) -> str:
        """Return what a program writes; ToolError if it fails."""
        done = self._run(argv)
        if done.returncode:
            raise ToolError(f"{argv[0]} failed: {_first_error(done.stderr)}")
        return done.stdout

    def succeeds(self, *argv: str) -> bool:
        """Run a program that may fail."""
        return self._run(argv).returncode == 0

    def _run(self, argv: tuple[str, ...]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                argv, env=self._env, stdin=subprocess.DEVNULL, capture_output=True, check=False,
                text=True, errors="replace",
            )  # fmt: skip
        except OSError as error:
            raise ToolError(f"cannot run {argv[0]}: {error.strerror}; install it") from error

    def tell(self, argv: list[str], target: Path | str, env: Mapping[str, str]) -> str:
        """Run a program, its output into target, and return what it says; ToolError if it fails.

        What ends this process asks it to end too, and waits: it may have mounts to undo.
        """
        with Path(target).open("wb") as output:
            process = subprocess.Popen(
                argv,
                env={**self._env, **env},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.PIPE,
                text=True,
                errors="replace",
                start_new_session=True,
            )
            try:
                _, said = process.communicate()
            except BaseException:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGTERM)
                process.wait()
                raise
        if process.returncode:
            raise ToolError(f"{argv[0]} failed: {_first_error(said)}")
        return said


def _first_error(said: str) -> str:
    """Return the line that tells most: the first error, else the last line."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(_ERRORS)]
    return (errors or lines[-1:] or ["it said nothing"])[0]
