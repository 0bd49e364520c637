"""The hash tree: veritysetup's own, byte for byte, and proved by a reader that believes nothing."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import subprocess
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from hyperbuild.converter.errors import UnavailableError, VerificationError
from hyperbuild.converter.verify_verity import verify_hash_tree
from hyperbuild.converter.verity import HashTree, append_tree
from tests.support.images import image

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.conftest import RunCli

BLOCK = 4096
MIB = 1 << 20
#: One block, full blocks of hashes and one more than that, of two and of three levels.
SIZES = (1, 2, 127, 128, 129, 255, 256, 257, 128 * 128, 128 * 128 + 1)


@contextmanager
def hashed(blocks: int, seed: int = 0) -> Iterator[tuple[int, HashTree]]:
    """Give a file of so many blocks, most of them zeros where they are many, and their tree."""
    fd = os.memfd_create("image")
    try:
        for block in range(0, blocks, max(1, blocks // 200)):
            content = hashlib.sha256(f"{seed} {block}".encode()).digest() * (BLOCK // 32)
            # Of a seed's blocks some are zeros, and some are alike.
            os.pwrite(fd, content if (block + seed) % 3 else b"\1" * BLOCK, block * BLOCK)
        os.ftruncate(fd, blocks * BLOCK)
        tree, size = append_tree(fd, blocks * BLOCK, b"%d" % seed)
        assert os.fstat(fd).st_size == size
        assert size % (2 * MIB) == 0
        yield fd, tree
    finally:
        os.close(fd)


def naive_tree(data: bytes, salt: bytes) -> tuple[bytes, bytes]:
    """Return root hash and tree (its top level first) of data, by the book and nothing else."""
    levels: list[bytes] = []
    level = data
    while len(level) > BLOCK or not levels:
        parts = (level[at : at + BLOCK] for at in range(0, len(level), BLOCK))
        hashes = b"".join(hashlib.sha256(salt + part).digest() for part in parts)
        if len(level) == BLOCK:
            return hashes, b""
        level = hashes + bytes(-len(hashes) % BLOCK)
        levels.insert(0, level)
    return hashlib.sha256(salt + levels[0]).digest(), b"".join(levels)


@settings(max_examples=40)
@given(blocks=st.integers(1, 400), seed=st.integers(0, 9))
@example(blocks=128 * 128, seed=1)
@example(blocks=128 * 128 + 1, seed=2)
def test_a_tree_is_what_the_book_says(blocks: int, seed: int) -> None:
    with hashed(blocks, seed) as (fd, tree):
        data = os.pread(fd, blocks * BLOCK, 0)
        root_hash, levels = naive_tree(data, tree.salt)
        assert tree.root_hash == root_hash
        assert tree.data_size == len(data)
        behind = os.pread(fd, os.fstat(fd).st_size, len(data))
        assert behind.startswith(b"verity\0\0")
        assert behind[BLOCK : BLOCK + len(levels)] == levels
        assert not behind[BLOCK + len(levels) :].strip(b"\0")
        verify(fd, tree)


def verify(fd: int, tree: HashTree) -> None:
    verify_hash_tree(fd, root_hash=tree.root_hash, salt=tree.salt, data_size=tree.data_size)


def veritysetup(*words: str | Path) -> str:
    done = subprocess.run(["veritysetup", *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def check_by_veritysetup(path: Path, root_hash: str, salt: str, offset: int) -> None:
    """Have veritysetup verify what is in path, show what is there, and write the same bytes."""
    at = f"--hash-offset={offset}"
    veritysetup("verify", path, path, root_hash, at)
    shown = dict(re.findall(r"^([\w ]+):\s+(.*)$", veritysetup("dump", path, at), re.MULTILINE))
    assert shown["Salt"] == salt
    assert (shown["Hash type"], shown["Hash algorithm"]) == ("1", "sha256")
    assert int(shown["Data blocks"]) == offset // BLOCK
    ours = path.read_bytes()
    theirs = path.with_name("theirs")
    theirs.write_bytes(ours[:offset])
    made = veritysetup(
        "format", theirs, theirs, at, f"--data-blocks={offset // BLOCK}", f"--salt={salt}",
        f"--uuid={shown['UUID']}",
    )  # fmt: skip
    assert root_hash in made
    written = theirs.read_bytes()
    assert len(written) > offset
    assert ours[: len(written)] == written
    assert not ours[len(written) :].strip(b"\0")
    theirs.unlink()


@pytest.mark.parametrize("blocks", SIZES)
def test_veritysetup_writes_the_same_and_believes_it(tmp_path: Path, blocks: int) -> None:
    path = tmp_path / "image"
    with hashed(blocks) as (fd, tree):
        path.write_bytes(os.pread(fd, os.fstat(fd).st_size, 0))
    check_by_veritysetup(path, tree.root_hash.hex(), tree.salt.hex(), tree.data_size)


@pytest.mark.parametrize(
    ("name", "rootfs_format"),
    [("nginx", "erofs"), ("torture", "ext4"), ("busybox", "erofs"), ("busybox", "ext4")],
)
def test_veritysetup_believes_what_convert_makes(
    run_cli: RunCli, test_cache: Path, tmp_path: Path, name: str, rootfs_format: str
) -> None:
    words = ("--no-kernel", "--format", rootfs_format, f"oci:{image(name, test_cache)}")
    done = run_cli("convert", "--verity", "--verify", *words, "-o", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    rootfs = json.loads((tmp_path / "out/bundle.json").read_bytes())["rootfs"]
    made = tmp_path / f"out/rootfs.{rootfs_format}"
    assert rootfs["size"] == made.stat().st_size
    assert rootfs["digest"] == f"sha256:{hashlib.sha256(made.read_bytes()).hexdigest()}"
    verity = rootfs["verity"]
    assert verity["rootHash"] in done.stderr
    check_by_veritysetup(made, verity["rootHash"], verity["salt"], verity["hashOffset"])
    # What is before the tree is what would be there without one.
    run_cli("convert", *words, "-o", tmp_path / "plain")
    alone = (tmp_path / "plain" / made.name).read_bytes()
    assert len(alone) == verity["hashOffset"]
    assert made.read_bytes().startswith(alone)


@given(st.data())
def test_a_changed_byte_is_found(data: st.DataObject) -> None:
    blocks = data.draw(st.sampled_from([1, 3, 128, 130]))
    with hashed(blocks) as (fd, tree):
        size = os.fstat(fd).st_size
        at = data.draw(st.integers(0, size - 1) | st.integers(0, (blocks + 5) * BLOCK))
        change = data.draw(st.integers(1, 255))
        found = os.pread(fd, 1, at)[0]
        os.pwrite(fd, bytes([found ^ change]), at)
        uuid = tree.data_size + 16
        if uuid <= at < uuid + 16:
            # It names the device, and no more.
            verify(fd, tree)
        else:
            with pytest.raises(VerificationError):
                verify(fd, tree)


@given(superblock=st.binary(max_size=600), start=st.integers(0, 600))
def test_a_superblock_of_any_bytes_is_refused(superblock: bytes, start: int) -> None:
    with hashed(3) as (fd, tree):
        before = os.pread(fd, 600, tree.data_size)
        os.pwrite(fd, superblock, tree.data_size + start)
        after = os.pread(fd, 600, tree.data_size)
        if after[:16] + after[32:] != before[:16] + before[32:]:
            with pytest.raises(VerificationError, match=r"superblock|behind"):
                verify(fd, tree)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"root_hash": bytes(32)}, "not what its hash says"),
        ({"root_hash": b""}, "not what its hash says"),
        ({"salt": bytes(32)}, "superblock"),
        ({"salt": b""}, "superblock"),
        ({"data_size": 0}, "does not begin at a block"),
        ({"data_size": -BLOCK}, "does not begin at a block"),
        ({"data_size": 3 * BLOCK + 1}, "does not begin at a block"),
        ({"data_size": 2 * BLOCK}, "superblock"),
        ({"data_size": 1 << 62}, "ends before its block"),
    ],
)
def test_what_a_bundle_says_of_another_tree_is_refused(
    change: dict[str, bytes | int], said: str
) -> None:
    with hashed(3) as (fd, tree):
        words = {"root_hash": tree.root_hash, "salt": tree.salt, "data_size": tree.data_size}
        with pytest.raises(VerificationError, match=said):
            verify_hash_tree(fd, **{**words, **change})  # type: ignore[arg-type]


@pytest.mark.parametrize("size", [0, BLOCK, 3 * BLOCK, 4 * BLOCK])
def test_an_image_that_was_cut_is_refused(size: int) -> None:
    with hashed(3) as (fd, tree):
        os.ftruncate(fd, size)
        with pytest.raises(VerificationError, match="ends before its block"):
            verify(fd, tree)


def test_a_disk_that_is_full_is_told() -> None:
    fd = os.memfd_create("image", os.MFD_ALLOW_SEALING)
    try:
        os.ftruncate(fd, 3 * BLOCK)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        with pytest.raises(UnavailableError, match="cannot write the root file system"):
            append_tree(fd, 3 * BLOCK, b"")
    finally:
        os.close(fd)
