"""What a VM's hypervisor has of its host, seen from outside, and tried out from inside."""

from __future__ import annotations

import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from hyperbuild.converter.errors import InputError
from hyperbuild.launcher.child import spawn
from hyperbuild.launcher.confinement import (
    CAP_NET_BIND_SERVICE,
    FIRST_USER,
    TEMPLATE_GROUP,
    Folder,
    Needs,
    needs_of,
    open_for_others,
)
from hyperbuild.launcher.libc import call
from hyperbuild.launcher.machine import (
    Accel,
    Ids,
    MachineOptions,
    PortForward,
    Ram,
    Share,
    build_machine,
)
from tests.launcher.boots import HANG, options
from tests.launcher.support import IDENTITY, make_files
from tests.launcher.test_vm import first_line, started

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hyperbuild.launcher.located import BundleFiles
    from hyperbuild.launcher.machine import Machine

pytestmark = pytest.mark.boot

BUSYBOX = os.path.realpath("/bin/busybox")
PLACES = (BUSYBOX,)
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")


def namespace(process: int | str, kind: str) -> str:
    return str(Path(f"/proc/{process}/ns/{kind}").readlink())


class Hypervisor(NamedTuple):
    """A running VM's QEMU: its number, and what the kernel tells of it."""

    pid: int

    @property
    def proc(self) -> Path:
        return Path(f"/proc/{self.pid}")

    def status(self) -> dict[str, str]:
        lines = (self.proc / "status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}

    def open_files(self) -> list[str]:
        return [str(path.readlink()) for path in (self.proc / "fd").iterdir()]

    def namespace(self, kind: str) -> str:
        return namespace(self.pid, kind)


@contextmanager
def running(
    files: BundleFiles, *script: str, before: Sequence[str] = (), **chosen: Any
) -> Iterator[Hypervisor]:
    """Boot files, by a launcher of its own behind the words before, until script is ready."""
    wanted = script or ("sh", "-c", "echo ready; sleep 1000")
    process = started(files, options(*wanted, **chosen), before)
    try:
        assert first_line(process) == b"ready\n"
        yield Hypervisor(child_of(process.pid))
    finally:
        process.kill()
        process.wait(HANG)
        assert process.stdout is not None
        process.stdout.close()


def child_of(launcher: int) -> int:
    (child,) = Path(f"/proc/{launcher}/task/{launcher}/children").read_text().split()
    return int(child)


@pytest.fixture(scope="module")
def hypervisor(busybox: BundleFiles) -> Iterator[Hypervisor]:
    with running(busybox) as found:
        yield found


def told(script: str, needs: Needs, descriptors: tuple[int, ...] = ()) -> str:
    """Run script as a hypervisor would be run, and return what it says.

    It stands for one that a guest has taken over, though without the filter of system calls that
    QEMU puts on itself.
    """
    child = spawn([BUSYBOX, "sh", "-c", f"exec >&2; {script}"], descriptors, needs)
    try:
        said = b""
        while data := os.read(child.stderr, 1 << 16):
            said += data
        return said.decode()
    finally:
        child.close()


def run(script: str, *folders: Folder, network: bool = True) -> str:
    needs = Needs(places=PLACES, folders=folders, network=network)
    applets = "for a in cat chown chmod kill ls mknod mount mkdir chroot unshare touch id; do "
    applets += f'alias $a="{BUSYBOX} $a"; done; '
    return told(f"{applets}eval '{script}'", needs, tuple(folder.fd for folder in folders))


@as_root
def test_it_is_a_user_of_no_rights(hypervisor: Hypervisor) -> None:
    status = hypervisor.status()
    user = FIRST_USER + hypervisor.pid
    assert status["Uid"].split() == [str(user)] * 4
    assert status["Gid"].split() == [str(user)] * 4
    assert status["Groups"] == ""
    assert {status[f"Cap{which}"] for which in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert status["NoNewPrivs"] == "1"


def test_its_system_calls_are_filtered(hypervisor: Hypervisor) -> None:
    assert hypervisor.status()["Seccomp"] == "2"


@as_root
def test_it_sees_libraries_and_its_own_files_alone(hypervisor: Hypervisor) -> None:
    root = hypervisor.proc / "root"
    found = {path.name for path in root.iterdir()}
    assert found <= {"dev", "etc", "lib", "lib32", "lib64", "proc", "usr", "nix"}
    assert {path.name for path in (root / "dev").iterdir()} == {"null", "urandom"}
    assert {path.name for path in (root / "etc").iterdir()} <= {"ld.so.cache", "resolv.conf"}
    assert {path.name for path in (root / "usr").iterdir()} <= {"bin", "lib", "lib64", "share"}
    assert [path.name for path in (root / "usr/bin").iterdir()] == ["qemu-system-x86_64"]
    for place in ("", "usr/lib", "etc/resolv.conf", "dev"):
        assert os.statvfs(root / place).f_flag & os.ST_RDONLY


def test_it_has_open_what_it_was_given_alone(hypervisor: Hypervisor, busybox: BundleFiles) -> None:
    own = {str(busybox.rootfs), str(busybox.kernel), "/dev/null", "/memfd:initrd (deleted)"}
    kinds = ("socket:", "pipe:", "anon_inode:")
    others = {name for name in hypervisor.open_files() if not name.startswith(kinds)} - own
    assert not others
    assert (hypervisor.proc / "environ").read_bytes() == b""


def test_its_limits_and_its_session(hypervisor: Hypervisor) -> None:
    lines = (hypervisor.proc / "limits").read_text().splitlines()
    limits = {line[:26].strip(): line[26:].split()[:2] for line in lines}
    assert limits["Max core file size"] == ["0", "0"]
    assert int(limits["Max open files"][1]) <= 16384
    if os.geteuid() == 0:
        assert limits["Max processes"] == ["512", "512"]
    # No terminal is left to write into.
    assert os.getsid(hypervisor.pid) == hypervisor.pid


@as_root
@pytest.mark.parametrize("network", [True, False])
def test_its_network_is_the_hosts_only_if_it_needs_one(busybox: BundleFiles, network: bool) -> None:
    with running(busybox, network=network) as found:
        assert (found.namespace("net") == namespace("self", "net")) is network
        for kind in ("mnt", "ipc", "uts"):
            assert found.namespace(kind) != namespace("self", kind)


def test_a_user_who_is_not_root_is_confined_too(busybox: BundleFiles) -> None:
    """Run a launcher as nobody, on files of its own."""
    allowed = subprocess.run(["unshare", "-Ur", "true"], capture_output=True, check=False)
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        home = Path(name)
        copies = {
            piece: home / Path(getattr(busybox, piece)).name
            for piece in ("rootfs", "kernel", "initramfs")
        }
        for piece, path in copies.items():
            shutil.copy(getattr(busybox, piece), path)
            path.chmod(0o600)
            os.chown(path, 65534, 65534)
        os.chown(home, 65534, 65534)
        stack.callback(lambda: os.chown(home, os.geteuid(), os.getegid()))
        before = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
        with running(busybox.replace(**copies), before=before) as found:
            status = found.status()
            assert status["Uid"].split() == ["65534"] * 4
            assert {status[f"Cap{which}"] for which in ("Prm", "Eff", "Amb")} == {"0" * 16}
            assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
            if allowed.returncode == 0:
                assert status["CapBnd"] == "0" * 16
                seen = {path.name for path in (found.proc / "root").iterdir()}
                assert not {"home", "root", "tmp", "var"} & seen


#: Runs what follows as the root of a container: of no other user, and without mount namespaces.
CONTAINED = (
    *("unshare", "--user", "--map-root-user", "sh", "-c"),
    'echo 0 > /proc/sys/user/max_mnt_namespaces && exec "$@"',
    "sh",
)


def landlock_version() -> int:
    try:
        return call("syscall", 444, None, 0, 1)
    except OSError:
        return 0


@as_root
@pytest.mark.skipif(landlock_version() < 6, reason="the kernel's Landlock is older")
def test_where_mounts_are_refused_files_are_opened_by_rules(
    busybox: BundleFiles, tmp_path: Path
) -> None:
    with running(busybox, before=CONTAINED) as found:
        status = found.status()
        assert found.namespace("mnt") == namespace("self", "mnt")
        assert {status[f"Cap{which}"] for which in ("Prm", "Eff", "Bnd")} == {"0" * 16}
        assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    secret = tmp_path / "secret"
    secret.write_text("secret")
    source = f"""
import os
from hyperbuild.launcher.child import spawn
from hyperbuild.launcher.confinement import Needs
script = "exec >&2; B={BUSYBOX}; $B cat {secret}; $B ls /; echo x > {secret}; $B kill -9 $PPID"
child = spawn(["{BUSYBOX}", "sh", "-c", script], (), Needs(places=("{BUSYBOX}",)))
child.wait()
print(os.read(child.stderr, 10000).decode())
"""
    argv = [*CONTAINED, sys.executable, "-c", source]
    done = subprocess.run(argv, capture_output=True, text=True, check=True, timeout=HANG)
    assert done.stdout.lower().count("permission denied") == 3, done.stdout
    assert "not permitted" in done.stdout
    assert secret.read_text() == "secret"


@as_root
def test_it_dies_with_its_launcher() -> None:
    """The kernel forgets that wish whenever the user changes."""
    reader, writer = os.pipe()
    launcher = os.fork()
    if launcher == 0:
        child = spawn([BUSYBOX, "sleep", "1000"], (), Needs(places=PLACES))
        os.write(writer, str(child.pid).encode())
        signal.pause()
    pidfd = os.pidfd_open(int(os.read(reader, 100)))
    os.kill(launcher, signal.SIGKILL)
    os.waitpid(launcher, 0)
    assert select.select([pidfd], [], [], HANG)[0], "it is still there"
    for fd in (reader, writer, pidfd):
        os.close(fd)


@as_root
def test_nothing_of_the_host_is_found(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("secret")
    secret.chmod(0o666)
    tmp_path.chmod(0o777)
    said = run(f"cat {secret}; cat /etc/passwd; cat /etc/shadow; ls /tmp /home; touch /x /dev/x")
    assert "secret\n" not in said
    assert "root:" not in said
    assert said.count("No such file") == 5
    assert said.count("Read-only file system") == 2


@as_root
def test_there_is_no_way_back() -> None:
    said = run(
        "id -u; chroot /lib true; unshare -U true; unshare -m true; mount -t tmpfs x /dev;"
        "ls /proc/1/root; ls -d /proc/self/root/../../../../home; mknod /dev/sda b 8 0"
    )
    user, *refusals = said.splitlines()
    assert int(user) > FIRST_USER
    assert len(refusals) == 7, said


@as_root
def test_no_vm_reaches_another(hypervisor: Hypervisor) -> None:
    pid = hypervisor.pid
    said = run(f"kill -9 {pid}; ls /proc/{pid}/fd; cat /proc/{pid}/environ")
    assert "not permitted" in said
    assert said.count("No such file") == 2
    # Others are not even seen.
    assert str(pid) not in run("ls /proc").split()
    assert hypervisor.proc.exists()


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """Give a folder to share, beside a file that is not shared, and with links that lead out."""
    (tmp_path / "outside").write_text("secret")
    (tmp_path / "outside").chmod(0o666)
    folder = tmp_path / "shared"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path / "outside")
    (folder / "up").symlink_to("../outside")
    (folder / "own").write_text("own\n")
    (folder / "own").chmod(0o600)
    return folder


@contextmanager
def opened(path: Path, *, read_only: bool = False, real_ids: bool = True) -> Iterator[Folder]:
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    yield Folder(fd, read_only, real_ids)
    os.close(fd)


@as_root
def test_a_shared_folder_has_no_way_out(shared: Path) -> None:
    with opened(shared) as folder:
        place = f"/proc/self/fd/{folder.fd}"
        said = run(
            f"cat {place}/own; cat {place}/../outside; cat {place}/link; cat {place}/up;"
            f"cd {place}; cat ../outside; echo changed > ../../outside; ls ../..",
            folder,
        )
    assert said.startswith("own\n")
    assert "secret" not in said
    assert (shared.parent / "outside").read_text() == "secret"


@as_root
def test_a_shared_folder_keeps_the_guests_owners_but_makes_no_devices(shared: Path) -> None:
    with opened(shared) as folder:
        place = f"/proc/self/fd/{folder.fd}"
        said = run(
            f"cd {place}; mkdir new; chown 1000:1001 new own; chmod 4755 new; mknod disk b 8 0",
            folder,
        )
    assert "mknod" in said
    assert len(said.splitlines()) == 1
    status = (shared / "new").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (1000, 1001, 0o4755)
    assert not (shared / "disk").exists()


@as_root
def test_a_folder_to_read_is_not_written(shared: Path) -> None:
    with opened(shared, read_only=True) as folder:
        said = run(f"cd /proc/self/fd/{folder.fd}; cat own; echo x > own; touch x", folder)
    assert said.startswith("own\n")
    assert said.count("Read-only") == 2


@as_root
def test_a_folder_that_was_replaced_is_refused(shared: Path) -> None:
    """The path of a folder that is gone is its old one and " (deleted)", which others may make."""
    with opened(shared) as folder:
        shutil.rmtree(shared)
        shared.with_name("shared (deleted)").symlink_to("/")
        said = run("echo started", folder)
    assert "started" not in said
    assert "was replaced meanwhile" in said


@as_root
@pytest.mark.skipif(landlock_version() < 3, reason="the kernel's Landlock is older")
def test_what_was_opened_to_be_read_is_not_opened_to_be_written(tmp_path: Path) -> None:
    path = tmp_path / "image"
    path.write_text("image")
    path.chmod(0o666)
    reader, writer = (
        os.open(path, os.O_RDONLY),
        os.open(path.with_name("disk"), os.O_RDWR | os.O_CREAT),
    )
    path.with_name("disk").chmod(0o666)
    try:
        needs = Needs(places=PLACES)
        script = f"B={BUSYBOX}; $B cat /proc/self/fd/{reader}; "
        script += f"echo x > /proc/self/fd/{reader}; echo y > /proc/self/fd/{writer}"
        said = told(script, needs, (reader, writer))
    finally:
        os.close(reader)
        os.close(writer)
    assert said.startswith("image")
    assert said.lower().count("permission denied") == 1, said
    assert path.read_text() == "image"
    assert path.with_name("disk").read_text() == "y\n"


@as_root
@pytest.mark.skipif(landlock_version() < 2, reason="the kernel's Landlock is older")
def test_files_are_moved_inside_of_a_shared_folder(shared: Path) -> None:
    with opened(shared) as folder:
        said = run(f"cd /proc/self/fd/{folder.fd}; mkdir new; {BUSYBOX} mv own new/own", folder)
    assert said == ""
    assert (shared / "new/own").exists()


def machine(**changes: Any) -> Machine:
    return build_machine(
        make_files(), MachineOptions(**changes), IDENTITY,
        initrd=Path("/i"), accel=Accel.TCG, tsc_khz=None,
    )  # fmt: skip


def test_what_machines_need() -> None:
    assert needs_of(machine(), ("/q",)) == Needs(places=("/q",))
    assert not needs_of(machine(network=False), ()).network
    assert needs_of(machine().replace(accel=Accel.KVM), ()).kvm
    low, high = PortForward(80, 80), PortForward(1024, 80)
    assert needs_of(machine(ports=(low, high)), ()).capabilities == {CAP_NET_BIND_SERVICE}
    assert needs_of(machine(ports=(high,)), ()).capabilities == frozenset()
    copied = machine().replace(ram=Ram(Path("/r"), restored=True))
    assert needs_of(copied, ()).groups == (TEMPLATE_GROUP,)
    assert Folder(3, read_only=False, real_ids=False).capabilities == frozenset()


def test_what_machines_need_for_what_they_share() -> None:
    plain = machine()
    assert plain.nic
    # The tap is inherited: no network of the host is needed to speak through it.
    assert not needs_of(plain.replace(nic=plain.nic.replace(tap=5)), ()).network
    shares = (Share(7, "a", Ids.REAL), Share(8, "b", Ids.OWN, read_only=True))
    real, own = needs_of(plain.replace(shares=shares), ()).folders
    assert (real.fd, real.read_only, own.fd, own.read_only) == (7, False, 8, True)
    assert real.replace(read_only=True).capabilities < real.capabilities
    assert own.capabilities == frozenset()


@as_root
def test_a_port_below_1024_takes_one_right_alone() -> None:
    needs = Needs(places=PLACES, capabilities=frozenset((CAP_NET_BIND_SERVICE,)))
    child = spawn([BUSYBOX, "sh", "-c", f"echo started >&2; exec {BUSYBOX} sleep 1000"], (), needs)
    try:
        assert os.read(child.stderr, 100) == b"started\n"
        status = Hypervisor(child.pid).status()
    finally:
        child.close()
    sets = {status[f"Cap{which}"] for which in ("Inh", "Prm", "Eff", "Bnd", "Amb")}
    assert sets == {f"{1 << CAP_NET_BIND_SERVICE:016x}"}


@as_root
def test_a_file_that_others_may_not_read_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "vmlinux"
    path.touch(mode=0o600)
    with pytest.raises(InputError, match=rf"{path} may be read by its owner alone, .* chmod o\+r"):
        open_for_others(path)
