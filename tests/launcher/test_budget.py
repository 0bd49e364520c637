"""Budgets: how they are written, and what they say of a timeline."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbuild.converter.errors import InputError
from hyperbuild.launcher.budget import Budget, BudgetError, parse_budget
from hyperbuild.launcher.timeline import Counter, Timeline

MS = 1_000_000


@pytest.mark.parametrize(
    ("text", "budget"),
    [
        ("app_exec=400ms", Budget("app_exec", 400 * MS)),
        ("init=0.3s", Budget("init", 300 * MS)),
        ("listening=1500us", Budget("listening", 1_500_000)),
        ("insns=18M", Budget("init", 18_000_000, instructions=True)),
        ("insns:app_exec=1.5G", Budget("app_exec", 1_500_000_000, instructions=True)),
        ("insns:kernel=20k", Budget("kernel", 20_000, instructions=True)),
        ("insns=18000000", Budget("init", 18_000_000, instructions=True)),
    ],
)
def test_budgets_are_read(text: str, budget: Budget) -> None:
    assert parse_budget(text) == budget


@pytest.mark.parametrize("text", ["", "=1s", "exec=1s", "start=1s", "insns:exit=1M", "insns:=1M"])
def test_a_budget_of_no_phase_is_answered_with_those_that_exist(text: str) -> None:
    with pytest.raises(InputError, match=r"names no phase of a boot; there are: .*app_exec"):
        parse_budget(text)


@pytest.mark.parametrize(
    "text",
    [
        "init",
        "init=",
        "init=5",
        "init=0ms",
        "init=-1s",
        "init=1h",
        "insns=x",
        "insns=0",
        "insns=1ms",
    ],
)
def test_a_budget_without_a_limit_is_answered_with_examples(text: str) -> None:
    with pytest.raises(InputError, match=r"is no limit; say app_exec=400ms"):
        parse_budget(text)


@given(st.text())
def test_nothing_else_is_a_budget(text: str) -> None:
    with contextlib.suppress(InputError):
        assert parse_budget(text).limit > 0


def booted() -> Timeline:
    timeline = Timeline()
    timeline.mark("start", 0)
    timeline.mark("hypervisor", 100 * MS)
    timeline.mark_guest("init", 10 * MS, 400 * MS)
    timeline.mark_guest("exec", 30 * MS, 420 * MS)
    return timeline


def test_what_is_within_its_budget_passes() -> None:
    parse_budget("app_exec=420ms").check_reached(booted())
    parse_budget("listening=1s").check(booted())


def test_what_is_late_is_named_with_what_took_longest() -> None:
    told = r"over budget: app_exec came after 420 ms, 400 ms allowed; .* went into init \(300 ms\)"
    with pytest.raises(BudgetError, match=told) as raised:
        parse_budget("app_exec=400ms").check(booted())
    assert raised.value.exit_status == 125


def test_what_never_came_is_over_budget() -> None:
    with pytest.raises(BudgetError, match="listening was never reached"):
        parse_budget("listening=1s").check_reached(booted())


def test_instructions_are_held_to_their_own_limit() -> None:
    timeline = booted()
    with pytest.raises(BudgetError, match="does not count instructions at init"):
        parse_budget("insns=18M").check_reached(timeline)
    timeline.count(Counter(1_000_000, 17 * MS, {}))
    parse_budget("insns=17M").check_reached(timeline)
    with pytest.raises(
        BudgetError, match=r"37.00 M guest instructions to app_exec, 30.00 M allowed"
    ):
        parse_budget("insns:app_exec=30M").check(timeline)
