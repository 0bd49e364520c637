"""What a fleet has to do: recipes and the images they lead to, as jobs with keys. Nothing is read.

A job's key is the digest of all that decides a bundle's bytes but what its image is called: the
image's manifest, the platform, the recipe with what it reads, and what makes kernel and initramfs.
Jobs of the same key and repository are one job, and a registry that has a bundle of that key
attached to the image has the result.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hyperbuild.builder.artifact import FLEET_KEY, FLEET_SMOKE, HELD
from hyperbuild.builder.buildinfo import MAKER_VERSION
from hyperbuild.builder.parts import default_profile
from hyperbuild.converter.errors import InputError
from hyperbuild.converter.oci import digest_of
from hyperbuild.converter.reference import parse_reference
from hyperbuild.recipes.recipe import Recipe

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

#: What of a recipe does not decide the bytes of its bundle: which image, and where the bundle goes.
_ASIDE = ("image", "platform")

#: A kernel as recipes ask for it: a profile, and fragments beyond it (name, text).
KernelWish = tuple[str, tuple[tuple[str, str], ...]]


@dataclass(frozen=True, slots=True)
class Order:
    """A recipe with what it reads: the texts of fragments, the digest of a kernel of its own."""

    recipe: Recipe
    fragments: tuple[tuple[str, str], ...] = ()
    kernel_file: str = ""

    @property
    def kernel(self) -> KernelWish | None:
        """The kernel that is to be built for it; None if it brings its own."""
        if self.kernel_file:
            return None
        with_verity = self.recipe.get("rootfs", "verity", False)
        profile = self.recipe.get("kernel", "profile") or default_profile(with_verity=with_verity)
        return profile, self.fragments


@dataclass(frozen=True, slots=True)
class Pinned:
    """An image that was found: its name, where it is by its manifest's digest, its platform."""

    name: str
    place: str
    platform: str

    @property
    def digest(self) -> str:
        """The digest of its manifest."""
        return parse_reference(self.place).digest


@dataclass(frozen=True, slots=True)
class Makers:
    """What all workers of a fleet have alike: their code, and by what they make the parts.

    ``code`` is as ``fleet_code.fingerprint`` has it; ``kernels`` has the key of each kernel that
    was asked for.
    """

    code: str
    initramfs: str
    kernels: Mapping[KernelWish, str]


@dataclass(frozen=True, slots=True)
class Terms:
    """What holds for all jobs of a run: as of ``BuildOptions``, and SOURCE_DATE_EPOCH."""

    epoch: int | None = None
    with_smoke: bool = True
    accel: str = "auto"
    authfile: str = ""


@dataclass(frozen=True, slots=True)
class Job:
    """One bundle to be made and attached to its image, with all that a worker has to know.

    ``image`` is what the bundle says its image is called, ``place`` where it is, by digest.
    ``recipe`` has the recipe's tables as JSON, ``directory`` is where it was read. ``tests`` says
    that its smoke test has to hold.
    """

    image: str
    place: str
    platform: str
    recipe: str
    name: str
    directory: str
    fragments: tuple[tuple[str, str], ...]
    key: str
    tests: bool
    code: str
    terms: Terms

    @property
    def marks(self) -> dict[str, str]:
        """The annotations that its bundle has in a registry."""
        return {FLEET_KEY: self.key, **({FLEET_SMOKE: HELD} if self.tests else {})}

    @property
    def tag(self) -> str:
        """What tells it from all other jobs."""
        return digest_of(f"{self.place} {self.key} {self.tests}".encode())

    def to_json(self) -> str:
        """Return it as one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what ``to_json`` has written."""
        fields: dict[str, Any] = json.loads(text)
        fragments = tuple((name, text) for name, text in fields.pop("fragments"))
        return cls(fragments=fragments, terms=Terms(**fields.pop("terms")), **fields)

    def read_recipe(self, directory: Path | None) -> Recipe:
        """Return the recipe, which finds its files in directory or else where it was."""
        tables = json.loads(self.recipe)
        return Recipe(self.name, directory or Path(self.directory), tables, Path(self.name).stem)


def check_order(recipe: Recipe, *, far: bool) -> None:
    """Raise InputError if no fleet can build a recipe, or (far) none on other machines."""
    if recipe.is_composed:
        raise InputError(
            f"{recipe.name}: its image is put together on this machine and is in no registry; "
            "build it without --scheduler, --workers and --images"
        )
    if recipe.has("output"):
        raise InputError(
            f"{recipe.name}: [output] is for bundles on this machine, and a fleet attaches them to "
            "their images; drop it, and pull what you need here"
        )
    if far and recipe.get("kernel", "file"):
        raise InputError(
            f"{recipe.name}: [kernel] file is on this machine, and the workers are on others; name "
            "a profile, or use --workers"
        )
    reference = parse_reference(recipe.image)
    if reference.transport != "docker":
        raise InputError(
            f"{reference} is in no registry, where a fleet's bundle could be attached to it; push "
            "the image to one first"
        )


def fragment_files(fragments: Iterable[tuple[str, str]]) -> dict[str, str]:
    """Return the files that a job's fragments are on a worker: path -> text."""
    return {f"{number}/{name}.config": text for number, (name, text) in enumerate(fragments)}


def read_names(text: str, where: str) -> list[str]:
    """Return the images in text, one a line; empty lines and those that begin with # are none."""
    lines = [line.strip() for line in text.splitlines()]
    names = [line for line in lines if line and not line.startswith("#")]
    if not names:
        raise InputError(f"{where} names no image; write one on each line")
    return list(dict.fromkeys(names))


def plan(
    wanted: Iterable[tuple[Order, Pinned]], makers: Makers, terms: Terms
) -> list[tuple[Job, tuple[str, ...]]]:
    """Return the jobs, in order, each with the names of the images that it is done for.

    What is wanted twice is done once, under the name that came first.
    """
    jobs: dict[str, Job] = {}
    names: dict[str, dict[str, None]] = {}
    for order, image in wanted:
        job = _job(order, image, makers, terms)
        jobs.setdefault(job.tag, job)
        names.setdefault(job.tag, {})[image.name] = None
    return [(job, tuple(names[tag])) for tag, job in jobs.items()]


def _job(order: Order, image: Pinned, makers: Makers, terms: Terms) -> Job:
    recipe = order.recipe
    tables = {name: dict(values) for name, values in recipe.tables.items()}
    tables[""] = {key: it for key, it in tables.get("", {}).items() if key not in _ASIDE}
    if order.fragments:
        tables["kernel"]["fragments"] = list(fragment_files(order.fragments))
    made_of = [
        MAKER_VERSION,
        image.digest,
        image.platform,
        tables,
        order.fragments,
        makers.kernels[order.kernel] if order.kernel else order.kernel_file,
        makers.initramfs,
        terms.epoch,
    ]
    key = digest_of(json.dumps(made_of, sort_keys=True).encode())
    tables[""] |= {"image": image.name, "platform": image.platform}
    return Job(
        image=image.name,
        place=image.place,
        platform=image.platform,
        recipe=json.dumps(tables, sort_keys=True),
        name=recipe.name,
        directory=str(recipe.directory.absolute()),
        fragments=order.fragments,
        key=key,
        tests=terms.with_smoke and recipe.has("smoke"),
        code=makers.code,
        terms=terms,
    )
