"""Which bundle a name means: a directory, a digest, or an image that the store has converted."""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import (
    AccessError,
    ContentError,
    InputError,
    NoImageError,
    NotFoundError,
    UnavailableError,
)
from hyperbuild.launcher.located import BUNDLE_NAME, BundleFiles, open_directory

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hyperbuild.builder.context import Context


def is_finished(name: str) -> bool:
    """Tell whether name can only be a finished bundle: a directory or a digest, no image."""
    return name.startswith(("sha256:", "/", "./", "../")) or (Path(name) / BUNDLE_NAME).exists()


def open_finished(context: Context, name: str) -> BundleFiles:
    """Open the bundle that ``is_finished`` told of; errors as for its directory or the store."""
    if name.startswith("sha256:") and not (Path(name) / BUNDLE_NAME).exists():
        from hyperbuild.builder.stored import find_bundle

        return find_bundle(context.store(), name).files
    return open_directory(Path(name))


def find_stored(context: Context, name: str) -> BundleFiles | None:
    """Return the bundle of a registry's image if the store has one, as docker run does.

    What lies in files is looked at each time: that costs nothing, and files change.
    """
    from hyperbuild.builder.stored import find_bundle
    from hyperbuild.converter.reference import parse_reference

    reference = parse_reference(name)
    if reference.path is not None:
        return None
    try:
        return find_bundle(context.store(), str(reference)).files
    except NotFoundError:
        return None


@contextmanager
def hinting(name: str) -> Iterator[None]:
    """Look for an image in the block: errors say what name may mean instead.

    That is what lies here under that name, or a bundle in a registry, which is no image.
    """
    try:
        yield
    except NoImageError as error:
        from hyperbuild.builder.stored import CONFIG_TYPE

        if error.config_type == CONFIG_TYPE:
            raise ContentError(
                f"{error.where} is a finished bundle, no image; boot it as it is, or hyperbuild "
                "pull it and name it by the digest that this prints"
            ) from error
        raise
    except (AccessError, InputError, NotFoundError, UnavailableError) as error:
        if hint := _hint(name):
            error.args = (f"{error}; {hint}",)
        raise


def _hint(name: str) -> str:
    path = Path(name)
    if path.is_dir():
        what = "oci:" if (path / "oci-layout").exists() else "./"
        return f"or is it the directory {name} here? Then say {what}{name}"
    if path.is_file():
        return (
            f"or is it the file {name} here? Then say oci-archive:{name}, or docker-archive:{name}"
        )
    return ""
