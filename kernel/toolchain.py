"""The outside tools of a kernel build: are they there, which ones are they, and make itself."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import ToolError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

#: Where tools are looked for: the system's places, so that a caller's PATH cannot change the bytes.
PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: Each tool of the build, and the Debian package that brings it.
TOOLS = {
    "make": "make",
    "gcc": "gcc",
    "ld": "binutils",
    "flex": "flex",
    "bison": "bison",
    "bc": "bc",
    "tar": "tar",
    "xz": "xz-utils",
    "perl": "perl",
    "patch": "patch",
}

#: Words of a failure, from the most telling: a tool's own, then make's line about it.
_ERRORS = (
    re.compile(r"\b(?:error|undefined reference|can't|[Cc]annot|not found)\b"),
    re.compile(r"\*\*\*"),
)


def check_tools(tools: dict[str, str] = TOOLS, path: str = PATH) -> None:
    """Raise one ToolError that lists everything a kernel build lacks, with the way to get it."""
    absent = {tool: package for tool, package in tools.items() if not shutil.which(tool, path=path)}
    if "gcc" not in absent and not _has_libelf(path):
        absent["gelf.h"] = "libelf-dev"
    if absent:
        packages = " ".join(sorted(set(absent.values())))
        raise ToolError(
            f"a kernel build lacks {', '.join(absent)}; install with: apt install {packages}"
        )


def _has_libelf(path: str) -> bool:
    probe = subprocess.run(
        ["gcc", "-E", "-x", "c", "-", "-o", "/dev/null"],
        input=b"#include <gelf.h>\n",
        stderr=subprocess.DEVNULL,
        env={"PATH": path},
        check=False,
    )
    return probe.returncode == 0


def toolchain() -> str:
    """Return the version lines of compiler and linker: what the bytes depend on.

    ToolError when one of them is missing.
    """
    return " / ".join(_first_line([tool, "--version"]) for tool in ("gcc", "ld"))


def _first_line(argv: list[str]) -> str:
    try:
        output = subprocess.run(
            argv, capture_output=True, check=True, env={"PATH": PATH, "LC_ALL": "C"}
        ).stdout
    except (OSError, subprocess.CalledProcessError) as error:
        package = TOOLS[argv[0]]
        raise ToolError(f"cannot run {argv[0]}; install with: apt install {package}") from error
    return output.decode(errors="replace").splitlines()[0]


class Make:
    """make in one kernel tree: a clean environment, output in ``log``, the first error told.

    log stays where it is, so that a failure can be looked into.
    """

    def __init__(self, tree: Path, log: Path, temporary: Path) -> None:
        self._tree = tree
        self._log = log
        self._env = {
            "PATH": PATH,
            "LC_ALL": "C",
            "TMPDIR": str(temporary),
            "ARCH": "x86_64",
            "KBUILD_BUILD_TIMESTAMP": "Thu Jan  1 00:00:00 UTC 1970",
            "KBUILD_BUILD_USER": "hyperbuild",
            "KBUILD_BUILD_HOST": "hyperbuild",
            "KBUILD_BUILD_VERSION": "1",
        }

    def run(self, *targets: str, on_line: Callable[[str], None] | None = None) -> list[str]:
        """Run make for targets and return its lines; on_line sees each. ToolError if it fails."""
        return self._carry_out(["make", *targets], on_line)

    def tool(self, *argv: str) -> list[str]:
        """Run another tool in the tree and return its lines. ToolError if it fails."""
        return self._carry_out(list(argv), None)

    def _carry_out(self, argv: list[str], on_line: Callable[[str], None] | None) -> list[str]:
        lines: list[str] = []
        with self._log.open("a", encoding="utf-8") as log:
            process = subprocess.Popen(
                argv,
                cwd=self._tree,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                # A group of its own, so that on the way out compilers are stopped with make.
                start_new_session=True,
            )
            with process, _stopped(process):
                # Reading a pipe ties make to us: if we are killed, its next line ends it.
                for line in process.stdout or ():
                    log.write(line)
                    lines.append(line.rstrip("\n"))
                    if on_line:
                        on_line(lines[-1])
        if process.returncode:
            raise ToolError(
                f"{' '.join(argv[:3])} failed (status {process.returncode}): "
                f"{first_error(lines)}; the whole output is in {self._log}"
            )
        return lines


@contextmanager
def _stopped(process: subprocess.Popen[str]) -> Iterator[None]:
    """Kill the process group of process when the block is left by an exception."""
    try:
        yield
    except BaseException:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        raise


def first_error(lines: list[str]) -> str:
    """Return the line of a tool's output that tells most: the first error, else the last line."""
    spoken = [line.strip() for line in lines if line.strip()]
    for pattern in _ERRORS:
        for line in spoken:
            if pattern.search(line) and (pattern is _ERRORS[-1] or "***" not in line):
                return line
    return spoken[-1] if spoken else "it said nothing"
