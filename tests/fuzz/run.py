"""Fuzz one target by atheris: python -m tests.fuzz.run TARGET [libFuzzer options]."""

from __future__ import annotations

import sys

import atheris

with atheris.instrument_imports(include=["hyperbuild"]):
    from tests.fuzz.targets import TARGETS, check, mend


def main() -> None:
    """Run until libFuzzer's options say stop."""
    target = TARGETS[sys.argv.pop(1)]

    def once(data: bytes) -> None:
        check(target, mend(data) if target.is_tar else data)

    for seed in target.seeds:
        once(seed)
    atheris.Setup(sys.argv, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
