"""`hyperbuild warm` and `boot --warm` as a user meets them: results, refusals, statuses."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.images import image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import RunCli

pytestmark = pytest.mark.boot


@pytest.fixture
def source(kernel: Path, test_cache: Path) -> str:
    assert kernel.exists()
    return f"oci:{image('busybox', test_cache)}"


@pytest.fixture
def template(run_cli: RunCli, source: str) -> Iterator[Path]:
    """Give a template that stands before its application."""
    done = run_cli("warm", source)
    assert done.returncode == 0, done.stderr
    path = Path(done.stdout.strip())
    yield path
    path.unlink(missing_ok=True)


def test_a_copy_runs_what_its_own_boot_says(
    run_cli: RunCli, source: str, template: Path, tmp_path: Path
) -> None:
    assert template.parent.name == "warm"
    report = tmp_path / "boot.html"
    words = ("--require-warm", "-e", "A=b", "--report", report, source)
    done = run_cli("boot", *words, "sh", "-c", "echo $A; exit 7")
    assert (done.returncode, done.stdout) == (7, "b\n"), done.stderr
    assert "application started after" in done.stderr
    assert "renewed +" in done.stderr
    assert "the copy had its own identity" in report.read_text()


def test_other_options_have_no_template(run_cli: RunCli, source: str, template: Path) -> None:
    assert template.exists()
    done = run_cli("boot", "--require-warm", "-m", "128M", source, "true")
    assert done.returncode == 125
    assert done.stderr.splitlines() == [
        "Error: there is no template of this image for these options; make one with hyperbuild warm"
    ]
    done = run_cli("boot", "--warm", "-m", "128M", source, "echo", "cold")
    assert (done.returncode, done.stdout) == (0, "cold\n")
    assert "Warning: there is no template of this image" in done.stderr


def test_a_copys_instructions_cannot_be_counted(run_cli: RunCli, source: str) -> None:
    done = run_cli("boot", "--warm", "--budget", "insns=18M", source, "true")
    assert done.returncode == 2
    assert done.stderr.startswith("Error: a copy has no instructions to count; drop --warm")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--when", "healthy"), 1, "no health check; give one with --health-cmd"),
        (("--when", "soon"), 2, "'soon' is not one of"),
        (("-m", "8M"), 2, "memory of 8 MiB"),
        (("--when", "listening", "--timeout", "0.01"), 1, "not listening in time"),
    ],
)
def test_a_template_that_cannot_be_made(
    run_cli: RunCli, source: str, words: tuple[str, ...], status: int, said: str
) -> None:
    done = run_cli("warm", *words, source)
    assert (done.returncode, done.stdout) == (status, "")
    assert said in done.stderr.splitlines()[-1]
