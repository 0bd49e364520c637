"""Authorization for a registry: basic, or bearer tokens per repository, renewed when they expire.

Sources: RFC 9110 section 11.6.1; the distribution project's token and OAuth2 specifications.
"""

from __future__ import annotations

import base64
import json
import re
import threading
from dataclasses import dataclass
from urllib.parse import urlsplit

import requests
from oras.auth.utils import parse_auth_header

from hyperbuild.converter.credentials import Credential, find_credential
from hyperbuild.converter.errors import AccessError
from hyperbuild.converter.pace import read_body
from hyperbuild.converter.transfer import FAILURES, Patience, explain, send

_TOKEN_LIMIT = 1 << 20
_SCHEME = re.compile(r"(?:^|,)\s*(Basic|Bearer)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a registry asks for: scheme "basic" or "bearer", and where a token is to be had."""

    scheme: str
    realm: str = ""
    service: str = ""
    scope: str = ""

    @classmethod
    def parse(cls, header: str) -> Challenge | None:
        """Read WWW-Authenticate; of several challenges bearer is taken before basic."""
        starts = list(_SCHEME.finditer(header))
        found = {}
        ends = [*(start.start() for start in starts[1:]), len(header)]
        for start, end in zip(starts, ends, strict=False):
            fields = parse_auth_header(header[start.end() : end])
            found[start[1].lower()] = cls(
                start[1].lower(), fields.realm or "", fields.service or "", fields.scope or ""
            )
        bearer = found.get("bearer")
        return bearer if bearer and bearer.realm else found.get("basic")


class Tokens:
    """The authorization of one repository at one registry, shared by all its sessions."""

    def __init__(self, registry: str, repository: str, patience: Patience) -> None:
        self._registry = registry
        self._repository = repository
        self._patience = patience
        self._lock = threading.Lock()
        self._held = ""
        self._credential: Credential | None = None
        self._looked = False

    def held(self) -> str:
        """Return the value of the Authorization header that was right last; "" before any."""
        return self._held

    def renew(
        self, refused: str, challenge: str, session: requests.Session, verify: bool, secure: bool
    ) -> str:
        """Return a header's value in place of the refused one, or "" if none can be had.

        Of several threads refused at once, one asks. AccessError if the credential is not accepted.
        """
        with self._lock:
            if self._held != refused:
                return self._held
            asked = Challenge.parse(challenge)
            credential = self._find_credential()
            if asked is None:
                return ""
            if asked.scheme == "basic":
                fresh = _basic(credential) if credential else ""
                self._held = "" if fresh == refused else fresh
                return self._held
            if not secure_enough(asked.realm, secure):
                raise AccessError(
                    f"{self._registry}: it sends passwords to {asked.realm} in the clear; "
                    "ask its owner, or set insecure = true in the file of registries"
                )
            self._held = "Bearer " + self._ask(asked, credential, session, verify)
            return self._held

    def known(self) -> bool:
        """Tell whether a credential was found (after ``renew``)."""
        return self._credential is not None

    def _find_credential(self) -> Credential | None:
        if not self._looked:
            places = self._patience.settings.credential_files
            self._credential = find_credential(self._registry, self._repository, places)
            self._looked = True
        return self._credential

    def _ask(
        self,
        asked: Challenge,
        credential: Credential | None,
        session: requests.Session,
        verify: bool,
    ) -> str:
        fields = {"scope": asked.scope or f"repository:{self._repository}:pull"}
        if asked.service:
            fields["service"] = asked.service
        request = requests.Request("GET", asked.realm, params=fields)
        if credential and credential.identity_token:
            fields |= {
                "grant_type": "refresh_token",
                "refresh_token": credential.identity_token,
                "client_id": "hyperbuild",
            }
            request = requests.Request("POST", asked.realm, data=fields)
        elif credential:
            request.headers = {"Authorization": _basic(credential)}
        with send(session, request, self._patience, verify) as response:
            if response.status_code != 200:
                raise AccessError(
                    f"{urlsplit(asked.realm).netloc} gives no token for {self._registry}/"
                    f"{self._repository} (status {response.status_code}); {self.hint()}"
                )
            try:
                answer = json.loads(read_body(response, _TOKEN_LIMIT, self._patience.settings))
                token = answer.get("token") or answer.get("access_token")
            except (ValueError, AttributeError) as error:
                raise AccessError(
                    f"{asked.realm} gives no token; ask the owner of {self._registry}"
                ) from error
            except FAILURES as error:
                raise explain(error, urlsplit(asked.realm).netloc) from error
        if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
            raise AccessError(f"{asked.realm} gives no token; ask the owner of {self._registry}")
        return token

    def hint(self) -> str:
        """Return what the user can do about a refusal."""
        if self.known():
            return f"log in again: skopeo login {self._registry}, or docker login {self._registry}"
        return f"check the name, or log in: skopeo login {self._registry}"


def secure_enough(realm: str, secure: bool) -> bool:
    """Tell whether a password may go to realm when its registry was reached by TLS or not."""
    return urlsplit(realm).scheme == "https" or (not secure and urlsplit(realm).scheme == "http")


def _basic(credential: Credential) -> str:
    pair = f"{credential.username}:{credential.password}".encode()
    return "Basic " + base64.b64encode(pair).decode()
