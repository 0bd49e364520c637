"""The initramfs: the same bytes every time and everywhere, and hyperstart's checks on the host."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from hyperbuild.converter.errors import ToolError
from hyperbuild.converter.progress import QUIET
from hyperbuild.initramfs import build
from hyperbuild.initramfs.build import SOURCES, build_initramfs

FUZZ_PROBE = "int LLVMFuzzerTestOneInput(const char *d, long n) { return n < 0 && *d; }"


def make(target: str, out: Path, *variables: str) -> None:
    argv = ("make", "--silent", "-C", SOURCES, f"OUT={out}", *variables, target)
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_two_builds_give_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = build_initramfs(tmp_path / "one", progress=QUIET)
    elsewhere = tmp_path / "else where"
    shutil.copytree(SOURCES, elsewhere / "src")
    elsewhere.joinpath("tmp").mkdir()
    monkeypatch.setattr(build, "SOURCES", elsewhere / "src")
    monkeypatch.chdir(elsewhere)
    monkeypatch.setenv("TMPDIR", str(elsewhere / "tmp"))
    second = build_initramfs(tmp_path / "two", progress=QUIET)
    assert first.path.read_bytes() == second.path.read_bytes()
    assert (first.digest, first.size) == (second.digest, second.size)
    assert first.path.parent.name == second.path.parent.name
    assert str(tmp_path).encode() not in second.path.read_bytes()


def test_it_is_compiled_once_and_leaves_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    built = build_initramfs(tmp_path, progress=QUIET)
    monkeypatch.setattr(build, "_compile", lambda _compiler: pytest.fail("compiled again"))
    assert build_initramfs(tmp_path, progress=QUIET) == built
    assert sorted(path.name for path in built.path.parent.iterdir()) == [
        ".lock",
        "initramfs.cpio",
        "tools",
    ]


def test_it_holds_init_and_the_console(tmp_path: Path) -> None:
    archive = build_initramfs(tmp_path, progress=QUIET).path.read_bytes()
    argv = ("cpio", "--list", "--verbose", "--quiet", "--numeric-uid-gid")
    listing = subprocess.run(argv, input=archive, capture_output=True, check=True).stdout.decode()
    lines = {line.split()[-1]: line for line in listing.splitlines()}
    assert lines["init"].startswith("-rwxr-xr-x")
    assert lines["dev/console"].startswith("crw-------")


def test_the_makefile_compiles_the_same_hyperstart(tmp_path: Path) -> None:
    make("hyperstart", tmp_path)
    init = (tmp_path / "init").read_bytes()
    assert init in build_initramfs(tmp_path / "cache", progress=QUIET).path.read_bytes()


def test_a_missing_compiler_is_told_with_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ToolError, match="apt install musl-tools"):
        build_initramfs(tmp_path, progress=QUIET)


def test_sources_that_do_not_compile_publish_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(SOURCES, tmp_path / "src")
    (tmp_path / "src/main.c").write_text("int main(void) { return x; }\n")
    monkeypatch.setattr(build, "SOURCES", tmp_path / "src")
    with pytest.raises(ToolError, match=r"main\.c"):
        build_initramfs(tmp_path / "cache", progress=QUIET)
    assert not list((tmp_path / "cache").rglob("*.cpio"))


def test_the_checks_pass_under_the_sanitizers(tmp_path: Path) -> None:
    make("test", tmp_path)


def test_fuzzing_finds_nothing(tmp_path: Path) -> None:
    probe = tmp_path / "probe.c"
    probe.write_text(FUZZ_PROBE)
    argv = ("clang", "-fsanitize=fuzzer,address", "-o", tmp_path / "probe", probe)
    if not shutil.which("clang") or subprocess.run(argv, capture_output=True).returncode:
        pytest.skip(
            "clang or its fuzzing runtime is not installed (apt install libclang-rt-14-dev)"
        )
    make("fuzz", tmp_path, "FUZZ_SECONDS=1")


def test_a_compiler_that_does_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    broken = tmp_path / "musl-gcc"
    broken.write_text("#!/bin/sh\necho no such back end >&2\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    with pytest.raises(ToolError, match=r"no such back end.*apt install"):
        build_initramfs(tmp_path / "cache", progress=QUIET)
    assert not (tmp_path / "cache").exists()
