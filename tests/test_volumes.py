"""Volumes, folders and networks as a user gives them to `hyperbuild boot`, in real VMs."""

from __future__ import annotations

import os
import shlex
import socket
import stat
import subprocess
import threading
import time
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.conftest import HYPERBUILD, RunCli
from tests.support.layers import d, f, layer, layout, s

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.boot

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="it is about what root may do")

APPLETS = (
    *("cat", "chmod", "chown", "df", "echo", "env", "httpd", "id", "ip", "ln", "ls", "mkdir"),
    *("mount", "mv", "nslookup", "pwd", "readlink", "rm", "sh", "sleep", "stat", "sync"),
    *("touch", "true", "umount", "wget"),
)
USERS = "root:x:0:0::/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n"
GROUPS = "root:x:0:\napp:x:1001:\naudio:x:29:app\n"
#: A user of the host that is neither root nor anybody else.
SOMEBODY = 12345


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, kernel: Path, shared_cache: Path) -> Path:
    """Give a bundle of busybox, a few users, and two volumes, one of them with content."""
    assert kernel.exists()
    home = tmp_path_factory.mktemp("volumes")
    echo = home / "udp-echo"
    source = Path(__file__).parent / "support/udp_echo.c"
    subprocess.run(["musl-gcc", "-static", "-Os", "-o", echo, source], check=True)
    image = layout(
        home / "image",
        layer(
            d("bin"),
            f("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755),
            f("bin/udp-echo", echo.read_bytes(), mode=0o755),
            *(s(f"bin/{name}", "busybox") for name in APPLETS),
            d("etc"),
            f("etc/passwd", USERS),
            f("etc/group", GROUPS),
            d("www"),
            f("www/index.html", "works"),
            d("data", mode=0o2770, uid=1000, gid=1001),
            f("data/seed", "of the image\n", uid=1000, gid=1001, mode=0o640),
            d("data/sub", uid=5, gid=6, mode=0o711),
            f("data/sub/tool", "x", mode=0o4755, xattrs={"user.note": b"kept"}),
            s("data/link", "/data/seed"),
            d("big"),
            f("big/zeros", bytes(20 << 20)),
        ),
        config={
            "Entrypoint": ["/bin/sh", "-c"],
            "Cmd": ["echo own"],
            "User": "app",
            "Volumes": {"/data": {}, "/not/there": {}},
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}},
        },
    )
    argv = [HYPERBUILD, "-q", "convert", f"oci:{image}", "-o", home / "bundle"]
    env = os.environ | {"XDG_DATA_HOME": str(home), "XDG_CACHE_HOME": str(shared_cache)}
    subprocess.run(argv, env=env, check=True, stdout=subprocess.DEVNULL)
    return home / "bundle"


def told(done: subprocess.CompletedProcess[str]) -> dict[str, str]:
    """Return what a script has said, by the line ``== NAME`` above it."""
    parts = [part.partition("\n") for part in done.stdout.split("== ")[1:]]
    assert done.returncode == 0, done.stdout + done.stderr
    return {name: text.strip() for name, _, text in parts}


def script(**parts: str) -> str:
    """Return a shell script that runs parts; a failure in one is a line of it."""
    lines = (f"echo '== {name}'; {{ {text}\n}} 2>&1" for name, text in parts.items())
    return "\n".join((*lines, "true"))


def folder(path: Path, **files: str) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name).write_text(content)
    return path


@needs_root
def test_mounts_users_and_a_root_that_is_read_only(
    bundle: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    shared = folder(tmp_path / "shared", hello="from the host\n")
    shared.chmod(0o777)
    (shared / "good").symlink_to("hello")
    (shared / "root").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to("shared")
    given = folder(tmp_path / "given", file="unchanged\n")
    (tmp_path / "app.conf").write_text("setting\n")
    (tmp_path / "app.conf").chmod(0o600)
    os.chown(tmp_path / "app.conf", 1000, 1001)
    os.utime(tmp_path / "app.conf", (0, 1_600_000_000))
    (tmp_path / "env").write_text("A=file\nB=file\n")
    parts = script(
        who="id; pwd; echo $HOME $A $B",
        shared="cat /h/good; ls /h/root; cd /h; echo mine > new; chmod 640 new; ln -s new sym; "
        "mkdir dir; stat -c '%n %u %g %a' new sym dir",
        given="cat /g/file; echo x > /g/file; echo x > /g/more",
        conf="cat /etc/app/app.conf; stat -c '%u %g %a %Y' /etc/app/app.conf; "
        "echo x > /etc/app/app.conf",
        volume="ls -ln /data /data/sub; cat /data/link; echo kept > /data/kept; sync",
        none="stat -c '%u %g %a' /not/there",
        memory="stat -c '%u %a' /t; echo x > /t/x; df -k /t",
        root="touch /new; touch /etc/new; echo x > /etc/hosts; touch /dev/shm/new && echo written",
        names="cat /etc/hosts /etc/resolv.conf",
        mounts="mount",
    )  # fmt: skip
    done = run_cli(
        *("boot", "--read-only", "-u", "app", "-w", "/srv/deep", "--env-file", tmp_path / "env"),
        *("-e", "B=line", "-v", f"{tmp_path}/link:/h", "-v", f"{given}:/g:ro"),
        *("-v", f"{tmp_path}/app.conf:/etc/app/app.conf:ro", "-v", "web:/data"),
        *("--tmpfs", "/t:size=1m,mode=700,uid=1000", "--add-host", "db:1.2.3.4"),
        *("--add-host", "up:host-gateway", "--dns", "9.9.9.9", bundle, parts),
    )
    said = told(done)
    assert said["who"] == (
        "uid=1000(app) gid=1001(app) groups=29(audio),1001(app)\n/srv/deep\n/home/app file line"
    )
    assert said["shared"] == (
        "from the host\nls: can't open '/h/root': Permission denied\n"
        "new 1000 1001 640\nsym 1000 1001 777\ndir 1000 1001 755"
    )
    new = (shared / "new").stat()
    assert (new.st_uid, new.st_gid, stat.S_IMODE(new.st_mode)) == (1000, 1001, 0o640)
    assert (shared / "sym").readlink() == Path("new")
    assert said["given"].splitlines()[0] == "unchanged"
    assert said["given"].count("Read-only file system") == 2
    assert list(given.iterdir()) == [given / "file"]
    assert said["conf"].splitlines()[:2] == ["setting", "1000 1001 600 1600000000"]
    assert "Read-only file system" in said["conf"]
    assert [line.split() for line in said["volume"].splitlines() if line[1:2] in ("r", "w")] == [
        ["lrwxrwxrwx", "1", "0", "0", "10", "Nov", "14", "2023", "link", "->", "/data/seed"],
        ["-rw-r-----", "1", "1000", "1001", "13", "Nov", "14", "2023", "seed"],
        ["drwx--x--x", "2", "5", "6", "4096", "Nov", "14", "2023", "sub"],
    ]
    assert "of the image" in said["volume"]
    assert said["none"] == "0 0 755"
    assert said["memory"].splitlines()[0] == "1000 700"
    assert "1024" in said["memory"]
    assert said["root"].count("Read-only file system") == 3
    assert said["root"].endswith("written")
    assert "1.2.3.4\tdb\n10.0.2.2\tup\nnameserver 9.9.9.9" in said["names"]
    at = dict(line.split()[2:5:2] for line in said["mounts"].splitlines())
    assert at["/"] == "overlay"
    assert (at["/h"], at["/data"], at["/t"], at["/not/there"]) == (
        *("9p", "ext4", "tmpfs", "overlay"),
    )


@needs_root
def test_volumes_stay_and_all_that_a_microvm_has_is_told_apart(
    bundle: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    words = ("boot", "--rootfs", "blk", "-u", "0", bundle)
    first = ("-v", "web:/data", "-v", "web:/again:ro", "-v", "empty:/data/sub:nocopy")
    fill = "echo kept > /data/kept; chown 7:8 /data/kept; echo other > /data/sub/other"
    said = told(run_cli(*words, *first, script(fill=fill, again="cat /again/kept; touch /again/x")))
    assert said["fill"] == ""
    assert said["again"].startswith("kept\n")
    assert "Read-only" in said["again"]
    shared = folder(tmp_path / "shared", hello="")
    later = (
        *("--disk", f"{tmp_path}/state.img:64M", "-v", "empty:/e", "-v", "web:/w"),
        *("-v", f"{shared}:/h", "-v", "/anonymous"),
    )
    parts = script(
        w="cat /w/kept /w/seed; stat -c '%u %g %a' /w/kept /w/sub/tool /w; touch /upper",
        e="ls /e",
        h="ls /h",
        mounts="mount",
    )
    said = told(run_cli(*words, *later, parts))
    assert said["w"] == "kept\nof the image\n7 8 644\n0 0 4755\n1000 1001 2770"
    assert (said["e"], said["h"]) == ("other", "hello")
    assert "overlay on /anonymous type overlay" in said["mounts"]
    # What the root has is on the disk, not on a volume.
    again = told(run_cli(*words, "--disk", tmp_path / "state.img", script(upper="ls /upper")))
    assert again["upper"] == "/upper"
    volumes = tmp_path / "data/hyperbuild/volumes"
    for path in volumes.iterdir():
        # The journal first, as the guest's kernel would.
        assert subprocess.run(["e2fsck", "-fp", path], stdout=subprocess.DEVNULL).returncode < 2
        subprocess.run(["e2fsck", "-fn", path], check=True, stdout=subprocess.DEVNULL)
    lines = run_cli("volume", "ls").stdout.splitlines()
    assert [line.split()[0] for line in lines] == ["VOLUME", "empty", "web"]


def test_a_volume_without_room_for_what_the_image_has_stays_empty(
    bundle: Path, run_cli: RunCli
) -> None:
    assert run_cli("volume", "create", "small", "--size", "16M").returncode == 0
    words = ("boot", "-v", "small:/big", bundle)
    for _ in range(2):
        done = run_cli(*words, "true")
        assert done.returncode == 125
        assert "Error: mount the volume for /big: No space left on device" in done.stderr
    done = run_cli(*words[:2], "small:/big:nocopy", bundle, "ls /big; echo none")
    assert done.stdout == "none\n"


@needs_root
@pytest.mark.parametrize(("words", "own"), [("", False), (":plain", True)])
def test_ids_of_who_is_not_root(
    bundle: Path, tmp_path: Path, hyperbuild_env: dict[str, str], words: str, own: bool
) -> None:
    shared = folder(tmp_path / "shared", hello="from the host\n")
    (shared / "link").symlink_to("hello")
    shared.chmod(0o777)
    for path in (shared, shared / "hello", shared / "link"):
        os.chown(path, SOMEBODY, SOMEBODY, follow_symlinks=False)
    parts = script(
        link="cat /h/link",
        new="echo mine > /h/new; ln -s new /h/sym; cat /h/sym; stat -c '%u %g %a' /h/new /h/hello",
        chown="busybox chown 5:6 /h/new; stat -c '%u %g' /h/new",
    )
    # Its Python, and the test's directory, may lie where only root reads.
    may_read = ("--inh-caps", "+dac_read_search", "--ambient-caps", "+dac_read_search")
    ids = ("--reuid", str(SOMEBODY), "--regid", str(SOMEBODY), "--clear-groups")
    home = folder(tmp_path / "home")
    os.chown(home, SOMEBODY, SOMEBODY)
    env = hyperbuild_env | {"HOME": str(home), "XDG_DATA_HOME": str(home)}
    argv = ["setpriv", *ids, *may_read, HYPERBUILD, "boot"]
    # As root of the VM, too: what it may, the host's user must be able to.
    for user in ("0:0", "1000:1001"):
        done = subprocess.run(
            [*argv, "-u", user, "-v", f"{shared}:/h{words}", bundle, parts],
            env=env, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        said = told(done)
        seen = f"{SOMEBODY} {SOMEBODY}" if own else user.replace(":", " ")
        assert said["new"].splitlines()[:2] == ["mine", f"{seen} 644"]
        assert said["new"].splitlines()[2] == f"{SOMEBODY} {SOMEBODY} 644"
        # Symlinks of the host's own can't be read where those of the guest are files.
        assert ("from the host" in said["link"]) is own
        assert ("5 6" in said["chown"]) is (not own and user == "0:0")
        assert (shared / "new").stat().st_uid == SOMEBODY
        assert (shared / "new").read_text() == "mine\n"
        for name in ("new", "sym"):
            (shared / name).unlink()


@needs_root
def test_nothing_in_a_folder_leads_out_of_it(bundle: Path, run_cli: RunCli, tmp_path: Path) -> None:
    secret = folder(tmp_path / "secret", flag="secret\n")
    shared = folder(tmp_path / "shared")
    (shared / "planted").symlink_to(secret)
    parts = script(
        planted="cat /a/planted/flag",
        dots="cat /a/../secret/flag /a/../../secret/flag; ls -d /a/..",
        # Whoever stands in a directory goes on by its path: another way in puts a symlink there.
        swapped=f"mkdir /a/dir; cd /a/dir; mv /b/dir /b/other; ln -s {secret} /b/dir; "
        "cat flag; cat ./flag; ls; echo x > flag; cd /",
        # The name that is attached is the guest's to say.
        attached=f"umount /a; mkdir /m; mount -t 9p -o trans=virtio,aname={secret} share0 /m "
        "&& ls /m; cat /m/flag",
    )  # fmt: skip
    words = ("boot", "-u", "0", "-v", f"{shared}:/a", "-v", f"{shared}:/b")
    done = run_cli(*words, bundle, parts)
    said = told(done)
    assert not any("secret\n" in f"{text}\n" for text in said.values())
    assert "No such file" in said["planted"]
    assert (secret / "flag").read_text() == "secret\n"
    assert list(secret.iterdir()) == [secret / "flag"]
    assert "other" in said["attached"]


class NameServer(threading.Thread):
    """Answers every question for an IPv4 address with 10.1.2.3, at an address of the loopback."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self.socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.socket.bind((address, 53))
        self.asked: list[bytes] = []

    def run(self) -> None:
        while True:
            try:
                question, client = self.socket.recvfrom(512)
            except OSError:
                return
            self.asked.append(question)
            end = question.index(b"\0", 12) + 5
            wants_ipv4 = question[end - 4 : end - 2] == b"\0\1"
            answer = b"\xc0\x0c\0\1\0\1\0\0\0\5\0\4\x0a\1\2\3" if wants_ipv4 else b""
            counts = b"\0\1\0" + bytes([wants_ipv4]) + bytes(4)
            self.socket.sendto(
                question[:2] + b"\x81\x80" + counts + question[12:end] + answer, client
            )


@pytest.fixture
def nameserver() -> Iterator[NameServer]:
    server = NameServer("127.53.0.53")
    server.start()
    yield server
    server.socket.close()


def fetch(url: str, patience: float = 20) -> str:
    deadline = time.monotonic() + patience
    while True:
        try:
            with urllib.request.urlopen(url, timeout=2) as response:
                return str(response.read().decode())
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def ask(port: int, text: bytes, patience: float = 30) -> bytes:
    """Send text by UDP until something is answered."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(0.3)
        for _ in range(int(patience / 0.3)):
            client.sendto(text, ("127.0.0.1", port))
            try:
                return client.recv(512)
            except (TimeoutError, ConnectionRefusedError):
                continue
    raise TimeoutError(text)


@needs_root
def test_published_ports_and_a_resolver_on_the_hosts_loopback(
    bundle: Path, hyperbuild_env: dict[str, str], tmp_path: Path, nameserver: NameServer
) -> None:
    (tmp_path / "resolv.conf").write_text(
        "nameserver 127.53.0.53\nsearch corp.lan\noptions ndots:2\n"
    )
    command = "cat /etc/resolv.conf; nslookup db.corp.lan; httpd -h /www; udp-echo"
    booted = [HYPERBUILD, "boot", "-u", "0", "-P", "-p", "127.0.0.1::80", bundle, command]
    mount = f"mount --bind {tmp_path}/resolv.conf /etc/resolv.conf"
    inside = f"{mount} && exec {shlex.join(map(str, booted))}"
    with subprocess.Popen(
        ["unshare", "--mount", "sh", "-c", inside],
        env=hyperbuild_env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stderr is not None
            lines = [process.stderr.readline() for _ in range(2)]
            http, udp = (int(line.split(":")[1].partition("/")[0]) for line in lines)
            assert lines[0] == f"host port 127.0.0.1:{http}/tcp leads to port 80 of the VM\n"
            assert lines[1] == f"host port 0.0.0.0:{udp}/udp leads to port 53 of the VM\n"
            assert fetch(f"http://127.0.0.1:{http}/") == "works"
            assert ask(udp, b"echo") == b"echo"
        finally:
            process.terminate()
            stdout, stderr = process.communicate(timeout=60)
    assert stdout.startswith("nameserver 10.0.2.3\nsearch corp.lan\noptions ndots:2\n"), stderr
    assert "10.1.2.3" in stdout
    assert any(b"\2db\4corp\3lan" in question for question in nameserver.asked)


@pytest.fixture
def tap() -> Iterator[str]:
    """Give a tap device of the host, 198.51.100.1/24 a network of documentation's."""
    name = f"hb{os.getpid()}"
    made = subprocess.run(["ip", "tuntap", "add", "dev", name, "mode", "tap"], check=False)
    if made.returncode:
        pytest.skip("this machine allows no tap device")
    try:
        subprocess.run(["ip", "addr", "add", "198.51.100.1/24", "dev", name], check=True)
        subprocess.run(["ip", "link", "set", name, "up"], check=True)
        yield name
    finally:
        subprocess.run(["ip", "link", "del", name], check=True)


@needs_root
@pytest.mark.parametrize("rootfs", ["dax", "blk"])
def test_a_vm_behind_a_tap(
    bundle: Path, hyperbuild_env: dict[str, str], tap: str, rootfs: str
) -> None:
    network = ("--network", f"tap:{tap}", "--ip", "198.51.100.2/24", "--gateway", "198.51.100.1")
    command = "ip route; httpd -f -h /www"
    argv = [HYPERBUILD, "boot", "-u", "0", "--rootfs", rootfs, *network, bundle, command]
    with subprocess.Popen(argv, env=hyperbuild_env, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert fetch("http://198.51.100.2/") == "works"
            second = subprocess.run(
                argv, env=hyperbuild_env, capture_output=True, text=True, check=False, timeout=60
            )
        finally:
            process.terminate()
            stdout, _ = process.communicate(timeout=60)
    assert "default via 198.51.100.1 dev eth0" in stdout
    assert second.returncode == 125
    assert f"Error: the tap device {tap} is in use" in second.stderr


def test_entrypoint_and_cmd_as_under_docker(bundle: Path, run_cli: RunCli) -> None:
    def said(*words: str) -> str:
        before, _, after = " ".join(words).partition(" :: ")
        done = run_cli("boot", *shlex.split(before), bundle, "--", *shlex.split(after))
        return done.stdout + (done.stderr if done.returncode else "")

    assert said("-i :: ") == "own\n"
    assert said("-u app:audio --entrypoint id :: -g") == "29\n"
    assert "the image names no command; give one" in said("--entrypoint= -i :: ")
    assert "-u nobody: USER 'nobody' is not in the image's /etc/passwd" in said("-u nobody :: x")


def test_a_template_has_the_memory_that_its_copies_ask_for(
    bundle: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    env = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    shape = ("--read-only", "--tmpfs", "/t", "-m", "64M")
    made = run_cli("warm", *shape, bundle, env=env)
    assert made.returncode == 0, made.stderr
    parts = script(root="touch /new", memory="touch /t/x && echo written", data="touch /data/x")
    words = ("boot", "--require-warm", "-u", "app", "-w", "/data", "--add-host", "db:1.2.3.4")
    said = told(run_cli(*words, *shape, bundle, parts, env=env))
    assert "Read-only file system" in said["root"]
    assert (said["memory"], said["data"]) == ("written", "")
    done = run_cli(*words, *shape[1:], bundle, parts, env=env)
    assert "there is no template of this image for these options" in done.stderr
