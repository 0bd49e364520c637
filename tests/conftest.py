"""What tests of every room may ask for."""

from __future__ import annotations

import os
import subprocess
import sysconfig
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import pytest
from hypothesis import settings

from hyperbuild.converter.progress import QUIET
from hyperbuild.kernel.build import find_kernel
from hyperbuild.kernel.source import find_source
from tests.support.images import image
from tests.support.registry import push, serve_registry
from tests.support.vms import Vms, serve_vms
from tests.support.workshop import default_cache

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

HYPERBUILD = Path(sysconfig.get_path("scripts")) / "hyperbuild"

# How long an example takes is the machine's business. A change is judged by the same examples
# whenever it is tested; others are looked for by who asks for all tests, and by `make fuzz`.
settings.register_profile(
    "any machine", deadline=None, derandomize="HYPERBUILD_TEST_FULL" not in os.environ
)
settings.load_profile("any machine")


KernelOf = Callable[[str], Path]


class RunCli(Protocol):
    """Runs the installed `hyperbuild` to its end; output is text, a hang is a TimeoutExpired."""

    def __call__(
        self,
        *args: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]: ...


@pytest.fixture(scope="session")
def test_cache() -> Path:
    """Give the directory, outside the checkout, of what is slow to make."""
    return default_cache()


@pytest.fixture(scope="session")
def shared_cache() -> Path:
    """Give the XDG_CACHE_HOME of tests: this user's own, so that one kernel serves all."""
    named = os.environ.get("XDG_CACHE_HOME", "")
    return Path(named) if Path(named).is_absolute() else Path.home() / ".cache"


@pytest.fixture
def hyperbuild_env(tmp_path: Path, shared_cache: Path) -> dict[str, str]:
    """Give an environment with a home, a store and settings of the test's own, and no KVM."""
    kept = {name: os.environ[name] for name in ("PATH", "LANG", "TERM") if name in os.environ}
    return kept | environment(tmp_path, shared_cache)


@pytest.fixture
def run_cli(hyperbuild_env: dict[str, str]) -> RunCli:
    """Give a function that runs `hyperbuild` in hyperbuild_env; env adds to that."""

    def run(
        *args: str | Path,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        timeout: float = 300,
    ) -> subprocess.CompletedProcess[str]:
        return _hyperbuild(*args, env=hyperbuild_env | dict(env or {}), cwd=cwd, timeout=timeout)

    return run


@pytest.fixture(scope="session")
def kernel_of(tmp_path_factory: pytest.TempPathFactory, shared_cache: Path) -> KernelOf:
    """Give a function from a profile to its vmlinux, built if the cache has none (minutes).

    CI has no time for more than two on a machine that is new to it: what needs others is tested
    where they are, and for who asks for it. The largest takes a quarter of an hour to boot, too.
    """
    home = tmp_path_factory.mktemp("kernel")
    env = {**os.environ, **environment(home, shared_cache)}

    @cache
    def build(profile: str) -> Path:
        if not os.environ.get("HYPERBUILD_TEST_FULL"):
            if profile == "full":
                pytest.skip("HYPERBUILD_TEST_FULL=1 has the largest kernel built and booted")
            if profile == "disk" and not is_built(shared_cache, profile):
                pytest.skip("no kernel of profile disk is built; HYPERBUILD_TEST_FULL=1 builds one")
        words = ("kernel", "build", "--profile", profile)
        done = _hyperbuild(*words, env=env, cwd=home, timeout=1700)
        assert done.returncode == 0, done.stderr
        return Path(done.stdout.splitlines()[-1])

    return build


@pytest.fixture(scope="session")
def kernel(kernel_of: KernelOf) -> Path:
    """Give the vmlinux of the default profile."""
    return kernel_of("dax")


@pytest.fixture(scope="module")
def busybox_vms(
    tmp_path_factory: pytest.TempPathFactory,
    test_cache: Path,
    shared_cache: Path,
    kernel_of: KernelOf,
) -> Iterator[Vms]:
    """Give VMs of busybox; at the end nothing of them is left."""
    kernel_of("micro")
    home = tmp_path_factory.mktemp("vms")
    env = {**os.environ, **environment(home, shared_cache)}
    with serve_vms(home, env, image("busybox", test_cache)) as vms:
        yield vms


@pytest.fixture(scope="session")
def nginx_layout(test_cache: Path) -> Path:
    """Give the OCI layout of the nginx image."""
    return image("nginx", test_cache)


@pytest.fixture(scope="session")
def torture_layout(test_cache: Path) -> Path:
    """Give the OCI layout of the image of hard cases."""
    return image("torture", test_cache)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory, nginx_layout: Path) -> Iterator[str]:
    """Give "127.0.0.1:PORT" of a docker-registry that holds nginx:latest."""
    with serve_registry(tmp_path_factory.mktemp("registry")) as host:
        push(nginx_layout, f"{host}/nginx:latest")
        yield host


def is_built(shared_cache: Path, profile: str) -> bool:
    """Tell whether the cache has the kernel of a profile."""
    cache = shared_cache / "hyperbuild"
    source = find_source(cache, None, None, progress=QUIET)
    return find_kernel(cache, source, profile) is not None


def environment(home: Path, cache: Path) -> dict[str, str]:
    return {
        "HOME": str(home),
        "HYPERBUILD_ACCEL": "tcg",
        "XDG_CACHE_HOME": str(cache),
        "XDG_CONFIG_HOME": str(home / "config"),
        "XDG_DATA_HOME": str(home / "data"),
    }


def _hyperbuild(
    *args: str | Path, env: Mapping[str, str], cwd: Path | None, timeout: float
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [HYPERBUILD, *args],
        env=env,
        cwd=cwd,
        timeout=timeout,
        capture_output=True,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
    )
