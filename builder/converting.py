"""``hyperbuild convert``: from what the user typed to a bundle in the store or in a directory."""

from __future__ import annotations

import json
import platform
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hyperbuild.builder.bundling import Order, Parts, store_bundle
from hyperbuild.builder.export import export_bundle
from hyperbuild.builder.locating import hinting
from hyperbuild.builder.parts import check_has_verity, custom_kernel, make_initramfs, profile_kernel
from hyperbuild.builder.stored import StoredBundle
from hyperbuild.converter.limits import DEFAULT_LIMITS, Limits
from hyperbuild.converter.oci import Platform
from hyperbuild.converter.platforms import host_platform
from hyperbuild.converter.reference import parse_reference
from hyperbuild.converter.source import open_source
from hyperbuild.kernel.kconfig import DEFAULT_PROFILE, read_fragment

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    from hyperbuild.builder.context import Context
    from hyperbuild.converter.composed import Composition
    from hyperbuild.converter.source import ImageSource
    from hyperbuild.converter.store import Store
    from hyperbuild.launcher.bundle import Bundle
    from hyperbuild.launcher.defaults import BootDefaults


#: Seconds for which a cut download is worth continuing.
_CUT_DOWNLOAD_KEPT = 7 * 86400


@dataclass(frozen=True, slots=True)
class Request:
    """What to convert: an image reference and, where given, platform, credentials and kernel.

    An image that is put together here has a ``composition``: ``image`` is what it is called then,
    and ``base`` the reference of the image below it, if there is one.

    ``known_as`` is what the bundle says that its image is called, where that is not ``image``.
    ``rootfs_format`` is "erofs" or "ext4"; ``aligns`` has large files begin at huge pages,
    ``with_verity`` adds a dm-verity hash tree; ``verify`` has the result compared with the layers.
    ``fragments`` are files of kernel options beyond the profile's, ``boot`` is what the bundle will
    say of how to boot it.
    """

    image: str
    platform: str | None = None
    authfile: Path | None = None
    kernel_file: Path | None = None
    profile: str = DEFAULT_PROFILE
    with_kernel: bool = True
    rootfs_format: str = "erofs"
    limits: Limits = DEFAULT_LIMITS
    aligns: bool = False
    verify: bool = False
    fragments: tuple[Path, ...] = ()
    boot: BootDefaults | None = None
    composition: Composition | None = None
    base: str | None = None
    with_verity: bool = False
    known_as: str | None = None


@dataclass(frozen=True, slots=True)
class Result:
    """A finished conversion; ``name`` is the store digest or the directory."""

    name: str
    bundle: Bundle

    def to_json(self) -> str:
        """Describe it as a JSON object: where it is, and bundle.json's content."""
        return json.dumps({"name": self.name, "bundle": json.loads(self.bundle.to_json())})


def convert_image(context: Context, request: Request, output: Path | None) -> Result:
    """Convert request's image into the directory output, or into the store if that is None."""
    started = time.monotonic()
    with ordered(context, request) as (store, order):
        if output is None:
            stored = store_bundle(store, order)
            result = Result(stored.digest, stored.files.bundle)
        else:
            result = Result(str(output), export_bundle(output, order, context.sealed("exports")))
    _say_what_was_made(context, result, time.monotonic() - started)
    return result


def stored_bundle(context: Context, request: Request) -> StoredBundle:
    """Return request's bundle from the store, converted first if it is not there."""
    with ordered(context, request) as (store, order):
        return store_bundle(store, order)


def exported_bundle(context: Context, request: Request, directory: Path) -> Bundle:
    """Convert request's image into directory without a word."""
    with ordered(context, request) as (_, order):
        return export_bundle(directory, order, context.sealed("exports"))


@contextmanager
def ordered(
    context: Context, request: Request, parts: Parts | None = None
) -> Iterator[tuple[Store, Order]]:
    """Resolve the image and open its source for the time being.

    What it is joined with is made first, unless parts are given.
    """
    wanted = (
        Platform.parse(request.platform) if request.platform else host_platform(platform.machine())
    )
    store = context.store()
    store.sweep(time.time() - _CUT_DOWNLOAD_KEPT)
    with store.lease(), _source(context, request, store) as source:
        with hinting(request.base or request.image):
            image = source.resolve(wanted, context.console)
        if request.known_as:
            image = replace(image, reference=parse_reference(request.known_as))
        yield (
            store,
            Order(
                image=image,
                source=source,
                parts=parts or _parts(context, request),
                rootfs_format=request.rootfs_format,
                epoch=context.epoch,
                limits=request.limits,
                aligns=request.aligns,
                with_verity=request.with_verity,
                cache=context.layers(),
                verify=request.verify,
                boot=request.boot,
                progress=context.console,
            ),
        )


@contextmanager
def _source(context: Context, request: Request, store: Store) -> Iterator[ImageSource]:
    """Open where the request's image comes from, for the time being."""
    if request.composition is None:
        with _opened(context, request.image, request, store) as source:
            yield source
        return
    from hyperbuild.converter.composed import ComposedSource

    with ExitStack() as stack:
        base = None
        if request.base:
            base = stack.enter_context(_opened(context, request.base, request, store))
        composed = ComposedSource(
            parse_reference(request.image), request.composition, base, store, request.limits
        )
        stack.callback(composed.close)
        yield composed


def _opened(
    context: Context, name: str, request: Request, store: Store
) -> AbstractContextManager[ImageSource]:
    with hinting(name):
        reference = parse_reference(name)
    settings = context.registries(request.authfile, reference.transport)
    return open_source(reference, store=store, settings=settings, limits=request.limits)


def _parts(context: Context, request: Request) -> Parts:
    if not request.with_kernel:
        return Parts(None, None)
    if request.kernel_file:
        return Parts(custom_kernel(request.kernel_file), make_initramfs(context))
    fragments = tuple(map(read_fragment, request.fragments))
    if request.with_verity:
        check_has_verity(request.profile, fragments)
    kernel = profile_kernel(context, request.profile, fragments)
    return Parts(kernel, make_initramfs(context), fragments)


def _say_what_was_made(context: Context, result: Result, seconds: float) -> None:
    bundle = result.bundle
    pieces = [f"rootfs.{bundle.rootfs.format} {bundle.rootfs.size / (1 << 20):.0f} MiB"]
    if bundle.rootfs.verity:
        pieces.append(f"root hash {bundle.rootfs.verity.root_hash}")
    if bundle.kernel:
        pieces.append(f"kernel {bundle.kernel.version}")
    context.console.say(f"{bundle.image.reference}: {', '.join(pieces)} in {seconds:.1f} s")
