"""What a recipe may say: each table and key once, for the parser and for the JSON schema."""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import printable

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The table of keys that stand before all tables.
TOP = ""
_TIME = r"\d+(\.\d+)?(us|ms|s)"
_SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True, slots=True)
class Field:
    """One key: what it is for, and which values it takes.

    ``kind`` is a JSON schema type; that of an array's items, or of a table's values, is ``items``.
    ``choices`` and ``pattern`` are for strings (or an array's), the limits for numbers, ``least``
    for the number of an array's items; strings have at least one character unless they
    ``may_be_empty``. ``fields`` are the keys of a table, where it has no others,
    or of the tables that may be among an array's items; ``required`` are those it can't do without.
    """

    help: str
    kind: str = "string"
    items: str = ""
    choices: tuple[str, ...] = ()
    pattern: str = ""
    minimum: int | None = None
    maximum: int | None = None
    least: int = 0
    may_be_empty: bool = False
    fields: Mapping[str, Field] = field(default_factory=dict)
    required: tuple[str, ...] = ()

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of its values."""
        described: dict[str, Any] = {"description": self.help, "type": self.kind}
        if self.kind == "array":
            one = self._of_one(self.items)
            described["items"] = {"anyOf": [one, self._of_table()]} if self.fields else one
            described |= {"minItems": self.least} if self.least else {}
        elif self.kind == "object" and self.fields:
            described |= self._of_table()
        elif self.kind == "object":
            described["additionalProperties"] = self._of_one(self.items)
        else:
            described |= self._of_one(self.kind)
        return described

    def _of_table(self) -> dict[str, Any]:
        return {
            "type": "object",
            "properties": {key: field.schema() for key, field in self.fields.items()},
            "required": list(self.required),
            "additionalProperties": False,
        }

    def _of_one(self, kind: str) -> dict[str, Any]:
        limits = {
            "enum": list(self.choices) or None,
            "pattern": f"^(?:{self.pattern})$" if self.pattern else None,
            "minLength": 1 if kind == "string" and not self.may_be_empty else None,
            "minimum": self.minimum,
            "maximum": self.maximum,
        }
        return {"type": kind} | {key: value for key, value in limits.items() if value is not None}

    def wrong(self, value: object) -> str:
        """Return what is wrong with value, as in "is not …"; empty if nothing is."""
        if not _is(value, self.kind):
            return f"is not {_NAMES[self.kind]}"
        if isinstance(value, list):
            if len(value) < self.least:
                return "is empty"
            wrongs_of_items = (self._wrong_item(item) for item in value)
            return next((f"has an item that {wrong}" for wrong in wrongs_of_items if wrong), "")
        if isinstance(value, dict) and self.fields:
            return self._wrong_table(value)
        if isinstance(value, dict):
            wrongs = ((key, self._wrong_one(item, self.items)) for key, item in value.items())
            return next(
                (f"has a value of {key} that {wrong}" for key, wrong in wrongs if wrong), ""
            )
        return self._wrong_one(value, self.kind)

    def _wrong_item(self, value: object) -> str:
        if isinstance(value, dict) and self.fields:
            return self._wrong_table(value)
        return self._wrong_one(value, self.items)

    def _wrong_table(self, value: Mapping[str, Any]) -> str:
        for key in [*value, *self.required]:
            if key not in self.fields:
                near = difflib.get_close_matches(key, self.fields, 1) or [", ".join(self.fields)]
                return f"has a key {printable(key)} that is not known (there is {near[0]})"
            if key not in value:
                return f"does not say {key}"
            if wrong := self.fields[key].wrong(value[key]):
                return f"says {key}, which {wrong}"
        return ""

    def _wrong_one(self, value: object, kind: str) -> str:
        if not _is(value, kind):
            return f"is not {_NAMES[kind]}"
        if isinstance(value, str):
            if not value:
                return "" if self.may_be_empty else "is empty"
            if self.choices and value not in self.choices:
                return f"is not one of {', '.join(self.choices)}"
            if self.pattern and not re.fullmatch(self.pattern, value):
                return f"does not look like {self.pattern}"
        elif isinstance(value, int | float):
            if self.minimum is not None and value < self.minimum:
                return f"is less than {self.minimum}"
            if self.maximum is not None and value > self.maximum:
                return f"is more than {self.maximum}"
        return ""


_NAMES = {
    "string": "a string",
    "integer": "a whole number",
    "number": "a number",
    "boolean": "true or false",
    "array": "an array",
    "object": "a table",
}
_TYPES: Mapping[str, tuple[type, ...]] = {
    "string": (str,),
    "integer": (int,),
    "number": (int, float),
    "boolean": (bool,),
    "array": (list,),
    "object": (dict,),
}


def _is(value: object, kind: str) -> bool:
    return type(value) in _TYPES[kind]


TABLES: Mapping[str, Mapping[str, Field]] = {
    TOP: {
        "image": Field("The image, as `hyperbuild convert` takes it."),
        "platform": Field("OS/ARCH[/VARIANT]; default: linux on this CPU."),
    },
    "source": {
        "layers": Field(
            "What lies on top of each other, the lowest first: tar files beside the recipe, or "
            "{ dir, to, owner }, a folder that is copied.",
            "array", "string", least=1,
            fields={
                "dir": Field("The folder, beside the recipe."),
                "to": Field("Where its content goes.", pattern=r"/.*"),
                "owner": Field("Who owns it: UID[:GID].", pattern=r"[0-9]{1,9}(:[0-9]{1,9})?"),
            },
            required=("dir", "to"),
        ),
        "packages": Field(
            "Debian packages that make the lowest layer, as NAME or NAME=VERSION.",
            "array", "string", least=1,
            pattern=r"[a-z0-9][a-z0-9.+-]*(:[a-z0-9-]+)?(=[A-Za-z0-9.+:~-]+)?",
        ),
        "suite": Field("The release they are of: bookworm.", pattern=r"[a-z][a-z0-9.-]*"),
        "mirror": Field(
            "Where they come from: a URL, or a line of sources.list; default: as this machine's.",
            pattern=r"(https?|file)://\S+|deb (\[[^\]\n]+\] )?\S+ \S+( \S+)+",
        ),
        "variant": Field(
            "What comes with them: Debian's essential packages (the default), apt too (minbase) or "
            "nothing (custom). With extract nothing does, and all are unpacked, not installed.",
            choices=("essential", "minbase", "custom", "extract"),
        ),
        "name": Field("What the image is called; default: localhost/ and the recipe's name."),
    },
    "source.config": {
        "entrypoint": Field(
            "What is run before all words of cmd.", "array", "string", may_be_empty=True
        ),
        "cmd": Field(
            "What is run, or follows the entrypoint.", "array", "string", may_be_empty=True
        ),
        "env": Field("Variables.", "object", "string", may_be_empty=True),
        "user": Field("Who runs it: a name or UID[:GID]."),
        "working-dir": Field("Where it is run.", pattern=r"/.*"),
        "exposed-ports": Field(
            "Ports that it listens on: 80/tcp.", "array", "string",
            pattern=r"[0-9]{1,5}(-[0-9]{1,5})?(/(tcp|udp|sctp))?",
        ),
        "stop-signal": Field("What asks it to stop: SIGQUIT."),
        "volumes": Field("Directories of data.", "array", "string", pattern=r"/.*"),
        "labels": Field("Words about the image.", "object", "string"),
        "healthcheck": Field(
            "How its health is checked.", "object",
            fields={
                "test": Field("CMD and words, or CMD-SHELL, a line.", "array", "string", least=1),
                "interval": Field("Between two checks: 30s.", pattern=_TIME),
                "timeout": Field("For one check.", pattern=_TIME),
                "start-period": Field("In which failures do not count.", pattern=_TIME),
                "retries": Field("Failures in a row that count.", "integer", minimum=1),
            },
            required=("test",),
        ),
    },
    "rootfs": {
        "format": Field("Format of the root file system.", choices=("erofs", "ext4")),
        "align": Field("Begin large files at huge pages.", "boolean"),
        "verity": Field("Have the guest's kernel verify what it reads (dm-verity).", "boolean"),
        "verify": Field("Compare the result with the layers.", "boolean"),
    },
    "kernel": {
        "profile": Field("Profile of the HyperKernel.", choices=("micro", "dax", "full", "disk")),
        "fragments": Field(
            "Files of further kernel options, beside the recipe.", "array", "string",
            pattern=r".+\.config",
        ),
        "file": Field("An ELF kernel with a PVH entry instead, beside the recipe."),
    },
    "boot": {
        "memory": Field("RAM, as in 128M."),
        "cpus": Field("CPUs.", "integer", minimum=1, maximum=64),
        "env": Field("Variables of the application.", "object", "string", may_be_empty=True),
        "cmd": Field("What replaces the image's Cmd.", "array", "string", may_be_empty=True),
        "hostname": Field("Host name of the guest."),
        "network": Field("The guest's network.", choices=("user", "none")),
        "rootfs": Field("Map the root file system, or read it.", choices=("dax", "blk")),
        "require-dax": Field("Fail unless the guest proves that DAX works.", "boolean"),
        "health-cmd": Field("A health check instead of the image's."),
        "user": Field("USER[:GROUP] instead of the image's."),
        "workdir": Field("A working directory instead of the image's."),
        "entrypoint": Field("What replaces the image's Entrypoint, and drops its Cmd."),
        "tmpfs": Field("Where memory is mounted: DST[:OPTIONS], each.", "array", "string"),
        "read-only": Field("Let the guest write in what is mounted alone.", "boolean"),
        "add-host": Field("Lines of /etc/hosts: NAME:IP, each.", "array", "string"),
    },
    "smoke": {
        "http": Field("[:PORT]/PATH[=STATUS][~REGEX], each.", "array", "string"),
        "port": Field(
            "TCP ports that are listened on.", "array", "integer", minimum=1, maximum=65535
        ),
        "log": Field("Regular expressions of what is written.", "array", "string"),
        "exit": Field("The status it ends with.", "integer", minimum=0, maximum=255),
        "timeout": Field("Seconds for all of it.", "number", minimum=1),
    },
    "budget": {
        "time": Field(
            "How late steps may come: app_exec = \"400ms\".", "object", "string",
            pattern=_TIME,
        ),
        "insns": Field(
            "The same in guest instructions: init = \"18M\".", "object", "string",
            pattern=r"\d+(\.\d+)?[kMG]?",
        ),
    },
    "output": {
        "directory": Field("Where the bundle's files go, from the working directory."),
        "store": Field("Keep the bundle in the store; default: unless there is a directory.",
                       "boolean"),
        "disk": Field(
            "A disk or disc that boots, from the working directory: NAME.qcow2, for one.",
            pattern=r".+\.(img|raw|qcow2|vhd|iso)",
        ),
        "disk-size": Field("How large it is, as in 2G; default: as needed."),
    },
}  # fmt: skip

#: What an image is made of: a recipe needs one of these keys at least.
ORIGINS = ((TOP, "image"), ("source", "layers"), ("source", "packages"))
#: Keys that exclude each other.
CLASH = (ORIGINS[0], ORIGINS[2])
#: Keys that need another one of their table.
NEEDED: Mapping[str, Mapping[str, str]] = {
    "source": {
        "packages": "suite",
        "suite": "packages",
        "mirror": "packages",
        "variant": "packages",
    },
    "output": {"disk-size": "disk"},
}


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe (as the document that its TOML is)."""
    root = _table(TOP)
    for table in TABLES:
        inner, properties = table.split("."), root["properties"]
        for name in inner[:-1]:
            properties = properties[name]["properties"]
        if table != TOP:
            properties[inner[-1]] = _table(table)
    return {
        "$schema": _SCHEMA_DIALECT,
        "title": "A recipe of hyperbuild",
        **root,
        "anyOf": [_has(place) for place in ORIGINS],
        "not": {"allOf": [_has(place) for place in CLASH]},
    }


def _table(name: str) -> dict[str, Any]:
    needed = {key: [other] for key, other in NEEDED.get(name, {}).items()}
    return {
        "type": "object",
        "properties": {key: field.schema() for key, field in TABLES[name].items()},
        **({"dependentRequired": needed} if needed else {}),
        "additionalProperties": False,
    }


def _has(place: tuple[str, str]) -> dict[str, Any]:
    """Return the schema of recipes that have a key."""
    table, key = place
    if table == TOP:
        return {"required": [key]}
    return {"required": [table], "properties": {table: {"required": [key]}}}
