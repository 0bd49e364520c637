"""What a fleet has to do is known before anything is read: keys, and what is done once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hyperbuild.builder.fleet_plan import Job, Makers, Order, Pinned, Terms, plan, read_names
from hyperbuild.converter.errors import InputError
from hyperbuild.recipes.recipe import parse_recipe

RECIPE = """
image = "h.test/app:1"
[kernel]
profile = "micro"
[smoke]
exit = 0
"""
MAKERS = Makers("1 (abc)", "i", {("micro", ()): "m", ("dax", ()): "d"})


def order(text: str = RECIPE, *changes: str) -> Order:
    return Order(parse_recipe(text.encode(), "r.toml", Path("/r"), changes))


def pinned(name: str = "h.test/app:1", digest: str = "a", platform: str = "linux/amd64") -> Pinned:
    place = f"{name.rpartition(':')[0]}@sha256:{digest * 64}"
    return Pinned(name, place, platform)


def job(
    wanted: Order | None = None, image: Pinned | None = None, makers: Makers = MAKERS, **terms: Any
) -> Job:
    ((found, _),) = plan([(wanted or order(), image or pinned())], makers, Terms(**terms))
    return found


@pytest.mark.parametrize(
    "other",
    [
        job(image=pinned(digest="b")),
        job(image=pinned(platform="linux/arm64")),
        job(order(RECIPE, "kernel.profile=dax")),
        job(order(RECIPE, "smoke.exit=1")),
        job(order(RECIPE, "rootfs.format=ext4")),
        job(Order(order().recipe, kernel_file="sha256:f")),
        job(makers=Makers("1 (abc)", "j", MAKERS.kernels)),
        job(makers=Makers("1 (abc)", "i", {("micro", ()): "n"})),
        job(epoch=7),
    ],
)
def test_all_that_decides_the_bytes_is_in_the_key(other: Job) -> None:
    assert other.key != job().key


@pytest.mark.parametrize(
    "other",
    [
        job(image=pinned("h.test/app:2")),
        job(image=pinned("h.test/copy:1")),
        job(makers=Makers("2 (def)", "i", MAKERS.kernels)),
        job(accel="tcg", authfile="/a"),
    ],
)
def test_what_decides_no_bytes_is_not(other: Job) -> None:
    assert other.key == job().key


def test_what_is_wanted_twice_is_done_once_for_both() -> None:
    first, second, elsewhere = pinned(), pinned("h.test/app:latest"), pinned("h.test/copy:1")
    wanted = [(order(), image) for image in (first, second, elsewhere, first)]
    found = plan(wanted, MAKERS, Terms())
    assert [names for _, names in found] == [(first.name, second.name), (elsewhere.name,)]
    assert [job.image for job, _ in found] == [first.name, elsewhere.name]


def test_a_bundle_that_was_not_tested_is_none_that_was() -> None:
    tested, untested = job(), job(with_smoke=False)
    assert tested.marks.items() > untested.marks.items()
    assert tested.tag != untested.tag


def test_a_job_reaches_its_worker_as_it_is(tmp_path: Path) -> None:
    fragments = (("extra", "# why\nCONFIG_X=y\n"),)
    text = RECIPE.replace("[smoke]", 'fragments = ["there/extra.config"]\n[smoke]')
    makers = Makers("1 (abc)", "i", {("micro", fragments): "m"})
    sent = job(Order(order(text).recipe, fragments), makers=makers, epoch=3)
    came = Job.from_json(sent.to_json())
    assert came == sent
    recipe = came.read_recipe(tmp_path)
    assert recipe.path(recipe.get("kernel", "fragments")[0]) == tmp_path / "0/extra.config"
    assert recipe.image == "h.test/app:1"


def test_lists_of_images() -> None:
    assert read_names("# all\n a:1 \n\nb:2\na:1\n", "list") == ["a:1", "b:2"]
    with pytest.raises(InputError, match="list names no image"):
        read_names("# none\n", "list")
