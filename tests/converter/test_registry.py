"""Pulling from a real docker-registry: what works, who may, what is not there."""

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
    HyperbuildError,
    NotFoundError,
    UnavailableError,
)
from hyperbuild.converter.progress import QUIET, Task
from hyperbuild.converter.reference import parse_reference
from hyperbuild.converter.registry import Registry, endpoints
from hyperbuild.converter.settings import Host, RegistrySettings, read_hosts
from hyperbuild.converter.source import open_source
from hyperbuild.converter.tokens import Challenge
from hyperbuild.converter.transfer import Patience
from tests.converter.conftest import AMD64, IMPATIENT
from tests.converter.pulls import big, blobs, flip, is_blob, leftovers, with_settings
from tests.support.registry import (
    PASSWORD,
    USER,
    certificate,
    free_port,
    push,
    query,
    serve_proxy,
    serve_registry,
)

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


class Told:
    """A Progress that remembers how far each step came, by its name, and how far it was to come."""

    def __init__(self) -> None:
        self.steps: dict[str, list[int | None]] = {}

    def say(self, message: str) -> None:
        pass

    warn = say

    def task(self, name: str, total: int | None = None, unit: str = "B") -> Task:
        assert unit == "B"
        steps = self.steps.setdefault(name, [0, total])

        class Step(Task):
            def advance(self, amount: int) -> None:
                steps[0] = (steps[0] or 0) + amount

        return Step()


def test_each_layer_tells_its_own_progress(puller, proxy, small):
    told, name = Told(), f"{proxy.host}/test/small"
    with open_source(parse_reference(name), store=puller.store, settings=puller.settings) as source:
        layers = source.resolve(AMD64, told).manifest.layers
        source.prefetch(layers, told)
        for layer in layers:
            with source.open_layer(layer, told) as file:
                file.read()
    assert told.steps == {layer.digest[:19]: [layer.size, layer.size] for layer in layers}
    assert [layer.size for layer in layers] == [len(blob) for blob in blobs(small)]


def test_a_layer_is_near_when_all_of_it_has_come(puller, proxy):
    reference = parse_reference(f"{proxy.host}/test/small")
    with open_source(reference, store=puller.store, settings=puller.settings) as source:
        layers = source.resolve(AMD64, QUIET).manifest.layers
        assert not any(map(source.is_near, layers))
        for layer in layers:
            with source.open_layer(layer, QUIET) as file:
                file.read()
        assert all(map(source.is_near, layers))


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


def test_a_certificate_that_has_expired_is_called_that(puller, small, tmp_path):
    tls = certificate(tmp_path, days=-1)
    with serve_registry(tmp_path / "r", tls=tls) as host:
        (tmp_path / "hosts.toml").write_text(f'["{host}"]\nca = "{tls.ca}"\n')
        trusting = with_settings(puller, hosts=read_hosts(tmp_path / "hosts.toml"))
        with pytest.raises(AccessError, match="its TLS certificate has expired; have it renewed"):
            trusting.resolve(f"{host}/test/small")


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
