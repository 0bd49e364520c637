"""What is said of a bundle, wherever it is: its document, and who has signed how it was made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from hyperbuild.builder.locating import is_finished
from hyperbuild.builder.statement import Statement, read_statement
from hyperbuild.converter import oci
from hyperbuild.converter.errors import ContentError, InputError
from hyperbuild.launcher.bundle import Bundle

if TYPE_CHECKING:
    from hyperbuild.builder.context import Context
    from hyperbuild.builder.policy import Rule


@dataclass(frozen=True, slots=True)
class Claim:
    """A bundle's document, and the statement about it, which is trusted if a rule accepted it."""

    name: str
    document: bytes
    bundle: Bundle
    statement: Statement | None
    is_trusted: bool

    @property
    def digest(self) -> str:
        """The digest of the document."""
        return oci.digest_of(self.document)


def find_claim(
    context: Context,
    name: str,
    *,
    keys: tuple[Path, ...],
    policy: Path | None,
    platform_text: str | None,
    authfile: Path | None,
) -> Claim:
    """Read what is said of the bundle called name: in a registry, in the store or in a directory.

    keys are files of public keys one of which has to have signed it, policy is a file that says so.
    What lies here is verified by the digests in its document. Errors as of ``verify_bundle``.
    """
    if keys and policy:
        raise InputError("--key and --policy both say who has to have signed; give one of them")
    if not is_finished(name):
        document, envelope = _read_remote(context, name, keys, policy, platform_text, authfile)
    elif name.startswith("sha256:"):
        document, envelope = _read_stored(context, name, keys, policy)
    elif keys or policy:
        raise InputError(
            f"{name} is a directory, and what lies in one is not signed; drop --key and --policy"
        )
    else:
        document, envelope = _read_directory(Path(name)), b""
    bundle = Bundle.from_json(document, name)
    is_trusted = bool(keys or policy)
    return Claim(name, document, bundle, _statement(envelope, is_trusted), is_trusted)


def _rule(keys: tuple[Path, ...], policy: Path | None, name: str) -> Rule | None:
    """Return who has to have signed the bundle called name (HOST/NAME:TAG)."""
    from hyperbuild.builder.policy import Rule, read_policy
    from hyperbuild.builder.signing import load_key

    if policy:
        return read_policy(policy).rule_for(name)
    return Rule(tuple(load_key(key) for key in keys)) if keys else None


def _read_remote(
    context: Context,
    name: str,
    keys: tuple[Path, ...],
    policy: Path | None,
    platform_text: str | None,
    authfile: Path | None,
) -> tuple[bytes, bytes]:
    from hyperbuild.builder.pulling import read_remote
    from hyperbuild.converter.reference import parse_reference

    rule = _rule(keys, policy, str(parse_reference(name)))
    return read_remote(context, name, platform_text, authfile, rule)


def _read_stored(
    context: Context, name: str, keys: tuple[Path, ...], policy: Path | None
) -> tuple[bytes, bytes]:
    from hyperbuild.builder.stored import find_bundle
    from hyperbuild.builder.trusting import require_signed
    from hyperbuild.launcher.located import check_digests

    store = context.store()
    stored = find_bundle(store, name)
    rule = _rule(keys, policy, stored.name)
    if rule:
        require_signed(store, stored, rule)
    check_digests(stored.files)
    envelope = store.document(stored.envelope) if stored.envelope else None
    return stored.files.document, envelope or b""


def _read_directory(directory: Path) -> bytes:
    from hyperbuild.launcher.located import open_directory

    return open_directory(directory, verify=True).document


def _statement(envelope: bytes, is_trusted: bool) -> Statement | None:
    """Read the statement in an envelope; what nobody vouches for and is none is passed over."""
    from hyperbuild.builder.signing import claimed_payload

    if not envelope:
        return None
    try:
        return read_statement(claimed_payload(envelope))
    except ContentError:
        if is_trusted:
            raise
        return None
