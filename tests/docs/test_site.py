"""The site, the manual pages, and those blocks of pages that nobody types."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from docs.tools.blocks import Kind
from docs.tools.commands import read_commands
from docs.tools.manpages import DIRECTORY, manual_pages
from tests.docs.pages import COMMANDS, blocks_of, check, pages
from tests.support.checkout import CHECKOUT, copy_of_house

if TYPE_CHECKING:
    from tests.conftest import RunCli

TOOLS = Path(sys.executable).parent
#: How many blocks of commands no test runs; each says why, on its page.
NOT_RUN = 2
_TYPED = re.compile(r"`(hyperbuild [a-z][^`…|]*)`")


def test_the_site_is_built_without_a_warning(tmp_path: Path) -> None:
    options = ["--fail-on-warning", "--keep-going", "--nitpicky", "--quiet"]
    done = subprocess.run(
        [TOOLS / "sphinx-build", *options, CHECKOUT / "docs", tmp_path / "site"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    site = tmp_path / "site"
    text = (site / "reference/cli/hyperbuild-convert.html").read_text()
    assert "--max-entries" in text
    assert "HYPERBUILD_CONVERT_PLATFORM" in text
    # It can be read without a network.
    fetched = re.compile(r'<(?:script|link|img)\b[^>]*\b(?:src|href)="(?:https?:)?//')
    assert not [page for page in site.rglob("*.html") if fetched.search(page.read_text())]


def test_the_manual_is_that_of_the_commands_there_are() -> None:
    committed = {path.name: path.read_text() for path in DIRECTORY.glob("*.1")}
    assert committed == manual_pages(), "make man writes them anew"


def test_the_manual_is_read_without_a_complaint() -> None:
    text = {path: path.read_text() for path in sorted(DIRECTORY.glob("*.1"))}
    whole = [path for path in text if not text[path].startswith(".so ")]
    done = subprocess.run(
        ["mandoc", "-T", "lint", "-W", "style", *whole], capture_output=True, text=True, check=False
    )
    assert not done.stdout, done.stdout
    for path in text.keys() - set(whole):
        assert (DIRECTORY / text[path].split("/")[1].strip()).exists(), path


def test_an_installation_has_the_manual(tmp_path: Path) -> None:
    """`pip install .`, with what it takes from the network here already."""
    copy = copy_of_house(tmp_path)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    # What is installed already are these tests' own: left as it is.
    options = ["--no-deps", "--no-build-isolation", "--ignore-installed"]
    options += ["--prefix", tmp_path / "prefix"]
    done = subprocess.run(
        [*pip, "install", *options, "."], cwd=copy, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    installed = sorted(path.name for path in (tmp_path / "prefix/share/man/man1").iterdir())
    assert installed == sorted(manual_pages())
    assert (tmp_path / "prefix/bin/hyperbuild").exists()


@pytest.mark.parametrize("page", pages())
def test_what_is_read_on_a_page_is_right(page: str, tmp_path: Path) -> None:
    for block in blocks_of(page):
        try:
            check(block, tmp_path)
        except Exception as error:
            error.add_note(f"{page}:{block.line}")
            raise


@pytest.mark.parametrize("page", pages())
def test_the_commands_and_options_that_a_page_mentions_exist(page: str) -> None:
    """In the prose, and in blocks that show how a command is used."""
    known = {each.words: each for each in read_commands().walk()}
    usages = [block.text for block in blocks_of(page) if block.kind is Kind.TEXT]
    lines = [line for text in usages for line in text.splitlines()]
    used = [line for line in lines if line.startswith("hyperbuild ")]
    for text in [*_TYPED.findall((CHECKOUT / page).read_text()), *used]:
        words = [word.strip("[].,") for word in text.split()]
        command = max(
            (known[key] for n in (1, 2, 3) if (key := tuple(words[:n])) in known),
            key=lambda each: len(each.words),
        )
        assert not command.commands or len(words) == len(command.words), f"{page}: {text}"
        names = {name for option in command.options for name in option.names}
        typed = words[: words.index("--")] if "--" in words else words
        options = {word.partition("=")[0] for word in typed if re.match(r"--[a-z]", word)}
        assert options <= names, f"{page}: {text}"


def test_the_variable_of_an_option_has_its_name(run_cli: RunCli) -> None:
    for command in read_commands().walk():
        for option in command.options:
            if option.variable and option.variable != "HYPERBUILD_ACCEL":
                own = [name.strip("-").replace("-", "_").upper() for name in option.names]
                assert option.variable.endswith(f"_{max(own, key=len)}")
    refused = run_cli("convert", "oci:none", env={"HYPERBUILD_CONVERT_FORMAT": "fat"})
    assert refused.returncode == 2
    assert "Invalid value for '--format'" in refused.stderr
    refused = run_cli("inspect", "oci:none", env={"HYPERBUILD_INSPECT_PLATFORM": "linux/none/"})
    assert refused.stderr.startswith("Error: platform 'linux/none/' is not")


@pytest.mark.parametrize("page", pages())
def test_no_command_passes_as_text(page: str) -> None:
    for block in blocks_of(page):
        words = {line.split()[0] for line in block.text.splitlines() if line.strip()}
        if block.kind is Kind.TEXT:
            programs = [word for word in words - {"hyperbuild"} if shutil.which(word)]
            assert not programs, f"{page}:{block.line}: begin its fence with ```bash"


def test_what_no_test_runs_says_why() -> None:
    exempt = [
        (page, block.line)
        for page in pages()
        for block in blocks_of(page)
        if block.kind in COMMANDS and block.reason
    ]
    assert len(exempt) == NOT_RUN, exempt


@pytest.mark.parametrize("page", pages())
def test_what_another_test_runs_is_run_there(page: str) -> None:
    for block in blocks_of(page):
        if block.test:
            assert (CHECKOUT / block.test).is_file(), f"{page}:{block.line}"
        if block.kind is Kind.MAKE:
            assert block.test or block.reason, f"{page}:{block.line}"
