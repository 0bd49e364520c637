"""``hyperbuild inspect``: from a name to all that can be said of what it names.

What a name means is for ``locating``; how the result looks is for the reports.
"""

from __future__ import annotations

import platform
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from hyperbuild.builder.lint import Point, lint
from hyperbuild.builder.locating import find_stored, hinting, is_finished, open_finished
from hyperbuild.builder.parts import built_in_options
from hyperbuild.converter import oci
from hyperbuild.converter.errors import HyperbuildError, InputError
from hyperbuild.converter.examine import examine_rootfs
from hyperbuild.converter.indexes import read_indexes
from hyperbuild.converter.layer_cache import LayerKey
from hyperbuild.converter.limits import LARGEST_DOCUMENT
from hyperbuild.converter.oci import Platform
from hyperbuild.converter.platforms import host_platform
from hyperbuild.converter.progress import QUIET
from hyperbuild.converter.reference import parse_reference
from hyperbuild.converter.source import open_source
from hyperbuild.converter.survey import survey_layers
from hyperbuild.launcher.bundle import ImageInfo

if TYPE_CHECKING:
    from pathlib import Path

    from hyperbuild.builder.context import Context
    from hyperbuild.converter.layer_cache import LayerCache
    from hyperbuild.converter.limits import Limits
    from hyperbuild.converter.progress import Progress
    from hyperbuild.converter.source import ImageSource, SourceImage
    from hyperbuild.converter.store import Store
    from hyperbuild.converter.survey import Contents, LayerUse, Survey, Weight
    from hyperbuild.launcher.bundle import Bundle
    from hyperbuild.launcher.located import BundleFiles


@dataclass(frozen=True, slots=True)
class InspectOptions:
    """The command's argument and options."""

    name: str
    platform_text: str | None
    authfile: Path | None
    limits: Limits


@dataclass(frozen=True, slots=True)
class Layer:
    """One layer: digest and size of its blob in bytes, what made it ("" if unknown), its use."""

    digest: str
    diff_id: str
    compressed: int
    created_by: str
    use: LayerUse


@dataclass(frozen=True, slots=True)
class Layers:
    """An image's layers from the base up, the files that its tree does not show, efficiency."""

    layers: tuple[Layer, ...]
    lost: tuple[Weight, ...]
    efficiency: float


@dataclass(frozen=True, slots=True)
class Inspection:
    """What was found under ``name``.

    ``bundle`` is None for an image that is not converted, and then ``lint`` is empty; ``layers``
    is None where only the root file system is at hand; ``contents`` is None if that is damaged.
    """

    name: str
    image: ImageInfo
    bundle: Bundle | None
    layers: Layers | None
    contents: Contents | None
    lint: tuple[Point, ...]


def inspect_name(context: Context, options: InspectOptions) -> Inspection:
    """Look at what options name; errors as for its source, its layers or its bundle."""
    name = options.name
    if is_finished(name):
        if options.platform_text or options.authfile:
            raise InputError(
                f"--platform and --authfile are for images, and {name} is a finished bundle; "
                "drop them or name the image"
            )
        return _inspect_bundle(context, name, open_finished(context, name), options.limits)
    with hinting(name):
        found = None if options.platform_text else find_stored(context, name)
        if found:
            return _inspect_bundle(context, name, found, options.limits)
        return _inspect_image(context, options)


def _inspect_bundle(context: Context, name: str, files: BundleFiles, limits: Limits) -> Inspection:
    contents, points = _examine(context, files)
    layers = None
    cache = context.layers()
    at_hand = _stored_image(context.store(), cache, files.bundle)
    if at_hand:
        image, source = at_hand
        survey = _survey(image, source, limits, context.console, cache)
        layers, contents = _layers(image, survey), survey.contents
    return Inspection(name, files.bundle.image, files.bundle, layers, contents, points)


def _examine(context: Context, files: BundleFiles) -> tuple[Contents | None, tuple[Point, ...]]:
    examined, kernel = examine_rootfs(files.rootfs), files.bundle.kernel
    options = built_in_options(context, kernel) if kernel else None
    has_verity = files.bundle.rootfs.verity is not None
    return examined.contents, lint(examined, kernel, options, has_verity=has_verity)


def _stored_image(
    store: Store, cache: LayerCache, bundle: Bundle
) -> tuple[SourceImage, ImageSource] | None:
    """Return a bundle's image if the store has it, its layers read already or there too.

    Its reference is not followed: a bundle may be a stranger's, and so would be the place.
    """
    from hyperbuild.converter.layout import DirectoryBlobs, LocalSource

    path = store.blob_path(bundle.image.manifest_digest)
    if not path.is_file():
        return None
    manifest = oci.Descriptor(oci.OCI_MANIFEST, bundle.image.manifest_digest, path.stat().st_size)
    with suppress(HyperbuildError):
        reference = parse_reference(bundle.image.reference)
        source = LocalSource(
            reference, [manifest], DirectoryBlobs(store.root),
            is_verified=True, limit=LARGEST_DOCUMENT,
        )  # fmt: skip
        image = source.resolve(Platform.parse(bundle.image.platform), QUIET)
        if all(store.has(blob) or cache.has(LayerKey.of(blob, id_)) for blob, id_ in image.layers):
            return image, source
    return None


def _inspect_image(context: Context, options: InspectOptions) -> Inspection:
    from hyperbuild.builder.stored import list_bundles

    reference = parse_reference(options.name)
    wanted = (
        Platform.parse(options.platform_text)
        if options.platform_text
        else host_platform(platform.machine())
    )
    store = context.store()
    settings = context.registries(options.authfile, reference.transport)
    with open_source(reference, store=store, settings=settings) as source:
        image = source.resolve(wanted, context.console)
        survey = _survey(image, source, options.limits, context.console, context.layers())
    info = ImageInfo(
        reference=str(image.reference),
        manifest_digest=image.manifest.digest,
        config_digest=image.config.digest,
        platform=str(image.platform),
    )
    made = (bundle.files for bundle in list_bundles(store))
    files = next(
        (it for it in made if it.bundle.image.manifest_digest == info.manifest_digest), None
    )
    return Inspection(
        name=options.name,
        image=info,
        bundle=files.bundle if files else None,
        layers=_layers(image, survey),
        contents=survey.contents,
        lint=_examine(context, files)[1] if files else (),
    )


def _survey(
    image: SourceImage,
    source: ImageSource,
    limits: Limits,
    progress: Progress,
    cache: LayerCache,
) -> Survey:
    indexes = read_indexes(image, source, limits=limits, progress=progress, cache=cache)
    return survey_layers(indexes, limits)


def _layers(image: SourceImage, survey: Survey) -> Layers:
    described = zip(
        image.manifest.layers,
        image.config.diff_ids,
        image.config.created_by(),
        survey.layers,
        strict=True,
    )
    return Layers(
        layers=tuple(
            Layer(blob.digest, diff_id, blob.size, created_by, use)
            for blob, diff_id, created_by, use in described
        ),
        lost=survey.lost,
        efficiency=survey.efficiency,
    )
