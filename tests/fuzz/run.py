"""Fuzz one target by atheris: python -m tests.fuzz.run TARGET CORPUS [libFuzzer options]."""

from __future__ import annotations

import sys
from pathlib import Path

import atheris

# A checksum in Python takes seconds under instrumentation: only where it is what is looked at.
_WITH_EROFS = ("erofs", "read-erofs")
_CHECKSUMS = ["hyperbuild.converter.erofs", "hyperbuild.converter.verify_erofs"]

with atheris.instrument_imports(
    include=["hyperbuild"], exclude=[] if sys.argv[1] in _WITH_EROFS else _CHECKSUMS
):
    from hyperbuild.converter import stream
    from tests.fuzz.targets import TARGETS, check, mend

# Small inputs meet the borders of small buffers, and need no megabytes cleared for each.
stream.BUFFER_SIZE = 4 << 10


def main() -> None:
    """Put the seeds into the directory CORPUS, then run until libFuzzer's options say stop."""
    target = TARGETS[sys.argv.pop(1)]
    corpus = Path(sys.argv[1])
    corpus.mkdir(parents=True, exist_ok=True)
    for number, seed in enumerate(target.seeds):
        (corpus / f"seed-{number}").write_bytes(seed)

    def once(data: bytes) -> None:
        check(target, mend(data) if target.is_tar else data)

    atheris.Setup(sys.argv, once)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
