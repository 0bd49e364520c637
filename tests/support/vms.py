"""Driving `hyperbuild run` and its sisters against a data directory of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sysconfig
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

HYPERBUILD = Path(sysconfig.get_path("scripts")) / "hyperbuild"
#: Seconds after which something hangs, whatever else runs on this machine.
HANG = 120
#: What a client says whose VM's supervisor was killed.
KILLED = b"Error: the VM's supervisor was killed, and the VM with it\n"


class Client(subprocess.Popen[bytes]):
    """A command under way. A test that fails does not wait for its end."""

    def __exit__(self, kind: type[BaseException] | None, *more: object) -> None:
        if kind:
            self.kill()
        super().__exit__(kind, *more)


@dataclass(frozen=True)
class Vms:
    """VMs of one bundle; ``env`` names the data directory."""

    bundle: Path
    env: Mapping[str, str]

    def do(self, *words: str | Path, stdin: Any = subprocess.DEVNULL, **more: Any) -> Done:
        """Run `hyperbuild` with words to its end; output is bytes."""
        argv = [HYPERBUILD, *words]
        done = subprocess.run(
            argv, env=self.env, capture_output=True, timeout=HANG, check=False,
            **({"input": stdin} if isinstance(stdin, bytes) else {"stdin": stdin}), **more,
        )  # fmt: skip
        return Done(done.returncode, done.stdout, done.stderr.decode())

    def start(self, *words: str | Path, **more: Any) -> Client:
        """Start `hyperbuild` with words, its streams in pipes."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE,
                   "stderr": subprocess.PIPE}  # fmt: skip
        return Client([HYPERBUILD, *words], env=self.env, **(streams | more))

    def words(self, *options: str, command: tuple[str, ...] = (), verb: str = "run") -> list[str]:
        """Return the words of a `run` of the bundle in little memory."""
        return [verb, "-m", "64M", *options, str(self.bundle), "--", *command]

    def run(self, *options: str, command: tuple[str, ...] = (), **more: Any) -> Done:
        """Run `hyperbuild run` to its end."""
        return self.do(*self.words(*options, command=command), **more)

    def list(self) -> list[dict[str, Any]]:
        """Return what `list --all --json` tells."""
        found = json.loads(self.do("list", "--all", "--json").stdout)
        assert isinstance(found, list)
        return found

    def inspect(self, name: str) -> dict[str, Any]:
        """Return what `inspect` tells of a VM."""
        done = self.do("inspect", "--type", "vm", "--json", name)
        assert done.status == 0, done.stderr
        found = json.loads(done.stdout)
        assert isinstance(found, dict)
        return found

    def state(self, name: str) -> dict[str, Any]:
        """Return the state of a VM."""
        found = self.inspect(name)["state"]
        assert isinstance(found, dict)
        return found

    def until(self, name: str, holds: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait for a state of a VM; return it."""
        deadline = time.monotonic() + HANG
        while not holds(state := self.state(name)):
            assert time.monotonic() < deadline, state
            time.sleep(0.05)
        return state

    def until_there(self, name: str) -> None:
        """Wait until a VM runs that is being started elsewhere."""
        deadline = time.monotonic() + HANG
        while not any(
            one["name"] == name and one["state"]["status"] == "running" for one in self.list()
        ):
            assert time.monotonic() < deadline
            time.sleep(0.05)

    @property
    def directory(self) -> Path:
        """Where VMs are."""
        return Path(self.env["XDG_DATA_HOME"]) / "hyperbuild/vms"

    def processes(self) -> list[int]:
        """Return all processes, supervisors and hypervisors, of VMs in this directory."""
        supervisors = [
            pid for pid, words in _processes() if any(str(self.directory) in word for word in words)
        ]
        return [*supervisors, *(child for pid in supervisors for child in children(pid))]

    def remove_all(self) -> None:
        """Remove every VM, and see that nothing is left."""
        names = [one["id"] for one in self.list()]
        if names:
            done = self.do("rm", "-f", *names)
            assert done.status == 0, done.stderr
        assert self.list() == []
        assert_gone(self)


@contextmanager
def serve_vms(home: Path, env: Mapping[str, str], image: Path) -> Iterator[Vms]:
    """Give VMs of an image (an OCI layout) on the smallest kernel; at the end they are removed."""
    # So deep that the sockets' paths are longer than the kernel lets them be.
    place = home / ("deep" * 30)
    place.mkdir()
    own = {name: str(place) for name in ("HOME", "XDG_DATA_HOME", "XDG_CONFIG_HOME")}
    bundle = place / "bundle"
    words = ("convert", f"oci:{image}", "--profile", "micro", "-o", bundle)
    subprocess.run([HYPERBUILD, *words], env=env | own, check=True, capture_output=True)
    vms = Vms(bundle, env | own)
    try:
        yield vms
    finally:
        vms.remove_all()
        shutil.rmtree(place)


@dataclass(frozen=True)
class Done:
    status: int
    stdout: bytes
    stderr: str


def assert_gone(vms: Vms) -> None:
    """See that no process and no file of any VM is left, at most a moment from now."""
    deadline = time.monotonic() + HANG
    while left := vms.processes():
        assert time.monotonic() < deadline, left
        time.sleep(0.05)
    if vms.directory.exists():
        assert [path.name for path in vms.directory.iterdir()] in ([], [".lock"])


def children(pid: int) -> list[int]:
    """Return the processes that pid has started."""
    with suppress(OSError):
        return [int(one) for one in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return []


def kill(pid: int, number: signal.Signals = signal.SIGKILL) -> None:
    """Send a signal to a process of a test."""
    os.kill(pid, number)


def _processes() -> list[tuple[int, list[str]]]:
    found = []
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            with suppress(OSError):
                words = (path / "cmdline").read_bytes().decode(errors="replace").split("\0")
                if "hyperbuild.launcher.supervisor" in words:
                    found.append((int(path.name), words))
    return found
