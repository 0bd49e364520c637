"""What a block has its reader type, step by step, and what the page says comes of it.

A session is read as a terminal shows it: `$ ` or `# ` begins a command, `> ` goes on with one, all
else is what came out. `# ` behind a command with `-it` is typed into that command. A last line `^C`
ends it by Ctrl-C. Output that begins with a space goes on with the line before it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from docs.tools.blocks import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from docs.tools.blocks import Block

_INTERACTIVE = re.compile(r"\s-(it|ti)\s")
_BACKGROUND = re.compile(r"\s&\s*(#.*)?$")
_CAT = re.compile(r"cat ([\w./-]+)")
_BUDGET = re.compile(r"(--budget \w+=|^time = \{ \w+ = \")(\d+)(?=m?s\b)", re.MULTILINE)
#: What differs from machine to machine: what is left out, homes, numbers, digests, white space.
_LOOSE = re.compile(r"…|~(?=/)|\b[0-9a-f]{8,}\b|(?<![a-z\d])\d+(?:[.,:]\d+)*(?: seconds?)?|\s+")


@dataclass(frozen=True, slots=True)
class Step:
    """One command, what is typed into it, and the lines that it shows."""

    command: str
    line: int
    shown: tuple[str, ...] = ()
    typed: tuple[str, ...] = ()
    is_interrupted: bool = False

    @property
    def is_in_background(self) -> bool:
        """Tell whether the shell does not wait for it."""
        return bool(_BACKGROUND.search(self.command)) or self.is_interrupted

    @property
    def is_to_fail(self) -> bool:
        """Tell whether the page shows that it fails."""
        return any(line.startswith("Error: ") for line in self.shown)

    @property
    def writes(self) -> str:
        """Return the file whose content a `cat` shows, "" for other commands."""
        found = _CAT.fullmatch(self.command)
        return found[1] if found else ""


def read_steps(block: Block) -> Iterator[Step]:
    """Give the steps of a session, or of a list of commands."""
    if block.kind is Kind.SESSION:
        yield from _session(block.text.splitlines(), block.line)
    elif block.kind is Kind.SCRIPT:
        for line, command in _commands(block.text.splitlines(), block.line):
            yield Step(command, line)


def _commands(lines: list[str], first: int) -> Iterator[tuple[int, str]]:
    """Give the commands of a script; a line that ends with a backslash goes on with the next."""
    taken: list[str] = []
    for number, line in enumerate(lines, first):
        if not line.strip():
            continue
        taken.append(line)
        if not line.endswith("\\"):
            if not line.lstrip().startswith("#"):
                yield number, "\n".join(taken)
            taken = []


def _session(lines: list[str], first: int) -> Iterator[Step]:
    start, command = first, ""
    typed: list[str] = []
    shown: list[str] = []

    def step() -> Step:
        ends = shown[-1:] == ["^C"]
        return Step(command, start, tuple(shown[:-1] if ends else shown), tuple(typed), ends)

    for number, line in enumerate(lines, first):
        if command and line.startswith("> "):
            command += f"\n{line[2:]}"
        elif line.startswith("# ") and _INTERACTIVE.search(command):
            typed.append(line[2:])
        elif line.startswith(("$ ", "# ")):
            if command:
                yield step()
            start, command, typed, shown = number, line[2:], [], []
        elif line[:1].isspace() and shown:
            shown[-1] += f"\n{line}"
        else:
            assert command, f"line {number}: output before the first command"
            shown.append(line)
    yield step()


def unhurried(text: str) -> str:
    """Return a command, or a recipe, with a hundred times the wall time that its budgets allow.

    What a page says is for a machine that does nothing else; no test asserts a wall time.
    """
    return _BUDGET.sub(r"\g<1>\g<2>00", text)


def missing(shown: tuple[str, ...], output: str) -> str:
    """Return the first line of shown that did not come, in this order, in output; "" if all did.

    Numbers are any numbers, a digest any digest, white space any white space, ~/ any home, and … is
    anything; a line of … alone is any lines.
    """
    at = 0
    for line in shown:
        wanted = line.strip()
        if wanted in ("", "…"):
            continue
        found = re.compile(rf"^[ \t]*{_pattern(wanted)}[ \t]*$", re.MULTILINE).search(output, at)
        if not found:
            return line
        at = found.end()
    return ""


def _pattern(line: str) -> str:
    parts, at = [], 0
    for found in _LOOSE.finditer(line):
        parts += [re.escape(line[at : found.start()]), _any(found[0])]
        at = found.end()
    return "".join(parts) + re.escape(line[at:])


def _any(text: str) -> str:
    if text in ("…", "~"):
        return ".*" if text == "…" else r"\S*"
    if text.isspace():
        return r"\s+"
    if text.endswith(("second", "seconds")):
        return r"\d+ seconds?"
    return r"[0-9a-f]+" if re.fullmatch("[0-9a-f]{8,}", text) else r"\d+(?:[.,:]\d+)*"
