"""What the package managers of languages have installed: each package's own metadata.

Sources: PyPA's core metadata; npm's package.json; RubyGems' specifications; Composer's
installed.json.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from hyperbuild.builder.installed import Package, clean, read_object, read_stanzas

if TYPE_CHECKING:
    from collections.abc import Iterator

_PYTHON_FIELDS = frozenset((b"Name", b"Version", b"License-Expression", b"License"))
#: The comment that RubyGems begins a specification with: name, version, platform.
_STUB = re.compile(rb"^# stub: (\S+) (\S+) (\S+)", re.MULTILINE)
_GEM_FILE = re.compile(r"(.+)-([0-9][^-]*)(?:-(.+))?\.gemspec")


def read_python(content: bytes, _: str) -> Iterator[Package]:
    """Yield the package of a METADATA or PKG-INFO."""
    fields = next(read_stanzas(content, _PYTHON_FIELDS), {})
    if name := fields.get(b"Name", ""):
        license_ = fields.get(b"License-Expression", "") or fields.get(b"License", "")
        license_ = "" if license_ == "UNKNOWN" else license_
        yield Package("pypi", name, fields.get(b"Version", ""), license=license_)


def read_npm(content: bytes, _: str) -> Iterator[Package]:
    """Yield the package of a package.json below node_modules."""
    fields = read_object(content, "package.json")
    name, version = clean(fields.get("name")), clean(fields.get("version"))
    scope, slash, rest = name.rpartition("/")
    if name and version and (not slash or scope.startswith("@")):
        yield Package("npm", rest, version, namespace=scope, license=_npm_license(fields))


def _npm_license(fields: Any) -> str:
    """Return the license; older packages have an object, or a list of them."""
    value = fields.get("license") or fields.get("licenses")
    value = value[0] if isinstance(value, list) and value else value
    return clean(value.get("type") if isinstance(value, dict) else value)


def read_gem(content: bytes, name: str) -> Iterator[Package]:
    """Yield the gem of the specification in a file of that name.

    Specifications are programs; what they begin with, or their file's name, says enough.
    """
    stub = _STUB.search(content)
    named = _GEM_FILE.fullmatch(name)
    if stub:
        yield Package("gem", clean(stub[1]), clean(stub[2]), arch=_gem_platform(clean(stub[3])))
    elif named:
        yield Package("gem", clean(named[1]), clean(named[2]), arch=_gem_platform(clean(named[3])))


def _gem_platform(text: str) -> str:
    return "" if text == "ruby" else text


def read_composer(content: bytes, _: str) -> Iterator[Package]:
    """Yield the packages of an installed.json."""
    found: Any = read_object(content, "installed.json")
    packages = found.get("packages")
    for fields in packages if isinstance(packages, list) else ():
        if not isinstance(fields, dict):
            continue
        vendor, _, name = clean(fields.get("name")).rpartition("/")
        licenses = fields.get("license")
        known = [clean(each) for each in licenses] if isinstance(licenses, list) else []
        if name:
            version = clean(fields.get("version"))
            license_ = " OR ".join(filter(None, known))
            yield Package("composer", name, version, namespace=vendor, license=license_)
