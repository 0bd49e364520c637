"""The cache of test images: whole or not there, made once, whoever is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tests.support.images import image
from tests.support.treelist import host_tree
from tests.support.workshop import Workshop, as_root, made

_SLOW_MAKER = """
import sys, time
from pathlib import Path
from tests.support.workshop import made

def make(shop, target):
    target.mkdir()
    (target / "half").write_text("half")
    print("under way", flush=True)
    shop.run("sleep", sys.argv[2])

made(Path(sys.argv[1]), "thing", make)
"""


def make_whole(_shop: Workshop, target: Path) -> None:
    target.mkdir()
    (target / "whole").write_text("whole")


def test_a_killed_maker_leaves_nothing_that_passes_for_the_thing(tmp_path: Path) -> None:
    argv = [sys.executable, "-c", _SLOW_MAKER, str(tmp_path), "1"]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as maker:
        assert maker.stdout
        assert maker.stdout.readline() == b"under way\n"
        assert not (tmp_path / "thing").exists()
        os.kill(maker.pid, signal.SIGKILL)
    assert [path.name for path in made(tmp_path, "thing", make_whole).iterdir()] == ["whole"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [".thing.lock", "thing"]


def test_a_failed_maker_leaves_nothing_and_says_what_the_tool_said(tmp_path: Path) -> None:
    def make(shop: Workshop, target: Path) -> None:
        target.mkdir()
        shop.run("sh", "-c", "echo no luck >&2; exit 3")

    with pytest.raises(RuntimeError, match="status 3:\nno luck"):
        made(tmp_path, "thing", make)
    assert [path.name for path in tmp_path.iterdir()] == [".thing.lock"]


def test_two_who_want_a_thing_at_once_make_it_once(tmp_path: Path) -> None:
    calls: list[int] = []

    def make(shop: Workshop, target: Path) -> None:
        calls.append(1)
        shop.run("sleep", "0.2")
        make_whole(shop, target)

    others = [threading.Thread(target=made, args=(tmp_path, "thing", make)) for _ in range(3)]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert len(calls) == 1


@pytest.fixture
def torture_tree(tmp_path: Path, test_cache: Path, torture_layout: Path) -> list[list[str]]:
    """Give treelist's fields of the torture image as umoci unpacks it."""
    bundle = tmp_path / "bundle"
    argv = ("umoci", "--log=error", "unpack", "--image", f"{torture_layout}:latest", bundle)
    subprocess.run(as_root(*argv), check=True)
    lines = host_tree(bundle / "rootfs", test_cache)
    subprocess.run(as_root("rm", "-rf", bundle), check=True)
    return [line.split(" ") for line in lines]


@pytest.mark.image
def test_the_torture_image_means_what_it_says(torture_tree: list[list[str]]) -> None:
    tree = {fields[0]: fields[1:] for fields in torture_tree}
    assert "/dirs/gone" not in tree
    assert "/dirs/opaque/old" not in tree
    assert tree["/dirs/gone-and-back"][4] == "1700000100"
    assert tree["/dirs/child-changed"] == ["d", "0755", "0", "0", "1700000001"]
    assert tree["/dirs/hard-a3"][5:8] == ["1", "2", "/dirs/hard-a2"]
    assert tree["/dirs/real/by-up-link"][0] == "f"
    assert tree["/dirs/not-utf8-\\xff\\xfe"][0] == "f"
    assert tree["/meta/owner-4294967294"][2:4] == ["4294967294", "4294967293"]
    assert tree["/meta/big-device"][5] == "2047:524287"
    assert tree["/meta/capability"][-1].startswith("security.capability=01000002")
    assert "user.binary=ff00fe0a3d" in tree["/meta/xattrs-same"]


@pytest.mark.image
def test_the_nginx_image_has_what_real_images_have(test_cache: Path) -> None:
    layout = image("nginx", test_cache)
    assert image("nginx", test_cache) == layout
    argv = ["skopeo", "inspect", "--config", f"oci:{layout}:latest"]
    config = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    for part in ('"80/tcp": {}', '"/docker-entrypoint.sh"', '"SIGQUIT"', '"daemon off;"'):
        assert part in config
