"""Images put together of local layers: what they are called by, and what is in them."""

from __future__ import annotations

import gzip
import os
import random
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import zstandard

from hyperbuild.converter.composed import ComposedSource, Composition, OwnLayer, merged
from hyperbuild.converter.errors import ContentError, InputError, UnavailableError
from hyperbuild.converter.folder import Folder
from hyperbuild.converter.limits import DEFAULT_LIMITS, LimitError
from hyperbuild.converter.oci import Platform
from hyperbuild.converter.progress import QUIET
from hyperbuild.converter.reference import parse_reference
from hyperbuild.converter.settings import RegistrySettings
from hyperbuild.converter.source import open_source
from hyperbuild.converter.store import Store
from tests.support.layers import d, digest, f, layer, layout

if TYPE_CHECKING:
    from hyperbuild.converter.limits import Limits
    from hyperbuild.converter.source import SourceImage

AMD64 = Platform("linux", "amd64")
TAR = layer(d("etc"), f("etc/name", "one"))


def compose(
    directory: Path,
    *contents: Path | Folder,
    base: Path | None = None,
    limits: Limits = DEFAULT_LIMITS,
    latest: datetime | None = None,
    **config: object,
) -> SourceImage:
    """Resolve the image of these layers, and read its own through to their verified end."""
    store = Store(directory / "store")
    layers = tuple(OwnLayer(content, "made here", "the layer") for content in contents)
    composition = Composition(layers, config, latest, latest)
    name = parse_reference("localhost/app")
    if base is None:
        return _resolved(ComposedSource(name, composition, None, store, limits))
    reference = parse_reference(f"oci:{base}")
    with open_source(reference, store=store, settings=RegistrySettings()) as below:
        return _resolved(ComposedSource(name, composition, below, store, limits))


def _resolved(source: ComposedSource) -> SourceImage:
    image = source.resolve(AMD64, QUIET)
    for blob, _ in image.layers:
        with source.open_layer(blob, QUIET) as raw:
            assert digest(raw.readall()) == blob.digest
    source.close()
    return image


def written(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_layers_of_every_compression_are_the_same_layer(tmp_path: Path) -> None:
    packed = {
        "a.tar": TAR,
        "a.tar.gz": gzip.compress(TAR),
        "a.tar.zst": zstandard.compress(TAR),
    }
    image = compose(tmp_path, *(written(tmp_path / name, raw) for name, raw in packed.items()))
    assert image.config.diff_ids == (digest(TAR),) * 3
    assert [blob.digest for blob in image.manifest.layers] == [digest(it) for it in packed.values()]
    kinds = [blob.media_type.rpartition(".")[2] for blob in image.manifest.layers]
    assert kinds == ["tar", "tar+gzip", "tar+zstd"]
    assert image.config.created_by() == ("made here",) * 3


def test_the_manifest_depends_on_content_alone(tmp_path: Path) -> None:
    digests = set()
    for name in ("one", "two"):
        room = tmp_path / name
        (room / "site/deep").mkdir(parents=True)
        (room / "site/deep/page").write_text("hello")
        (room / "site/link").symlink_to("deep/page")
        for path in (room / "site/deep/page", room / "site/deep"):
            os.utime(path, (1_600_000_000, 1_600_000_000))
        os.utime(room / "site/link", (1_600_000_000, 1_600_000_000), follow_symlinks=False)
        tar = written(room / "a.tar", TAR)
        digests.add(compose(room, tar, Folder(room / "site", "/srv")).manifest.digest)
    assert len(digests) == 1


def test_no_time_is_after_the_latest(tmp_path: Path) -> None:
    (tmp_path / "site").mkdir()
    moment = datetime(2024, 1, 2, tzinfo=UTC)
    found = set()
    for seconds in (1_800_000_000, 1_900_000_000):
        written(tmp_path / "site/page", b"x")
        os.utime(tmp_path / "site/page", (seconds, seconds))
        image = compose(tmp_path, Folder(tmp_path / "site", "/"), latest=moment)
        found.add(image.manifest.digest)
        assert image.config.created == "2024-01-02T00:00:00Z"
    assert len(found) == 1


def test_on_a_base_image(tmp_path: Path) -> None:
    env, volumes = ["A=1", "B=2"], {"/data": {}}
    config = {"Env": env, "Entrypoint": ["/e"], "Cmd": ["c"], "User": "u", "Volumes": volumes}
    base = layout(tmp_path / "base", layer(f("x")), config=config)
    own = written(tmp_path / "a.tar", TAR)
    image = compose(tmp_path, own, base=base, Env=["B=3", "C=4"], Cmd=["d"], Labels={"l": "1"})
    assert image.config.config == {
        "Env": ["A=1", "B=3", "C=4"], "Entrypoint": ["/e"], "Cmd": ["d"], "User": "u",
        "Labels": {"l": "1"}, "Volumes": volumes,
    }  # fmt: skip
    assert image.config.diff_ids == (digest(layer(f("x"))), digest(TAR))
    assert image.config.created == "2024-01-02T03:04:05.123456789Z"
    # The base has no history, so that of one layer would say nothing.
    assert image.config.created_by() == ("", "")


def test_another_entrypoint_takes_the_words_of_the_old_one_away() -> None:
    base = {"Entrypoint": ["/old"], "Cmd": ["--old"]}
    assert merged(base, {"Entrypoint": ["/new"]}) == {"Entrypoint": ["/new"]}
    assert merged(base, {"Entrypoint": ["/new"], "Cmd": ["x"]})["Cmd"] == ["x"]
    assert merged(base, {"Cmd": ["x"]}) == {"Entrypoint": ["/old"], "Cmd": ["x"]}


@pytest.mark.parametrize(
    "content",
    [
        gzip.compress(random.Random(1).randbytes(5000), mtime=0)[:-20],
        b"\x28\xb5\x2f\xfd\0\0\6\0\0" + bytes(99),
    ],
)
def test_damaged_layers(content: bytes, tmp_path: Path) -> None:
    with pytest.raises(ContentError, match=r"^the layer does not decompress"):
        compose(tmp_path, written(tmp_path / "a.tar", content))


def test_a_bomb(tmp_path: Path) -> None:
    limits = DEFAULT_LIMITS.replace(unpacked=1 << 20)
    with pytest.raises(LimitError, match="the layer"):
        compose(tmp_path, written(tmp_path / "a", gzip.compress(bytes(8 << 20))), limits=limits)


def test_folders_that_cannot_be_copied(tmp_path: Path) -> None:
    for odd in ("fifo", ".wh.x"):
        site = tmp_path / f"site-{odd}"
        site.mkdir()
        if odd == "fifo":
            os.mkfifo(site / odd)
        else:
            (site / odd).touch()
        with pytest.raises(InputError, match=rf"^the layer: .*/{odd} "):
            compose(tmp_path, Folder(site, "/"))
    assert not list((tmp_path / "store/.partial").iterdir())


def test_a_folder_that_is_gone(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"^the layer: cannot copy .*site: No such file"):
        compose(tmp_path, Folder(tmp_path / "site", "/"))
