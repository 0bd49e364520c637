"""What --align is for: a large file of the root file system, mapped by huge pages in the guest."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.conftest import RunCli
from tests.support.layers import f, layer, layout

SOURCE = Path(__file__).parent / "support" / "faults.c"
SIZE = 8 << 20

pytestmark = pytest.mark.boot


@pytest.mark.parametrize("rootfs_format", ["erofs", "ext4"])
def test_an_aligned_file_takes_a_fault_for_each_huge_page(
    tmp_path: Path, run_cli: RunCli, kernel: Path, rootfs_format: str
) -> None:
    assert kernel.exists()
    program = tmp_path / "faults"
    flags = ("-static", "-O1", "-Wall", "-Wextra", "-Werror")
    subprocess.run(["musl-gcc", *flags, "-o", program, SOURCE], check=True)
    content = bytes(range(256)) * (SIZE // 256)
    image = layout(
        tmp_path / "layout",
        layer(f("first", b"1"), f("faults", program.read_bytes(), mode=0o755), f("big", content)),
        config={"Cmd": ["/faults", "/big"]},
    )
    faults = {}
    for option in ("", "--align"):
        out = tmp_path / f"out{option}"
        options = ["--format", rootfs_format, *filter(None, [option])]
        assert run_cli("convert", f"oci:{image}", "-o", out, *options).returncode == 0
        done = run_cli("boot", out, "--require-dax", "--timeout", "120", timeout=180)
        assert done.returncode == 0, done.stderr
        faults[option] = int(done.stdout.split()[0])
    assert faults[""] >= SIZE // 4096
    assert faults["--align"] <= SIZE // (2 << 20) + 4
