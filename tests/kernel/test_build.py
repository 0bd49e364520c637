from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hyperbuild.converter.errors import ContentError, HyperbuildError, InputError, ToolError
from hyperbuild.converter.progress import QUIET, Task
from hyperbuild.kernel.build import Kernel, build_kernel, cached_kernels, find_kernel
from hyperbuild.kernel.kconfig import PROFILES, dropped, load_profile, parse_config, parse_fragment
from hyperbuild.kernel.source import find_source
from hyperbuild.kernel.toolchain import TOOLS, check_tools, first_error
from tests.kernel.tiny import VERSION, write_tiny_source

if TYPE_CHECKING:
    from collections.abc import Callable

    from hyperbuild.kernel.source import KernelSource


class Counter:
    """A Progress that keeps what it was told."""

    def __init__(self) -> None:
        self.counts: dict[str, int] = {}
        self.warnings: list[str] = []

    def say(self, message: str) -> None:
        pass

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def task(self, name: str, total: int | None = None, unit: str = "B") -> Task:
        counts = self.counts
        counts[name] = 0

        class Counting(Task):
            def advance(self, amount: int) -> None:
                counts[name] += amount

        return Counting()


@pytest.fixture
def tiny(tmp_path: Path) -> KernelSource:
    tree = write_tiny_source(tmp_path / "tree", tmp_path / "notes")
    return find_source(tmp_path / "cache", str(tree), progress=QUIET)


def build(tmp_path: Path, source: KernelSource) -> Kernel:
    return build_kernel(tmp_path / "cache", source, jobs=2, progress=QUIET)


def builds(tmp_path: Path) -> int:
    notes = tmp_path / "notes/builds"
    return len(notes.read_text().splitlines()) if notes.exists() else 0


def left_over(tmp_path: Path) -> list[str]:
    return [path.name for path in (tmp_path / "cache/kernel").glob(".hyperbuild-*")]


def test_a_build_is_kept_whole_and_found_again(tmp_path: Path, tiny: KernelSource) -> None:
    cache = tmp_path / "cache"
    assert find_kernel(cache, tiny) is None
    assert cached_kernels(cache) == []
    progress = Counter()
    kernel = build_kernel(cache, tiny, jobs=2, progress=progress)
    assert kernel.version == VERSION
    assert kernel.path == cache / "kernel" / kernel.key / "vmlinux"
    assert kernel.size == kernel.path.stat().st_size
    digests = [
        hashlib.sha256(path.read_bytes()).hexdigest() for path in (kernel.path, kernel.config)
    ]
    assert [kernel.digest, kernel.config_digest] == [f"sha256:{digest}" for digest in digests]
    assert progress.counts["compiling the kernel"] == 1
    (warning,) = progress.warnings
    assert "this is Linux 6.0, and the patches that speed up booting are for 6.1" in warning
    assert build(tmp_path, tiny) == find_kernel(cache, tiny) == kernel
    assert cached_kernels(cache) == [kernel]
    assert builds(tmp_path) == 1
    assert sorted(path.name for path in kernel.path.parent.iterdir()) == [
        "config",
        "kernel.json",
        "vmlinux",
    ]
    assert left_over(tmp_path) == []
    assert list((cache / "kernel/logs").iterdir()) == []


def test_another_source_is_another_kernel(tmp_path: Path, tiny: KernelSource) -> None:
    first = build(tmp_path, tiny)
    (tmp_path / "tree/new.c").touch()
    changed = find_source(tmp_path / "cache", str(tmp_path / "tree"), progress=QUIET)
    assert find_kernel(tmp_path / "cache", changed) is None
    second = build(tmp_path, changed)
    assert second.key != first.key
    assert second.digest == first.digest
    assert sorted(cached_kernels(tmp_path / "cache"), key=lambda it: it.key) == sorted(
        [first, second], key=lambda it: it.key
    )


def test_two_builds_at_once_do_the_work_once(tmp_path: Path, tiny: KernelSource) -> None:
    gate = tmp_path / "notes/gate"
    gate.touch()
    with ThreadPoolExecutor(3) as pool:
        running = [pool.submit(build, tmp_path, tiny) for _ in range(3)]
        wait_for(lambda: builds(tmp_path) > 0)
        gate.unlink()
        kernels = [future.result() for future in running]
    assert kernels[0] == kernels[1] == kernels[2]
    assert builds(tmp_path) == 1


def test_a_failing_build_names_the_first_error_and_its_log(tmp_path: Path) -> None:
    failure = "echo 'init/main.c:7: error: no such luck'; echo last words; exit 3"
    tree = write_tiny_source(tmp_path / "tree", tmp_path / "notes", failure)
    source = find_source(tmp_path / "cache", str(tree), progress=QUIET)
    with pytest.raises(ToolError, match=r"c:7: error: no such luck; the whole") as raised:
        build(tmp_path, source)
    (log,) = (tmp_path / "cache/kernel/logs").iterdir()
    assert str(log) in str(raised.value)
    assert "last words" in log.read_text()
    assert cached_kernels(tmp_path / "cache") == []
    assert left_over(tmp_path) == []


def test_a_build_that_makes_no_bootable_kernel_publishes_nothing(tmp_path: Path) -> None:
    tree = write_tiny_source(tmp_path / "tree", tmp_path / "notes")
    program = tree / "program.S"
    program.write_text(program.read_text().replace(".long 4, 8, 18", ".long 4, 8, 17"))
    source = find_source(tmp_path / "cache", str(tree), progress=QUIET)
    with pytest.raises(HyperbuildError, match="no PVH entry"):
        build(tmp_path, source)
    assert cached_kernels(tmp_path / "cache") == []
    assert left_over(tmp_path) == []


def test_each_profile_is_a_kernel_of_its_own(tmp_path: Path, tiny: KernelSource) -> None:
    made = [
        build_kernel(tmp_path / "cache", tiny, profile=name, jobs=1, progress=QUIET)
        for name in PROFILES
    ]
    assert [kernel.profile for kernel in made] == list(PROFILES)
    assert len({kernel.key for kernel in made}) == len(PROFILES)
    assert find_kernel(tmp_path / "cache", tiny) == made[1]


def test_a_kernel_for_firmware_comes_with_the_image_that_firmware_starts(
    tmp_path: Path, tiny: KernelSource
) -> None:
    cache = tmp_path / "cache"
    kernel = build_kernel(cache, tiny, profile="disk", jobs=1, progress=QUIET)
    assert kernel.bzimage is not None
    content = kernel.bzimage.path.read_bytes()
    assert content == b"what firmware starts\n"
    assert kernel.bzimage.digest == f"sha256:{hashlib.sha256(content).hexdigest()}"
    assert build(tmp_path, tiny).bzimage is None
    for damage in (b"cut", None):
        if damage is None:
            kernel.bzimage.path.unlink()
        else:
            kernel.bzimage.path.write_bytes(damage)
        assert find_kernel(cache, tiny, "disk") is None
        assert build_kernel(cache, tiny, profile="disk", jobs=1, progress=QUIET) == kernel


def test_fragments_of_one_s_own_make_another_kernel(tmp_path: Path, tiny: KernelSource) -> None:
    cache = tmp_path / "cache"
    more = (parse_fragment("house", "# Ours.\n\n# Because.\nCONFIG_HOUSE=y\n"),)
    plain = build(tmp_path, tiny)
    assert find_kernel(cache, tiny, more=more) is None
    own = build_kernel(cache, tiny, more=more, jobs=1, progress=QUIET)
    assert own.has("CONFIG_HOUSE")
    assert not plain.has("CONFIG_HOUSE")
    assert own.profile == "dax+house"
    assert find_kernel(cache, tiny, more=more) == own
    assert find_kernel(cache, tiny) == plain


def test_a_source_that_a_patch_does_not_fit_is_refused(tmp_path: Path) -> None:
    tree = write_tiny_source(tmp_path / "tree", tmp_path / "notes", level=1)
    source = find_source(tmp_path / "cache", str(tree), progress=QUIET)
    with pytest.raises(ContentError, match=r"boot-stamps.patch does not apply to .* Linux 6.1: "):
        build(tmp_path, source)
    assert cached_kernels(tmp_path / "cache") == []
    assert left_over(tmp_path) == []


@pytest.mark.parametrize("damage", ["vmlinux cut", "note damaged", "note gone", "field gone"])
def test_a_damaged_kernel_in_the_cache_is_built_again(
    tmp_path: Path, tiny: KernelSource, damage: str
) -> None:
    kernel = build(tmp_path, tiny)
    note = kernel.path.with_name("kernel.json")
    match damage:
        case "vmlinux cut":
            os.truncate(kernel.path, 100)
        case "note damaged":
            note.write_text("[]")
        case "note gone":
            note.unlink()
        case _:
            note.write_text(json.dumps({"version": "6.1"}))
    assert find_kernel(tmp_path / "cache", tiny) is None
    assert cached_kernels(tmp_path / "cache") == []
    assert build(tmp_path, tiny) == kernel
    assert builds(tmp_path) == 2


#: A shell that puts a job into the background has it ignore SIGINT, and so its children.
BUILD = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
from pathlib import Path
from hyperbuild.converter.progress import QUIET
from hyperbuild.kernel.build import build_kernel
from hyperbuild.kernel.source import find_source
cache = Path(sys.argv[1])
build_kernel(cache, find_source(cache, sys.argv[2], progress=QUIET), jobs=1, progress=QUIET)
"""


@pytest.mark.parametrize("blow", [signal.SIGKILL, signal.SIGINT])
def test_an_ended_build_leaves_nothing_that_the_next_does_not_sweep(
    tmp_path: Path, tiny: KernelSource, blow: signal.Signals
) -> None:
    gate = tmp_path / "notes/gate"
    gate.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", BUILD, tmp_path / "cache", tmp_path / "tree"],
        stderr=subprocess.DEVNULL,
    )
    try:
        wait_for(lambda: builds(tmp_path) == 1)
    finally:
        process.send_signal(blow)
        process.wait()
        gate.unlink()
    make = int((tmp_path / "notes/builds").read_text())
    wait_for(lambda: has_ended(make))
    assert len(left_over(tmp_path)) == (1 if blow == signal.SIGKILL else 0)
    assert cached_kernels(tmp_path / "cache") == []
    build(tmp_path, tiny)
    assert left_over(tmp_path) == []


def has_ended(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return True
    return state == "Z"


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until condition() holds; a hang ends in a failure."""
    pause = threading.Event()
    for _ in range(1200):
        if condition():
            return
        pause.wait(0.05)
    raise AssertionError("it never happened")


def test_a_cache_that_make_cannot_work_in_is_refused_at_once(
    tmp_path: Path, tiny: KernelSource
) -> None:
    with pytest.raises(InputError, match="has a space or a colon; choose another"):
        build_kernel(tmp_path / "my cache", tiny, jobs=1, progress=QUIET)
    assert builds(tmp_path) == 0


def test_every_missing_tool_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ToolError) as raised:
        check_tools(path=str(tmp_path))
    told = str(raised.value)
    assert all(tool in told for tool in TOOLS)
    assert "apt install bc binutils bison flex gcc make patch perl tar xz-utils" in told


def test_the_first_error_is_the_tools_own_before_makes() -> None:
    lines = ["  CC  a.o", "make[1]: *** [a.o] Error 1", "a.c:1: error: bad", "b.c:1: error: worse"]
    assert first_error(lines) == "a.c:1: error: bad"
    assert first_error(lines[:2]) == "make[1]: *** [a.o] Error 1"
    assert first_error(["one", "two", ""]) == "two"
    assert first_error([]) == "it said nothing"


def test_the_hyperkernel_has_every_option_asked_for(kernel: Kernel) -> None:
    assert dropped(load_profile("dax"), parse_config(kernel.config.read_text())) == []


@pytest.mark.skipif(
    not os.environ.get("HYPERBUILD_TEST_FULL"),
    reason="HYPERBUILD_TEST_FULL=1 has a kernel built a second time",
)
def test_a_second_build_elsewhere_gives_the_same_bytes(
    shared_cache: Path, test_cache: Path, tmp_path: Path
) -> None:
    """The smallest profile is the soonest built, and by the same rules."""
    cache = shared_cache / "hyperbuild"
    source = find_source(cache, None, progress=QUIET)
    jobs = os.cpu_count() or 1
    kernel = build_kernel(cache, source, profile="micro", jobs=jobs, progress=QUIET)
    proof = test_cache / "kernel-reproducible" / kernel.digest.removeprefix("sha256:")
    if proof.exists():
        pytest.skip(f"proven before: {proof}")
    cache = tmp_path / "elsewhere"
    source = find_source(cache, None, progress=QUIET)
    again = build_kernel(cache, source, profile="micro", jobs=3, progress=Counter())
    assert (again.key, again.digest, again.config_digest) == (
        kernel.key,
        kernel.digest,
        kernel.config_digest,
    )
    proof.parent.mkdir(parents=True, exist_ok=True)
    proof.touch()
