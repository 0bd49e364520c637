"""What the guest is to run, as the files of the boot spec (docs/hyperstart.md, "Boot spec")."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hyperbuild.converter.errors import InputError
from hyperbuild.launcher.errors import LaunchError
from hyperbuild.launcher.machine import Hold, block_device, root_device
from hyperbuild.launcher.network import HOST_GATEWAY, Resolver, guest_resolv_conf

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from hyperbuild.launcher.bundle import Bundle, Finding, Process, User
    from hyperbuild.launcher.health import HealthCheck
    from hyperbuild.launcher.identity import Identity
    from hyperbuild.launcher.machine import Machine, MachineOptions, Nic
    from hyperbuild.launcher.mounts import GuestMount
    from hyperbuild.launcher.pod import Member

#: What docker puts into the environment of an image that says nothing of PATH.
DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: The findings that another command may not have, and the variables that may undo them.
ABOUT_COMMAND = ("command", "machine", "loader", "library")
_SEARCHED = ("PATH", "LD_LIBRARY_PATH")
_NO_RESOLVER = Resolver()


def spec_files(
    bundle: Bundle,
    options: MachineOptions,
    machine: Machine,
    identity: Identity,
    *,
    clock: int,
    hold: Hold = Hold.NOWHERE,
    resolver: Resolver = _NO_RESOLVER,
    mounts: Sequence[GuestMount] = (),
) -> dict[str, bytes]:
    """Return the boot spec: file name -> content.

    clock is in nanoseconds since the epoch, resolver the host's. LaunchError: the bundle says that
    its process can't be started; InputError: there is nothing to run, or a value can't be passed
    on; ContentError: its health check is none.
    """
    process = bundle.process
    hostname = identity.hostname
    health = _health(process, options)
    return {
        **_container(bundle, options, machine, 0, hostname, mounts),
        "containers": b"1",
        "argv": _strings(arguments(process, options.args), "argument"),
        "hostname": hostname.encode(),
        "machine-id": f"{identity.machine_id}\n".encode(),
        "net": _net(machine),
        "hosts": hosts_file(machine.nic, hostname, options),
        "resolv.conf": guest_resolv_conf(machine.nic, options, resolver).encode()
        if machine.nic
        else b"",
        "stop-signal": str(process.stop_signal.number).encode(),
        "clock": str(clock).encode(),
        "seed": identity.seed,
        "watch": b"ports\n" if options.watch_ports else b"boot\n" if options.watch else b"",
        "hold": f"{hold}\n".encode() if hold else b"",
        "health": _strings(health.argv, "health check") if health else b"",
        "health-times": health.times().encode() if health else b"",
        "tty": "{} {}\n".format(*options.tty).encode() if options.tty else b"",
    }


def pod_files(
    members: Sequence[Member],
    machine: Machine,
    hostname: str,
    mounts: Sequence[Sequence[GuestMount]],
) -> dict[str, bytes]:
    """Return what makes the boot spec of a pod's first container that of the pod.

    mounts are those of each container. Errors as of ``spec_files``.
    """
    files = {"argv": b"", "health": b"", "tty": b"", "containers": str(len(members)).encode()}
    for index, member in enumerate(members[1:], 1):
        own = _container(
            member.files.bundle, member.options, machine, index, hostname, mounts[index]
        )
        files |= {f"{index}/{name}": content for name, content in own.items()}
    return files


def _container(
    bundle: Bundle,
    options: MachineOptions,
    machine: Machine,
    index: int,
    hostname: str,
    mounts: Sequence[GuestMount],
) -> dict[str, bytes]:
    """Return the files that each container has; its root is the disk of that index."""
    process = bundle.process
    _refuse(process, options)
    way = "dax" if machine.disks[index].pmem else "-"
    root = f"{root_device(machine.disks, index)} {bundle.rootfs.format} {way}\n"
    return {
        "environ": _strings(environment(process, hostname, options), "variable"),
        "cwd": _line(process.cwd, "working directory"),
        "user": user_line(process.user),
        "rootfs": root.encode(),
        "upper": _upper(machine, options),
        "mounts": _strings(_words(mounts), "mount"),
        "readonly": b"root\n" if options.read_only else b"",
    }


def _health(process: Process, options: MachineOptions) -> HealthCheck | None:
    if not (process.healthcheck or options.health_command):
        return None
    from hyperbuild.launcher.health import read_healthcheck

    return read_healthcheck(process.healthcheck, options.health_command)


def _refuse(process: Process, options: MachineOptions) -> None:
    """Raise LaunchError for what the bundle says of its process, unless options change that."""
    replaced = arguments(process, options.args)[0] != next(iter(process.args), "")
    searched = any(text.partition("=")[0] in _SEARCHED for text in options.env)

    # What is mounted may be just what the image lacks.
    mounted = any(mount.needs_host for mount in options.mounts)

    def holds(finding: Finding) -> bool:
        if finding.name in ABOUT_COMMAND:
            return not (replaced or searched or mounted)
        return finding.name != "workdir" or not mounted

    finding = next(filter(holds, process.findings), None)
    if finding:
        replaceable = finding.name in ABOUT_COMMAND and not process.entrypoint
        remedy = "correct the image" + " or give another command" * replaceable
        raise LaunchError(f"{finding.name}: {finding.text}; {remedy}", status=finding.status)


def arguments(process: Process, args: tuple[str, ...]) -> tuple[str, ...]:
    """Return the argv as docker does: args, if any, replace Cmd and follow Entrypoint."""
    argv = (*process.entrypoint, *args) if args else process.args
    if not argv or not argv[0]:
        raise InputError("the image names no command; give one after the image")
    return argv


def environment(process: Process, hostname: str, options: MachineOptions) -> tuple[str, ...]:
    """Return "NAME=value" strings as docker composes them.

    The defaults come first, then the user's -e, then what it leaves of the image's Env. A name's
    last value counts; a bare NAME takes away a default, and one of the user's what the image says.
    HOME is the user's unless it was given a value.
    """
    defaults = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname}
    if options.tty:
        defaults["TERM"] = "xterm"
    variables = dict(defaults)
    own = {text.partition("=")[0] for text in options.env}
    image = (text for text in process.env if text.partition("=")[0] not in own)
    for text in (*options.env, *image):
        name, equals, value = text.partition("=")
        if equals:
            variables[name] = value
        elif name in defaults:
            variables.pop(name, None)
    variables["HOME"] = variables.get("HOME") or process.home or "/"
    return tuple(f"{name}={value}" for name, value in variables.items())


def user_line(user: User) -> bytes:
    """Return ``UID GID GROUP…``: the primary group is a supplementary one too, as under docker.

    Without it a program that may change its primary group would lose what is denied to that group.
    """
    return " ".join(map(str, (user.uid, user.gid, user.gid, *user.groups))).encode() + b"\n"


def _strings(texts: Iterable[str], what: str) -> bytes:
    return b"".join(_raw(text, what) + b"\0" for text in texts)


def _raw(text: str, what: str) -> bytes:
    # Bytes of the command line that are no UTF-8 are surrogates here, and become bytes again.
    try:
        raw = text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError as error:
        raise InputError(f"{what} {text!r} is not Unicode; correct it") from error
    if b"\0" in raw:
        raise InputError(f"{what} {text!r} has a NUL in it; take it out")
    return raw


def _line(text: str, what: str) -> bytes:
    raw = _raw(text, what)
    if not raw.startswith(b"/") or b"\n" in raw:
        raise InputError(f"{what} {text!r} is not an absolute path; correct it in the image")
    return raw


def _upper(machine: Machine, options: MachineOptions) -> bytes:
    """Tell where what is written goes, if it isn't memory: the disk that comes after the root."""
    return f"{block_device(machine.disks, 1)} ext4 -\n".encode() if options.disk else b""


def _words(mounts: Iterable[GuestMount]) -> Iterator[str]:
    for mount in mounts:
        yield from (mount.kind, mount.source, mount.target, ",".join(mount.options) or "rw")


def _net(machine: Machine) -> bytes:
    nic = machine.nic
    if nic is None:
        return b""
    # The interface of a restored VM is its template's; any other has its address from the start.
    mac = f"mac {nic.mac}\n" if machine.is_restored else ""
    prefix = nic.network.partition("/")[2]
    gateway = f"gateway {nic.gateway}\n" if nic.gateway else ""
    return f"{mac}address {nic.address}/{prefix}\n{gateway}".encode()


def hosts_file(nic: Nic | None, hostname: str, options: MachineOptions) -> bytes:
    """Return /etc/hosts of a guest with that interface: its own names, and the hosts of options."""
    lines = [
        ("127.0.0.1", "localhost"),
        ("::1", "localhost ip6-localhost ip6-loopback"),
        ("fe00::", "ip6-localnet"),
        ("ff00::", "ip6-mcastprefix"),
        ("ff02::1", "ip6-allnodes"),
        ("ff02::2", "ip6-allrouters"),
        (nic.address if nic else "127.0.1.1", hostname),
        *((_address(nic, address), name) for name, address in options.hosts),
    ]
    return "".join(f"{address}\t{names}\n" for address, names in lines).encode()


def _address(nic: Nic | None, address: str) -> str:
    if address != HOST_GATEWAY:
        return address
    if nic is None or not nic.gateway:
        raise InputError(
            f"--add-host {HOST_GATEWAY} needs a network with a gateway; give an address instead"
        )
    return nic.gateway
