"""What is signed of a bundle: an in-toto statement with its provenance.

Sources: in-toto attestation framework, spec v1 (statement.md); SLSA v1.0 (provenance).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.errors import ContentError
from hyperbuild.launcher.located import BUNDLE_NAME

if TYPE_CHECKING:
    from hyperbuild.launcher.bundle import Bundle

PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://slsa.dev/provenance/v1"
#: How hyperbuild makes bundles, for the day when it makes them in another way.
_BUILD_TYPE = "urn:hyperbuild:bundle:1"
_BUILDER = "urn:hyperbuild"
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class Statement:
    """What somebody says of a bundle: the digests of its manifest and its document, and when."""

    digests: frozenset[str]
    made: datetime


def write_statement(
    bundle: Bundle, *, manifest: str, document: str, name: str, made: str, version: str
) -> bytes:
    """Return the statement about the bundle whose manifest and bundle.json have those digests.

    name is its repository, made a time as in RFC 3339, version that of hyperbuild.
    """
    image, kernel = bundle.image, bundle.kernel
    materials = [
        _resource(image.manifest_digest, uri=image.reference),
        *([_resource(kernel.digest, name=f"Linux {kernel.version}")] if kernel else []),
        *([_resource(kernel.config_digest, name="kernel configuration")] if kernel else []),
        *([_resource(bundle.initramfs, name="initramfs")] if bundle.initramfs else []),
    ]
    statement = {
        "_type": _STATEMENT,
        "subject": [_resource(manifest, name=name), _resource(document, name=BUNDLE_NAME)],
        "predicateType": _PREDICATE,
        "predicate": {
            "buildDefinition": {
                "buildType": _BUILD_TYPE,
                "externalParameters": {
                    "image": image.reference,
                    "platform": image.platform,
                    "format": bundle.rootfs.format,
                },
                "resolvedDependencies": materials,
            },
            "runDetails": {
                "builder": {"id": _BUILDER, "version": {"hyperbuild": version}},
                "metadata": {"finishedOn": made},
            },
        },
    }
    return json.dumps(statement, sort_keys=True).encode()


def _resource(digest: str, **fields: str) -> dict[str, Any]:
    algorithm, _, encoded = digest.partition(":")
    return {**fields, "digest": {algorithm: encoded}}


def read_statement(payload: bytes) -> Statement:
    """Read a statement of ours; ContentError if it is another, or says nothing of a bundle."""
    try:
        fields = json.loads(payload)
        if (fields["_type"], fields["predicateType"]) != (_STATEMENT, _PREDICATE):
            raise ContentError("the signed statement is not one of provenance")
        digests = {
            f"{algorithm}:{encoded}"
            for subject in fields["subject"]
            for algorithm, encoded in subject["digest"].items()
        }
        text = fields["predicate"]["runDetails"]["metadata"]["finishedOn"]
        made = datetime.strptime(text, _TIME).replace(tzinfo=UTC)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ContentError("the signed statement cannot be read") from error
    return Statement(frozenset(digests), made)
