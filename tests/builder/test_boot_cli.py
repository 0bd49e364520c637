"""How `hyperbuild boot` reads its command line; what it does is in tests/test_end_to_end.py."""

from __future__ import annotations

import subprocess
from typing import Any

import click
import pytest

from hyperbuild.builder.cli import cli
from tests.conftest import HYPERBUILD, RunCli


def parsed(*args: str) -> dict[str, Any]:
    command = cli.commands["boot"]
    with command.make_context("boot", list(args), parent=click.Context(cli)) as context:
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


def test_a_command_that_starts_with_a_dash() -> None:
    assert parsed("nginx", "--", "--version")["command"] == ("--version",)
    with pytest.raises(click.NoSuchOption):
        parsed("nginx", "--no-such-option")


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("-p", "80", "x"), "80"),
        (("-p", "0:80", "x"), "0:80"),
        (("-m", "lots", "x"), "lots"),
        (("-m", "1M", "x"), "memory"),
        (("-e", "=x", "x"), "=x"),
        (("sha256:" + "0" * 64,), "hyperbuild images"),
        (("/no/such/dir",), "no bundle in /no/such/dir"),
    ],
)
def test_bad_values_have_status_125_and_one_line(
    run_cli: RunCli, args: tuple[str, ...], text: str
) -> None:
    done = run_cli("boot", *args)
    assert done.returncode == 125
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    assert text in done.stderr


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", "<&- >&- 2>&-"])
def test_closed_standard_files(closed: str, hyperbuild_env: dict[str, str]) -> None:
    script = f"{HYPERBUILD} images {closed}"
    assert subprocess.run(["sh", "-c", script], env=hyperbuild_env, check=False).returncode == 0


def test_every_option_has_a_variable(run_cli: RunCli) -> None:
    done = run_cli("boot", "x", env={"HYPERBUILD_BOOT_MEMORY": "plenty"})
    assert "plenty" in done.stderr
