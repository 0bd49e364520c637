"""Image references as users of docker and skopeo write them.

    nginx  nginx:1.27  ghcr.io/o/n@sha256:…      a bare name is docker://, Docker Hub's defaults
    docker://host:5000/name:tag@sha256:…
    oci:DIR[:TAG]  oci-archive:FILE[:TAG]  docker-archive:FILE[:REF]  docker-daemon:NAME

Grammar: the distribution project's reference package and skopeo's containers-transports(5).
"""

from __future__ import annotations

import re
from pathlib import Path

from hyperbuild.converter.errors import InputError, printable
from hyperbuild.converter.records import Record

DOCKER_HUB = "docker.io"
#: Transports that name a file or directory, with what follows the path.
PATH_TRANSPORTS = ("oci", "oci-archive", "docker-archive")

_HOST = r"(?:[A-Za-z0-9](?:[A-Za-z0-9.-]*[A-Za-z0-9])?|\[[0-9A-Fa-f:]+\])(?::[0-9]{1,5})?"
_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(
    rf"(?:(?P<host>{_HOST})/)?(?P<path>{_COMPONENT}(?:/{_COMPONENT})*)"
    r"(?::(?P<tag>[A-Za-z0-9_][A-Za-z0-9._-]{0,127}))?"
    r"(?:@(?P<digest>sha256:[0-9a-f]{64}|sha512:[0-9a-f]{128}))?"
)


class Reference(Record):
    """Where an image is. For path transports ``path`` is set, else registry and repository.

    ``tag`` is the tag, or for path transports the name that picks one image; "" if none was given.
    """

    transport: str
    registry: str = ""
    repository: str = ""
    tag: str = ""
    digest: str = ""
    path: Path | None = None

    def __str__(self) -> str:
        if self.path is not None:
            return f"{self.transport}:{self.path}" + (f":{self.tag}" if self.tag else "")
        name = f"{self.registry}/{self.repository}" if self.registry else self.repository
        name += f":{self.tag}" if self.tag else ""
        name += f"@{self.digest}" if self.digest else ""
        return name if self.transport == "docker" else f"{self.transport}:{name}"


def parse_reference(text: str) -> Reference:
    """Read an image reference; InputError says what is wrong with it."""
    for transport in PATH_TRANSPORTS:
        if text.startswith(transport + ":"):
            return _path_reference(transport, text[len(transport) + 1 :], text)
    if text.startswith("docker-daemon:"):
        return _named_reference("docker-daemon", text.removeprefix("docker-daemon:"), text)
    return _named_reference("docker", text.removeprefix("docker://"), text)


def _path_reference(transport: str, rest: str, text: str) -> Reference:
    # The path ends at the first colon, as in skopeo; a Docker reference may hold more of them.
    path, _, tag = rest.partition(":")
    if not path or "\0" in rest:
        raise InputError(f"image {printable(text)!r} names no path; say {transport}:PATH[:TAG]")
    return Reference(transport, path=Path(path), tag=tag)


def _named_reference(transport: str, name: str, text: str) -> Reference:
    match = _NAME.fullmatch(name)
    # A first component without a dot, colon or "localhost" is a path component, not a host.
    if match and match["host"] and not _is_host(match["host"]):
        match = re.compile(_NAME.pattern.replace(_HOST, r"(?!)")).fullmatch(name)
    if not match:
        raise InputError(
            f"image {printable(text)!r} is not a reference; "
            "say NAME[:TAG], HOST[:PORT]/NAME[:TAG][@DIGEST], oci:DIR or docker-archive:FILE "
            "(names are lower case)"
        )
    registry, repository = match["host"] or DOCKER_HUB, match["path"]
    if registry in ("index.docker.io", "registry-1.docker.io"):
        registry = DOCKER_HUB
    if registry == DOCKER_HUB and "/" not in repository:
        repository = f"library/{repository}"
    if len(repository) > 255:
        raise InputError(f"image {printable(text)!r} has a name of over 255 characters")
    tag = match["tag"] or ("" if match["digest"] else "latest")
    return Reference(transport, registry, repository, tag, match["digest"] or "")


def _is_host(text: str) -> bool:
    return "." in text or ":" in text or text == "localhost"
