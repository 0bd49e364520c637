"""Bundles of which a policy says whether they may be used."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from hyperbuild.builder.locating import is_finished
from hyperbuild.builder.policy import Policy, Rule
from hyperbuild.builder.pulling import pull_bundle
from hyperbuild.builder.stored import StoredBundle, find_bundle
from hyperbuild.converter import oci
from hyperbuild.converter.errors import InputError, NotFoundError, VerificationError
from hyperbuild.converter.reference import parse_reference

if TYPE_CHECKING:
    from pathlib import Path

    from hyperbuild.builder.context import Context
    from hyperbuild.converter.store import Store


def find_trusted(
    context: Context,
    name: str,
    policy: Policy,
    platform_text: str | None,
    authfile: Path | None,
) -> StoredBundle:
    """Return the bundle called name if policy allows it: from the store, else from its registry.

    VerificationError: nobody who may has signed it; InputError: it is a directory, which has no
    signature; else as ``pull_bundle``.
    """
    if is_finished(name):
        if not name.startswith("sha256:"):
            raise InputError(
                f"{name} is a directory, and what lies in one is not signed; name a bundle in a "
                "registry, or drop --policy"
            )
        stored = find_bundle(context.store(), name)
        require_signed(context.store(), stored, policy.rule_for(stored.name))
        return stored
    asked = str(parse_reference(name))
    rule = policy.rule_for(asked)
    try:
        stored = find_bundle(context.store(), asked)
        require_signed(context.store(), stored, rule)
    except (NotFoundError, VerificationError):
        # What the store has was made here, or came without a signature that the rule accepts.
        return pull_bundle(context, name, platform_text, authfile, rule)
    return stored


def require_signed(store: Store, stored: StoredBundle, rule: Rule) -> None:
    """Raise VerificationError unless the signed statement that stored came with satisfies rule."""
    envelope = store.document(stored.envelope) if stored.envelope else None
    document = oci.digest_of(stored.files.document)
    what = f"{stored.name}, bundle {stored.digest},"
    rule.accept([envelope] if envelope else [], document, what, datetime.now(UTC))
