"""How `hyperbuild boot` reads its command line; what it does is in tests/test_end_to_end.py."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbuild.builder.boot_options import read_plainly
from hyperbuild.builder.boot_report import reported
from hyperbuild.builder.booting import BootOptions, machine_options, settled
from hyperbuild.builder.cli import cli
from hyperbuild.builder.console import Console
from hyperbuild.builder.context import read_context
from hyperbuild.builder.run_options import RUN_OPTIONS
from hyperbuild.converter.errors import HyperbuildError
from hyperbuild.launcher.budget import parse_budget
from hyperbuild.launcher.defaults import BootDefaults
from hyperbuild.launcher.timeline import Timeline
from tests.conftest import HYPERBUILD, RunCli


def parsed(*args: str, command: str = "boot") -> dict[str, Any]:
    known = cli.commands[command]
    with known.make_context(command, list(args), parent=click.Context(cli)) as context:
        return context.params


@pytest.mark.parametrize(
    "args",
    [
        ("-p", "80:80", "--cpus", "2", "nginx", "ls", "-l", "-p", "x"),
        ("nginx", "-p", "80:80", "--cpus=2", "ls", "-l", "-p", "x"),
        ("--cpus", "2", "nginx", "-p80:80", "--", "ls", "-l", "-p", "x"),
        ("--cpus", "2", "-p", "80:80", "--", "nginx", "ls", "-l", "-p", "x"),
    ],
)
def test_options_before_and_after_the_image(args: tuple[str, ...]) -> None:
    params = parsed(*args)
    assert params["image"] == "nginx"
    assert params["command"] == ("ls", "-l", "-p", "x")
    assert (params["publish"], params["cpus"]) == (("80:80",), 2)


#: The one variable that click reads here and that whoever runs the tests may have set.
ACCEL = {name: text for name, text in os.environ.items() if name == "HYPERBUILD_ACCEL"}
PLAIN = [
    ("nginx",),
    ("-p", "80:80", "--cpus", "2", "nginx", "ls", "-l", "-p", "x"),
    ("nginx", "-p80:80", "-p", "81:81/udp", "--cpus=2", "-eA=b=c", "--env", "D", "ls", "-l"),
    ("--cpus", "2", "--", "nginx", "ls", "-l"),
    ("nginx", "--", "--version"),
    ("nginx", "-i", "-", "--", "x"),
    ("-t", "nginx", "--tty", "-i", "sh"),
    ("--timeout", "1.5", "--rootfs=blk", "--require-dax", "nginx", "-m", "1G"),
    ("./bundle", "--report", "x.html", "--budget", "init=1s", "--accel", "tcg", "--pull=always"),
    ("nginx", "--warm", "--require-warm", "--health-cmd", "test -e /ready"),
    ("-v/a:/b:ro", "-u", "app", "--entrypoint=sh", "-P", "--tmpfs", "/t", "nginx", "-w/srv", "x"),
    ("nginx", "--read-only", "--add-host", "a:b", "--env-file", "e", "--dns", "1.2.3.4"),
    ("nginx", "--network", "tap:t", "--ip", "10.0.0.2/8", "--gateway", "10.0.0.1"),
    ("nginx", "--profile", "micro", "--platform", "linux/386", "--kernel", "v", "--authfile=a"),
]
NOT_PLAIN = [
    (),
    ("--",),
    ("--help",),
    ("nginx", "-h"),
    ("-i=1", "nginx"),
    ("-ix", "nginx"),
    ("--cpus", "0", "nginx"),
    ("--cpus", "two", "nginx"),
    ("--timeout", "0", "nginx"),
    ("--timeout", "nan", "nginx"),
    ("--rootfs", "nfs", "nginx"),
    ("--report", "/", "nginx"),
    ("--publish",),
    ("--no-such-option", "nginx"),
    ("--hostname=", "nginx"),
    ("--entrypoint=", "nginx"),
    ("--entrypoint", "", "nginx"),
]


@pytest.mark.parametrize("args", PLAIN, ids=" ".join)
def test_the_plain_way_reads_what_click_reads(args: tuple[str, ...]) -> None:
    assert read_plainly(args, ACCEL) == parsed(*args)


@pytest.mark.parametrize(
    "args",
    [
        ("nginx",),
        ("-d", "--name", "web", "-p80:80", "nginx", "--rm", "ls", "-d"),
        ("--restart", "on-failure:3", "--log-size=1G", "-i", "-d", "--", "nginx", "ls"),
    ],
    ids=" ".join,
)
def test_run_has_a_plain_way_too(args: tuple[str, ...]) -> None:
    assert read_plainly(args, ACCEL, "run", RUN_OPTIONS) == parsed(*args, command="run")
    assert read_plainly(["--smoke", "x"], {}, "run", RUN_OPTIONS) is None
    assert read_plainly(["x"], {"HYPERBUILD_RUN_NAME": "x"}, "run", RUN_OPTIONS) is None
    assert read_plainly(["x"], {"HYPERBUILD_BOOT_CPUS": "2"}, "run", RUN_OPTIONS) is not None


@pytest.mark.parametrize("args", NOT_PLAIN, ids=" ".join)
def test_what_is_not_plainly_right_is_left_to_click(args: tuple[str, ...]) -> None:
    assert read_plainly(args, {}) is None


def test_an_empty_entrypoint_is_another_than_none() -> None:
    assert parsed("--entrypoint", "", "x")["entrypoint"] == ""
    assert parsed("x")["entrypoint"] is None


def test_what_a_bundle_sets_comes_before_what_the_user_does() -> None:
    bundled = {
        "env": ["A=bundle"],
        "cmd": ["run"],
        "tmpfs": ["/run"],
        "user": "app",
        "entrypoint": "/start",
        "workdir": "/srv",
        "add-host": ["db:1.2.3.4"],
        "read-only": True,
    }

    def joined(*words: str) -> BootOptions:
        return settled(BootOptions(**parsed(*words)), BootDefaults(bundled))

    plain = joined("x")
    assert (plain.user, plain.workdir, plain.entrypoint) == ("app", "/srv", "/start")
    assert (plain.command, plain.tmpfs, plain.read_only) == (("run",), ("/run",), True)
    own = joined("-u", "0", "--entrypoint", "", "-w", "/", "--add-host", "db:5.6.7.8", "x")
    assert (own.user, own.workdir, own.entrypoint, own.command) == ("0", "/", "", ())
    assert own.add_host == ("db:1.2.3.4", "db:5.6.7.8")


def test_variables_come_from_the_bundle_then_from_files_then_from_the_command_line(
    tmp_path: Path,
) -> None:
    (tmp_path / "env").write_text("B=file\nC=file\n")
    words = ("-e", "C=line", "--env-file", str(tmp_path / "env"), "x")
    options = BootOptions(**parsed(*words))
    options = settled(options, BootDefaults({"env": ["A=bundle", "B=bundle", "C=bundle"]}))
    context = read_context({"HOME": str(tmp_path)}, Console.for_stderr(quiet=True))
    assert machine_options(context, options).env == (
        *("A=bundle", "B=bundle", "C=bundle", "B=file", "C=file", "C=line"),
    )


def test_variables_are_heeded_on_the_plain_way_too() -> None:
    options = read_plainly(["x"], {"HYPERBUILD_ACCEL": "tcg"})
    assert options is not None
    assert options["accel"] == "tcg"
    assert read_plainly(["x"], {"HYPERBUILD_ACCEL": "fast"}) is None
    assert read_plainly(["x"], {"HYPERBUILD_BOOT_CPUS": "2"}) is None


@given(
    st.lists(st.sampled_from(["-p", "-i", "--", "-", "x", "--cpus", "3", "--pull=always", "-e"]))
)
def test_the_plain_way_never_reads_anything_else(args: list[str]) -> None:
    options = read_plainly(args, ACCEL)
    if options is not None:
        assert options == parsed(*args)


@pytest.mark.parametrize("name", ["/no/such/dir", "sha256:" + "0" * 64])
def test_a_boot_loads_neither_click_nor_the_registry_client(
    hyperbuild_env: dict[str, str], name: str
) -> None:
    code = (
        "import sys; from hyperbuild.builder.main import main\n"
        f"try: main(['boot', '{name}'])\n"
        "except SystemExit as end: print(end.code, *sys.modules)"
    )
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, env=hyperbuild_env, capture_output=True, text=True, check=True)
    status, *modules = done.stdout.split()
    assert status == "125"
    heavy = {"click", "oras", "requests", "subprocess", "socket", "shutil", "tempfile"}
    heavy |= {"dataclasses", "inspect"}
    # What the store has is verified.
    heavy |= set() if name.startswith("sha256") else {"hashlib"}
    assert not heavy & set(modules)


def test_a_command_that_starts_with_a_dash() -> None:
    assert parsed("nginx", "--", "--version")["command"] == ("--version",)
    with pytest.raises(click.NoSuchOption):
        parsed("nginx", "--no-such-option")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("-p", "80:", "x"), "80:"),
        (("-p", "0:80", "x"), "0:80"),
        (("-m", "lots", "x"), "lots"),
        (("-m", "1M", "x"), "memory"),
        (("-e", "=x", "x"), "=x"),
        (("/no/such/dir", "--profile", "micro"), "--profile is for images"),
        (("x", "--disk", "state.img:big"), "is no size of a disk: give 16M to 16384G"),
        (("x", "--policy", "p.toml", "--profile", "micro"), "--policy is for finished bundles"),
        (("x", "--report", "boot.txt"), "name a file that ends in .json or .html"),
        (("x", "--platform", "amd64"), "platform 'amd64' is not os/arch"),
        (("x", "--smoke", "--report", "boot.txt"), "ends in .json, .html or .xml"),
        (("x", "--smoke", "-m", "lots"), "lots"),
        (("x", "--smoke", "--expect-http", "nope"), "is not [:PORT]/PATH"),
        (("x", "--smoke", "--expect-log", "("), "regular expression '(' is none"),
        (("x", "--smoke", "--expect-log", "(" * 5000 + ")" * 5000), "is none"),
        (("x", "--expect-port", "80"), "--expect-port is for smoke tests"),
        (("x", "--warm", "--budget", "insns=18M"), "a copy has no instructions to count"),
        (("x", "--disk", "state.img", "--warm"), "a copy has no disk"),
        (("x", "-v", "data:/d", "--warm"), "a copy has no folders or volumes of its own; drop"),
        (("x", "--network", "tap:t", "--ip", "10.0.0.2/8", "--warm"), "drop --warm or the tap"),
        (("x", "-v", "a/b:/c"), "if it is a folder say ./a/b"),
        (("x", "--tmpfs", "/t:big"), "'big' is no option of it"),
        (("x", "--tmpfs", "/t", "-v", "a:/t"), "/t is mounted twice"),
        (("x", "--network", "bridge"), "is not one of user, none and tap:IFNAME"),
        (("x", "--network", "tap:t"), "is not ADDRESS/PREFIX"),
        (("x", "--add-host", "db"), "is not NAME:IP"),
        (("x", "--dns", "dns.lan"), "is no IPv4 address"),
        (("x", "-w", "srv"), "say /srv"),
        (("x", "-p", "80:80", "-p", "127.0.0.1:80:81"), "is given twice"),
    ],
)
def test_bad_values_have_status_2_and_one_line(
    run_cli: RunCli, args: tuple[str, ...], text: str
) -> None:
    done = run_cli("boot", *args)
    assert done.returncode == 2
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert text in done.stderr


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("sha256:" + "0" * 64, "hyperbuild images"),
        ("/no/such/dir", "no bundle in /no/such/dir"),
        ("No Name", "is not a reference"),
    ],
)
def test_what_is_not_there_has_status_125_and_one_line(
    run_cli: RunCli, name: str, text: str
) -> None:
    done = run_cli("boot", name)
    assert done.returncode == 125
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert text in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_standard_files(closed: str, hyperbuild_env: dict[str, str]) -> None:
    script = f"{HYPERBUILD} images {closed}"
    assert subprocess.run(["sh", "-c", script], env=hyperbuild_env, check=False).returncode == 0


@pytest.mark.parametrize("word", ["--disk", "-e", "--health-cmd", "--console-log", "--expect-log"])
def test_a_last_option_without_its_value_is_a_usage_error(
    run_cli: RunCli, tmp_path: Path, word: str
) -> None:
    for words in ((word,), ("x", word), ("x", "-i", word)):
        done = run_cli("boot", *words, cwd=tmp_path)
        assert done.returncode == 2
        assert f"Option '{word}' requires an argument." in done.stderr
    assert not (tmp_path / "--").exists()


def test_every_option_has_a_variable(run_cli: RunCli) -> None:
    done = run_cli("boot", "x", env={"HYPERBUILD_BOOT_MEMORY": "plenty"})
    assert "plenty" in done.stderr


def test_a_budget_of_no_phase_is_a_usage_error_that_lists_them(run_cli: RunCli) -> None:
    done = run_cli("boot", "x", "--budget", "exec=1s")
    assert done.returncode == 2
    assert (
        "budget 'exec=1s' names no phase of a boot; there are: hypervisor, machine, " in done.stderr
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("boot.txt", "name a file that ends in .json or .html"),
        ("missing/boot.json", "missing is not there; make it first"),
        ("directory.html", "is no regular file"),
    ],
)
def test_a_report_that_cannot_be_is_refused_before_the_boot(
    tmp_path: Path, name: str, text: str
) -> None:
    (tmp_path / "directory.html").mkdir()
    report = reported([tmp_path / name], "x", Timeline(), ())
    with pytest.raises(HyperbuildError, match=text), report:
        raise AssertionError("it went on")
    assert [path.name for path in tmp_path.iterdir()] == ["directory.html"]


def test_a_report_is_written_whatever_comes_of_the_boot(tmp_path: Path) -> None:
    timeline = Timeline()
    timeline.mark("start", 0)
    budgets = [parse_budget("init=1ms"), parse_budget("insns=1M")]
    for name in ("boot.json", "boot.html"):
        path = tmp_path / name
        path.write_text("old")
        with pytest.raises(KeyError), reported([path], "<i>x</i>", timeline, budgets):
            assert path.read_text() == "old"
            timeline.mark("init", 5_000_000)
            raise KeyError
    report = json.loads((tmp_path / "boot.json").read_text())
    assert report["image"] == "<i>x</i>"
    assert [step["name"] for step in report["steps"]] == ["start", "init"]
    assert [budget["met"] for budget in report["budgets"]] == [False, False]
    page = (tmp_path / "boot.html").read_text()
    assert "<i>x" not in page
    assert "&lt;i&gt;x" in page
    assert "exceeded" in page
    assert "http" not in page.replace("http-equiv", "")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["boot.html", "boot.json"]


def test_an_option_of_the_kernel_is_explained_for_each_profile(run_cli: RunCli) -> None:
    done = run_cli("kernel", "explain", "fs_dax")
    assert done.returncode == 0
    lines = done.stdout.splitlines()
    assert lines[0] == "micro  not asked for"
    assert lines[1] == "dax    CONFIG_FS_DAX=y  (dax.config)"
    assert lines[2].strip().startswith("struct pages for device memory")
    unknown = run_cli("kernel", "explain", "CONFIG_NO_SUCH_THING")
    assert unknown.returncode == 1
    assert "no profile asks for CONFIG_NO_SUCH_THING" in unknown.stderr


def test_kernel_list_shows_the_profiles(run_cli: RunCli) -> None:
    listed = run_cli("kernel", "list").stdout
    assert [line.split()[0] for line in listed.splitlines()[:5]] == [
        "PROFILE",
        "micro",
        "dax",
        "full",
        "disk",
    ]


@pytest.mark.parametrize(
    ("args", "words"),
    [(("-it",), "needs a terminal"), (("-t", "--smoke"), "drop -t or --smoke")],
)
def test_a_terminal_where_there_is_none(run_cli: RunCli, args: tuple[str, ...], words: str) -> None:
    done = run_cli("boot", *args, "oci:/no/such")
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert words in done.stderr


def test_it_is_two_options() -> None:
    params = parsed("-it", "nginx", "sh", "-t")
    assert (params["interactive"], params["tty"]) == (True, True)
    assert params["command"] == ("sh", "-t")
