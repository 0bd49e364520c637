"""Small files of a cache that are whole or count as not there: a digest in front of what they say.

A file is a JSON object and sections of bytes behind it. What is missing, was cut by a crash, or was
written by another version is None to its reader; a file that cannot be written is not written.
"""

from __future__ import annotations

import hashlib
import json
import os
from contextlib import suppress
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any

from hyperbuild.converter import files

if TYPE_CHECKING:
    from array import array
    from pathlib import Path

#: How every file begins; its sha256 follows, then the length of the JSON object.
_MAGIC = b"hyperbuild cache 1\n"
_LENGTH = 8


class Sealed:
    """Such files in the directory root, which is made when something is first written."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def has(self, name: str) -> bool:
        """Tell whether a file called name is there, sound or not."""
        return (self._root / name).exists()

    def read(self, name: str) -> tuple[dict[str, Any], list[memoryview]] | None:
        """Return the object and the sections of the file called name; None if it is not sound."""
        try:
            with (self._root / name).open("rb") as file:
                os.utime(file.fileno())
                content = memoryview(file.read())
        except OSError:
            return None
        start = len(_MAGIC) + hashlib.sha256().digest_size
        body = content[start:]
        if content[:start] != _MAGIC + hashlib.sha256(body).digest():
            return None
        head = _LENGTH + int.from_bytes(body[:_LENGTH], "little")
        header = json.loads(bytes(body[_LENGTH:head]))
        ends = accumulate(header["sections"], initial=head)
        return header["fields"], [body[at:end] for at, end in pairwise(ends)]

    def write(self, name: str, fields: dict[str, Any], *sections: bytes | array[int]) -> None:
        """Write the file called name: readers see the old one or this one."""
        parts = [memoryview(section).cast("B") for section in sections]
        header = json.dumps({"fields": fields, "sections": [len(part) for part in parts]}).encode()
        length = len(header).to_bytes(_LENGTH, "little")
        # Never joined: a large layer's would be twice in memory.
        body = [memoryview(length), memoryview(header), *parts]
        digest = hashlib.sha256()
        for part in body:
            digest.update(part)
        # Not synced: what a crash has cut does not have its digest.
        with suppress(OSError):
            self._root.mkdir(parents=True, exist_ok=True)
            with files.draft(self._root) as draft:
                files.write_all(draft.fd, _MAGIC + digest.digest())
                for part in body:
                    files.write_all(draft.fd, part)
                draft.path.rename(self._root / name)

    def sweep(self, before: float) -> None:
        """Remove what was last used before a time, in seconds since the epoch."""
        if not self._root.is_dir():
            return
        files.sweep(self._root)
        for path in self._root.iterdir():
            with suppress(OSError):
                if path.stat().st_mtime < before:
                    path.unlink()
