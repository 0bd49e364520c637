"""What an image is made of: who brought which bytes, and what of them its tree still shows.

All of it is computed from layers' indexes or from a list of files; nothing is read here.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass
from heapq import nlargest
from typing import TYPE_CHECKING

from hyperbuild.converter.limits import DEFAULT_LIMITS, Limits
from hyperbuild.converter.tree import Tree, walk

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence

    from hyperbuild.converter.tree import Inode, LayerIndex


@dataclass(frozen=True, slots=True)
class Name:
    """One path of a tree and what it leads to: names with the same ``inode`` are hard links.

    ``mode`` is st_mode, ``size`` in bytes. ``layer`` counts from the base, None if none is known.
    """

    path: bytes
    mode: int
    size: int
    inode: int
    layer: int | None = None


@dataclass(frozen=True, slots=True)
class Weight:
    """A regular file by its size in bytes; ``layer`` as for Name."""

    path: bytes
    size: int
    layer: int | None


@dataclass(frozen=True, slots=True)
class Node:
    """A file or directory of the tree as a whole.

    ``size`` is the bytes of the regular files in it, each counted once, at its first name;
    ``names`` how many names are below, this one included. ``children`` of a file is None.
    """

    name: bytes
    size: int
    names: int
    layer: int | None
    children: tuple[Node, ...] | None


@dataclass(frozen=True, slots=True)
class Contents:
    """All that a tree holds: counts of names by type, and each regular file with data once."""

    root: Node
    files: int
    directories: int
    symlinks: int
    others: int
    weights: tuple[Weight, ...]


@dataclass(frozen=True, slots=True)
class LayerUse:
    """What one layer carries: its entries, the names it hides, the bytes of its regular files.

    ``wasted`` is how many of those bytes the tree does not show: replaced or hidden by upper
    layers, or by a later entry of the layer itself.
    """

    entries: int
    hides: int
    size: int
    wasted: int


@dataclass(frozen=True, slots=True)
class Survey:
    """An image's layers, from the base up, their tree, and the files that it does not show."""

    layers: tuple[LayerUse, ...]
    contents: Contents
    lost: tuple[Weight, ...]

    @property
    def efficiency(self) -> float:
        """The share of the layers' file bytes that the tree shows; 1 if there are none."""
        size = sum(layer.size for layer in self.layers)
        return 1 - sum(layer.wasted for layer in self.layers) / size if size else 1.0


def survey_layers(indexes: Sequence[LayerIndex], limits: Limits = DEFAULT_LIMITS) -> Survey:
    """Flatten layers, the base first, and say what became of each; ContentError as for Tree."""
    tree = Tree(0, limits)
    origin: dict[Inode, int] = {}
    for number, index in enumerate(indexes):
        tree.apply(index)
        origin.update((entry.inode, number) for entry in index.entries if entry.inode)
    shown = {inode for _, inode in walk(tree.root)}
    lost = [
        Weight(entry.path, inode.size, number)
        for number, index in enumerate(indexes)
        for entry in index.entries
        if (inode := entry.inode) and inode not in shown and stat.S_ISREG(inode.mode)
    ]
    wasted = [0] * len(indexes)
    for file in lost:
        wasted[file.layer or 0] += file.size
    uses = (
        LayerUse(
            entries=len(index.entries),
            hides=len(index.whiteouts) + len(index.opaques),
            size=sum(_data_size(entry.inode) for entry in index.entries),
            wasted=wasted[number],
        )
        for number, index in enumerate(indexes)
    )
    return Survey(tuple(uses), survey_names(_names(tree.root, origin)), tuple(lost))


def biggest(weights: Iterable[Weight], count: int) -> list[Weight]:
    """Return the count largest of weights that have any bytes, the largest first."""
    return nlargest(count, (w for w in weights if w.size), key=lambda w: (w.size, w.path))


def _data_size(inode: Inode | None) -> int:
    return inode.size if inode and stat.S_ISREG(inode.mode) else 0


def _names(root: Inode, origin: Mapping[Inode, int]) -> Iterator[Name]:
    for path, inode in walk(root):
        yield Name(path, inode.mode, inode.size, id(inode), origin.get(inode))


def survey_names(names: Iterable[Name]) -> Contents:
    """Count what names say; they come as a walk gives them, each directory before its children."""
    counts = dict.fromkeys((stat.S_IFREG, stat.S_IFDIR, stat.S_IFLNK, 0), 0)
    weights: list[Weight] = []
    linked: set[int] = set()
    growing = [_Growing(b"", b"", None)]
    for name in names:
        kind = stat.S_IFMT(name.mode)
        counts[kind if kind in counts else 0] += 1
        if not name.path:
            continue
        parent, _, last = name.path.rpartition(b"/")
        _close(growing, parent)
        if kind == stat.S_IFDIR:
            growing.append(_Growing(name.path, last, name.layer))
            continue
        size = name.size if kind == stat.S_IFREG and name.inode not in linked else 0
        if size:
            linked.add(name.inode)
            weights.append(Weight(name.path, size, name.layer))
        growing[-1].add(Node(last, size, 1, name.layer, None))
    _close(growing, b"")
    return Contents(
        root=growing[0].node(),
        files=counts[stat.S_IFREG],
        directories=counts[stat.S_IFDIR],
        symlinks=counts[stat.S_IFLNK],
        others=counts[0],
        weights=tuple(weights),
    )


class _Growing:
    """A directory whose children are still coming."""

    def __init__(self, path: bytes, name: bytes, layer: int | None) -> None:
        self.path = path
        self._name = name
        self._layer = layer
        self._children: list[Node] = []
        self._size = 0
        self._names = 1

    def add(self, child: Node) -> None:
        self._children.append(child)
        self._size += child.size
        self._names += child.names

    def node(self) -> Node:
        return Node(self._name, self._size, self._names, self._layer, tuple(self._children))


def _close(growing: list[_Growing], path: bytes) -> None:
    """Hand finished directories up until path is the last that grows."""
    while growing[-1].path != path:
        done = growing.pop().node()
        growing[-1].add(done)
