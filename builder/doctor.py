"""What hyperbuild needs on this machine, checked; each problem with its remedy."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import HyperbuildError, printable

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from hyperbuild.builder.context import Context

_SPACE_WANTED = 4 << 30


@dataclass(frozen=True, slots=True)
class Finding:
    """One check: what was looked at, what was seen, and what to do if that is not fine."""

    subject: str
    is_fine: bool
    detail: str
    remedy: str = ""


def examine(context: Context) -> list[Finding]:
    """Run all checks; none of them changes anything."""
    checks: list[Callable[[Context], Finding]] = [
        _hypervisor,
        _acceleration,
        _musl,
        _kernel,
        _store,
        _space,
    ]
    return [_examined(check, context) for check in checks]


def _examined(check: Callable[[Context], Finding], context: Context) -> Finding:
    try:
        return check(context)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        subject = check.__name__.strip("_")
        return Finding(subject, False, f"{place}{error.strerror}", "check owner and permissions")


def render(findings: list[Finding], *, color: bool) -> str:
    """Show findings one a line, the remedy under each problem."""
    lines = []
    width = max(len(finding.subject) for finding in findings)
    for finding in findings:
        mark, code = ("ok", 32) if finding.is_fine else ("problem", 31)
        mark = f"\x1b[{code}m{mark:7}\x1b[0m" if color else f"{mark:7}"
        lines.append(f"{mark}  {finding.subject.ljust(width)}  {printable(finding.detail)}")
        if not finding.is_fine:
            lines.append(f"{'':7}  {'':{width}}  -> {finding.remedy}")
    return "\n".join(lines)


def _hypervisor(context: Context) -> Finding:
    from hyperbuild.launcher.starting import DRIVER

    try:
        program = DRIVER.find(context.environment.get("PATH", ""))
        return Finding("hypervisor", True, DRIVER.version(program))
    except HyperbuildError as error:
        what, _, remedy = str(error).rpartition("; ")
        return Finding("hypervisor", False, what, remedy.removeprefix("run: "))


def _acceleration(context: Context) -> Finding:
    from hyperbuild.launcher.host import choose_accel, read_cpu
    from hyperbuild.launcher.machine import Accel

    try:
        chosen = choose_accel(
            Accel(context.environment.get("HYPERBUILD_ACCEL", "auto")), read_cpu()
        )
    except (HyperbuildError, ValueError) as error:
        return Finding("acceleration", False, str(error), "unset HYPERBUILD_ACCEL")
    detail = "KVM" if chosen is Accel.KVM else "TCG: VMs are emulated, slower than under KVM"
    return Finding("acceleration", True, detail)


def _musl(_: Context) -> Finding:
    path = shutil.which("musl-gcc")
    return Finding(
        "initramfs", path is not None, path or "musl-gcc is missing", "apt install musl-tools"
    )


def _kernel(context: Context) -> Finding:
    from hyperbuild.kernel.build import find_kernel
    from hyperbuild.kernel.source import find_source

    try:
        kernel = find_kernel(
            context.cache, find_source(context.cache, None, None, progress=context.console)
        )
    except HyperbuildError as error:
        return Finding("kernel", False, str(error), "then: hyperbuild kernel build")
    if kernel is None:
        return Finding("kernel", False, "no HyperKernel is built yet", "hyperbuild kernel build")
    return Finding("kernel", True, f"{kernel.version} at {kernel.path}")


def _store(context: Context) -> Finding:
    from os import W_OK, access

    place = _existing(context.data)
    return Finding(
        "store",
        access(place, W_OK),
        str(context.data),
        f"make {place} writable or set XDG_DATA_HOME",
    )


def _space(context: Context) -> Finding:
    free = shutil.disk_usage(_existing(context.data)).free
    return Finding(
        "disk", free >= _SPACE_WANTED, f"{free >> 30} GiB free", "free some space for images"
    )


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path
