"""A bundle's manifest: what is written is read, and nothing else is."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbuild.builder import artifact
from hyperbuild.builder.stored import (
    ARTIFACT_TYPE,
    INITRAMFS_TYPE,
    KERNEL_TYPE,
    ROOTFS_TYPES,
)
from hyperbuild.converter import oci
from hyperbuild.converter.errors import ContentError
from hyperbuild.launcher.bundle import Bundle, RootfsInfo
from tests.launcher.support import DIGEST, make_files

MIB = 1 << 20


def bundle_of(size: int) -> Bundle:
    return make_files().bundle.replace(rootfs=RootfsInfo("erofs", size, DIGEST, ()))


def layers_of(size: int) -> list[oci.Descriptor]:
    blob = oci.Descriptor("", DIGEST, 7)
    chunks = [artifact.Chunk(blob, *span, DIGEST) for span in artifact.spans(size)]
    return [
        *(artifact.chunk_descriptor("erofs", chunk) for chunk in chunks),
        artifact.file_descriptor(KERNEL_TYPE, DIGEST, 3),
        artifact.file_descriptor(INITRAMFS_TYPE, DIGEST, 4),
    ]


def manifest_of(size: int, **changes: Any) -> dict[str, Any]:
    document = bundle_of(size).to_json()
    raw = artifact.write_artifact(document, layers_of(size), None, "2026-01-01T00:00:00Z")
    fields: dict[str, Any] = json.loads(raw)
    return fields | changes


def read(fields: dict[str, Any]) -> artifact.Artifact:
    return artifact.read_artifact(json.dumps(fields).encode(), "here")


@given(st.integers(1, 200).map(lambda pages: pages * MIB // 2))
def test_what_is_written_is_read(size: int) -> None:
    subject = oci.Descriptor(oci.OCI_MANIFEST, DIGEST, 5)
    raw = artifact.write_artifact(bundle_of(size).to_json(), layers_of(size), subject, "then")
    assert artifact.is_artifact(raw)
    found = artifact.read_artifact(raw, "here")
    artifact.check_artifact(found, bundle_of(size), "here")
    assert found.subject == subject
    assert found.digest == oci.digest_of(raw)
    assert [(chunk.offset, chunk.size) for chunk in found.chunks] == list(artifact.spans(size))
    ends = [chunk.offset + chunk.size for chunk in found.chunks]
    assert [chunk.offset for chunk in found.chunks] == [0, *ends[:-1]]
    assert ends[-1] == size


def test_a_root_in_one_blob_is_read() -> None:
    plain = oci.Descriptor(ROOTFS_TYPES["erofs"], DIGEST, 4 * MIB).document()
    fields = manifest_of(4 * MIB)
    found = read(fields | {"layers": [plain, *fields["layers"][-2:]]})
    assert found.plain
    artifact.check_artifact(found, bundle_of(4 * MIB), "here")
    with pytest.raises(ContentError, match="not those that its bundle"):
        artifact.check_artifact(found, bundle_of(6 * MIB), "here")


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (artifact.OFFSET, ""),
        (artifact.OFFSET, "-1"),
        (artifact.OFFSET, "1e3"),
        (artifact.OFFSET, "٣"),
        (artifact.SIZE, "9" * 40),
        (artifact.DIGEST, "sha256:short"),
    ],
)
def test_a_chunk_of_no_place_is_refused(annotation: str, value: str) -> None:
    fields = manifest_of(10 * MIB)
    fields["layers"][0]["annotations"][annotation] = value
    with pytest.raises(ContentError, match="a chunk whose place nobody knows"):
        read(fields)


def test_a_chunk_that_would_not_fit_memory_is_refused() -> None:
    fields = manifest_of(10 * MIB)
    fields["layers"][0]["size"] = 1 << 40
    with pytest.raises(ContentError, match="a chunk whose place nobody knows"):
        read(fields)


@pytest.mark.parametrize("number", ["8388609", "0", "4194304"])
def test_chunks_that_leave_gaps_or_overlap_are_refused(number: str) -> None:
    fields = manifest_of(20 * MIB)
    fields["layers"][1]["annotations"][artifact.OFFSET] = number
    with pytest.raises(ContentError, match="not those that its bundle"):
        artifact.check_artifact(read(fields), bundle_of(20 * MIB), "here")


def test_files_that_the_document_does_not_name_are_refused() -> None:
    fields = manifest_of(2 * MIB)
    for layers in (fields["layers"][:-1], [*fields["layers"], fields["layers"][-1]]):
        with pytest.raises(ContentError, match="not those that its bundle"):
            artifact.check_artifact(read(fields | {"layers": layers}), bundle_of(2 * MIB), "here")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"artifactType": "application/vnd.other"}, "is no bundle but of type"),
        ({"artifactType": None}, "is no bundle but of type"),
        ({"layers": []}, "a bundle without one root file system"),
        ({"subject": {"digest": "x"}}, "size"),
    ],
)
def test_what_is_no_bundle_is_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(ContentError, match=said):
        read(manifest_of(2 * MIB, **changes))


def test_a_layer_of_another_type_is_refused() -> None:
    fields = manifest_of(2 * MIB)
    foreign = fields["layers"][-1] | {"mediaType": "text/plain"}
    with pytest.raises(ContentError, match="a bundle without one root file system"):
        read(fields | {"layers": [*fields["layers"], foreign]})


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner),
    max_leaves=10,
)


@given(st.sampled_from(["config", "layers", "subject", "annotations", "schemaVersion"]), _JSON)
def test_any_other_json_is_refused_or_read(field: str, value: Any) -> None:
    fields = manifest_of(2 * MIB, **{field: value})
    assert fields["artifactType"] == ARTIFACT_TYPE
    try:
        found = read(fields)
    except ContentError:
        return
    assert found.chunks


def test_what_is_no_json_is_no_bundle() -> None:
    for raw in (b"", b"[]", b"{", b'"x"', b"\xff"):
        assert not artifact.is_artifact(raw)
