"""Each fuzz target over its seeds and mutations of them, the same ones in every run."""

from __future__ import annotations

import random

import pytest

from tests.fuzz.targets import BLOCK, TARGETS, check, mend

RUNS = 200
_TEXTS = (b"\0", b"\xff" * 12, b"7" * 12, b"../", b"/", b".wh.", b"\xed\xa0\x80", b"9" * 20, b"-1")


def mutate(data: bytes, chance: random.Random) -> bytes:
    content = bytearray(data)
    for _ in range(chance.randint(1, 4)):
        at = chance.randrange(len(content) + 1)
        match chance.randrange(4):
            case 0:
                content[at : at + 1] = bytes([chance.randrange(256)])
            case 1:
                text = chance.choice(_TEXTS)
                content[at : at + len(text)] = text
            case 2:
                at -= at % BLOCK
                content[at:at] = content[: BLOCK * chance.randint(1, 3)]
            case _:
                del content[at : at + chance.choice((1, 8, BLOCK))]
    return bytes(content)


@pytest.mark.parametrize("name", TARGETS)
def test_only_explained_errors_come_out(name: str) -> None:
    target = TARGETS[name]
    chance = random.Random(name)
    for seed in target.seeds:
        check(target, seed)
    for _ in range(RUNS):
        data = mutate(chance.choice(target.seeds), chance)
        check(target, mend(data) if target.is_tar else data)
