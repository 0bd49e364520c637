"""``hyperbuild du`` as text and JSON."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hyperbuild.builder.housekeeping import Kind
from hyperbuild.builder.report import mib, table
from hyperbuild.builder.stored import DIGEST_SHOWN

if TYPE_CHECKING:
    from hyperbuild.builder.housekeeping import Usage

_WHAT = {
    Kind.BUNDLES: ("in the store: bundles", "prune --all"),
    Kind.IMAGES: ("in the store: layers they were made from", "prune --images"),
    Kind.UNUSED: ("in the store: what none of them needs", "prune"),
    Kind.CACHE: ("in the cache: what can be made again", "remove its directories"),
}


def usage_as_table(usage: Usage) -> str:
    """Show bundles, then kinds, then what the cache holds; OWN is what no other bundle has."""
    bundles = [
        (share.name, share.digest[:DIGEST_SHOWN], mib(share.size), mib(share.own))
        for share in usage.shares
    ]
    kinds = [(what, mib(usage.sizes[kind]), by) for kind, (what, by) in _WHAT.items()]
    cache = [(name, mib(size)) for name, size in usage.cache.items()]
    tables = [
        table(("BUNDLE", "DIGEST", "SIZE", "OWN"), bundles, right=(2, 3)),
        table(("WHAT", "SIZE", "FREED BY"), kinds, right=(1,)),
        table(("CACHE", "SIZE"), cache, right=(1,)),
    ]
    return "\n\n".join(tables)


def usage_as_json(usage: Usage) -> str:
    """Describe it as a JSON object, sizes in bytes on disk."""
    return json.dumps(
        {
            "bundles": [
                {"name": one.name, "digest": one.digest, "size": one.size, "own": one.own}
                for one in usage.shares
            ],
            "sizes": usage.sizes,
            "cache": usage.cache,
        }
    )
