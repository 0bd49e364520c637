"""Flattening against a plain model: every path spelled out in one dict."""

from __future__ import annotations

import stat
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hyperbuild.converter.errors import ContentError
from tests.converter.flat import flat
from tests.support.layers import E, d, f, h, layer, s

NAMES = ["a", "b", "c"]
PATHS = [*NAMES, *(f"{x}/{y}" for x in NAMES for y in NAMES), "a/b/c", "b/a/a", "c/c/c"]
TARGETS = ["a", "b", "/a/b", "../c", "../../..", "b/c", "/nowhere/yet"]

paths = st.sampled_from(PATHS)
entries = st.one_of(
    st.builds(lambda p, n: f(p, f"data {n}"), paths, st.integers(0, 999)),
    st.builds(lambda p, m: d(p + "/", mode=m), paths, st.sampled_from([0o700, 0o755, 0o1777])),
    st.builds(s, paths, st.sampled_from(TARGETS)),
    st.builds(h, paths, paths),
    st.builds(lambda p: f(_whiteout(p)), paths),
    st.builds(lambda p: f(p + "/.wh..wh..opq"), paths),
)
layers = st.lists(st.lists(entries, max_size=8), min_size=1, max_size=4)


def _whiteout(path: str) -> str:
    parent, _, name = path.rpartition("/")
    return f"{parent}/.wh.{name}" if parent else f".wh.{name}"


class RefusedError(Exception):
    """The model's word for what no runtime unpacks."""


@dataclass
class Node:
    kind: str
    value: str = ""
    mode: int = 0o755


@dataclass
class Model:
    tree: dict[str, Node] = field(default_factory=lambda: {"": Node("d")})

    def resolve(self, path: str, *, make: bool, left: int = 40) -> str | None:
        here = ""
        names = [name for name in path.split("/") if name]
        while names:
            name = names.pop(0)
            if name == "..":
                here = here.rpartition("/")[0]
                continue
            if self.tree[here].kind != "d":
                if make:
                    raise RefusedError
                return None
            there = f"{here}/{name}".lstrip("/")
            node = self.tree.get(there)
            if node is None:
                if not make:
                    return None
                node = self.tree[there] = Node("d")
            if node.kind == "l":
                if not left:
                    raise RefusedError
                left -= 1
                here = "" if node.value.startswith("/") else here
                names = [part for part in node.value.split("/") if part] + names
            else:
                here = there
        return here

    def remove(self, path: str, *, itself: bool) -> None:
        for known in list(self.tree):
            below = known.startswith(f"{path}/" if path else "")
            if known and (below or (itself and known == path)):
                del self.tree[known]

    def apply(self, items: list[E]) -> None:
        directories = {item.name.rstrip("/") for item in items if stat_kind(item) == "d"}
        for item in items:
            parent, _, name = item.name.rpartition("/")
            if not name.startswith(".wh.") or self._replaces_a_link(parent, directories, name):
                continue
            real = self.resolve(parent, make=False)
            if real is None or self.tree[real].kind != "d":
                continue
            if name == ".wh..wh..opq":
                self.remove(real, itself=False)
            else:
                self.remove(f"{real}/{name.removeprefix('.wh.')}".lstrip("/"), itself=True)
        for item in items:
            if "/.wh." not in f"/{item.name}":
                self.add(item)

    def _replaces_a_link(self, parent: str, directories: set[str], name: str) -> bool:
        prefix = ""
        for part in parent.split("/") if parent else ():
            real = self.resolve(prefix, make=False)
            prefix = f"{prefix}/{part}".lstrip("/")
            if real is not None and prefix in directories:
                below = self.tree.get(f"{real}/{part}".lstrip("/"))
                if below and below.kind == "l":
                    return True
        return False

    def add(self, item: E) -> None:
        parent, _, name = item.name.rstrip("/").rpartition("/")
        kind = stat_kind(item)
        node = Node(kind, item.link or item.data.decode(), item.info().mode)
        if kind == "h":
            above, _, base = item.link.rpartition("/")
            real = self.resolve(above, make=False)
            found = None if real is None else self.tree.get(f"{real}/{base}".lstrip("/"))
            if real is None or self.tree[real].kind != "d" or found is None or found.kind == "d":
                raise RefusedError
            node = found
        real = self.resolve(parent, make=True)
        assert real is not None
        if self.tree[real].kind != "d":
            raise RefusedError
        path = f"{real}/{name}".lstrip("/")
        old = self.tree.get(path)
        if old is node:
            return
        if old and not (old.kind == "d" and kind == "d"):
            self.remove(path, itself=True)
        self.tree[path] = node


def stat_kind(item: E) -> str:
    return {b"0": "-", b"5": "d", b"2": "l", b"1": "h"}[item.kind]


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(layers)
def test_any_layers_flatten_as_the_model_does(image: list[list[E]]) -> None:
    model = Model()
    refused = False
    try:
        for items in image:
            model.apply(items)
    except RefusedError:
        refused = True
    with tempfile.TemporaryDirectory() as work:
        try:
            seen = flat(Path(work), *(layer(*items) for items in image))
        except ContentError:
            assert refused
            return
    assert not refused
    assert {
        path: (stat.filemode(item.info.mode)[0], item.content.decode())
        for path, item in seen.items()
    } == {
        path: (node.kind, "" if node.kind == "d" else node.value)
        for path, node in model.tree.items()
    }
    for path, node in model.tree.items():
        if path and node.kind != "l":
            assert seen[path].info.mode & 0o7777 == node.mode
    links = [{p for p in model.tree if model.tree[p] is node} for node in model.tree.values()]
    for group in links:
        assert len({seen[path].info.nid for path in group}) == 1
