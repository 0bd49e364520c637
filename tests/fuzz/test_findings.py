"""What reading and fuzzing for hostile input has found, each as a test of its own."""

from __future__ import annotations

import pytest

from hyperbuild.builder.process import parse_signal
from hyperbuild.builder.users import resolve_user
from hyperbuild.converter.errors import ContentError, NotFoundError, printable


def test_a_lone_surrogate_can_be_shown() -> None:
    assert printable("a\ud800b") == r"a\ud800b"


@pytest.mark.parametrize("text", ["²", "9" * 5000, "SIGRTMIN+²", "RTMIN+" + "9" * 5000])
def test_signals_that_python_cannot_read_are_refused(text: str) -> None:
    with pytest.raises(ContentError, match="is no signal"):
        parse_signal(text, "image")


def test_ids_of_thousands_of_digits_are_no_ids() -> None:
    with pytest.raises(NotFoundError):
        resolve_user("9" * 5000, b"", b"")
