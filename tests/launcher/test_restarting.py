"""When a VM is started again, and after how long."""

from __future__ import annotations

import pytest

from hyperbuild.converter.errors import InputError
from hyperbuild.launcher.restarting import next_pause, parse_restart


@pytest.mark.parametrize(
    ("text", "after_failure", "after_success"),
    [
        ("no", (False, False), False),
        ("on-failure", (True, True), False),
        ("on-failure:2", (True, False), False),
        ("always", (True, True), True),
        ("unless-stopped", (True, True), True),
    ],
)
def test_policies(text: str, after_failure: tuple[bool, bool], after_success: bool) -> None:
    policy = parse_restart(text)
    assert str(policy) == text
    assert (policy.wants(1, 0), policy.wants(1, 2)) == after_failure
    assert policy.wants(0, 0) == after_success


@pytest.mark.parametrize("text", ["", "never", "always:3", "on-failure:", "on-failure:-1", "No"])
def test_what_is_no_policy(text: str) -> None:
    with pytest.raises(InputError, match="restart policy"):
        parse_restart(text)


def test_pauses_double_up_to_a_minute_and_begin_anew_after_a_good_run() -> None:
    pauses = [next_pause(0, 0)]
    for _ in range(12):
        pauses.append(next_pause(pauses[-1], 0.5))
    assert pauses[:4] == [0.1, 0.2, 0.4, 0.8]
    assert pauses[-1] == 60
    assert next_pause(60, 10) == 0.1
