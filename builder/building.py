"""``hyperbuild build``: recipes made into bundles, kept only if their smoke test holds."""

from __future__ import annotations

import platform
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hyperbuild.builder.boot_options import BOOT_OPTIONS
from hyperbuild.builder.booting import BootOptions, budgets_of, machine_options, settled
from hyperbuild.builder.composing import check_source, compose
from hyperbuild.builder.converting import Request, convert_image, exported_bundle
from hyperbuild.builder.export import check_directory
from hyperbuild.builder.outputs import Output, check_parts, convert_to_disk, read_output
from hyperbuild.builder.parts import default_profile, lacks_verity
from hyperbuild.builder.smoking import SmokeError, smoke_image
from hyperbuild.converter.errors import HyperbuildError, InputError
from hyperbuild.converter.files import named_output
from hyperbuild.kernel.kconfig import DISK_PROFILE, PROFILES, read_fragment
from hyperbuild.launcher.defaults import BootDefaults
from hyperbuild.launcher.expectations import Contract, check_contract
from hyperbuild.launcher.located import open_directory
from hyperbuild.recipes.recipe import find_recipe, read_recipe

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from hyperbuild.builder.context import Context
    from hyperbuild.recipes.recipe import Recipe


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """The command's options: ``changes`` as of ``read_recipe``, where a smoke test is told of."""

    changes: tuple[str, ...] = ()
    authfile: Path | None = None
    with_smoke: bool = True
    report: tuple[Path, ...] = ()
    console_log: Path | None = None
    accel: str = "auto"


def build_recipes(context: Context, names: Sequence[str], options: BuildOptions) -> Iterator[str]:
    """Build recipes one after the other; yield the directory or digest of each output.

    All recipes are read before anything is built. What fails leaves its outputs as they were.
    """
    if options.report and len(names) > 1:
        raise InputError("--report is for one recipe at a time; build them one by one")
    for recipe in [checked_recipe(context, name, options) for name in names]:
        # What is made for an image is nobody's until there is the bundle.
        with context.store().lease():
            yield from _build(context, recipe, options)


def propose_profile(context: Context, name: str, options: BuildOptions) -> str:
    """Return the smallest of the kernel's profiles that a recipe's smoke test holds with.

    They are tried from the smallest on, and each result is said; nothing is kept. A recipe without
    a contract has its image's. InputError: none holds.
    """
    recipe = checked_recipe(context, name, options)
    if recipe.get("kernel", "file") or recipe.get("kernel", "fragments"):
        raise InputError(f"{recipe.name}: with a kernel of its own there is no profile to propose")
    with context.store().lease():
        return _proposed(context, recipe, options)


def _proposed(context: Context, recipe: Recipe, options: BuildOptions) -> str:
    asked = request_of(context, recipe, options)
    for profile in _candidates(asked):
        request = replace(asked, profile=profile)
        try:
            with _made(context, request) as directory:
                _test(context, recipe, directory, options)
        except SmokeError as error:
            context.console.say(f"{profile} does not do: {error}")
        else:
            context.console.say(f'{profile} does: record it as [kernel] profile = "{profile}"')
            return profile
    raise InputError(f"{recipe.name}: no profile does; see above what each one lacks")


def _candidates(asked: Request) -> list[str]:
    """Return the profiles that may do for what is asked, the smallest first."""
    if asked.with_verity:
        return [name for name in PROFILES if not lacks_verity(name)]
    # What makes disks boot adds nothing to what an application can do.
    return [name for name, profile in PROFILES.items() if not profile.bzimage]


def checked_recipe(context: Context, name: str, options: BuildOptions) -> Recipe:
    """Read a recipe and see that what it says goes together; InputError says what does not."""
    recipe = read_recipe(find_recipe(name), options.changes)
    try:
        bundled = boot_defaults(recipe)
        chosen = settled(_boot_options(recipe, options), bundled)
        budgets = budgets_of(chosen.replace(budget=bundled.budgets))
        machine_options(context, chosen, budgets)
        if bundled.smoke:
            check_contract(bundled.smoke, health_command=chosen.health_command)
    except InputError as error:
        raise InputError(f"{recipe.name}: {error}") from error
    _check_verity(recipe)
    _check_kernel(recipe)
    _check_disk(recipe)
    check_source(recipe, platform.machine())
    if directory := recipe.get("output", "directory"):
        try:
            check_directory(Path(directory))
        except HyperbuildError as error:
            raise InputError(f"{recipe.name}: [output] directory: {error}") from error
    return recipe


def _check_verity(recipe: Recipe) -> None:
    """Refuse a root file system under dm-verity that is to be mapped."""
    mapped = {"rootfs": "dax", "require-dax": True}
    asked = [key for key, value in mapped.items() if recipe.get("boot", key) == value]
    if recipe.get("rootfs", "verity") and asked:
        raise InputError(
            f"{recipe.name}: [boot] {asked[0]} and [rootfs] verity exclude each other, as what is "
            "mapped is not verified; drop one"
        )


def _check_kernel(recipe: Recipe) -> None:
    """Read what the recipe's kernel is made of, before any work."""
    file = recipe.get("kernel", "file")
    if file and len(recipe.tables["kernel"]) > 1:
        raise InputError(f"{recipe.name}: [kernel] file stands alone; drop profile and fragments")
    if file and not recipe.path(file).is_file():
        raise InputError(
            f"{recipe.name}: [kernel] file: {recipe.path(file)} is no file; name another"
        )
    for fragment in recipe.get("kernel", "fragments", ()):
        read_fragment(recipe.path(fragment))


def _check_disk(recipe: Recipe) -> None:
    """Look at the output that is to boot by itself, and at what it is to be made of."""
    if not recipe.get("output", "disk"):
        return
    try:
        disk = _disk(recipe)
        named_output(disk.path)
        verity = recipe.get("rootfs", "verity", False)
        check_parts(disk.kind, _profile(recipe), recipe.get("kernel", "file"), with_verity=verity)
    except HyperbuildError as error:
        raise InputError(f"{recipe.name}: [output] disk: {error}") from error


def _disk(recipe: Recipe) -> Output:
    path = Path(recipe.get("output", "disk"))
    suffix = path.suffix.removeprefix(".")
    kind = "raw" if suffix == "img" else suffix
    return read_output(path, kind, recipe.get("output", "disk-size"))


def _profile(recipe: Recipe) -> str:
    with_verity = recipe.get("rootfs", "verity", False)
    disk = recipe.get("output", "disk")
    implied = DISK_PROFILE if disk else default_profile(with_verity=with_verity)
    return str(recipe.get("kernel", "profile", implied))


def _build(context: Context, recipe: Recipe, options: BuildOptions) -> Iterator[str]:
    request = request_of(context, recipe, options)
    with tested(context, recipe, request, options):
        yield from _write(context, recipe, request)


@contextmanager
def tested(
    context: Context, recipe: Recipe, request: Request, options: BuildOptions
) -> Iterator[None]:
    """Have the recipe's smoke test hold, if it has one that is wanted; else a SmokeError.

    What is made of the request in the block finds its data in what was tested.
    """
    if options.with_smoke and recipe.has("smoke"):
        with _made(context, request) as directory:
            _test(context, recipe, directory, options)
            yield
    else:
        yield


def _write(context: Context, recipe: Recipe, request: Request) -> Iterator[str]:
    directory = recipe.get("output", "directory")
    if directory:
        yield convert_image(context, request, Path(directory)).name
    disk = recipe.get("output", "disk")
    if disk:
        yield convert_to_disk(context, request, _disk(recipe)).name
    if recipe.get("output", "store", not (directory or disk)):
        yield convert_image(context, request, None).name


@contextmanager
def _made(context: Context, request: Request) -> Iterator[Path]:
    """Convert into a directory that is there for the time being."""
    with context.scratch() as directory:
        exported_bundle(context, request, directory / "bundle")
        yield directory / "bundle"


def _test(context: Context, recipe: Recipe, directory: Path, options: BuildOptions) -> None:
    smoke_image(context, _boot_options(recipe, options), open_directory(directory))


def _boot_options(recipe: Recipe, options: BuildOptions) -> BootOptions:
    fields: dict[str, Any] = {option.field: option.default for option in BOOT_OPTIONS}
    fields |= {"image": recipe.image, "command": (), "smoke": True, "accel": options.accel}
    fields |= {"report": options.report, "console_log": options.console_log}
    return BootOptions(**fields)


def boot_defaults(recipe: Recipe) -> BootDefaults:
    """Return how recipe's bundle will want to be booted and tested."""
    boot = dict(recipe.tables.get("boot", {}))
    if "env" in boot:
        boot["env"] = [f"{name}={value}" for name, value in boot["env"].items()]
    smoke = dict(recipe.tables.get("smoke", {}))
    smoke |= {key: tuple(value) for key, value in smoke.items() if isinstance(value, list)}
    budgets = [f"{step}={limit}" for step, limit in recipe.get("budget", "time", {}).items()]
    budgets += [
        f"insns:{step}={limit}" for step, limit in recipe.get("budget", "insns", {}).items()
    ]
    return BootDefaults(boot, Contract(**smoke) if recipe.has("smoke") else None, tuple(budgets))


def request_of(context: Context, recipe: Recipe, options: BuildOptions) -> Request:
    """Return what a recipe wants converted; an image of its own is put together for it."""
    kernel = recipe.get("kernel", "file")
    bundled = boot_defaults(recipe)
    with_verity = recipe.get("rootfs", "verity", False)
    says_nothing = not bundled.options and bundled.smoke is None and not bundled.budgets
    return Request(
        recipe.image,
        recipe.get("", "platform"),
        options.authfile,
        recipe.path(kernel) if kernel else None,
        _profile(recipe),
        rootfs_format=recipe.get("rootfs", "format", "erofs"),
        aligns=recipe.get("rootfs", "align", False),
        verify=recipe.get("rootfs", "verify", False),
        fragments=tuple(map(recipe.path, recipe.get("kernel", "fragments", ()))),
        boot=None if says_nothing else bundled,
        composition=compose(context, recipe) if recipe.is_composed else None,
        base=recipe.get("", "image") if recipe.is_composed else None,
        with_verity=with_verity,
    )
