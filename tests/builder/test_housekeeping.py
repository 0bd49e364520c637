"""The store kept in order: what is needed stays, whoever is at work meanwhile."""

from __future__ import annotations

import json
import os
import subprocess
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from hyperbuild.converter import oci
from hyperbuild.converter.store import Store
from hyperbuild.launcher.instances import (
    EXITED,
    Asked,
    Instances,
    State,
    boot_id,
    new_id,
    timestamp,
    write_state,
)
from tests.builder.parcels import in_store, make_parcel, pulled, push_cli, refused
from tests.conftest import HYPERBUILD
from tests.support.layers import f, layer, layout

if TYPE_CHECKING:
    from pathlib import Path

    from tests.builder.parcels import Parcel
    from tests.conftest import RunCli

JUNK = b"nobody names this"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "data/hyperbuild")


@pytest.fixture
def digest(parcel: Parcel, run_cli: RunCli) -> str:
    """Pull the parcel into the store; return the digest that it has there."""
    push_cli(run_cli, parcel.directory)
    return pulled(run_cli, parcel.image)


def listed(run_cli: RunCli) -> list[str]:
    return [each["name"] for each in json.loads(run_cli("images", "--json").stdout)]


def sound(run_cli: RunCli) -> None:
    done = run_cli("fsck")
    assert (done.returncode, done.stdout) == (0, ""), done.stdout


def convert(run_cli: RunCli, home: Path, name: str) -> str:
    """Convert an image of one layer, made anew, without a kernel; return its name."""
    source = layout(home / name, layer(f(name, name.encode() * 1000), f("bin/true", b"\x7fELF")))
    done = run_cli("convert", "--no-kernel", f"oci:{source}")
    assert done.returncode == 0, done.stderr
    return f"oci:{source}"


def test_prune_keeps_what_bundles_need(
    parcel: Parcel, digest: str, store: Store, run_cli: RunCli
) -> None:
    # The manifest that it travelled by is not the one it has here.
    run_cli("prune")
    before = in_store(store.root.parent.parent)
    junk = store.put(JUNK, "text/plain").digest
    (store.root / ".partial" / "sha256-cut").write_bytes(b"a cut download")
    said = run_cli("prune", "--dry-run").stdout
    assert said.startswith("2 files would be removed")
    assert store.document(junk) == JUNK
    assert run_cli("prune").stdout.startswith("2 files removed")
    assert in_store(store.root.parent.parent) == before
    assert not list((store.root / ".partial").iterdir())
    assert listed(run_cli) == [parcel.image]
    assert run_cli("verify", digest).returncode == 0
    sound(run_cli)
    assert run_cli("prune").stdout.startswith("0 files removed")
    run_cli("prune", "--all")
    assert listed(run_cli) == []
    assert not in_store(store.root.parent.parent)


def test_prune_can_spare_the_layers_or_not(
    bare_registry: str, tmp_path: Path, store: Store, run_cli: RunCli
) -> None:
    image = make_parcel(tmp_path, f"{bare_registry}/layers/app:1").image
    assert run_cli("convert", "--no-kernel", image).returncode == 0

    def sizes() -> dict[str, int]:
        """Return those of the store: other tests are at work in the cache."""
        told = json.loads(run_cli("du", "--json").stdout)["sizes"]
        return {kind: size for kind, size in told.items() if kind != "cache"}

    before = sizes()
    assert before["images"] > 0
    assert before["unused"] == 0
    run_cli("prune")
    assert sizes() == before
    run_cli("prune", "--images")
    assert sizes() == before | {"images": 0}
    assert listed(run_cli) == [image]
    assert image in run_cli("du").stdout
    sound(run_cli)


def test_prune_waits_for_who_is_at_work(store: Store, digest: str, run_cli: RunCli) -> None:
    """A blob that no entry names yet belongs to the one who has just put it there."""
    with ThreadPoolExecutor() as pool:
        with store.lease():
            blob = store.put(JUNK, "text/plain").digest
            pruning = pool.submit(run_cli, "prune")
            with pytest.raises(TimeoutError):
                pruning.result(timeout=3)
            assert store.document(blob) == JUNK
        done = pruning.result()
    assert "waiting for the other commands" in done.stderr
    assert store.document(blob) is None


def test_what_a_vm_runs_from_stays(
    parcel: Parcel, digest: str, store: Store, run_cli: RunCli
) -> None:
    """It may be started again, by its restart policy, long after its bundle has left the list."""
    instances = Instances(store.root / "vms")
    paths = {
        "rootfs": str(store.blob_path(parcel.bundle.rootfs.digest)),
        "kernel": str(store.blob_path(parcel.bundle.kernel.digest if parcel.bundle.kernel else "")),
        "initramfs": str(parcel.directory / "initramfs.cpio"),
    }
    asked = Asked(
        new_id(), "here", parcel.image, ("x",), timestamp(), boot_id(), False, "always", 1 << 20,
        False, False, (), paths, {},
    )  # fmt: skip
    instance, lock = instances.create(asked)
    assert run_cli("rmi", digest).returncode == 0
    run_cli("prune", "--all")
    assert listed(run_cli) == []
    assert len(in_store(store.root.parent.parent)) == 2
    write_state(instance.directory, State(status=EXITED, exit_status=0))
    os.close(lock)
    run_cli("prune")
    assert not in_store(store.root.parent.parent)


def test_prunes_among_conversions_lose_nothing(tmp_path: Path, run_cli: RunCli) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = [pool.submit(convert, run_cli, tmp_path, f"app{n}") for n in range(4)]
        pruned = [pool.submit(run_cli, "prune", "--images") for _ in range(3)]
        names = sorted(each.result() for each in made)
        assert [each.result().returncode for each in pruned] == [0, 0, 0]
    assert sorted(listed(run_cli)) == names
    sound(run_cli)


def test_rmi_leaves_what_others_share(
    parcel: Parcel, digest: str, bare_registry: str, tmp_path: Path, run_cli: RunCli
) -> None:
    (tmp_path / "second").mkdir()
    other = make_parcel(tmp_path / "second", f"{bare_registry}/other/app:latest", seed=3)
    push_cli(run_cli, other.directory)
    kept = pulled(run_cli, other.image)
    refused(run_cli, "no bundle nothing:1", "rmi", parcel.image, "nothing:1")
    refused(run_cli, "no bundle No Name", "rmi", "No Name")
    assert len(listed(run_cli)) == 2
    assert run_cli("rmi", digest[:19]).stdout == f"{parcel.image}\n"
    assert listed(run_cli) == [other.image]
    assert parcel.bundle.rootfs.digest not in in_store(tmp_path)
    assert run_cli("verify", kept).returncode == 0
    sound(run_cli)
    # Without its tag, as it may be written for convert and boot.
    assert run_cli("rmi", other.image.removesuffix(":latest")).returncode == 0
    assert listed(run_cli) == []


@pytest.mark.parametrize("where", ["rootfs", "manifest", "document"])
def test_a_corrupt_blob_is_found_and_mended(
    parcel: Parcel, digest: str, store: Store, run_cli: RunCli, where: str
) -> None:
    wrong = {
        "rootfs": parcel.bundle.rootfs.digest,
        "manifest": digest,
        "document": oci.digest_of(parcel.bundle.to_json()),
    }[where]
    with store.blob_path(wrong).open("r+b") as file:
        file.write(b"?")
    done = run_cli("fsck")
    assert done.returncode == 1
    assert f"blob {wrong} has other bytes; to be removed\n" in done.stdout
    assert f"{parcel.image} lacks its " in done.stdout
    done = run_cli("fsck", "--repair")
    assert (done.returncode, "has other bytes; removed\n" in done.stdout) == (0, True)
    sound(run_cli)
    assert listed(run_cli) == []
    pulled(run_cli, parcel.image)
    sound(run_cli)


def test_a_corrupt_list_is_written_anew(
    parcel: Parcel, digest: str, store: Store, run_cli: RunCli
) -> None:
    (store.root / "index.json").write_text("{half of")
    refused(run_cli, "hyperbuild fsck --repair mends the store", "images")
    assert "cannot be read" in run_cli("fsck").stdout
    assert run_cli("fsck", "--repair").returncode == 0
    sound(run_cli)
    assert listed(run_cli) == [parcel.image]
    assert run_cli("verify", digest).returncode == 0


@pytest.mark.parametrize("suffix", ["tar", "tar.zst"])
def test_a_bundle_travels_in_a_file(
    parcel: Parcel, digest: str, tmp_path: Path, run_cli: RunCli, suffix: str
) -> None:
    file = tmp_path / f"bundle.{suffix}"
    assert run_cli("export", parcel.image, "-o", file).returncode == 0
    there = {"XDG_DATA_HOME": str(tmp_path / "far/data")}
    assert run_cli("import", file, env=there).stdout == f"{digest}\n"
    assert json.loads(run_cli("images", "--json", env=there).stdout)[0]["name"] == parcel.image
    assert run_cli("verify", digest, env=there).returncode == 0
    again = tmp_path / f"again.{suffix}"
    assert run_cli("export", digest, "-o", again, env=there).returncode == 0
    if suffix == "tar":
        show = ["skopeo", "inspect", "--raw", f"oci-archive:{file}:{parcel.image}"]
        raw = subprocess.run(show, check=True, capture_output=True).stdout
        assert oci.digest_of(raw) == digest
    else:
        assert file.stat().st_size < 1 << 20


def test_no_archive_replaces_what_is_no_file(digest: str, tmp_path: Path, run_cli: RunCli) -> None:
    pipe, link, file = tmp_path / "pipe", tmp_path / "link", tmp_path / "file"
    os.mkfifo(pipe)
    refused(run_cli, "is no regular file", "export", digest, "-o", pipe)
    assert pipe.is_fifo()
    nowhere = tmp_path / "no/x.tar"
    refused(run_cli, f"{nowhere.parent} is not there", "export", digest, "-o", nowhere)
    link.symlink_to("file")
    assert run_cli("export", digest, "-o", link).returncode == 0
    assert link.is_symlink()
    assert file.stat().st_size


def test_a_bundle_travels_through_pipes(
    parcel: Parcel, digest: str, tmp_path: Path, hyperbuild_env: dict[str, str]
) -> None:
    export = [HYPERBUILD, "export", parcel.image, "-o", "-"]
    sent = subprocess.run(export, env=hyperbuild_env, capture_output=True, check=True).stdout
    far = hyperbuild_env | {"XDG_DATA_HOME": str(tmp_path / "far")}
    done = subprocess.run([HYPERBUILD, "import", "-"], env=far, input=sent, capture_output=True)
    assert done.stdout.decode() == f"{digest}\n", done.stderr


@pytest.mark.parametrize("suffix", ["tar", "tar.zst"])
def test_an_archive_cut_short_brings_no_bundle(
    parcel: Parcel, digest: str, tmp_path: Path, run_cli: RunCli, suffix: str
) -> None:
    file = tmp_path / f"bundle.{suffix}"
    run_cli("export", parcel.image, "-o", file)
    size = file.stat().st_size
    there = {"XDG_DATA_HOME": str(tmp_path / "far")}
    for left in (0, 700, size // 3, size * 9 // 10):
        os.truncate(file, left)
        refused(run_cli, "", "import", file, env=there)
        assert json.loads(run_cli("images", "--json", env=there).stdout) == []
        run_cli("export", parcel.image, "-o", file)
    assert run_cli("import", file, env=there).returncode == 0
    sound(run_cli)


def test_what_an_archive_says_of_itself_is_not_believed(
    parcel: Parcel, digest: str, tmp_path: Path, store: Store, run_cli: RunCli
) -> None:
    """A made-up key would have a later conversion take this bundle for its own."""
    file = tmp_path / "bundle.tar"
    entry = next(iter(store.entries()))
    store.tag(entry.replace(annotations={**entry.annotations, "sh.hyper.bundle.key": "lie"}), "x:1")
    run_cli("export", "x:1", "-o", file)
    assert b"lie" in file.read_bytes()
    there = {"XDG_DATA_HOME": str(tmp_path / "far")}
    assert run_cli("import", file, env=there).returncode == 0
    assert "lie" not in (tmp_path / "far/hyperbuild/index.json").read_text()


def test_bad_archives(parcel: Parcel, digest: str, tmp_path: Path, run_cli: RunCli) -> None:
    file = tmp_path / "bundle.tar"
    run_cli("export", parcel.image, "-o", file)
    content = bytearray(file.read_bytes())
    at = content.index(b"cpio" * 100)
    content[at] ^= 1
    (tmp_path / "tampered.tar").write_bytes(content)
    (tmp_path / "text.tar").write_text("this is no archive" * 1000)
    subprocess.run(["tar", "cf", tmp_path / "foreign.tar", "-C", "/etc", "hostname"], check=True)
    image = tmp_path / "image/index.json"
    subprocess.run(["tar", "cf", tmp_path / "image.tar", "-C", image.parent, "."], check=True)
    there = {"XDG_DATA_HOME": str(tmp_path / "far")}
    said = {
        "tampered": "has other bytes",
        "text": "no archive of bundles",
        "foreign": "no archive of bundles",
        "image": "is no bundle",
        "missing": "cannot open",
    }
    for name, words in said.items():
        refused(run_cli, words, "import", tmp_path / f"{name}.tar", env=there)
    assert json.loads(run_cli("images", "--json", env=there).stdout) == []
    refused(run_cli, "no bundle nothing", "export", "nothing", "-o", tmp_path / "x.tar")
    refused(run_cli, "", "export", parcel.image, "-o", tmp_path / "no/such/x.tar")
    assert not (tmp_path / "x.tar").exists()


def test_an_empty_store_is_in_order(run_cli: RunCli) -> None:
    assert run_cli("prune").stdout.startswith("0 files removed")
    sound(run_cli)
    assert run_cli("du").returncode == 0
