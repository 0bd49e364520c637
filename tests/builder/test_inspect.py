"""`hyperbuild inspect` as people and scripts meet it."""

from __future__ import annotations

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from hyperbuild.builder.inspecting import Inspection
from hyperbuild.builder.report_html import page as page_of
from hyperbuild.converter.oci import ImageConfig, digest_of
from hyperbuild.converter.survey import Name, survey_names
from hyperbuild.launcher.bundle import ImageInfo
from tests.conftest import RunCli
from tests.support.layers import d, f, layer, layout, s

MIB = 1 << 20
HOSTILE = '"><script>alert(1)</script><img src=x onerror=alert(1)>'


@pytest.fixture
def image(tmp_path: Path) -> Path:
    return layout(
        tmp_path / "image",
        layer(d("etc/"), f("etc/passwd", "root:x:0:0::/root:\n"), f("big", b"b" * MIB),
              f("gone", b"g" * 5000), s("link", "big")),
        layer(f(".wh.gone"), f("new/file", b"n" * 3000)),
    )  # fmt: skip


def inspected(run_cli: RunCli, *args: str | Path, **more: Any) -> dict[str, Any]:
    done = run_cli("inspect", "--json", *args, **more)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def failure(run_cli: RunCli, *args: str | Path) -> str:
    done = run_cli("inspect", *args)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: ")
    assert done.stderr.count("\n") == 1
    return done.stderr


def test_an_image_in_the_terminal(run_cli: RunCli, image: Path) -> None:
    done = run_cli("inspect", f"oci:{image}")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert lines[0] == f"image     oci:{image}"
    assert "content   1 MiB in 3 files, 3 directories, 1 symlinks, 0 others" in lines
    at = lines.index("LAYERS")
    assert lines[at + 1].split() == [
        "#", "DIGEST", "PACKED", "FILES", "ENTRIES", "WASTED", "CREATED", "BY"
    ]  # fmt: skip
    assert "4.9 KiB (0.5%)" in lines[at + 2]
    assert lines[at + 4].split()[0] == "total"
    assert f"not converted yet: hyperbuild convert oci:{image}" in lines
    assert ["1", "MiB", "1", "big"] in [line.split() for line in lines]
    assert not any("\t" in line or line != line.rstrip() for line in lines)


def test_an_image_as_json(run_cli: RunCli, image: Path) -> None:
    found = inspected(run_cli, f"oci:{image}")
    assert list(found) == [
        "schemaVersion", "name", "image", "rootfs", "kernel", "layers", "totals", "contents",
        "biggest", "wasted", "dax", "findings",
    ]  # fmt: skip
    assert found["image"]["platform"] == "linux/amd64"
    base, top = found["layers"]
    packed = [path.stat().st_size for path in (image / "blobs/sha256").iterdir()]
    assert {base["compressedSize"], top["compressedSize"]} <= set(packed)
    assert base["digest"] != base["diffId"]
    size = MIB + 5000 + len("root:x:0:0::/root:\n")
    assert (base["size"], base["wasted"], base["entries"], base["whiteouts"]) == (size, 5000, 5, 0)
    assert (top["size"], top["wasted"], top["entries"], top["whiteouts"]) == (3000, 0, 1, 1)
    totals = found["totals"]
    assert (totals["size"], totals["wasted"]) == (size + 3000, 5000)
    assert totals["efficiency"] == pytest.approx(1 - 5000 / (size + 3000))
    assert found["contents"] == {
        "size": size - 2000, "files": 3, "directories": 3, "symlinks": 1, "others": 0
    }  # fmt: skip
    assert found["biggest"][0] == {"path": "big", "size": MIB, "layer": 0}
    assert found["wasted"] == [{"path": "gone", "size": 5000, "layer": 0}]
    assert (found["rootfs"], found["kernel"], found["dax"], found["findings"]) == (None,) * 4
    assert len(inspected(run_cli, f"oci:{image}", "--top", "1")["biggest"]) == 1


def test_no_root_file_system_is_written_and_layers_are_read_once(
    run_cli: RunCli, image: Path, tmp_path: Path
) -> None:
    before = set(tmp_path.rglob("*"))
    cache = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    first = inspected(run_cli, f"oci:{image}", env=cache)
    written = {path for path in set(tmp_path.rglob("*")) - before if path.is_file()}
    # That a blob was found sound is noted only of one that was not touched just now.
    assert {path.suffix for path in written} - {".blob"} == {".index"}
    assert inspected(run_cli, f"oci:{image}", env=cache) == first
    for blob in (image / "blobs/sha256").iterdir():
        content = blob.read_bytes()
        if content[:2] == b"\x1f\x8b":
            blob.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    done = run_cli("inspect", f"oci:{image}", env=cache)
    assert (done.returncode, done.stdout) == (1, "")
    assert "digest" in done.stderr


@pytest.mark.parametrize("rootfs_format", ["erofs", "ext4"])
def test_a_bundle_without_its_layers(
    run_cli: RunCli, image: Path, tmp_path: Path, rootfs_format: str
) -> None:
    out = tmp_path / "out"
    run_cli("convert", "--no-kernel", "--format", rootfs_format, f"oci:{image}", "-o", out)
    found = inspected(run_cli, out)
    assert (found["layers"], found["totals"], found["wasted"]) == (None, None, None)
    assert found["rootfs"]["format"] == rootfs_format
    assert found["contents"] == inspected(run_cli, f"oci:{image}")["contents"]
    assert found["biggest"][0] == {"path": "big", "size": MIB, "layer": None}
    points = {point["name"]: point["level"] for point in found["dax"]}
    assert points.pop("kernel") == "note"
    assert set(points) == {"format", "size", "block-size", "inline", "alignment", "huge-pages"}
    assert set(points.values()) == {"ok"}
    assert [finding["name"] for finding in found["findings"]] == ["command"]
    text = run_cli("inspect", out).stdout
    assert f"not at hand: hyperbuild inspect oci:{image} reads the image" in text
    assert "problem  command     the command /bin/true is not in the image" in text


def test_a_bundle_in_the_store(run_cli: RunCli, image: Path) -> None:
    digest = run_cli("convert", "--no-kernel", f"oci:{image}").stdout.strip()
    assert inspected(run_cli, digest[:19])["layers"] is None  # an oci: image's layers stay there
    both = inspected(run_cli, f"oci:{image}")
    assert len(both["layers"]) == 2
    assert both["rootfs"]["format"] == "erofs"
    assert {point["level"] for point in both["dax"]} == {"ok", "note"}


def test_an_image_of_a_registry_is_in_the_store_with_its_layers(
    run_cli: RunCli, registry: str
) -> None:
    name = f"{registry}/nginx:latest"
    digest = run_cli("convert", "--no-kernel", name).stdout.strip()
    by_name, by_digest = inspected(run_cli, name), inspected(run_cli, digest)
    assert len(by_name["layers"]) >= 3
    assert by_name["layers"] == by_digest["layers"]
    assert by_name["rootfs"] == by_digest["rootfs"] is not None


@pytest.mark.usefixtures("kernel")
def test_the_options_of_the_kernel_are_found_by_its_digest(
    run_cli: RunCli, image: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    assert run_cli("convert", f"oci:{image}", "-o", out).returncode == 0
    (point,) = (p for p in inspected(run_cli, out)["dax"] if p["name"] == "kernel")
    assert point["level"] == "ok"
    elsewhere = inspected(run_cli, out, env={"XDG_CACHE_HOME": str(tmp_path / "none")})
    (point,) = (p for p in elsewhere["dax"] if p["name"] == "kernel")
    assert (point["level"], point["remedy"]) == ("note", "hyperbuild kernel build")


def test_a_spoilt_root_file_system_is_told(run_cli: RunCli, image: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run_cli("convert", "--no-kernel", f"oci:{image}", "-o", out)
    rootfs = out / "rootfs.erofs"
    rootfs.write_bytes(bytes(rootfs.stat().st_size))
    found = inspected(run_cli, out)
    assert found["contents"] is None
    assert {p["name"]: p["level"] for p in found["dax"]}["format"] == "warning"
    done = run_cli("inspect", out, "--html", tmp_path / "page.html")
    assert done.returncode == 0
    assert "in doubt" in (tmp_path / "page.html").read_text()


@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("/nowhere",), "no bundle in /nowhere"),
        (("sha256:" + "0" * 64,), "hyperbuild images"),
        (("oci:/nowhere",), "/nowhere"),
        (("UPPER",), "not a reference"),
        (("--platform", "linux/riscv64", "oci:{image}"), "linux/amd64"),
        (("--platform", "linux/amd64", "/nowhere"), "finished bundle"),
        (("--max-entries", "2", "oci:{image}"), "--max-entries"),
        (("--html", "/proc/page.html", "oci:{image}"), "/proc/page.html"),
        (("--html", "/no/such/page.html", "oci:{image}"), "/no/such/page.html"),
    ],
)
def test_what_cannot_be_inspected(
    run_cli: RunCli, image: Path, args: tuple[str, ...], text: str
) -> None:
    assert text in failure(run_cli, *(word.format(image=image) for word in args))


def test_damaged_layers_are_not_described(run_cli: RunCli, tmp_path: Path) -> None:
    bad = layout(tmp_path / "bad", layer(f("x")), diff_ids=["sha256:" + "0" * 64])
    assert "image config says" in failure(run_cli, f"oci:{bad}")


def test_usage(run_cli: RunCli) -> None:
    for args in ((), ("a", "b"), ("--top", "-1", "a"), ("--top", "x", "a")):
        assert run_cli("inspect", *args).returncode == 2


class Tags(HTMLParser):
    """What a browser would make of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.attributes: set[str] = set()
        self.links: list[str] = []
        self.ids: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        self.attributes.update(name for name, _ in attrs)
        self.links += [value or "" for name, value in attrs if name in ("href", "src")]
        self.ids.update(value or "" for name, value in attrs if name == "id")


def page(run_cli: RunCli, tmp_path: Path, name: str | Path) -> str:
    target = tmp_path / "page.html"
    done = run_cli("inspect", name, "--html", target)
    assert done.returncode == 0, done.stderr
    assert f"{target} is written" in done.stderr
    return target.read_text()


def test_the_page_needs_nothing_and_its_links_lead_somewhere(
    run_cli: RunCli, tmp_path: Path, nginx_layout: Path
) -> None:
    text = page(run_cli, tmp_path, f"oci:{nginx_layout}")
    seen = Tags(text)
    assert seen.links
    assert {link.removeprefix("#") for link in seen.links} <= seen.ids
    assert "script" not in seen.tags
    assert not re.search(r"https?:|url\(|@import", text)
    assert "libcrypto" in text
    assert len(text) < 2_000_000


def test_the_page_replaces_nothing_but_files(run_cli: RunCli, image: Path, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    assert "is no regular file" in failure(run_cli, f"oci:{image}", "--html", pipe)
    assert pipe.is_fifo()


def test_names_of_an_image_are_never_markup(run_cli: RunCli, tmp_path: Path) -> None:
    names = [HOSTILE.replace("/", "\\"), "'><b>", "a\x1b[31m", "‮evil", "&lt;", "\udcff\udcfe"]
    plain = layout(
        tmp_path / "plain", layer(f("a/b", "x" * 9000), f("c/d", "x" * 9000)),
        layer(f("a/b", "y" * 9000)),
    )  # fmt: skip
    hostile = layout(
        tmp_path / "hostile",
        layer(*(f(f"{name}/{name}", "x" * 9000) for name in names)),
        layer(f(f"{names[0]}/{names[0]}", "y" * 9000)),
    )
    text = page(run_cli, tmp_path, f"oci:{hostile}")
    allowed, seen = Tags(page(run_cli, tmp_path, f"oci:{plain}")), Tags(text)
    assert seen.tags <= allowed.tags
    assert seen.attributes <= allowed.attributes
    assert "&lt;script&gt;" in text
    assert not re.search("[\x00-\x09\x0b-\x1f\x7f\u202a-\u202e]", text)
    assert "\x1b" not in run_cli("inspect", f"oci:{hostile}").stdout
    paths = {item["path"] for item in inspected(run_cli, f"oci:{hostile}")["biggest"]}
    assert f"{names[-1]}/{names[-1]}" in paths


@pytest.mark.parametrize("letter", ["a", "&", "\x1b"])
def test_a_page_of_80000_long_names_is_bounded(letter: str) -> None:
    folders = [f"usr/{letter * 90}{n:04}".encode() for n in range(400)]
    names = [Name(b"", 0o040755, 0, 1), Name(b"usr", 0o040755, 0, 2)]
    for number, folder in enumerate(folders):
        names.append(Name(folder, 0o040755, 0, 3 + number))
        names += [
            Name(b"%s/%s%04d" % (folder, b"&" * 120, n), 0o100644, 1 + n * 97, 1000 * number + n, 0)
            for n in range(200)
        ]
    digest = digest_of(b"")
    info = ImageInfo("x", digest, digest, "linux/amd64")
    found = Inspection("x", info, None, None, survey_names(names), ())
    assert len(page_of(found, 10)) < 2_000_000


def history(steps: Any, layers: int = 2) -> tuple[str, ...]:
    digests = ["sha256:" + "0" * 64] * layers
    document = {"os": "linux", "architecture": "amd64", "rootfs": {"diff_ids": digests}}
    if steps is not None:
        document["history"] = steps
    return ImageConfig.read(json.dumps(document).encode(), "config").created_by()


def test_histories_are_matched_with_layers() -> None:
    step, empty = {"created_by": "COPY . /"}, {"created_by": "ENV x", "empty_layer": True}
    assert history([step, empty, {}]) == ("COPY . /", "")
    assert history([step, empty, step, step]) == ("", "")
    for wrong in (None, [], {}, 5, "text", [None, 3], [{"created_by": None}] * 2):
        assert history(wrong) == ("", "")


def test_an_image_without_layers_is_shown(run_cli: RunCli, tmp_path: Path) -> None:
    done = run_cli("inspect", f"oci:{layout(tmp_path / 'none')}")
    assert done.returncode == 0, done.stderr
