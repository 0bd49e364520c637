"""Each point of the DAX lint, fine and not; the real thing is in test_inspect.py."""

from __future__ import annotations

from dataclasses import replace

import pytest

from hyperbuild.builder.lint import Level, Point, lint
from hyperbuild.converter.examine import Examined, Layout
from hyperbuild.converter.oci import digest_of
from hyperbuild.launcher.bundle import KernelInfo

MIB = 1 << 20
KERNEL = KernelInfo("6.1", digest_of(b"k"), digest_of(b"c"))
OPTIONS = frozenset(
    {"DAX", "FS_DAX", "ZONE_DEVICE", "LIBNVDIMM", "BLK_DEV_PMEM", "X86_PMEM_LEGACY", "EROFS_FS"}
)
FINE = Examined("erofs", 4 * MIB, 4096, Layout(files=10))


def point(
    name: str,
    rootfs: Examined = FINE,
    kernel: KernelInfo | None = KERNEL,
    options: frozenset[str] | None = OPTIONS,
) -> Point:
    (found,) = (p for p in lint(rootfs, kernel, options) if p.name == name)
    return found


def test_a_fine_root_file_system() -> None:
    points = lint(FINE, KERNEL, OPTIONS)
    assert [p.name for p in points] == [
        "format", "size", "block-size", "inline", "alignment", "huge-pages", "kernel"
    ]  # fmt: skip
    assert {p.level for p in points} == {Level.OK}
    assert {p.remedy for p in points} == {""}


@pytest.mark.parametrize(
    ("name", "changes", "text"),
    [
        ("format", {"format": "", "defect": "it is neither"}, "neither"),
        ("size", {"size": 4 * MIB + 4096}, "no multiple of 2 MiB"),
        ("size", {"size": 0}, "no multiple of 2 MiB"),
        ("block-size", {"block_size": 1024}, "1024 bytes"),
        ("content", {"defect": "a\x1bname is wrong"}, "is wrong"),
        ("inline", {"layout": Layout(files=9, inlined=3, example=b"a\x1b")}, r"a\x1b for one"),
        ("alignment", {"layout": Layout(files=9, unaligned=3, example=b"x")}, "3 of 9 files"),
    ],
)
def test_what_is_warned_of(name: str, changes: dict[str, object], text: str) -> None:
    found = point(name, replace(FINE, **changes))  # type: ignore[arg-type]
    assert found.level == Level.WARNING
    assert text in found.text
    assert "convert the image again" in found.remedy


@pytest.mark.parametrize("name", sorted(OPTIONS))
def test_every_option_of_the_kernel_is_needed(name: str) -> None:
    found = point("kernel", options=OPTIONS - {name})
    assert found.level == Level.WARNING
    assert f"CONFIG_{name}" in found.text


def test_the_kernel_needs_the_format_of_the_root_file_system() -> None:
    ext4 = replace(FINE, format="ext4")
    assert "CONFIG_EXT4_FS" in point("kernel", ext4).text
    assert point("kernel", ext4, options=OPTIONS | {"EXT4_FS"}).level == Level.OK


def test_what_is_not_known_is_a_note() -> None:
    assert point("kernel", kernel=None, options=None).level == Level.NOTE
    unknown = point("kernel", options=None)
    assert (unknown.level, unknown.remedy) == (Level.NOTE, "hyperbuild kernel build")
    assert "not in the cache" in unknown.text


def test_huge_pages_are_information() -> None:
    some = point("huge-pages", replace(FINE, layout=Layout(files=5, large=3, large_aligned=1)))
    assert (some.level, some.text[:24]) == (Level.NOTE, "1 of 3 files of 2 MiB an")
    every = point("huge-pages", replace(FINE, layout=Layout(files=5, large=3, large_aligned=3)))
    assert every.level == Level.OK
