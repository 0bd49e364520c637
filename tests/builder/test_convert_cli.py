"""`hyperbuild convert` as its users and their scripts meet it (DESIGN: what convert promises)."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import pwd
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.conftest import HYPERBUILD, RunCli
from tests.converter.flat import read_image
from tests.support.layers import d, f, h, layer, layout

PLAIN = ("convert", "--no-kernel")


@pytest.fixture
def small(tmp_path: Path) -> Path:
    return layout(tmp_path / "small", layer(d("etc/"), f("etc/passwd", "root:x:0:0::/root:\n")))


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def check_failure(done: subprocess.CompletedProcess[str], text: str, status: int = 1) -> None:
    assert done.returncode == status
    errors = done.stderr.splitlines()
    assert len(errors) == 1, done.stderr
    assert errors[0].startswith("Error: ")
    assert errors[0].isprintable()
    assert text in errors[0]
    assert done.stdout == ""


def test_output_directory_holds_plain_files(run_cli: RunCli, small: Path, tmp_path: Path) -> None:
    out = tmp_path / "deep/out"
    done = run_cli(*PLAIN, f"oci:{small}:latest", "-o", out)
    assert done.returncode == 0, done.stderr
    assert names(out) == {"rootfs.erofs", "bundle.json"}
    bundle = json.loads((out / "bundle.json").read_text())
    assert bundle["config"] == {"Cmd": ["/bin/true"]}
    assert bundle["process"]["args"] == ["/bin/true"]
    assert bundle["rootfs"]["size"] == (out / "rootfs.erofs").stat().st_size
    assert bundle["kernel"] is None
    assert set(read_image(out / "rootfs.erofs")) == {"", "etc", "etc/passwd"}


def test_without_output_the_digest_is_the_last_line(
    run_cli: RunCli, small: Path, hyperbuild_env: dict[str, str]
) -> None:
    first = run_cli(*PLAIN, f"oci:{small}")
    assert first.returncode == 0, first.stderr
    digest = first.stdout.splitlines()[-1]
    assert digest.startswith("sha256:")
    again = run_cli(*PLAIN, f"oci:{small}")
    assert again.stdout.splitlines()[-1] == digest
    listed = json.loads(run_cli("images", "--json").stdout)
    assert [(item["name"], item["digest"]) for item in listed] == [(f"oci:{small}", digest)]
    assert f"oci:{small}" in run_cli("images").stdout
    # The lock under which it was made is gone with its maker.
    store = Path(hyperbuild_env["XDG_DATA_HOME"]) / "hyperbuild"
    assert list((store / ".partial").iterdir()) == []


def test_the_store_is_an_oci_layout(
    run_cli: RunCli, small: Path, hyperbuild_env: dict[str, str]
) -> None:
    digest = run_cli(*PLAIN, f"oci:{small}").stdout.strip()
    store = Path(hyperbuild_env["XDG_DATA_HOME"]) / "hyperbuild"
    done = subprocess.run(
        ["skopeo", "inspect", "--raw", f"oci:{store}"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    raw = json.loads((store / "blobs" / digest.replace(":", "/")).read_text())
    assert raw["artifactType"] == "application/vnd.hyperbuild.bundle.v1"
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == raw


def test_json_describes_the_result(run_cli: RunCli, small: Path, tmp_path: Path) -> None:
    done = run_cli(*PLAIN, f"oci:{small}", "-o", tmp_path / "out", "--json")
    document = json.loads(done.stdout)
    assert document["name"] == str(tmp_path / "out")
    assert document["bundle"] == json.loads((tmp_path / "out/bundle.json").read_text())


def test_bytes_depend_on_the_image_alone(small: Path, tmp_path: Path, run_cli: RunCli) -> None:
    run_cli(*PLAIN, f"oci:{small}", "-o", tmp_path / "one")
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(small, elsewhere / "image")
    script = f'umask 077; TZ=Asia/Tokyo exec {HYPERBUILD} convert --no-kernel oci:image -o "$OUT"'
    subprocess.run(
        ["sh", "-c", script],
        cwd=elsewhere,
        env={"PATH": os.environ["PATH"], "HOME": str(elsewhere), "OUT": str(elsewhere / "two")},
        check=True,
        capture_output=True,
    )
    first, second = (p / "rootfs.erofs" for p in (tmp_path / "one", elsewhere / "two"))
    assert first.read_bytes() == second.read_bytes()


def test_the_time_of_what_no_layer_dates_can_be_set(tmp_path: Path, run_cli: RunCli) -> None:
    image = layout(tmp_path / "image", layer(f("implied/f", mtime=7)))
    found = {}
    for epoch in ("", "1000", "-5", "soon", "²", "9" * 5000):
        out = tmp_path / f"out{epoch[:4]}"
        done = run_cli(*PLAIN, f"oci:{image}", "-o", out, env={"SOURCE_DATE_EPOCH": epoch})
        if epoch in ("", "1000"):
            seen = read_image(out / "rootfs.erofs")
            found[epoch] = (seen["implied"].info.mtime, seen["implied/f"].info.mtime)
        else:
            check_failure(done, "SOURCE_DATE_EPOCH")
    assert found == {"": (1_704_164_645, 7), "1000": (1000, 7)}


def test_needs_no_root_and_gives_the_same_bytes(run_cli: RunCli, tmp_path: Path) -> None:
    if os.getuid():
        pytest.skip("the other tests already run without root")
    if not _readable_by_others(HYPERBUILD):
        pytest.skip(f"{HYPERBUILD} is below a directory that only root may enter")
    home = Path("/tmp") / f"hyperbuild-nobody-{os.getpid()}"
    home.mkdir(mode=0o755)
    try:
        layout(home / "image", layer(f("root-owned", "x", mode=0o600), h("link", "root-owned")))
        user = pwd.getpwnam("nobody")
        os.chown(home, user.pw_uid, user.pw_gid)
        run = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
        done = subprocess.run(
            [*run, HYPERBUILD, *PLAIN, "oci:image", "-o", "out"],
            cwd=home, env={"HOME": str(home), "PATH": os.environ["PATH"]},
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert set(read_image(home / "out/rootfs.erofs")) == {"", "root-owned", "link"}
        run_cli(*PLAIN, f"oci:{home}/image", "-o", tmp_path / "by-root")
        by_root = (tmp_path / "by-root/rootfs.erofs").read_bytes()
        assert (home / "out/rootfs.erofs").read_bytes() == by_root
    finally:
        shutil.rmtree(home)


def _readable_by_others(path: Path) -> bool:
    return all(parent.stat().st_mode & 0o001 for parent in path.resolve().parents)


def test_a_good_run_replaces_an_earlier_result_whole(
    run_cli: RunCli, small: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    assert run_cli(*PLAIN, f"oci:{small}", "-o", out).returncode == 0
    (out / "vmlinux").write_bytes(b"of an earlier run")
    (out / "rootfs.ext4").write_bytes(b"of an earlier run")
    other = layout(tmp_path / "other", layer(f("other")))
    assert run_cli(*PLAIN, f"oci:{other}", "-o", out).returncode == 0
    assert names(out) == {"rootfs.erofs", "bundle.json"}
    assert set(read_image(out / "rootfs.erofs")) == {"", "other"}


def test_a_bad_run_leaves_an_earlier_result_as_it_was(
    run_cli: RunCli, small: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    run_cli(*PLAIN, f"oci:{small}", "-o", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    bad = layout(tmp_path / "bad", layer(f("fine"), f("../escape")))
    check_failure(run_cli(*PLAIN, f"oci:{bad}", "-o", out), "'../escape' is refused")
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_failure_leaves_nothing(run_cli: RunCli, tmp_path: Path) -> None:
    bad = layout(tmp_path / "bad", layer(f("x")), diff_ids=["sha256:" + "0" * 64])
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    done = run_cli(*PLAIN, f"oci:{bad}", "-o", tmp_path / "out", env={"TMPDIR": str(scratch)})
    check_failure(done, "image config says sha256:000")
    assert not (tmp_path / "out").exists()
    assert names(scratch) == set()
    (tmp_path / "empty").mkdir()
    run_cli(*PLAIN, f"oci:{bad}", "-o", tmp_path / "empty")
    assert names(tmp_path / "empty") == set()


def test_other_things_in_the_output_are_not_touched(
    run_cli: RunCli, small: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "thesis.txt").write_text("years of work")
    check_failure(run_cli(*PLAIN, f"oci:{small}", "-o", out), "thesis.txt")
    assert names(out) == {"thesis.txt"}


def test_layers_and_diff_ids_must_be_as_many(run_cli: RunCli, tmp_path: Path) -> None:
    tar = layer(f("x"))
    bad = layout(tmp_path / "bad", tar, tar, diff_ids=["sha256:" + "0" * 64])
    done = run_cli(*PLAIN, f"oci:{bad}", "-o", tmp_path / "out")
    check_failure(done, "layers")


@pytest.mark.parametrize("kind", ["truncated", "changed", "longer", "missing", "fifo"])
def test_damaged_layers(run_cli: RunCli, tmp_path: Path, kind: str) -> None:
    image = layout(tmp_path / "image", layer(f("x", os.urandom(200_000))))
    blob = max((image / "blobs/sha256").iterdir(), key=lambda path: path.stat().st_size)
    content = blob.read_bytes()
    if kind == "truncated":
        blob.write_bytes(content[:-1000])
    elif kind == "changed":
        blob.write_bytes(content[:50_000] + bytes([content[50_000] ^ 1]) + content[50_001:])
    elif kind == "longer":
        blob.write_bytes(content + b"\0")
    else:
        blob.unlink()
        if kind == "fifo":
            os.mkfifo(blob)
    done = run_cli(*PLAIN, f"oci:{image}", "-o", tmp_path / "out", timeout=30)
    check_failure(done, blob.name[:12])
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("image", "text"),
    [
        ("oci:/nowhere", "/nowhere"),
        ("oci:{small}:nope", "latest"),
        ("UPPER", "not a reference"),
        ("bad\x1bname", "\\x1b"),
        ("oci-archive:{fifo}", "fifo"),
        ("docker-archive:/dev/zero", "/dev/zero"),
    ],
)
def test_what_cannot_be_read(
    run_cli: RunCli, small: Path, tmp_path: Path, image: str, text: str
) -> None:
    os.mkfifo(tmp_path / "fifo")
    name = image.format(small=small, fifo=tmp_path / "fifo")
    check_failure(run_cli(*PLAIN, name, "-o", tmp_path / "out", timeout=30), text)


def test_no_such_platform_lists_what_exists(run_cli: RunCli, small: Path, tmp_path: Path) -> None:
    done = run_cli(*PLAIN, f"oci:{small}", "--platform", "linux/riscv64", "-o", tmp_path / "out")
    check_failure(done, "linux/amd64")


@pytest.mark.parametrize(
    "arguments",
    [
        (), ("convert",), ("convert", "a", "b"), ("nope",), ("convert", "--nope", "a"),
        ("convert", "--no-kernel", "--kernel", "x", "a"),
    ],
)  # fmt: skip
def test_usage_errors_have_status_2(run_cli: RunCli, arguments: tuple[str, ...]) -> None:
    done = run_cli(*arguments)
    assert done.returncode == 2
    assert "Traceback" not in done.stderr


def test_unwritable_output(run_cli: RunCli, small: Path) -> None:
    check_failure(run_cli(*PLAIN, f"oci:{small}", "-o", "/proc/out"), "/proc/out")


def test_full_disk(tmp_path: Path, run_cli: RunCli) -> None:
    if os.getuid():
        pytest.skip("mounting needs root")
    image = layout(tmp_path / "image", layer(f("big", os.urandom(3 << 20))))
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", disk], check=True)
    try:
        done = run_cli(*PLAIN, f"oci:{image}", "-o", disk / "out")
        check_failure(done, "No space left")
        assert names(disk) == set()
    finally:
        subprocess.run(["umount", "--lazy", disk], check=True)


def test_killed_at_any_moment_then_run_again(
    nginx_layout: Path, tmp_path: Path, hyperbuild_env: dict[str, str], run_cli: RunCli
) -> None:
    out = tmp_path / "out"
    for delay in (0.15, 0.3, 0.45, 0.6, 0.75):
        process = subprocess.Popen(
            [HYPERBUILD, *PLAIN, f"oci:{nginx_layout}", "-o", out],
            env=hyperbuild_env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(delay)
        process.send_signal(signal.SIGKILL)
        process.wait()
        if out.exists() and (out / "bundle.json").exists():
            size = json.loads((out / "bundle.json").read_text())["rootfs"]["size"]
            assert (out / "rootfs.erofs").stat().st_size == size
    assert run_cli(*PLAIN, f"oci:{nginx_layout}", "-o", out).returncode == 0
    assert {path.name for path in out.iterdir()} == {"rootfs.erofs", "bundle.json"}


def test_on_a_terminal_it_draws_progress_and_works(
    small: Path, tmp_path: Path, hyperbuild_env: dict[str, str]
) -> None:
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [HYPERBUILD, *PLAIN, f"oci:{small}", "-o", tmp_path / "out"],
        env=hyperbuild_env, stdout=subprocess.DEVNULL, stderr=theirs,
    )  # fmt: skip
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # EIO is how a terminal ends
        while piece := os.read(ours, 4096):
            said += piece
    os.close(ours)
    assert process.wait(60) == 0, said
    assert b"rootfs.erofs" in said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
def test_a_request_to_stop_leaves_nothing(
    nginx_layout: Path, tmp_path: Path, hyperbuild_env: dict[str, str], number: signal.Signals
) -> None:
    for output in ([], ["-o", tmp_path / "out"]):
        process = subprocess.Popen(
            [HYPERBUILD, *PLAIN, f"oci:{nginx_layout}", *output],
            env=hyperbuild_env, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
        )  # fmt: skip
        time.sleep(0.5)
        process.send_signal(number)
        assert process.wait(30) in {128 + number, -number, 0}
    left = [path for path in tmp_path.rglob(".hyperbuild-*") if path.is_file()]
    assert left == []


def test_what_a_killed_run_left_in_the_store_is_swept(
    small: Path, run_cli: RunCli, hyperbuild_env: dict[str, str]
) -> None:
    assert run_cli(*PLAIN, f"oci:{small}").returncode == 0
    partial = Path(hyperbuild_env["XDG_DATA_HOME"]) / "hyperbuild/.partial"
    (partial / ".hyperbuild-0123456789abcdef").write_bytes(b"half")
    assert run_cli(*PLAIN, f"oci:{small}").returncode == 0
    assert not list(partial.glob(".hyperbuild-*"))


def test_a_digest_may_be_cut_as_images_shows_it(run_cli: RunCli, small: Path) -> None:
    digest = run_cli(*PLAIN, f"oci:{small}").stdout.strip()
    shown = next(w for w in run_cli("images").stdout.split() if w.startswith("sha256:"))
    assert digest.startswith(shown)
    found = run_cli("boot", shown)
    assert "--no-kernel" in found.stderr  # found, though it cannot be booted
    assert "no bundle" in run_cli("boot", shown[:10]).stderr


def test_two_at_once_into_one_directory(
    nginx_layout: Path, tmp_path: Path, hyperbuild_env: dict[str, str]
) -> None:
    out = tmp_path / "out"
    both = [
        subprocess.Popen(
            [HYPERBUILD, *PLAIN, f"oci:{nginx_layout}", "-o", out],
            env=hyperbuild_env, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL,
        )
        for _ in range(2)
    ]  # fmt: skip
    assert [process.communicate()[1] and process.returncode for process in both] == [0, 0]
    assert names(out) == {"rootfs.erofs", "bundle.json"}
