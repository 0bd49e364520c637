"""Recipes that put their image together: of tars, folders, a base image, or Debian packages."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from subprocess import CompletedProcess
from typing import TYPE_CHECKING, Any

import pytest

from hyperbuild.builder.tools import Tools
from hyperbuild.converter.errors import ToolError
from tests.support.images import image
from tests.support.layers import d, f, h, layer
from tests.support.mirror import make_mirror

if TYPE_CHECKING:
    from tests.conftest import KernelOf, RunCli

pytestmark = pytest.mark.boot

BUSYBOX = Path("/bin/busybox").read_bytes()
LAYERS = """
[source]
layers = ["base.tar.gz", { dir = "www", to = "/srv/www", owner = "1000" }, "words.tar"]
name = "house/words:1"

[source.config]
entrypoint = ["/bin/sh", "-c"]
cmd = ["id -u; cat words; ls -ln /srv/www | tail -n 1; exec httpd -f -p 8080 -h /srv/www"]
env = { PATH = "/bin" }
user = "1000:100"
working-dir = "/srv"
exposed-ports = ["8080"]
stop-signal = "KILL"
labels = { house = "words" }
healthcheck = { test = ["CMD", "/bin/true"], interval = "1s", retries = 2 }

[rootfs]
verify = true

[kernel]
profile = "micro"

[boot]
memory = "64M"

[smoke]
http = ["/~a page of ours"]
log = ["^1000\\nover\\n-rw-r--r-- +1 1000 +1000 .* index.html$"]
"""
PACKAGES = """
[source]
packages = ["house-box"]
suite = "house"
mirror = {mirror}
variant = "extract"

[source.config]
cmd = ["/bin/busybox", "cat", "/etc/house"]

[kernel]
profile = "micro"

[smoke]
exit = 0
"""


def built(run_cli: RunCli, directory: Path, *args: str | Path) -> CompletedProcess[str]:
    done = run_cli("build", "r.toml", *args, cwd=directory)
    assert done.returncode == 0, done.stderr
    return done


def made(run_cli: RunCli) -> dict[str, Any]:
    """Return the one bundle in the store as `images --json` has it."""
    (bundle,) = json.loads(run_cli("images", "--json").stdout)
    assert isinstance(bundle, dict)
    return bundle


def test_layers_and_a_folder(run_cli: RunCli, tmp_path: Path, kernel_of: KernelOf) -> None:
    kernel_of("micro")
    applets = (
        h(f"bin/{name}", "bin/busybox") for name in ("sh", "id", "cat", "ls", "tail", "httpd")
    )
    base = layer(
        d("bin"), f("bin/busybox", BUSYBOX, mode=0o755), *applets, h("bin/true", "bin/busybox"),
        d("srv"), f("srv/words", "under\n"),
    )  # fmt: skip
    (tmp_path / "base.tar.gz").write_bytes(gzip.compress(base, 1))
    (tmp_path / "words.tar").write_bytes(layer(f("srv/words", "over\n")))
    (tmp_path / "www").mkdir()
    (tmp_path / "www/index.html").write_text("a page of ours")
    (tmp_path / "www/index.html").chmod(0o644)
    (tmp_path / "r.toml").write_text(LAYERS)
    first = built(run_cli, tmp_path)
    assert "smoke test held: healthy after" in first.stderr
    bundle = made(run_cli)
    assert bundle["name"] == "docker.io/house/words:1"
    assert bundle["profile"] == "micro"
    assert bundle["bundle"]["config"]["Labels"] == {"house": "words"}
    assert bundle["bundle"]["process"]["exposedPorts"] == ["8080/tcp"]
    assert bundle["bundle"]["process"]["stopSignal"]["name"] == "SIGKILL"
    layers = json.loads(run_cli("inspect", "--json", "house/words:1").stdout)["layers"]
    said = [it["createdBy"] for it in layers]
    names = ("base.tar.gz", "www to /srv/www", "words.tar")
    assert said == [f"hyperbuild: {name}" for name in names]
    assert built(run_cli, tmp_path, "--no-smoke").stdout == first.stdout
    # By its name it is booted as it is: there is nothing to fetch.
    again = run_cli("boot", "house/words:1", "cat words")
    assert (again.returncode, again.stdout) == (0, "over\n"), again.stderr
    late = run_cli("boot", "--timeout", "2", "house/words:1", "sleep 1000")
    assert late.returncode == 124
    said = "Warning: the application had not ended after --timeout 2 s, and was stopped"
    assert late.stderr.splitlines()[-1] == said


def test_an_image_with_a_page_of_ones_own(
    run_cli: RunCli, tmp_path: Path, test_cache: Path, kernel_of: KernelOf
) -> None:
    kernel_of("micro")
    (tmp_path / "site").mkdir()
    (tmp_path / "site/index.html").write_text("<h1>our own page</h1>")
    (tmp_path / "r.toml").write_text(
        f'image = "oci:{image("nginx", test_cache)}"\n'
        '[source]\nlayers = [{ dir = "site", to = "/var/www/html" }]\n'
        '[kernel]\nprofile = "micro"\n[smoke]\nhttp = ["/~our own page"]\n'
        "[rootfs]\nverify = true\n"
    )
    done = built(run_cli, tmp_path)
    assert "smoke test held: http :80/~our own page" in done.stderr
    assert made(run_cli)["name"] == "localhost/r:latest"


def test_packages(run_cli: RunCli, tmp_path: Path, kernel_of: KernelOf, shared_cache: Path) -> None:
    kernel_of("micro")
    files = {"bin/busybox": BUSYBOX, "etc/house": b"first\n"}
    mirror = make_mirror(tmp_path / "mirror", {"house-box 1.0-1": files})
    (tmp_path / "r.toml").write_text(PACKAGES.format(mirror=json.dumps(mirror)))
    done = built(run_cli, tmp_path, "--set", 'smoke.log=["^first$"]')
    assert "localhost/r: packages house-box=1.0-1; 1 in all" in done.stderr
    first = made(run_cli)["bundle"]
    assert first["config"]["Labels"] == {"sh.hyper.packages": "house-box=1.0-1"}
    newer = {"bin/busybox": BUSYBOX, "etc/house": b"second\n"}
    make_mirror(tmp_path / "mirror", {"house-box 1.0-1": files, "house-box 1.0-2": newer})
    done = built(run_cli, tmp_path, "--no-smoke")
    assert "packages house-box=1.0-2; 1 in all" in done.stderr
    assert made(run_cli)["bundle"]["rootfs"] != first["rootfs"]
    pin = ("--no-smoke", "--set", 'source.packages=["house-box=1.0-1"]')
    # Another store: its packages are installed once more.
    elsewhere = {"XDG_DATA_HOME": str(tmp_path / "elsewhere")}
    done = run_cli("build", "r.toml", *pin, cwd=tmp_path, env=elsewhere)
    (again,) = json.loads(run_cli("images", "--json", env=elsewhere).stdout)
    assert again["bundle"]["rootfs"] == first["rootfs"]
    none = run_cli("build", "r.toml", "--set", 'source.packages=["house-bx"]', cwd=tmp_path)
    assert none.returncode == 1
    assert "[source] packages: mmdebstrap failed: E: Unable to locate package house" in none.stderr


def test_debian_s_packages_by_this_machine_s_sources(
    run_cli: RunCli, tmp_path: Path, kernel_of: KernelOf
) -> None:
    kernel_of("micro")
    full = bool(os.environ.get("HYPERBUILD_TEST_FULL"))
    name, variant = ("nginx-light", "essential") if full else ("busybox-static", "extract")
    cmd = ["nginx", "-g", "daemon off;"] if full else ["/bin/busybox", "httpd", "-f", "-p", "80"]
    (tmp_path / "r.toml").write_text(
        f'[source]\npackages = ["{name}"]\nsuite = "bookworm"\nvariant = "{variant}"\n'
        f'[source.config]\ncmd = {json.dumps(cmd)}\nexposed-ports = ["80/tcp"]\n'
        '[kernel]\nprofile = "micro"\n[smoke]\n'
    )
    done = built(run_cli, tmp_path)
    assert f"packages {name}=" in done.stderr
    assert "smoke test held: port 80" in done.stderr


def test_what_packages_need_and_is_not_there(run_cli: RunCli, tmp_path: Path) -> None:
    (tmp_path / "r.toml").write_text(PACKAGES.format(mirror=' "file:///no/such"'))
    done = run_cli("build", "r.toml", cwd=tmp_path)
    assert done.returncode == 1
    assert "r.toml: [source] packages: copy:///no/such/dists/house cannot be" in done.stderr
    with pytest.raises(ToolError, match=r"^no-such-tool is missing, which is why; apt install it$"):
        Tools({}).require("no-such-tool", "it", "which is why")
