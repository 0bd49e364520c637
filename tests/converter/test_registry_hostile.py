"""Registries and their neighbours that try to learn secrets, or to take memory and time."""

from __future__ import annotations

import gzip
import json
import time
import tracemalloc
from contextlib import closing

import pytest

from hyperbuild.converter.errors import AccessError, UnavailableError
from hyperbuild.converter.registry import Registry, endpoints
from hyperbuild.converter.settings import Host
from hyperbuild.converter.transfer import Patience
from tests.converter.pulls import big, blobs, with_settings
from tests.converter.test_registry import TokenServer, authfile
from tests.support.registry import serve_proxy


@pytest.mark.parametrize(
    "date", ["Wed, 21 Oct 99999 07:28:00 GMT", "Wed, 99 Foo", "-1", "1e9", "²"]
)
def test_a_retry_after_that_is_no_time(puller, proxy, date):
    asked = []

    def fault(seen, answer):
        asked.append(seen)
        if len(asked) == 1:
            answer.status, answer.headers = 429, {"Retry-After": date}

    proxy.fault = fault
    puller.resolve(f"{proxy.host}/test/small")


@pytest.mark.parametrize("where", ["error", "token"])
def test_bodies_are_not_unpacked_whatever_their_coding(puller, proxy, where):
    bomb = gzip.compress(bytes(256 << 20), 9)
    tokens = TokenServer(proxy.host)

    def fault(seen, answer):
        if where == "token":
            tokens(seen, answer)
        if where == "error" or seen.path.startswith("/token"):
            answer.status, answer.body = (403 if where == "error" else 200), bomb
            answer.headers = {"Content-Encoding": "gzip", "Content-Type": "application/json"}

    proxy.fault = fault
    tracemalloc.start()
    try:
        with pytest.raises(AccessError):
            puller.resolve(f"{proxy.host}/test/small")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 32 << 20


def test_a_coding_that_is_only_said_changes_nothing(puller, proxy, small):
    def fault(seen, answer):
        if big(answer):
            answer.headers["Content-Encoding"] = "gzip"

    proxy.fault = fault
    assert puller.layers(f"{proxy.host}/test/small") == blobs(small)


def redirecting(tokens, thief):
    """Return the fault of a token server that sends whoever asks it on to thief."""

    def fault(seen, answer):
        tokens(seen, answer)
        if seen.path.startswith("/token"):
            answer.status, answer.body = 307, b""
            answer.headers = {"Location": f"http://{thief.host}/token"}

    return fault


def test_an_identity_token_is_not_sent_on_to_another_host(puller, proxy, registry, tmp_path):
    place = tmp_path / "a.json"
    place.write_text(json.dumps({"auths": {proxy.host: {"identitytoken": "refresh-secret"}}}))
    tokens = TokenServer(proxy.host)
    with serve_proxy(registry) as thief:
        proxy.fault = redirecting(tokens, thief)
        with pytest.raises(AccessError, match=r"gives no token .*\(status 307\)"):
            with_settings(puller, credential_files=(place,)).resolve(f"{proxy.host}/test/small")
        assert thief.seen == []


def test_a_password_is_not_sent_on_to_another_host(puller, proxy, registry, tmp_path):
    files = authfile(tmp_path / "auth.json", proxy.host)
    tokens = TokenServer(proxy.host)
    with serve_proxy(registry) as thief:
        proxy.fault = redirecting(tokens, thief)
        with pytest.raises(AccessError):
            with_settings(puller, credential_files=files).resolve(f"{proxy.host}/test/small")
        assert thief.seen
        assert not any("Authorization" in request.headers for request in thief.seen)


def test_a_mirror_gets_no_credential_of_the_registry(puller, proxy, registry, small, tmp_path):
    files = authfile(tmp_path / "auth.json", registry)
    asked = []

    def fault(seen, answer):
        asked.append(seen)
        answer.status, answer.body = 401, b"{}"
        answer.headers = {"WWW-Authenticate": 'Basic realm="mirror"'}

    proxy.fault = fault
    hosts = {registry: Host(mirrors=(f"http://{proxy.host}",))}
    pulling = with_settings(puller, hosts=hosts, credential_files=files)
    assert pulling.layers(f"{registry}/test/small") == blobs(small)
    assert asked
    assert not any("Authorization" in request.headers for request in asked)


def test_a_token_that_never_suffices_is_asked_for_once_more_at_most(puller, proxy):
    proxy.fault = tokens = TokenServer(proxy.host, uses=0)
    with pytest.raises(AccessError, match="access refused"):
        puller.resolve(f"{proxy.host}/test/small")
    assert len(tokens.asked) <= 2


@pytest.mark.parametrize("what", ["manifests", "blobs"])
@pytest.mark.parametrize("part", ["head", "body"])
def test_a_registry_that_trickles_is_left(puller, proxy, what, part):
    """Each byte comes in time; all of them would take hours."""

    def fault(seen, answer):
        if f"/{what}/" in seen.path:
            setattr(answer, f"trickle_{part}", 0.05)

    proxy.fault = fault
    hasty = with_settings(puller, read_timeout=0.4, attempts=2)
    with pytest.raises(UnavailableError, match="its answer comes too slowly"):
        hasty.layers(f"{proxy.host}/test/small")
    assert len(proxy.asked(f"/{what}/")) <= 4


def test_a_token_server_that_trickles_is_left(puller, proxy):
    tokens = TokenServer(proxy.host)

    def fault(seen, answer):
        tokens(seen, answer)
        if seen.path.startswith("/token"):
            answer.trickle_body = 0.05

    proxy.fault = fault
    with pytest.raises(UnavailableError, match="its answer comes too slowly"):
        with_settings(puller, read_timeout=0.4).resolve(f"{proxy.host}/test/small")


def test_a_slow_reader_is_not_the_servers_fault(puller, registry, small):
    hasty = with_settings(puller, read_timeout=0.1, attempts=1)
    layer = hasty.resolve(f"{registry}/test/small").manifest.layers[1]
    (endpoint,) = endpoints(registry, "test/small", Patience(hasty.settings))
    content = b""
    with closing(Registry(endpoint)) as client:
        for piece in client.blob(layer):
            content += piece
            time.sleep(0.1)
    assert content == blobs(small)[1]
