"""A recipe's own image: its [source] as what the converter puts together."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from hyperbuild.builder.process import parse_signal
from hyperbuild.converter.composed import Composition, OwnLayer
from hyperbuild.converter.errors import HyperbuildError, InputError
from hyperbuild.converter.folder import Folder
from hyperbuild.converter.oci import Platform
from hyperbuild.converter.platforms import host_platform, rank
from hyperbuild.converter.reference import parse_reference
from hyperbuild.launcher.health import read_healthcheck
from hyperbuild.recipes.health import healthcheck_object

if TYPE_CHECKING:
    from pathlib import Path

    from hyperbuild.builder.context import Context
    from hyperbuild.builder.packages import PackageLayer
    from hyperbuild.recipes.recipe import Recipe

#: The label of an image that says which packages its lowest layer is made of.
PACKAGES_LABEL = "sh.hyper.packages"
_CONFIG = "source.config"
_TEXTS = {
    "entrypoint": "Entrypoint",
    "cmd": "Cmd",
    "user": "User",
    "working-dir": "WorkingDir",
    "stop-signal": "StopSignal",
    "labels": "Labels",
}


def check_source(recipe: Recipe, machine: str) -> None:
    """Raise InputError unless what [source] names is there, on this machine (as of uname)."""
    if not recipe.is_composed:
        return
    for content in (layer.content for layer in _layers(recipe)):
        if isinstance(content, Folder):
            if not content.path.is_dir():
                raise _wrong(recipe, "source", "layers", f"{content.path} is no folder; name one")
        elif not content.is_file():
            raise _wrong(recipe, "source", "layers", f"{content} is no file; name another")
    platform = recipe.get("", "platform") if recipe.get("source", "packages") else None
    if platform and rank(Platform.parse(platform), host_platform(machine)) is None:
        raise _wrong(recipe, "source", "packages", "they are installed for this CPU; drop platform")
    checks = {
        ("source", "name"): _check_name,
        (_CONFIG, "stop-signal"): _check_signal,
        (_CONFIG, "healthcheck"): _check_health,
    }
    for (table, key), check in checks.items():
        try:
            check(recipe)
        except HyperbuildError as error:
            raise _wrong(recipe, table, key, error) from error


def _check_name(recipe: Recipe) -> None:
    reference = parse_reference(recipe.image)
    if reference.transport != "docker" or reference.digest:
        raise InputError(f"{recipe.image} is no name to give; say NAME:TAG or HOST/NAME:TAG")


def _check_signal(recipe: Recipe) -> None:
    parse_signal(recipe.get(_CONFIG, "stop-signal", "TERM"), recipe.image)


def _check_health(recipe: Recipe) -> None:
    read_healthcheck(healthcheck_object(recipe.get(_CONFIG, "healthcheck")))


def _wrong(recipe: Recipe, table: str, key: str, what: object) -> InputError:
    return InputError(f"{recipe.name}: [{table}] {key}: {what}")


def compose(context: Context, recipe: Recipe) -> Composition:
    """Return what the recipe's image is put together of, its packages installed.

    Errors of ``install_packages``, which name the recipe.
    """
    latest = None if context.epoch is None else datetime.fromtimestamp(context.epoch, UTC)
    layers, config, created = _layers(recipe), _config(recipe), latest
    if recipe.get("source", "packages"):
        found = _install(context, recipe)
        suite = recipe.get("source", "suite")
        made_by = f"mmdebstrap {suite} {' '.join(found.versions)}"
        lowest = OwnLayer(found.path, made_by, f"the packages of {recipe.name}")
        layers, created = [lowest, *layers], found.made
        config["Labels"] = {PACKAGES_LABEL: " ".join(found.versions), **config.get("Labels", {})}
        context.console.say(f"{recipe.image}: {_told(recipe, found.versions)}")
    return Composition(tuple(layers), config, created, latest)


def _install(context: Context, recipe: Recipe) -> PackageLayer:
    from hyperbuild.builder.packages import Packages, install_packages

    wanted = Packages(
        tuple(recipe.get("source", "packages")),
        recipe.get("source", "suite"),
        recipe.get("source", "mirror"),
        recipe.get("source", "variant", "essential"),
    )
    try:
        return install_packages(context, wanted)
    except HyperbuildError as error:
        raise type(error)(f"{recipe.name}: [source] packages: {error}") from error


def _told(recipe: Recipe, versions: tuple[str, ...]) -> str:
    """Say which versions there are of the packages that the recipe names, and how many others."""
    names = {name.partition("=")[0].partition(":")[0] for name in recipe.get("source", "packages")}
    named = [text for text in versions if text.partition("=")[0] in names]
    return f"packages {', '.join(named)}; {len(versions)} in all"


def _layers(recipe: Recipe) -> list[OwnLayer]:
    """Return the layers that the recipe names."""
    found = []
    for layer in recipe.get("source", "layers", ()):
        content: Path | Folder
        if isinstance(layer, str):
            content, said = recipe.path(layer), layer
        else:
            uid, _, gid = layer.get("owner", "0").partition(":")
            content = Folder(recipe.path(layer["dir"]), layer["to"], int(uid), int(gid or uid))
            said = f"{layer['dir']} to {layer['to']}"
        where = f"{recipe.name}: [source] layers: {said}"
        found.append(OwnLayer(content, f"hyperbuild: {said}", where))
    return found


def _config(recipe: Recipe) -> dict[str, Any]:
    """Return [source.config] as fields of an image config (image-spec, config.md)."""
    said = recipe.tables.get(_CONFIG, {})
    config = {name: said[key] for key, name in _TEXTS.items() if key in said}
    if "env" in said:
        config["Env"] = [f"{name}={value}" for name, value in said["env"].items()]
    if "exposed-ports" in said:
        ports = [text if "/" in text else f"{text}/tcp" for text in said["exposed-ports"]]
        config["ExposedPorts"] = {port: {} for port in ports}
    if "volumes" in said:
        config["Volumes"] = {path: {} for path in said["volumes"]}
    if healthcheck := healthcheck_object(recipe.get(_CONFIG, "healthcheck")):
        config["Healthcheck"] = healthcheck
    return config
