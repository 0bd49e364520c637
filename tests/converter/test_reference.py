"""References as users of docker and skopeo write them."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbuild.converter.errors import InputError
from hyperbuild.converter.reference import Reference, parse_reference

DIGEST = "sha256:" + "ab" * 32


@pytest.mark.parametrize(
    ("text", "registry", "repository", "tag", "digest"),
    [
        ("nginx", "docker.io", "library/nginx", "latest", ""),
        ("nginx:1.27-alpine", "docker.io", "library/nginx", "1.27-alpine", ""),
        ("team/app", "docker.io", "team/app", "latest", ""),
        ("docker.io/nginx", "docker.io", "library/nginx", "latest", ""),
        ("index.docker.io/nginx", "docker.io", "library/nginx", "latest", ""),
        ("registry-1.docker.io/a/b:c", "docker.io", "a/b", "c", ""),
        ("docker://ghcr.io/o/n:v1", "ghcr.io", "o/n", "v1", ""),
        ("localhost/n", "localhost", "n", "latest", ""),
        ("localhost:5000/n:v", "localhost:5000", "n", "v", ""),
        ("127.0.0.1:5000/a/b/c", "127.0.0.1:5000", "a/b/c", "latest", ""),
        ("[::1]:5000/n", "[::1]:5000", "n", "latest", ""),
        (f"nginx@{DIGEST}", "docker.io", "library/nginx", "", DIGEST),
        (f"nginx:1@{DIGEST}", "docker.io", "library/nginx", "1", DIGEST),
        ("a/b_c/d__e/f-g/h.i", "docker.io", "a/b_c/d__e/f-g/h.i", "latest", ""),
        ("nginx:5000", "docker.io", "library/nginx", "5000", ""),
    ],
)
def test_names(text, registry, repository, tag, digest):
    assert parse_reference(text) == Reference("docker", registry, repository, tag, digest)


@pytest.mark.parametrize(
    ("text", "transport", "path", "tag"),
    [
        ("oci:dir", "oci", "dir", ""),
        ("oci:/a/b:v1", "oci", "/a/b", "v1"),
        ("oci-archive:x.tar:a:b", "oci-archive", "x.tar", "a:b"),
        ("docker-archive:x.tar:h:5000/n:t", "docker-archive", "x.tar", "h:5000/n:t"),
    ],
)
def test_paths(text, transport, path, tag):
    assert parse_reference(text) == Reference(transport, path=Path(path), tag=tag)
    assert str(parse_reference(text)) == text


def test_the_docker_engine():
    reference = parse_reference("docker-daemon:nginx:1")
    assert (reference.transport, reference.repository) == ("docker-daemon", "library/nginx")


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "Nginx",
        "nginx:",
        "nginx@",
        "nginx@sha256:abc",
        f"nginx@md5:{'a' * 32}",
        f"nginx@{DIGEST.upper()}",
        "nginx:-tag",
        "nginx:" + "t" * 129,
        "n" * 256,
        "a//b",
        "/a",
        "a/",
        "../etc",
        "a/../b",
        "a/./b",
        "a b",
        "a\nb",
        "nginx\n",
        "http://host/a",
        "user:pass@host/a",
        "host:port/a",
        "host:123456/a",
        "oci:",
        "oci::tag",
        "oci:a\0b",
        "docker-daemon:",
        "docker://",
        "a/b/c?x=y",
        "a_-b",
        "ngińx",
    ],
)
def test_what_is_no_reference(text):
    with pytest.raises(InputError) as caught:
        parse_reference(text)
    assert "\n" not in str(caught.value)
    assert "say" in str(caught.value) or "over 255" in str(caught.value)


@given(st.text(max_size=40))
def test_any_text_is_read_or_refused_and_what_is_read_means_itself(text):
    try:
        reference = parse_reference(text)
    except InputError as error:
        assert "\n" not in str(error)
        return
    if reference.path is None:
        assert parse_reference(str(reference)) == reference
