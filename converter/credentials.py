"""Who one is to a registry: looked up where docker, podman and skopeo keep it.

Sources: containers-auth.json(5), Docker's config.json, and the protocol of docker-credential-*.
"""

from __future__ import annotations

import base64
import binascii
import json
import os
import re
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from hyperbuild.converter import files
from hyperbuild.converter.errors import AccessError, UnavailableError, printable
from hyperbuild.converter.reference import DOCKER_HUB

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

HELPER_SECONDS = 30.0

#: What docker calls Docker Hub in its files.
_HUB_KEYS = ("https://index.docker.io/v1/", "index.docker.io", "registry-1.docker.io")
_FILE_LIMIT = 1 << 20


@dataclass(frozen=True, slots=True)
class Credential:
    """A user and a password, or an identity token (an OAuth2 refresh token)."""

    username: str
    password: str = field(default="", repr=False)
    identity_token: str = field(default="", repr=False)


def find_credential(
    registry: str, repository: str, places: Iterable[Path], helper_seconds: float = HELPER_SECONDS
) -> Credential | None:
    """Return the credential for a repository, the most particular key of the first file with one.

    A missing file is passed over. AccessError if a file or helper is there but gives no sense.
    """
    for place in places:
        document = _read(place)
        if document is None:
            continue
        found = _in_document(document, place, registry, repository, helper_seconds)
        if found:
            return found
    return None


def _read(place: Path) -> Mapping[str, Any] | None:
    try:
        if not place.exists():
            return None
    except OSError as error:
        raise UnavailableError(
            f"cannot read the credentials in {place}: {error.strerror}; make it readable"
        ) from error
    with os.fdopen(files.open_regular(place), "rb") as file:
        raw = file.read(_FILE_LIMIT)
    try:
        document = json.loads(raw or b"{}")
    except (ValueError, RecursionError) as error:
        raise AccessError(
            f"{place} is not valid JSON; log in again to have it rewritten"
        ) from error
    if not isinstance(document, dict):
        raise AccessError(f"{place} holds no JSON object; log in again to have it rewritten")
    return document


def _in_document(
    document: Mapping[str, Any], place: Path, registry: str, repository: str, seconds: float
) -> Credential | None:
    auths = {_normal(key): value for key, value in _table(document, "auths").items()}
    helpers = _table(document, "credHelpers")
    default = document.get("credsStore")
    for key in _keys(registry, repository):
        entry = auths.get(key)
        credential = _inline(entry, place, key) if isinstance(entry, dict) else None
        if credential:
            return credential
    names = [registry, *(_HUB_KEYS if registry == DOCKER_HUB else ())]
    for name in names:
        if isinstance(helpers.get(name), str):
            return _ask(helpers[name], name, seconds)
    if isinstance(default, str) and default:
        server = _HUB_KEYS[0] if registry == DOCKER_HUB else registry
        return _ask(default, server, seconds)
    return None


def _table(document: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    table = document.get(key)
    return table if isinstance(table, dict) else {}


def _keys(registry: str, repository: str) -> list[str]:
    parts = repository.split("/")
    paths = ["/".join([registry, *parts[:length]]) for length in range(len(parts), 0, -1)]
    return [*paths, registry]


def _normal(key: str) -> str:
    bare = re.sub(r"^https?://", "", key).rstrip("/")
    # Old files give the address of an API.
    bare = re.sub(r"/v[12]$", "", bare)
    return DOCKER_HUB if bare in _HUB_KEYS else bare


def _inline(entry: Mapping[str, Any], place: Path, key: str) -> Credential | None:
    token = str(entry.get("identitytoken") or "")
    auth = entry.get("auth")
    username, password = str(entry.get("username") or ""), str(entry.get("password") or "")
    if isinstance(auth, str) and auth:
        try:
            username, colon, password = (
                base64.b64decode(auth, validate=True).decode().partition(":")
            )
        except (binascii.Error, UnicodeDecodeError) as error:
            raise AccessError(_unreadable(place, key)) from error
        if not colon:
            raise AccessError(_unreadable(place, key))
        password = password.strip("\0")
    if token or username:
        return Credential(username, password, token)
    return None


def _unreadable(place: Path, key: str) -> str:
    return f"{place}: the entry for {printable(key)} cannot be read; log in again"


def _ask(helper: str, server: str, seconds: float) -> Credential | None:
    program = f"docker-credential-{helper}"
    # The name comes from a file; a path in it would start any program.
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", helper):
        raise AccessError(f"the credential helper {printable(helper)!r} is not a program's name")
    try:
        answer = subprocess.run(
            [program, "get"],
            input=server.encode(),
            capture_output=True,
            timeout=seconds,
            check=False,
        )
    except FileNotFoundError as error:
        raise AccessError(
            f"the credential helper {program} is not installed; "
            "install it or name another --authfile"
        ) from error
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AccessError(
            f"the credential helper {program} gave no answer for {server}; run it to see why"
        ) from error
    if answer.returncode:
        if b"not found" in answer.stdout.lower():
            return None
        raise AccessError(
            f"the credential helper {program} failed for {server} (status {answer.returncode}); "
            "run it to see why"
        )
    return _helper_answer(answer.stdout, program, server)


def _helper_answer(stdout: bytes, program: str, server: str) -> Credential:
    try:
        fields = json.loads(stdout)
        username, secret = fields["Username"], fields["Secret"]
    except (ValueError, KeyError, TypeError) as error:
        raise AccessError(
            f"the credential helper {program} gave no credential for {server}; run it to see why"
        ) from error
    # By the helpers' protocol this user name says that the secret is an identity token.
    if username == "<token>":
        return Credential("", identity_token=str(secret))
    return Credential(str(username), str(secret))
