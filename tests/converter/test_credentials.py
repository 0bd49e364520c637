"""Credentials: found where docker, podman and skopeo keep them, and never shown."""

from __future__ import annotations

import base64
import json
import os
from pathlib import Path

import pytest

from hyperbuild.converter.credentials import Credential, find_credential
from hyperbuild.converter.errors import AccessError, InputError, UnavailableError
from hyperbuild.converter.settings import Host, credential_files, docker_socket, read_hosts


def auth(user: str, password: str) -> dict[str, str]:
    return {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}


def written(path: Path, document: object) -> Path:
    path.write_text(json.dumps(document))
    return path


def helper(directory: Path, name: str, script: str, monkeypatch) -> None:
    program = directory / f"docker-credential-{name}"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


def test_none_found(tmp_path):
    empty = written(tmp_path / "empty.json", {})
    (tmp_path / "void.json").write_text("")
    places = [tmp_path / "missing.json", empty / "below-a-file", empty, tmp_path / "void.json"]
    assert find_credential("r.example", "a/b", places) is None


def test_the_longest_key_wins_and_then_the_first_file(tmp_path):
    one = written(
        tmp_path / "1.json",
        {
            "auths": {
                "r.example": auth("host", "1"),
                "r.example/team": auth("team", "2"),
                "r.example/team/app": auth("app", "3:with:colons"),
                "r.example/te": auth("wrong", "4"),
            }
        },
    )
    two = written(tmp_path / "2.json", {"auths": {"r.example/team/app/x": auth("second", "5")}})
    places = [one, two]
    assert find_credential("r.example", "team/app", places) == Credential("app", "3:with:colons")
    assert find_credential("r.example", "team/other", places) == Credential("team", "2")
    assert find_credential("r.example", "else", places) == Credential("host", "1")
    assert find_credential("r.example:5000", "team/app", places) is None
    assert find_credential("r.example", "team/app/x", [two, one]) == Credential("second", "5")


@pytest.mark.parametrize(
    "key",
    ["https://index.docker.io/v1/", "docker.io", "index.docker.io", "https://registry-1.docker.io"],
)
def test_docker_hub_under_its_many_names(tmp_path, key):
    place = written(tmp_path / "c.json", {"auths": {key: auth("u", "p")}})
    assert find_credential("docker.io", "library/nginx", [place]) == Credential("u", "p")


@pytest.mark.parametrize("key", ["http://r.example", "https://r.example/", "https://r.example/v2/"])
def test_old_keys_are_addresses(tmp_path, key):
    place = written(tmp_path / "c.json", {"auths": {key: auth("u", "p")}})
    assert find_credential("r.example", "a", [place]) == Credential("u", "p")


def test_identity_tokens_and_plain_fields(tmp_path):
    entries = {
        "token.example": {**auth("<token>", ""), "identitytoken": "refresh"},
        "plain.example": {"username": "u", "password": "p"},
        "empty.example": {},
    }
    place = written(tmp_path / "c.json", {"auths": entries})
    assert find_credential("token.example", "a", [place]) == Credential("<token>", "", "refresh")
    assert find_credential("plain.example", "a", [place]) == Credential("u", "p")
    assert find_credential("empty.example", "a", [place]) is None


def test_helpers(tmp_path, monkeypatch):
    helper(
        tmp_path,
        "good",
        'read server; echo "{\\"Username\\": \\"$server\\", \\"Secret\\": \\"from-$1\\"}"',
        monkeypatch,
    )
    helper(tmp_path, "token", """echo '{"Username": "<token>", "Secret": "t"}'""", monkeypatch)
    document = {"credsStore": "good", "credHelpers": {"t.example": "token"}}
    place = written(tmp_path / "c.json", document)
    assert find_credential("r.example", "a", [place]) == Credential("r.example", "from-get")
    assert find_credential("docker.io", "library/a", [place]) == Credential(
        "https://index.docker.io/v1/", "from-get"
    )
    assert find_credential("t.example", "a", [place]) == Credential("", "", "t")


def test_a_helper_that_knows_nothing_is_passed_over(tmp_path, monkeypatch):
    helper(tmp_path, "h", "echo 'credentials not found in native keychain'; exit 1", monkeypatch)
    store = written(tmp_path / "1.json", {"credsStore": "h"})
    other = written(tmp_path / "2.json", {"auths": {"r.example": auth("u", "p")}})
    assert find_credential("r.example", "a", [store, other]) == Credential("u", "p")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo s3cret >&2; echo s3cret; exit 1", r"failed for r\.example \(status 1\)"),
        ("echo s3cret", "gave no credential"),
        ("""echo '{"Username": "s3cret"}'""", "gave no credential"),
        ("exec sleep 60", "gave no answer"),
    ],
)
def test_a_broken_helper_is_named_and_what_it_says_is_not_shown(
    tmp_path, monkeypatch, script, message
):
    helper(tmp_path, "h", script, monkeypatch)
    place = written(tmp_path / "c.json", {"credsStore": "h"})
    with pytest.raises(AccessError, match=message) as caught:
        find_credential("r.example", "a", [place], helper_seconds=1)
    assert "docker-credential-h" in str(caught.value)
    assert "s3cret" not in str(caught.value)


@pytest.mark.parametrize("name", ["no-such-helper-here", "../../bin/true", "a b", ""])
def test_a_helper_that_is_missing_or_no_name(tmp_path, name):
    place = written(tmp_path / "c.json", {"credHelpers": {"r.example": name or "/"}})
    with pytest.raises(AccessError, match=r"not installed|not a program's name"):
        find_credential("r.example", "a", [place])


@pytest.mark.parametrize("content", ["{", "[]", "[" * 100_000, '"x"', "\udcff"])
def test_a_file_that_is_no_json_object(tmp_path, content):
    (tmp_path / "c.json").write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(AccessError, match="log in again"):
        find_credential("r.example", "a", [tmp_path / "c.json"])


@pytest.mark.parametrize("text", ["!", "bm9jb2xvbg==", "/w=="])
def test_an_entry_that_cannot_be_read_is_named_without_its_content(tmp_path, text):
    place = written(tmp_path / "c.json", {"auths": {"r.example": {"auth": text}}})
    with pytest.raises(AccessError, match=r"entry for r\.example cannot be read") as caught:
        find_credential("r.example", "a", [place])
    assert text not in str(caught.value)


def test_other_shapes_are_passed_over(tmp_path):
    document = {"auths": {"r.example": "x"}, "credHelpers": [], "credsStore": 5}
    assert find_credential("r.example", "a", [written(tmp_path / "c.json", document)]) is None


def test_a_directory_and_an_unreadable_place(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    for place in (tmp_path, tmp_path / "fifo", Path("/dev/zero")):
        with pytest.raises(InputError, match="not a regular file"):
            find_credential("r.example", "a", [place])
    with pytest.raises(UnavailableError, match="cannot read the credentials"):
        find_credential("r.example", "a", [tmp_path / ("n" * 300)])


def test_secrets_are_not_in_the_repr():
    assert "hidden" not in repr(Credential("u", "hidden", "hidden"))


# Where the command line looks


def test_places_in_order(tmp_path):
    home, environment = Path("/h"), {"XDG_RUNTIME_DIR": "/run/user/1", "DOCKER_CONFIG": "/d"}
    assert credential_files(None, environment, home) == (
        Path("/run/user/1/containers/auth.json"),
        Path("/h/.config/containers/auth.json"),
        Path("/d/config.json"),
    )
    assert credential_files(None, {}, home)[-1] == Path("/h/.docker/config.json")
    file = written(tmp_path / "a.json", {})
    assert credential_files(file, environment, home) == (file,)
    assert credential_files(None, {"REGISTRY_AUTH_FILE": str(file)}, home) == (file,)
    with pytest.raises(InputError, match="does not exist"):
        credential_files(tmp_path / "none", {}, home)


def test_the_docker_engines_socket():
    assert docker_socket({}) == Path("/run/docker.sock")
    assert docker_socket({"DOCKER_HOST": "unix:///x/y"}) == Path("/x/y")
    with pytest.raises(InputError, match="DOCKER_HOST"):
        docker_socket({"DOCKER_HOST": "tcp://1.2.3.4:2375"})


def test_the_file_of_registries(tmp_path):
    (tmp_path / "ca.pem").write_text("")
    path = tmp_path / "hosts.toml"
    path.write_text('["a:1"]\nmirrors=["m"]\nca="ca.pem"\n[b]\ninsecure=true\n')
    assert read_hosts(path) == {
        "a:1": Host(("m",), False, tmp_path / "ca.pem"),
        "b": Host((), True, None),
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[", "is not TOML"),
        ("x = " + "[" * 5000, "is not TOML"),
        ("a = 1", "is no table"),
        ("[a]\nmirror = []", "mirror is not known for a; use mirrors, insecure, ca"),
        ('[a]\ninsecure = "yes"', "insecure of a is not a bool"),
        ('[a]\nca = "none.pem"', "which is no file"),
    ],
)
def test_a_file_of_registries_that_does_not_fit(tmp_path, text, message):
    path = tmp_path / "hosts.toml"
    path.write_text(text)
    with pytest.raises(InputError, match=message):
        read_hosts(path)
    with pytest.raises(UnavailableError, match="cannot open"):
        read_hosts(tmp_path / "none.toml")


@pytest.mark.parametrize("kind", ["fifo", "device", "directory"])
def test_a_file_of_registries_that_is_no_file(tmp_path, kind):
    path = tmp_path / "hosts.toml"
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(InputError, match="not a regular file"):
        read_hosts(path)
