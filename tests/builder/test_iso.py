"""Discs as another program reads them."""

from __future__ import annotations

import json
import os
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from hyperbuild.builder.disk_extents import Stretch
from hyperbuild.builder.disk_iso import Boot, write_iso
from hyperbuild.builder.disk_seed import Seed, config_drive_files, nocloud_files

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RunCli

MOMENT = 1_700_000_000


def extracted(iso: Path, target: Path) -> dict[str, bytes]:
    """Return the files on iso by their paths, as xorriso reads them."""
    words = ("xorriso", "-osirrox", "on", "-indev", iso, "-extract", "/", target)
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found = (path for path in target.rglob("*") if path.is_file())
    return {str(path.relative_to(target)): path.read_bytes() for path in found}


def test_a_disc_holds_its_files_and_both_ways_to_boot(tmp_path: Path) -> None:
    (tmp_path / "root").write_bytes(os.urandom(3_000_000))
    files = {"boot/kernel-1.2.x": b"k" * 5000, "loader/start.bin": bytes(4096), "esp.img": b"e" * 9}
    iso = tmp_path / "iso"
    with (tmp_path / "root").open("rb") as root, iso.open("wb") as target:
        write_iso(
            target.fileno(),
            "HERE",
            {**files, "rootfs.erofs": Stretch(root.fileno(), 3_000_000)},
            moment=MOMENT,
            boot=Boot(bios="loader/start.bin", uefi="esp.img"),
        )
    found = extracted(iso, tmp_path / "out")
    # A boot information table is written into the BIOS's program, from its eighth byte on.
    assert found.pop("loader/start.bin")[64:] == files.pop("loader/start.bin")[64:]
    assert found.pop("rootfs.erofs") == (tmp_path / "root").read_bytes()
    assert found.items() >= files.items()
    words = ("xorriso", "-indev", iso, "-report_el_torito", "plain", "-pvd_info")
    told = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    assert "BIOS" in told
    assert "UEFI" in told
    assert "Volume Id    : HERE" in told


def test_a_disc_does_not_depend_on_when_and_where_it_was_made(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    for zone in ("UTC", "Asia/Kathmandu"):
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        path = tmp_path / zone.replace("/", "-")
        with path.open("wb") as target:
            write_iso(target.fileno(), "X", {"a/b": b"c"}, moment=MOMENT)
        made.append(path.read_bytes())
        time.sleep(1.1)
    monkeypatch.undo()
    time.tzset()
    assert made[0] == made[1]


def test_what_a_seed_says_by_itself() -> None:
    files = nocloud_files(Seed(hostname="web", environ=("A=b",), hosts=b"127.0.1.1\tweb\n"))
    assert sorted(files) == [
        *(f"hyperstart/{name}" for name in ("environ", "hostname", "hosts")),
        *("meta-data", "user-data"),
    ]
    assert files["hyperstart/environ"] == b"A=b\0"
    assert b"local-hostname: web\n" in files["meta-data"]
    assert files["user-data"].startswith(b"#cloud-config\n")
    other = nocloud_files(Seed(hostname="web2"))
    assert other["meta-data"].splitlines()[0] != files["meta-data"].splitlines()[0]
    drive = config_drive_files(Seed(hostname="web"))
    assert json.loads(drive["openstack/latest/meta_data.json"])["hostname"] == "web"


def test_a_seed_carries_documents_as_they_are(run_cli: RunCli, tmp_path: Path) -> None:
    for name in ("user", "meta", "network"):
        (tmp_path / name).write_bytes(name.encode() + b"\xff\n")
    words = ("--user-data", "user", "--meta-data", "meta", "--network-config", "network")
    for layout, places in (
        ("nocloud", ("user-data", "meta-data", "network-config")),
        (
            "config-drive",
            tuple(
                f"openstack/latest/{name}"
                for name in ("user_data", "meta_data.json", "network_data.json")
            ),
        ),
    ):
        done = run_cli("seed", "-o", "s.iso", "--layout", layout, *words, cwd=tmp_path)
        assert (done.returncode, done.stdout) == (0, "s.iso\n"), done.stderr
        found = extracted(tmp_path / "s.iso", tmp_path / layout)
        assert found == {
            place: name.encode() + b"\xff\n"
            for place, name in zip(places, ("user", "meta", "network"), strict=True)
        }


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("--hostname", "no good"), "host name 'no good' is not one"),
        (("-e", "=x"), "=x"),
        (("--dns", "ns.lan"), "--dns 'ns.lan' is no IPv4 address"),
        (("--user-data", "/no/such"), "cannot open /no/such"),
        (("--env-file", "/no/such"), "cannot open /no/such"),
        (("-o", "/no/such/seed.iso"), "the directory /no/such is not there"),
    ],
)
def test_a_seed_that_cannot_be(
    words: tuple[str, ...], told: str, run_cli: RunCli, tmp_path: Path
) -> None:
    done = run_cli("seed", "-o", tmp_path / "seed.iso", *words)
    assert done.returncode == 1
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert told in error
    assert not (tmp_path / "seed.iso").exists()
