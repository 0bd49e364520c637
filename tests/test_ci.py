"""What people put into their CI runs for real: the steps of the templates, against a registry."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any
from xml.etree import ElementTree as ET

import pytest
import yaml

from tests.conftest import HYPERBUILD
from tests.support.checkout import code_of, copy_of_house
from tests.support.layers import f, layer, layout
from tests.support.registry import push, serve_registry

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from tests.conftest import KernelOf, RunCli

pytestmark = pytest.mark.boot

CI = Path(__file__).parents[1] / "ci"
SMOKE = "--expect-exit 0 --expect-log 'here I am'"


@pytest.fixture
def image(tmp_path: Path, kernel_of: KernelOf) -> Iterator[str]:
    """Give the name of an image in a registry; it says where it is, and ends."""
    kernel_of("micro")
    busybox = f("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)
    config = {"Cmd": ["/bin/busybox", "echo", "here I am"]}
    source = layout(tmp_path / "image", layer(busybox), config=config)
    with serve_registry(tmp_path / "registry") as host:
        push(source, f"{host}/app:1")
        yield f"{host}/app:1"


def run(
    script: str, env: Mapping[str, str], cwd: Path, **more: str
) -> subprocess.CompletedProcess[str]:
    path = f"{HYPERBUILD.parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-e", "-c", script],
        env={**env, "PATH": path, **more},
        cwd=cwd,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )


def junit(path: Path) -> ET.Element:
    return ET.fromstring(path.read_text())  # noqa: S314 - our own


def steps_of_the_action() -> list[dict[str, Any]]:
    action = yaml.safe_load((CI / "github/action.yml").read_text())
    assert action["runs"]["using"] == "composite"
    steps: list[dict[str, Any]] = action["runs"]["steps"]
    return steps


def filled(text: str, inputs: Mapping[str, str]) -> str:
    """Fill in what GitHub does before it starts a step's shell."""
    return re.sub(r"\$\{\{ (?:inputs\.)?([a-z.-]+) \}\}", lambda match: inputs[match[1]], text)


def test_the_action_converts_tests_and_attaches(
    image: str, run_cli: RunCli, hyperbuild_env: dict[str, str], tmp_path: Path
) -> None:
    key = tmp_path / "ci.key"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    subprocess.run(
        ["openssl", "pkey", "-in", key, "-pubout", "-out", tmp_path / "ci.pub"], check=True
    )
    inputs = {
        "image": image,
        "profile": "micro",
        "smoke": SMOKE,
        "push": "attach",
        "sign-key": key.read_text(),
        "runner.temp": str(tmp_path / "temp"),
    }
    step = next(step for step in steps_of_the_action() if step.get("id") == "bundle")
    env = {name: filled(value, inputs) for name, value in step["env"].items()}
    output = tmp_path / "output"
    place = {"GITHUB_ACTION_PATH": str(CI / "github"), "GITHUB_OUTPUT": str(output)}
    done = run(step["run"], hyperbuild_env, tmp_path, **env, **place)
    assert done.returncode == 0, done.stderr
    name = output.read_text().strip().removeprefix("bundle=")
    assert done.stdout.splitlines()[-1] == name
    suite = junit(tmp_path / "temp/hyperbuild/smoke.xml")
    assert len(list(suite.iter("testcase"))) == 2
    assert not list(suite.iter("failure"))
    assert run_cli("verify", image, "--key", tmp_path / "ci.pub").stdout.strip() in name


def test_what_the_documents_have_one_type(
    kernel: Path, hyperbuild_env: dict[str, str], tmp_path: Path
) -> None:
    """The README's section and the steps by hand, word by word but for the registry's name."""
    page = f("www/index.html", "Welcome")
    busybox = f("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)
    serve = ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"]
    config = {"Cmd": serve, "ExposedPorts": {"80/tcp": {}}}
    source = layout(tmp_path / "image", layer(busybox, page), config=config)
    house = copy_of_house(tmp_path)
    (tmp_path / "own").mkdir()
    genpkey = ["openssl", "genpkey", "-algorithm", "ed25519", "-out", tmp_path / "own/ci.key"]
    subprocess.run(genpkey, check=True)
    # What the tests run with is not there for a new user.
    path = [each for each in os.environ["PATH"].split(":") if Path(each) != HYPERBUILD.parent]
    with serve_registry(tmp_path / "registry") as host:
        push(source, f"{host}/app:1")

        def follow(document: str, heading: str, cwd: Path) -> str:
            code = code_of(document, heading).replace("registry.lan", host)
            done = subprocess.run(
                ["bash", "-e", "-c", code],
                env=hyperbuild_env | {"PATH": ":".join(path)},
                cwd=cwd,
                capture_output=True,
                text=True,
                check=False,
                timeout=600,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout.splitlines()[-1]

        name = follow("README.md", "In CI", house)
        assert re.fullmatch(rf"{host}/app@sha256:[0-9a-f]{{64}}", name)
        assert not list(junit(house / "smoke.xml").iter("failure"))
        # The same bundle is attached already; it is signed now.
        assert follow("docs/ci.md", "By hand", tmp_path / "own") == name
        assert not list(junit(tmp_path / "own/smoke.xml").iter("failure"))


def test_the_script_says_that_it_lacks_hyperbuild(tmp_path: Path) -> None:
    done = subprocess.run(
        [CI / "bundle.sh"],
        env={"PATH": "/usr/bin:/bin", "IMAGE": "app:1"},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("Error: hyperbuild is not on the PATH; run")
    assert not list(tmp_path.iterdir())


def test_the_actions_other_steps(hyperbuild_env: dict[str, str], tmp_path: Path) -> None:
    """The steps of GitHub's own are named with a version; the one that installs is run."""
    steps = steps_of_the_action()
    assert all(
        re.fullmatch(r"actions/[a-z-]+@v\d+", step["uses"]) for step in steps if "uses" in step
    )
    install = next(step for step in steps if step["name"] == "Install")
    paths = tmp_path / "paths"
    place = {"GITHUB_ACTION_PATH": str(CI / "github"), "GITHUB_PATH": str(paths)}
    done = run(install["run"], hyperbuild_env, tmp_path, VENV=str(tmp_path / "venv"), **place)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"hyperbuild \d+\.\d+\.\d+\n", done.stdout)
    assert (Path(paths.read_text().strip()) / "hyperbuild").exists()


def test_gitlabs_template(image: str, hyperbuild_env: dict[str, str], tmp_path: Path) -> None:
    job = yaml.safe_load((CI / "gitlab.yml").read_text())[".hyperbuild"]
    assert job["artifacts"]["reports"]["junit"] == ".hyperbuild/reports/smoke.xml"
    # The caches are the tests' own: a kernel takes minutes.
    kept = {key: value for key, value in job["variables"].items() if not key.startswith("XDG")}
    project = {"CI_PROJECT_DIR": str(tmp_path), "HYPERBUILD": str(CI.parent)}
    lines = [f'export {name}="{value}"' for name, value in kept.items() if name not in project]
    # What is installed is what these tests run.
    script = [line for line in job["script"] if "install.sh" not in line]
    chosen = {"IMAGE": image, "PROFILE": "micro", "SMOKE": SMOKE, "PUSH": f"{image[:-2]}/vm:1"}
    done = run("\n".join([*lines, *script]), hyperbuild_env, tmp_path, **project, **chosen)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1].startswith(f"{image[:-2]}/vm:1@sha256:")
    assert (tmp_path / ".hyperbuild/reports/smoke.xml").exists()


def test_the_makefile(
    image: str, run_cli: RunCli, hyperbuild_env: dict[str, str], tmp_path: Path
) -> None:
    (tmp_path / "Makefile").write_text(f"include {CI}/example.mk\n")
    words = f'IMAGE={image} PROFILE=micro SMOKE="{SMOKE}"'
    done = run(f"make smoke {words}", hyperbuild_env, tmp_path)
    assert done.returncode == 0, done.stderr
    assert "no bundle is attached" in run_cli("verify", image).stderr
    done = run(f"make bundle {words}", hyperbuild_env, tmp_path)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "build/smoke/smoke.xml").exists()
    assert run_cli("verify", image).returncode == 0


def test_what_does_not_work_is_not_pushed(
    image: str, run_cli: RunCli, hyperbuild_env: dict[str, str], tmp_path: Path
) -> None:
    chosen = {"IMAGE": image, "PROFILE": "micro", "SMOKE": "--expect-log nothing"}
    done = run(str(CI / "bundle.sh"), hyperbuild_env, tmp_path, **chosen)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("Error: ")
    failures = list(junit(tmp_path / "smoke.xml").iter("failure"))
    assert len(failures) == 1
    assert "here I am" in (tmp_path / "smoke.log").read_text()
    assert "no bundle is attached" in run_cli("verify", image).stderr
    for words, status in (("--expect-log 'never", 2), ("--expect-http", 2)):
        done = run(str(CI / "bundle.sh"), hyperbuild_env, tmp_path, **chosen | {"SMOKE": words})
        assert done.returncode == status, done.stderr
    assert "no bundle is attached" in run_cli("verify", image).stderr
    done = run(str(CI / "bundle.sh"), hyperbuild_env, tmp_path)
    assert "say which image" in done.stderr
