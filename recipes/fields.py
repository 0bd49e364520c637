"""What a recipe may say: each table and key once, for the parser and for the JSON schema."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

#: The table of keys that stand before all tables.
TOP = ""
_SCHEMA_DIALECT = "https://json-schema.org/draft/2020-12/schema"


@dataclass(frozen=True, slots=True)
class Field:
    """One key: what it is for, and which values it takes.

    ``kind`` is a JSON schema type; that of an array's items, or of a table's values, is ``items``.
    ``choices`` and ``pattern`` are for strings (or an array's), the limits for numbers.
    """

    help: str
    kind: str = "string"
    items: str = ""
    choices: tuple[str, ...] = ()
    pattern: str = ""
    minimum: int | None = None
    maximum: int | None = None

    def schema(self) -> dict[str, Any]:
        """Return the JSON schema of its values."""
        described: dict[str, Any] = {"description": self.help, "type": self.kind}
        if self.kind == "array":
            described["items"] = self._of_one(self.items)
        elif self.kind == "object":
            described["additionalProperties"] = self._of_one(self.items)
        else:
            described |= self._of_one(self.kind)
        return described

    def _of_one(self, kind: str) -> dict[str, Any]:
        limits = {
            "enum": list(self.choices) or None,
            "pattern": f"^(?:{self.pattern})$" if self.pattern else None,
            "minLength": 1 if kind == "string" else None,
            "minimum": self.minimum,
            "maximum": self.maximum,
        }
        return {"type": kind} | {key: value for key, value in limits.items() if value is not None}

    def wrong(self, value: object) -> str:
        """Return what is wrong with value, as in "is not …"; empty if nothing is."""
        if not _is(value, self.kind):
            return f"is not {_NAMES[self.kind]}"
        if isinstance(value, list):
            wrongs_of_items = (self._wrong_one(item, self.items) for item in value)
            return next((f"has an item that {wrong}" for wrong in wrongs_of_items if wrong), "")
        if isinstance(value, dict):
            wrongs = ((key, self._wrong_one(item, self.items)) for key, item in value.items())
            return next(
                (f"has a value of {key} that {wrong}" for key, wrong in wrongs if wrong), ""
            )
        return self._wrong_one(value, self.kind)

    def _wrong_one(self, value: object, kind: str) -> str:
        if not _is(value, kind):
            return f"is not {_NAMES[kind]}"
        if isinstance(value, str):
            if not value:
                return "is empty"
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
    "rootfs": {
        "format": Field("Format of the root file system.", choices=("erofs", "ext4")),
        "align": Field("Begin large files at huge pages.", "boolean"),
        "verify": Field("Compare the result with the layers.", "boolean"),
    },
    "kernel": {
        "profile": Field("Profile of the HyperKernel.", choices=("micro", "dax", "full")),
        "fragments": Field(
            "Files of further kernel options, beside the recipe.", "array", "string",
            pattern=r".+\.config",
        ),
        "file": Field("An ELF kernel with a PVH entry instead, beside the recipe."),
    },
    "boot": {
        "memory": Field("RAM, as in 128M."),
        "cpus": Field("CPUs.", "integer", minimum=1, maximum=64),
        "env": Field("Variables of the application.", "object", "string"),
        "cmd": Field("What replaces the image's Cmd.", "array", "string"),
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
            pattern=r"\d+(\.\d+)?(us|ms|s)",
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
    },
}  # fmt: skip

#: Keys that a recipe can't do without: (table, key).
REQUIRED = ((TOP, "image"),)


def json_schema() -> dict[str, Any]:
    """Return the JSON schema of a recipe (as the document that its TOML is)."""
    properties: dict[str, Any] = {}
    for table, keys in TABLES.items():
        described = {key: field.schema() for key, field in keys.items()}
        if table == TOP:
            properties |= described
        else:
            properties[table] = {
                "type": "object", "properties": described, "additionalProperties": False
            }  # fmt: skip
    return {
        "$schema": _SCHEMA_DIALECT,
        "title": "A recipe of hyperbuild",
        "type": "object",
        "properties": properties,
        "required": [key for table, key in REQUIRED if table == TOP],
        "additionalProperties": False,
    }
