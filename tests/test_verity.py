"""dm-verity in real guests: what is right boots, what was changed ends the VM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.layers import f, layer, layout, s

if TYPE_CHECKING:
    from tests.conftest import KernelOf, RunCli

pytestmark = pytest.mark.boot

#: What the application reads, in blocks of its own.
SECRET = b"nobody has changed me\n" * 1000
READ = ("--network", "none", "-m", "96M", "--timeout", "100")


@pytest.fixture
def source(tmp_path: Path, kernel_of: KernelOf) -> str:
    """Give an image of busybox and a file."""
    kernel_of("disk")
    busybox = f("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)
    applets = [s(f"bin/{name}", "busybox") for name in ("cat", "sh")]
    image = layout(tmp_path / "image", layer(busybox, *applets, f("secret", SECRET)))
    return f"oci:{image}"


def bundle_of(run_cli: RunCli, source: str, out: Path, *words: str) -> dict[str, Any]:
    done = run_cli("convert", "--verity", *words, source, "-o", out, timeout=1700)
    assert done.returncode == 0, done.stderr
    document: dict[str, Any] = json.loads((out / "bundle.json").read_bytes())
    assert "CONFIG_DM_VERITY" in document["kernel"]["options"]
    return document


@pytest.mark.parametrize("rootfs_format", ["erofs", "ext4"])
def test_it_boots(run_cli: RunCli, source: str, tmp_path: Path, rootfs_format: str) -> None:
    out = tmp_path / "out"
    verity = bundle_of(run_cli, source, out, "--format", rootfs_format)["rootfs"]["verity"]
    script = "cat /sys/block/dm-0/dm/name /sys/block/dm-0/ro /sys/block/dm-0/size /proc/cmdline "
    done = run_cli("boot", *READ, out, "--", "sh", "-c", script + "/secret")
    assert done.returncode == 0, done.stderr
    name, read_only, sectors, words, *said = done.stdout.splitlines()
    assert (name, read_only, int(sectors) * 512) == ("root0", "1", verity["hashOffset"])
    assert f"sha256 {verity['rootHash']} {verity['salt']} 1 panic_on_corruption" in words
    assert "\n".join(said) + "\n" == SECRET.decode()
    # That nothing is mapped is as it was asked for: nobody is warned.
    assert "Warning" not in done.stderr


def test_what_was_changed_ends_the_vm(run_cli: RunCli, source: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    document = bundle_of(run_cli, source, out)
    rootfs = out / "rootfs.erofs"
    at = rootfs.read_bytes().index(SECRET) + 4096 + 5

    def change(offset: int) -> None:
        with rootfs.open("r+b") as file:
            file.seek(offset)
            (byte,) = file.read(1)
            file.seek(offset)
            file.write(bytes([byte ^ 1]))

    # Of a bundle in a directory a boot verifies no digest. What is not read is not missed.
    change(at)
    assert run_cli("boot", *READ, out, "--", "sh", "-c", "true").returncode == 0
    done = run_cli("boot", *READ, out, "--", "sh", "-c", "echo begun; cat /secret")
    assert done.returncode == 125
    assert done.stdout == "begun\n"
    error = done.stderr.splitlines()[-1]
    assert error.startswith(
        "Error: the root file system was changed: a block does not match its dm-verity"
    )
    assert f"(data block {at // 4096})" in error
    change(at)

    # So does another root hash, at the first block that is read.
    document["rootfs"]["verity"]["rootHash"] = "0" * 64
    (out / "bundle.json").write_text(json.dumps(document))
    done = run_cli("boot", *READ, out, "--", "sh", "-c", "echo begun")
    assert (done.returncode, done.stdout) == (125, "")
    assert "Error: the root file system was changed: a block does not" in done.stderr


def test_a_recipe_may_ask_for_it(run_cli: RunCli, source: str, tmp_path: Path) -> None:
    recipe = tmp_path / "house.toml"
    recipe.write_text(f"""
image = "{source}"
[rootfs]
verity = true
[boot]
cmd = ["cat", "/secret"]
memory = "96M"
[smoke]
log = ["nobody has changed me"]
[output]
directory = "{tmp_path}/out"
""")
    done = run_cli("build", recipe)
    assert done.returncode == 0, done.stderr
    document = json.loads((tmp_path / "out/bundle.json").read_bytes())
    assert document["rootfs"]["verity"]["rootHash"] in done.stderr
    assert document["build"]["kernel"]["profile"] == "disk"
    assert run_cli("build", recipe, "--propose-profile").stdout == "disk\n"


def test_a_kernel_of_the_users_own_that_lacks_it(
    run_cli: RunCli, source: str, tmp_path: Path, kernel_of: KernelOf
) -> None:
    words = ("convert", "--verity", "--kernel", kernel_of("dax"), source, "-o", tmp_path / "out")
    assert run_cli(*words).returncode == 0
    done = run_cli("boot", *READ, tmp_path / "out", "--", "sh", "-c", "echo begun")
    assert (done.returncode, done.stdout) == (125, "")
    assert done.stderr.startswith("Error: /dev/dm-0: the VM has no such device; the kernel could")
    assert "--profile disk" in done.stderr
