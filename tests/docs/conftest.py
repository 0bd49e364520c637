"""A town for each file of tests, and a person in it who does what a page says."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from docs.tools.blocks import Kind
from tests.conftest import HYPERBUILD, KernelOf
from tests.docs.pages import blocks_of, needs_disk_kernel
from tests.docs.shell import open_shell
from tests.docs.steps import Step, read_steps
from tests.docs.town import MIRROR, PRIVATE, serve_town

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Follow = Callable[[str], None]


@pytest.fixture(scope="module")
def town(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """Give the number of the town's process, and the directory that has its certificates."""
    if os.geteuid():
        pytest.skip("a network of its own takes root")
    directory = tmp_path_factory.mktemp("town")
    with serve_town(directory) as number:
        yield number, directory / "ca.pem"


@pytest.fixture
def follow(
    town: tuple[int, Path], tmp_path: Path, shared_cache: Path, kernel_of: KernelOf
) -> Follow:
    """Give a function that does, in order, what a page has its reader do."""
    for profile in ("dax", "micro"):
        kernel_of(profile)
    number, ca = town
    cwd = tmp_path / "work"
    cwd.mkdir()
    (tmp_path / ".cache").symlink_to(shared_cache)
    registries = tmp_path / ".config/hyperbuild/registries.toml"
    registries.parent.mkdir(parents=True)
    hosts = ("docker.io", "registry.lan", f"registry.lan:{PRIVATE}", f"mirror.lan:{MIRROR}")
    registries.write_text("".join(f'["{host}"]\nca = "{ca}"\n' for host in hosts))
    env = {
        "HOME": str(tmp_path),
        "HYPERBUILD_ACCEL": "tcg",
        "LANG": "C.UTF-8",
        "PATH": f"{HYPERBUILD.parent}:{os.environ['PATH']}",
        "SSL_CERT_FILE": str(ca),
        "USER": "root",
    }

    def follow(page: str) -> None:
        if any(needs_disk_kernel(block.text) for block in blocks_of(page)):
            kernel_of("disk")
        with open_shell(number, tmp_path / "steps", cwd, env) as shell:
            for block in blocks_of(page):
                if block.needs and not Path(block.needs).exists():
                    continue
                if block.given:
                    wrong = shell.run(Step(block.given, block.line))
                    assert not wrong, f"before {page}:{block.line}: {wrong}"
                if block.file:
                    shell.write(block.file, block.text)
                elif block.kind is Kind.PYTHON:
                    shell.write("example.py", block.text)
                    wrong = shell.run(Step("python example.py", block.line))
                    assert not wrong, f"{page}:{block.line}: {wrong}"
                elif not block.reason and not block.test:
                    for step in read_steps(block):
                        wrong = shell.run(step)
                        assert not wrong, f"{page}:{step.line}: $ {step.command}\n{wrong}"

    return follow
