"""The house's rule for hypervisors: what one of them wants stands in its own module alone."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest

from hyperbuild.converter.errors import ToolError
from hyperbuild.launcher import qemu
from hyperbuild.launcher.driver import Driver
from hyperbuild.launcher.starting import DRIVER

CHECKOUT = Path(__file__).resolve().parents[2]
ROOMS = ("builder", "converter", "disks", "initramfs", "kernel", "launcher", "recipes")
OWN = re.compile(
    r"qemu|nvdimm|icount|hostfwd|memory-backend|chardev|microvm|virtio-(blk|net|serial|pmem)"
)


def spoken(path: Path) -> list[str]:
    """Return the strings in a module that are not docstrings: what the program says and runs."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef)
    docstrings = {
        node.body[0].value
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    return [
        node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in docstrings
    ]


def test_nothing_else_speaks_a_hypervisors_language() -> None:
    modules = [path for room in ROOMS for path in (CHECKOUT / room).rglob("*.py")]
    found = {
        str(path.relative_to(CHECKOUT)): text
        for path in modules
        for text in spoken(path)
        if OWN.search(text) and path != CHECKOUT / "launcher/qemu.py"
    }
    assert found == {}
    assert any(OWN.search(text) for text in spoken(CHECKOUT / "launcher/qemu.py"))


def test_the_driver_gives_what_the_protocol_asks_for() -> None:
    names = [name for name, _ in inspect.getmembers(Driver, inspect.isfunction) if name[0] != "_"]
    assert names == ["command", "explain", "find", "monitor", "places", "version"]
    assert all(callable(getattr(DRIVER, name)) for name in names)


def test_a_program_that_does_not_run_is_told(tmp_path: Path) -> None:
    program = tmp_path / qemu.BINARY
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    assert DRIVER.find(str(tmp_path)) == str(program)
    with pytest.raises(ToolError, match=r"does not run; reinstall"):
        DRIVER.version(str(program))
