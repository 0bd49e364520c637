"""Recipes: TOML files that say what to build, how it boots, and what it must hold to."""

from __future__ import annotations

import difflib
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import InputError, NotFoundError, printable
from hyperbuild.converter.toml import parse_toml, read_toml
from hyperbuild.recipes.fields import CLASH, NEEDED, ORIGINS, TABLES, TOP, Field

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: The recipes that hyperbuild brings along.
SHIPPED = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe's tables as they stand in its file, all of it checked against ``TABLES``.

    ``name`` is for messages; paths that it reads are relative to ``directory``. ``stem`` is what
    its file is called, without the suffix.
    """

    name: str
    directory: Path
    tables: Mapping[str, Mapping[str, Any]]
    stem: str

    def get(self, table: str, key: str, default: Any = None) -> Any:
        """Return a value, default if the recipe does not say."""
        return self.tables.get(table, {}).get(key, default)

    @property
    def is_composed(self) -> bool:
        """Whether its image is put together here, of layers or packages, or of another config."""
        return "source" in self.tables or "source.config" in self.tables

    @property
    def image(self) -> str:
        """The reference of the image, or the name of the one that is put together."""
        if self.is_composed:
            return str(self.get("source", "name", f"localhost/{self.stem.lower()}"))
        return str(self.get(TOP, "image"))

    def has(self, table: str) -> bool:
        """Tell whether it has such a table, be it empty."""
        return table in self.tables

    def path(self, text: str) -> Path:
        """Return the path of a file that it names."""
        return self.directory / text


def shipped_recipes() -> list[str]:
    """Return the names of the recipes that hyperbuild brings along."""
    return sorted(path.stem for path in SHIPPED.glob("*.toml"))


def find_recipe(name: str) -> Path:
    """Return the file of a recipe: a path, or the name of a shipped one.

    NotFoundError lists those.
    """
    path = Path(name)
    if path.suffix == ".toml" or path.exists():
        if not path.exists():
            raise NotFoundError(f"no recipe {path}; {_shipped()}")
        return path
    if name not in shipped_recipes():
        near = difflib.get_close_matches(name, shipped_recipes(), 1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise NotFoundError(f"no recipe {printable(name)}; {hint}{_shipped()}")
    return SHIPPED / f"{name}.toml"


def _shipped() -> str:
    return f"give a file NAME.toml, or one of {', '.join(shipped_recipes())}"


def read_recipe(path: Path, changes: Iterable[str] = ()) -> Recipe:
    """Read the recipe in path, changed by texts ``[TABLE.]KEY=VALUE``.

    InputError names the place of what is wrong, and the nearest key there is.
    """
    return _recipe(read_toml(path, "recipe"), str(path), path.parent, changes)


def parse_recipe(raw: bytes, name: str, directory: Path, changes: Iterable[str] = ()) -> Recipe:
    """Read a recipe as ``read_recipe``; name is for messages."""
    return _recipe(parse_toml(raw, name), name, directory, changes)


def _recipe(
    document: Mapping[str, Any], file: str, directory: Path, changes: Iterable[str]
) -> Recipe:
    tables = _tables(document, file)
    for table, values in tables.items():
        for key, value in values.items():
            _check(file, table, key, value)
    name = file
    for text in changes:
        table, key, value = _change(text)
        shown = f"--set {printable(text)}"
        _check(shown, table, key, value)
        tables.setdefault(table, {})[key] = value
        # What is wrong from here on may be wrong in the file, or by this.
        name += f" {shown}"
    _check_together(name, tables)
    return Recipe(name, directory, tables, Path(file).stem)


def _tables(document: Mapping[str, Any], name: str) -> dict[str, dict[str, Any]]:
    """Return the tables of document that are there, without the tables inside them."""
    outermost = [name for name in TABLES if "." not in name]
    tables = {TOP: {key: value for key, value in document.items() if key not in outermost}}
    for table in TABLES:
        outer, _, key = table.rpartition(".")
        holder = tables.get(outer, {}) if outer else document
        if table != TOP and key in holder:
            if not isinstance(holder[key], dict):
                raise InputError(f"{name}: {table} is a table; write [{table}]")
            tables[table] = dict(holder[key])
            if outer:
                del tables[outer][key]
    return tables


def _check(name: str, table: str, key: str, value: object) -> None:
    field = TABLES[table].get(key)
    if field is None:
        raise InputError(f"{name}: {_where(table, key)} is not known; {_nearest(table, key)}")
    if wrong := field.wrong(value):
        raise InputError(f"{name}: {_where(table, key)} {wrong}; {_wanted(field)}")


def _check_together(name: str, tables: Mapping[str, Mapping[str, Any]]) -> None:
    """Raise InputError for keys that need another one, or exclude each other."""

    def has(place: tuple[str, str]) -> bool:
        return place[1] in tables.get(place[0], {})

    if not any(map(has, ORIGINS)):
        raise InputError(
            f"{name}: image is missing; a recipe needs it, or layers or packages in [source]"
        )
    if all(map(has, CLASH)):
        raise InputError(
            f"{name}: image and [source] packages exclude each other, as each is the lowest "
            "layers; drop one"
        )
    for table, needed in NEEDED.items():
        for key, other in needed.items():
            if has((table, key)) and not has((table, other)):
                raise InputError(
                    f"{name}: {_where(table, key)} needs {other}, which is missing; "
                    f"{_wanted(TABLES[table][other])}"
                )


def _where(table: str, key: str) -> str:
    return f"[{table}] {printable(key)}" if table else printable(key)


def _nearest(table: str, key: str) -> str:
    """Say what was meant: a key of the same table, a table, or a key of another one."""
    tables = [name for name in TABLES if name and "." not in name]
    here = [*TABLES[table], *(tables if table == TOP else ())]
    if near := difflib.get_close_matches(key, here, 1):
        shown = f"[{near[0]}]" if near[0] in tables and near[0] not in TABLES[TOP] else near[0]
        return f"did you mean {shown}?"
    elsewhere = next((name for name in TABLES if name != table and key in TABLES[name]), None)
    if elsewhere is not None:
        return f"{key} belongs {f'into [{elsewhere}]' if elsewhere else 'before all tables'}"
    return f"there are: {', '.join(here)}"


def _wanted(field: Field) -> str:
    return f"it is for: {field.help.rstrip('.')}"


def _change(text: str) -> tuple[str, str, Any]:
    """Read ``[TABLE.]KEY=VALUE``: VALUE as TOML has it where that fits, else as it stands."""
    name, equals, written = text.partition("=")
    table, _, key = name.strip().rpartition(".")
    if not equals or not key:
        raise InputError(
            f"--set {printable(text)!r} is not [TABLE.]KEY=VALUE; say image=nginx:1.25 "
            "or boot.memory=64M"
        )
    if table not in TABLES or key not in TABLES[table]:
        raise InputError(
            f"--set {printable(text)!r}: {_where(table, key)} is not known; "
            + (_nearest(table, key) if table in TABLES else f"tables are {', '.join(TABLES)[2:]}")
        )
    try:
        value: Any = tomllib.loads(f"value = {written}")["value"]
    except (ValueError, RecursionError):
        value = written
    if TABLES[table][key].kind == "string" and not isinstance(value, str):
        value = written
    return table, key, value
