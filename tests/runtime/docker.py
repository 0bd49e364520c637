"""What docker makes of an image's config: the OCI runtime config of its container.

Written from the OCI runtime-spec v1.0 (config.md, config-linux.md), docker's documentation ("Docker
run reference", "Seccomp security profiles for Docker") and moby's defaults (oci/defaults.go,
daemon/oci_linux.go, daemon/commit.go). Nothing here is hyperbuild's, and nothing touches a file.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

Json = dict[str, Any]

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
#: The address that the first container on docker's bridge has.
ADDRESS = "172.17.0.2"

_CAPABILITIES = (
    "CHOWN DAC_OVERRIDE FSETID FOWNER MKNOD NET_RAW SETGID SETUID SETFCAP SETPCAP "
    "NET_BIND_SERVICE SYS_CHROOT KILL AUDIT_WRITE"
)

#: What dockerd's own service unit leaves its children, and the kernel's defaults: soft, hard.
UNLIMITED = 2**64 - 1
LIMITS = {
    **dict.fromkeys(
        ("AS", "CORE", "CPU", "DATA", "FSIZE", "LOCKS", "NPROC", "RSS", "RTTIME"),
        (UNLIMITED, UNLIMITED),
    ),
    "MSGQUEUE": (819200, 819200),
    "NICE": (0, 0),
    "NOFILE": (1048576, 1048576),
    "RTPRIO": (0, 0),
    "STACK": (8 << 20, UNLIMITED),
}

_MOUNTS: tuple[tuple[str, str, str, str], ...] = (
    ("/proc", "proc", "proc", "nosuid,noexec,nodev"),
    ("/dev", "tmpfs", "tmpfs", "nosuid,strictatime,mode=755,size=65536k"),
    ("/dev/pts", "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
    ("/sys", "sysfs", "sysfs", "ro,nosuid,noexec,nodev"),
    ("/sys/fs/cgroup", "cgroup", "cgroup", "ro,nosuid,noexec,nodev"),
    ("/dev/mqueue", "mqueue", "mqueue", "nosuid,noexec,nodev"),
    ("/dev/shm", "tmpfs", "shm", "nosuid,noexec,nodev,mode=1777,size=64m"),
)
_MASKED = (
    "/proc/acpi /proc/asound /proc/kcore /proc/keys /proc/latency_stats /proc/sched_debug "
    "/proc/scsi /proc/timer_list /proc/timer_stats /sys/firmware"
)
_READ_ONLY = "/proc/bus /proc/fs /proc/irq /proc/sys /proc/sysrq-trigger"
_DEVICES = ((1, 3), (1, 5), (1, 8), (1, 9), (5, 0), (5, 1))

#: "Significant syscalls blocked by the default profile".
_REFUSED = (
    "acct add_key bpf clock_adjtime clock_settime create_module delete_module finit_module "
    "get_kernel_syms get_mempolicy init_module ioperm iopl kcmp kexec_file_load kexec_load keyctl "
    "lookup_dcookie mbind mount move_pages nfsservctl open_by_handle_at perf_event_open "
    "pivot_root process_vm_readv process_vm_writev ptrace query_module quotactl reboot "
    "request_key set_mempolicy setns settimeofday stime swapon swapoff sysfs _sysctl umount "
    "umount2 unshare uselib userfaultfd ustat vm86 vm86old"
)


def command(image: Mapping[str, Any], words: Sequence[str]) -> list[str]:
    """Return the argv: words, where there are any, stand for Cmd."""
    return [*(image.get("Entrypoint") or ()), *(words or image.get("Cmd") or ())]


def environment(image: Mapping[str, Any], own: Sequence[str], hostname: str) -> list[str]:
    """Return the variables of an image and those of the user's own (``-e``), in docker's order."""
    names = {text.split("=")[0] for text in own}
    wanted = [*own, *(t for t in image.get("Env") or () if t.split("=")[0] not in names)]
    default = {"PATH": f"PATH={PATH}", "HOSTNAME": f"HOSTNAME={hostname}"}
    rest = []
    for text in wanted:
        name, equals, _ = text.partition("=")
        if name in default and equals:
            default[name] = text
        elif name in default:
            del default[name]
        elif equals:
            rest.append(text)
    return [*default.values(), *rest]


def hosts(hostname: str) -> str:
    """Return /etc/hosts."""
    return (
        "127.0.0.1\tlocalhost\n"
        "::1\tlocalhost ip6-localhost ip6-loopback\n"
        "fe00::\tip6-localnet\n"
        "ff00::\tip6-mcastprefix\n"
        "ff02::1\tip6-allnodes\n"
        "ff02::2\tip6-allrouters\n"
        f"{ADDRESS}\t{hostname}\n"
    )


def stop_signal(text: str) -> int:
    """Return the number of a STOPSIGNAL by docker's table: RTMIN is 34, RTMAX 64."""
    name = text.upper().removeprefix("SIG")
    known = {"TERM": 15, "QUIT": 3, "INT": 2, "HUP": 1, "RTMIN": 34, "RTMAX": 64}
    if name.isdigit():
        return int(name)
    if name in known:
        return known[name]
    sign = "+" if "+" in name else "-"
    base, _, offset = name.partition(sign)
    return known[base] + int(f"{sign}{offset}")


def start_status(message: str) -> int:
    """Return what ``docker run`` ends with when its runtime says message, and starts nothing."""
    if "executable file not found" in message or "no such file or directory" in message:
        return 127
    return 126 if "permission denied" in message or "not a directory" in message else 125


def runtime_config(
    image: Mapping[str, Any],
    user: Mapping[str, Any],
    *,
    words: Sequence[str],
    own: Sequence[str],
    hostname: str,
    binds: Mapping[str, str],
    limits: Mapping[str, tuple[int, int]],
    unified: bool,
) -> Json:
    """Return config.json for a root file system in ``rootfs``.

    user is the resolved one as the runtime-spec writes it, words the arguments that replace Cmd,
    own the variables of ``-e``, binds what is mounted from the host: destination -> source, limits
    those of LIMITS that the host allows. unified says that it has cgroups of version 2 alone.
    """
    sets = ("bounding", "effective", "permitted") if user["uid"] == 0 else ("bounding",)
    kept = [f"CAP_{name}" for name in _CAPABILITIES.split()]
    namespaces = ["mount", "network", "uts", "pid", "ipc", *(["cgroup"] if unified else [])]
    return {
        "ociVersion": "1.0.2",
        "hostname": hostname,
        "root": {"path": "rootfs", "readonly": False},
        "process": {
            "terminal": False,
            "user": {
                "uid": user["uid"],
                "gid": user["gid"],
                "additionalGids": [user["gid"], *(user.get("additionalGids") or ())],
            },
            "args": command(image, words),
            "env": environment(image, own, hostname),
            "cwd": image.get("WorkingDir") or "/",
            "capabilities": dict.fromkeys(sets, kept),
            "noNewPrivileges": False,
            "oomScoreAdj": 0,
            "rlimits": [
                {"type": f"RLIMIT_{name}", "soft": soft, "hard": hard}
                for name, (soft, hard) in limits.items()
            ],
        },
        "mounts": [
            *(
                {
                    "destination": place,
                    "type": kind,
                    "source": source,
                    "options": options.split(","),
                }
                for place, kind, source, options in _MOUNTS
            ),
            *(
                {"destination": place, "type": "bind", "source": source, "options": ["rbind"]}
                for place, source in binds.items()
            ),
        ],
        "linux": {
            "namespaces": [{"type": kind} for kind in namespaces],
            "maskedPaths": _MASKED.split(),
            "readonlyPaths": _READ_ONLY.split(),
            "sysctl": {
                "net.ipv4.ip_unprivileged_port_start": "0",
                "net.ipv4.ping_group_range": "0 2147483647",
            },
            "resources": {"devices": _device_rules()},
            "seccomp": {
                "defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": _REFUSED.split(), "action": "SCMP_ACT_ERRNO"}],
            },
        },
    }


def _device_rules() -> list[Json]:
    rules: list[Json] = [
        {"allow": False, "access": "rwm"},
        {"allow": True, "type": "c", "access": "m"},
        {"allow": True, "type": "b", "access": "m"},
    ]
    for major, minor in _DEVICES:
        rules.append({"allow": True, "type": "c", "major": major, "minor": minor, "access": "rwm"})
    return rules
