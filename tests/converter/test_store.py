"""The store: nothing unverified gets a name, work is done once, a killed run is continued."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hyperbuild.converter import oci
from hyperbuild.converter.errors import ContentError, UnavailableError, VerificationError
from hyperbuild.converter.partial import CancelledError
from hyperbuild.converter.progress import Task
from hyperbuild.converter.store import REF_NAME, Store

CONTENT = bytes(range(256)) * 4096


def describe(content: bytes) -> oci.Descriptor:
    return oci.Descriptor("text/plain", oci.digest_of(content), len(content))


def pieces(content: bytes, size: int = 1000):
    def fetch(offset: int):
        for start in range(offset, len(content), size):
            yield content[start : start + size]

    return fetch


def leftovers(root: Path) -> list[Path]:
    return [path for path in root.rglob("*") if path.is_file() and ".partial" in path.parts]


class Counter(Task):
    def __init__(self) -> None:
        self.total = 0

    def advance(self, amount: int) -> None:
        self.total += amount


def test_ingest_gives_the_blob_its_name(tmp_path):
    store, task = Store(tmp_path / "s"), Counter()
    path = store.ingest(describe(CONTENT), pieces(CONTENT), task)
    assert path.read_bytes() == CONTENT
    assert path == tmp_path / "s/blobs/sha256" / hashlib.sha256(CONTENT).hexdigest()
    assert store.has(describe(CONTENT))
    assert task.total == len(CONTENT)
    assert leftovers(tmp_path) == []


def test_a_store_is_made_by_the_first_write_only(tmp_path):
    store = Store(tmp_path / "deep/s")
    assert not store.has(describe(b"x"))
    assert store.entries() == ()
    store.sweep(time.time())
    assert not (tmp_path / "deep").exists()


def test_sha512_and_empty_blobs(tmp_path):
    store = Store(tmp_path)
    digest = "sha512:" + hashlib.sha512(CONTENT).hexdigest()
    path = store.ingest(oci.Descriptor("a/b", digest, len(CONTENT)), pieces(CONTENT), Task())
    assert path.parent.name == "sha512"
    assert store.ingest(describe(b""), pieces(b""), Task()).read_bytes() == b""


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        (CONTENT[:-1], "ends at"),
        (CONTENT + b"x", "more than"),
        (b"x" + CONTENT[1:], "other bytes"),
        (b"", "ends at 0"),
    ],
)
def test_wrong_bytes_leave_nothing(tmp_path, sent, message):
    store = Store(tmp_path)
    with pytest.raises(VerificationError, match=message):
        store.ingest(describe(CONTENT), pieces(sent), Task())
    assert not store.has(describe(CONTENT))
    assert leftovers(tmp_path) == []


def test_an_endless_stream_is_cut_one_piece_past_the_end(tmp_path):
    taken = 0

    def endless(offset):
        nonlocal taken
        while True:
            taken += 1000
            yield b"x" * 1000

    with pytest.raises(VerificationError, match="more than"):
        Store(tmp_path).ingest(describe(b"x" * 5000), endless, Task())
    assert taken == 6000


def test_a_cut_is_continued_where_it_was(tmp_path):
    store, offsets = Store(tmp_path), []

    def cut(offset):
        yield from pieces(CONTENT[:300_000])(offset)
        raise UnavailableError("cut")

    with pytest.raises(UnavailableError, match="cut"):
        store.ingest(describe(CONTENT), cut, Task())

    def rest(offset):
        offsets.append(offset)
        return pieces(CONTENT)(offset)

    task = Counter()
    assert store.ingest(describe(CONTENT), rest, task).read_bytes() == CONTENT
    assert offsets == [300_000]
    assert task.total == len(CONTENT)


@pytest.mark.parametrize("kept", [b"y" * 5000, CONTENT + b"too long"])
def test_damaged_leftovers_are_fetched_again(tmp_path, kept):
    store = Store(tmp_path)
    store.put(b"{}", "a/b")
    (tmp_path / ".partial" / describe(CONTENT).digest.replace(":", "-")).write_bytes(kept)
    task = Counter()
    assert store.ingest(describe(CONTENT), pieces(CONTENT), task).read_bytes() == CONTENT
    assert task.total == len(CONTENT)


def test_a_complete_leftover_needs_no_fetching(tmp_path):
    store = Store(tmp_path)
    store.put(b"{}", "a/b")
    (tmp_path / ".partial" / describe(CONTENT).digest.replace(":", "-")).write_bytes(CONTENT)

    def fetch(offset):
        raise AssertionError("asked for bytes that are here")

    assert store.ingest(describe(CONTENT), fetch, Task()).read_bytes() == CONTENT


def test_cancel_while_receiving_and_while_waiting(tmp_path):
    store, stop, started = Store(tmp_path), threading.Event(), threading.Event()

    def slow(offset):
        yield CONTENT[:1000]
        started.set()
        stop.wait(20)
        yield CONTENT[1000:2000]

    failures = []

    def work():
        try:
            store.ingest(describe(CONTENT), slow, Task(), stop.is_set)
        except CancelledError as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert started.wait(20)
    stop.set()
    for thread in threads:
        thread.join(20)
    assert len(failures) == 2


_CHILD = """
import sys, time
from dataclasses import replace
from pathlib import Path
from hyperbuild.converter import oci
from hyperbuild.converter.progress import Task
from hyperbuild.converter.store import Store
root, log, hang = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3] == "hang"
content = bytes(range(256)) * 4096
def fetch(offset):
    with log.open("a") as file:
        file.write(f"{offset}\\n")
    for start in range(offset, len(content), 4096):
        yield content[start:start + 4096]
        if hang and start >= 400_000:
            print("half", flush=True)
            time.sleep(600)
        time.sleep(0.001)
Store(root).ingest(oci.Descriptor("a/b", oci.digest_of(content), len(content)), fetch, Task())
"""


def child(root: Path, log: Path, mode: str) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-c", _CHILD, root, log, mode]
    return subprocess.Popen(command, stdout=subprocess.PIPE)


def test_two_processes_do_the_work_once(tmp_path):
    log = tmp_path / "log"
    processes = [child(tmp_path / "s", log, "run") for _ in range(3)]
    assert [process.wait(60) for process in processes] == [0, 0, 0]
    for process in processes:
        process.stdout.close()
    assert log.read_text() == "0\n"
    assert Store(tmp_path / "s").blob_path(oci.digest_of(CONTENT)).read_bytes() == CONTENT


def test_what_a_killed_process_left_is_continued_by_one_that_waits(tmp_path):
    log = tmp_path / "log"
    first = child(tmp_path / "s", log, "hang")
    assert first.stdout.readline() == b"half\n"
    second = child(tmp_path / "s", log, "run")
    os.kill(first.pid, signal.SIGKILL)
    first.wait()
    assert second.wait(60) == 0
    first.stdout.close()
    second.stdout.close()
    offsets = [int(line) for line in log.read_text().split()]
    assert offsets[0] == 0
    assert 400_000 <= offsets[1] < len(CONTENT)
    assert Store(tmp_path / "s").blob_path(oci.digest_of(CONTENT)).read_bytes() == CONTENT
    assert leftovers(tmp_path / "s") == []


def test_sweep_takes_old_leftovers_and_spares_the_one_being_written(tmp_path):
    store = Store(tmp_path)
    process = child(tmp_path, tmp_path / "log", "hang")
    assert process.stdout.readline() == b"half\n"
    old = tmp_path / ".partial" / ("sha256-" + "0" * 64)
    old.write_bytes(b"old")
    draft = tmp_path / ".partial/.hyperbuild-0123"
    draft.write_bytes(b"x")
    store.sweep(before=time.time() + 60)
    assert not old.exists()
    assert not draft.exists()
    assert len(leftovers(tmp_path)) == 1
    process.kill()
    process.wait()
    process.stdout.close()
    store.sweep(before=time.time() - 3600)
    assert len(leftovers(tmp_path)) == 1, "a recent cut download is worth resuming"
    store.sweep(before=time.time() + 60)
    assert leftovers(tmp_path) == []


def test_documents_and_adopted_drafts(tmp_path):
    store = Store(tmp_path)
    descriptor = store.put(b'{"a": 1}', "application/json")
    assert store.read(descriptor) == b'{"a": 1}'
    with store.draft() as file:
        os.write(file.fd, CONTENT)
        made = store.adopt(file, oci.digest_of(CONTENT), "x/y")
    assert made == oci.Descriptor("x/y", oci.digest_of(CONTENT), len(CONTENT))
    assert store.has(made)
    with store.draft() as file:
        os.write(file.fd, b"dropped")
    assert leftovers(tmp_path) == []
    store.discard(made.digest)
    store.discard(made.digest)
    assert not store.has(made)


def test_a_damaged_document_counts_as_absent(tmp_path):
    store = Store(tmp_path)
    descriptor = store.put(b'{"a": 1}', "application/json")
    store.blob_path(descriptor.digest).write_bytes(b'{"a": 2}')
    assert store.read(descriptor) is None
    store.put(b'{"a": 1}', "application/json")
    assert store.read(descriptor) == b'{"a": 1}'


def test_index_names_replace_and_leave_what_others_wrote(tmp_path):
    store = Store(tmp_path)
    one, two = store.put(b"1", "a/b"), store.put(b"2", "a/b")
    foreign = {"mediaType": "a/b", "digest": one.digest, "size": 1, "artifactType": "t", "x": [1]}
    (tmp_path / "index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [foreign]}))
    store.tag(one, "a:1")
    store.tag(two.replace(artifact_type="application/vnd.test"), "a:1")
    store.tag(one, "b")
    names = [entry.annotations.get(REF_NAME) for entry in store.entries()]
    assert names == [None, "a:1", "b"]
    assert store.entries()[1].digest == two.digest
    written = json.loads((tmp_path / "index.json").read_text())["manifests"]
    assert written[0] == foreign
    assert written[1]["artifactType"] == "application/vnd.test"
    assert store.untag("b")
    assert not store.untag("b")
    assert len(store.entries()) == 2


def tag_many(root, worker):
    store = Store(root)
    for number in range(10):
        store.tag(store.put(f"{worker}-{number}".encode(), "a/b"), f"{worker}:{number}")


def test_processes_that_tag_at_once_lose_nothing(tmp_path):
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=tag_many, args=(tmp_path, n)) for n in range(3)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert len(Store(tmp_path).entries()) == 30


def test_skopeo_reads_the_store(tmp_path, small):
    store = Store(tmp_path / "s")
    for blob in (small / "blobs/sha256").iterdir():
        store.put(blob.read_bytes(), "a/b")
    index = json.loads((small / "index.json").read_text())
    store.tag(oci.Descriptor.read(index["manifests"][0], "test"), "mine")
    command = ["skopeo", "inspect", f"oci:{tmp_path / 's'}:mine"]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_a_damaged_index_is_named(tmp_path):
    (tmp_path / "index.json").write_text("{")
    with pytest.raises(ContentError, match=r"index\.json"):
        Store(tmp_path).entries()


def test_a_place_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UnavailableError, match="cannot write the store"):
        Store(tmp_path / "file").put(b"x", "a/b")


@pytest.fixture
def tiny_disk(tmp_path):
    mount = tmp_path / "disk"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", mount]
    if os.geteuid() or subprocess.run(command, capture_output=True, check=False).returncode:
        pytest.skip("mounting needs root")
    yield mount
    subprocess.run(["umount", "--lazy", mount], check=True)


def test_a_blob_that_is_too_big_for_the_disk_is_refused_before_it_is_fetched(tiny_disk):
    content = bytes(2 << 20)
    with pytest.raises(UnavailableError, match="are needed; free space"):
        Store(tiny_disk).ingest(describe(content), lambda offset: [b"never"], Task())


def test_a_disk_that_fills_up_leaves_nothing(tiny_disk):
    content = bytes(900 << 10)

    def fetch(offset):
        yield content[: 100 << 10]
        (tiny_disk / "other").write_bytes(bytes(700 << 10))
        yield content[100 << 10 :]

    with pytest.raises(UnavailableError, match="the disk is full"):
        Store(tiny_disk).ingest(describe(content), fetch, Task())
    assert leftovers(tiny_disk) == []
