"""The image's HEALTHCHECK, from its config to what is told of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.runtime.differences import differences, read_report
from tests.runtime.images import torture

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RunCli

pytestmark = [pytest.mark.boot, pytest.mark.usefixtures("kernel")]

MILLISECOND = 1_000_000
FAILED = "the health check failed as often as the image allows"

_REPORT = "report > /data/check.new && mv /data/check.new /data/check"
_WAIT = """report > /data/application
until [ -e /data/check ]; do sleep 0.05; done
cat /data/application
echo "the check:"
cat /data/check
"""


@pytest.mark.parametrize(
    "test", [["CMD-SHELL", _REPORT], ["CMD", "sh", "-c", _REPORT]], ids=["shell", "exec"]
)
def test_a_check_finds_what_the_application_finds(
    test: list[str], run_cli: RunCli, test_cache: Path, tmp_path: Path
) -> None:
    config = {
        "User": "app",
        "WorkingDir": "/real/made",
        "Env": ["PATH=/bin", "A=a  b", "HOME="],
        "Cmd": ["/bin/sh", "-c", _WAIT],
        "Healthcheck": {"Test": test, "Interval": 100 * MILLISECOND},
    }
    done = run_cli("boot", "--timeout", "60", f"oci:{torture(tmp_path, test_cache, config)}")
    assert done.returncode == 0, done.stderr
    application, _, check = done.stdout.partition("the check:\n")
    found = differences(read_report(application)[0], read_report(check)[0])
    assert {one.name: one.machine for one in found} == {
        "file stdin": "device",
        "file stderr": "device",
    }


@pytest.mark.parametrize(
    ("check", "told"),
    [
        ({"Test": ["CMD", "true"]}, "smoke test held: healthy after"),
        ({"Test": ["CMD-SHELL", "exit 1"]}, FAILED),
        ({"Test": ["CMD-SHELL", "exit 2"]}, FAILED),
        ({"Test": ["CMD", "sleep", "99"], "Timeout": 50 * MILLISECOND}, FAILED),
    ],
)
def test_how_a_check_ends_is_what_is_told(
    check: dict[str, Any], told: str, run_cli: RunCli, test_cache: Path, tmp_path: Path
) -> None:
    times = {"Interval": 100 * MILLISECOND, "Retries": 2}
    config = {"Cmd": ["sleep", "1000"], "Healthcheck": {**times, **check}}
    source = f"oci:{torture(tmp_path / 'image', test_cache, config)}"
    log = ("--console-log", tmp_path / "said.log")
    done = run_cli("boot", "--smoke", "--timeout", "60", *log, source)
    assert done.returncode == (told == FAILED), done.stderr
    assert told in done.stderr


def test_none_is_no_check(run_cli: RunCli, test_cache: Path, tmp_path: Path) -> None:
    config = {"Cmd": ["true"], "Healthcheck": {"Test": ["NONE"]}}
    done = run_cli("boot", "--smoke", f"oci:{torture(tmp_path / 'image', test_cache, config)}")
    assert done.returncode == 0, done.stderr
    assert "exits with 0" in done.stderr
