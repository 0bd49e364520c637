"""A real Dask cluster on loopback: a scheduler and its workers, each a process of its own.

with serve_scheduler(directory, env) as scheduler:          # "tcp://127.0.0.1:PORT"
    with serve_workers(scheduler, directory, env, 4) as workers: ...
"""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.registry import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

DASK = Path(sys.executable).parent / "dask"
_START_SECONDS = 90


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker with one thread: its address, and its process. Its store is its own."""

    address: str
    process: subprocess.Popen[bytes]
    log: Path

    def children(self) -> list[int]:
        """Return the processes that it has started, and that are not over."""
        try:
            text = Path(f"/proc/{self.process.pid}/task").iterdir()
            lists = [(thread / "children").read_text().split() for thread in text]
        except OSError:
            return []
        return [int(pid) for pids in lists for pid in pids]


@contextmanager
def serve_scheduler(directory: Path, env: Mapping[str, str]) -> Iterator[str]:
    """Run a scheduler and give its address; the log is directory/scheduler.log."""
    port, log = free_port(), directory / "scheduler.log"
    argv = [DASK, "scheduler", "--host", "127.0.0.1", "--port", str(port), "--no-dashboard"]
    with _running(argv, directory, log, env) as process:
        _wait_for(log, "Scheduler at:", process)
        yield f"tcp://127.0.0.1:{port}"


@contextmanager
def serve_workers(
    scheduler: str, directory: Path, env: Mapping[str, str], count: int
) -> Iterator[list[Worker]]:
    """Run workers of a scheduler, without nannies: one that is killed stays away."""
    with ExitStack() as stack:
        workers = []
        for number in range(count):
            port, room = free_port(), directory / f"worker-{number}"
            room.mkdir(parents=True)
            argv = [
                DASK, "worker", scheduler, "--no-nanny", "--no-dashboard", "--nthreads", "1",
                "--host", "127.0.0.1", "--worker-port", str(port), "--memory-limit", "0",
                "--local-directory", room / "scratch",
            ]  # fmt: skip
            own = {"XDG_DATA_HOME": str(room / "data"), "HOME": str(room)}
            log = room / "log"
            process = stack.enter_context(_running(argv, room, log, {**own, **env}))
            workers.append(Worker(f"tcp://127.0.0.1:{port}", process, log))
        for worker in workers:
            _wait_for(worker.log, "Registered to:", worker.process)
        yield workers


@contextmanager
def _running(
    argv: list[str | Path], directory: Path, log: Path, env: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    directory.mkdir(parents=True, exist_ok=True)
    with log.open("wb") as output:
        process = subprocess.Popen(argv, cwd=directory, env=env, stdout=output, stderr=output)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def _wait_for(log: Path, line: str, process: subprocess.Popen[bytes]) -> None:
    for _ in range(_START_SECONDS * 10):
        if line in log.read_text():
            return
        if process.poll() is not None:
            break
        time.sleep(0.1)
    raise RuntimeError(f"{log} has no line {line!r}: {log.read_text()[-2000:]}")
