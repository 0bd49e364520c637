"""Any layers, in any dialect, become in both formats what a plain model says they are."""

from __future__ import annotations

import os
import random
import subprocess

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyperbuild.converter.convert import FORMATS
from hyperbuild.converter.errors import ContentError
from tests.support import dice
from tests.support.memory import check_same, converted, seen
from tests.support.model import Model, RefusedError
from tests.support.tarball import Entry

FSCK = {"erofs": ["fsck.erofs"], "ext4": ["e2fsck", "-fn"]}
CHECKED = 12


class _Drawn:
    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw

    def below(self, limit: int) -> int:
        return self._draw(st.integers(0, limit - 1))


@st.composite
def images(draw: st.DrawFn) -> tuple[list[list[Entry]], list[bytes]]:
    """Draw layers as entries and as tars."""
    drawn = _Drawn(draw)
    layers = dice.image(drawn)
    return layers, [dice.layer_tar(drawn, layer) for layer in layers]


class Seeded(random.Random):
    """Choices that are the same in every run."""

    def below(self, limit: int) -> int:
        return self.randrange(limit)


def modelled(layers: list[list[Entry]]) -> Model | None:
    """Return what the layers are, or None if nothing unpacks them."""
    model = Model()
    try:
        for layer in layers:
            model.apply(layer)
    except RefusedError:
        return None
    return model


@settings(
    max_examples=150,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(images())
def test_any_image_becomes_what_the_model_says(
    image: tuple[list[list[Entry]], list[bytes]],
) -> None:
    layers, tars = image
    model = modelled(layers)
    for rootfs_format in FORMATS:
        try:
            with converted(tars, rootfs_format) as rootfs:
                found = seen(rootfs.fd)
        except ContentError:
            assert model is None
        else:
            assert model is not None, "this should have been refused"
            check_same(found, model.tree)


@pytest.mark.parametrize("rootfs_format", FORMATS)
def test_outside_checkers_have_no_complaint(rootfs_format: str) -> None:
    checked = 0
    for seed in range(10 * CHECKED):
        chance = Seeded(seed)
        layers = dice.image(chance)
        if modelled(layers) is None:
            continue
        tars = [dice.layer_tar(chance, layer) for layer in layers]
        with converted(tars, rootfs_format) as rootfs:
            path = f"/proc/{os.getpid()}/fd/{rootfs.fd}"
            done = subprocess.run(
                [*FSCK[rootfs_format], path], capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, (seed, done.stdout + done.stderr)
        checked += 1
        if checked == CHECKED:
            return
    pytest.fail("too few of the images can be unpacked to say anything")
