"""What a package is here: what its ecosystem's database says of it, in the words of package URLs.

The parsers beside this file (installed_*.py) are pure: anybody's bytes in, packages out.
What they cannot read they leave out, or say so by a ContentError; they hold no more than what they
were given. Source: package-url/purl-spec.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import ContentError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: Longest name, version or license that is believed; stored lines may have megabytes.
_TEXT_LIMIT = 1024


@dataclass(frozen=True, slots=True)
class Package:
    """A package: ``kind`` is the type of its package URL ("deb", "npm"), ``namespace`` may be "".

    ``arch`` and ``epoch`` are qualifiers of that URL; ``license`` is what its maker calls it;
    ``source`` is what it was built from, where that has a name of its own ("glibc 2.36-9").
    """

    kind: str
    name: str
    version: str = ""
    namespace: str = ""
    arch: str = ""
    epoch: str = ""
    license: str = ""
    source: str = ""


def clean(value: object) -> str:
    """Return a name or version as text that any JSON can hold; "" if it is not one."""
    if isinstance(value, bytes | bytearray):
        value = value[: 4 * _TEXT_LIMIT].decode("utf-8", "replace")
    if not isinstance(value, str):
        return ""
    text = value[: 4 * _TEXT_LIMIT].encode("utf-8", "replace").decode().strip()
    return text if text.isprintable() and len(text) <= _TEXT_LIMIT else ""


def read_stanzas(content: bytes, wanted: frozenset[bytes]) -> Iterator[dict[bytes, str]]:
    """Yield the wanted fields of each of the paragraphs ("Name: value") of a control file.

    Of a field that a paragraph repeats the first counts; lines that go on with one are left out.
    """
    fields: dict[bytes, str] = {}
    for line in BytesIO(content):
        if not line.strip():
            if fields:
                yield fields
            fields = {}
            continue
        name, colon, value = line.partition(b":")
        if colon and name in wanted and name not in fields:
            fields[name] = clean(value)
    if fields:
        yield fields


def read_object(content: bytes, what: str) -> Mapping[str, Any]:
    """Read a JSON object; ContentError if it is none."""
    try:
        found = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ContentError(f"{what} is no JSON") from error
    if not isinstance(found, dict):
        raise ContentError(f"{what} is no JSON object")
    return found
