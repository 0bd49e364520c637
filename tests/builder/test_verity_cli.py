"""Bundles with dm-verity as users meet them: made, refused, looked at, signed, made again."""

from __future__ import annotations

import json
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from tests.builder.parcels import push_cli, refused
from tests.support.layers import f, layer, layout
from tests.support.registry import push

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RunCli

MIB = 1 << 20
PLAIN = ("convert", "--no-kernel", "--verity")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return layout(tmp_path / "small", layer(f("etc/passwd", "root:x:0:0::/root:\n")))


def document(directory: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((directory / "bundle.json").read_bytes())
    return found


def converted(run_cli: RunCli, *words: str | Path) -> None:
    done = run_cli(*PLAIN, *words)
    assert done.returncode == 0, done.stderr


def test_the_same_image_gives_the_same_tree(run_cli: RunCli, small: Path, tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    converted(run_cli, f"oci:{small}", "-o", one)
    converted(run_cli, f"oci:{small}", "-o", two, "--verify")
    assert (one / "rootfs.erofs").read_bytes() == (two / "rootfs.erofs").read_bytes()
    assert document(one) == document(two)
    # With and without are two bundles: neither is taken for the other.
    before = document(one)["rootfs"]
    assert run_cli("convert", "--no-kernel", f"oci:{small}", "-o", one).returncode == 0
    plain = document(one)["rootfs"]
    assert "verity" not in plain
    assert plain["size"] == before["verity"]["hashOffset"]
    assert plain["digest"] != before["digest"]


def test_a_stored_tree_that_was_changed_is_found(
    run_cli: RunCli, small: Path, hyperbuild_env: dict[str, str], tmp_path: Path
) -> None:
    converted(run_cli, f"oci:{small}")
    said = json.loads(run_cli(*PLAIN, "--json", f"oci:{small}").stdout)["bundle"]["rootfs"]
    digest = said["digest"].replace(":", "/")
    blob = tmp_path / f"data/hyperbuild/blobs/{digest}"
    with blob.open("r+b") as file:
        file.seek(said["verity"]["hashOffset"] + 4096)
        file.write(b"\0")
    done = run_cli(*PLAIN, "--verify", f"oci:{small}")
    assert done.returncode == 1
    assert "of the root file system is not what its hash says" in done.stderr
    assert not blob.exists()


@pytest.mark.parametrize("profile", ["micro", "dax"])
def test_a_profile_without_it_is_refused(
    run_cli: RunCli, small: Path, tmp_path: Path, profile: str
) -> None:
    words = ("convert", "--verity", "--profile", profile, f"oci:{small}", "-o", tmp_path / "out")
    refused(run_cli, "which dm-verity needs; take profile disk, or leave verity out", *words)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('[boot]\nrootfs = "dax"', "[boot] rootfs and [rootfs] verity exclude each other"),
        ("[boot]\nrequire-dax = true", "[boot] require-dax and [rootfs] verity exclude"),
        ('[kernel]\nprofile = "micro"', "has no CONFIG_DM_VERITY"),
    ],
)
def test_a_recipe_that_contradicts_itself_is_refused(
    run_cli: RunCli, small: Path, tmp_path: Path, table: str, said: str
) -> None:
    recipe = tmp_path / "house.toml"
    recipe.write_text(f'image = "oci:{small}"\n[rootfs]\nverity = true\n{table}\n')
    refused(run_cli, said, "build", recipe)


def test_a_boot_by_dax_is_refused(run_cli: RunCli, small: Path, tmp_path: Path) -> None:
    converted(run_cli, f"oci:{small}", "-o", tmp_path / "out")
    done = run_cli("boot", "--rootfs", "dax", tmp_path / "out")
    assert done.returncode == 125
    assert done.stderr.count("\n") == 1
    assert "--rootfs dax and dm-verity exclude each other" in done.stderr
    assert "drop --rootfs dax, or convert the image without --verity" in done.stderr


def test_inspect_shows_it(run_cli: RunCli, small: Path, tmp_path: Path) -> None:
    converted(run_cli, f"oci:{small}", "-o", tmp_path / "out")
    verity = document(tmp_path / "out")["rootfs"]["verity"]
    shown = run_cli("inspect", tmp_path / "out").stdout
    assert f"verity    root hash {verity['rootHash']}\n" in shown
    assert "dm-verity cannot check what is mapped" in shown
    told = json.loads(run_cli("inspect", "--json", tmp_path / "out").stdout)
    assert told["rootfs"]["verity"] == verity


def test_its_root_hash_is_signed_and_made_again(
    run_cli: RunCli, bare_registry: str, small: Path, tmp_path: Path
) -> None:
    name = f"{bare_registry}/{tmp_path.name.lower()}/app:1"
    push(small, name)
    out = tmp_path / "out"
    converted(run_cli, name, "-o", out)
    key, public = tmp_path / "ci.key", tmp_path / "ci.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)
    push_cli(run_cli, out, f"{name}-vm", "--sign", key)
    assert run_cli("verify", f"{name}-vm", "--key", public).returncode == 0
    done = run_cli("rebuild", f"{name}-vm", "--key", public)
    verdicts = [line.split()[:2] for line in done.stdout.splitlines()]
    assert verdicts == [[part, "same"] for part in ("provenance", "rootfs", "bundle.json")], done

    # Another root hash makes another bundle, which nobody has signed.
    forged = tmp_path / "forged"
    shutil.copytree(out, forged)
    fields = document(out)
    fields["rootfs"]["verity"]["rootHash"] = "0" * 64
    (forged / "bundle.json").write_text(json.dumps(fields, indent=2) + "\n")
    push_cli(run_cli, forged, f"{name}-forged")
    refused(run_cli, "is not signed", "verify", f"{name}-forged", "--key", public)
    done = run_cli("rebuild", f"{name}-forged")
    assert done.returncode == 1
    assert "in rootfs.verity" in done.stdout
