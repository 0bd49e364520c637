"""`hyperbuild build` by a fleet: a real Dask cluster, a real registry, and workers that die."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib.metadata import distribution
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import HYPERBUILD, environment
from tests.support.checkout import copy_of_house
from tests.support.cluster import Worker, serve_scheduler, serve_workers
from tests.support.layers import d, digest, f, layer, layout, s
from tests.support.registry import Answer, Proxy, Seen, free_port, push, serve_proxy, serve_registry

if TYPE_CHECKING:
    from tests.conftest import KernelOf

pytestmark = pytest.mark.boot

IMAGES = 8
WAIT_SECONDS = 200
BASE = layer(
    d("bin"),
    f("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755),
    s("bin/sh", "busybox"),
)
RECIPE = """
image = "{image}"

[kernel]
profile = "micro"

[boot]
memory = "64M"
"""
SMOKE = """
[smoke]
log = ["^hello"]
exit = 0
"""


@dataclass
class Harbour:
    """A registry with images, reached through a proxy that can hold a blob back."""

    host: str
    proxy: Proxy
    env: dict[str, str]
    home: Path
    layers: dict[str, str] = field(default_factory=dict)
    _held: dict[str, threading.Event] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.proxy.fault = self._fault

    def image(self, name: str, tag: str = "1", command: str = "echo hello") -> str:
        """Push an image on the common base and return its name."""
        top = layer(f("name", name + os.urandom(8).hex()))
        self.layers[name] = digest(top)
        place = self.home / "images" / name.replace("/", "-")
        shutil.rmtree(place, ignore_errors=True)
        config = {"Entrypoint": ["/bin/busybox", "sh", "-c"], "Cmd": [command]}
        push(layout(place, BASE, top, config=config, compress=False), f"{self.host}/{name}:{tag}")
        return f"{self.proxy.host}/{name}:{tag}"

    @contextmanager
    def held(self, name: str) -> Iterator[None]:
        """Answer nobody who asks for the image's own layer during the block."""
        free = self._held[self.layers[name]] = threading.Event()
        try:
            yield
        finally:
            free.set()

    def _fault(self, seen: Seen, answer: Answer) -> None:
        for layer_digest, free in list(self._held.items()):
            if seen.path.endswith(layer_digest) and not seen.path.count("uploads"):
                free.wait(WAIT_SECONDS)

    def manifest(self, name: str, reference: str) -> dict[str, Any]:
        """Fetch a manifest of the repository name."""
        request = urllib.request.Request(
            f"http://{self.host}/v2/{name}/manifests/{reference}",
            headers={"Accept": "application/vnd.oci.image.manifest.v1+json, "
                               "application/vnd.oci.image.index.v1+json"},
        )  # fmt: skip
        with urllib.request.urlopen(request) as response:
            found: dict[str, Any] = json.loads(response.read())
        return found

    def attached(
        self, name: str, subject: str, kind: str = "application/vnd.hyperbuild.bundle.v1"
    ) -> list[dict[str, Any]]:
        """Return what of a kind, bundles by default, is attached to the manifest of a digest."""
        index = self.manifest(name, subject.replace(":", "-"))
        return [each for each in index["manifests"] if each["artifactType"] == kind]


class Fleet:
    """`hyperbuild build` as a process, whose words are read while it works."""

    def __init__(self, env: dict[str, str], home: Path, *args: str | Path) -> None:
        home.mkdir(parents=True, exist_ok=True)
        self._out, self._err = home / "stdout", home / "stderr"
        with self._out.open("w") as out, self._err.open("w") as err:
            self.process = subprocess.Popen(
                [HYPERBUILD, "build", *args], env=env, cwd=home, stdout=out, stderr=err,
                stdin=subprocess.DEVNULL,
            )  # fmt: skip

    @property
    def said(self) -> str:
        return self._err.read_text()

    @property
    def results(self) -> dict[str, str]:
        """Image -> where its bundle is, as stdout has it."""
        return dict(line.split() for line in self._out.read_text().splitlines())

    @property
    def errors(self) -> list[str]:
        return [line for line in self.said.splitlines() if line.startswith("Error: ")]

    def until(self, condition: Callable[[], object], what: str) -> None:
        """Wait for what this fleet will have done; it has not if it is over."""
        for _ in range(WAIT_SECONDS * 20):
            if condition():
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.05)
        assert condition(), f"waited for {what}:\n{self.said}"

    def begun_by(self, image: str) -> list[str]:
        """Return the workers that have begun an image."""
        lines = [line for line in self.said.splitlines() if line.startswith(f"{image}: begun")]
        return [line.split()[-1] for line in lines]

    def end(self, status: int = 0) -> Fleet:
        try:
            found = self.process.wait(WAIT_SECONDS)
        finally:
            self.process.kill()
        assert found == status, self.said
        return self


def fresh(home: Path, shared_cache: Path) -> dict[str, str]:
    """Return an environment whose cache has kernels and initramfs, and knows no layers."""
    cache = home / "cache/hyperbuild"
    cache.mkdir(parents=True)
    for name in ("kernel", "initramfs"):
        (shared_cache / "hyperbuild" / name).mkdir(parents=True, exist_ok=True)
        (cache / name).symlink_to(shared_cache / "hyperbuild" / name)
    return {"PATH": os.environ["PATH"], **environment(home, home / "cache")}


@pytest.fixture(scope="module")
def harbour(
    tmp_path_factory: pytest.TempPathFactory, shared_cache: Path, kernel_of: KernelOf
) -> Iterator[Harbour]:
    kernel_of("micro")
    home = tmp_path_factory.mktemp("harbour")
    with serve_registry(home / "registry") as host, serve_proxy(host) as proxy:
        yield Harbour(host, proxy, fresh(home, shared_cache), home)


@dataclass(frozen=True)
class Cluster:
    scheduler: str
    workers: list[Worker]

    def worker(self, address: str) -> Worker:
        return next(worker for worker in self.workers if worker.address == address)


@pytest.fixture(scope="module")
def cluster(harbour: Harbour) -> Iterator[Cluster]:
    home = harbour.home / "cluster"
    env = {key: it for key, it in harbour.env.items() if key not in ("XDG_DATA_HOME", "HOME")}
    with (
        serve_scheduler(home, env) as scheduler,
        serve_workers(scheduler, home, env, 4) as workers,
    ):
        yield Cluster(scheduler, workers)


def recipe(path: Path, image: str, *, smoke: bool = False) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(RECIPE.format(image=image) + SMOKE * smoke)
    return path


def test_a_worker_killed_midway_costs_its_task_alone(
    harbour: Harbour, cluster: Cluster, tmp_path: Path, shared_cache: Path
) -> None:
    images = [harbour.image(f"app-{number}") for number in range(IMAGES)]
    victim = images[1]
    recipes = [
        recipe(tmp_path / f"r{number}.toml", image, smoke=number < 2)
        for number, image in enumerate(images)
    ]
    with harbour.held("app-1"):
        fleet = Fleet(harbour.env, tmp_path, "--scheduler", cluster.scheduler, *recipes)
        fleet.until(lambda: fleet.begun_by(victim), "the victim to be begun")
        fleet.until(lambda: len(fleet.results) >= 3, "three results")
        (first,) = fleet.begun_by(victim)
        cluster.worker(first).process.kill()
        fleet.until(lambda: len(fleet.begun_by(victim)) > 1, "the victim to be begun again")
    fleet.end()
    assert sorted(fleet.results) == sorted(images)
    assert [len(fleet.begun_by(image)) for image in images] == [1, 2, *[1] * (IMAGES - 2)]
    assert fleet.begun_by(victim)[1] != first
    assert fleet.said.count("smoke test held: ") == 2
    assert f"{victim}: built in " in fleet.said

    # Nothing is left to do, and nothing is done.
    again = Fleet(harbour.env, tmp_path / "again", "--scheduler", cluster.scheduler, *recipes).end()
    assert again.results == fleet.results
    assert "begun" not in again.said
    assert again.said.count("in the registry already") == IMAGES

    # One machine, one after the other, makes the same.
    serial = fresh(tmp_path / "serial", shared_cache)
    done = subprocess.run(
        [HYPERBUILD, "build", "--no-smoke", *recipes],
        env=serial, capture_output=True, text=True, timeout=WAIT_SECONDS, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    store = Path(serial["XDG_DATA_HOME"]) / "hyperbuild"
    for image, made in zip(images, done.stdout.split(), strict=True):
        name, _, bundle = fleet.results[image].partition("/")[2].partition("@")
        found = harbour.manifest(name, bundle)
        stored = json.loads((store / "blobs" / made.replace(":", "/")).read_bytes())
        assert found["config"]["digest"] == stored["config"]["digest"]
        assert len(harbour.attached(name, found["subject"]["digest"])) == 1


def test_ctrl_c_ends_what_workers_do(harbour: Harbour, cluster: Cluster, tmp_path: Path) -> None:
    image = harbour.image("stopped")
    path = recipe(tmp_path / "r.toml", image)
    with harbour.held("stopped"):
        fleet = Fleet(harbour.env, tmp_path, "--scheduler", cluster.scheduler, path)
        fleet.until(lambda: fleet.begun_by(image), "it to be begun")
        worker = cluster.worker(fleet.begun_by(image)[0])
        fleet.until(worker.children, "its process")
        fleet.process.send_signal(signal.SIGINT)
        fleet.end(130)
        assert worker.children() == []
    store = worker.log.parent / "data/hyperbuild/.partial"
    assert not list(store.glob(".hyperbuild-*"))
    with pytest.raises(urllib.error.HTTPError):
        harbour.attached("stopped", harbour.manifest("stopped", "1")["config"]["digest"])
    # Nobody holds the worker any more.
    assert Fleet(harbour.env, tmp_path, "--scheduler", cluster.scheduler, path).end().results


def test_workers_of_ones_own_and_a_list_of_images(
    harbour: Harbour, tmp_path: Path, shared_cache: Path
) -> None:
    env = fresh(tmp_path, shared_cache)
    good, bad = harbour.image("own/good"), harbour.image("own/bad", command="echo bye; exit 3")
    push(harbour.home / "images/own-good", f"{harbour.host}/own/good:2")
    other, missing = good[:-1] + "2", f"{harbour.proxy.host}/own/none:1"
    names = tmp_path / "images.txt"
    names.write_text(f"# ours\n{good}\n\n{missing}\n{other}\n{bad}\n{good}\n")
    path = recipe(tmp_path / "r.toml", "unused", smoke=True)
    reports = [tmp_path / "fleet.json", tmp_path / "fleet.xml"]
    told = [word for report in reports for word in ("--report", report)]
    key, public = tmp_path / "key.pem", tmp_path / "key.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)
    words = ("--images", names, "--workers", "2", "--sign", key, *told)
    fleet = Fleet(env, tmp_path, *words, path).end(1)
    # Two names of one image: done once.
    assert set(fleet.results) == {good, other}
    assert fleet.results[good] == fleet.results[other]
    assert fleet.said.count("smoke test held") == 1
    assert len(fleet.errors) == 2
    assert f"Error: {missing} does not exist; check the name" in fleet.errors[0]
    assert f"Error: {bad}: log ^hello: the application ended with status 3" in fleet.errors[1]
    document = json.loads(reports[0].read_text())
    assert (document["built"], document["cached"], document["failed"]) == (2, 0, 2)
    said = {each["image"]: each for each in document["images"]}
    assert said[good]["smoke"]["held"] is True
    assert set(said[good]["seconds"]) == {"look", "convert", "push"}
    suites = ET.parse(reports[1]).getroot()  # noqa: S314
    assert [suites.attrib[it] for it in ("tests", "failures")] == ["7", "3"]
    # A bundle of a fleet is one like any other, and signed once.
    assert Fleet(env, tmp_path / "again", "--images", names, "--sign", key, path).end(1).results
    kind = "application/vnd.in-toto.provenance+dsse"
    bundle = fleet.results[good].partition("@")[2]
    assert len(harbour.attached("own/good", bundle, kind)) == 1
    policy = tmp_path / "policy.toml"
    policy.write_text('[keys]\nci = "key.pub"\n[[allow]]\nimages = ["*"]\nkeys = ["ci"]\n')
    booted = subprocess.run(
        [HYPERBUILD, "boot", good, "--policy", policy], env=fresh(tmp_path / "other", shared_cache),
        capture_output=True, text=True, timeout=WAIT_SECONDS, check=False,
    )  # fmt: skip
    assert booted.stdout == "hello\n", booted.stderr


def test_a_process_that_is_lost_is_started_again(
    harbour: Harbour, tmp_path: Path, shared_cache: Path
) -> None:
    env = fresh(tmp_path, shared_cache)
    image = harbour.image("lost")
    with harbour.held("lost"):
        fleet = Fleet(env, tmp_path, "--workers", "1", recipe(tmp_path / "r.toml", image))
        fleet.until(lambda: f"{image}: begun" in fleet.said, "it to be begun")
        fleet.until(lambda: jobs_of(fleet.process.pid), "its process")
        for pid in jobs_of(fleet.process.pid):
            os.kill(pid, signal.SIGKILL)
        fleet.until(lambda: f"{image}: begun again" in fleet.said, "it to be begun again")
    assert fleet.end().results


def test_ctrl_c_of_ones_own_workers_leaves_nothing(
    harbour: Harbour, tmp_path: Path, shared_cache: Path
) -> None:
    env = fresh(tmp_path, shared_cache)
    image = harbour.image("left")
    with harbour.held("left"):
        fleet = Fleet(env, tmp_path, "--workers", "1", recipe(tmp_path / "r.toml", image))
        fleet.until(lambda: f"{image}: begun" in fleet.said, "it to be begun")
        fleet.until(lambda: jobs_of(fleet.process.pid), "its process")
        jobs = jobs_of(fleet.process.pid)
        fleet.process.send_signal(signal.SIGINT)
        fleet.end(130)
        assert not [pid for pid in jobs if Path(f"/proc/{pid}").exists()]
    assert not fleet.errors
    assert not list((tmp_path / "data/hyperbuild/.partial").glob(".hyperbuild-*"))


def test_two_fleets_at_once(harbour: Harbour, tmp_path: Path, shared_cache: Path) -> None:
    image = harbour.image("both")
    path = recipe(tmp_path / "r.toml", image)
    homes = [tmp_path / name for name in ("one", "two")]
    with harbour.held("both"):
        fleets = [Fleet(fresh(home, shared_cache), home, "--workers", "1", path) for home in homes]
        for fleet in fleets:
            fleet.until(lambda at=fleet: f"{image}: begun" in at.said, "both to begin")  # type: ignore[misc]
    found = [fleet.end().results[image].partition("@")[2] for fleet in fleets]
    documents = [harbour.manifest("both", each)["config"]["digest"] for each in found]
    assert documents[0] == documents[1]
    third = Fleet(harbour.env, tmp_path / "three", "--workers", "1", path).end()
    assert third.results[image].partition("@")[2] in found


def jobs_of(pid: int) -> list[int]:
    """Return the processes of jobs that a fleet of one machine has started."""
    lists = [path.read_text().split() for path in Path(f"/proc/{pid}/task").glob("*/children")]
    return [int(child) for children in lists for child in children]


def test_a_job_that_kills_its_workers_fails_alone(harbour: Harbour, tmp_path: Path) -> None:
    env = {key: it for key, it in harbour.env.items() if key not in ("XDG_DATA_HOME", "HOME")}
    deadly, fine = harbour.image("deadly"), harbour.image("fine")
    recipes = [recipe(tmp_path / f"{n}.toml", it) for n, it in enumerate((deadly, fine))]
    strict = env | {"DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES": "0"}
    with (
        serve_scheduler(tmp_path, strict) as scheduler,
        serve_workers(scheduler, tmp_path, env, 2) as workers,
        harbour.held("deadly"),
    ):
        fleet = Fleet(harbour.env, tmp_path, "--scheduler", scheduler, *recipes)
        fleet.until(lambda: fleet.begun_by(deadly), "it to be begun")
        (place,) = fleet.begun_by(deadly)
        next(worker for worker in workers if worker.address == place).process.kill()
        fleet.end(1)
    assert list(fleet.results) == [fine]
    (line,) = fleet.errors
    assert line.startswith(f"Error: {deadly}: each worker that worked on it has died; ")
    assert place in line


def refused(env: dict[str, str], home: Path, *args: str | Path) -> str:
    """Run a fleet that is refused with one line, and return that."""
    fleet = Fleet(env, home, *args).end(1)
    assert len(fleet.said.splitlines()) == 1, fleet.said
    assert not fleet.results
    (line,) = fleet.errors
    return line


def test_clusters_that_cannot_work(harbour: Harbour, tmp_path: Path) -> None:
    path = recipe(tmp_path / "r.toml", harbour.image("app"))
    env = {key: it for key, it in harbour.env.items() if key not in ("XDG_DATA_HOME", "HOME")}
    other = {**env, "PYTHONPATH": str(renumbered("distributed", "2020.1.0", tmp_path / "older"))}
    with (
        serve_scheduler(tmp_path / "here", env) as scheduler,
        serve_scheduler(tmp_path / "there", other) as outdated,
    ):
        said = refused(harbour.env, tmp_path, "--scheduler", outdated, path)
        assert f"the scheduler {outdated} has distributed 2020.1.0, and this is 2" in said
        said = refused(harbour.env, tmp_path, "--scheduler", scheduler, path)
        assert f"the scheduler {scheduler} has no workers; start some: dask worker" in said
        bare = env | {"PYTHONPATH": str(without_house(tmp_path / "bare"))}
        with serve_workers(scheduler, tmp_path / "without", bare, 1) as (worker,):
            said = refused(harbour.env, tmp_path, "--scheduler", scheduler, path)
            assert f"worker {worker.address} has no hyperbuild that can work in a fleet" in said
        changed = env | {"PYTHONPATH": str(changed_house(tmp_path))}
        with serve_workers(scheduler, tmp_path / "changed", changed, 1) as (worker,):
            said = refused(harbour.env, tmp_path, "--scheduler", scheduler, path)
            assert f"worker {worker.address} has hyperbuild " in said
            assert "install the same everywhere and restart the workers" in said
        older = env | {"PATH": f"{older_compiler(tmp_path / 'bin')}:{env['PATH']}"}
        with (
            serve_workers(scheduler, tmp_path / "one", env, 1),
            serve_workers(scheduler, tmp_path / "two", older, 1),
        ):
            said = refused(harbour.env, tmp_path, "--scheduler", scheduler, path)
            assert "would make other kernels or another initramfs of the same source" in said


def older_compiler(place: Path) -> Path:
    """Return a directory with a compiler for hyperstart that says it is an older one."""
    place.mkdir()
    script = place / "musl-gcc"
    script.write_text('#!/bin/sh\n[ "$1" != --version ] || exec echo musl-gcc 1.0\nexec gcc "$@"\n')
    script.chmod(0o755)
    return place


def renumbered(name: str, version: str, place: Path) -> Path:
    """Return a directory for PYTHONPATH by which an installed package says another version."""
    found = Path(
        str(distribution(name).locate_file(f"{name}-{distribution(name).version}.dist-info"))
    )
    copy = place / f"{name}-{version}.dist-info"
    shutil.copytree(found, copy)
    lines = (copy / "METADATA").read_text().splitlines()
    told = [f"Version: {version}" if line.startswith("Version: ") else line for line in lines]
    (copy / "METADATA").write_text("\n".join(told))
    return place


def changed_house(parent: Path) -> Path:
    """Return a directory for PYTHONPATH with another hyperbuild, of one comment more."""
    house = copy_of_house(parent)
    with (house / "builder/fleet_job.py").open("a") as file:
        file.write("# changed\n")
    place = without_house(parent / "path")
    (place / "hyperbuild").symlink_to(house / ".typing/hyperbuild")
    return place


def without_house(place: Path) -> Path:
    """Return a directory for PYTHONPATH by which this checkout is not installed."""
    place.mkdir()
    (place / "sitecustomize.py").write_text(
        "import sys\nsys.meta_path = [it for it in sys.meta_path if 'editable' not in repr(it)]\n"
    )
    return place


@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small disk takes root")
def test_a_worker_whose_disk_is_full(harbour: Harbour, tmp_path: Path) -> None:
    image = harbour.image("big")
    env = {key: it for key, it in harbour.env.items() if key not in ("XDG_DATA_HOME", "HOME")}
    disk = tmp_path / "worker-0/data"
    with (
        serve_scheduler(tmp_path, env) as scheduler,
        serve_workers(scheduler, tmp_path, env, 1) as (worker,),
    ):
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "none", disk], check=True)
        try:
            path = recipe(tmp_path / "r.toml", image)
            fleet = Fleet(harbour.env, tmp_path, "--scheduler", scheduler, path).end(1)
        finally:
            subprocess.run(["umount", "--lazy", disk], check=True)
    (line,) = fleet.errors
    assert line.startswith(f"Error: {image}: No space left for the root file system: ")
    assert "free some, or write elsewhere" in line
    assert line.endswith(f"(worker {worker.address})")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[source]\nlayers = [{ dir = ".", to = "/a" }]\n', "its image is put together on this "),
        ("[output]\nstore = true\n", "[output] is for bundles on this machine"),
        ('[kernel]\nfile = "r.toml"\n', "[kernel] file is on this machine, and the workers are"),
        ('image = "oci:here"\n', "oci:here is in no registry"),
    ],
)
def test_recipes_that_are_for_this_machine(
    text: str, said: str, tmp_path: Path, harbour: Harbour
) -> None:
    path = tmp_path / "r.toml"
    path.write_text(text if "image" in text else f'image = "h.test/x"\n{text}')
    assert said in refused(harbour.env, tmp_path, "--scheduler", "tcp://127.0.0.1:1", path)


def test_words_that_name_no_cluster(tmp_path: Path, harbour: Harbour) -> None:
    nowhere = f"tcp://127.0.0.1:{free_port()}"
    said = refused(harbour.env, tmp_path, "--scheduler", nowhere, "busybox")
    assert f"no Dask scheduler answers at {nowhere} (Connection refused)" in said
    for words, wrong in (
        (("--scheduler", "house"), "'house' is no scheduler's address; say tcp://HOST:PORT"),
        (("--scheduler", nowhere, "--workers", "2"), "--scheduler and --workers exclude each "),
        (("--workers", "2", "--propose-profile"), "--propose-profile is for one recipe on this"),
    ):
        assert wrong in Fleet(harbour.env, tmp_path, *words, "busybox").end(2).said
    # What stands behind the extra is not there.
    code = (
        "import sys; sys.modules['dask'] = None; "
        "from hyperbuild.builder.main import main; main(['build', '--workers', '1', 'busybox'])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=harbour.env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    assert done.stderr.endswith("pip install 'hyperbuild-vm[fleet]'\n")
    # Who builds one recipe does not wait for Dask.
    code = (
        "import sys; from hyperbuild.builder.main import _run; "
        "_run(['build', 'none.toml']); print('dask' in sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=harbour.env, capture_output=True, text=True, check=False
    )
    assert done.stdout == "False\n"
