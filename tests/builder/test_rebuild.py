"""A bundle is made again from what it says it was made of; what can't be is told, part by part."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from hyperbuild.builder.buildinfo import BuildInfo, KernelBuild, read_build
from hyperbuild.builder.rebuilding import GIVEN, SAME, UNKNOWN
from hyperbuild.builder.signing import claimed_payload, load_signer, sign
from hyperbuild.builder.statement import read_statement, write_statement
from hyperbuild.converter.errors import ContentError
from hyperbuild.kernel.kconfig import FRAGMENTS, parse_fragment, read_fragment, spell_fragment
from tests.builder.parcels import digest_of, push_cli, refused
from tests.support.layers import f, layer, layout
from tests.support.registry import push

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.conftest import KernelOf, RunCli

FRAGMENT = """# Sealed secrets.

# Keys that programs keep in the kernel.
CONFIG_KEYS=y
"""


@dataclass(frozen=True)
class Made:
    """An image in a registry, and the bundle that was made of it in a directory."""

    image: str
    directory: Path

    def document(self) -> dict[str, Any]:
        said: dict[str, Any] = json.loads((self.directory / "bundle.json").read_bytes())
        return said

    def rewrite(self, change: Callable[[dict[str, Any]], None]) -> None:
        fields = self.document()
        change(fields)
        raw = json.dumps(fields, indent=2).encode() + b"\n"
        (self.directory / "bundle.json").write_bytes(raw)


@pytest.fixture
def made(kernel_of: KernelOf, bare_registry: str, run_cli: RunCli, tmp_path: Path) -> Made:
    kernel_of("micro")
    busybox = f("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)
    config = {"Cmd": ["/bin/busybox", "echo", "here I am"]}
    image = f"{bare_registry}/{tmp_path.name.lower()}/app:1"
    push(layout(tmp_path / "image", layer(busybox), config=config), image)
    words = ("--profile", "micro", "--align", "-o", tmp_path / "bundle")
    done = run_cli("convert", image, *words, env={"SOURCE_DATE_EPOCH": "1700000000"})
    assert done.returncode == 0, done.stderr
    return Made(image, tmp_path / "bundle")


@pytest.fixture
def key(tmp_path: Path) -> Path:
    path = tmp_path / "ci.key"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", path], check=True)
    public = path.with_suffix(".pub")
    subprocess.run(["openssl", "pkey", "-in", path, "-pubout", "-out", public], check=True)
    return path


def rebuilt(run_cli: RunCli, *args: str | Path, status: int = 0, **options: Any) -> dict[str, str]:
    """Rebuild, and return the verdict on each part."""
    done = run_cli("rebuild", *args, **options)
    assert done.returncode == status, done.stdout + done.stderr
    assert status == 0 or done.stderr.splitlines()[-1].startswith("Error: "), done.stderr
    return {line.split()[0]: line.split()[1] for line in done.stdout.splitlines()}


ALL_SAME = {"rootfs": SAME, "kernel": SAME, "initramfs": SAME, "bundle.json": SAME}


@pytest.mark.boot
def test_a_pushed_bundle_is_made_again_by_its_provenance(
    made: Made, key: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    said = push_cli(run_cli, made.directory, "--sign", key)
    # Neither a variable of this place nor the image's tag, which moves on, changes anything.
    push(layout(tmp_path / "moved", layer(f("other", b"other"))), made.image)
    names = (said["name"], "--key", key.with_suffix(".pub"))
    assert rebuilt(run_cli, *names) == {"provenance": SAME} | ALL_SAME
    assert rebuilt(run_cli, made.directory, env={"SOURCE_DATE_EPOCH": "3"}) == ALL_SAME
    refused(
        run_cli, "by no key that may", "rebuild", said["name"],
        "--key", foreign_key(tmp_path / "foe.key"),
    )  # fmt: skip


def foreign_key(path: Path) -> Path:
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", path], check=True)
    public = path.with_suffix(".pub")
    subprocess.run(["openssl", "pkey", "-in", path, "-pubout", "-out", public], check=True)
    return public


@pytest.mark.boot
def test_the_store_keeps_what_was_signed_of_how_a_bundle_was_made(
    made: Made, key: Path, run_cli: RunCli, tmp_path: Path
) -> None:
    push_cli(run_cli, made.directory, "--sign", key)
    policy = tmp_path / "policy.toml"
    allow = f'[[allow]]\nimages = ["{made.image}"]\nkeys = ["ci"]'
    policy.write_text(f'[keys]\nci = "ci.pub"\n{allow}\n')
    digest = run_cli("pull", made.image, "--policy", policy).stdout.strip()
    assert rebuilt(run_cli, digest, "--policy", policy) == {"provenance": SAME} | ALL_SAME
    # Without the cache there is no kernel to compare with, and all else is made as before.
    elsewhere = {"XDG_CACHE_HOME": str(tmp_path / "cache")}
    verdicts = rebuilt(run_cli, digest, status=1, env=elsewhere)
    assert verdicts == {"provenance": SAME} | ALL_SAME | {"kernel": UNKNOWN}
    left = (tmp_path / "cache/hyperbuild").rglob("*")
    assert [path.name for path in left if path.is_file()] == [".lock"]


@pytest.mark.boot
def test_what_was_made_otherwise_differs(made: Made, run_cli: RunCli, tmp_path: Path) -> None:
    initramfs, rootfs = made.directory / "initramfs.cpio", made.directory / "rootfs.erofs"
    initramfs.write_bytes(initramfs.read_bytes() + bytes(512))
    with rootfs.open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\1")

    def change(fields: dict[str, Any]) -> None:
        fields["rootfs"]["digest"] = digest_of(rootfs)
        fields["initramfs"]["digest"] = digest_of(initramfs)

    made.rewrite(change)
    done = run_cli("rebuild", made.directory)
    assert done.returncode == 1
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "differs" in lines["rootfs"]
    assert "report it" in lines["rootfs"]
    assert "compiled by other tools, maybe, and here by" in lines["initramfs"]
    assert "libc.a sha256:" in lines["initramfs"]
    assert "in initramfs.digest, rootfs.digest" in lines["bundle.json"]
    assert lines["kernel"].split()[1] == SAME
    assert "could not be made again as it is: rootfs, initramfs, bundle.json" in done.stderr

    # What its document does not name is not its own.
    rootfs.write_bytes(bytes(rootfs.stat().st_size))
    refused(run_cli, "rootfs.erofs is sha256:", "rebuild", made.directory)


@pytest.mark.boot
def test_other_makers_and_tools_are_told(made: Made, run_cli: RunCli) -> None:
    def change(fields: dict[str, Any]) -> None:
        fields["build"] |= {"maker": "1", "hyperstart": "sha256:" + "0" * 64}
        fields["build"]["kernel"]["toolchain"] = "gcc 1 / ld 1"
        fields["initramfs"]["digest"] = digest_of(made.directory / "initramfs.cpio")

    def lose(fields: dict[str, Any]) -> None:
        (made.directory / "initramfs.cpio").write_bytes(b"cpio")
        change(fields)

    made.rewrite(lose)
    done = run_cli("rebuild", made.directory, "--kernel")
    assert done.returncode == 1
    lines = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "was built by gcc 1 / ld 1, and here is gcc" in lines["kernel"]
    assert "a hyperbuild of maker 1 made it" in lines["initramfs"]
    assert "build.hyperstart, build.maker" in lines["bundle.json"]


@pytest.mark.boot
def test_a_kernel_of_ones_own_is_taken_as_it_is(
    made: Made, kernel_of: KernelOf, run_cli: RunCli, tmp_path: Path
) -> None:
    words = ("--kernel", kernel_of("micro"), "--format", "ext4", "-o", tmp_path / "own")
    assert run_cli("convert", made.image, *words).returncode == 0
    assert rebuilt(run_cli, tmp_path / "own") == ALL_SAME | {"kernel": GIVEN}
    words = ("--no-kernel", "-o", tmp_path / "bare")
    assert run_cli("convert", made.image, *words).returncode == 0
    assert rebuilt(run_cli, tmp_path / "bare") == {"rootfs": SAME, "bundle.json": SAME}


@pytest.mark.boot
def test_an_image_that_is_elsewhere_or_another(made: Made, run_cli: RunCli, tmp_path: Path) -> None:
    words = ("--no-kernel", "-o", tmp_path / "local")
    assert run_cli("convert", f"oci:{tmp_path}/image", *words).returncode == 0
    shutil.move(tmp_path / "image", tmp_path / "moved")
    refused(run_cli, f"{tmp_path}/image", "rebuild", tmp_path / "local")
    moved = ("--image", f"oci:{tmp_path}/moved")
    assert rebuilt(run_cli, tmp_path / "local", *moved)["rootfs"] == SAME
    layout(tmp_path / "image", layer(f("other", b"other")))
    refused(run_cli, "and the bundle was made from sha256:", "rebuild", tmp_path / "local")


@pytest.mark.boot
def test_what_cannot_be_made_again(made: Made, key: Path, run_cli: RunCli, tmp_path: Path) -> None:
    public = key.with_suffix(".pub")
    refused(run_cli, "what lies in one is not signed", "rebuild", made.directory, "--key", public)
    policy = ("--policy", tmp_path / "policy.toml")
    refused(run_cli, "give one of them", "rebuild", made.image, "--key", public, *policy)
    refused(run_cli, "add --kernel", "rebuild", made.directory, "--source", "linux.tar.xz")
    refused(run_cli, "no bundle is attached", "rebuild", made.image)
    (tmp_path / "linux").mkdir()
    (tmp_path / "linux/Makefile").touch()
    other = ("--kernel", "--source", tmp_path / "linux")
    refused(run_cli, "give that one by --source", "rebuild", made.directory, *other)
    made.rewrite(lambda fields: fields["build"].update(maker=3))
    refused(run_cli, "nothing that this hyperbuild knows", "rebuild", made.directory)
    made.rewrite(lambda fields: fields.update(build=None))
    refused(run_cli, "does not say how it was made", "rebuild", made.directory)
    assert not list((tmp_path / "cache").glob("*"))


@pytest.mark.boot
def test_a_statement_that_says_another_thing_is_seen(
    made: Made, key: Path, run_cli: RunCli
) -> None:
    document = (made.directory / "bundle.json").read_bytes()
    said: dict[str, Any] = {"manifest": "sha256:" + "0" * 64, "name": "app", "version": "0.0.1"}
    tools = {"initramfs": "gcc 1"}
    said |= {"made": "2026-01-01T00:00:00Z", "tools": tools}
    payload = write_statement(document, **said)
    envelope = sign(payload, load_signer(key))
    statement = read_statement(claimed_payload(envelope))
    assert not statement.contradicts(document)
    assert (statement.hyperbuild, statement.tools) == ("0.0.1", tools)
    extra = {"name": "keys", "text": FRAGMENT}
    made.rewrite(lambda fields: fields["build"]["kernel"].update(fragments=[extra]))
    own = json.loads(write_statement((made.directory / "bundle.json").read_bytes(), **said))
    definition = own["predicate"]["buildDefinition"]
    assert definition["externalParameters"]["kernel"]["fragments"] == [extra]
    names = {it.get("name"): it["digest"] for it in definition["resolvedDependencies"]}
    assert names["kernel fragment keys"]["sha256"] == hashlib.sha256(FRAGMENT.encode()).hexdigest()
    assert {"kernel source", "kernel configuration", "sources of hyperstart"} <= names.keys()
    # A kernel that is not in the cache is not compared, and nothing else hangs on it.
    made.rewrite(lambda fields: fields["build"]["kernel"].update(key="sha256:" + "0" * 64))
    verdicts = rebuilt(run_cli, made.directory, status=1)
    assert verdicts == ALL_SAME | {"kernel": UNKNOWN}
    made.rewrite(lambda fields: fields["build"].update(align=False))
    assert statement.contradicts((made.directory / "bundle.json").read_bytes())
    lie = json.loads(payload)
    lie["predicate"]["buildDefinition"]["internalParameters"] = None
    assert read_statement(json.dumps(lie).encode()).contradicts(document)


def test_every_fragment_is_spelled_so_that_it_is_read_again() -> None:
    for path in (*FRAGMENTS.glob("*.config"),):
        fragment = read_fragment(path)
        assert parse_fragment(fragment.name, spell_fragment(fragment)) == fragment


def test_what_a_bundle_says_of_its_making_is_read_again() -> None:
    digest = "sha256:" + "1" * 64
    kernel = KernelBuild("dax", (parse_fragment("keys", FRAGMENT),), digest, "gcc / ld", digest)
    build = BuildInfo("3", 17, True, kernel, digest)
    assert read_build(json.loads(json.dumps(build.document())), "x") == build
    for bad in (
        {**build.document(), "epoch": "1"},
        {**build.document(), "more": 1},
        {**build.document(), "kernel": []},
        {**build.document(), "kernel": {**kernel.document(), "key": "../../etc"}},
        {**build.document(), "kernel": {**kernel.document(), "fragments": [{"name": "x"}]}},
        {
            **build.document(),
            "kernel": {**kernel.document(), "fragments": [{"name": "x", "text": "CONFIG_X=m"}]},
        },
        {**build.document(), "hyperstart": "x"},
    ):
        with pytest.raises(ContentError, match="nothing that this hyperbuild knows"):
            read_build(bad, "x")
