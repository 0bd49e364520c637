"""What is signed of a bundle: an in-toto statement with its provenance.

    externalParameters     what was asked for: image, platform, format, align, sourceDateEpoch, how
                           it wants to be booted, the kernel's profile and further fragments,
                           verity (only if it was)
    internalParameters     how it was made: the maker, the kernel's key, versions of tools; with
                           verity the root hash
    resolvedDependencies   image, its config, kernel source, further fragments, hyperstart's
                           sources, and what the kernel and the initramfs came to
    subject                the bundle's manifest and its bundle.json

All of it but tools' versions and the time is a function of bundle.json, so a statement that says
otherwise is none of that bundle. Statements of build type 1, which had less, are read as well.
Sources: in-toto attestation framework, spec v1 (statement.md); SLSA v1.0 (provenance).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from hyperbuild.builder.stored import SBOM_TYPE
from hyperbuild.converter import oci
from hyperbuild.converter.errors import ContentError
from hyperbuild.launcher.located import BUNDLE_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

#: What an SBOM's file is called.
SBOM_NAME = "sbom.cdx.json"
PAYLOAD_TYPE = "application/vnd.in-toto+json"
_STATEMENT = "https://in-toto.io/Statement/v1"
_PREDICATE = "https://slsa.dev/provenance/v1"
#: What the parameters below mean; the number is raised when they mean something else.
_BUILD_TYPE = "urn:hyperbuild:bundle:2"
_BUILDER = "urn:hyperbuild"
_TIME = "%Y-%m-%dT%H:%M:%SZ"


@dataclass(frozen=True, slots=True)
class Statement:
    """What somebody says of a bundle: the digests of its manifest and its document, and when.

    ``definition`` is what it says of how the bundle was made, ``hyperbuild`` the version by which,
    "" if it does not tell; ``sbom`` is the digest of its SBOM, "" if it says nothing of one.
    """

    digests: frozenset[str]
    made: datetime
    definition: Mapping[str, Any]
    hyperbuild: str
    sbom: str = ""

    @property
    def tools(self) -> Mapping[str, str]:
        """The versions of tools that it names, by what they made: "kernel" and "initramfs"."""
        internal = self.definition.get("internalParameters")
        tools = internal.get("tools") if isinstance(internal, dict) else None
        return tools if isinstance(tools, dict) else {}

    def contradicts(self, document: bytes) -> bool:
        """Tell whether it says another thing of how a bundle was made than its bundle.json does."""
        if self.definition.get("buildType") != _BUILD_TYPE:
            return False
        return self.definition != _definition(json.loads(document), self.tools)


def write_statement(
    document: bytes,
    *,
    manifest: str,
    name: str,
    made: str,
    version: str,
    tools: Mapping[str, str],
    sbom: str = "",
) -> bytes:
    """Return the statement about a bundle: its bundle.json, and the digest of its manifest.

    name is its repository, made a time as in RFC 3339, version that of hyperbuild; tools are the
    versions of what made the kernel and the initramfs, as far as they are known; sbom is the digest
    of its SBOM if it has one.
    """
    statement = {
        "_type": _STATEMENT,
        "subject": [
            _resource(manifest, name=name),
            _resource(oci.digest_of(document), name=BUNDLE_NAME),
        ],
        "predicateType": _PREDICATE,
        "predicate": {
            "buildDefinition": _definition(json.loads(document), tools),
            "runDetails": {
                "builder": {"id": _BUILDER, "version": {"hyperbuild": version}},
                "metadata": {"finishedOn": made},
                "byproducts": [_resource(sbom, name=SBOM_NAME, mediaType=SBOM_TYPE)]
                if sbom
                else [],
            },
        },
    }
    return json.dumps(statement, sort_keys=True).encode()


def _definition(bundle: Mapping[str, Any], tools: Mapping[str, str]) -> dict[str, Any]:
    """Return SLSA's buildDefinition of a bundle, by the object that its bundle.json is."""
    image, build = bundle["image"], bundle.get("build") or {}
    verity = bundle["rootfs"].get("verity")
    kernel = build.get("kernel") or {}
    asked = {name: kernel[name] for name in ("profile", "fragments") if name in kernel}
    external = {
        "image": image["reference"],
        "platform": image["platform"],
        "format": bundle["rootfs"]["format"],
        "align": build.get("align"),
        "sourceDateEpoch": build.get("epoch"),
        "boot": bundle.get("boot"),
        "kernel": bundle["kernel"] and asked,
        **({"verity": True} if verity else {}),
    }
    internal = {"maker": build.get("maker"), "kernelKey": kernel.get("key"), "tools": dict(tools)}
    internal |= {"rootHash": verity["rootHash"]} if verity else {}
    return {
        "buildType": _BUILD_TYPE,
        "externalParameters": external,
        "internalParameters": internal,
        "resolvedDependencies": [
            _resource(image["manifestDigest"], uri=image["reference"]),
            *(_resource(digest, name=name) for digest, name in _made_of(bundle, kernel) if digest),
        ],
    }


def _made_of(bundle: Mapping[str, Any], kernel: Mapping[str, Any]) -> Iterator[tuple[Any, str]]:
    """Yield digest, if there is one, and name of what a bundle was made of beside its image."""
    yield bundle["image"]["configDigest"], "image configuration"
    yield kernel.get("source"), "kernel source"
    for fragment in kernel.get("fragments", ()):
        yield oci.digest_of(fragment["text"].encode()), f"kernel fragment {fragment['name']}"
    if bundle["kernel"]:
        yield bundle["kernel"]["configDigest"], "kernel configuration"
        yield bundle["kernel"]["digest"], f"Linux {bundle['kernel']['version']}"
    yield (bundle.get("build") or {}).get("hyperstart"), "sources of hyperstart"
    yield (bundle["initramfs"] or {}).get("digest"), "initramfs"


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
        details, definition = (
            fields["predicate"][name] for name in ("runDetails", "buildDefinition")
        )
        made = datetime.strptime(details["metadata"]["finishedOn"], _TIME).replace(tzinfo=UTC)
        version = details["builder"].get("version", {}).get("hyperbuild", "")
        sbom = _sbom(details.get("byproducts", []))
        if not isinstance(definition, dict) or not isinstance(version, str):
            raise ContentError("the signed statement does not say how the bundle was made")
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ContentError("the signed statement cannot be read") from error
    return Statement(frozenset(digests), made, definition, version, sbom)


def _sbom(byproducts: list[dict[str, Any]]) -> str:
    for made in byproducts:
        if made.get("mediaType") == SBOM_TYPE:
            return f"sha256:{made['digest']['sha256']}"
    return ""
