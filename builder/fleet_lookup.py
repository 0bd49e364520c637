"""What registries say before a fleet begins: where images are now, and which bundles they have."""

from __future__ import annotations

import platform
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from hyperbuild.builder.fleet_plan import Pinned
from hyperbuild.builder.pulling import find_marked
from hyperbuild.converter.errors import HyperbuildError, explained
from hyperbuild.converter.oci import Platform
from hyperbuild.converter.platforms import host_platform
from hyperbuild.converter.reference import parse_reference
from hyperbuild.converter.source import open_source
from hyperbuild.converter.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future
    from pathlib import Path

    from hyperbuild.builder.context import Context
    from hyperbuild.builder.fleet_plan import Job
    from hyperbuild.recipes.recipe import Recipe

Found = TypeVar("Found")

#: Images that are looked up at once.
_AT_ONCE = 8


def find_images(
    context: Context, recipes: Sequence[Recipe], authfile: Path | None
) -> list[Pinned | str]:
    """Return where each recipe's image is, or why it can't be found."""
    looks = _at_once([partial(_find_image, context, recipe, authfile) for recipe in recipes])
    return [_told(look) for look in looks]


def find_bundles(context: Context, jobs: Sequence[Job], authfile: Path | None) -> list[str | None]:
    """Return where each job's bundle is, if its registry has it already.

    What can't be known here is for the worker to find out.
    """
    looks = _at_once([partial(_find_bundle, context, job, authfile) for job in jobs])
    return [look.result() for look in looks]


def _at_once(looks: Sequence[Callable[[], Found]]) -> list[Future[Found]]:
    """Have all looks done, several at once."""
    workers = Workers(_AT_ONCE, "look up")
    try:
        futures = [workers.submit(look) for look in looks]
        for future in futures:
            future.exception()
        return futures
    finally:
        workers.close()


def _told(look: Future[Pinned]) -> Pinned | str:
    try:
        return look.result()
    except Exception as error:
        return explained(error)


def _find_image(context: Context, recipe: Recipe, authfile: Path | None) -> Pinned:
    reference = parse_reference(recipe.image)
    text = recipe.get("", "platform")
    wanted = Platform.parse(text) if text else host_platform(platform.machine())
    settings = context.registries(authfile, reference.transport)
    store = context.store()
    with store.lease(), open_source(reference, store=store, settings=settings) as source:
        image = source.resolve(wanted, context.console)
    place = reference.replace(tag="", digest=image.manifest.digest)
    return Pinned(str(reference), str(place), str(image.platform))


def _find_bundle(context: Context, job: Job, authfile: Path | None) -> str | None:
    try:
        return find_marked(context, job.place, job.platform, authfile, job.marks)
    except HyperbuildError:
        return None
