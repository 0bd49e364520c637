"""What layers carry and waste, against a plain model; what a finished image holds."""

from __future__ import annotations

import os
import random
import subprocess
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyperbuild.converter.errors import ContentError, InputError
from hyperbuild.converter.examine import examine_rootfs
from hyperbuild.converter.indexes import read_indexes
from hyperbuild.converter.layer_cache import LayerCache
from hyperbuild.converter.limits import DEFAULT_LIMITS, LimitError, Limits
from hyperbuild.converter.oci import Platform
from hyperbuild.converter.progress import QUIET
from hyperbuild.converter.reference import parse_reference
from hyperbuild.converter.sealed import Sealed
from hyperbuild.converter.settings import RegistrySettings
from hyperbuild.converter.source import open_source
from hyperbuild.converter.store import Store
from hyperbuild.converter.survey import Node, Survey, Weight, biggest, survey_layers
from tests.converter.flat import convert_layout
from tests.converter.test_model import images
from tests.support.layers import d, f, h, layer, layout, s
from tests.support.model import Model, RefusedError
from tests.support.tarball import FILE, Entry

MIB = 1 << 20


def survey(directory: Path, limits: Limits = DEFAULT_LIMITS) -> Survey:
    reference, store = parse_reference(f"oci:{directory}"), Store(directory.parent / "store")
    with open_source(reference, store=store, settings=RegistrySettings()) as source:
        image = source.resolve(Platform("linux", "amd64"), QUIET)
        cache = LayerCache(Sealed(directory.parent / "cache"))
        for _ in range(2):
            indexes = read_indexes(image, source, limits=limits, progress=QUIET, cache=cache)
        return survey_layers(indexes)


def survey_of(tmp_path: Path, *tars: bytes) -> Survey:
    return survey(layout(tmp_path / "layout", *tars))


def sizes(node: Node, path: str = "") -> dict[str, int]:
    found = {path: node.size}
    for child in node.children or ():
        found |= sizes(child, f"{path}/{os.fsdecode(child.name)}".lstrip("/"))
    return found


def is_hiding(entry: Entry) -> bool:
    return b"/.wh." in b"/" + entry.name


@settings(max_examples=100, suppress_health_check=list(HealthCheck))
@given(images())
def test_layers_carry_and_waste_what_the_model_says(
    image: tuple[list[list[Entry]], list[bytes]],
) -> None:
    entries, tars = image
    model, kept = Model(), [0] * len(entries)
    brought: dict[int, tuple[int, object]] = {}  # with the node, so that no other gets its id
    try:
        for number, items in enumerate(entries):
            model.apply(items)
            for node in model.tree.values():
                brought.setdefault(id(node), (number, node))
    except RefusedError:
        return
    files = {id(node): node for node in model.tree.values() if node.kind == "-"}
    for key, node in files.items():
        kept[brought[key][0]] += len(node.content)
    with tempfile.TemporaryDirectory() as work:
        seen = survey_of(Path(work), *tars)
    carried = [
        sum(len(e.data) for e in items if e.kind == FILE and not is_hiding(e)) for items in entries
    ]
    assert [use.size for use in seen.layers] == carried
    assert [use.size - use.wasted for use in seen.layers] == kept
    assert seen.contents.root.size == sum(kept) == sum(w.size for w in seen.contents.weights)
    assert sum(weight.size for weight in seen.lost) == sum(carried) - sum(kept)
    assert [use.entries for use in seen.layers] == [
        sum(not is_hiding(item) for item in items) for items in entries
    ]
    assert seen.contents.root.names == len(model.tree)


@settings(max_examples=20, suppress_health_check=list(HealthCheck))
@given(images(), st.sampled_from(["erofs", "ext4"]))
def test_a_finished_image_holds_what_its_layers_show(
    image: tuple[list[list[Entry]], list[bytes]], rootfs_format: str
) -> None:
    with tempfile.TemporaryDirectory() as work:
        directory = layout(Path(work) / "layout", *image[1])
        try:
            convert_layout(directory, Path(work) / "image", rootfs_format)
        except ContentError:
            return
        seen, found = survey(directory).contents, examine_rootfs(Path(work) / "image")
    contents = found.contents
    assert contents is not None
    assert (found.format, found.block_size, found.defect) == (rootfs_format, 4096, "")
    assert sizes(contents.root) == sizes(seen.root)
    assert (contents.files, contents.directories, contents.symlinks, contents.others) == (
        seen.files, seen.directories, seen.symlinks, seen.others
    )  # fmt: skip
    assert {(w.path, w.size) for w in contents.weights} == {(w.path, w.size) for w in seen.weights}
    assert (found.layout.inlined, found.layout.unaligned) == (0, 0)


def test_every_way_to_waste(tmp_path: Path) -> None:
    seen = survey_of(
        tmp_path,
        layer(f("kept", "k" * 10), f("replaced", "r" * 20), d("dir/"), f("dir/gone", "g" * 30),
              d("opaque/"), f("opaque/old", "o" * 40), f("linked", "l" * 50)),
        layer(f("replaced", "R"), f(".wh.dir"), f("opaque/.wh..wh..opq"), h("link", "linked"),
              f("twice", "t" * 60), f("twice", "T")),
        layer(f(".wh.linked")),
    )  # fmt: skip
    base, top, last = seen.layers
    assert (base.entries, base.hides, base.size, base.wasted) == (7, 0, 150, 90)
    assert (top.entries, top.hides, top.size, top.wasted) == (4, 2, 62, 60)
    assert (last.entries, last.hides, last.size, last.wasted) == (0, 1, 0, 0)
    assert seen.efficiency == pytest.approx(1 - 150 / 212)
    assert biggest(seen.lost, 2) == [Weight(b"twice", 60, 1), Weight(b"opaque/old", 40, 0)]
    assert sizes(seen.contents.root) == {
        "": 62, "kept": 10, "link": 50, "opaque": 0, "replaced": 1, "twice": 1
    }  # fmt: skip


def test_an_image_without_bytes_wastes_none(tmp_path: Path) -> None:
    seen = survey_of(tmp_path, layer(d("a/"), s("b", "a"), f("empty")))
    assert seen.efficiency == 1
    assert (seen.contents.files, seen.contents.directories, seen.contents.symlinks) == (1, 2, 1)
    assert biggest(seen.contents.weights, 5) == []


def test_names_carry_their_layer(tmp_path: Path) -> None:
    seen = survey_of(tmp_path, layer(f("a", "a")), layer(f("made/b", "b")))
    made = next(child for child in seen.contents.root.children or () if child.name == b"made")
    assert (made.layer, [child.layer for child in made.children or ()]) == (None, [1])
    assert {(w.path, w.layer) for w in seen.contents.weights} == {(b"a", 0), (b"made/b", 1)}


def test_limits_hold(tmp_path: Path) -> None:
    with pytest.raises(LimitError, match="--max-entries"):
        survey(
            layout(tmp_path / "layout", layer(*(f(str(n)) for n in range(9)))), Limits(entries=8)
        )


@pytest.mark.parametrize("content", [b"", b"x" * 5000, bytes(MIB)])
def test_what_is_no_root_file_system(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    found = examine_rootfs(tmp_path / "file")
    assert (found.format, found.contents, found.size) == ("", None, len(content))
    assert "neither" in found.defect


def test_a_device_is_not_read() -> None:
    with pytest.raises(InputError):
        examine_rootfs(Path("/dev/zero"))


def test_a_tool_that_inlines_is_seen(tmp_path: Path) -> None:
    root = tmp_path / "root"
    root.mkdir()
    (root / "small").write_bytes(b"inlined")
    (root / "large").write_bytes(bytes(range(256)) * (3 * MIB // 256))
    image = tmp_path / "image"
    subprocess.run(
        ["mkfs.erofs", "--quiet", "-E", "force-inode-extended", image, root],
        check=True, capture_output=True,
    )  # fmt: skip
    found = examine_rootfs(image)
    assert found.defect == ""
    assert (found.layout.inlined, found.layout.example) == (1, b"small")
    assert (found.layout.files, found.layout.large) == (2, 1)


@pytest.mark.parametrize("rootfs_format", ["erofs", "ext4"])
def test_damage_is_a_defect(tmp_path: Path, rootfs_format: str) -> None:
    image = tmp_path / "image"
    convert_layout(layout(tmp_path / "layout", layer(f("a/b", "c" * 9000))), image, rootfs_format)
    content = image.read_bytes()
    for at in range(1024, 1 << 16, 64):
        image.write_bytes(content[:at] + random.Random(at).randbytes(64) + content[at + 64 :])
        found = examine_rootfs(image)
        assert (found.contents is None) == bool(found.defect)


def test_a_directory_that_leads_to_the_root_is_a_defect(tmp_path: Path) -> None:
    image = tmp_path / "image"
    convert_layout(layout(tmp_path / "layout", layer(d("a/"))), image)
    content = bytearray(image.read_bytes())
    assert examine_rootfs(image).contents is not None
    root = int.from_bytes(content[1038:1040], "little")
    at = content.rindex(b"...a") - 3 * 12
    content[at + 24 : at + 32] = root.to_bytes(8, "little")
    image.write_bytes(content)
    assert "lead into each other" in examine_rootfs(image).defect
