"""Signatures: DSSE envelopes by securesystemslib, keys as PEM files (openssl genpkey)."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import Error, VerificationError
from securesystemslib.signer import CryptoSigner, Key, SSlibKey

from hyperbuild.builder.statement import PAYLOAD_TYPE
from hyperbuild.converter import files
from hyperbuild.converter.errors import ContentError, InputError

if TYPE_CHECKING:
    from pathlib import Path

_KEY_LIMIT = 64 << 10


def load_signer(path: Path) -> CryptoSigner:
    """Read a private key (Ed25519, ECDSA or RSA; not encrypted); InputError if it is none."""
    try:
        return CryptoSigner(load_pem_private_key(_read(path), None))
    except (ValueError, TypeError, UnsupportedAlgorithm, Error) as error:
        raise InputError(
            f"{path} holds no private key that can sign; make one with "
            "openssl genpkey -algorithm ed25519"
        ) from error


def load_key(path: Path) -> Key:
    """Read a public key; InputError if it is none."""
    try:
        return SSlibKey.from_crypto(load_pem_public_key(_read(path)))
    except (ValueError, TypeError, UnsupportedAlgorithm, Error) as error:
        raise InputError(
            f"{path} holds no public key; make it with openssl pkey -in KEY -pubout"
        ) from error


def _read(path: Path) -> bytes:
    with os.fdopen(files.open_regular(path), "rb") as file:
        return file.read(_KEY_LIMIT)


def sign(payload: bytes, signer: CryptoSigner) -> bytes:
    """Return an envelope of payload (JSON), signed."""
    envelope = Envelope(payload, PAYLOAD_TYPE, {})
    envelope.sign(signer)
    return json.dumps(envelope.to_dict(), sort_keys=True).encode()


def signed_payload(envelope: bytes, keys: list[Key]) -> bytes | None:
    """Return what an envelope holds if one of keys has signed it, None if none has.

    ContentError: it is no envelope of a statement.
    """
    read = _read_envelope(envelope)
    try:
        read.verify(keys, 1)
    except (VerificationError, ValueError):
        return None
    return bytes(read.payload)


def claimed_payload(envelope: bytes) -> bytes:
    """Return what an envelope holds, whoever has signed it; ContentError if it is no envelope."""
    return bytes(_read_envelope(envelope).payload)


def _read_envelope(envelope: bytes) -> Envelope:
    try:
        read = Envelope.from_dict(json.loads(envelope))
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError, Error) as error:
        raise ContentError("the signature is no DSSE envelope") from error
    if read.payload_type != PAYLOAD_TYPE:
        raise ContentError("the signature is not of an in-toto statement")
    return read
