"""What reading and fuzzing for hostile input has found, each as a test of its own."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from hyperbuild.builder.process import parse_signal
from hyperbuild.builder.users import resolve_user
from hyperbuild.converter.errors import ContentError, NotFoundError, printable
from hyperbuild.converter.reference import parse_reference
from hyperbuild.converter.settings import RegistrySettings
from hyperbuild.converter.source import open_source
from hyperbuild.converter.store import Store
from tests.fuzz.targets import mend


def test_a_lone_surrogate_can_be_shown() -> None:
    assert printable("a\ud800b") == r"a\ud800b"


@pytest.mark.parametrize("text", ["²", "9" * 5000, "SIGRTMIN+²", "RTMIN+" + "9" * 5000])
def test_signals_that_python_cannot_read_are_refused(text: str) -> None:
    with pytest.raises(ContentError, match="is no signal"):
        parse_signal(text, "image")


def test_ids_of_thousands_of_digits_are_no_ids() -> None:
    with pytest.raises(NotFoundError):
        resolve_user("9" * 5000, b"", b"")


@pytest.mark.parametrize("kind", ["oci-archive", "docker-archive"])
def test_a_member_that_ends_where_offsets_do_is_refused(tmp_path: Path, kind: str) -> None:
    header = bytearray(tarfile.TarInfo("index.json").tobuf(tarfile.GNU_FORMAT))
    header[124:136] = b"\x80" + (2**63 - 600).to_bytes(11, "big")
    (tmp_path / "a.tar").write_bytes(mend(bytes(header)) + bytes(2048))
    reference = parse_reference(f"{kind}:{tmp_path}/a.tar")
    with (
        pytest.raises(ContentError, match="damaged"),
        open_source(reference, store=Store(tmp_path / "store"), settings=RegistrySettings()),
    ):
        pass
