"""Names for VMs that were given none: two words that can be read, said and typed."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

_MANNERS = (
    "able", "amber", "brave", "bright", "brisk", "calm", "clear", "cosy", "crisp", "dapper",
    "deft", "eager", "early", "fair", "fleet", "fond", "frank", "fresh", "gentle", "glad",
    "golden", "grand", "happy", "hardy", "jolly", "keen", "kind", "light", "lively", "lucid",
    "merry", "mild", "neat", "nimble", "noble", "patient", "plain", "proud", "quick", "quiet",
    "ready", "rosy", "silent", "silver", "sober", "spry", "steady", "sunny", "swift", "tidy",
    "true", "vivid", "warm", "wise",
)  # fmt: skip
_BIRDS = (
    "avocet", "bittern", "bunting", "chough", "coot", "crake", "crane", "curlew", "dipper", "dove",
    "dunlin", "eider", "falcon", "finch", "gannet", "godwit", "grebe", "heron", "hoopoe", "ibis",
    "jackdaw", "jay", "kestrel", "kite", "knot", "lapwing", "lark", "linnet", "magpie", "martin",
    "merlin", "oriole", "osprey", "ouzel", "petrel", "pipit", "plover", "puffin", "quail", "raven",
    "redstart", "robin", "rook", "shrike", "siskin", "snipe", "starling", "stork", "swallow",
    "swan", "teal", "tern", "thrush", "wagtail", "warbler", "wren",
)  # fmt: skip
#: After so many two-word names, which may all be taken, a number is added.
_PLAIN = 20


def random_names() -> Iterator[str]:
    """Yield names without an end, until the caller has found one that is free."""
    for _ in range(_PLAIN):
        yield _pair()
    while True:
        yield f"{_pair()}_{os.urandom(3).hex()}"


def _pair() -> str:
    return f"{_pick(_MANNERS)}_{_pick(_BIRDS)}"


def _pick(words: Sequence[str]) -> str:
    return words[int.from_bytes(os.urandom(4)) % len(words)]
