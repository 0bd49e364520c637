"""What a boot costs, held by counting the guest's instructions: that repeats on a noisy machine."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import pytest

from hyperbuild.launcher.budget import BudgetError, parse_budget
from hyperbuild.launcher.machine import Accel, MachineOptions
from hyperbuild.launcher.timeline import STEPS, Timeline
from hyperbuild.launcher.vm import Watch, run_vm

if TYPE_CHECKING:
    from hyperbuild.launcher.located import BundleFiles
    from tests.conftest import KernelOf

pytestmark = pytest.mark.boot


def boot(
    files: BundleFiles, *budgets: str, args: tuple[str, ...] = ("true",), **more: Any
) -> Timeline:
    """Boot files under budgets, with its streams on /dev/null, and return the timeline."""
    timeline = Timeline()
    timeline.mark("start")
    limits = [parse_budget(text) for text in budgets]
    options = MachineOptions(
        args=args,
        accel=Accel.TCG,
        timeout=120,
        counting=any(limit.instructions for limit in limits),
        **more,
    )
    run_vm(files, options, search_path=os.environ["PATH"], watch=Watch(timeline, budgets=limits))
    return timeline


@pytest.mark.parametrize(
    ("dax", "to_init", "to_application"),
    # The measured figure and a few percent: another QEMU or compiler counts a little differently.
    [(True, "12.2M", "13.6M"), (False, "13.2M", "14.8M")],
)
def test_a_boot_stays_within_its_instructions(
    busybox: BundleFiles, dax: bool, to_init: str, to_application: str
) -> None:
    timeline = boot(busybox, f"insns={to_init}", f"insns:app_exec={to_application}", dax=dax)
    first = timeline.counted("init")
    again = boot(busybox, f"insns={to_init}", dax=dax).counted("init")
    assert first is not None
    assert again is not None
    assert abs(first - again) < first / 100
    counts = [timeline.counted(name) for name in ("kernel", "initcalls", "init", "app_exec")]
    assert None not in counts
    assert counts == sorted(counts, key=lambda count: count or 0)


def test_the_smallest_kernel_costs_least(busybox: BundleFiles, kernel_of: KernelOf) -> None:
    micro = busybox.replace(kernel=kernel_of("micro"))
    boot(micro, "insns=9.2M", dax=False)


def test_a_boot_over_its_instructions_fails(busybox: BundleFiles) -> None:
    with pytest.raises(BudgetError, match=r"M guest instructions to init, 5\.00 M allowed"):
        boot(busybox, "insns=5M")


def test_a_late_step_ends_the_vm_at_once(busybox: BundleFiles) -> None:
    with pytest.raises(BudgetError, match=r"over budget: app_exec came after .* 1 ms allowed"):
        boot(busybox, "app_exec=1ms", args=("sleep", "1000"))


def test_the_first_listener_is_a_step(busybox: BundleFiles) -> None:
    script = "sleep 0.2; httpd -h /www; sleep 1"
    timeline = boot(
        busybox,
        "listening=100s",
        "healthy=100s",
        args=("sh", "-c", script),
        watch=True,
        health_command="grep -q ':0050 .* 0A' /proc/net/tcp6",
    )
    steps = {step.name for step in timeline.steps()}
    assert steps == set(STEPS) - {"resumed", "renewed"}
    with pytest.raises(BudgetError, match="listening was never reached"):
        boot(busybox, "listening=100s", watch=True)
