"""The health of a pod's container: docker's rules, as the guest keeps them for a VM's only one."""

from __future__ import annotations

from hyperbuild.launcher.container_health import ContainerHealth
from hyperbuild.launcher.health import HealthCheck

#: Ten seconds between looks, three failures count, the first half minute is its start.
CHECK = HealthCheck(
    ("true",), interval=10_000, timeout=5_000, start_period=30_000, start_interval=2_000, retries=3
)


def health(*, is_awaited: bool = False) -> ContainerHealth:
    return ContainerHealth(CHECK, 100.0, is_awaited=is_awaited)


def test_the_first_success_makes_it_healthy() -> None:
    one = health()
    assert one.state == ""
    assert one.judge(101, is_success=True)
    assert one.state == "healthy"
    assert not one.judge(111, is_success=True)


def test_failures_do_not_count_while_it_starts() -> None:
    one = health()
    for moment in range(102, 130, 2):
        assert not one.judge(moment, is_success=False)
    assert not one.judge(131, is_success=False)
    assert not one.judge(141, is_success=False)
    assert one.judge(151, is_success=False)
    assert one.state == "unhealthy"


def test_failures_count_at_the_images_own_pace_before_it_was_healthy() -> None:
    one = health()
    assert not any(one.judge(140 + step, is_success=False) for step in range(10))
    assert not one.judge(150, is_success=False)
    assert one.judge(160, is_success=False)


def test_a_healthy_one_has_so_many_failures_in_a_row() -> None:
    one = health()
    one.judge(101, is_success=True)
    assert not one.judge(102, is_success=False)
    assert not one.judge(103, is_success=False)
    one.judge(104, is_success=True)
    assert not one.judge(105, is_success=False)
    assert not one.judge(106, is_success=False)
    assert one.judge(107, is_success=False)
    assert one.judge(108, is_success=True)
    assert one.state == "healthy"


def test_when_it_is_looked_at() -> None:
    one = health()
    assert one.next_wait(100) == 2
    assert one.next_wait(131) == 10
    one.judge(132, is_success=True)
    assert one.next_wait(132) == 10


def test_who_is_waited_for_is_looked_at_soon() -> None:
    one = health(is_awaited=True)
    assert one.next_wait(100) == 0.05
    assert one.next_wait(108) == 1
    assert one.next_wait(120) == 2
    one.judge(121, is_success=True)
    assert one.next_wait(121) == 10
