"""Files of YAML that people write, read as plain data."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import InputError, printable
from hyperbuild.converter.files import open_regular

if TYPE_CHECKING:
    from pathlib import Path

    import yaml

_LIMIT = 1 << 20


def read_yaml(path: Path, what: str) -> list[Any]:
    """Return the documents of path that are not empty.

    InputError: it is too large to be a what, or no YAML, or has a key twice in one mapping.
    """
    import yaml

    with os.fdopen(open_regular(path), "rb") as file:
        raw = file.read(_LIMIT + 1)
    if len(raw) > _LIMIT:
        raise InputError(f"{path} is larger than {_LIMIT >> 20} MiB: not a {what}")
    try:
        return [one for one in yaml.load_all(raw, _strict_loader()) if one is not None]
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        line = " ".join(str(error).split())
        raise InputError(f"{path} is not YAML: {printable(line)}; correct it there") from error


def _strict_loader() -> type[yaml.SafeLoader]:
    """Return a loader of plain data that takes no key twice: which of the two would count?"""
    import yaml

    class Loader(yaml.SafeLoader):
        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            twice = next((key for key in keys if keys.count(key) > 1), None)
            if twice is not None:
                raise yaml.YAMLError(f"line {node.start_mark.line + 1}: {twice} is said twice")
            return super().construct_mapping(node, deep=deep)

    return Loader
