"""The same images under runc, as docker would run them, and under ``hyperbuild boot``.

What differs is in the table of docs/runtime.md, and what is in the table differs.
"""

from __future__ import annotations

import os
import re
import subprocess
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from shutil import rmtree
from typing import TYPE_CHECKING

import pytest

from tests.conftest import HYPERBUILD
from tests.runtime.cases import CASES
from tests.runtime.container import PATIENCE, allowed_limits, make_container
from tests.runtime.differences import differences, intended, read_report
from tests.runtime.docker import LIMITS, UNLIMITED, stop_signal
from tests.runtime.images import torture, with_report

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.runtime.cases import Case
    from tests.runtime.differences import Difference

    Compared = Callable[[str], "set[Difference]"]

pytestmark = [
    pytest.mark.boot,
    pytest.mark.skipif(os.getuid() != 0, reason="runc, as docker uses it, needs root"),
]

HOSTNAME = "runtime"
#: What an access log says of each request has the time in it.
_LOGGED = re.compile(r'.* "GET / HTTP/1\.[01]" .*')


def machine_run(case: Case, layout: Path, environment: dict[str, str]) -> tuple[int, str]:
    """Boot the image; return exit status and stdout."""
    own = [word for text in case.own for word in ("-e", text)]
    options = ("--hostname", HOSTNAME, "--timeout", str(PATIENCE))
    argv = [str(HYPERBUILD), "boot", *options, *own]
    argv += [*case.options, f"oci:{layout}", "--", *case.words]
    with subprocess.Popen(
        argv,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        said = ""
        if case.stop:
            said = process.stdout.readline()
            process.terminate()
        said += process.stdout.read()
        return process.wait(PATIENCE), said


def container_run(case: Case, layout: Path, directory: Path) -> tuple[int, str]:
    """Run the image under runc; return docker's exit status, and stdout."""
    container = make_container(layout, directory, words=case.words, own=case.own, hostname=HOSTNAME)
    config = case.image if isinstance(case.image, dict) else {}
    try:
        if not case.stop:
            return container.run()
        return container.run_and_stop(stop_signal(config.get("StopSignal", "SIGTERM")))
    finally:
        container.remove()


def told(case: Case, ran: tuple[int, str]) -> dict[str, str]:
    """Return what a run told, as a report; what else was written is one value of it."""
    report, others = read_report(ran[1])
    output = " / ".join(line for line in others if not _LOGGED.fullmatch(line))
    return {**report, "output": output, case.status: str(ran[0])}


def limits_out_of_reach() -> dict[str, str]:
    """Return what a report would say of docker's limits if this host allowed them."""
    return {
        f"limit {name.lower()}": " ".join(
            "unlimited" if number == UNLIMITED else str(number) for number in LIMITS[name]
        )
        for name in LIMITS.keys() - allowed_limits().keys()
    }


@pytest.fixture(scope="module")
def compared(
    tmp_path_factory: pytest.TempPathFactory, kernel: Path, shared_cache: Path, test_cache: Path
) -> Compared:
    """Give a function from a case to what differs in it; each is run once."""
    assert kernel.exists()
    limits = limits_out_of_reach()

    @cache
    def compare(name: str) -> set[Difference]:
        case, place = CASES[name], tmp_path_factory.mktemp("runtime")
        layout = (
            with_report(case.image, test_cache)
            if isinstance(case.image, str)
            else torture(place / "image", test_cache, case.image)
        )
        environment = {
            "PATH": os.environ["PATH"],
            "HOME": str(place),
            "HYPERBUILD_ACCEL": "tcg",
            "XDG_CACHE_HOME": str(shared_cache),
            "XDG_CONFIG_HOME": str(place / "config"),
            "XDG_DATA_HOME": str(place / "data"),
        }
        with ThreadPoolExecutor() as pool:
            runs = (
                pool.submit(container_run, case, layout, place / "container"),
                pool.submit(machine_run, case, layout, environment),
            )
        container, machine = (told(case, run.result()) for run in runs)
        rmtree(place)
        assert container[case.status] == str(case.ends), container
        assert case.says in container["output"]
        return differences(container | {n: limits[n] for n in limits if n in container}, machine)

    return compare


@pytest.mark.parametrize("name", CASES)
def test_an_image_runs_as_under_docker_but_for_what_the_table_says(
    name: str, compared: Compared
) -> None:
    table = intended()
    surprising = [one for one in compared(name) if not any(row.covers(one) for row in table)]
    assert not surprising


def test_the_table_says_nothing_that_is_not_so(compared: Compared) -> None:
    seen = set().union(*map(compared, CASES))
    assert [row for row in intended() if not any(row.covers(one) for one in seen)] == []
