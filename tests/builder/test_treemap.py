"""Boxes that share an area out fairly, whatever the sizes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperbuild.builder.treemap import Box, Rect, View, squarify
from hyperbuild.builder.treemap import draw as draw_for
from hyperbuild.converter.survey import Node

AREA = Rect(0, 0, 1200, 640)


def draw(root: Node, width: float, height: float, *, budget: int) -> tuple[View, ...]:
    """Draw with a budget of boxes."""
    return draw_for(root, width, height, budget=budget, cost=lambda _: 1)


def file(name: str, size: int) -> Node:
    return Node(name.encode(), size, 1, 0, None)


def directory(name: str, *children: Node) -> Node:
    names = 1 + sum(child.names for child in children)
    return Node(name.encode(), sum(c.size for c in children), names, None, children)


def is_within(inner: Rect, outer: Rect) -> bool:
    slack = 1e-6
    return (
        inner.left >= outer.left - slack
        and inner.top >= outer.top - slack
        and inner.left + inner.width <= outer.left + outer.width + slack
        and inner.top + inner.height <= outer.top + outer.height + slack
    )


def overlap(one: Rect, other: Rect) -> float:
    width = min(one.left + one.width, other.left + other.width) - max(one.left, other.left)
    height = min(one.top + one.height, other.top + other.height) - max(one.top, other.top)
    return max(width, 0) * max(height, 0)


sizes = st.lists(st.integers(1, 100_000), min_size=1, max_size=60).map(
    lambda found: sorted(found, reverse=True)
)


@given(sizes, st.floats(10, 2000), st.floats(10, 2000))
def test_areas_are_as_the_sizes_and_do_not_overlap(
    found: list[int], width: float, height: float
) -> None:
    area = Rect(3, 5, width, height)
    rects = squarify(found, area)
    assert len(rects) == len(found)
    for size, rect in zip(found, rects, strict=True):
        assert is_within(rect, area)
        assert rect.width * rect.height == pytest.approx(
            size / sum(found) * width * height, rel=1e-6, abs=1e-6
        )
    for number, rect in enumerate(rects):
        assert all(overlap(rect, other) < 1e-3 for other in rects[number + 1 :])


def test_the_example_of_the_paper() -> None:
    rects = squarify([6, 6, 4, 3, 2, 2, 1], Rect(0, 0, 6, 4))
    seen = [
        (round(r.left, 2), round(r.top, 2), round(r.width, 2), round(r.height, 2)) for r in rects
    ]
    assert seen[:4] == [(0, 0, 3, 2), (0, 2, 3, 2), (3, 0, 1.71, 2.33), (4.71, 0, 1.29, 2.33)]


def test_nothing_to_share_out() -> None:
    assert squarify([], AREA) == []
    (view,) = draw(directory(""), 100, 100, budget=10)
    assert view.boxes == ()


nodes = st.recursive(
    st.builds(file, st.text("abc", min_size=1, max_size=3), st.integers(0, 1 << 40)),
    lambda inner: st.builds(
        lambda name, children: directory(name, *children),
        st.text("abc", min_size=1, max_size=3),
        st.lists(inner, max_size=8),
    ),
    max_leaves=60,
)


@given(st.lists(nodes, max_size=6).map(lambda children: directory("", *children)))
def test_every_box_lies_in_its_directory(root: Node) -> None:
    views = draw(root, AREA.width, AREA.height, budget=2000)
    assert views[0].node is root
    for view in views:
        above: list[Box] = []
        for box in view.boxes:
            del above[box.level :]
            outer = above[-1].rect if above else AREA
            assert is_within(box.rect, outer)
            assert box.rect.width > 0
            assert box.rect.height > 0
            above.append(box)
        top = [box for box in view.boxes if not box.level]
        assert 0.999 * view.node.size <= sum(box.size for box in top) <= view.node.size


def test_small_things_are_one_box() -> None:
    root = directory("", file("big", 1 << 20), *(file(str(n), 1) for n in range(10_000)))
    (view,) = draw(root, 1200, 640, budget=1000)
    big, rest = view.boxes
    assert (big.path, rest.node, rest.names, rest.size) == (b"big", None, 10_000, 10_000)
    (view,) = draw(directory("", file("big", 1 << 30), file("dust", 1)), 1200, 640, budget=1000)
    assert [box.path for box in view.boxes] == [b"big"]


def test_directories_have_views_until_the_budget_is_spent() -> None:
    root = directory(
        "", *(directory(f"d{n}", file("a", 50), file("b", 50 + n)) for n in range(100))
    )
    everything = draw(root, 1200, 640, budget=1 << 30)
    assert [view.path for view in everything][:2] == [b"", b"d99"]
    assert len(everything) == 101
    some = draw(root, 1200, 640, budget=400)
    assert sum(len(view.boxes) for view in some) <= 400
    assert draw(root, 1200, 640, budget=0) == everything[:1]


def test_a_view_has_the_views_above_it() -> None:
    deep = file("leaf", 9)
    for name in ("c", "b", "a", ""):
        deep = directory(name, deep)
    assert [view.path for view in draw(deep, 1200, 640, budget=99)] == [b"", b"a", b"a/b", b"a/b/c"]
