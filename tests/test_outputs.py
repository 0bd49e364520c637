"""Disks and discs that boot by themselves: each one started by firmware, as a user's machine is."""

from __future__ import annotations

import hashlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import HYPERBUILD, KernelOf, RunCli, environment
from tests.support.debian import PAGE_TITLE
from tests.support.firmware import powered
from tests.support.images import image

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.boot

#: Has a shell script mount what it likes over what the host has, for itself alone.
APART = ("unshare", "--user", "--map-root-user", "--mount", "sh", "-ec")
#: A recipe whose application tells who it thinks it is.
SEEDED = """
image = "oci:{image}"
[boot]
cmd = ["sh", "-c", 'cat /etc/hostname /etc/resolv.conf; echo "$GREETING, $MOOD, $HOSTNAME"; exit 7']
env = {{ GREETING = "hello", MOOD = "calm" }}
hostname = "baked"
[output]
disk = "{here}/seeded.{kind}"
"""
ENDED = "hyperstart: the application has ended with status"


class Maker:
    """Converts images into outputs, with one store for all."""

    def __init__(self, home: Path, env: dict[str, str], cache: Path) -> None:
        self.home = home
        self.env = env
        self.cache = cache

    def source(self, name: str) -> str:
        """Return the reference of the image name."""
        return f"oci:{image(name, self.cache)}"

    def run(self, *words: str | Path, umask: int = 0o022) -> subprocess.CompletedProcess[str]:
        """Run words to their end."""
        return subprocess.run(
            words, env=self.env, capture_output=True, text=True, check=False, umask=umask
        )

    def make(self, name: str, file: str, *options: str, umask: int = 0o022) -> Path:
        """Return the output file of image name, made with options."""
        target = self.home / file
        target.parent.mkdir(exist_ok=True)
        words = ("convert", self.source(name), "-o", target, *options)
        done = self.run(HYPERBUILD, *words, umask=umask)
        assert (done.returncode, done.stdout) == (0, f"{target}\n"), done.stderr
        return target


@pytest.fixture(scope="module")
def maker(
    tmp_path_factory: pytest.TempPathFactory,
    test_cache: Path,
    shared_cache: Path,
    kernel_of: KernelOf,
) -> Iterator[Maker]:
    """Give what makes outputs; large ones go at the end."""
    kernel_of("disk")
    home = tmp_path_factory.mktemp("outputs")
    yield Maker(home, {**os.environ, **environment(home, shared_cache)}, test_cache)
    for path in home.rglob("*.*"):
        if path.is_file() and path.stat().st_size > 1 << 20:
            path.unlink()


def disc(file: Path) -> tuple[str, str]:
    return "-drive", f"format=raw,media=cdrom,readonly=on,file={file}"


def check_error(done: subprocess.CompletedProcess[str], told: str) -> None:
    assert done.returncode == 1, done.stderr
    (error,) = [line for line in done.stderr.splitlines() if line.startswith("Error: ")]
    assert told in error
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("kind", "options", "drive", "device"),
    [
        ("raw", ("--disk-size", "512M"), "format=raw,if=none,id=d", "virtio-blk-pci,drive=d"),
        ("qcow2", ("--verity",), "format=qcow2,if=none,id=d", "nvme,serial=1,drive=d"),
        ("vhd", ("--format", "ext4"), "format=vpc,if=none,id=d", "ide-hd,drive=d"),
        ("iso", (), "format=raw,if=none,id=d,readonly=on", "ide-cd,drive=d"),
    ],
)
def test_uefi_starts_it(
    kind: str, options: tuple[str, ...], drive: str, device: str, maker: Maker, tmp_path: Path
) -> None:
    file = maker.make("nginx", f"nginx.{kind}", "--output-format", kind, *options)
    disk = ("-drive", f"{drive},file={file}", "-device", device)
    with powered(tmp_path / "machine", *disk) as machine:
        assert PAGE_TITLE.encode() in machine.fetch()
        machine.press_power_button()
        assert machine.wait() == 0
        assert f"{ENDED} 0" in machine.console


def test_a_bios_starts_the_disc(maker: Maker, tmp_path: Path) -> None:
    file = maker.make("nginx", "nginx.iso", "--output-format", "iso")
    with powered(tmp_path / "machine", *disc(file), uefi=False) as machine:
        assert PAGE_TITLE.encode() in machine.fetch()


def test_a_seed_tells_a_machine_who_it_is(maker: Maker, tmp_path: Path) -> None:
    recipe, file, seed = (tmp_path / name for name in ("seeded.toml", "seeded.iso", "seed.iso"))
    recipe.write_text(SEEDED.format(image=image("busybox", maker.cache), here=tmp_path, kind="iso"))
    done = maker.run(HYPERBUILD, "build", recipe)
    assert (done.returncode, done.stdout) == (0, f"{file}\n"), done.stderr
    words = ("--hostname", "web7", "-e", "GREETING=good day", "--dns", "192.0.2.53")
    assert maker.run(HYPERBUILD, "seed", "-o", seed, *words).returncode == 0
    with powered(tmp_path / "alone", *disc(file), uefi=False) as machine:
        assert machine.wait() == 0
        said = machine.console.replace("\r", "")
        assert "baked\n" in said
        assert "nameserver 10.0.2.3\n" in said
        assert "hello, calm, baked\n" in said
        assert f"{ENDED} 7\n" in said
    with powered(tmp_path / "told", *disc(file), *disc(seed), uefi=False) as machine:
        assert machine.wait() == 0
        said = machine.console.replace("\r", "")
        assert "web7\nnameserver 192.0.2.53\ngood day, calm, web7\n" in said


def test_a_disk_that_is_verified_takes_no_seed(maker: Maker, tmp_path: Path) -> None:
    recipe, file, seed = (tmp_path / name for name in ("seeded.toml", "seeded.raw", "seed.iso"))
    recipe.write_text(
        SEEDED.format(image=image("busybox", maker.cache), here=tmp_path, kind="raw")
        + "[rootfs]\nverity = true\n"
    )
    done = maker.run(HYPERBUILD, "build", recipe)
    assert (done.returncode, done.stdout) == (0, f"{file}\n"), done.stderr
    assert maker.run(HYPERBUILD, "seed", "-o", seed, "--hostname", "web7").returncode == 0
    disk = ("-drive", f"format=raw,if=virtio,file={file}")
    with powered(tmp_path / "machine", *disk, *disc(seed)) as machine:
        assert machine.wait() == 0
        assert "hello, calm, baked" in machine.console
        assert "web7" not in machine.console


def test_what_cannot_start_is_told_on_the_console(maker: Maker, tmp_path: Path) -> None:
    file = maker.make("busybox", "lost.iso", "--output-format", "iso")
    content = bytearray(file.read_bytes())
    # Under another name the disc is looked for in vain.
    place = 16 * 2048 + 40
    content[place : place + 5] = b"OTHER"
    file.write_bytes(content)
    with powered(tmp_path / "machine", *disc(file), uefi=False) as machine:
        assert machine.wait() == 0
        assert "hyperstart: no drive has the disc HYPER_" in machine.console


@pytest.mark.parametrize("kind", ["raw", "qcow2", "vhd", "iso"])
def test_the_same_image_gives_the_same_bytes(kind: str, maker: Maker) -> None:
    one = maker.make("busybox", f"one/a.{kind}", "--output-format", kind)
    other = maker.make("busybox", f"other/b.{kind}", "--output-format", kind, umask=0o077)
    digests = {hashlib.sha256(path.read_bytes()).hexdigest() for path in (one, other)}
    assert len(digests) == 1


def test_it_takes_the_place_of_an_earlier_one_whole(maker: Maker) -> None:
    (maker.home / "again.raw").write_bytes(b"earlier")
    made = maker.make("busybox", "again.raw", "--output-format", "raw")
    assert "No problems found" in maker.run("sgdisk", "-v", made).stdout


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (("--output-format", "raw", "--disk-size", "64M"), "a disk of 64 MiB is too small"),
        (("--output-format", "raw", "--disk-size", "huge"), "'huge' is no size of a disk"),
        (("--output-format", "iso", "--disk-size", "1G"), "an ISO is as large as what is on it"),
        (("--output-format", "raw", "--profile", "dax"), "does not start a kernel of profile dax"),
        (("--output-format", "iso", "--verity"), "is a file, which dm-verity can't verify"),
        (("--output-format", "raw", "--kernel", "/vmlinux"), "firmware does not start an ELF"),
    ],
)
def test_what_cannot_be_is_one_line_and_leaves_nothing(
    options: tuple[str, ...], told: str, maker: Maker, tmp_path: Path
) -> None:
    words = ("convert", maker.source("busybox"), "-o", tmp_path / "x", *options)
    check_error(maker.run(HYPERBUILD, *words), told)
    assert list(tmp_path.iterdir()) == []


def test_a_recipe_says_what_cannot_be(maker: Maker, tmp_path: Path) -> None:
    recipe = tmp_path / "house.toml"
    recipe.write_text("image = 'oci:/no/such'\n[output]\ndisk = 'x.qcow2'\n")
    done = maker.run(HYPERBUILD, "build", recipe, "--set", "kernel.profile=micro")
    check_error(done, "[output] disk: firmware does not start a kernel of profile micro")
    done = maker.run(HYPERBUILD, "build", recipe, "--set", "output.disk=/no/such/x.iso")
    check_error(done, "[output] disk: cannot write /no/such/x.iso")


def test_an_output_that_is_no_file(maker: Maker, tmp_path: Path) -> None:
    words = ("convert", maker.source("busybox"), "--output-format", "raw", "-o")
    check_error(maker.run(HYPERBUILD, *words, tmp_path), f"{tmp_path} is no regular file")
    check_error(maker.run(HYPERBUILD, *words, tmp_path / "no/x"), "is not there; make it first")


@pytest.mark.parametrize(
    "words",
    [("--output-format", "raw"), ("--disk-size", "1G"), ("--output-format", "vmdk")],
)
def test_options_that_do_not_go_together(words: tuple[str, ...], run_cli: RunCli) -> None:
    assert run_cli("convert", "oci:/no/such", *words).returncode == 2


@pytest.mark.parametrize(
    ("hidden", "package"),
    [
        ("/usr/lib/systemd/boot/efi", "systemd-boot-efi"),
        ("/usr/lib/ISOLINUX", "isolinux"),
        ("/usr/lib/syslinux", "syslinux-common"),
    ],
)
def test_a_missing_program_is_told_with_its_package(
    hidden: str, package: str, maker: Maker, tmp_path: Path
) -> None:
    script = f'mount -t tmpfs none {hidden}; exec "$@"'
    words = ("convert", maker.source("busybox"), "-o", tmp_path / "x", "--output-format", "iso")
    done = maker.run(*APART, script, "sh", HYPERBUILD, *words)
    check_error(done, f"install with: apt install {package}")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_told_and_nothing_stays(maker: Maker, tmp_path: Path) -> None:
    script = 'mount -t tmpfs -o size=2m none "$1"; ls=$1; shift; "$@" || { ls -A "$ls"; exit 1; }'
    words = ("convert", maker.source("busybox"), "-o", tmp_path / "x", "--output-format", "raw")
    done = maker.run(*APART, script, "sh", tmp_path, HYPERBUILD, *words)
    check_error(done, "No space left on device; free some space there")
    assert done.stdout == ""
