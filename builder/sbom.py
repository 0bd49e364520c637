"""The bill of materials of a bundle: a CycloneDX 1.6 document, the same bytes for the same bundle.

It has the packages that the root file system's own databases and metadata tell of, the system they
make, the kernel and hyperstart. What could not be read is told in its metadata.

The document is written here: cyclonedx-python-lib, whose list of licenses is used and whose readers
test it, takes a time that grows with the square of the number of packages. Source: the CycloneDX
1.6 JSON reference; SPDX license expressions; package-url/purl-spec.
"""

from __future__ import annotations

import json
import re
import uuid
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from cyclonedx.spdx import is_expression, is_supported_id
from packageurl import PackageURL

from hyperbuild.converter import oci
from hyperbuild.converter.errors import HyperbuildError
from hyperbuild.converter.reference import parse_reference

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from hyperbuild.builder.cataloguing import Catalogue, System
    from hyperbuild.builder.installed import Package
    from hyperbuild.launcher.bundle import Bundle

#: The namespace of serial numbers (a UUID of version 5 is made of one and a name).
_SERIALS = uuid.UUID("7d0f4c3e-6a52-5f43-9d0b-2f6c9a1e8b75")
_ROOT = "bundle"
#: The last second that a date has room for.
_LATEST = 253402300799
#: Package URLs of these begin with the distribution; where nobody knows it, with its ancestor.
_DISTRIBUTIONS = {"deb": "debian", "apk": "alpine", "rpm": ""}
_OPERATORS = ("AND", "OR", "WITH")
#: Longer ones are kept as names: to parse what a stranger calls an expression takes its time.
_EXPRESSION_LIMIT = 128

_Fields = dict[str, Any]


def write_sbom(bundle: Bundle, found: Catalogue, *, version: str, epoch: int | None) -> bytes:
    """Return the document for a bundle in which found was found.

    version is that of hyperbuild; epoch (seconds) stands for when the root file system was made.
    """
    made = min(max(found.made if epoch is None else epoch, 0), _LATEST)
    serial = uuid.uuid5(_SERIALS, f"{oci.digest_of(bundle.to_json())} {version}")
    components = [*_floor(bundle, found.system), *_packages(found)]
    notices = [{"name": "hyperbuild:notice", "value": text} for text in found.notices]
    tool = {"type": "application", "name": "hyperbuild", "version": version}
    document = {
        "$schema": "http://cyclonedx.org/schema/bom-1.6.schema.json",
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": serial.urn,
        "version": 1,
        "metadata": {
            "timestamp": datetime.fromtimestamp(made, UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
            "tools": {"components": [tool]},
            "component": _image(bundle),
            **({"properties": notices} if notices else {}),
        },
        "components": components,
        "dependencies": [
            {"ref": _ROOT, "dependsOn": [component["bom-ref"] for component in components]}
        ],
    }
    return json.dumps(document, indent=2).encode() + b"\n"


def _image(bundle: Bundle) -> _Fields:
    """Return what the document is about: the bundle, by the image it was made from."""
    image, rootfs = bundle.image, bundle.rootfs
    known = {
        "hyperbuild:image:platform": image.platform,
        "hyperbuild:image:configDigest": image.config_digest,
        "hyperbuild:rootfs:format": rootfs.format,
        "hyperbuild:rootfs:digest": rootfs.digest,
    }
    return {
        "type": "container",
        "bom-ref": _ROOT,
        "name": image.reference,
        "version": image.manifest_digest,
        **_image_url(bundle),
        **_properties(known),
    }


def _image_url(bundle: Bundle) -> _Fields:
    """Return the package URL of an image in a registry; nothing for one in files."""
    try:
        reference = parse_reference(bundle.image.reference)
    except HyperbuildError:
        return {}
    if reference.transport != "docker":
        return {}
    place = f"{reference.registry}/{reference.repository}"
    qualifiers = _given({"repository_url": place, "tag": reference.tag})
    name = reference.repository.rpartition("/")[2]
    url = PackageURL("oci", None, name, bundle.image.manifest_digest, qualifiers)
    return {"purl": url.to_string()}


def _floor(bundle: Bundle, system: System) -> Iterator[_Fields]:
    """Yield what the packages stand on: the distribution, the kernel, hyperstart."""
    if system.name:
        fields = {"name": system.name, "version": system.version, "description": system.title}
        yield {"type": "operating-system", "bom-ref": "distribution", **_given(fields)}
    if kernel := bundle.kernel:
        number = re.match(r"[0-9]+(\.[0-9]+)*", kernel.version)
        cpe = f"cpe:2.3:o:linux:linux_kernel:{number[0]}:*:*:*:*:*:*:*" if number else ""
        yield {
            "type": "operating-system",
            "bom-ref": "kernel",
            "name": "linux",
            "version": kernel.version,
            **_given({"cpe": cpe}),
            **_hashes(kernel.digest),
            **_properties({"hyperbuild:kernel:configDigest": kernel.config_digest}),
        }
    if bundle.initramfs:
        yield {
            "type": "application",
            "bom-ref": "hyperstart",
            "name": "hyperstart",
            "description": "the guest's first process, in its initramfs",
            **_hashes(bundle.initramfs),
        }


def _packages(found: Catalogue) -> Iterator[_Fields]:
    """Yield a component for each package URL; what shares one is one package found twice."""
    made: dict[str, _Fields] = {}
    for package, places in found.packages:
        url = _url(package, found.system)
        text = url or f"{package.kind}:{package.name}@{package.version}"
        where = [{"location": place} for place in places]
        if text in made:
            made[text]["evidence"]["occurrences"] += where
            continue
        names = {"group": package.namespace, "name": package.name, "version": package.version}
        made[text] = {
            "type": "library",
            "bom-ref": text,
            **_given(names),
            **_given({"purl": url}),
            **_licenses(package.license),
            **_properties({"hyperbuild:source": package.source}),
            "evidence": {"occurrences": where},
        }
    yield from made.values()


def _url(package: Package, system: System) -> str:
    """Return a package's URL, "" if its name is none that a URL can have."""
    qualifiers = {"arch": package.arch, "epoch": package.epoch}
    namespace = package.namespace
    if package.kind in _DISTRIBUTIONS:
        namespace = system.name or _DISTRIBUTIONS[package.kind]
        distribution = [system.name, system.version] if system.name else []
        qualifiers["distro"] = "-".join(filter(None, distribution))
    elif package.kind == "gem":
        qualifiers = {"platform": package.arch}
    parts = (package.kind, namespace or None, package.name, package.version or None)
    try:
        return PackageURL(*parts, _given(qualifiers)).to_string()
    except (ValueError, TypeError):
        # The library takes some names for none at all, "/" for one.
        return ""


@lru_cache(4096)
def _licenses(text: str) -> _Fields:
    """Return what a package says of its license: as SPDX has it, if it does, else as a name."""
    if not text:
        return {}
    if is_supported_id(text):
        return {"licenses": [{"license": {"id": text}}]}
    words = text.replace("(", " ").replace(")", " ").split()
    are_known = all(is_supported_id(word) or word in _OPERATORS for word in words)
    if are_known and len(text) <= _EXPRESSION_LIMIT and is_expression(text):
        return {"licenses": [{"expression": text}]}
    return {"licenses": [{"license": {"name": text}}]}


def _hashes(digest: str) -> _Fields:
    algorithm, _, value = digest.partition(":")
    names = {"sha256": "SHA-256", "sha512": "SHA-512"}
    return {"hashes": [{"alg": names[algorithm], "content": value}]} if algorithm in names else {}


def _properties(values: Mapping[str, str]) -> _Fields:
    rows = [{"name": name, "value": value} for name, value in _given(values).items()]
    return {"properties": rows} if rows else {}


def _given(values: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in values.items() if value}
