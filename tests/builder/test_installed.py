"""What the parsers of package databases find, in real ones and in bytes that are none."""

from __future__ import annotations

import io
import json
import sqlite3
import struct
import subprocess
import zipfile
import zlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbuild.builder.installed import Package
from hyperbuild.builder.installed_apk import read_apk
from hyperbuild.builder.installed_dpkg import read_dpkg
from hyperbuild.builder.installed_elf import read_program
from hyperbuild.builder.installed_java import read_archive
from hyperbuild.builder.installed_languages import read_composer, read_gem, read_npm, read_python
from hyperbuild.builder.installed_rpm import read_header, read_ndb, read_sqlite
from hyperbuild.converter.errors import ContentError
from tests.fuzz.targets import TARGETS, check

if TYPE_CHECKING:
    from pathlib import Path


def header(**tags: str | int) -> bytes:
    """Return an rpm header with those tags, as docs/manual/format_v4.md has it."""
    numbers = {"name": 1000, "version": 1001, "release": 1002, "epoch": 1003, "arch": 1022}
    index, store = b"", b""
    for name, value in tags.items():
        kind = 4 if isinstance(value, int) else 6
        index += struct.pack(">IIII", numbers[name], kind, len(store), 1)
        store += struct.pack(">I", value) if isinstance(value, int) else value.encode() + b"\0"
    return struct.pack(">II", len(tags), len(store)) + index + store


HEADER = header(epoch=7, name="bash", version="5.1", release="2.el9", arch="x86_64")
BASH = Package("rpm", "bash", "5.1-2.el9", arch="x86_64", epoch="7")


def ndb(*headers: bytes) -> bytes:
    blobs, slots = b"", b""
    for number, blob in enumerate(headers, start=1):
        slots += struct.pack("<4sIII", b"Slot", number, 256 + len(blobs) // 16, 1)
        whole = struct.pack("<4sIII", b"BlbS", number, 1, len(blob)) + blob
        blobs += whole + bytes(-len(whole) % 16)
    page = struct.pack("<4sIII16x", b"RpmP", 0, 1, 1) + slots
    return page.ljust(4096, b"\0") + blobs


def test_rpm_headers_in_ndb() -> None:
    assert read_header(HEADER) == BASH
    assert read_header(header(name="gpg-pubkey", version="1", release="2")) is None
    assert list(read_ndb(ndb(HEADER, HEADER))) == [BASH, BASH]


def test_a_real_database_of_rpm(tmp_path: Path) -> None:
    spec = tmp_path / "a.spec"
    spec.write_text(
        "Name: hello-data\nVersion: 1.2\nRelease: 3\nEpoch: 7\nSummary: s\nLicense: MIT\n"
        "BuildArch: noarch\n%description\nd\n%install\nmkdir -p %{buildroot}/opt\n"
        "echo hi > %{buildroot}/opt/hi\n%files\n/opt/hi\n"
    )
    subprocess.run(
        ["rpmbuild", "-bb", "--quiet", "--define", f"_topdir {tmp_path}/build", spec],
        check=True, capture_output=True,
    )  # fmt: skip
    made = next((tmp_path / "build/RPMS").rglob("*.rpm"))
    rpm = ["rpm", "--define", "_db_backend sqlite", "--dbpath", "/db", "--root", tmp_path / "root"]
    (tmp_path / "root").mkdir()
    subprocess.run([*rpm, "--initdb"], check=True, capture_output=True)
    argv = [*rpm, "-i", "--justdb", "--nodeps", "--noscripts", made]
    subprocess.run(argv, check=True, capture_output=True)
    content = (tmp_path / "root/db/rpmdb.sqlite").read_bytes()
    assert list(read_sqlite(content)) == [
        Package("rpm", "hello-data", "1.2-3", arch="noarch", epoch="7", license="MIT",
                source="hello-data-1.2-3.src.rpm")
    ]  # fmt: skip


@pytest.mark.parametrize(
    "schema",
    [
        "CREATE VIEW Packages AS WITH RECURSIVE r(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM r) "
        "SELECT n AS hnum, x'00' AS blob FROM r",
        "CREATE TABLE Packages (hnum INTEGER PRIMARY KEY, blob AS (zeroblob(1000000000)))",
        "CREATE TABLE Others (hnum INTEGER PRIMARY KEY, blob BLOB)",
    ],
)
def test_a_database_with_a_schema_of_its_own_is_refused(tmp_path: Path, schema: str) -> None:
    with sqlite3.connect(tmp_path / "a") as base:
        base.execute(schema)
    base.close()
    with pytest.raises(ContentError):
        list(read_sqlite((tmp_path / "a").read_bytes()))


def test_dpkg_lists_what_is_there_and_no_more() -> None:
    status = (
        b"Package: a\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1:2-3\n"
        b"Source: b (2-1)\nDescription: x\n Version: 9\n\n"
        b"Package: gone\nStatus: deinstall ok config-files\nVersion: 1\n\n"
        b"no field\n\nPackage: noversion\n\nPackage: c\nVersion: 4\n"
    )
    assert list(read_dpkg(status)) == [
        Package("deb", "a", "1:2-3", arch="amd64", source="b 2-1"),
        Package("deb", "c", "4"),
    ]


def test_apk() -> None:
    content = b"C:Q1x=\nP:musl\nV:1.2.4-r1\nA:x86_64\nL:MIT\no:musl\nF:lib\nR:x\n\nP:x\n\n"
    assert list(read_apk(content)) == [
        Package("apk", "musl", "1.2.4-r1", arch="x86_64", license="MIT")
    ]


def test_metadata_of_languages() -> None:
    python = b"Metadata-Version: 2.1\nName: Some_Name\nVersion: 1.0\nLicense: MIT\n\nName: no\n"
    assert list(read_python(python, "")) == [Package("pypi", "Some_Name", "1.0", license="MIT")]
    npm = b'{"name": "@a/b", "version": "1", "licenses": [{"type": "ISC"}]}'
    assert list(read_npm(npm, "")) == [Package("npm", "b", "1", namespace="@a", license="ISC")]
    stub = b"# -*- encoding: utf-8 -*-\n# stub: rake 13.0.6 ruby lib\n"
    assert list(read_gem(stub, "x")) == [Package("gem", "rake", "13.0.6")]
    assert list(read_gem(b"", "a-b-1.2-x86_64-linux.gemspec")) == [
        Package("gem", "a-b", "1.2", arch="x86_64-linux")
    ]
    composer = b'{"packages": [{"name": "v/n", "version": "v1", "license": ["MIT"]}, 5]}'
    assert list(read_composer(composer, "")) == [
        Package("composer", "n", "v1", namespace="v", license="MIT")
    ]


def jar(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def test_archives_in_archives() -> None:
    pom = {"META-INF/maven/g/a/pom.properties": b"#c\ngroupId=g\nartifactId=a\nversion=1\n"}
    manifest = {
        "META-INF/MANIFEST.MF": b"Manifest-Version: 1.0\r\nImplementation-Ver\r\n sion: 3\r\n"
    }
    outer = jar(**pom, **{"lib/b-2.jar": jar(**manifest), "lib/bad.txt": b""})
    spent: list[int] = []
    assert list(read_archive(io.BytesIO(outer), "app.jar", spent.append)) == [
        ("", Package("maven", "a", "1", namespace="g")),
        ("!/lib/b-2.jar", Package("maven", "b", "3")),
    ]
    assert sum(spent) > 0
    with pytest.raises(ContentError):
        list(read_archive(io.BytesIO(outer[:-5]), "app.jar", spent.append))


def program(tmp_path: Path, section: str, content: bytes) -> io.FileIO:
    (tmp_path / "section").write_bytes(content)
    (tmp_path / "a.c").write_text("int main(void) { return 0; }")
    subprocess.run(["gcc", "-o", tmp_path / "a", tmp_path / "a.c"], check=True)
    option = f"--add-section={section}={tmp_path}/section"
    subprocess.run(["objcopy", option, "--set-section-flags", f"{section}=alloc", tmp_path / "a"],
                   check=True, capture_output=True)  # fmt: skip
    return io.FileIO(tmp_path / "a")


def test_modules_of_a_go_program(tmp_path: Path) -> None:
    lines = (
        b"path\tx\nmod\tex.org/m\t(devel)\t\ndep\tex.org/a/b\tv1\th1:\n"
        b"dep\tex.org/c\tv2\n=>\tex.org/d\tv3\ndep\tex.org/e\tv4\n=>\t./e\t(devel)\n"
    )
    modules = b"0" * 16 + lines + b"0" * 16
    blob = (b"\xff Go buildinf:\x08\x02").ljust(32, b"\0") + b"\x06go1.22"
    blob += bytes([len(modules) & 0x7F | 0x80, len(modules) >> 7]) + modules
    with program(tmp_path, ".go.buildinfo", blob) as stream:
        assert list(read_program(stream)) == [
            Package("golang", "stdlib", "1.22"),
            Package("golang", "m", "", namespace="ex.org"),
            Package("golang", "b", "v1", namespace="ex.org/a"),
            Package("golang", "d", "v3", namespace="ex.org"),
            Package("golang", "e", "v4", namespace="ex.org"),
        ]


def test_a_real_go_program() -> None:
    with io.FileIO("/usr/bin/umoci") as stream:
        found = list(read_program(stream))
    assert found[0].name == "stdlib"
    assert found[0].version.startswith("1.")


def test_crates_of_a_rust_program(tmp_path: Path) -> None:
    crates = [{"name": "a", "version": "1"}, {"name": "b", "version": "2", "kind": "build"}]
    blob = zlib.compress(json.dumps({"packages": crates}).encode())
    with program(tmp_path, ".dep-v0", blob) as stream:
        assert list(read_program(stream)) == [Package("cargo", "a", "1")]


@given(st.binary(max_size=300), st.integers(0, 15), st.integers(0, 4000))
def test_what_is_damaged_is_refused_or_read(noise: bytes, seed: int, place: int) -> None:
    target = TARGETS["packages"]
    good = target.seeds[seed % len(target.seeds)]
    check(target, noise)
    at = place % max(1, len(good))
    check(target, good[:at] + noise + good[at + len(noise) :])
