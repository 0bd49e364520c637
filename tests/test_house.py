"""The house in order: linters, the direction of imports, packaging, and its own limits."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

from hyperbuild.builder import fleet_code
from tests.support.checkout import CHECKOUT, ROOMS, copy_of_house, tracked_files

TOOLS = Path(sys.executable).parent
PYPROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())


def run(*argv: str | Path, cwd: Path = CHECKOUT) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"NO_COLOR": "1"}
    return subprocess.run(
        argv, cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize(
    "argv",
    [("ruff", "check"), ("ruff", "format", "--check"), ("mypy",), ("lint-imports",)],
    ids=" ".join,
)
def test_linters_find_nothing(argv: tuple[str, ...]) -> None:
    done = run(TOOLS / argv[0], *argv[1:])
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("room", "statement"),
    [
        ("converter", "import hyperbuild.launcher"),
        ("kernel", "from hyperbuild.converter import tree"),
        ("kernel", "import hyperbuild.initramfs"),
        ("launcher", "import hyperbuild.builder"),
    ],
)
def test_an_import_that_climbs_is_caught(tmp_path: Path, room: str, statement: str) -> None:
    copy = copy_of_house(tmp_path)
    (copy / room / "climber.py").write_text(f'"""Planted."""\n\n{statement}\n')
    # The copy's own folders under the package's name, before the editable install of this one.
    (tmp_path / "path").mkdir()
    (tmp_path / "path/hyperbuild").symlink_to(copy / ".typing/hyperbuild")
    code = (
        f"import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]; "
        f"sys.path.insert(0, {str(tmp_path / 'path')!r}); "
        "from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))"
    )
    done = run(sys.executable, "-c", code, cwd=copy)
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"hyperbuild.{room}.climber" in done.stdout


def test_every_list_of_rooms_is_the_same() -> None:
    packages = [f"hyperbuild.{room}" for room in ROOMS]
    setuptools = PYPROJECT["tool"]["setuptools"]
    assert setuptools["packages"] == packages
    assert setuptools["package-dir"] == dict(zip(packages, ROOMS, strict=True))
    assert PYPROJECT["tool"]["mypy"]["packages"] == packages
    assert PYPROJECT["tool"]["importlinter"]["root_packages"] == packages
    banned = PYPROJECT["tool"]["ruff"]["lint"]["flake8-tidy-imports"]["banned-api"]
    assert sorted(banned) == list(ROOMS)
    assert sorted(path.parent.name for path in CHECKOUT.glob("*/py.typed")) == list(ROOMS)
    assert fleet_code.ROOMS == ROOMS
    links = sorted((CHECKOUT / ".typing/hyperbuild").iterdir())
    assert [str(link.readlink()) for link in links] == [f"../../{room}" for room in ROOMS]


@pytest.fixture(scope="module")
def distributions(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a directory with the wheel and the sdist, built from a copy without a network."""
    place = tmp_path_factory.mktemp("distributions")
    copy = copy_of_house(place)
    code = (
        "from setuptools import build_meta as backend; "
        f"backend.build_sdist({str(place)!r}); backend.build_wheel({str(place)!r})"
    )
    done = run(sys.executable, "-c", code, cwd=copy)
    assert done.returncode == 0, done.stdout + done.stderr
    return place


def shipped_files() -> set[str]:
    """Return the files of rooms that an installed hyperbuild needs, as hyperbuild/…"""
    suffixes = {".py", ".typed", ".c", ".h", ".config", ".patch", ".toml"}
    rooms = (path.relative_to(CHECKOUT) for path in tracked_files())
    files = (path for path in rooms if path.parts[0] in ROOMS)
    return {
        f"hyperbuild/{path}"
        for path in files
        if path.suffix in suffixes or path.name in {"Makefile", "py.typed"}
    }


def test_the_wheel_holds_every_file_of_the_rooms_and_nothing_else(distributions: Path) -> None:
    (wheel,) = distributions.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}
    inside = {name for name in names if ".dist-info/" not in name and ".data/" not in name}
    assert inside == shipped_files()
    manual = {name.rpartition("/")[2] for name in names if ".data/data/share/man/man1/" in name}
    assert manual == {path.name for path in CHECKOUT.glob("docs/man/*.1")}
    assert len(names) == len([name for name in names if ".dist-info/" in name]) + len(
        inside | manual
    )
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_the_sdist_is_enough_to_build_and_test_from(distributions: Path) -> None:
    (sdist,) = distributions.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    wanted = {name.removeprefix("hyperbuild/") for name in shipped_files()}
    wanted |= {"Makefile", "LICENSE", "README.md", "pyproject.toml", "tests/conftest.py"}
    wanted |= {"docs/conf.py", "docs/man/hyperbuild.1", "docs/tools/manpages.py"}
    assert wanted <= names
    assert not [name for name in names if "__pycache__" in name or name.startswith(".venv")]


def test_no_file_is_too_long_to_read() -> None:
    code = [path for path in tracked_files() if path.suffix in {".py", ".c", ".h"}]
    lengths = {path: len(path.read_text(errors="replace").splitlines()) for path in code}
    assert not {path: length for path, length in lengths.items() if length > 600}
