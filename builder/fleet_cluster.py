"""Workers for a fleet: an existing Dask cluster, or threads of this process, each with its jobs.

`distributed` is loaded here alone, and only when a fleet is wanted.
"""

from __future__ import annotations

import queue
import re
import socket
import warnings
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hyperbuild.builder.fleet_code import describe, fingerprint
from hyperbuild.builder.fleet_plan import Makers
from hyperbuild.builder.fleet_worker import TOPIC
from hyperbuild.converter.errors import InputError, ToolError, UnavailableError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from concurrent.futures import Executor

    from distributed import Client

    from hyperbuild.builder.fleet_plan import KernelWish

#: Seconds for a scheduler to answer, for its first worker to come.
_ANSWER, _FIRST_WORKER = 10, 5
#: More frames than a greeting has.
_FRAMES = 1 << 20
#: How often a job is done again whose process was lost.
_RETRIES = 2
#: What `distributed` writes to stderr by itself is said in words of ours.
_LOGGERS = ("distributed", "distributed.client", "tornado", "tornado.application", "bokeh")


@dataclass(frozen=True, slots=True)
class Cluster:
    """Workers that take jobs: by ``executor``; what they say of them comes into ``words``."""

    client: Client
    executor: Executor
    words: queue.SimpleQueue[Any]
    address: str

    def slots(self) -> int:
        """Return how many jobs can be worked on at once now; 0 if no worker is left."""
        return int(self.client.scheduler_info()["total_threads"])

    def is_reachable(self) -> bool:
        """Tell whether the scheduler is there, for all we know."""
        return bool(self.client.status == "running")

    def makers(self, kernels: Sequence[KernelWish]) -> Makers:
        """Return what all workers are alike; InputError names one that is not as the others."""
        told = self.client.run(describe, list(kernels), on_error="return")
        first = ""
        for place, worker in sorted(told.items()):
            if not isinstance(worker, dict):
                raise InputError(
                    f"worker {place} has no hyperbuild that can work in a fleet ({worker}); "
                    f"install {fingerprint()} there, with its extra fleet, and restart it"
                )
            if worker["code"] != fingerprint():
                raise InputError(
                    f"worker {place} has hyperbuild {worker['code']}, and this is {fingerprint()}; "
                    "install the same everywhere and restart the workers"
                )
            if worker["problem"]:
                raise ToolError(f"worker {place}: {worker['problem']}")
            first = first or place
            if worker != told[first]:
                raise InputError(
                    f"workers {first} and {place} would make other kernels or another initramfs of "
                    "the same source; install the same compilers and linux-source on both"
                )
        if not first:
            raise _no_workers(self.address)
        found = told[first]
        return Makers(
            found["code"], found["initramfs"], dict(zip(kernels, found["kernels"], strict=True))
        )


def parse_address(text: str) -> tuple[str, int]:
    """Return host and port of a scheduler's address; UsageError if it is none."""
    match = re.fullmatch(r"(?:tcp|tls)://([^/\s]+):([0-9]{1,5})/?", text)
    if not match or int(match[2]) > 65535:
        raise UsageError(
            f"{text!r} is no scheduler's address; say tcp://HOST:PORT or tls://HOST:PORT"
        )
    return match[1].strip("[]"), int(match[2])


@contextmanager
def reached(scheduler: str | None, workers: int) -> Iterator[Cluster]:
    """Reach the Dask scheduler at an address, or have so many workers in this process.

    ToolError: `distributed` is not there; UsageError: the address is none; UnavailableError:
    nobody answers, or there are no workers; InputError: a version there is another.
    """
    if scheduler:
        parse_address(scheduler)
    _load()
    with ExitStack() as stack:
        client = stack.enter_context(_client(scheduler) if scheduler else _embedded(workers))
        address = scheduler or "this process"
        words: queue.SimpleQueue[Any] = queue.SimpleQueue()
        client.subscribe_topic(TOPIC, lambda event: words.put(event[1]))
        # Pure: of two fleets that want the same job, one has it done for both.
        yield Cluster(client, client.get_executor(pure=True, retries=_RETRIES), words, address)


def _load() -> None:
    """Load `distributed`, silent; ToolError says how to get it."""
    try:
        import dask

        dask.config.set({"logging": dict.fromkeys(_LOGGERS, "critical")})
        warnings.filterwarnings("ignore", module="distributed")
        import distributed  # noqa: F401
    except ImportError as error:
        raise ToolError(
            f"a fleet needs Dask's distributed ({error}); pip install 'hyperbuild-vm[fleet]'"
        ) from error


@contextmanager
def _embedded(workers: int) -> Iterator[Client]:
    """Give a cluster of threads: each job is a process of its own, and no port is opened."""
    from distributed import Client, LocalCluster

    with (
        LocalCluster(
            n_workers=1,
            threads_per_worker=workers,
            processes=False,
            dashboard_address=None,
            memory_limit=None,
        ) as cluster,
        Client(cluster, set_as_default=False) as client,
    ):
        yield client


@contextmanager
def _client(scheduler: str) -> Iterator[Client]:
    from distributed import Client, Security

    security = Security()
    if scheduler.startswith("tls:") and not security.tls_ca_file:
        raise InputError(
            f"{scheduler} needs certificates; name them in Dask's settings, distributed.comm.tls "
            "(ca-file, client.cert, client.key)"
        )
    try:
        _listen_to(scheduler)
        client = Client(scheduler, timeout=_ANSWER, security=security, set_as_default=False)
    except OSError as error:
        raise UnavailableError(
            f"no Dask scheduler answers at {scheduler} ({error.strerror or error}); start one "
            "(dask scheduler), or correct the address"
        ) from error
    with client:
        _check_versions(client, scheduler)
        with suppress(TimeoutError):
            client.wait_for_workers(1, timeout=_FIRST_WORKER)
        if not client.nthreads():
            raise _no_workers(scheduler)
        yield client


def _listen_to(scheduler: str) -> None:
    """Raise OSError unless a scheduler answers soon.

    Dask goes on trying where nobody listens, and waits for ever for who says nothing. A scheduler
    speaks first, but by TLS: a number of frames (little endian), which is small.
    """
    with socket.create_connection(parse_address(scheduler), timeout=_ANSWER) as connection:
        if scheduler.startswith("tls:"):
            return
        said = connection.recv(8, socket.MSG_WAITALL)
    if len(said) < 8 or int.from_bytes(said, "little") > _FRAMES:
        raise OSError("what listens there is no scheduler")


def _no_workers(scheduler: str) -> UnavailableError:
    return UnavailableError(
        f"the scheduler {scheduler} has no workers; start some: dask worker {scheduler}"
    )


def _check_versions(client: Client, scheduler: str) -> None:
    """Raise InputError if the scheduler, or a worker, has another `distributed` or Python."""
    found = client.get_versions()
    places = {f"the scheduler {scheduler}": found["scheduler"]}
    places |= {f"worker {place}": worker for place, worker in found["workers"].items()}
    ours = found["client"]["packages"]
    for place, there in places.items():
        theirs = there["packages"]
        for name, cut in (("distributed", None), ("python", 2)):
            here, other = _cut(ours[name], cut), _cut(theirs[name], cut)
            if here != other:
                raise InputError(
                    f"{place} has {name} {other}, and this is {here}; install the same everywhere "
                    "and restart it"
                )


def _cut(version: str, parts: int | None) -> str:
    return ".".join(str(version).split(".")[:parts])
