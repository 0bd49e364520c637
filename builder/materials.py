"""The SBOM of a bundle: made of its files, attached to it in a registry, and found there."""

from __future__ import annotations

from importlib.metadata import version
from typing import TYPE_CHECKING

from hyperbuild.builder.attestation import fetch_attached
from hyperbuild.builder.signing import signed_payload
from hyperbuild.builder.statement import read_statement
from hyperbuild.builder.stored import SBOM_TYPE
from hyperbuild.converter import oci
from hyperbuild.converter.errors import NotFoundError, VerificationError

if TYPE_CHECKING:
    from pathlib import Path

    from hyperbuild.builder.context import Context
    from hyperbuild.builder.policy import Rule
    from hyperbuild.converter.documents import Documents
    from hyperbuild.converter.places import Places
    from hyperbuild.converter.progress import Progress
    from hyperbuild.launcher.located import BundleFiles

_SBOM_LIMIT = 64 << 20


def make_sbom(context: Context, files: BundleFiles) -> bytes:
    """Return the SBOM of a bundle; what of its root file system could not be read is a warning.

    VerificationError: it is no root file system, or a broken one.
    """
    from hyperbuild.builder.cataloguing import catalogue
    from hyperbuild.builder.sbom import write_sbom

    found = catalogue(files.rootfs)
    for notice in found.notices:
        context.console.warn(notice)
    return write_sbom(files.bundle, found, version=version("hyperbuild-vm"), epoch=context.epoch)


def sbom_of(context: Context, name: str, platform_text: str | None, authfile: Path | None) -> bytes:
    """Return the SBOM of the bundle called name, or of the bundle that the image name has.

    An image that has none is converted first, without a kernel. Errors as for what it is found in.
    """
    from hyperbuild.builder.locating import find_stored, is_finished, open_finished

    if is_finished(name):
        return make_sbom(context, open_finished(context, name))
    found = None if platform_text else find_stored(context, name)
    if found is None:
        from hyperbuild.builder.pulling import find_ready

        ready = find_ready(context, name, platform_text, authfile)
        if ready is None:
            return _of_image(context, name, platform_text, authfile)
        found = ready.files
    return make_sbom(context, found)


def _of_image(
    context: Context, name: str, platform_text: str | None, authfile: Path | None
) -> bytes:
    """Convert an image for its SBOM alone: what the store has under that name stays there."""
    from hyperbuild.builder.converting import Request, exported_bundle
    from hyperbuild.launcher.located import open_directory

    request = Request(name, platform_text, authfile, with_kernel=False)
    with context.scratch() as room:
        exported_bundle(context, request, room / "bundle")
        return make_sbom(context, open_directory(room / "bundle"))


def fetch_sbom(
    context: Context,
    name: str,
    keys: tuple[Path, ...],
    platform_text: str | None,
    authfile: Path | None,
) -> bytes:
    """Return the SBOM attached to a bundle in its registry, signed by one of keys if there are any.

    Errors as of ``fetch_attached_sbom``.
    """
    from hyperbuild.builder.policy import rule_of
    from hyperbuild.builder.pulling import fetch_attached_sbom

    return fetch_attached_sbom(context, name, platform_text, authfile, rule_of(keys))


def attached_sbom(
    places: Places,
    documents: Documents,
    digest: str,
    progress: Progress,
    signed: tuple[bytes, Rule] | None,
) -> bytes:
    """Return the SBOM attached to the bundle whose manifest has digest; of several the last.

    signed is the statement that its signer made of the bundle, and the rule that accepts it: then
    it is the SBOM which that names. NotFoundError: there is none; VerificationError: there is one,
    but not that which was signed.
    """
    wanted = _signed_digest(*signed) if signed else ""
    last = None
    for content in fetch_attached(places, documents, digest, SBOM_TYPE, _SBOM_LIMIT, progress):
        if wanted and oci.digest_of(content) == wanted:
            return content
        last = content
    if last is None:
        raise NotFoundError(
            f"no SBOM is attached to the bundle {digest}; hyperbuild push attaches one"
        )
    if signed:
        raise VerificationError(
            f"the SBOM that is attached to the bundle {digest} is not signed with it; have it "
            "pushed again (hyperbuild push --sign)"
        )
    return last


def _signed_digest(envelope: bytes, rule: Rule) -> str:
    payload = signed_payload(envelope, list(rule.keys))
    return read_statement(payload).sbom if payload else ""
