"""`hyperbuild build`: recipes are built, tested by booting them, and kept only if that holds."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from hyperbuild.recipes.recipe import shipped_recipes
from tests.conftest import KernelOf, RunCli
from tests.support.images import image

pytestmark = pytest.mark.boot

Build = Callable[..., CompletedProcess[str]]

BUSYBOX = """
image = "busybox:latest"

[kernel]
profile = "micro"

[boot]
memory = "64M"
cmd = ["sh", "-c", "echo $GREETING; exec httpd -f -p 80 -h /www"]
env = { GREETING = "hello, house" }

[smoke]
http = ["/~hello from busybox"]
log = ["^hello, house$"]

[budget]
time = { app_exec = "60s" }
"""


@pytest.fixture
def build(run_cli: RunCli, tmp_path: Path) -> Build:
    """Give a function that builds, and keeps what a VM says that fails in a place of the test's."""
    return lambda *args: run_cli("build", "--console-log", tmp_path / "said.log", *args)


@pytest.fixture
def busybox(test_cache: Path) -> str:
    return f"image=oci:{image('busybox', test_cache)}"


@pytest.fixture
def recipe(tmp_path: Path, kernel_of: KernelOf) -> Path:
    """Give a recipe of busybox with the smallest kernel."""
    kernel_of("micro")
    path = tmp_path / "house.toml"
    path.write_text(BUSYBOX)
    return path


@pytest.mark.parametrize("name", shipped_recipes())
def test_each_shipped_recipe_builds_what_holds_to_it(
    name: str, build: Build, run_cli: RunCli, test_cache: Path, kernel_of: KernelOf
) -> None:
    kernel_of("micro")
    change = f"image=oci:{image(name, test_cache)}"
    done = build(name, "--set", change)
    assert done.returncode == 0, done.stderr
    assert "smoke test held: " in done.stderr
    (digest,) = done.stdout.split()
    assert digest.startswith("sha256:")
    again = run_cli("boot", "--smoke", digest)
    assert again.returncode == 0, again.stderr


def test_a_bundle_carries_its_defaults_and_its_contract(
    recipe: Path, busybox: str, build: Build, run_cli: RunCli, tmp_path: Path
) -> None:
    out, report, page = tmp_path / "out", tmp_path / "smoke.xml", tmp_path / "smoke.html"
    changes = ("--set", busybox, "--set", f"output.directory={out}")
    done = build(recipe, *changes, "--report", report, "--report", page)
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{out}\n"
    names = [case.attrib["name"] for case in ET.parse(report).getroot().iter("testcase")]  # noqa: S314
    assert names == [
        "http :80/~hello from busybox",
        "log ^hello, house$",
        "budget app_exec=60000ms",
    ]
    assert "<td>app_exec</td>" in page.read_text()
    said = json.loads((out / "bundle.json").read_text())["boot"]
    assert said["options"]["env"] == ["GREETING=hello, house"]
    assert said["budgets"] == ["app_exec=60s"]
    assert len(run_cli("images").stdout.splitlines()) == 1
    tested = run_cli("boot", "--smoke", "-e", "X=1", out)
    assert tested.returncode == 0, tested.stderr
    assert tested.stdout.splitlines()[0] == "hello, house"
    other = run_cli("boot", out, "sh", "-c", "echo $GREETING; grep MemTotal /proc/meminfo")
    assert other.stdout.startswith("hello, house\n")
    assert int(other.stdout.split()[-2]) < 64 << 10
    more = run_cli("boot", "-m", "96M", "-e", "GREETING=mine", out, "sh", "-c", "echo $GREETING")
    assert more.stdout == "mine\n"
    own = run_cli("boot", "--smoke", "--expect-exit", "3", out, "sh", "-c", "exit 3")
    assert own.returncode == 0, own.stderr


def test_what_does_not_hold_is_not_kept(
    recipe: Path, busybox: str, build: Build, run_cli: RunCli, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    changes = ("--set", busybox, "--set", f"output.directory={out}", "--set", "output.store=true")
    done = build(recipe, *changes, "--set", 'smoke.http=["/=404"]')
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert "http :80/=404: the answer has status 200, not 404" in line
    assert done.stdout == ""
    assert not out.exists()
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "other").touch()
    early = build(recipe, *changes, "--set", f"output.directory={blocked}")
    assert early.returncode == 1
    assert "application started" not in early.stderr
    assert f"[output] directory: the output directory {blocked} holds other things" in early.stderr
    assert len(run_cli("images").stdout.splitlines()) == 1
    untested = build(recipe, *changes, "--set", 'smoke.http=["/=404"]', "--no-smoke")
    assert untested.returncode == 0, untested.stderr
    assert [line.partition(":")[0] for line in untested.stdout.splitlines()] == [str(out), "sha256"]
    kept = out.stat().st_ino, (out / "rootfs.erofs").stat().st_ino
    assert build(recipe, *changes, "--set", "smoke.exit=1").returncode == 1
    assert kept == (out.stat().st_ino, (out / "rootfs.erofs").stat().st_ino)


def test_a_budget_of_instructions(recipe: Path, busybox: str, build: Build, tmp_path: Path) -> None:
    recipe.write_text(BUSYBOX + 'insns = { init = "1M" }\n')
    done = build(recipe, "--set", busybox)
    assert done.returncode == 1
    assert "M guest instructions to init, 1.00 M allowed" in done.stderr
    recipe.write_text(BUSYBOX + 'insns = { init = "100M" }\n')
    page = tmp_path / "counted.html"
    held = build(recipe, "--set", busybox, "--report", page)
    assert held.returncode == 0, held.stderr
    (said,) = [line for line in held.stderr.splitlines() if line.startswith("application started")]
    assert re.fullmatch(
        r"application .* after \d+\.\d\d M guest instructions \(kernel \+.*\)", said
    )
    assert "the guest's clock counted its instructions" in page.read_text()


def test_the_smallest_profile_is_proposed_with_the_reason(
    recipe: Path, busybox: str, build: Build, run_cli: RunCli, kernel_of: KernelOf
) -> None:
    kernel_of("dax")
    small = build(recipe, "--set", busybox, "--propose-profile")
    assert small.returncode == 0, small.stderr
    assert small.stdout == "micro\n"
    more = build(recipe, "--set", busybox, "--set", "boot.cpus=2", "--propose-profile")
    assert more.stdout == "dax\n", more.stderr
    assert "micro does not do: " in more.stderr
    assert "the bundle's kernel has no CONFIG_SMP, which --cpus 2 needs" in more.stderr
    assert 'dax does: record it as [kernel] profile = "dax"' in more.stderr
    assert len(run_cli("images").stdout.splitlines()) == 1


def test_the_shipped_recipes_record_the_profile_that_is_proposed(
    build: Build, test_cache: Path, kernel_of: KernelOf
) -> None:
    kernel_of("micro")
    change = f"image=oci:{image('redis', test_cache)}"
    done = build("redis", "--set", change, "--propose-profile")
    assert done.stdout == "micro\n", done.stderr


def test_an_image_s_name_means_what_a_recipe_has_made_of_it(
    build: Build, run_cli: RunCli, registry: str, kernel_of: KernelOf
) -> None:
    kernel_of("micro")
    name = f"{registry}/nginx:latest"
    assert build("nginx", "--set", f"image={name}").returncode == 0
    done = run_cli("boot", "--smoke", name)
    assert done.returncode == 0, done.stderr
    assert "smoke test held: http :80/~nginx after" in done.stderr
