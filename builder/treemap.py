"""A tree drawn as nested boxes whose areas are its sizes: pure layout, in pixels.

Squarified treemaps: Bruls, Huizing, van Wijk, "Squarified Treemaps" (2000). One view shows a
directory a few levels deep; small things become one box, so that a view stays small whatever the
tree's size. Directories that are seen in a view may have a view of their own.
"""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count, takewhile
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from hyperbuild.converter.survey import Node

#: Height of a directory's own line, and what is left free around its children.
HEADER, GAP = 17.0, 2.0
_LEVELS = 12
#: A box of fewer square pixels is too small to be seen or hit.
_SMALLEST = 200.0
#: A directory of fewer pixels a side shows no children.
_NARROWEST, _LOWEST = 24.0, 36.0


@dataclass(frozen=True, slots=True)
class Rect:
    """A rectangle in pixels, measured from the view's upper left corner."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Box:
    """What one rectangle shows: a node at path, or (node None) names too small to be drawn alone.

    ``branch`` is the place, by size, of the root's child that it belongs to; ``level`` counts the
    directories around it in its view.
    """

    rect: Rect
    path: bytes
    node: Node | None
    size: int
    names: int
    branch: int
    level: int


@dataclass(frozen=True, slots=True)
class View:
    """One directory, drawn; boxes come after the boxes they lie in."""

    path: bytes
    node: Node
    boxes: tuple[Box, ...]


def draw(
    root: Node, width: float, height: float, *, budget: int, cost: Callable[[Box], int]
) -> tuple[View, ...]:
    """Return the view of root and, largest first, of directories in it, for budget at most.

    cost says what a box takes of budget. The first view is root's and is drawn in any case.
    """
    area = Rect(0, 0, width, height)
    order = count()
    waiting = [(-root.size, next(order), b"", root, -1)]
    views: list[View] = []
    seen = {b""}
    while waiting:
        _, _, path, node, branch = heappop(waiting)
        boxes = _Drawing(path, node, branch).boxes(area)
        budget -= sum(map(cost, boxes))
        if views and budget < 0:
            break
        views.append(View(path, node, tuple(boxes)))
        for box in boxes:
            if box.node and box.node.children and box.path not in seen:
                seen.add(box.path)
                heappush(waiting, (-box.size, next(order), box.path, box.node, box.branch))
    return tuple(views)


class _Drawing:
    """One view in the making."""

    def __init__(self, path: bytes, node: Node, branch: int) -> None:
        self._path = path
        self._node = node
        self._branch = branch
        self._boxes: list[Box] = []

    def boxes(self, area: Rect) -> list[Box]:
        self._fill(self._path, self._node, area, self._branch, 0)
        return self._boxes

    def _fill(self, path: bytes, node: Node, area: Rect, branch: int, level: int) -> None:
        """Draw node's children into area."""
        children = [child for child in node.children or () if child.size]
        children.sort(key=lambda child: (-child.size, child.name))
        if not children:
            return
        visible = _SMALLEST * node.size / (area.width * area.height)
        drawn = list(takewhile(lambda child: child.size >= visible, children))
        rest = children[len(drawn) :]
        sizes = [child.size for child in drawn]
        remainder = sum(child.size for child in rest)
        # A sliver of a box is neither seen nor hit.
        is_told = remainder >= visible / 10
        if is_told:
            sizes.append(remainder)
        prefix = path + b"/" if path else b""
        rects = squarify(sizes, area)
        for number, (child, rect) in enumerate(zip(drawn, rects, strict=False)):
            place = number if branch < 0 else branch
            self._boxes.append(
                Box(rect, prefix + child.name, child, child.size, child.names, place, level)
            )
            inside = _inside(rect)
            if child.children and level + 1 < _LEVELS and inside:
                self._fill(prefix + child.name, child, inside, place, level + 1)
        if is_told:
            names = sum(child.names for child in rest)
            self._boxes.append(Box(rects[-1], path, None, sizes[-1], names, max(branch, 0), level))


def _inside(rect: Rect) -> Rect | None:
    """Return where a directory's children go, None if it is too small for any."""
    if rect.width < _NARROWEST or rect.height < _LOWEST:
        return None
    return Rect(
        rect.left + GAP, rect.top + HEADER, rect.width - 2 * GAP, rect.height - HEADER - GAP
    )


def squarify(sizes: Sequence[float], area: Rect) -> list[Rect]:
    """Divide area among positive sizes, the largest first, into rectangles as square as can be."""
    scale = area.width * area.height / sum(sizes) if sizes else 0
    areas = [size * scale for size in sizes]
    rects: list[Rect] = []
    start = 0
    while start < len(areas):
        side = min(area.width, area.height)
        end, total = _row(areas, start, side)
        rects += _lay(areas[start:end], total, area)
        area = _rest(area, total)
        start = end
    return rects


def _row(areas: Sequence[float], start: int, side: float) -> tuple[int, float]:
    """Return the end, and the sum, of the row from start on that side suits best."""
    total, worst, end = 0.0, float("inf"), start
    while end < len(areas):
        grown = total + areas[end]
        # The first is the largest and the last the smallest: one of them is the least square.
        thickness = grown / side if side else 0.0
        ratio = max(
            _ratio(areas[start], thickness),
            _ratio(areas[end], thickness),
        )
        if ratio > worst:
            break
        total, worst, end = grown, ratio, end + 1
    return end, total


def _ratio(area: float, thickness: float) -> float:
    length = area / thickness if thickness else 0.0
    return max(length / thickness, thickness / length) if thickness and length else float("inf")


def _lay(row: Sequence[float], total: float, area: Rect) -> list[Rect]:
    """Place a row along the shorter side of area."""
    rects = []
    upright = area.width >= area.height
    thickness = total / (area.height if upright else area.width) if total else 0.0
    at = area.top if upright else area.left
    for piece in row:
        length = piece / thickness if thickness else 0.0
        if upright:
            rects.append(Rect(area.left, at, thickness, length))
        else:
            rects.append(Rect(at, area.top, length, thickness))
        at += length
    return rects


def _rest(area: Rect, total: float) -> Rect:
    """Return what of area a row of total square pixels along its shorter side leaves."""
    if area.width >= area.height:
        taken = total / area.height if area.height else 0.0
        return Rect(area.left + taken, area.top, max(area.width - taken, 0.0), area.height)
    taken = total / area.width if area.width else 0.0
    return Rect(area.left, area.top + taken, area.width, max(area.height - taken, 0.0))
