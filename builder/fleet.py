"""``hyperbuild build`` of many images at once: planned here, worked on by a cluster.

The results are in the images' registries, and stay there for the next fleet.
"""

from __future__ import annotations

import hashlib
from contextlib import closing
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hyperbuild.builder.building import checked_recipe
from hyperbuild.builder.fleet_cluster import reached
from hyperbuild.builder.fleet_crew import Crew
from hyperbuild.builder.fleet_display import Display
from hyperbuild.builder.fleet_job import CACHED, FAILED, Outcome
from hyperbuild.builder.fleet_lookup import find_bundles, find_images
from hyperbuild.builder.fleet_plan import Order, Pinned, Terms, check_order, plan
from hyperbuild.builder.fleet_report import reported
from hyperbuild.builder.pushing import sign_pushed
from hyperbuild.builder.signing import load_signer
from hyperbuild.converter.errors import HyperbuildError
from hyperbuild.kernel.kconfig import read_fragment, spell_fragment

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence
    from pathlib import Path

    from hyperbuild.builder.building import BuildOptions
    from hyperbuild.builder.context import Context
    from hyperbuild.builder.fleet_cluster import Cluster
    from hyperbuild.builder.fleet_report import Result
    from hyperbuild.recipes.recipe import Recipe


@dataclass(frozen=True, slots=True)
class FleetOptions:
    """How to build, and by whom: the scheduler at an address, or so many workers here.

    ``images`` are built by each of the recipes, instead of the image that it names. ``sign_with``
    is the file of a private key: what is in the registries is signed here, and no worker has it.
    """

    build: BuildOptions
    scheduler: str | None = None
    workers: int = 1
    images: tuple[str, ...] = ()
    sign_with: Path | None = None


def build_fleet(
    context: Context, names: Sequence[str], options: FleetOptions
) -> Generator[Result, None, None]:
    """Build recipes on a cluster; yield what came of each image as soon as it is known.

    All recipes are read before anything is built. What fails costs its own image alone. Errors as
    of ``checked_recipe``, ``check_order``, ``reached`` and ``Cluster.makers``.
    """
    recipes = list(_recipes(context, names, options))
    for recipe in recipes:
        check_order(recipe, far=options.scheduler is not None)
    orders = [_order(recipe) for recipe in recipes]
    if options.sign_with:
        load_signer(options.sign_with)
    results: list[Result] = []
    with (
        reported(options.build.report, results),
        reached(options.scheduler, options.workers) as cluster,
        closing(_results(context, cluster, orders, options)) as found,
    ):
        for result in found:
            results.append(_signed(context, result, options))
            yield results[-1]


def _signed(context: Context, result: Result, options: FleetOptions) -> Result:
    """Sign a result's bundle; what can't be signed has failed."""
    bundle, key = result.outcome.bundle, options.sign_with
    if key and bundle:
        try:
            sign_pushed(context, bundle, options.build.authfile, key)
        except HyperbuildError as error:
            failed = replace(result.outcome, status=FAILED, error=f"it is not signed: {error}")
            return replace(result, outcome=failed)
    return result


def _results(
    context: Context, cluster: Cluster, orders: Sequence[Order], options: FleetOptions
) -> Generator[Result, None, None]:
    makers = cluster.makers(list({it.kernel: None for it in orders if it.kernel}))
    authfile = options.build.authfile
    images = find_images(context, [order.recipe for order in orders], authfile)
    pairs = list(zip(orders, images, strict=True))
    wanted = [(order, image) for order, image in pairs if isinstance(image, Pinned)]
    jobs = plan(wanted, makers, _terms(context, options))
    failed = {order.recipe.image: error for order, error in pairs if isinstance(error, str)}
    total = len(failed) + sum(len(names) for _, names in jobs)
    with Display(context.console, jobs, total) as display:
        for name, error in failed.items():
            yield from display.counted([name], Outcome(FAILED, error=error))
        bundles = find_bundles(context, [job for job, _ in jobs], authfile)
        for (_, names), bundle in zip(jobs, bundles, strict=True):
            if bundle:
                yield from display.counted(names, Outcome(CACHED, bundle))
        left = [job for (job, _), bundle in zip(jobs, bundles, strict=True) if not bundle]
        crew = Crew(cluster, left, display)
        try:
            names_of = {job.tag: names for job, names in jobs}
            for job, outcome in crew.outcomes():
                yield from display.counted(names_of[job.tag], outcome)
        finally:
            crew.stop()


def _recipes(context: Context, names: Sequence[str], options: FleetOptions) -> Iterator[Recipe]:
    for name in names:
        for image in options.images or [None]:
            change = () if image is None else (f"image={image}",)
            changed = replace(options.build, changes=(*options.build.changes, *change))
            yield checked_recipe(context, name, changed)


def _order(recipe: Recipe) -> Order:
    """Read what a recipe's kernel is made of."""
    file = recipe.get("kernel", "file")
    fragments = [read_fragment(recipe.path(it)) for it in recipe.get("kernel", "fragments", ())]
    texts = tuple((fragment.name, spell_fragment(fragment)) for fragment in fragments)
    if not file:
        return Order(recipe, texts)
    return Order(
        recipe, texts, f"sha256:{hashlib.sha256(recipe.path(file).read_bytes()).hexdigest()}"
    )


def _terms(context: Context, options: FleetOptions) -> Terms:
    # On other machines it is another file, if any: they have credentials of their own.
    here = options.build.authfile if options.scheduler is None else None
    return Terms(
        epoch=context.epoch,
        with_smoke=options.build.with_smoke,
        accel=options.build.accel,
        authfile=str(here.absolute()) if here else "",
    )
