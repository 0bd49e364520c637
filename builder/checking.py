"""``hyperbuild verify``: all of a bundle read, and who has signed it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from hyperbuild.builder.locating import is_finished
from hyperbuild.converter.errors import InputError

if TYPE_CHECKING:
    from hyperbuild.builder.context import Context


def verify_bundle(
    context: Context,
    name: str,
    keys: tuple[Path, ...],
    platform_text: str | None,
    authfile: Path | None,
) -> str:
    """Check all of a bundle, and that one of keys (files) has signed it if there are any.

    Return the digest it was checked against: of the root file system, or of a bundle in a registry.
    VerificationError, ContentError: it is not what it says; else as for where it lies.
    """
    rule = None
    if keys:
        from hyperbuild.builder.policy import rule_of

        rule = rule_of(keys)
    if not is_finished(name):
        from hyperbuild.builder.pulling import verify_remote

        return verify_remote(context, name, platform_text, authfile, rule)
    from hyperbuild.launcher.located import check_digests, open_directory

    if name.startswith("sha256:"):
        from hyperbuild.builder.stored import find_bundle
        from hyperbuild.builder.trusting import require_signed

        stored = find_bundle(context.store(), name)
        if rule:
            require_signed(context.store(), stored, rule)
        files = stored.files
    elif rule:
        raise InputError(f"{name} is a directory, and what lies in one is not signed; drop --key")
    else:
        files = open_directory(Path(name))
    check_digests(files)
    return files.bundle.rootfs.digest
