"""What an image is, said as plainly as it can be: one dict from path to node, no links followed.

Layers are applied bottom-up, an entry at a time, by the rules of docs/flattening.md. It is slow and
knows nothing of the converter; what it holds for right is what the converter must make.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.support import tarball
from tests.support.tarball import Entry

if TYPE_CHECKING:
    from collections.abc import Sequence

_KINDS = {
    tarball.FILE: "-",
    tarball.SYMLINK: "l",
    tarball.CHARACTER: "c",
    tarball.BLOCK_DEVICE: "b",
    tarball.DIRECTORY: "d",
    tarball.FIFO: "p",
}
_WHITEOUT, _OPAQUE, _AUFS = b".wh.", b".wh..wh..opq", b".wh..wh."
_LINKS_FOLLOWED = 40


class RefusedError(Exception):
    """The model's word for what no runtime unpacks; ``entry`` is what was refused."""

    entry: Entry | None = None


@dataclass(eq=False)
class Node:
    """One file: names that are hard links of each other have the same node."""

    kind: str = "d"
    content: bytes = b""
    mode: int = 0o755
    owner: tuple[int, int] = (0, 0)
    mtime: int = 0
    device: tuple[int, int] = (0, 0)
    xattrs: dict[bytes, bytes] = field(default_factory=dict)


class Model:
    """The tree after the layers applied so far; mtime (ns) is that of directories nobody named."""

    def __init__(self, mtime: int = 0) -> None:
        self.mtime = mtime
        self.tree: dict[bytes, Node] = {b"": Node(mtime=mtime)}

    def copy(self) -> Model:
        """Return a model of the same tree, to try something on."""
        other = Model(self.mtime)
        other.tree = dict(self.tree)
        return other

    def apply(self, layer: Sequence[Entry]) -> None:
        """Apply one layer: all that it hides first, whatever the order of its entries."""
        entries = [(parts(entry.name), entry) for entry in layer]
        directories = {path for path, entry in entries if entry.kind == tarball.DIRECTORY}
        hiding = [item for item in entries if up(item[0])[1].startswith(_WHITEOUT)]
        adding = [item for item in entries if item not in hiding]
        for path, entry in (*hiding, *adding):
            try:
                if up(path)[1].startswith(_WHITEOUT):
                    self._hide(*up(path), directories)
                else:
                    self._add(path, entry)
            except RefusedError as error:
                error.entry = entry
                raise

    def _hide(self, parent: bytes, name: bytes, directories: set[bytes]) -> None:
        if name in (b".wh.", b".wh..", b".wh..."):
            raise RefusedError
        if name.startswith(_AUFS) and name != _OPAQUE:
            return
        if self._is_over_a_link(parent, directories):
            return
        real = self._follow(parent, make=False)
        if real is None or self.tree[real].kind != "d":
            return
        if name == _OPAQUE:
            self._remove_below(real)
        else:
            hidden = join(real, name.removeprefix(_WHITEOUT))
            self._remove_below(hidden)
            self.tree.pop(hidden, None)

    def _is_over_a_link(self, path: bytes, directories: set[bytes]) -> bool:
        """Tell whether the layer puts a directory in place of a symlink on the way to path."""
        names = path.split(b"/") if path else []
        for count in range(1, len(names) + 1):
            here = b"/".join(names[:count])
            above = self._follow(up(here)[0], make=False)
            there = None if above is None else self.tree.get(join(above, names[count - 1]))
            if here in directories and there is not None and there.kind == "l":
                return True
        return False

    def _add(self, path: bytes, entry: Entry) -> None:
        node = self._linked(entry) if entry.kind == tarball.HARD else _node(entry)
        if not path:
            if node.kind != "d":
                raise RefusedError
            self.tree[b""] = node
            return
        parent, name = up(path)
        real = self._follow(parent, make=True)
        if real is None or self.tree[real].kind != "d":
            raise RefusedError
        place = join(real, name)
        old = self.tree.get(place)
        if old is node:
            return
        if old is not None and not (old.kind == node.kind == "d"):
            self._remove_below(place)
        self.tree[place] = node

    def _linked(self, entry: Entry) -> Node:
        parent, name = up(parts(entry.link))
        real = self._follow(parent, make=False)
        found = None if real is None else self.tree.get(join(real, name))
        if found is None or found.kind == "d" or not name:
            raise RefusedError
        return found

    def _follow(self, path: bytes, *, make: bool) -> bytes | None:
        """Return where path really is, symlinks followed inside the root."""
        here, names, followed = b"", path.split(b"/"), 0
        while names:
            name = names.pop(0)
            if name in (b"", b"."):
                continue
            if name == b"..":
                here = up(here)[0]
                continue
            if self.tree[here].kind != "d":
                if make:
                    raise RefusedError
                return None
            there = join(here, name)
            node = self.tree.get(there)
            if node is None:
                if not make:
                    return None
                node = self.tree[there] = Node(mtime=self.mtime)
            if node.kind == "l":
                followed += 1
                if followed > _LINKS_FOLLOWED:
                    raise RefusedError
                here = b"" if node.content.startswith(b"/") else here
                names = node.content.split(b"/") + names
            else:
                here = there
        return here

    def _remove_below(self, path: bytes) -> None:
        prefix = path + b"/" if path else b""
        for known in [known for known in self.tree if known and known.startswith(prefix)]:
            del self.tree[known]


def _node(entry: Entry) -> Node:
    kind = _KINDS[entry.kind]
    return Node(
        kind,
        {"-": entry.data, "l": entry.link}.get(kind, b""),
        0o777 if kind == "l" else entry.mode & 0o7777,
        (entry.uid, entry.gid),
        entry.mtime,
        entry.device if kind in "cb" else (0, 0),
        {name: value for name, value in entry.xattrs.items() if _is_kept(name)},
    )


def _is_kept(name: bytes) -> bool:
    return name in (b"system.posix_acl_access", b"system.posix_acl_default") or (
        name.startswith((b"user.", b"security.")) and not name.endswith(b".")
    )


def parts(name: bytes) -> bytes:
    """Return an archived name as a path below the root; RefusedError if it leads out."""
    names = name.split(b"/")
    if not name or b".." in names:
        raise RefusedError
    return b"/".join(part for part in names if part not in (b"", b"."))


def up(path: bytes) -> tuple[bytes, bytes]:
    """Cut a path into its parent and its last name."""
    parent, _, name = path.rpartition(b"/")
    return parent, name


def join(parent: bytes, name: bytes) -> bytes:
    """Join what ``up`` has cut."""
    return parent + b"/" + name if parent else name
