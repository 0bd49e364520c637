"""The table of intended differences in docs/runtime.md, and what two reports differ in."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

DOCUMENT = Path(__file__).parents[2] / "docs/runtime.md"
HEADING = "| case | container | HyperVM | why |"
#: What a report says of a name that the other alone has.
ABSENT = "absent"


@dataclass(frozen=True)
class Difference:
    """One name of the reports, and both sides' values; in the table all three may have ``*``."""

    name: str
    container: str
    machine: str

    def covers(self, other: Difference) -> bool:
        """Tell whether other is what this row of the table says."""
        pairs = zip(
            (other.name, other.container, other.machine),
            (self.name, self.container, self.machine),
            strict=True,
        )
        return all(fnmatchcase(value, _literal(pattern)) for value, pattern in pairs)


def intended() -> tuple[Difference, ...]:
    """Read the rows of the table; a row without a reason is none."""
    lines = DOCUMENT.read_text().split(HEADING)[1].splitlines()[2:]
    rows = []
    for line in lines:
        if not line.startswith("|"):
            break
        name, container, machine, why = (cell.strip() for cell in line.strip("|").split("|"))
        assert why, f"no reason: {line}"
        rows.append(Difference(*(cell.strip("`") for cell in (name, container, machine))))
    return tuple(rows)


def differences(container: Mapping[str, str], machine: Mapping[str, str]) -> set[Difference]:
    """Return where two reports differ."""
    return {
        Difference(name, container.get(name, ABSENT), machine.get(name, ABSENT))
        for name in {*container, *machine}
        if container.get(name) != machine.get(name)
    }


def read_report(text: str) -> tuple[dict[str, str], list[str]]:
    """Take a report's ``name = value`` lines out of text; return them and all other lines."""
    report, others = {}, []
    for line in text.splitlines():
        name, equals, value = line.partition(" = ")
        if equals:
            report[name] = value
        else:
            others.append(line)
    return report, others


def _literal(pattern: str) -> str:
    return pattern.replace("[", "[[]").replace("?", "[?]")
