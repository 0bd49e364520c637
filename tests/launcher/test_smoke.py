"""A smoke test without a VM: what it is told, in any order and in any pieces."""

from __future__ import annotations

import select
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbuild.launcher.channel import STDERR, STDOUT, Event, Exit, Failure, Frame
from hyperbuild.launcher.expectations import Ends, Expectation, Health, Http, Log, Port, Works
from hyperbuild.launcher.probe import judge
from hyperbuild.launcher.smoke import SmokeTest

if TYPE_CHECKING:
    from collections.abc import Iterator


def smoke(*expectations: Expectation, timeout: float = 5, forward: int = 1) -> SmokeTest:
    test = SmokeTest(expectations, {80: forward}, timeout)
    test.see(Event("exec", 1))
    return test


def failure(test: SmokeTest, error: str = "", *, late: bool = False) -> str:
    test.close()
    test.conclude(error, has_timed_out=late)
    return test.reason()


def test_events_meet_what_they_are_about_and_nothing_else() -> None:
    test = smoke(Port(80), Health(), Works(), Works((80, 443)))
    for name in ("listening", "port 8080", "loopback 80", "port 80000", "port x"):
        test.see(Event(name, 1))
    assert [check.held_at is not None for check in test.checks] == [False, False, True, False]
    test.see(Event("port 80", 1))
    assert not test.is_done
    test.see(Event("healthy", 1))
    assert test.is_done
    assert not failure(test)


def test_steps_that_are_waited_for_are_not_expected() -> None:
    test = SmokeTest([Port(80)], {}, 5, ["healthy"])
    test.see(Event("port 80", 1))
    assert test.has_held
    assert not test.is_done
    test.see(Event("healthy", 1))
    assert test.is_done


@pytest.mark.parametrize(
    ("expectation", "status", "wrong"),
    [
        (Ends(0), 0, ""),
        (Ends(7), 7, ""),
        (Works(), 0, ""),
        (Ends(0), 3, "exit 0: the application ended with status 3"),
        (Ends(3), 0, "exit 3: the application ended with status 0 before that"),
        (Works((80, 443)), 0, "listens on 80 or 443: the application ended with status 0 before"),
        (Works(), 1, "listens or exits with 0: the application ended with status 1"),
        (Port(80), 0, "port 80: the application ended with status 0 before that"),
        (Log("up"), 2, "log up: the application ended with status 2"),
    ],
)
def test_ends(expectation: Expectation, status: int, wrong: str) -> None:
    test = smoke(expectation)
    test.see(Exit(status))
    assert failure(test).startswith(wrong) if wrong else not failure(test)


def test_what_hyperstart_refused_is_the_reason() -> None:
    test = smoke(Port(80), Health())
    test.see(Failure(127, 'exec "nginx": not found in PATH'))
    assert failure(test, "a longer story").startswith('port 80: exec "nginx": not found in PATH; ')
    assert all("not found" in check.failure for check in test.checks)


@pytest.mark.parametrize(
    ("expectation", "events", "wrong"),
    [
        (Port(80), ["port 81"], "nothing listened on it within 5 s; expect one that is open (81)"),
        (Port(80), [], "nothing listened on it within 5 s; give it longer"),
        (Port(80), ["loopback 80"], "open inside the guest alone (on 127.0.0.1)"),
        (Works(), ["loopback 80"], "listens inside the guest alone"),
        (Works((1, 2)), ["port 3"], "listened on 3 instead; expect that by --expect-port"),
        (Works((1, 2)), [], "listened on none within 5 s"),
        (Works(), [], "neither listened on a port nor ended"),
        (Health(), [], "did not succeed within 5 s"),
        (Log("x"), [], "nothing that the application wrote within 5 s matches"),
        (Ends(0), [], "did not end within 5 s"),
    ],
)
def test_what_has_not_come_in_time(expectation: Expectation, events: list[str], wrong: str) -> None:
    test = smoke(expectation)
    for name in events:
        test.see(Event(name, 1))
    test.see(Exit(143))
    assert wrong in failure(test, late=True)


def test_an_application_that_was_never_started() -> None:
    test = SmokeTest([Port(80)], {}, 2)
    assert "was not started within 2 s" in failure(test, late=True)


def test_bad_health_ends_it_and_is_the_reason_of_all() -> None:
    test = smoke(Port(80), Health())
    test.see(Event("unhealthy", 1))
    assert test.is_done
    assert failure(test).startswith("healthy: the health check failed as often as the image allows")
    assert "for another failure" in test.checks[0].failure


#: Found never, but looked for in as many ways as there are to cut the text.
ENDLESS = r"(a+)+$"


def test_a_log_that_would_be_searched_for_ever() -> None:
    test = smoke(Log(ENDLESS), Log("done"))
    test.see_output(Frame(STDOUT, b"a" * 60 + b"b\n"))
    assert test.is_done
    assert "was searched for 2 s without an end" in failure(test)


def test_a_page_that_would_be_searched_for_ever() -> None:
    assert "without an end" in judge(Http(80, "/", regex=ENDLESS), 200, b"a" * 60 + b"b\n")
    assert judge(Http(80, "/", regex="b$"), 200, b"a" * 60 + b"b\n") == ""


TEXT = b"starting\nready now\nbye\n"


@given(st.lists(st.integers(0, len(TEXT)), max_size=6), st.sampled_from([STDOUT, STDERR]))
def test_a_log_is_found_whatever_pieces_it_comes_in(cuts: list[int], stream: int) -> None:
    places = [0, *sorted(cuts), len(TEXT)]
    test = smoke(Log("^ready now$"), Log("^eady"), Log("start$"), Log("g\nr"), Log(r"bye$\Z"))
    for begin, end in pairwise(places):
        if begin < end:
            test.see_output(Frame(stream, TEXT[begin:end]))
    test.see_output(Frame(stream, b""))
    found = [check.held_at is not None for check in test.checks]
    test.close()
    assert found == [True, False, False, True, False]


def test_the_last_line_needs_no_newline_and_streams_are_not_mixed() -> None:
    test = smoke(Log("login: "), Log("end$"), Log("ab"))
    test.see_output(Frame(STDOUT, b"login: "))
    assert test.checks[0].held_at
    test.see_output(Frame(STDOUT, b"a"))
    test.see_output(Frame(STDERR, b"b\nthe end"))
    assert not test.checks[1].held_at
    test.see_output(Frame(STDERR, b""))
    assert test.checks[1].held_at
    assert not test.checks[2].held_at
    test.close()


class Answers(BaseHTTPRequestHandler):
    """Answers by path: /200 with that status, /up with 503 at first."""

    asked: list[str] = []  # noqa: RUF012

    def do_GET(self) -> None:
        self.asked.append(self.path)
        is_first = self.asked.count(self.path) == 1
        status = (503 if is_first else 200) if self.path == "/up" else int(self.path[1:4])
        self.send_response(status)
        self.send_header("Content-Length", "12")
        self.end_headers()
        self.wfile.write(b"hello\nworld\n")

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[int]:
    """Give the port of a server of Answers."""
    Answers.asked = []
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as served:
        thread = threading.Thread(target=served.serve_forever, daemon=True)
        thread.start()
        yield served.server_port
        served.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("expectation", "wrong"),
    [
        (Http(80, "/200"), ""),
        (Http(80, "/301"), ""),
        (Http(80, "/404", 404), ""),
        (Http(80, "/200", None, "^world$"), ""),
        (Http(80, "/up"), ""),
        (Http(80, "/503", 503), ""),
        (Http(80, "/404"), "the answer has status 404, not one below 400"),
        (Http(80, "/200", 204), "the answer has status 200, not 204"),
        (Http(80, "/200", None, "^orld"), "nothing in the answer's 12 bytes matches"),
    ],
    ids=str,
)
def test_http_answers(expectation: Http, wrong: str, server: int) -> None:
    test = smoke(expectation, forward=server)
    test.see(Event("port 80", 1))
    assert select.select([test.fd], [], [], 30)[0]
    test.look()
    assert test.is_done
    assert wrong in failure(test) if wrong else not failure(test)
    assert len(Answers.asked) == (2 if expectation.path == "/up" else 1)


def test_a_port_that_nobody_answers_on_is_asked_until_the_end() -> None:
    # A port that was free a moment ago.
    with ThreadingHTTPServer(("127.0.0.1", 0), Answers) as served:
        port = served.server_port
    test = smoke(Http(80, "/"), forward=port)
    test.see(Event("port 80", 1))
    assert "last seen: no" in failure(test, late=True)
