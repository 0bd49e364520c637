"""Layouts, indexes and platforms: which image is meant, and what is refused by name."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hyperbuild.converter import oci, platforms
from hyperbuild.converter.errors import (
    ContentError,
    HyperbuildError,
    InputError,
    NotFoundError,
    VerificationError,
)
from hyperbuild.converter.oci import Platform
from hyperbuild.converter.progress import QUIET
from hyperbuild.converter.reference import parse_reference
from hyperbuild.converter.source import open_source

NAME = "org.opencontainers.image.ref.name"


class Layout:
    """An OCI layout written piece by piece."""

    def __init__(self, path: Path) -> None:
        self.path = path
        (path / "blobs/sha256").mkdir(parents=True)
        (path / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
        self.entries: list[dict] = []
        self.save()

    def save(self) -> None:
        index = {"schemaVersion": 2, "manifests": self.entries}
        (self.path / "index.json").write_text(json.dumps(index))

    def file(self, entry: dict) -> Path:
        return self.path / "blobs/sha256" / entry["digest"].removeprefix("sha256:")

    def blob(self, media_type: str, content: bytes | dict, **more: object) -> dict:
        raw = content if isinstance(content, bytes) else json.dumps(content).encode()
        entry = {"mediaType": media_type, "digest": oci.digest_of(raw), "size": len(raw), **more}
        self.file(entry).write_bytes(raw)
        return entry

    def image(self, architecture: str = "amd64", variant: str = "", **changes: object) -> dict:
        """Write an image of one layer; changes replace keys of its manifest and config."""
        layer_type = changes.pop("layer_type", "application/vnd.oci.image.layer.v1.tar")
        layer = self.blob(layer_type, architecture.encode() + variant.encode())
        config = {
            "os": changes.pop("os", "linux"),
            "architecture": architecture,
            **({"variant": variant} if variant else {}),
            "rootfs": {
                "type": "layers",
                "diff_ids": changes.pop("diff_ids", [layer["digest"]]),
            },
        }
        config_type = changes.pop("config_type", oci.OCI_CONFIG)
        manifest = {
            "schemaVersion": 2,
            "mediaType": oci.OCI_MANIFEST,
            "config": self.blob(config_type, config),
            "layers": [layer],
            **changes,
        }
        return self.blob(oci.OCI_MANIFEST, {k: v for k, v in manifest.items() if v is not None})

    def index(self, *entries: dict) -> dict:
        return self.blob(oci.OCI_INDEX, {"schemaVersion": 2, "manifests": entries})

    def add(self, entry: dict, name: str | None = "latest", **more: object) -> None:
        named = {**entry, **more}
        if name is not None:
            named["annotations"] = {**named.get("annotations", {}), NAME: name}
        self.entries.append(named)
        self.save()


@pytest.fixture
def layout(tmp_path):
    return Layout(tmp_path / "layout")


def on(platform: str) -> dict:
    parsed = Platform.parse(platform)
    fields = {"os": parsed.os, "architecture": parsed.architecture}
    return {"platform": fields | ({"variant": parsed.variant} if parsed.variant else {})}


# Which image


def test_a_layout_is_read_where_it_is(puller, layout):
    layout.add(layout.image())
    assert puller.layers(f"oci:{layout.path}") == [b"amd64"]
    assert puller.layers(f"oci:{layout.path}:latest") == [b"amd64"]
    assert not puller.store.root.exists()


def test_tags_match_exactly_and_otherwise_are_listed(puller, layout):
    layout.add(layout.image("amd64"), "v1")
    layout.add(layout.image("amd64", "v2"), "v1.1")
    assert puller.layers(f"oci:{layout.path}:v1") == [b"amd64"]
    for missing in ("v", "V1", "v1.", "latest"):
        with pytest.raises(NotFoundError, match=r"holds v1, v1\.1; say oci:"):
            puller.resolve(f"oci:{layout.path}:{missing}")
    with pytest.raises(InputError, match=r"holds v1, v1\.1; say oci:"):
        puller.resolve(f"oci:{layout.path}")
    digest = layout.entries[0]["digest"]
    assert puller.layers(f"oci:{layout.path}:{digest}") == [b"amd64"]


def test_containerds_names_and_images_without_a_name(puller, layout):
    full = {"io.containerd.image.name": "docker.io/library/a:b", NAME: "b"}
    layout.add(layout.image(), None, annotations=full)
    assert puller.layers(f"oci:{layout.path}:docker.io/library/a:b") == [b"amd64"]
    assert puller.layers(f"oci:{layout.path}:b") == [b"amd64"]
    layout.add(layout.image("arm64"), None)
    with pytest.raises(InputError, match=r"holds b, sha256:|holds docker|sha256:"):
        puller.resolve(f"oci:{layout.path}")


def test_an_index_json_with_one_image_for_several_platforms(puller, layout):
    layout.add(layout.image("arm64"), None, **on("linux/arm64"))
    layout.add(layout.image("amd64"), None, **on("linux/amd64"))
    assert puller.layers(f"oci:{layout.path}") == [b"amd64"]
    assert puller.layers(f"oci:{layout.path}", Platform("linux", "arm64")) == [b"arm64"]


def test_names_are_escaped_in_errors(puller, layout):
    layout.add(layout.image(), "a\x1b[2J")
    layout.add(layout.image(), "b\nError: x")
    with pytest.raises(InputError) as caught:
        puller.resolve(f"oci:{layout.path}")
    assert "\n" not in str(caught.value)
    assert "\x1b" not in str(caught.value)


def test_an_empty_layout(puller, layout):
    with pytest.raises(InputError, match="holds no image"):
        puller.resolve(f"oci:{layout.path}")


# Which platform


def several(layout: Layout, *names: str) -> None:
    entries = []
    for name in names:
        platform = Platform.parse(name)
        image = layout.image(platform.architecture, platform.variant, os=platform.os)
        entries.append({**image, **on(name)})
    layout.add(layout.index(*entries))


@pytest.mark.parametrize(
    ("wanted", "chosen"),
    [
        ("linux/amd64", b"amd64"),
        ("linux/x86_64", b"amd64"),
        ("linux/amd64/v3", b"amd64v2"),
        ("linux/arm64", b"arm64v8"),
        ("linux/arm64/v8", b"arm64v8"),
        ("linux/aarch64", b"arm64v8"),
        ("linux/arm64/v9", b"arm64v8"),
        ("linux/arm/v7", b"armv6"),
        ("linux/arm", b"armv6"),
        ("linux/arm/v6", b"armv6"),
        ("linux/arm/v5", b"armv5"),
        ("windows/amd64", b"amd64w"),
    ],
)
def test_the_nearest_variant_is_chosen(puller, layout, wanted, chosen):
    names = ("amd64/v2", "amd64", "arm64/v8", "arm/v5", "arm/v6", "s390x")
    several(layout, *(f"linux/{name}" for name in names))
    windows = {**layout.image("amd64", "w", os="windows"), **on("windows/amd64")}
    nested = json.loads(layout.file(layout.entries[0]).read_text())["manifests"]
    layout.entries.clear()
    layout.add(layout.index(windows, *nested))
    assert puller.layers(f"oci:{layout.path}", Platform.parse(wanted)) == [chosen]


@pytest.mark.parametrize("wanted", ["linux/386", "linux/arm/v4", "linux/riscv64", "windows/amd64"])
def test_what_there_is_not_lists_what_there_is(puller, layout, wanted):
    several(layout, "linux/amd64", "linux/arm64/v8", "linux/arm/v6")
    expected = rf"for {wanted}; it exists for linux/amd64, linux/arm64, linux/arm/v6 \(--platform\)"
    with pytest.raises(NotFoundError, match=expected):
        puller.resolve(f"oci:{layout.path}", Platform.parse(wanted))


def test_a_newer_variant_than_asked_for_is_not_taken(puller, layout):
    several(layout, "linux/amd64/v3")
    with pytest.raises(NotFoundError, match="linux/amd64/v3"):
        puller.resolve(f"oci:{layout.path}")


def test_a_single_image_for_another_platform(puller, layout):
    layout.add(layout.image("arm64"))
    with pytest.raises(NotFoundError, match=r"for linux/amd64; it exists for linux/arm64"):
        puller.resolve(f"oci:{layout.path}")
    assert puller.resolve(f"oci:{layout.path}", Platform("linux", "arm64", "v8")).platform


def test_a_config_that_leaves_the_variant_out(puller, layout):
    layout.add(layout.image("arm"))
    assert puller.layers(f"oci:{layout.path}", Platform("linux", "arm", "v6")) == [b"arm"]


def test_nested_indexes_and_attestations(puller, layout):
    attestation = {**layout.image("unknown", os="unknown"), **on("unknown/unknown")}
    note = {**layout.image("amd64", "note"), "annotations": {"vnd.docker.reference.type": "x"}}
    inner = layout.index(attestation, note, {**layout.image(), **on("linux/amd64")})
    layout.add(layout.index(attestation, layout.index(inner)))
    layout.add(attestation, "attestation")
    assert puller.layers(f"oci:{layout.path}") == [b"amd64"]


def test_indexes_nested_too_deep(puller, layout):
    entry = layout.image()
    for _ in range(6):
        entry = layout.index(entry)
    layout.add(entry)
    with pytest.raises(ContentError, match="nested deeper than"):
        puller.resolve(f"oci:{layout.path}")


def test_an_index_that_grows_like_a_tree_is_refused_in_bounded_time(puller, layout):
    entry = {**layout.image("arm64"), **on("linux/arm64")}
    for _ in range(4):
        entry = layout.index(*[entry] * 200)
    layout.add(entry)
    with pytest.raises(ContentError, match="more than"):
        puller.resolve(f"oci:{layout.path}")


def test_hosts_by_the_name_uname_gives_them():
    assert str(platforms.host_platform("x86_64")) == "linux/amd64"
    assert str(platforms.host_platform("aarch64")) == "linux/arm64"
    assert str(platforms.host_platform("armv7l")) == "linux/arm"
    assert str(platforms.host_platform("armv6l")) == "linux/arm/v6"
    assert str(platforms.host_platform("s390x")) == "linux/s390x"


# What is refused


@pytest.mark.parametrize(
    ("changes", "kind", "message"),
    [
        (
            {"layer_type": "application/vnd.oci.image.layer.v1.tar+gzip+encrypted"},
            ContentError,
            r"of type .*encrypted.*decrypt",
        ),
        ({"layer_type": "x/\x1b[2J"}, ContentError, "cannot be read"),
        ({"diff_ids": []}, ContentError, "1 layers but 0 diff_ids"),
        ({"diff_ids": ["sha256:x"]}, ContentError, "is not a sha256"),
        ({"diff_ids": "x"}, ContentError, "an array was expected"),
        ({"config_type": "application/vnd.cncf.helm.config.v1+json"}, ContentError, "helm"),
        ({"schemaVersion": 1}, ContentError, "schema version 2"),
        ({"layers": None}, ContentError, "schema version 2"),
        ({"layers": [1]}, ContentError, "an object was expected"),
        ({"config": {}}, ContentError, "valid size"),
        ({"manifests": []}, ContentError, "an index too"),
    ],
)
def test_images_that_are_refused(puller, layout, changes, kind, message):
    layout.add(layout.image(**changes))
    with pytest.raises(kind, match=message) as caught:
        puller.resolve(f"oci:{layout.path}")
    assert "\x1b" not in str(caught.value)


def test_layer_types_that_are_read(puller, layout):
    for number, media_type in enumerate(oci.LAYER_COMPRESSION):
        layout.add(layout.image(layer_type=media_type), f"t{number}")
        assert puller.layers(f"oci:{layout.path}:t{number}") == [b"amd64"]


@pytest.mark.parametrize("which", ["manifest", "config", "index"])
@pytest.mark.parametrize("how", ["bytes", "longer", "shorter", "missing"])
def test_documents_that_are_not_what_was_declared(puller, layout, which, how):
    image = layout.image()
    index = layout.index({**image, **on("linux/amd64")})
    layout.add(index)
    manifest = json.loads(layout.file(image).read_text())
    path = layout.file({"manifest": image, "config": manifest["config"], "index": index}[which])
    raw = path.read_bytes()
    changed = {"bytes": raw.swapcase(), "longer": raw + b" ", "shorter": raw[:-1]}
    if how == "missing":
        path.unlink()
    else:
        path.write_bytes(changed[how])
    kind = NotFoundError if how == "missing" else VerificationError
    with pytest.raises(kind):
        puller.resolve(f"oci:{layout.path}")


def test_a_layer_that_is_missing_or_of_another_size(puller, layout):
    image = layout.image()
    layout.add(image)
    layer = layout.file(json.loads(layout.file(image).read_text())["layers"][0])
    layer.write_bytes(b"longer than before")
    with pytest.raises(VerificationError, match=r"has 18 bytes, 5 are declared"):
        puller.layers(f"oci:{layout.path}")
    layer.unlink()
    with pytest.raises(NotFoundError, match="is missing; copy the image again"):
        puller.layers(f"oci:{layout.path}")


def test_a_document_declared_huge_is_not_read(puller, layout):
    layout.add({**layout.image(), "size": 1 << 40})
    with pytest.raises(ContentError, match=r"larger than 4 MiB, .*--max-document"):
        puller.resolve(f"oci:{layout.path}")


@pytest.mark.parametrize("name", ["index.json", "oci-layout"])
@pytest.mark.parametrize(
    "content", [None, "", "{", "[]", "{}", "null", '{"manifests": 5}', "9" * (5 << 20)]
)
def test_damaged_files_of_a_layout(puller, layout, name, content):
    layout.add(layout.image())
    if content is None:
        (layout.path / name).unlink()
    else:
        (layout.path / name).write_text(content)
    with pytest.raises((ContentError, InputError)):
        puller.resolve(f"oci:{layout.path}")


def test_another_version_of_the_layout(puller, layout):
    (layout.path / "oci-layout").write_text('{"imageLayoutVersion": "2.0.0"}')
    with pytest.raises(ContentError, match=r"version '2\.0\.0', 1\.0\.0 is known"):
        puller.resolve(f"oci:{layout.path}")


def test_no_hang_on_a_fifo_or_device(puller, layout):
    image = layout.image()
    layout.add(image)
    for name in ("index.json", "oci-layout", str(layout.file(image).relative_to(layout.path))):
        saved = (layout.path / name).read_bytes()
        (layout.path / name).unlink()
        os.mkfifo(layout.path / name)
        with pytest.raises(InputError, match="not a regular file"):
            puller.resolve(f"oci:{layout.path}")
        (layout.path / name).unlink()
        (layout.path / name).symlink_to("/dev/zero")
        with pytest.raises(InputError, match="not a regular file"):
            puller.resolve(f"oci:{layout.path}")
        (layout.path / name).unlink()
        (layout.path / name).write_bytes(saved)
    puller.resolve(f"oci:{layout.path}")


def test_a_path_that_is_no_layout(puller, tmp_path):
    (tmp_path / "file").write_text("")
    for path, message in (("none", "does not exist"), ("file", "not a dir"), (".", "is no OCI")):
        with pytest.raises(InputError, match=message):
            puller.resolve(f"oci:{tmp_path / path}")


def test_layers_can_be_read_from_any_place_and_after_each_other(puller, layout):
    layout.add(layout.image("amd64", "variant"))
    reference = parse_reference(f"oci:{layout.path}")
    with open_source(reference, store=puller.store, settings=puller.settings) as source:
        layer = source.resolve(Platform("linux", "amd64", "variant"), QUIET).manifest.layers[0]
        with source.open_layer(layer, QUIET) as one, source.open_layer(layer, QUIET) as two:
            buffer = bytearray(4)
            assert (one.readinto(buffer), bytes(buffer)) == (4, b"amd6")
            assert two.read() == b"amd64variant"
            assert one.seek(-3, os.SEEK_END) == 9
            assert one.read(10) == b"ant"
            assert one.readinto(buffer) == 0
            assert one.seek(99) == 99
            assert one.read(1) == b""


def test_a_layout_that_skopeo_made_with_all_platforms(puller, layout, tmp_path):
    several(layout, "linux/amd64", "linux/arm64/v8")
    target = tmp_path / "copy"
    command = ["skopeo", "copy", "--all", f"oci:{layout.path}:latest", f"oci:{target}:x"]
    subprocess.run(command, check=True, capture_output=True)
    assert puller.layers(f"oci:{target}", Platform("linux", "arm64"))


def test_local_sources_need_neither_oras_nor_requests(layout):
    layout.add(layout.image())
    program = f"""
import sys
from pathlib import Path
from hyperbuild.converter.oci import Platform
from hyperbuild.converter.progress import QUIET
from hyperbuild.converter.reference import parse_reference
from hyperbuild.converter.settings import RegistrySettings
from hyperbuild.converter.source import open_source
from hyperbuild.converter.store import Store
reference = parse_reference("oci:{layout.path}")
with open_source(reference, store=Store(Path("/none")), settings=RegistrySettings()) as source:
    source.resolve(Platform("linux", "amd64"), QUIET)
assert not {{"oras", "requests", "tarfile"}} & set(sys.modules), "imported too much"
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_everything_is_of_the_family_when_a_layout_is_cut_anywhere(puller, layout, tmp_path):
    layout.add(layout.index({**layout.image(), **on("linux/amd64")}))
    for path in sorted(layout.path.rglob("*")):
        if path.is_file():
            copy = tmp_path / "copy"
            shutil.copytree(layout.path, copy)
            target = copy / path.relative_to(layout.path)
            target.write_bytes(target.read_bytes()[: target.stat().st_size // 2])
            with pytest.raises(HyperbuildError):
                puller.layers(f"oci:{copy}")
            shutil.rmtree(copy)


def test_sha512_digests(puller, layout):
    image = layout.image()
    raw = layout.file(image).read_bytes()
    digest = hashlib.sha512(raw).hexdigest()
    (layout.path / "blobs/sha512").mkdir()
    (layout.path / "blobs/sha512" / digest).write_bytes(raw)
    layout.add({**image, "digest": f"sha512:{digest}"})
    assert puller.layers(f"oci:{layout.path}") == [b"amd64"]
