"""Which blobs of a store its documents name: what may not be removed, and what has to be there.

Source: OCI image-spec v1.1 (image-index.md, manifest.md: ``manifests``, ``config``, ``layers`` and
``subject`` are what leads from one document to the next).
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.digests import is_digest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hyperbuild.converter.store import Store


def reachable(store: Store, roots: Iterable[str], *, subjects: bool = True) -> frozenset[str]:
    """Return roots and all the digests that documents lead to from there, in the store or not.

    Documents that are absent or damaged lead nowhere. Without subjects nothing is followed to the
    image that an artifact was made from.
    """
    found: set[str] = set()
    waiting = list(roots)
    while waiting:
        digest = waiting.pop()
        if digest in found:
            continue
        found.add(digest)
        raw = store.document(digest)
        if raw is not None:
            waiting.extend(_named(raw, subjects=subjects))
    return frozenset(found)


def _named(raw: bytes, *, subjects: bool) -> Iterator[str]:
    """Yield the digests that a document names; what is no index or manifest names none."""
    try:
        document = json.loads(raw)
    except (ValueError, RecursionError):
        return
    if not isinstance(document, dict):
        return
    lists: list[Any] = [document.get("manifests"), document.get("layers")]
    singles = [document.get("config"), document.get("subject") if subjects else None]
    for descriptor in (*(each for one in lists if isinstance(one, list) for each in one), *singles):
        digest = descriptor.get("digest") if isinstance(descriptor, dict) else None
        if isinstance(digest, str) and is_digest(digest):
            yield digest
