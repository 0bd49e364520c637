"""What a bundle is, and its document bundle.json (schema version 4).

In short::

    {"schemaVersion": 4 of a bundle with dm-verity, else 3,
     "image":       {"reference", "manifestDigest", "configDigest", "platform"},
     "config":      the image config's ``config`` object, verbatim,
     "process":     {"args", "entrypoint", "env", "cwd", "home", "user": {"uid", "gid", "groups"},
                     "stopSignal": {"name", "number"}, "healthcheck", "exposedPorts", "volumes",
                     "labels", "findings": [{"name", "text", "status"}, …]},
     "rootfs":      {"format", "size", "digest", "diffIds"}, in version 4 also
                    "verity": {"rootHash", "salt", "hashOffset"} (HashTreeInfo),
     "kernel":      {"version", "digest", "configDigest", "options": [name, …] or null} or null,
     "initramfs":   {"digest", "protocol"} or null,
     "commandLine": [word, …],
     "build":       what its bytes depend on beyond the image (builder/buildinfo.py), or null,
     "boot":        how it wants to be booted, of a bundle that was built so (defaults.py)}

What knows nothing of dm-verity must not boot such a bundle as if it had none, so that has a version
of its own. Versions 1 and 2 are read, too. Neither has "build" or the initramfs' "protocol";
version 1 has a text "problem" (of the user, empty if there was none) where later ones have
findings, and no options of the kernel.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from hyperbuild.converter.digests import check_digest
from hyperbuild.converter.errors import ContentError, printable
from hyperbuild.converter.records import Record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from hyperbuild.launcher.defaults import BootDefaults

SCHEMA_VERSION = 4
#: The version of a bundle without dm-verity.
_PLAIN_VERSION = 3

#: The version of boot spec and channel (docs/hyperstart.md) that is spoken here with a guest.
PROTOCOL_VERSION = 5

#: File system formats that hyperstart mounts as the root.
ROOTFS_FORMATS = ("erofs", "ext4")

#: Kernel options that a machine may need (launcher/machine.py and the drivers ask for them).
MACHINE_OPTIONS = (
    "CONFIG_9P_FS",
    "CONFIG_DM_INIT",
    "CONFIG_DM_VERITY",
    "CONFIG_EROFS_FS",
    "CONFIG_EXT4_FS",
    "CONFIG_FS_DAX",
    "CONFIG_PAGE_REPORTING",
    "CONFIG_SMP",
    "CONFIG_VIRTIO_MMIO_CMDLINE_DEVICES",
    "CONFIG_VIRTIO_PCI",
)

_ID_LIMIT = 2**32 - 1
_HEX = frozenset("0123456789abcdef")
_BLOCK = 4096
#: The statuses of docker for a container that was not started.
_STATUSES = (125, 126, 127)


class User(Record):
    """Who the application runs as: numeric ids, supplementary groups without the primary one."""

    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()


class Signal(Record):
    """A signal by name ("SIGTERM") and by its number on Linux x86."""

    name: str
    number: int


class Finding(Record):
    """What keeps the application from starting in a VM, seen when its image was converted.

    ``name`` is "command", "machine", "loader" or "library", which are about the command, or
    "workdir" or "user"; ``status`` is docker's for it: 127 not found, 126 not executable, 125.
    """

    name: str
    text: str
    status: int


class Process(Record):
    """The application, resolved for boot from the image's config and its own user database.

    ``args`` is Entrypoint followed by Cmd; ``entrypoint`` is that beginning of it which stays when
    the user gives other arguments. ``env`` holds "NAME=value"; ``home`` is the user's home
    directory; ``exposed_ports`` read "80/tcp"; ``healthcheck`` is the config's object.
    ``findings`` say why no VM can start it (an unknown USER, say).
    """

    args: tuple[str, ...]
    entrypoint: tuple[str, ...]
    env: tuple[str, ...]
    cwd: str
    home: str
    user: User
    stop_signal: Signal
    healthcheck: Mapping[str, Any] | None
    exposed_ports: tuple[str, ...]
    volumes: tuple[str, ...]
    labels: Mapping[str, str]
    findings: tuple[Finding, ...] = ()


class HashTreeInfo(Record):
    """The dm-verity hash tree of a root file system.

    ``root_hash`` (a sha256) and ``salt`` (32 bytes) are hexadecimal; ``hash_offset`` is where the
    tree's superblock lies in the file, in bytes: right behind the file system.
    """

    root_hash: str
    salt: str
    hash_offset: int


class RootfsInfo(Record):
    """The root file system: "erofs" or "ext4", size in bytes, digest, the layers it came from."""

    format: str
    size: int
    digest: str
    diff_ids: tuple[str, ...]
    verity: HashTreeInfo | None = None


class KernelInfo(Record):
    """The kernel: release ("6.1.192"), digest of vmlinux, digest of its .config.

    ``options`` are those of ``MACHINE_OPTIONS`` that it has; None if nobody knows.
    """

    version: str
    digest: str
    config_digest: str
    options: tuple[str, ...] | None = None


class ImageInfo(Record):
    """The image a bundle was made from; platform is "os/architecture[/variant]"."""

    reference: str
    manifest_digest: str
    config_digest: str
    platform: str


class Bundle(Record):
    """Everything a VM is made of; files are named by digest. ``initramfs`` is a digest.

    ``protocol`` is the version of boot spec and channel that the initramfs speaks, None if nobody
    has written that down: then it is none of today's.
    ``command_line`` holds kernel words that this bundle needs beyond the machine's own. ``build``
    is the document's object, unread: no boot depends on it.
    """

    image: ImageInfo
    config: Mapping[str, Any]
    process: Process
    rootfs: RootfsInfo
    kernel: KernelInfo | None = None
    initramfs: str | None = None
    command_line: tuple[str, ...] = ()
    boot: BootDefaults | None = None
    build: Mapping[str, Any] | None = None
    protocol: int | None = PROTOCOL_VERSION

    def to_json(self) -> bytes:
        """Return bundle.json: the same bytes for equal bundles, ASCII, a newline at the end."""
        return json.dumps(_document(self), indent=2).encode() + b"\n"

    @classmethod
    def from_json(cls, raw: bytes, where: str) -> Bundle:
        """Read bundle.json; ContentError for anything missing, unknown or of the wrong type."""
        try:
            data = json.loads(raw)
        except (ValueError, RecursionError) as error:
            raise ContentError(
                f"{where}: not valid JSON; make the bundle again with hyperbuild convert"
            ) from error
        return _bundle(_Fields(data, where), _version(data, where))


def _document(bundle: Bundle) -> dict[str, Any]:
    image, rootfs, kernel = bundle.image, bundle.rootfs, bundle.kernel
    return {
        "schemaVersion": SCHEMA_VERSION if rootfs.verity else _PLAIN_VERSION,
        "image": {
            "reference": image.reference,
            "manifestDigest": image.manifest_digest,
            "configDigest": image.config_digest,
            "platform": image.platform,
        },
        "config": dict(bundle.config),
        "process": _process_document(bundle.process),
        "rootfs": {
            "format": rootfs.format,
            "size": rootfs.size,
            "digest": rootfs.digest,
            "diffIds": list(rootfs.diff_ids),
            **({"verity": _verity_document(rootfs.verity)} if rootfs.verity else {}),
        },
        "kernel": kernel
        and {
            "version": kernel.version,
            "digest": kernel.digest,
            "configDigest": kernel.config_digest,
            "options": None if kernel.options is None else list(kernel.options),
        },
        "initramfs": bundle.initramfs and {"digest": bundle.initramfs, "protocol": bundle.protocol},
        "commandLine": list(bundle.command_line),
        "build": None if bundle.build is None else dict(bundle.build),
    } | ({"boot": bundle.boot.document()} if bundle.boot else {})


def _verity_document(verity: HashTreeInfo) -> dict[str, Any]:
    return {
        "rootHash": verity.root_hash,
        "salt": verity.salt,
        "hashOffset": verity.hash_offset,
    }


def _process_document(process: Process) -> dict[str, Any]:
    user, signal = process.user, process.stop_signal
    return {
        "args": list(process.args),
        "entrypoint": list(process.entrypoint),
        "env": list(process.env),
        "cwd": process.cwd,
        "home": process.home,
        "user": {"uid": user.uid, "gid": user.gid, "groups": list(user.groups)},
        "stopSignal": {"name": signal.name, "number": signal.number},
        "healthcheck": None if process.healthcheck is None else dict(process.healthcheck),
        "exposedPorts": list(process.exposed_ports),
        "volumes": list(process.volumes),
        "labels": dict(process.labels),
        "findings": [
            {"name": finding.name, "text": finding.text, "status": finding.status}
            for finding in process.findings
        ],
    }


def _version(data: object, where: str) -> int:
    version = data.get("schemaVersion") if isinstance(data, dict) else None
    if type(version) is not int or not 1 <= version <= SCHEMA_VERSION:
        raise ContentError(
            f"{where}: schemaVersion {printable(repr(version))} is not 1 to {SCHEMA_VERSION}; "
            "make the bundle again with hyperbuild convert"
        )
    return version


class _Fields:
    """An object of the document whose members are each taken once; ``end`` refuses the rest."""

    def __init__(self, data: object, where: str) -> None:
        if not isinstance(data, dict):
            raise ContentError(f"{where}: an object was expected")
        self._rest = dict(data)
        self._where = where

    def where(self, key: str) -> str:
        return f"{self._where}: {key}"

    def has(self, key: str) -> bool:
        return key in self._rest

    def take(self, key: str) -> Any:
        if key not in self._rest:
            raise ContentError(f"{self.where(key)} is missing")
        return self._rest.pop(key)

    def end(self) -> None:
        if self._rest:
            raise ContentError(f"{self.where(min(self._rest))} is not known")

    def inner(self, key: str) -> _Fields:
        return _Fields(self.take(key), self.where(key))

    def optional(self, key: str) -> _Fields | None:
        data = self.take(key)
        return None if data is None else _Fields(data, self.where(key))

    def text(self, key: str) -> str:
        value = self.take(key)
        if not isinstance(value, str):
            raise ContentError(f"{self.where(key)} is not a string")
        return value

    def number(self, key: str, limit: int) -> int:
        return _number(self.take(key), limit, self.where(key))

    def digest(self, key: str) -> str:
        return check_digest(self.take(key), self.where(key))

    def array(self, key: str) -> list[Any]:
        value = self.take(key)
        if not isinstance(value, list):
            raise ContentError(f"{self.where(key)} is not an array")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        items = self.array(key)
        if not all(isinstance(item, str) for item in items):
            raise ContentError(f"{self.where(key)} is not an array of strings")
        return tuple(items)

    def texts_or_null(self, key: str) -> tuple[str, ...] | None:
        if self._rest.get(key, ()) is None:
            del self._rest[key]
            return None
        return self.texts(key)

    def object_or_null(self, key: str) -> Mapping[str, Any] | None:
        if self._rest.get(key, ()) is None:
            del self._rest[key]
            return None
        return self.object(key)

    def object(self, key: str) -> Mapping[str, Any]:
        value = self.take(key)
        if not isinstance(value, dict):
            raise ContentError(f"{self.where(key)} is not an object")
        return value


def _number(value: object, limit: int, where: str) -> int:
    if type(value) is not int or not 0 <= value <= limit:
        raise ContentError(f"{where} is not an integer from 0 to {limit}")
    return value


def _bundle(fields: _Fields, version: int) -> Bundle:
    fields.take("schemaVersion")
    initramfs, protocol = _initramfs(fields.optional("initramfs"), version)
    bundle = Bundle(
        image=_image(fields.inner("image")),
        config=fields.object("config"),
        process=_process(fields.inner("process"), version),
        rootfs=_rootfs(fields.inner("rootfs"), version),
        kernel=_kernel(fields.optional("kernel"), version),
        initramfs=initramfs,
        command_line=fields.texts("commandLine"),
        boot=_boot(fields),
        build=fields.object_or_null("build") if version > 2 else None,
        protocol=protocol,
    )
    fields.end()
    return bundle


def _boot(fields: _Fields) -> BootDefaults | None:
    if not fields.has("boot"):
        return None
    from hyperbuild.launcher.defaults import read_defaults

    return read_defaults(fields.take("boot"), fields.where("boot"))


def _initramfs(fields: _Fields | None, version: int) -> tuple[str | None, int | None]:
    """Return digest and protocol."""
    if fields is None:
        return None, PROTOCOL_VERSION
    digest = fields.digest("digest")
    protocol = fields.number("protocol", _ID_LIMIT) if version > 2 else None
    fields.end()
    return digest, protocol


def _image(fields: _Fields) -> ImageInfo:
    image = ImageInfo(
        reference=fields.text("reference"),
        manifest_digest=fields.digest("manifestDigest"),
        config_digest=fields.digest("configDigest"),
        platform=fields.text("platform"),
    )
    fields.end()
    return image


def _process(fields: _Fields, version: int) -> Process:
    labels = fields.object("labels")
    if not all(isinstance(value, str) for value in labels.values()):
        raise ContentError(f"{fields.where('labels')} has a value that is not a string")
    healthcheck = fields.take("healthcheck")
    if not isinstance(healthcheck, dict | None):
        raise ContentError(f"{fields.where('healthcheck')} is neither an object nor null")
    process = Process(
        args=fields.texts("args"),
        entrypoint=fields.texts("entrypoint"),
        env=fields.texts("env"),
        cwd=fields.text("cwd"),
        home=fields.text("home"),
        user=_user(fields.inner("user")),
        stop_signal=_signal(fields.inner("stopSignal")),
        healthcheck=healthcheck,
        exposed_ports=fields.texts("exposedPorts"),
        volumes=fields.texts("volumes"),
        labels=labels,
        findings=_problem(fields.text("problem")) if version == 1 else _findings(fields),
    )
    fields.end()
    return process


def _problem(text: str) -> tuple[Finding, ...]:
    return (Finding("user", text, 125),) if text else ()


def _findings(fields: _Fields) -> tuple[Finding, ...]:
    where = fields.where("findings")
    return tuple(_finding(_Fields(item, where)) for item in fields.array("findings"))


def _finding(fields: _Fields) -> Finding:
    finding = Finding(fields.text("name"), fields.text("text"), fields.take("status"))
    if type(finding.status) is not int or finding.status not in _STATUSES:
        raise ContentError(f"{fields.where('status')} is not one of {_STATUSES}")
    fields.end()
    return finding


def _user(fields: _Fields) -> User:
    where = fields.where("groups")
    user = User(
        uid=fields.number("uid", _ID_LIMIT),
        gid=fields.number("gid", _ID_LIMIT),
        groups=tuple(_number(item, _ID_LIMIT, where) for item in fields.array("groups")),
    )
    fields.end()
    return user


def _signal(fields: _Fields) -> Signal:
    signal = Signal(name=fields.text("name"), number=fields.number("number", 64))
    fields.end()
    return signal


def _rootfs(fields: _Fields, version: int) -> RootfsInfo:
    rootfs = RootfsInfo(
        format=fields.text("format"),
        size=fields.number("size", 2**63 - 1),
        digest=fields.digest("digest"),
        diff_ids=tuple(
            check_digest(item, fields.where("diffIds")) for item in fields.array("diffIds")
        ),
    )
    if version > _PLAIN_VERSION:
        rootfs = rootfs.replace(verity=_verity(fields.inner("verity"), rootfs.size))
    if rootfs.format not in ROOTFS_FORMATS:
        raise ContentError(
            f"{fields.where('format')} {rootfs.format!r} is not one of {', '.join(ROOTFS_FORMATS)}"
        )
    fields.end()
    return rootfs


def _verity(fields: _Fields, size: int) -> HashTreeInfo:
    """Read what becomes a part of the kernel's command line, so nothing but what it should be."""
    root_hash, salt = fields.text("rootHash"), fields.text("salt")
    if any(len(text) != 64 or not _HEX.issuperset(text) for text in (root_hash, salt)):
        raise ContentError(f"{fields.where('rootHash')} or salt is not 64 hexadecimal digits")
    offset = fields.number("hashOffset", size)
    if not offset or offset % _BLOCK:
        raise ContentError(f"{fields.where('hashOffset')} is no multiple of {_BLOCK}")
    fields.end()
    return HashTreeInfo(root_hash, salt, offset)


def _kernel(fields: _Fields | None, version: int) -> KernelInfo | None:
    if fields is None:
        return None
    kernel = KernelInfo(
        version=fields.text("version"),
        digest=fields.digest("digest"),
        config_digest=fields.digest("configDigest"),
        options=None if version == 1 else fields.texts_or_null("options"),
    )
    fields.end()
    return kernel
