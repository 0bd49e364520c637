"""Debian packages as an image's lowest layer, installed by mmdebstrap into an empty directory.

Which versions there are is asked each time; a layer of the same ones, in the store already, is
taken from there. What is fetched is packages alone, and apt verifies them as on this machine.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import tarfile
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperbuild.builder.tools import Tools
from hyperbuild.converter.errors import UnavailableError
from hyperbuild.converter.oci import Descriptor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hyperbuild.builder.context import Context
    from hyperbuild.converter.store import Store

#: Raised when a layer of the same packages would be another one.
_MAKER_VERSION = 1
_LAYER = "application/vnd.oci.image.layer.v1.tar"
_APT_HELPER = "/usr/lib/apt/apt-helper"
#: As in Debian's own images: nobody reads it there.
_LEFT_OUT = (
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/info/*",
    "path-exclude=/usr/share/locale/*",
    "path-exclude=/usr/share/man/*",
    # What is cut off by a crash is made again.
    "force-unsafe-io",
)
#: Copies of this machine's own, and what every run would make anew.
_HOOKS = (
    "for name in hostname resolv.conf; do "
    '    if [ -f "$1/etc/$name" ]; then : > "$1/etc/$name"; fi; '
    "done",
    'rm -f "$1"/etc/apt/apt.conf.d/99mmdebstrap '
    '    "$1"/var/cache/debconf/*-old "$1"/var/lib/dpkg/*-old',
    'rm -f "$1"/var/log/*.log "$1"/var/log/apt/*',
)
#: Where this machine has packages from is of no use where there is no apt.
_NO_SOURCES = 'rm -rf "$1"/etc/apt/sources.list "$1"/etc/apt/sources.list.d/*'
_ACQUIRE = ("Acquire::Check-", "Acquire::http", "Acquire::https", "Acquire::ftp")
_SOURCE = re.compile(r"deb (?:\[[^]]*\] )?(?P<uri>\S+) (?P<suite>\S+)")
_INST = re.compile(r"^Inst (\S+) (?:\[[^]]*\] )?\((\S+) ", re.MULTILINE)
_DATE = re.compile(r"^Date: (.+)$", re.MULTILINE)
_RELEASE_LIMIT = 16 << 20
_STATUS_LIMIT = 64 << 20


@dataclass(frozen=True, slots=True)
class Packages:
    """What to install: names (NAME or NAME=VERSION), the release, where from, and what with it.

    ``mirror`` is a URL or a line of sources.list; None stands for this machine's own sources.
    """

    names: tuple[str, ...]
    suite: str
    mirror: str | None = None
    variant: str = "essential"


@dataclass(frozen=True, slots=True)
class PackageLayer:
    """The layer, a tar file in the store; what is in it as "name=version"; the time it is of.

    That is SOURCE_DATE_EPOCH, or when the release that the packages are of was published.
    """

    path: Path
    versions: tuple[str, ...]
    made: datetime


def install_packages(context: Context, wanted: Packages) -> PackageLayer:
    """Return the layer of wanted, in today's versions, made unless the store has it.

    ToolError: mmdebstrap is missing, or there is no such package; UnavailableError: no source.
    """
    tools = Tools(context.environment)
    tools.require("mmdebstrap", "mmdebstrap", "which [source] packages are installed by")
    sources = _sources(tools, wanted)
    releases = [_release(tools, line) for line in sources]
    moment = context.epoch if context.epoch is not None else _date(releases, sources, wanted)
    memo, store = context.sealed("packages"), context.store()
    identity = [_MAKER_VERSION, wanted.names, wanted.suite, wanted.variant, moment]
    asked = _key(identity, sources, releases)
    known = memo.read(asked)
    chosen = known[0]["versions"] if known else _chosen(tools, wanted, sources, moment)
    memo.write(asked, {"versions": chosen})
    made = _key(identity, chosen)
    found = memo.read(made)
    fields: dict[str, Any] = found[0] if found else {}
    if not fields or not store.has(Descriptor(_LAYER, fields["digest"], fields["size"])):
        with context.console.task(f"packages of {wanted.suite}"):
            fields = _make(tools, wanted, sources, moment, chosen, store)
        memo.write(made, fields)
    return PackageLayer(
        store.blob_path(fields["digest"]),
        tuple(fields["versions"]),
        datetime.fromtimestamp(moment, UTC),
    )


def _key(*parts: object) -> str:
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _sources(tools: Tools, wanted: Packages) -> list[str]:
    """Return lines of sources.list: of the recipe's mirror, or those of this machine."""
    mirror, suite = wanted.mirror, wanted.suite
    if mirror:
        line = mirror if mirror.startswith("deb ") else f"deb {mirror} {suite} main"
        # What lies on this machine is not seen from inside the directory.
        return [line.replace(" file:", " copy:")]
    form = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)"
    tools.require("apt-get", "apt", "whose sources packages come from; or name a [source] mirror")
    rows = tools.output("apt-get", "indextargets", "--format", form, "Identifier: Packages")
    suites = (suite, f"{suite}-updates", f"{suite}-security")
    parts = [row.split("|") for row in dict.fromkeys(rows.splitlines())]
    found = [f"deb {uri} {of} {component}" for uri, of, component in parts if of in suites]
    if not any(of == suite for _, of, _ in parts):
        raise UnavailableError(
            f"apt has no source of {suite} on this machine; add one and run apt-get update, or "
            "name a [source] mirror"
        )
    return found


def _release(tools: Tools, line: str) -> str:
    """Return the document that says what a source has; apt verifies it, when it installs."""
    match = _SOURCE.match(line)
    assert match is not None  # noqa: S101 - of our own making, or checked by the recipe's schema
    uri, suite = match["uri"].rstrip("/"), match["suite"]
    place = f"{uri}/{suite.rstrip('/')}" if suite.endswith("/") else f"{uri}/dists/{suite}"
    with tempfile.TemporaryDirectory() as room:
        target = Path(room) / "Release"
        for name in ("InRelease", "Release"):
            argv = (_APT_HELPER, *_options(tools), "download-file", f"{place}/{name}", str(target))
            if tools.succeeds(*argv) and target.is_file():
                with target.open("rb") as file:
                    return file.read(_RELEASE_LIMIT).decode(errors="replace")
    raise UnavailableError(f"{place} cannot be read, as apt says; look at the source of packages")


def _date(releases: list[str], sources: list[str], wanted: Packages) -> int:
    """Return when the release itself was published: its updates come at any time."""
    for line, text in zip(sources, releases, strict=True):
        match, date = _SOURCE.match(line), _DATE.search(text)
        if match and date and match["suite"].rstrip("/") == wanted.suite:
            return int(parsedate_to_datetime(date[1]).timestamp())
    return 0


def _options(tools: Tools) -> list[str]:
    """Return this machine's apt settings that say how to reach sources, as arguments."""
    return [word for line in _settings(tools) for word in ("-o", line)]


def _settings(tools: Tools) -> list[str]:
    lines = tools.output("apt-config", "dump", "--format", "%F=%v%n").splitlines()
    return [line for line in lines if line.startswith(_ACQUIRE) and not line.endswith("=")]


def _argv(tools: Tools, wanted: Packages, sources: list[str], *more: str) -> list[str]:
    settings = [line.replace("=", ' "', 1) + '"' for line in _settings(tools)]
    hooks = _HOOKS if wanted.variant == "minbase" else (*_HOOKS, _NO_SOURCES)
    mode = "root" if os.geteuid() == 0 else "unshare"
    return [
        "mmdebstrap", "--verbose", "--format=tar", f"--mode={mode}", f"--variant={wanted.variant}",
        *(f"--aptopt={line}" for line in [*settings, 'Acquire::Retries "3"']),
        *(f"--dpkgopt={option}" for option in _LEFT_OUT),
        *(f"--customize-hook={hook}" for hook in hooks),
        *more,
        wanted.suite, "-", *sources,
    ]  # fmt: skip


def _chosen(tools: Tools, wanted: Packages, sources: list[str], moment: int) -> list[str]:
    """Return what would be installed now, as "name=version"."""
    more = (f"--include={','.join(wanted.names)}", "--simulate")
    said = tools.tell(_argv(tools, wanted, sources, *more), os.devnull, _env(moment))
    return [f"{name}={version}" for name, version in dict(_INST.findall(said)).items()]


def _make(
    tools: Tools, wanted: Packages, sources: list[str], moment: int, chosen: list[str], store: Store
) -> dict[str, Any]:
    """Install packages and enter what came of it into the store; tell what it is."""
    versions = dict(text.split("=", 1) for text in chosen)
    names = [name.partition("=")[0] for name in wanted.names]
    pinned = [f"{name}={versions[name]}" if name in versions else name for name in names]
    with store.draft() as draft:
        argv = _argv(tools, wanted, sources, f"--include={','.join(pinned)}")
        tools.tell(argv, draft.path, _env(moment))
        with draft.path.open("rb") as file:
            digest = f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
        installed = sorted(_installed(draft.path)) or sorted(chosen)
        layer = store.adopt(draft, digest, _LAYER)
    return {"digest": layer.digest, "size": layer.size, "versions": installed}


def _env(moment: int) -> dict[str, str]:
    return {"SOURCE_DATE_EPOCH": str(moment), "DEBIAN_FRONTEND": "noninteractive"}


def _installed(tar: Path) -> Iterator[str]:
    """Yield "name=version" of each package that dpkg knows as installed in a layer."""
    with tarfile.open(tar) as archive:
        for member in archive:
            if member.name.removeprefix("./") != "var/lib/dpkg/status":
                continue
            file = archive.extractfile(member)
            text = file.read(_STATUS_LIMIT).decode(errors="replace") if file else ""
            for paragraph in text.split("\n\n"):
                fields = dict(
                    line.split(": ", 1) for line in paragraph.splitlines() if ": " in line
                )
                if fields.get("Status", "").endswith(" installed"):
                    yield f"{fields['Package']}={fields['Version']}"
            return
