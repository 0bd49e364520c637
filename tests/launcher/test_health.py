"""Docker's Healthcheck object -> the boot spec's argv and times."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbuild.converter.errors import ContentError
from hyperbuild.launcher.health import HealthCheck, read_healthcheck

SECOND = 1_000_000_000
SHELL = ("/bin/sh", "-c")


@pytest.mark.parametrize(
    ("config", "check"),
    [
        (None, None),
        ({}, None),
        ({"Test": []}, None),
        ({"Test": ["NONE"]}, None),
        ({"Test": None, "Interval": SECOND}, None),
        ({"Test": ["CMD", "check", "it"]}, HealthCheck(("check", "it"))),
        ({"Test": ["CMD-SHELL", "a || b"]}, HealthCheck((*SHELL, "a || b"))),
        (
            {
                "Test": ["CMD", "x"],
                "Interval": 5 * SECOND,
                "Timeout": 1,
                "StartPeriod": 2 * SECOND,
                "StartInterval": SECOND // 10,
                "Retries": 7,
            },
            HealthCheck(("x",), 5000, 1, 2000, 100, 7),
        ),
        # Zero is docker's "inherit", which ends at its defaults.
        ({"Test": ["CMD", "x"], "Interval": 0, "Retries": 0}, HealthCheck(("x",))),
    ],
)
def test_what_images_say(config: dict[str, Any] | None, check: HealthCheck | None) -> None:
    assert read_healthcheck(config) == check


def test_a_command_of_the_users_replaces_the_test_and_keeps_the_times() -> None:
    config = {"Test": ["CMD", "x"], "Interval": SECOND}
    assert read_healthcheck(config, "own") == HealthCheck((*SHELL, "own"), interval=1000)
    assert read_healthcheck({"Test": ["NONE"]}, "own") == HealthCheck((*SHELL, "own"))
    assert HealthCheck((), 1, 2, 3, 4, 5).times() == "1 2 3 4 5\n"


@pytest.mark.parametrize(
    "config",
    [
        {"Test": "curl"},
        {"Test": ["CMD"]},
        {"Test": ["CMD", ""]},
        {"Test": ["CMD", 1]},
        {"Test": ["CMD-SHELL", "a", "b"]},
        {"Test": ["SHELL", "a"]},
        {"Test": ["CMD", "x"], "Interval": "30s"},
        {"Test": ["CMD", "x"], "Retries": -1},
        {"Test": ["CMD", "x"], "Timeout": 1.5},
    ],
)
def test_what_is_no_check_is_refused(config: dict[str, Any]) -> None:
    with pytest.raises(ContentError, match=r"Healthcheck has a .*; .*--health-cmd"):
        read_healthcheck(config)


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner),
    max_leaves=9,
)


@given(
    st.dictionaries(
        st.sampled_from(["Test", "Interval", "Timeout", "StartInterval", "Retries"]), _JSON
    )
)
def test_anything_is_a_check_or_refused(config: dict[str, Any]) -> None:
    try:
        check = read_healthcheck(config)
    except ContentError:
        return
    if check is not None:
        interval, timeout, _, start_interval, retries = map(int, check.times().split())
        assert min(interval, timeout, start_interval, retries) > 0
        assert check.argv[0]
