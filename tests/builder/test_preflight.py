"""What will keep an application from starting is told by convert and refused by boot."""

from __future__ import annotations

import json
import struct
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
        ([f("x", "#!/usr/bin/env y\n", **X), f("usr/bin/env", SHELL, **X)],
         {"Cmd": ["/x"]}, "command: the interpreter of /x, y, is not in PATH"),
        ([f("x", "#!/y\n", **X), f("y", "#!/z\n", **X)], {"Cmd": ["/x"]},
         "command: the interpreter of /y, /z is not in the image"),
        ([f("w/x", "#!/y\n", **X)], {"Cmd": ["./x"], "WorkingDir": "/w"}, "of ./x, /y is not"),
        ([f("x", "#!/y\n", mode=0o700)], {"Cmd": ["/x"], "User": "9"}, "its user may execute"),
        ([f("w"), f("x")], {"Cmd": ["/x"], "WorkingDir": "/w"}, "workdir: "),
        ([f("w")], {"WorkingDir": "/w/below"}, "workdir: the working directory /w/below is no"),
        ([s("w", "nowhere")], {"WorkingDir": "/w/below"}, "workdir: "),
        ([], {"User": "x"}, "user: USER 'x' is not in the image's /etc/passwd"),
        ([], {"User": "0:x"}, "user: the group of USER '0:x' is not in the image's /etc/group"),
    ],
)  # fmt: skip
def test_what_is_told_and_recorded(
    tmp_path: Path, run_cli: RunCli, entries: list[E], config: dict[str, Any], text: str
) -> None:
    image = layout(tmp_path / "image", layer(d("etc/"), *entries), config=config)
    done = run_cli("convert", "--no-kernel", f"oci:{image}", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert text in done.stderr
    bundle = json.loads((tmp_path / "out/bundle.json").read_text())
    recorded = [f"{found['name']}: {found['text']}" for found in bundle["process"]["findings"]]
    assert any(text in line for line in recorded)


def linked(*needed: str, loader: str = "/lib/ld-musl-x86_64.so.1", runpath: str = "") -> bytes:
    """Return the smallest ELF program that names a loader and needs libraries."""
    strings = b"\0" + b"".join(name.encode() + b"\0" for name in (*needed, runpath, loader))
    offsets = [strings.index(name.encode() + b"\0") for name in needed]
    headers, dynamic = 64 + 3 * 56, 64 + 3 * 56 + len(strings)
    tags = [(1, at) for at in offsets] + [(5, headers), (10, len(strings))]
    tags += [(29, strings.index(runpath.encode() + b"\0"))] if runpath else []
    table = b"".join(struct.pack("<QQ", *tag) for tag in (*tags, (0, 0)))
    size = dynamic + len(table)
    at, length = headers + strings.index(loader.encode()), len(loader) + 1

    def segment(kind: int, start: int, count: int) -> bytes:
        return struct.pack("<IIQQQQQQ", kind, 5, start, start, start, count, count, 1)

    return (
        b"\x7fELF\2\1\1".ljust(16, b"\0")
        + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, 0, 64, 0, 0, 64, 56, 3, 64, 0, 0)
        + segment(1, 0, size) + segment(3, at, length) + segment(2, dynamic, len(table))
        + strings + table
    )  # fmt: skip


MUSL = f("lib/ld-musl-x86_64.so.1", SHELL, **X)
GLIBC = f("lib64/ld-linux-x86-64.so.2", SHELL, **X)
GLIBC_NAME = "/lib64/ld-linux-x86-64.so.2"


@pytest.mark.parametrize(
    ("program", "entries", "env", "missing"),
    [
        (linked("libx.so"), [MUSL], [], ["libx.so, which /x needs"]),
        (linked("libx.so"), [MUSL, f("usr/lib/libx.so", linked("liby.so"))], [],
         ["liby.so, which /usr/lib/libx.so needs"]),
        (linked("libx.so"), [MUSL, f("own/libx.so")], ["LD_LIBRARY_PATH=/own"], []),
        (linked("libx.so", runpath="$ORIGIN/own"), [MUSL, f("own/libx.so")], [], []),
        (linked("libx.so", runpath="/opt/$LIB"), [MUSL], [], []),
        (linked("libx.so"), [MUSL, f("own/libx.so"), f("etc/ld-musl-x86_64.path", "/own")], [], []),
        (linked("/own/libx.so"), [MUSL, f("own/libx.so")], [], []),
        (linked("libc.so.6", "libm.so.6"), [MUSL], [], []),
        (linked("libc.so.6", loader=GLIBC_NAME), [GLIBC], [], ["libc.so.6, which /x needs"]),
        (linked("libx.so", loader=GLIBC_NAME),
         [GLIBC, f("own/hw/libx.so"), f("etc/ld.so.cache", b"glibc\0\0libx.so\0/own/hw/libx.so\0")],
         [], []),
        (linked("libx.so", loader=GLIBC_NAME),
         [GLIBC, f("etc/ld.so.cache", b"glibc\0\0libx.so\0/own/hw/libx.so\0")], [],
         ["libx.so, which /x needs"]),
    ],
)  # fmt: skip
def test_libraries_are_looked_for_where_the_loader_does(
    tmp_path: Path,
    run_cli: RunCli,
    program: bytes,
    entries: list[E],
    env: list[str],
    missing: list[str],
) -> None:
    image = layout(
        tmp_path / "image",
        layer(f("x", program, **X), *entries),
        config={"Cmd": ["/x"], "Env": env},
    )
    done = run_cli("convert", "--no-kernel", f"oci:{image}", "-o", tmp_path / "out")
    assert done.stderr.count("Warning") == len(missing), done.stderr
    assert all(f"library: {text}" in done.stderr for text in missing)


@pytest.mark.parametrize("command", ["/proc/self/exe", "/dev/fd/3"])
def test_what_is_mounted_at_boot_is_not_looked_for(
    tmp_path: Path, run_cli: RunCli, command: str
) -> None:
    image = layout(tmp_path / "image", layer(d("etc/")), config={"Cmd": [command]})
    done = run_cli("convert", "--no-kernel", f"oci:{image}", "-o", tmp_path / "out")
    assert "Warning" not in done.stderr


@pytest.mark.boot
@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize(
    ("entries", "config", "status", "text"),
    [
        ([], {"Cmd": ["nope"]}, 127, "command: the command nope is not in PATH"),
        ([f("x")], {"Cmd": ["/x"]}, 126, "command: the command /x is no file that its user may"),
        ([f("x", "#!/y\n", **X)], {"Entrypoint": ["/x"]}, 127, "command: the interpreter of /x"),
        ([f("x", SHELL[:18] + b"\xb7" + SHELL[19:], **X)], {"Cmd": ["/x"]}, 126, "machine: /x is"),
        ([f("x", SHELL, **X)], {"Cmd": ["/x"]}, 126, "loader: /lib64/ld-linux-x86-64.so.2"),
        ([f("x", SHELL, **X), GLIBC], {"Cmd": ["/x"]}, 127, "library: libc.so.6"),
        ([], {"Cmd": ["/x"], "User": "x"}, 125, "user: USER 'x'"),
        ([f("w")], {"Cmd": ["/x"], "WorkingDir": "/w"}, 125, "workdir: "),
    ],
)  # fmt: skip
def test_what_boot_refuses(
    tmp_path: Path,
    run_cli: RunCli,
    entries: list[E],
    config: dict[str, Any],
    status: int,
    text: str,
) -> None:
    image = layout(tmp_path / "image", layer(d("etc/"), *entries), config=config)
    done = run_cli("convert", f"oci:{image}", "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    # In 48 MiB no guest would say anything, so that these words cannot be one's.
    done = run_cli("boot", "-m", "48M", tmp_path / "out")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (status, "", 1)
    assert done.stderr.startswith(f"Error: {text}")


@pytest.mark.boot
@pytest.mark.usefixtures("kernel")
def test_an_image_of_another_architecture_is_not_booted(tmp_path: Path, run_cli: RunCli) -> None:
    image = layout(
        tmp_path / "image", layer(f("x", "#!/y\n", **X)), config={"Cmd": ["/x"]},
        platform=("linux", "arm64"),
    )  # fmt: skip
    done = run_cli("boot", "--platform", "linux/arm64", f"oci:{image}")
    assert done.returncode == 126
    assert "machine: the image is for linux/arm64" in done.stderr.splitlines()[-1]


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
