"""Images that ask for too much are refused by name, in bounded memory; what is honest passes."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from hyperbuild.converter.errors import ContentError
from hyperbuild.converter.limits import DEFAULT_LIMITS, LimitError
from hyperbuild.converter.tree import Entry, Inode, LayerIndex, Tree, new_directory, walk
from tests.conftest import HYPERBUILD, RunCli
from tests.converter.sparse import sparse_layer
from tests.support.layers import CONFIG, MANIFEST, digest, f, layer, layout, s

MEMORY_LIMIT = 100_000  # KiB
CPU_SECONDS = 60

#: Runs a command in a child and writes its peak memory (KiB) behind its stderr.
MEASURED = f"""
import resource, subprocess, sys
resource.setrlimit(resource.RLIMIT_CPU, ({CPU_SECONDS}, {CPU_SECONDS}))
status = subprocess.run(sys.argv[1:]).returncode
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss, file=sys.stderr)
sys.exit(status)
"""


def measured(image: str, out: Path, env: dict[str, str], *options: str) -> tuple[int, list[str]]:
    """Convert image in bounded memory and CPU time; return the status and what was said."""
    done = subprocess.run(
        [sys.executable, "-c", MEASURED, HYPERBUILD, "-q", "convert", "--no-kernel", *options,
         image, "-o", out],
        env=env, capture_output=True, text=True, check=False, timeout=5 * CPU_SECONDS,
    )  # fmt: skip
    *messages, memory = done.stderr.splitlines()
    assert int(memory) <= MEMORY_LIMIT
    return done.returncode, messages


def refused(image: Path | str, env: dict[str, str], *options: str) -> str:
    """Convert a layout or image, which must fail in bounded memory; return the message."""
    out = Path(env["HOME"]) / "out"
    name = image if isinstance(image, str) else f"oci:{image}"
    status, messages = measured(name, out, env, *options)
    assert status == 1, messages
    assert len(messages) == 1
    assert messages[0].startswith("Error: ")
    assert not out.exists()
    return messages[0]


def header(name: str, size: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.size = size
    return info.tobuf(tarfile.GNU_FORMAT)


def packed_layout(directory: Path, blob: bytes, diff_id: str) -> Path:
    """Write a layout of one gzip layer whose DiffID is given, not computed."""

    def put(content: bytes, media_type: str) -> dict[str, object]:
        path = directory / "blobs" / digest(content).replace(":", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return {"mediaType": media_type, "digest": digest(content), "size": len(content)}

    config = {
        "os": "linux", "architecture": "amd64", "config": {"Cmd": ["/x"]},
        "rootfs": {"type": "layers", "diff_ids": [diff_id]},
    }  # fmt: skip
    manifest = {
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": put(json.dumps(config).encode(), CONFIG),
        "layers": [put(blob, "application/vnd.oci.image.layer.v1.tar+gzip")],
    }  # fmt: skip
    index = {"schemaVersion": 2, "manifests": [put(json.dumps(manifest).encode(), MANIFEST)]}
    (directory / "oci-layout").write_text('{"imageLayoutVersion": "1.0.0"}')
    (directory / "index.json").write_text(json.dumps(index))
    return directory


def zeros_bomb(directory: Path) -> Path:
    """Ten gigabytes of zeros in ten megabytes of gzip."""
    zeros = gzip.compress(bytes(64 << 20), 9)
    blob = gzip.compress(header("zeros", 10 << 30)) + zeros * 160
    return packed_layout(directory, blob, "sha256:" + "0" * 64)


def test_a_bomb_of_zeros_is_refused_by_its_ratio(
    tmp_path: Path, hyperbuild_env: dict[str, str]
) -> None:
    message = refused(zeros_bomb(tmp_path / "bomb"), hyperbuild_env)
    assert "more than 200 times its 10" in message
    assert "--max-ratio" in message
    assert "layer sha256:" in message


def test_unpacked_size(tmp_path: Path, hyperbuild_env: dict[str, str]) -> None:
    message = refused(
        zeros_bomb(tmp_path / "bomb"), hyperbuild_env, "--max-ratio=2000", "--max-unpacked=300M"
    )
    assert "unpacks to more than 300 MiB" in message
    assert "--max-unpacked" in message


def test_a_file_that_declares_too_much(tmp_path: Path, hyperbuild_env: dict[str, str]) -> None:
    tar = header("big", (64 << 30) + 1)
    message = refused(layout(tmp_path / "bomb", tar), hyperbuild_env)
    assert "big has 64 GiB" in message
    assert "--max-file" in message


def test_a_sparse_file_of_exabytes(tmp_path: Path, hyperbuild_env: dict[str, str]) -> None:
    tar = sparse_layer((8 << 60) - 1, [(0, b"x")])
    message = refused(layout(tmp_path / "bomb", tar), hyperbuild_env)
    assert "sparse has 8 EiB" in message
    tar = sparse_layer(1 << 60, [(0, b"x")])
    message = refused(layout(tmp_path / "again", tar), hyperbuild_env, "--max-file=4194304T")
    assert "--max-unpacked" in message


def test_holes_count_as_unpacked(tmp_path: Path, hyperbuild_env: dict[str, str]) -> None:
    tars = [sparse_layer(60 << 30, [(0, b"x")], f"hole{n}") for n in range(5)]
    message = refused(layout(tmp_path / "bomb", *tars), hyperbuild_env)
    assert "more than 256 GiB" in message


def test_a_million_entries(tmp_path: Path, hyperbuild_env: dict[str, str]) -> None:
    buffer, diff_id = io.BytesIO(), hashlib.sha256()
    template = header("n" * 20, 0)
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1, mtime=0) as packed:
        for start in range(0, 1_000_000, 2000):
            part = b"".join(_renamed(template, b"%020d" % n) for n in range(start, start + 2000))
            diff_id.update(part)
            packed.write(part)
    bomb = packed_layout(tmp_path / "bomb", buffer.getvalue(), "sha256:" + diff_id.hexdigest())
    message = refused(bomb, hyperbuild_env, "--max-entries=100000")
    assert "more than 100000 entries" in message
    assert "--max-entries" in message


def _renamed(template: bytes, name: bytes) -> bytes:
    raw = bytearray(template)
    raw[: len(name)] = name
    raw[148:156] = b" " * 8
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def test_depth(tmp_path: Path, run_cli: RunCli) -> None:
    fine, deep = "/".join("d" * 256), "/".join("d" * 257)
    out = tmp_path / "out"
    done = run_cli("convert", "--no-kernel", f"oci:{layout(tmp_path / 'a', layer(f(fine)))}",
                   "--verify", "-o", out)  # fmt: skip
    assert done.returncode == 0, done.stderr
    image = layout(tmp_path / "b", layer(f(deep)))
    done = run_cli("convert", "--no-kernel", f"oci:{image}", "-o", out)
    assert "more than 256 directories deep" in done.stderr
    assert "--max-depth" in done.stderr
    done = run_cli("convert", "--no-kernel", "--max-depth=300", f"oci:{image}", "-o", out)
    assert done.returncode == 0, done.stderr


def test_a_path_of_a_megabyte_through_symlinks(
    tmp_path: Path, hyperbuild_env: dict[str, str]
) -> None:
    step = "/".join(["d" * 250] * 12)
    entries = [s("link0", step)]
    for number in range(1, 350):
        entries += [f(f"link{number - 1}/{step}/f"), s(f"link{number}", f"link{number - 1}/{step}")]
    bomb = layout(tmp_path / "bomb", layer(*entries))
    assert "lead to a path of over 4095 bytes" in refused(bomb, hyperbuild_env)


def test_depth_through_symlinks(tmp_path: Path, hyperbuild_env: dict[str, str]) -> None:
    step = "/".join("d" * 200)
    bomb = layout(tmp_path / "bomb", layer(s("link", step), f(f"link/{step}/f")))
    assert "--max-depth" in refused(bomb, hyperbuild_env)


def test_metadata(tmp_path: Path, hyperbuild_env: dict[str, str]) -> None:
    value = b"v" * 60_000
    bomb = layout(
        tmp_path / "bomb", layer(*(f(f"{n}", xattrs={"user.v": value}) for n in range(40)))
    )
    message = refused(bomb, hyperbuild_env, "--max-metadata=2M")
    assert "take more than 2 MiB" in message
    assert "--max-metadata" in message


@pytest.mark.parametrize("transport", ["oci", "oci-archive", "docker-archive"])
def test_documents(
    tmp_path: Path, hyperbuild_env: dict[str, str], run_cli: RunCli, transport: str
) -> None:
    """Made by hand: skopeo refuses to copy such an image."""
    config = {"Cmd": ["/x"], "Labels": {"long": "x" * (5 << 20)}}
    image = layout(tmp_path / "image", layer(f("x", "x", mode=0o755)), config=config)
    name = f"{transport}:{image}"
    if transport != "oci":
        name += ".tar"
        with tarfile.open(f"{image}.tar", "w") as archive:
            archive.add(image, ".")
            if transport == "docker-archive":
                _add_saved(archive, image)
    message = refused(name, hyperbuild_env)
    assert "larger than 4 MiB" in message
    assert "--max-document" in message
    arguments = ("convert", "--no-kernel", "--max-document=6M", name)
    for where in (["-o", str(tmp_path / "good")], [], []):
        done = run_cli(*arguments, *where)
        assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "good/bundle.json").read_bytes())
    assert found["config"] == config


def _add_saved(archive: tarfile.TarFile, image: Path) -> None:
    """Add what docker save would say of a layout's image, its blobs being there."""

    def blob(entry: dict[str, str]) -> str:
        return "blobs/" + entry["digest"].replace(":", "/")

    (entry,) = json.loads((image / "index.json").read_bytes())["manifests"]
    manifest = json.loads((image / blob(entry)).read_bytes())
    layers = [blob(entry) for entry in manifest["layers"]]
    saved = json.dumps([{"Config": blob(manifest["config"]), "Layers": layers}]).encode()
    info = tarfile.TarInfo("manifest.json")
    info.size = len(saved)
    archive.addfile(info, io.BytesIO(saved))


def test_documents_have_a_bound_that_no_option_lifts(run_cli: RunCli) -> None:
    done = run_cli("convert", "--max-document=9M", "oci:nowhere")
    assert done.returncode == 2
    assert "not a size up to 8 MiB" in done.stderr


@pytest.mark.parametrize("size", ["x", "-1", "0", "12Q", "1.5G", "99999999999999T"])
def test_sizes_that_are_none(run_cli: RunCli, size: str) -> None:
    done = run_cli("convert", "--max-file", size, "oci:nowhere")
    assert done.returncode == 2
    assert "is not a size" in done.stderr


def test_limits_can_be_set_by_variables(tmp_path: Path, run_cli: RunCli) -> None:
    image = layout(tmp_path / "image", layer(f("a"), f("b"), f("c")))
    done = run_cli(
        "convert", "--no-kernel", f"oci:{image}", env={"HYPERBUILD_CONVERT_MAX_ENTRIES": "2"}
    )
    assert "more than 2 entries" in done.stderr


def _inode(mode: int, target: bytes = b"") -> Inode:
    return Inode(mode, target=target)


def test_long_symlinks_through_each_other_end() -> None:
    """Without a bound on what is followed, each of these entries takes 80,000 steps."""
    tree = Tree(0)
    long_way = b"a/../" * 800
    entries = [Entry(b"a", new_directory(0))]
    entries += [
        Entry(b"s%d" % n, _inode(0o120777, long_way + (b"s%d" % (n - 1) if n else b"a")))
        for n in range(39)
    ]
    entries += [Entry(b"s38/%d/x" % n, _inode(0o100644)) for n in range(5000)]
    with pytest.raises(LimitError, match="lead too far"):
        tree.apply(LayerIndex("layer", entries))


def test_walking_holds_no_path_but_the_current() -> None:
    import tracemalloc

    tree = Tree(0, DEFAULT_LIMITS.replace(depth=4000))
    deep = b"/".join([b"d" * 200] * 20)
    shared = _inode(0o100644)
    entries = [Entry(deep + b"/%d" % number, shared) for number in range(100)]
    tree.apply(LayerIndex("layer", entries))
    bottom = tree.lookup(deep)
    assert bottom is not None
    assert bottom.children is not None
    bottom.children.update((b"%d" % number, shared) for number in range(100_000))
    tracemalloc.start()
    try:
        assert sum(1 for _ in walk(tree.root)) == 100_021
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 8 << 20


def test_a_disk_without_room_is_seen_before_anything_is_read(
    tmp_path: Path, run_cli: RunCli
) -> None:
    import os

    if os.getuid():
        pytest.skip("mounting needs root")
    image = layout(tmp_path / "image", layer(f("big", os.urandom(3 << 20))))
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], check=True)
    try:
        done = run_cli("convert", "--no-kernel", f"oci:{image}", "-o", disk / "out")
        assert "even compressed, and 1" in done.stderr
        done = run_cli("convert", "--no-kernel", "--no-space-check", f"oci:{image}", "-o",
                       disk / "out")  # fmt: skip
        assert "No space left on device" in done.stderr
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_limits_are_content_errors() -> None:
    assert issubclass(LimitError, ContentError)
