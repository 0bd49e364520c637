"""Pulling through a proxy that cuts, delays, refuses and lies."""

from __future__ import annotations

import json
import threading
import time
from dataclasses import replace

import pytest

from hyperbuild.converter import oci
from hyperbuild.converter.errors import (
    AccessError,
    ContentError,
    NotFoundError,
    UnavailableError,
    VerificationError,
)
from hyperbuild.converter.limits import LimitError, Limits
from hyperbuild.converter.progress import QUIET
from hyperbuild.converter.reference import parse_reference
from hyperbuild.converter.source import open_source
from hyperbuild.converter.store import Store
from tests.converter.conftest import AMD64
from tests.converter.pulls import big, blobs, flip, is_blob, leftovers, stored_layers, with_settings

# What goes wrong on the way


def test_a_cut_download_goes_on_where_it_was(puller, proxy, small):
    cuts = []

    def fault(seen, answer):
        if big(answer) and not cuts:
            answer.cut_after = 700_000
            cuts.append(1)

    proxy.fault = fault
    assert puller.layers(f"{proxy.host}/test/small") == blobs(small)
    ranges = [r.headers["Range"] for r in proxy.asked("/blobs/") if "Range" in r.headers]
    assert len(ranges) == 1
    assert 0 < int(ranges[0].removeprefix("bytes=").rstrip("-")) <= 700_000


def test_many_cuts_are_no_failure_as_long_as_bytes_come(puller, proxy, small):
    def fault(seen, answer):
        if is_blob(seen) and len(answer.body) > 300_000:
            answer.cut_after = 300_000

    proxy.fault = fault
    assert puller.layers(f"{proxy.host}/test/small") == blobs(small)


def test_a_registry_that_ignores_ranges(puller, proxy, small):
    whole = {}

    def fault(seen, answer):
        if big(answer) and "Range" not in seen.headers:
            whole[seen.path] = answer.body
            answer.cut_after = 700_000
        elif "Range" in seen.headers:
            answer.status, answer.body = 200, whole[seen.path]
            answer.headers = {}

    proxy.fault = fault
    assert puller.layers(f"{proxy.host}/test/small") == blobs(small)


def test_a_registry_that_answers_with_another_range(puller, proxy):
    def fault(seen, answer):
        if "Range" in seen.headers:
            answer.headers["Content-Range"] = "bytes 5-9/10"
        elif big(answer):
            answer.cut_after = 700_000

    proxy.fault = fault
    with pytest.raises(UnavailableError, match="another range"):
        puller.layers(f"{proxy.host}/test/small")


def test_a_download_cut_for_good_is_continued_by_the_next_run(puller, proxy, small):
    def fault(seen, answer):
        if "Range" in seen.headers:
            answer.reset = True
        elif big(answer):
            answer.cut_after = 700_000

    proxy.fault = fault
    with pytest.raises(UnavailableError, match=r"reset by peer.*the next run goes on there"):
        puller.layers(f"{proxy.host}/test/small")
    assert stored_layers(puller, small) <= 1
    kept = leftovers(puller)[0].stat().st_size
    assert kept > 0
    proxy.fault = lambda seen, answer: None
    proxy.seen.clear()
    assert puller.layers(f"{proxy.host}/test/small") == blobs(small)
    assert proxy.asked("/blobs/")[-1].headers["Range"] == f"bytes={kept}-"


@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_passing_failure_is_tried_again(puller, proxy, small, status):
    counts: dict[str, int] = {}

    def fault(seen, answer):
        counts[seen.path] = counts.get(seen.path, 0) + 1
        if counts[seen.path] <= 2:
            answer.status, answer.body, answer.headers = status, b"", {"Retry-After": "0"}

    proxy.fault = fault
    assert puller.layers(f"{proxy.host}/test/small") == blobs(small)


def test_a_lasting_failure_says_how_often_it_was_tried(puller, proxy):
    def fault(seen, answer):
        answer.status, answer.headers = 503, {}

    proxy.fault = fault
    with pytest.raises(UnavailableError, match=r"status 503 after 5 tries; try again later"):
        puller.resolve(f"{proxy.host}/test/small")
    assert len(proxy.asked("/manifests/")) == 5


def test_retry_after_is_obeyed_and_a_long_one_is_told_at_once(puller, proxy):
    moments = []

    def fault(seen, answer):
        moments.append(time.monotonic())
        if len(moments) == 1:
            answer.status, answer.headers = 429, {"Retry-After": "1"}

    proxy.fault = fault
    puller.resolve(f"{proxy.host}/test/small")
    assert moments[1] - moments[0] >= 0.9

    def forever(seen, answer):
        answer.status, answer.headers = 429, {"Retry-After": "3600"}

    proxy.fault = forever
    with pytest.raises(UnavailableError, match=r"limits the rate.*log in, or try again in 3600 s"):
        puller.resolve(f"{proxy.host}/test/small")


def test_resets_are_tried_again(puller, proxy, small):
    seen_paths = set()

    def fault(seen, answer):
        answer.reset = seen.path not in seen_paths
        seen_paths.add(seen.path)

    proxy.fault = fault
    assert puller.layers(f"{proxy.host}/test/small") == blobs(small)


def test_silence_is_given_up_and_tried_again(puller, proxy, small):
    delays = [1.5]

    def fault(seen, answer):
        if "/manifests/" in seen.path and delays:
            answer.delay = delays.pop()

    proxy.fault = fault
    hasty = with_settings(puller, read_timeout=0.5)
    assert hasty.layers(f"{proxy.host}/test/small") == blobs(small)
    delays += [1.5] * 2
    with pytest.raises(UnavailableError, match="no answer within the time limit"):
        with_settings(puller, read_timeout=0.3, attempts=2).resolve(f"{proxy.host}/test/small")


def test_giving_up_does_not_wait_for_a_silent_connection(puller, proxy):
    image = puller.resolve(f"{proxy.host}/test/small")
    waiting, silence = threading.Event(), threading.Event()

    def fault(seen, answer):
        waiting.set()
        silence.wait(60)

    proxy.fault = fault
    reference = parse_reference(f"{proxy.host}/test/small")
    start = time.monotonic()
    with open_source(reference, store=puller.store, settings=puller.settings) as source:
        source.prefetch(image.manifest.layers, QUIET)
        assert waiting.wait(20)
    assert time.monotonic() - start < 20
    silence.set()


# Bytes that lie


def test_a_layer_with_wrong_bytes_is_refused_and_not_kept(puller, proxy, small):
    proxy.fault = lambda seen, answer: flip(answer) if big(answer) else None
    with pytest.raises(VerificationError, match=r"blob sha256:[0-9a-f]+ has other bytes"):
        puller.layers(f"{proxy.host}/test/small")
    assert stored_layers(puller, small) <= 1
    assert leftovers(puller) == []
    proxy.fault = lambda seen, answer: None
    assert puller.layers(f"{proxy.host}/test/small") == blobs(small)


@pytest.mark.parametrize("declared", [True, False])
@pytest.mark.parametrize("change", [b"x", None])
def test_a_layer_of_another_size(puller, proxy, declared, change):
    def fault(seen, answer):
        if big(answer):
            answer.body = answer.body + change if change else answer.body[:-1]
            answer.headers["Content-Length"] = str(len(answer.body)) if declared else ""

    proxy.fault = fault
    with pytest.raises(VerificationError, match="declared"):
        puller.layers(f"{proxy.host}/test/small")
    assert leftovers(puller) == []


@pytest.mark.parametrize("by", [-1, 1, 1000])
def test_a_lie_about_the_length(puller, proxy, by):
    def fault(seen, answer):
        if big(answer):
            answer.headers["Content-Length"] = str(len(answer.body) + by)

    proxy.fault = fault
    with pytest.raises(VerificationError, match="declared"):
        puller.layers(f"{proxy.host}/test/small")


def test_a_config_with_wrong_bytes(puller, proxy):
    proxy.fault = lambda seen, answer: flip(answer) if is_blob(seen) else None
    with pytest.raises(VerificationError, match="another digest"):
        puller.resolve(f"{proxy.host}/test/small")


def test_a_manifest_with_wrong_bytes(puller, proxy, registry):
    digest = puller.resolve(f"{registry}/test/small").manifest.digest
    fresh = replace(puller, store=Store(puller.store.root.with_name("fresh")))

    def fault(seen, answer):
        if "/manifests/" in seen.path:
            answer.body += b" "
            answer.headers = {"Content-Type": oci.OCI_MANIFEST}

    proxy.fault = fault
    with pytest.raises(VerificationError, match="other bytes than its digest"):
        fresh.resolve(f"{proxy.host}/test/small@{digest}")
    fresh.resolve(f"{proxy.host}/test/small")  # a tag alone pins nothing

    def header(seen, answer):
        answer.headers["Docker-Content-Digest"] = "sha256:" + "0" * 64

    proxy.fault = header
    with pytest.raises(VerificationError, match="other bytes than its digest"):
        fresh.resolve(f"{proxy.host}/test/small")


def answer_manifest(body: bytes, media_type: str = oci.OCI_MANIFEST):
    def fault(seen, answer):
        if "/manifests/" in seen.path:
            answer.body, answer.headers = body, {"Content-Type": media_type}
            answer.status = 200

    return fault


@pytest.mark.parametrize(
    ("body", "media_type", "kind", "message"),
    [
        (b"<html>", "text/html; charset=utf-8", UnavailableError, "not a registry"),
        (b"<html>", "application/json", ContentError, "no manifest"),
        (b" " * (oci.DOCUMENT_LIMIT + 1), oci.OCI_MANIFEST, ContentError, "larger than"),
        (b"{}", oci.OCI_MANIFEST, ContentError, "not an image manifest"),
        (b"[]", oci.OCI_MANIFEST, ContentError, "an object was expected"),
        (b"[" * 100_000, oci.OCI_MANIFEST, ContentError, "no manifest"),
        (b'{"schemaVersion": 1}', "application/json", ContentError, "schema 1"),
        (
            b'{"schemaVersion": 1, "fsLayers": []}',
            "application/vnd.docker.distribution.manifest.v1+prettyjws",
            ContentError,
            "schema 1",
        ),
        (
            b'{"schemaVersion": 2, "manifests": [], "layers": []}',
            oci.OCI_INDEX,
            ContentError,
            "has layers too",
        ),
        (b'{"schemaVersion": 2, "manifests": []}', oci.OCI_INDEX, NotFoundError, "no container"),
    ],
)
def test_answers_that_are_no_manifest(puller, proxy, body, media_type, kind, message):
    proxy.fault = answer_manifest(body, media_type)
    with pytest.raises(kind, match=message) as caught:
        puller.resolve(f"{proxy.host}/test/small")
    assert "\n" not in str(caught.value)


def test_a_long_manifest_is_read_if_that_is_allowed(puller, proxy):
    def fault(seen, answer):
        if "/manifests/" in seen.path:
            answer.body += b" " * oci.DOCUMENT_LIMIT
            answer.headers = {"Content-Type": oci.OCI_MANIFEST}

    proxy.fault = fault
    reference = parse_reference(f"{proxy.host}/test/small")
    with pytest.raises(LimitError, match="--max-document"):
        puller.resolve(str(reference))
    limits = Limits(document=oci.DOCUMENT_LIMIT + 4096)
    with open_source(
        reference, store=puller.store, settings=puller.settings, limits=limits
    ) as source:
        assert len(source.resolve(AMD64, QUIET).layers) == 2


def test_a_manifest_that_does_not_say_its_type(puller, proxy, registry):
    raw = json.loads(puller.resolve(f"{registry}/test/small").manifest.raw)
    del raw["mediaType"]
    proxy.fault = answer_manifest(json.dumps(raw).encode(), "application/octet-stream")
    assert puller.resolve(f"{proxy.host}/test/small").manifest.media_type == oci.OCI_MANIFEST


def test_control_characters_of_a_registry_do_not_reach_the_terminal(puller, proxy):
    def fault(seen, answer):
        answer.status = 403
        answer.body = json.dumps({"errors": [{"message": "\x1b[2Jgone\nError: x"}]}).encode()
        answer.headers = {"Content-Type": "application/json"}

    proxy.fault = fault
    with pytest.raises(AccessError, match=r"status 403.*it says: \\x1b\[2Jgone\\x0aError"):
        puller.resolve(f"{proxy.host}/test/small")
