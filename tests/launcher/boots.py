"""Booting a bundle with its streams in files."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hyperbuild.launcher.machine import Accel, MachineOptions
from hyperbuild.launcher.timeline import Timeline
from hyperbuild.launcher.vm import Streams, VMResult, Watch, run_vm

if TYPE_CHECKING:
    from hyperbuild.converter.progress import Progress
    from hyperbuild.launcher.located import BundleFiles
    from hyperbuild.launcher.vm import WarmStart

#: Seconds after which a boot hangs, whatever else runs on this machine.
HANG = 120


@dataclass
class Ran:
    result: VMResult
    stdout: bytes
    stderr: bytes


def options(*args: str, **changes: Any) -> MachineOptions:
    return MachineOptions(args=args, **{"accel": Accel.TCG, "timeout": HANG, **changes})


def boot(
    files: BundleFiles,
    chosen: MachineOptions,
    stdin: bytes | None = None,
    warm: WarmStart | None = None,
    progress: Progress | None = None,
    **changes: Any,
) -> Ran:
    """Run files, whose process has changes, with the streams in files of the host."""
    bundle = files.bundle.replace(process=files.bundle.process.replace(**changes))
    timeline = Timeline()
    timeline.mark("start")
    watch = Watch(timeline, progress) if progress else Watch(timeline)
    with (
        tempfile.TemporaryFile() as out,
        tempfile.TemporaryFile() as err,
        tempfile.TemporaryFile() as given,
    ):
        given.write(stdin or b"")
        given.seek(0)
        streams = Streams(out.fileno(), err.fileno(), None if stdin is None else given.fileno())
        result = run_vm(
            files.replace(bundle=bundle),
            chosen,
            search_path=os.environ["PATH"],
            streams=streams,
            watch=watch,
            warm=warm,
        )
        out.seek(0)
        err.seek(0)
        return Ran(result, out.read(), err.read())
