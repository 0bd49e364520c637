"""What will keep an application from starting is told by name when its image is converted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from tests.conftest import RunCli
from tests.support.layers import E, d, f, layer, layout, s

SHELL = Path("/bin/dash").read_bytes()
X = {"mode": 0o755}


@pytest.mark.parametrize(
    ("entries", "config", "text"),
    [
        ([], {"Cmd": ["/bin/x"]}, "command: the command /bin/x is not in the image"),
        ([], {"Cmd": ["x"], "Env": ["PATH=/a:/b"]}, "x is not in PATH (/a:/b)"),
        ([f("bin/x", "#!/bin/y\n")], {"Cmd": ["x"]}, "no file that its user may execute"),
        ([f("x", "#!/bin/y\n", **X)], {"Cmd": ["/x"]}, "interpreter of /x, /bin/y is not"),
        ([f("x", "#!/x\n", **X)], {"Cmd": ["/x"]}, "no interpreter that Linux would reach"),
        ([f("x", "text", **X)], {"Cmd": ["/x"]}, "neither an ELF file nor a script"),
        ([f("x", b"\x7fELF" + b"\xff" * 99, **X)], {"Cmd": ["/x"]}, "machine: /x is a damaged"),
        ([f("x", SHELL[:18] + b"\xb7" + SHELL[19:], **X)], {"Cmd": ["/x"]}, "EM_AARCH64, not"),
        ([f("x", SHELL, **X)], {"Cmd": ["/x"]}, "loader: /lib64/ld-linux-x86-64.so.2"),
        ([f("x", SHELL, **X), f("lib64/ld-linux-x86-64.so.2", SHELL, **X)], {"Cmd": ["/x"]},
         "library: libc.so.6, which /x needs"),
        ([f("w"), f("x")], {"Cmd": ["/x"], "WorkingDir": "/w"}, "workdir: "),
    ],
)  # fmt: skip
def test_what_is_told(
    tmp_path: Path, run_cli: RunCli, entries: list[E], config: dict[str, Any], text: str
) -> None:
    image = layout(tmp_path / "image", layer(d("etc/"), *entries), config=config)
    done = run_cli("convert", "--no-kernel", f"oci:{image}", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert text in done.stderr


@pytest.mark.parametrize("library", ["lib/x86_64-linux-gnu/libc.so.6", "opt/own/libc.so.6"])
def test_what_can_start_is_not_complained_of(tmp_path: Path, run_cli: RunCli, library: str) -> None:
    image = layout(
        tmp_path / "image",
        layer(
            f("lib64/ld-linux-x86-64.so.2", SHELL, **X),
            f(library, SHELL, **X),
            f("etc/ld.so.conf.d/own.conf", "/opt/own\n"),
            f("usr/bin/sh", SHELL, **X),
            s("bin", "usr/bin"),
            f("srv/run", "#!/bin/sh -e\n", **X),
        ),
        config={"Cmd": ["./run"], "WorkingDir": "/srv"},
    )
    done = run_cli("convert", "--no-kernel", f"oci:{image}", "-o", tmp_path / "out")
    assert "Warning" not in done.stderr
