"""The SBOM of a bundle: of real images and hostile ones, printed, attached, signed, fetched."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from typing import TYPE_CHECKING, Any

import oras.client
import pytest
from cyclonedx.model.bom import Bom
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator

from hyperbuild.builder.cataloguing import catalogue
from hyperbuild.builder.stored import SBOM_TYPE
from hyperbuild.converter.referrers import tag_of
from tests.builder.parcels import push_cli, refused
from tests.support.layers import d, f, layer, layout, s
from tests.support.registry import push

if TYPE_CHECKING:
    from pathlib import Path

    from tests.conftest import RunCli


def bundle(run_cli: RunCli, image: str | Path, directory: Path, *more: str) -> Path:
    done = run_cli("convert", "--no-kernel", image, "-o", directory, *more)
    assert done.returncode == 0, done.stderr
    return directory


def checked(content: str) -> dict[str, Any]:
    """Return a document that the official schema and another reader accept."""
    assert JsonStrictValidator(SchemaVersion.V1_6).validate_str(content) is None
    document: dict[str, Any] = json.loads(content)
    assert len(Bom.from_json(document).components) == len(document["components"])  # type: ignore[attr-defined]
    return document


def sbom(run_cli: RunCli, *args: str | Path, **more: Any) -> dict[str, Any]:
    done = run_cli("sbom", *args, **more)
    assert done.returncode == 0, done.stderr
    return checked(done.stdout)


@pytest.mark.image
def test_a_debian_image_has_what_dpkg_says(
    run_cli: RunCli, nginx_layout: Path, tmp_path: Path
) -> None:
    made = bundle(run_cli, f"oci:{nginx_layout}", tmp_path / "b")
    document = sbom(run_cli, made)
    found = {
        (each["name"], each["version"], each["purl"].partition("arch=")[2].partition("&")[0])
        for each in document["components"]
        if each.get("purl", "").startswith("pkg:deb/debian/")
    }
    subprocess.run(
        ["umoci", "unpack", "--image", f"{nginx_layout}:latest", tmp_path / "tree"],
        check=True, capture_output=True,
    )  # fmt: skip
    form = "--showformat=${Package} ${Version} ${Architecture} ${db:Status-Status}\n"
    argv = ["dpkg-query", f"--admindir={tmp_path}/tree/rootfs/var/lib/dpkg", "--show", form]
    said = subprocess.run(argv, check=True, capture_output=True, text=True).stdout
    rows = [line.split() for line in said.splitlines()]
    assert found == {tuple(row[:3]) for row in rows if row[3] == "installed"}
    assert len(found) > 100
    assert {"type": "operating-system", "name": "debian", "version": "12"}.items() <= (
        document["components"][0].items()
    )
    # The same bytes again, and into a file.
    done = run_cli("sbom", made, "-o", tmp_path / "o.json")
    assert (done.stdout, done.returncode) == ("", 0)
    assert json.loads((tmp_path / "o.json").read_text()) == document
    later = sbom(run_cli, made, env={"SOURCE_DATE_EPOCH": "1000000000"})
    assert later["metadata"]["timestamp"] == "2001-09-09T01:46:40Z"


HOSTILE = (
    f("etc/os-release", 'ID=alpine\nVERSION_ID=3.19\nPRETTY_NAME="Alpine"\n'),
    s("lib", "usr/lib"), d("usr/lib/apk/db/"),
    f("usr/lib/apk/db/installed", "P:musl\nV:1.2\nA:x86_64\nL:MIT AND (BSD-2-Clause OR X)\n\n"),
    # A database that leads out of the image leads into it.
    s("var/lib/dpkg/status", "../../../../../../elsewhere"),
    f("elsewhere", "Package: a\nVersion: 1\nArchitecture: all\n"),
    f("var/lib/dpkg/status.d/base", "Package: base\nVersion: 2\n"),
    f("var/lib/dpkg/status.d/base.md5sums", "Package: no\nVersion: 2\n"),
    s("var/lib/rpm", "rpm"), f("usr/lib/sysimage/rpm/rpmdb.sqlite", b"SQLite format 3\0" * 99),
    f("usr/share/rpm/Packages", b"bdb"),
    f("app/node_modules/@x/y/package.json", '{"name": "@x/y", "version": "1"}'),
    f("app/node_modules/z/test/node_modules.json", "{}"),
    f("app/node_modules/bad/package.json", "[" * 100_000),
    f("app/node_modules/odd/package.json", '{"name": "\\ud800/", "version": "1\\u0007"}'),
    f("app/p.dist-info/METADATA", "Name: /\nVersion: 1\n"),
    f("app/node_modules/slash/package.json", '{"name": "//", "version": "1"}'),
    f("app/x.jar", b"PK\5\6" + b"\xff" * 18),
    f("app/short", b"\x7fELF", mode=0o755),
    f("app/elf", b"\x7fELF\2\1" + b"\xff" * 90, mode=0o755),
    f("p/x.dist-info/METADATA", "Name: x\nVersion: 1\n\n" + "y" * 200_000),
)  # fmt: skip


@pytest.mark.parametrize("file_format", ["erofs", "ext4"])
def test_a_hostile_image(run_cli: RunCli, tmp_path: Path, file_format: str) -> None:
    image = layout(tmp_path / "image", layer(*HOSTILE))
    made = bundle(run_cli, f"oci:{image}", tmp_path / "b", "--format", file_format)
    done = run_cli("sbom", made)
    assert done.returncode == 0, done.stderr
    document = checked(done.stdout)
    urls = {each["purl"] for each in document["components"] if "purl" in each}
    assert urls == {
        "pkg:apk/alpine/musl@1.2?arch=x86_64&distro=alpine-3.19",
        "pkg:deb/alpine/a@1?arch=all&distro=alpine-3.19",
        "pkg:deb/alpine/base@2?distro=alpine-3.19",
        "pkg:npm/%40x/y@1",
        "pkg:pypi/x@1",
    }
    notices = {row["value"].partition(":")[0] for row in document["metadata"]["properties"]}
    assert notices == {
        "/usr/lib/sysimage/rpm/rpmdb.sqlite", "/usr/share/rpm",
        "/app/node_modules/bad/package.json", "/app/x.jar",
    }  # fmt: skip
    assert done.stderr.count("Warning: ") == len(notices)


def test_what_is_larger_than_honest_is_not_read(
    run_cli: RunCli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = layout(tmp_path / "image", layer(*HOSTILE))
    made = bundle(run_cli, f"oci:{image}", tmp_path / "b")
    where = "hyperbuild.builder.cataloguing"
    monkeypatch.setattr(f"{where}._DATABASE_LIMIT", 40)
    assert any("more than such a file" in text for text in catalogue(made / "rootfs.erofs").notices)
    monkeypatch.setattr(f"{where}._PACKAGES", 1)
    assert "of more than 1 packages no more are listed" in catalogue(made / "rootfs.erofs").notices
    monkeypatch.setattr(f"{where}._TOTAL", 1)
    assert "too large; not all are listed" in catalogue(made / "rootfs.erofs").notices[-1]


def test_a_place_that_no_sbom_can_be_written_to(run_cli: RunCli, tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    refused(run_cli, "is no regular file", "sbom", tmp_path, "-o", pipe)
    assert pipe.is_fifo()
    nowhere = tmp_path / "no/x.json"
    refused(run_cli, f"directory {nowhere.parent} is not there", "sbom", tmp_path, "-o", nowhere)


def test_what_is_no_root_file_system(run_cli: RunCli, tmp_path: Path) -> None:
    refused(run_cli, "no bundle in", "sbom", f"{tmp_path}/none")
    assert run_cli("sbom", tmp_path, "--key", "x").returncode == 2


def test_pushed_signed_fetched(run_cli: RunCli, bare_registry: str, tmp_path: Path) -> None:
    name = f"{bare_registry}/sbom/app:1"
    push(layout(tmp_path / "image", layer(*HOSTILE[:6])), name)
    for key in ("ci", "foe"):
        file = tmp_path / f"{key}.key"
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", file], check=True)
        argv = ["openssl", "pkey", "-in", file, "-pubout", "-out", tmp_path / f"{key}.pub"]
        subprocess.run(argv, check=True)
    made = bundle(run_cli, name, tmp_path / "b")
    here = run_cli("sbom", made).stdout
    said = push_cli(run_cli, made, "--no-sbom")
    assert said["sbom"] is False
    assert "no SBOM is attached" in run_cli("verify", name).stderr
    refused(run_cli, "no SBOM is attached", "sbom", "--attached", name)
    said = push_cli(run_cli, made)
    assert (said["sbom"], said["sent"]) == (True, 0)
    assert run_cli("sbom", "--attached", name).stdout == here
    assert "an SBOM is attached: sha256:" in run_cli("verify", name).stderr
    # Others find it by the tag of the bundle's digest.
    url = f"http://{bare_registry}/v2/sbom/app/manifests/{tag_of(said['digest'])}"
    asked = urllib.request.Request(
        url, headers={"Accept": "application/vnd.oci.image.index.v1+json"}
    )
    listed = json.loads(urllib.request.urlopen(asked).read())["manifests"]
    assert [each["artifactType"] for each in listed] == [SBOM_TYPE]
    client = oras.client.OrasClient(hostname=bare_registry, insecure=True)
    target = f"{bare_registry}/sbom/app@{listed[0]['digest']}"
    files = client.pull(target=target, outdir=str(tmp_path / "oras"))
    assert [(tmp_path / "oras/sbom.cdx.json").read_text()] == [here] * len(files)
    # Signed with the bundle, or not at all.
    push_cli(run_cli, made, "--no-sbom", "--sign", tmp_path / "ci.key")
    wanted = ("sbom", "--attached", name, "--key", tmp_path / "ci.pub")
    refused(run_cli, "is not signed with it", *wanted)
    other = f"{bare_registry}/sbom/signed:1"
    push_cli(run_cli, made, other, "--sign", tmp_path / "ci.key")
    assert run_cli("sbom", "--attached", other, "--key", tmp_path / "ci.pub").stdout == here
    refused(run_cli, "by no key that may", "sbom", "--attached", other,
            "--key", tmp_path / "foe.pub")  # fmt: skip
    verified = run_cli("verify", other, "--key", tmp_path / "ci.pub")
    assert "an SBOM is attached, signed with the bundle" in verified.stderr, verified.stderr


def test_an_image_without_a_bundle_leaves_the_store_as_it_is(
    run_cli: RunCli, tmp_path: Path
) -> None:
    made = layout(tmp_path / "image", layer(f("etc/os-release", b"ID=tiny\n")))
    image = f"oci:{made}"
    assert run_cli("convert", "--no-kernel", "--format", "ext4", image).returncode == 0
    before = run_cli("images", "--json").stdout
    document = json.loads(run_cli("sbom", image).stdout)
    assert "tiny" in [component["name"] for component in document["components"]]
    assert run_cli("images", "--json").stdout == before
