"""An image run by runc as docker would run it."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.runtime.docker import LIMITS, hosts, runtime_config, start_status

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Seconds: what a container that hangs is given, and one that is to stop.
PATIENCE, GRACE = 120.0, 1.0
_LINKS = 40


@dataclass(frozen=True)
class Container:
    """A runtime bundle, ready for ``runc run``; name is the container's."""

    directory: Path
    name: str

    def runc(self, *words: str) -> list[str]:
        """Return an argv; the state lies in the bundle."""
        return ["runc", "--root", str(self.directory / "state"), *words]

    def run(self) -> tuple[int, str]:
        """Run it to its end, stdin empty; return docker's exit status, and stdout."""
        done = subprocess.run(
            self.runc("run", "--bundle", str(self.directory), self.name),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE,
        )
        if done.returncode == 1 and "runc run failed" in done.stderr:
            return start_status(done.stderr), done.stdout
        return done.returncode, done.stdout

    def run_and_stop(self, number: int) -> tuple[int, str]:
        """Send its first process a signal once it has written a line, and SIGKILL after a grace."""
        with subprocess.Popen(
            self.runc("run", "--bundle", str(self.directory), self.name),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdout is not None
            said = process.stdout.readline()
            self._kill(number)
            try:
                process.wait(GRACE)
            except subprocess.TimeoutExpired:
                self._kill(signal.SIGKILL)
            said += process.stdout.read()
            return process.wait(PATIENCE), said

    def remove(self) -> None:
        """Kill what may be left of it after a failure."""
        subprocess.run(self.runc("delete", "--force", self.name), check=True)

    def _kill(self, number: int) -> None:
        subprocess.run(self.runc("kill", self.name, str(int(number))), check=True)


def make_container(
    layout: Path,
    directory: Path,
    *,
    words: Sequence[str] = (),
    own: Sequence[str] = (),
    hostname: str,
) -> Container:
    """Unpack the layout's image (tag ``latest``) and make what docker makes for its container."""
    subprocess.run(
        ["umoci", "unpack", "--image", f"{layout}:latest", directory],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    image = _image_config(layout)
    rootfs = directory / "rootfs"
    # umoci has looked up the user, by moby's own library.
    user = json.loads((directory / "config.json").read_text())["process"]["user"]
    _add_init_layer(rootfs)
    if image.get("WorkingDir"):
        inside(rootfs, image["WorkingDir"]).mkdir(parents=True, exist_ok=True)
    config = runtime_config(
        image,
        user,
        words=words,
        own=own,
        hostname=hostname,
        limits=allowed_limits(),
        binds=_files(directory, hostname) | _volumes(directory, image.get("Volumes") or {}),
        unified=Path("/sys/fs/cgroup/cgroup.controllers").exists(),
    )
    (directory / "config.json").write_text(json.dumps(config))
    return Container(directory, f"hyperbuild-test-{os.getpid()}-{directory.parent.name}")


def allowed_limits() -> dict[str, tuple[int, int]]:
    """Return those of docker's limits that this host allows, soft and hard."""
    allowed = {}
    for name, limit in LIMITS.items():
        number = getattr(resource, f"RLIMIT_{name}", None)
        own = resource.RLIM_INFINITY if number is None else resource.getrlimit(number)[1]
        if own == resource.RLIM_INFINITY or limit[1] <= own:
            allowed[name] = limit
    return allowed


def inside(root: Path, path: str) -> Path:
    """Return where path lies, its symlinks (dangling ones too) followed inside root."""
    place, links = root, 0
    left = path.split("/")
    while left:
        part = left.pop(0)
        if part == "..":
            place = root if place == root else place.parent
        elif part not in ("", "."):
            step = place / part
            if step.is_symlink() and links < _LINKS:
                target = str(step.readlink())
                links += 1
                left = target.split("/") + left
                place = root if target.startswith("/") else place
            else:
                place = step
    return place


def _image_config(layout: Path) -> dict[str, Any]:
    def blob(digest: str) -> dict[str, Any]:
        content: dict[str, Any] = json.loads(
            (layout / "blobs" / digest.replace(":", "/")).read_text()
        )
        return content

    index = json.loads((layout / "index.json").read_text())
    manifest = blob(index["manifests"][0]["digest"])
    config: dict[str, Any] = blob(manifest["config"]["digest"])["config"]
    return config


def _add_init_layer(rootfs: Path) -> None:
    """Make what docker's layer above the image holds: the places of mounts, and two files."""
    for name in ("dev/pts", "dev/shm", "proc", "sys", "etc"):
        (rootfs / name).mkdir(parents=True, exist_ok=True)
    for name in ("etc/hosts", "etc/hostname", "etc/resolv.conf"):
        (rootfs / name).unlink(missing_ok=True)
        (rootfs / name).touch(0o755)
    (rootfs / ".dockerenv").touch(0o755)
    (rootfs / "etc/mtab").unlink(missing_ok=True)
    (rootfs / "etc/mtab").symlink_to("/proc/mounts")


def _files(directory: Path, hostname: str) -> dict[str, str]:
    contents = {
        "hosts": hosts(hostname),
        "hostname": f"{hostname}\n",
        "resolv.conf": "nameserver 192.0.2.53\n",
    }
    for name, content in contents.items():
        (directory / name).write_text(content)
        (directory / name).chmod(0o644)
    return {f"/etc/{name}": str(directory / name) for name in contents}


def _volumes(directory: Path, volumes: dict[str, Any]) -> dict[str, str]:
    """Make the volumes: what the image has at their places is copied, owners and modes included."""
    binds = {}
    rootfs = directory / "rootfs"
    for number, path in enumerate(sorted(volumes)):
        source, place = directory / f"volume-{number}", inside(rootfs, path)
        if place.is_dir():
            subprocess.run(["cp", "-a", place, source], check=True)
        else:
            source.mkdir(0o755)
        binds["/" + str(place.relative_to(rootfs))] = str(source)
    return binds
