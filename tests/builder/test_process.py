"""From an image's config to a process: signals and the working directory, as docker reads them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from hyperbuild.builder.process import parse_signal, resolve_process
from hyperbuild.converter.errors import ContentError
from hyperbuild.launcher.bundle import Signal

if TYPE_CHECKING:
    from hyperbuild.converter.convert import Rootfs


class NoFiles:
    """An image without /etc/passwd and /etc/group."""

    def read_file(self, path: bytes, limit: int) -> bytes | None:
        return None


def process_of(**config: Any) -> Any:
    return resolve_process(config, cast("Rootfs", NoFiles()), "it")


@pytest.mark.parametrize(
    ("text", "signal"),
    [
        ("SIGTERM", Signal("SIGTERM", 15)),
        ("quit", Signal("SIGQUIT", 3)),
        ("9", Signal("SIGKILL", 9)),
        ("RTMIN", Signal("SIGRTMIN", 34)),
        ("SIGRTMIN+3", Signal("SIGRTMIN+3", 37)),
        ("sigrtmax-2", Signal("SIGRTMIN+28", 62)),
        ("SIGRTMAX", Signal("SIGRTMAX", 64)),
        ("36", Signal("SIGRTMIN+2", 36)),
    ],
)
def test_every_form_of_stop_signal(text: str, signal: Signal) -> None:
    assert parse_signal(text, "it") == signal
    assert process_of(StopSignal=text).stop_signal == signal


@pytest.mark.parametrize(
    "text",
    ["SIGNOT", "0", "65", "-1", "SIGRTMIN+", "RTMIN+31", "RTMAX-64", "TERM+1", "RTMIN-1", "٣"],
)
def test_what_is_no_signal(text: str) -> None:
    with pytest.raises(ContentError, match="is no signal"):
        parse_signal(text, "it")


@pytest.mark.parametrize(
    ("text", "cwd"),
    [
        ("", "/"),
        ("/srv/", "/srv"),
        ("srv", "/srv"),
        ("//srv/./a/../b", "/srv/b"),
        ("/..", "/"),
    ],
)
def test_the_working_directory_is_cleaned_by_its_text(text: str, cwd: str) -> None:
    assert process_of(WorkingDir=text).cwd == cwd
