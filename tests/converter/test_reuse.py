"""Layers that were read before are not read again, and nobody can tell from the result."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyperbuild.converter import reuse
from hyperbuild.converter.convert import FORMATS, Rootfs, convert
from hyperbuild.converter.errors import ContentError, VerificationError
from hyperbuild.converter.files import Identity
from hyperbuild.converter.layer_cache import LayerCache
from hyperbuild.converter.limits import LimitError, Limits
from hyperbuild.converter.oci import Descriptor
from hyperbuild.converter.progress import QUIET
from hyperbuild.converter.reference import parse_reference
from hyperbuild.converter.sealed import Sealed
from hyperbuild.converter.settings import RegistrySettings
from hyperbuild.converter.source import open_source
from hyperbuild.converter.store import Store
from hyperbuild.converter.stream import verify_blob
from tests.converter.test_model import images
from tests.support.layers import E, d, digest, f, h, layer, layout, s
from tests.support.memory import AMD64, LIMITS, MemorySource, image_of
from tests.support.tarball import Entry, member

BASE = layer(
    d("etc"), f("etc/a", b"a" * 5000), f("etc/b", b"b"), f("etc/twin", b"a" * 5000),
    s("link", "etc"), h("etc/hard", "etc/a"), f("big", os.urandom(1) * (3 << 20)),
    E("null", b"3", device=(1, 3)), f("etc/x", b"x", xattrs={"user.a": b"1\xff", "user.b": b""}),
)  # fmt: skip
TOP = layer(f("etc/b", b"new"), f("etc/c", b"a" * 5000))
OTHER_TOP = layer(f("etc/twin", b"other"), f(".wh.big"))


class Desk:
    """Converts images of layer tars one after another, with one cache."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._count = 0
        self.cache = LayerCache(Sealed(home / "cache"))
        self.opened: list[str] = []
        self.made: list[Path] = []
        self.warned: list[str] = []

    def convert(
        self,
        *tars: bytes,
        rootfs_format: str = "erofs",
        cached: bool = True,
        limits: Limits = LIMITS,
        aligns: bool = False,
        source: MemorySource | None = None,
    ) -> bytes:
        """Return the bytes of the root file system, a file that is lent from now on."""
        self._count += 1
        path = self._home / f"rootfs-{self._count}"
        source = source or MemorySource(tars)
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            rootfs: Rootfs = convert(
                image_of(tars),
                source,
                fd,
                rootfs_format=FORMATS[rootfs_format],
                epoch=0,
                progress=self,
                limits=limits,
                aligns=aligns,
                cache=self.cache if cached else None,
            )
        finally:
            os.close(fd)
            self.opened = source.opened
        if cached:
            for loan in rootfs.flat.loans:
                self.cache.lend(loan, Identity.of(path, str(path)))
        content = path.read_bytes()
        assert rootfs.digest == digest(content)
        self.made.append(path)
        return content

    def say(self, message: str) -> None:
        pass

    def warn(self, message: str) -> None:
        self.warned.append(message)

    def task(self, name: str, total: int | None = None, unit: str = "B") -> object:
        return QUIET.task(name, total, unit)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.parametrize("rootfs_format", FORMATS)
@pytest.mark.parametrize("before", FORMATS)
def test_only_the_top_layer_is_read(desk: Desk, before: str, rootfs_format: str) -> None:
    desk.convert(BASE, TOP, rootfs_format=before)
    other = layer(f("etc/b", b"newer"), f("etc/d", b"b"))
    content = desk.convert(BASE, other, rootfs_format=rootfs_format)
    # etc/b was not written the first time, and is covered again: nothing of the base is missing.
    assert desk.opened == [digest(other)]
    assert content == desk.convert(BASE, other, rootfs_format=rootfs_format, cached=False)


def test_a_file_that_comes_to_light_has_the_layer_read(desk: Desk) -> None:
    desk.convert(BASE, TOP)
    content = desk.convert(BASE, OTHER_TOP)
    assert desk.opened == [digest(OTHER_TOP), digest(BASE)]
    assert content == desk.convert(BASE, OTHER_TOP, cached=False)
    # What has more of a layer stays its donor.
    desk.convert(BASE)
    desk.convert(BASE, OTHER_TOP)
    assert desk.opened == []


@settings(
    max_examples=25,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)  # fmt: skip
@given(images(), images(), st.booleans())
def test_any_images_are_the_same_with_a_cache(
    tmp_path_factory: pytest.TempPathFactory,
    image: tuple[list[list[Entry]], list[bytes]],
    other: tuple[list[list[Entry]], list[bytes]],
    aligns: bool,
) -> None:
    desk = Desk(tmp_path_factory.mktemp("desk"))
    bottom, top = image[1], other[1]
    for tars in (bottom, [*bottom, top[-1]], bottom, [*bottom[:1], *top]):
        for rootfs_format in FORMATS:
            try:
                cold = desk.convert(*tars, rootfs_format=rootfs_format, cached=False, aligns=aligns)
            except ContentError:
                with pytest.raises(ContentError):
                    Desk(tmp_path_factory.mktemp("cold")).convert(*tars)
                continue
            assert desk.convert(*tars, rootfs_format=rootfs_format, aligns=aligns) == cold


def test_a_donor_that_was_touched_gives_nothing(desk: Desk) -> None:
    desk.convert(BASE)
    donor = desk.made[0]
    times = donor.stat()
    content = donor.read_bytes()
    donor.write_bytes(content.replace(b"a" * 5000, b"z" * 5000))
    os.utime(donor, ns=(times.st_atime_ns, times.st_mtime_ns))
    assert desk.convert(BASE, TOP) == desk.convert(BASE, TOP, cached=False)
    assert b"z" * 5000 not in desk.made[-1].read_bytes()


def test_a_change_right_after_settling_is_seen(tmp_path: Path) -> None:
    """The clock of change times stands still for milliseconds: many rounds, some within one."""
    path = tmp_path / "file"
    for _ in range(50):
        path.write_bytes(b"one")
        identity = Identity.of(path, str(path))
        identity.settle()
        path.write_bytes(b"two")
        os.utime(path, ns=(identity.mtime_ns, identity.mtime_ns))
        assert Identity.of(path, str(path)) != identity


def test_a_donor_that_is_gone_is_not_missed(desk: Desk) -> None:
    desk.convert(BASE)
    desk.made[0].unlink()
    assert desk.convert(BASE, TOP) == desk.convert(BASE, TOP, cached=False)


@pytest.mark.parametrize("kind", ["index", "donor"])
@pytest.mark.parametrize("harm", ["cut", "flip", "empty", "directory"])
def test_a_damaged_cache_counts_as_none(desk: Desk, tmp_path: Path, kind: str, harm: str) -> None:
    desk.convert(BASE)
    for path in (tmp_path / "cache").glob(f"*.{kind}"):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        if harm == "directory":
            path.unlink()
            path.mkdir()
        else:
            path.write_bytes({"cut": content[:-9], "flip": content, "empty": b""}[harm])
    assert desk.convert(BASE, TOP) == desk.convert(BASE, TOP, cached=False)
    assert digest(BASE) in desk.opened


def test_a_cache_that_cannot_be_written_is_no_failure(desk: Desk, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("no directory")
    assert desk.convert(BASE) == desk.convert(BASE)


def test_limits_hold_for_what_is_not_read(desk: Desk) -> None:
    desk.convert(BASE)
    for tight in (
        LIMITS.replace(entries=3),
        LIMITS.replace(file=1 << 20),
        LIMITS.replace(unpacked=1 << 20),
        LIMITS.replace(depth=1),
        LIMITS.replace(metadata=8),
    ):
        with pytest.raises(LimitError):
            desk.convert(BASE, TOP, limits=tight, cached=True)
    assert desk.opened == [digest(TOP)]


def test_what_is_left_out_is_told_each_time(desk: Desk) -> None:
    plug = member(Entry(b"plug", mode=0o140755))
    tar = plug + layer(f("kept", xattrs={"odd.name": b"1", "trusted.overlay.origin": b"2"}))
    desk.convert(tar)
    first, desk.warned = desk.warned, []
    desk.convert(tar)
    assert desk.opened == []
    assert desk.warned == first
    socket, attribute = first
    assert "socket plug is skipped" in socket
    assert "kept: the extended attribute odd.name is no attribute of Linux" in attribute


def test_the_blob_of_a_cached_layer_is_verified_where_nobody_has(desk: Desk) -> None:
    desk.convert(BASE)

    class Spoilt(MemorySource):
        is_verified = False

    source = Spoilt([BASE])
    source._blobs[digest(BASE)] = BASE.replace(b"aaaa", b"aaab", 1)
    with pytest.raises(VerificationError, match="has the digest"):
        desk.convert(BASE, source=source)


def test_a_blob_is_read_again_only_if_its_file_was_touched(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reference = parse_reference(f"oci:{layout(tmp_path / 'image', BASE, TOP)}")
    checked: list[str] = []

    def look(raw: object, layer: Descriptor, where: str) -> None:
        checked.append(layer.digest)
        verify_blob(raw, layer, where)  # type: ignore[arg-type]

    monkeypatch.setattr(reuse, "verify_blob", look)

    def verified() -> tuple[list[str], list[str]]:
        checked.clear()
        store = Store(tmp_path / "store")
        with open_source(reference, store=store, settings=RegistrySettings()) as source:
            image = source.resolve(AMD64, QUIET)
            with reuse.BlobChecks(image, source, QUIET, desk.cache) as checks:
                for layer in image.layers:
                    checks.check(layer)
            return sorted(checked), sorted(layer.digest for layer, _ in image.layers)

    time.sleep(1.1)  # what was changed in the second before is not trusted
    seen, both = verified()
    assert seen == both
    assert verified()[0] == []
    (tmp_path / "image/blobs" / both[0].replace(":", "/")).touch()
    assert verified()[0] == both[:1]
    assert verified()[0] == both[:1]
