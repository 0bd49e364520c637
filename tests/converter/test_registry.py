"""Pulling from a real docker-registry, and through a proxy that cuts, lies, delays and refuses."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from hyperbuild.converter import oci
from hyperbuild.converter.errors import (
    AccessError,
    ContentError,
    HyperbuildError,
    NotFoundError,
    UnavailableError,
    VerificationError,
)
from hyperbuild.converter.progress import QUIET
from hyperbuild.converter.reference import parse_reference
from hyperbuild.converter.registry import Registry, endpoints
from hyperbuild.converter.settings import Host, RegistrySettings, read_hosts
from hyperbuild.converter.source import open_source
from hyperbuild.converter.store import Store
from hyperbuild.converter.tokens import Challenge
from hyperbuild.converter.transfer import Patience
from tests.converter.conftest import IMPATIENT, Puller
from tests.support.registry import (
    PASSWORD,
    USER,
    Answer,
    certificate,
    free_port,
    push,
    query,
    serve_proxy,
    serve_registry,
)

SIZE_OVER = 1 << 20  # the second layer of "small" is larger


def blobs(layout: Path) -> list[bytes]:
    """The layers of small, from its layout."""
    manifest = json.loads(_blob(layout, json.loads((layout / "index.json").read_text())))
    return [_read(layout, layer["digest"]) for layer in manifest["layers"]]


def _blob(layout: Path, index: dict) -> bytes:
    return _read(layout, index["manifests"][0]["digest"])


def _read(layout: Path, digest: str) -> bytes:
    return (layout / "blobs" / digest.replace(":", "/")).read_bytes()


def big(answer: Answer) -> bool:
    return answer.status in (200, 206) and len(answer.body) > SIZE_OVER


def is_blob(seen) -> bool:
    return "/blobs/" in seen.path


def with_settings(puller: Puller, **changes) -> Puller:
    return replace(puller, settings=replace(IMPATIENT, **changes))


def leftovers(puller: Puller) -> list[Path]:
    return [path for path in (puller.store.root / ".partial").glob("*") if path.is_file()]


def stored_layers(puller: Puller, layout: Path) -> int:
    return sum(puller.store.blob_path(oci.digest_of(blob)).exists() for blob in blobs(layout))


# What works


def test_layers_are_the_bytes_that_were_pushed(puller, registry, small):
    assert puller.layers(f"{registry}/test/small") == blobs(small)
    image = puller.resolve(f"docker://{registry}/test/small:other")
    assert str(image.platform) == "linux/amd64"
    assert image.config.config == {"Cmd": ["/bin/true"]}
    assert puller.store.read(image.manifest.config) == image.config.raw
    assert leftovers(puller) == []


def test_an_image_by_umoci_with_several_layers(puller, registry, tmp_path):
    layout, tree = tmp_path / "umoci", tmp_path / "tree"
    (tree / "usr").mkdir(parents=True)
    (tree / "usr/a").write_text("a\n")
    for command in (
        ["init", "--layout", layout],
        ["new", "--image", f"{layout}:v1"],
        ["insert", "--rootless", "--image", f"{layout}:v1", tree / "usr", "/usr"],
        ["insert", "--rootless", "--image", f"{layout}:v1", tree / "usr/a", "/b"],
    ):
        subprocess.run(["umoci", *command], check=True, capture_output=True)
    push(layout, f"{registry}/by/umoci:v1", "v1")
    image = puller.resolve(f"{registry}/by/umoci:v1")
    assert len(puller.layers(f"{registry}/by/umoci:v1")) == len(image.config.diff_ids) == 2


def test_docker_schema_2(puller, registry, small):
    push(small, f"{registry}/test/v2s2", "latest", "--format", "v2s2")
    image = puller.resolve(f"{registry}/test/v2s2")
    assert image.manifest.media_type == oci.DOCKER_MANIFEST
    assert len(puller.layers(f"{registry}/test/v2s2")) == 2


def test_what_is_in_the_store_is_not_fetched_again(puller, proxy):
    name = f"{proxy.host}/test/small"
    digest = puller.resolve(name).manifest.digest
    puller.layers(name)
    proxy.seen.clear()
    puller.layers(name)
    assert proxy.asked("/blobs/") == []
    assert len(proxy.asked("/manifests/")) == 1
    proxy.seen.clear()
    puller.layers(f"{name}@{digest}")
    assert proxy.seen == [], "a digest needs no registry once it is here"


def test_two_pulls_at_once_fetch_each_layer_once(puller, proxy):
    proxy.fault = lambda seen, answer: setattr(answer, "delay", 0.2 if is_blob(seen) else 0)
    pulls = [
        threading.Thread(target=puller.layers, args=(f"{proxy.host}/test/small",)) for _ in range(2)
    ]
    for thread in pulls:
        thread.start()
    for thread in pulls:
        thread.join(60)
    image = puller.resolve(f"{proxy.host}/test/small")
    assert [len(proxy.asked(layer.digest)) for layer in image.manifest.layers] == [1, 1]


def test_layers_are_fetched_at_the_same_time(puller, proxy):
    arrived = threading.Barrier(2, timeout=20)

    def fault(seen, answer):
        if is_blob(seen) and "config" not in answer.headers.get("Content-Type", ""):
            arrived.wait()

    image = puller.resolve(f"{proxy.host}/test/small")
    proxy.fault = fault
    with open_source(
        parse_reference(f"{proxy.host}/test/small"), store=puller.store, settings=puller.settings
    ) as source:
        source.prefetch(image.manifest.layers, QUIET)
        for layer in image.manifest.layers:
            source.open_layer(layer, QUIET).close()


def test_docker_hub_is_asked_where_it_lives():
    reference = parse_reference("nginx")
    found = endpoints(reference.registry, reference.repository, Patience(RegistrySettings()))
    assert [(e.base, e.repository, e.name) for e in found] == [
        ("registry-1.docker.io", "library/nginx", "docker.io/library/nginx")
    ]


# Who may


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, small):
    with serve_registry(tmp_path_factory.mktemp("guarded"), auth=True) as host:
        push(small, f"{host}/team/small", "latest", "--dest-creds", f"{USER}:{PASSWORD}")
        yield host


def authfile(path: Path, host: str, user: str = USER, password: str = PASSWORD) -> tuple[Path]:
    auth = base64.b64encode(f"{user}:{password}".encode()).decode()
    path.write_text(json.dumps({"auths": {host: {"auth": auth}}}))
    return (path,)


def test_basic_auth(puller, guarded, small, tmp_path):
    files = authfile(tmp_path / "auth.json", guarded)
    assert with_settings(puller, credential_files=files).layers(f"{guarded}/team/small") == blobs(
        small
    )


def test_without_or_with_a_wrong_password_the_error_says_how_to_log_in(puller, guarded, tmp_path):
    with pytest.raises(AccessError, match=r"status 401.*skopeo login 127"):
        puller.resolve(f"{guarded}/team/small")
    files = authfile(tmp_path / "auth.json", guarded, USER, "not-the-one")
    with pytest.raises(AccessError, match=r"status 401.*log in again") as caught:
        with_settings(puller, credential_files=files).resolve(f"{guarded}/team/small")
    shown = f"{caught.value!r} {caught.value.__cause__!r}"
    assert "not-the-one" not in shown
    assert base64.b64encode(f"{USER}:not-the-one".encode()).decode() not in shown


class TokenServer:
    """A fault that wants bearer tokens, hands them out at /token, each good for N requests."""

    def __init__(self, host: str, uses: int = 1000) -> None:
        self.host, self.uses = host, uses
        self.issued: dict[str, int] = {}
        self.asked: list = []

    def __call__(self, seen, answer):
        if seen.path.startswith("/token"):
            self.asked.append(seen)
            token = f"token-{len(self.issued)}"
            self.issued[token] = self.uses
            answer.status, answer.headers = 200, {"Content-Type": "application/json"}
            answer.body = json.dumps({"access_token": token}).encode()
            return
        token = seen.headers.get("Authorization", "").removeprefix("Bearer ")
        self.issued[token] = self.issued.get(token, 0) - 1
        if self.issued[token] < 0:
            answer.status, answer.body = 401, b"{}"
            answer.headers = {
                "WWW-Authenticate": f'Bearer realm="http://{self.host}/token",service="reg",'
                'scope="repository:test/small:pull"'
            }


def test_tokens_are_fetched_per_repository_and_renewed_when_they_expire(puller, proxy, small):
    proxy.fault = tokens = TokenServer(proxy.host, uses=2)
    assert puller.layers(f"{proxy.host}/test/small") == blobs(small)
    assert len(tokens.asked) >= 2
    assert query(tokens.asked[0]) == {"service": "reg", "scope": "repository:test/small:pull"}
    assert "Authorization" not in tokens.asked[0].headers


def test_the_password_goes_to_the_token_server_and_not_to_the_registry(puller, proxy, tmp_path):
    proxy.fault = tokens = TokenServer(proxy.host)
    files = authfile(tmp_path / "auth.json", proxy.host)
    with_settings(puller, credential_files=files).layers(f"{proxy.host}/test/small")
    assert tokens.asked[0].headers["Authorization"].startswith("Basic ")
    assert not any(
        request.headers.get("Authorization", "").startswith("Basic ")
        for request in proxy.asked("/v2/test")
    )


def test_an_identity_token_is_exchanged(puller, proxy, tmp_path):
    proxy.fault = tokens = TokenServer(proxy.host)
    (tmp_path / "a.json").write_text(
        json.dumps({"auths": {proxy.host: {"auth": "PHRva2VuPjo=", "identitytoken": "refresh"}}})
    )
    with_settings(puller, credential_files=(tmp_path / "a.json",)).resolve(
        f"{proxy.host}/test/small"
    )
    assert tokens.asked[0].method == "POST"


@pytest.mark.parametrize("body", [b"{}", b"[]", b"<html>", b'{"token":"a\\r\\nb"}', b'{"token":1}'])
def test_a_token_server_that_gives_nonsense(puller, proxy, body):
    def fault(seen, answer):
        tokens(seen, answer)
        if seen.path.startswith("/token"):
            answer.body = body

    tokens = TokenServer(proxy.host)
    proxy.fault = fault
    with pytest.raises(AccessError, match="gives no token"):
        puller.resolve(f"{proxy.host}/test/small")


def test_a_token_server_that_refuses(puller, proxy):
    def fault(seen, answer):
        tokens(seen, answer)
        if seen.path.startswith("/token"):
            answer.status = 403

    tokens = TokenServer(proxy.host)
    proxy.fault = fault
    with pytest.raises(AccessError, match=r"gives no token .*\(status 403\); check the name"):
        puller.resolve(f"{proxy.host}/test/small")


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        ('Bearer realm="https://a/t",service="s",scope="x"', ("bearer", "https://a/t", "s", "x")),
        ('Basic realm="r", Bearer realm="https://a/t"', ("bearer", "https://a/t", "", "")),
        ('bearer realm="https://a/t"', ("bearer", "https://a/t", "", "")),
        ('Basic realm="r"', ("basic", "r", "", "")),
        ("Bearer", None),
        ("Negotiate", None),
        ("", None),
    ],
)
def test_challenges(header, expected):
    challenge = Challenge.parse(header)
    found = challenge and (challenge.scheme, challenge.realm, challenge.service, challenge.scope)
    assert found == expected


def test_no_password_goes_from_tls_to_a_plain_token_server(puller, tmp_path, small):
    tls = certificate(tmp_path)
    realm = "http://127.0.0.1:1/token"
    with serve_registry(tmp_path / "r", tls=tls, realm=realm) as host:
        settings = replace(
            IMPATIENT,
            hosts={host: Host(ca=tls.ca)},
            credential_files=authfile(tmp_path / "auth.json", host),
        )
        with pytest.raises(AccessError, match="in the clear"):
            replace(puller, settings=settings).resolve(f"{host}/test/small")


# TLS


@pytest.fixture(scope="module")
def secured(tmp_path_factory, small):
    directory = tmp_path_factory.mktemp("secured")
    tls = certificate(directory)
    with serve_registry(directory, tls=tls) as host:
        push(small, f"{host}/test/small")
        yield host, tls


def test_a_private_ca(puller, secured, small, tmp_path):
    host, tls = secured
    (tmp_path / "hosts.toml").write_text(f'["{host}"]\nca = "{tls.ca}"\n')
    trusting = with_settings(puller, hosts=read_hosts(tmp_path / "hosts.toml"))
    assert trusting.layers(f"{host}/test/small") == blobs(small)


def test_a_certificate_nobody_vouches_for_is_refused_and_the_error_says_what_to_set(
    puller, secured
):
    with pytest.raises(AccessError, match=r"not trusted; name its CA .*insecure = true"):
        puller.resolve(f"{secured[0]}/test/small")


def test_insecure_when_asked(puller, secured, small):
    host, _ = secured
    trusting = with_settings(puller, hosts={host: Host(insecure=True)})
    assert trusting.layers(f"{host}/test/small") == blobs(small)


def test_a_ca_that_is_none(puller, secured, tmp_path):
    (tmp_path / "ca.pem").write_text("hello")
    settings = {secured[0]: Host(ca=tmp_path / "ca.pem")}
    with pytest.raises(AccessError, match="holds no certificates"):
        with_settings(puller, hosts=settings).resolve(f"{secured[0]}/test/small")


# What is not there


def test_unknown_tag_lists_tags_and_unknown_name_does_not(puller, registry):
    with pytest.raises(NotFoundError, match=r"has no tag nope; it has latest, other"):
        puller.resolve(f"{registry}/test/small:nope")
    with pytest.raises(NotFoundError, match=r"no/such:latest does not exist; check the name"):
        puller.resolve(f"{registry}/no/such")
    with pytest.raises(NotFoundError, match=r"has no manifest sha256:0000.*check the digest"):
        puller.resolve(f"{registry}/test/small@sha256:{'0' * 64}")


def test_another_platform_lists_what_there_is(puller, registry):
    with pytest.raises(NotFoundError, match=r"linux/arm64; it exists for linux/amd64"):
        puller.resolve(f"{registry}/test/small", oci.Platform("linux", "arm64"))


def test_a_registry_that_is_down_fails_at_once(puller):
    host, start = f"127.0.0.1:{free_port()}", time.monotonic()
    patient = replace(puller, settings=RegistrySettings())
    with pytest.raises(UnavailableError, match=rf"{host}: connection refused; check"):
        patient.resolve(f"{host}/a/b")
    assert time.monotonic() - start < 30


def test_an_unknown_host(puller):
    with pytest.raises(UnavailableError, match=r"no-such-host\.invalid:5000: no such host"):
        puller.resolve("no-such-host.invalid:5000/a/b")


def test_a_missing_blob_is_named(puller, proxy):
    def fault(seen, answer):
        if big(answer):
            answer.status, answer.body, answer.headers = 404, b"{}", {}

    proxy.fault = fault
    with pytest.raises(NotFoundError, match=r"has no blob sha256:.*push the image again"):
        puller.layers(f"{proxy.host}/test/small")


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


def flip(answer: Answer) -> None:
    answer.body = answer.body[:-1] + bytes([answer.body[-1] ^ 1])


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


# Where else


def test_a_redirect_to_another_host_carries_no_authorization(puller, proxy, registry, small):
    tokens = TokenServer(proxy.host)
    with serve_proxy(registry) as storage:

        def fault(seen, answer):
            tokens(seen, answer)
            if is_blob(seen) and answer.status == 200:
                answer.status, answer.body = 307, b""
                answer.headers = {"Location": f"http://{storage.host}{seen.path}"}

        proxy.fault = fault
        assert puller.layers(f"{proxy.host}/test/small") == blobs(small)
        assert storage.seen
        assert not any("Authorization" in request.headers for request in storage.seen)


def test_redirects_without_end(puller, proxy):
    def fault(seen, answer):
        answer.status, answer.body = 307, b""
        answer.headers = {"Location": f"http://{proxy.host}{seen.path}x"}

    proxy.fault = fault
    with pytest.raises(UnavailableError, match="too many redirects"):
        puller.resolve(f"{proxy.host}/test/small")


def test_a_mirror_is_asked_first(puller, registry, proxy, small):
    hosts = {registry: Host(mirrors=(f"http://{proxy.host}",))}
    assert with_settings(puller, hosts=hosts).layers(f"{registry}/test/small") == blobs(small)
    assert proxy.asked("/blobs/")


@pytest.mark.parametrize("how", ["down", "missing", "wrong"])
def test_a_bad_mirror_is_passed_over(puller, registry, proxy, small, how):
    mirror = proxy.host

    def fault(seen, answer):
        if how == "missing":
            answer.status, answer.body = 404, b"{}"
        elif is_blob(seen):
            flip(answer)

    proxy.fault = fault
    if how == "down":
        mirror = f"127.0.0.1:{free_port()}"
    hosts = {registry: Host(mirrors=(mirror,))}
    assert with_settings(puller, hosts=hosts).layers(f"{registry}/test/small") == blobs(small)


def test_an_http_proxy_is_used_but_not_for_this_machine(puller, registry, small):
    settings = {"proxies": {"http": "http://127.0.0.1:1", "https": "http://127.0.0.1:1"}}
    assert with_settings(puller, **settings).layers(f"{registry}/test/small") == blobs(small)
    with pytest.raises(UnavailableError, match="the proxy failed"):
        with_settings(puller, **settings).resolve("registry.invalid/a/b")
    settings["proxies"]["no"] = "other.invalid, .invalid"
    with pytest.raises(UnavailableError, match="no such host"):
        with_settings(puller, **settings).resolve("registry.invalid/a/b")


def test_nothing_of_the_environment_is_read(puller, registry, small, monkeypatch):
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "REQUESTS_CA_BUNDLE", "NETRC"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    assert puller.layers(f"{registry}/test/small") == blobs(small)


# What oras does with our requests


def test_orass_uploads_go_through_our_requests(puller, guarded, tmp_path):
    files = authfile(tmp_path / "auth.json", guarded)
    patience = Patience(replace(IMPATIENT, credential_files=files))
    client = Registry(endpoints(guarded, "team/pushed", patience)[-1])
    content = bytes(range(256)) * 1000
    (tmp_path / "blob").write_bytes(content)
    layer = {"mediaType": "a/b", "digest": oci.digest_of(content), "size": len(content)}
    container = f"{guarded}/team/pushed:v1"
    done = client.upload_blob(
        str(tmp_path / "blob"), container, layer, do_chunked=True, chunk_size=100_000
    )
    assert done.status_code == 201
    descriptor = oci.Descriptor("a/b", layer["digest"], len(content))
    assert b"".join(client.blob(descriptor)) == content
    assert b"".join(client.blob(descriptor, 1000)) == content[1000:]
    client.close()


def test_every_failure_is_of_the_family_whatever_the_status(puller, proxy):
    for status in (204, 301, 400, 404, 405, 410, 418, 451, 501, 599):

        def fault(seen, answer, status=status):
            answer.status, answer.body, answer.headers = status, b"", {}

        proxy.fault = fault
        with pytest.raises(HyperbuildError):
            puller.resolve(f"{proxy.host}/test/small")
