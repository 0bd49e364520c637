from __future__ import annotations

import hashlib
import os
import random
import shutil
import socket
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from hyperbuild.converter.errors import (
    ContentError,
    HyperbuildError,
    InputError,
    NotFoundError,
    UnavailableError,
    VerificationError,
)
from hyperbuild.converter.progress import QUIET
from hyperbuild.kernel.download import download
from hyperbuild.kernel.source import find_source, newest_source, unpack
from tests.kernel.tiny import write_tiny_source

if TYPE_CHECKING:
    from collections.abc import Iterator

DATA = random.Random(1).randbytes(300_000)
DIGEST = hashlib.sha256(DATA).hexdigest()


class Handler(BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.server.asked.append(self.path)  # type: ignore[attr-defined]
        if self.path == "/hang":
            self.server.hung.wait(30)  # type: ignore[attr-defined]
            return
        status = int(self.path[1:]) if self.path[1:].isdigit() else 200
        self.send_response(status)
        if self.path == "/moved":
            self.send_header("Location", "/linux-6.1.tar.xz")
        declared = len(DATA) * 2 if self.path == "/short" else len(DATA)
        if self.path != "/undeclared":
            self.send_header("Content-Length", str(declared))
        self.end_headers()
        self.wfile.write(DATA)

    def send_response(self, code: int, message: str | None = None) -> None:
        super().send_response(302 if self.path == "/moved" else code, message)

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def serving() -> Iterator[tuple[str, list[str]]]:
    """Serve DATA on loopback; give the base URL and the paths asked for."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.asked = asked = []  # type: ignore[attr-defined]
    server.hung = hung = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", asked
    finally:
        hung.set()
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.mark.parametrize("path", ["/linux-6.1.tar.xz", "/undeclared", "/moved"])
def test_a_download_is_verified_and_kept(tmp_path: Path, path: str) -> None:
    with serving() as (base, asked):
        file = download(base + path, DIGEST, tmp_path / "sources", QUIET)
        assert file.read_bytes() == DATA
        before = list(asked)
        assert download(base + path, DIGEST, tmp_path / "sources", QUIET) == file
        assert asked == before


@pytest.mark.parametrize(
    ("path", "digest", "kind", "told"),
    [
        ("/linux.tar.xz", "0" * 64, VerificationError, f"has sha256 {DIGEST}, not 000"),
        ("/404", DIGEST, NotFoundError, "does not exist"),
        ("/410", DIGEST, NotFoundError, "does not exist"),
        ("/403", DIGEST, UnavailableError, "HTTP 403"),
        ("/503", DIGEST, UnavailableError, "HTTP 503"),
        ("/206", DIGEST, UnavailableError, "HTTP 206"),
        ("/short", DIGEST, UnavailableError, "cannot fetch|ended after"),
    ],
)
def test_a_bad_answer_leaves_nothing(
    tmp_path: Path, path: str, digest: str, kind: type[HyperbuildError], told: str
) -> None:
    with serving() as (base, _), pytest.raises(kind, match=told) as raised:
        download(base + path, digest, tmp_path, QUIET)
    assert base + path in str(raised.value)
    assert [file.name for file in tmp_path.iterdir()] == [f".lock-{digest}"]


def test_a_refused_connection_is_told(tmp_path: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/linux.tar.xz"
        with pytest.raises(UnavailableError, match=r"cannot fetch .*refused"):
            download(url, DIGEST, tmp_path, QUIET)


def test_a_server_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    with serving() as (base, _), pytest.raises(UnavailableError, match="cannot fetch"):
        download(f"{base}/hang", DIGEST, tmp_path, QUIET, timeout=(1, 0.1))


def test_an_endless_answer_is_cut(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hyperbuild.kernel.download.MAX_SIZE", 1000)
    with serving() as (base, _), pytest.raises(VerificationError, match="over 1000 bytes"):
        download(f"{base}/undeclared", DIGEST, tmp_path, QUIET)


@pytest.mark.parametrize(
    ("place", "sha256", "told"),
    [
        ("http://127.0.0.1/linux.tar", None, "needs its SHA-256"),
        ("http://127.0.0.1/linux.tar", "abc", "needs its SHA-256"),
        ("ftp://127.0.0.1/linux.tar", DIGEST, "by http or https"),
        ("/usr", DIGEST, "is a directory, which has no SHA-256"),
    ],
)
def test_a_place_that_does_not_fit_is_refused(
    tmp_path: Path, place: str, sha256: str | None, told: str
) -> None:
    with pytest.raises(InputError, match=told):
        find_source(tmp_path, place, sha256, progress=QUIET)


def test_a_missing_source_is_told_with_the_remedy(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="no kernel source at"):
        find_source(tmp_path, str(tmp_path / "gone"), progress=QUIET)
    with pytest.raises(NotFoundError, match=r"apt install linux-source-6\.1"):
        newest_source(tmp_path)
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(InputError, match="not a regular file"):
        find_source(tmp_path, str(tmp_path / "fifo"), progress=QUIET)


def test_the_newest_of_debians_sources_is_taken(tmp_path: Path) -> None:
    for version in ("6.1", "6.12", "6.9"):
        (tmp_path / f"linux-source-{version}.tar.xz").touch()
    assert newest_source(tmp_path).name == "linux-source-6.12.tar.xz"


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Give linux-6.1/ with a file of another architecture in it."""
    tree = write_tiny_source(tmp_path / "linux-6.1", tmp_path / "notes")
    for name in ("Documentation/Kconfig", "Documentation/a/b.rst", "arch/arm/Kconfig"):
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).touch()
    (tree / "arch/arm/boot.c").touch()
    (tree / "arch/x86").mkdir()
    (tree / "arch/x86/boot.c").touch()
    (tree / "link").symlink_to("Makefile")
    return tree


@pytest.mark.parametrize("suffix", [".tar", ".tar.gz", ".tar.xz", ".tar.zst"])
def test_a_tarball_of_any_compression_is_unpacked(tmp_path: Path, tree: Path, suffix: str) -> None:
    tarball = tmp_path / f"linux-6.1.7{suffix}"
    argv = ["tar", "--create", "--auto-compress", f"--file={tarball}", f"--directory={tmp_path}"]
    subprocess.run([*argv, tree.name], check=True)
    source = find_source(tmp_path, str(tarball), progress=QUIET)
    assert source.version == "6.1.7"
    assert source.digest == f"sha256:{hashlib.sha256(tarball.read_bytes()).hexdigest()}"
    target = tmp_path / "target"
    target.mkdir()
    unpack(source, target, tmp_path, QUIET)
    assert (target / "Makefile").read_bytes() == (tree / "Makefile").read_bytes()
    assert (target / "arch/x86/boot.c").exists()
    assert (target / "Documentation/Kconfig").exists()
    assert (target / "arch/arm/Kconfig").exists()
    assert not (target / "Documentation/a/b.rst").exists()
    assert not (target / "arch/arm/boot.c").exists()


def test_a_tarball_is_held_to_a_given_digest_and_hashed_again_when_it_changes(
    tmp_path: Path,
) -> None:
    tarball = tmp_path / "linux-6.1.tar"
    tarball.write_bytes(DATA)
    good = find_source(tmp_path, str(tarball), DIGEST.upper(), progress=QUIET)
    assert good == find_source(tmp_path, str(tarball), progress=QUIET)
    with pytest.raises(VerificationError, match=f"has sha256:{DIGEST}, not {'0' * 64}"):
        find_source(tmp_path, str(tarball), "0" * 64, progress=QUIET)
    tarball.write_bytes(DATA[1:])
    assert find_source(tmp_path, str(tarball), progress=QUIET).digest != good.digest


@pytest.mark.parametrize("content", [b"", b"no tarball", b"\xfd7zXZ\0 damaged"])
def test_a_file_that_is_no_kernel_tarball_is_refused(tmp_path: Path, content: bytes) -> None:
    tarball = tmp_path / "linux.tar"
    tarball.write_bytes(content)
    source = find_source(tmp_path, str(tarball), progress=QUIET)
    (tmp_path / "target").mkdir()
    with pytest.raises(ContentError, match=r"linux\.tar (cannot be unpacked|is not a Linux)"):
        unpack(source, tmp_path / "target", tmp_path, QUIET)


def test_a_directory_is_copied_without_its_history(tmp_path: Path, tree: Path) -> None:
    (tree / ".git").mkdir()
    (tree / ".git/HEAD").touch()
    source = find_source(tmp_path, str(tree), progress=QUIET)
    assert source.version == "6.0.0"
    target = tmp_path / "target"
    target.mkdir()
    unpack(source, target, tmp_path, QUIET)
    assert (target / "link").readlink() == Path("Makefile")
    assert not (target / ".git").exists()
    assert find_source(tmp_path, str(target), progress=QUIET).digest == source.digest


def test_a_directory_that_is_no_kernel_is_refused(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "target").mkdir()
    source = find_source(tmp_path, str(tmp_path / "other"), progress=QUIET)
    with pytest.raises(ContentError, match="is not a Linux source tree"):
        unpack(source, tmp_path / "target", tmp_path, QUIET)


@pytest.mark.parametrize("change", ["content", "name", "mode", "link"])
def test_any_change_changes_a_directorys_digest(tmp_path: Path, tree: Path, change: str) -> None:
    other = tmp_path / "other"
    shutil.copytree(tree, other, symlinks=True)
    before = find_source(tmp_path, str(other), progress=QUIET).digest
    assert before == find_source(tmp_path, str(tree), progress=QUIET).digest
    match change:
        case "content":
            (other / "program.S").write_text("hlt\n")
        case "name":
            (other / "program.S").rename(other / "program.s")
        case "mode":
            (other / "program.S").chmod(0o755)
        case _:
            (other / "link").unlink()
            (other / "link").symlink_to("program.S")
    assert find_source(tmp_path, str(other), progress=QUIET).digest != before
