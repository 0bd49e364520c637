"""The documents of an image: raw bytes kept, every field checked."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbuild.converter import oci
from hyperbuild.converter.digests import is_digest
from hyperbuild.converter.errors import ContentError, InputError
from hyperbuild.converter.oci import Descriptor, ImageConfig, Index, Manifest, Platform

DIGEST = "sha256:" + "0" * 64
ENTRY = {"mediaType": oci.OCI_CONFIG, "digest": DIGEST, "size": 2}
MANIFEST = {"schemaVersion": 2, "config": ENTRY, "layers": [ENTRY]}
CONFIG = {"os": "linux", "architecture": "arm", "variant": "v7", "rootfs": {"diff_ids": [DIGEST]}}


def raw(document: object) -> bytes:
    return json.dumps(document).encode()


def test_a_manifest_keeps_its_bytes_and_defaults_its_type():
    content = b"  " + raw(MANIFEST)
    manifest = Manifest.read(content, "x")
    assert manifest.raw == content
    assert manifest.digest == oci.digest_of(content)
    assert manifest.media_type == oci.OCI_MANIFEST
    assert manifest.layers == (Descriptor(oci.OCI_CONFIG, DIGEST, 2),)


def test_a_config():
    config = ImageConfig.read(raw({**CONFIG, "config": {"Cmd": ["x"], "Other": 1}}), "x")
    assert (str(config.platform), config.diff_ids) == ("linux/arm/v7", (DIGEST,))
    assert config.config == {"Cmd": ["x"], "Other": 1}
    assert ImageConfig.read(raw({**CONFIG, "config": None}), "x").config == {}


def test_a_descriptor_is_written_as_it_was_read():
    entry = {
        **ENTRY,
        "annotations": {"a": "b"},
        "platform": {"os": "linux", "architecture": "arm", "variant": "v6"},
        "urls": ["https://x/y"],
    }
    assert Descriptor.read(entry, "x").document() == entry
    assert Descriptor.read(ENTRY, "x").document() == ENTRY


@pytest.mark.parametrize(
    "change",
    [
        {"size": -1},
        {"size": True},
        {"size": "2"},
        {"size": 2.0},
        {"size": None},
        {"digest": None},
        {"digest": "sha256:" + "0" * 63},
        {"digest": "sha256:" + "A" * 64},
        {"digest": "sha1:" + "0" * 40},
        {"digest": "sha256:../../etc/passwd"},
        {"digest": DIGEST + "\n"},
        {"mediaType": None},
        {"mediaType": 5},
        {"annotations": [1]},
        {"platform": 1},
        {"platform": {"os": "linux"}},
        {"urls": "x"},
    ],
)
def test_descriptors_that_are_refused(change):
    entry = {k: v for k, v in {**ENTRY, **change}.items() if v is not None}
    with pytest.raises(ContentError, match="here"):
        Descriptor.read(entry, "here")


@pytest.mark.parametrize("read", [Manifest.read, Index.read, ImageConfig.read])
@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b"null", b"5", b"\xff", b"[" * 100_000, b'{"layers": 5}']
)
def test_documents_that_are_refused(read, content):
    with pytest.raises(ContentError, match="here"):
        read(content, "here")


def test_an_index_is_no_manifest_and_no_text_is_both():
    both = raw({**MANIFEST, "manifests": []})
    for read in (Manifest.read, Index.read):
        with pytest.raises(ContentError):
            read(both, "x")
    with pytest.raises(ContentError, match="without manifests"):
        Index.read(raw(MANIFEST | {"config": None, "layers": None}), "x")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@given(
    st.sampled_from([MANIFEST, CONFIG, {"manifests": [ENTRY]}, {"manifests": ENTRY}]),
    st.sampled_from([*MANIFEST, *CONFIG, "manifests", "config", "annotations", "mediaType"]),
    json_values,
)
def test_any_value_in_any_field_is_read_or_refused(document, key, value):
    for read in (Manifest.read, Index.read, ImageConfig.read):
        try:
            read(raw({**document, key: value}), "x")
        except ContentError as error:
            assert "\n" not in str(error)


def test_digests():
    assert oci.matches(oci.digest_of(b"x"), b"x")
    assert not oci.matches(oci.digest_of(b"x"), b"y")
    assert is_digest(DIGEST)
    assert not is_digest("latest")


def test_platforms():
    assert str(Platform.parse("linux/arm/v7")) == "linux/arm/v7"
    for text in (
        "linux",
        "",
        "linux/",
        "/amd64",
        "a/b/c/d",
        "Linux/amd64",
        "linux/amd 64",
        "l/a\n",
    ):
        with pytest.raises(InputError, match="is not os/arch"):
            Platform.parse(text)
