"""The tree of an image: inodes linked by names, and how a layer's entries change it.

Sources: OCI image-spec v1.1, layer.md ("Applying Changesets", "Whiteouts"); where it is silent,
what containerd and umoci do (see docs/flattening.md). File data is never here: an inode of a
regular file knows the block of the output image where its bytes lie.
"""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hyperbuild.converter.errors import ContentError, printable
from hyperbuild.converter.limits import DEFAULT_LIMITS, LimitError, too_deep

if TYPE_CHECKING:
    from collections.abc import Iterator

    from hyperbuild.converter.limits import Limits

#: Most symbolic links followed in one lookup (Linux: MAXSYMLINKS).
SYMLINK_LIMIT = 40
NO_BLOCK = -1
#: No runtime can make what lies behind a longer path (Linux: PATH_MAX, less its NUL).
PATH_LIMIT = 4095
#: Components of symlinks' targets that are followed for one image. Honest ones need a few per
#: directory; long targets through each other would keep us busy for hours.
FOLLOW_LIMIT = 20_000_000


@dataclass(slots=True, eq=False)
class Inode:
    """One file of any type. ``mode`` is st_mode, type bits included; times are since the epoch.

    ``children`` of a directory are in order of insertion; ``block`` is where a regular file's data
    starts in the image, in blocks, NO_BLOCK if it has none or was not written; ``entry`` is the
    number of the layer entry that it came from, counted over the whole image.
    """

    mode: int
    uid: int = 0
    gid: int = 0
    mtime: int = 0
    mtime_ns: int = 0
    size: int = 0
    block: int = NO_BLOCK
    entry: int = -1
    device: tuple[int, int] = (0, 0)
    target: bytes = b""
    xattrs: dict[bytes, bytes] | None = None
    children: dict[bytes, Inode] | None = None

    @property
    def is_directory(self) -> bool:
        """Whether it is a directory."""
        return self.children is not None

    @property
    def is_symlink(self) -> bool:
        """Whether it is a symbolic link."""
        return stat.S_ISLNK(self.mode)


@dataclass(slots=True)
class Entry:
    """A path that a layer adds, relative to the root: an inode, or a hard link to another path."""

    path: bytes
    inode: Inode | None
    link: bytes = b""


@dataclass(slots=True)
class LayerIndex:
    """All that one layer says, file data aside: paths are relative, b"" is the root.

    ``notices`` tell what of the layer is left out; ``unpacked`` is its tar stream's size in bytes,
    ``holes`` what its sparse files have beyond that.
    """

    where: str
    entries: list[Entry] = field(default_factory=list)
    whiteouts: list[bytes] = field(default_factory=list)
    opaques: list[bytes] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    unpacked: int = 0
    holes: int = 0


def new_directory(mtime: int) -> Inode:
    """Return a directory as implied by a path below it: 0755, root's."""
    return Inode(stat.S_IFDIR | 0o755, mtime=mtime, children={})


class Tree:
    """An image's file system, built up by applying layers from the base to the top."""

    def __init__(self, mtime: int, limits: Limits = DEFAULT_LIMITS) -> None:
        """Start with an empty root; mtime is for directories that no layer describes.

        Of limits, ``depth`` and ``entries`` count for those.
        """
        self._mtime = mtime
        self._depth = limits.depth
        self._room = limits.entries
        self._followed = 0
        self.root = new_directory(mtime)
        #: Directories by path as entries spell it; dropped when a name on a path changes hands.
        self._directories: dict[bytes, Inode] = {b"": self.root}

    def apply(self, layer: LayerIndex) -> None:
        """Apply one layer: first what it hides of the layers below, then what it adds, in order.

        ContentError for an entry that no runtime could unpack.
        """
        if layer.whiteouts or layer.opaques:
            self._hide(layer)
        for entry in layer.entries:
            try:
                self._add(entry)
            except LimitError as error:
                raise LimitError(f"{layer.where}: {error}") from None
            except ContentError as error:
                raise ContentError(
                    f"{layer.where}: entry {printable(entry.path)!r}: {error}"
                ) from None

    def _hide(self, layer: LayerIndex) -> None:
        own_directories = {
            entry.path for entry in layer.entries if entry.inode and entry.inode.is_directory
        }
        for path in layer.whiteouts:
            parent, _, name = path.rpartition(b"/")
            directory = self._hidden_directory(parent, own_directories)
            if directory and directory.children:
                directory.children.pop(name, None)
        for path in layer.opaques:
            directory = self._hidden_directory(path, own_directories)
            if directory and directory.children:
                directory.children.clear()
        self._forget()

    def _hidden_directory(self, path: bytes, own_directories: set[bytes]) -> Inode | None:
        """Find the directory of the layers below that a whiteout in path speaks of, if any.

        Where the layer itself puts a directory in a symlink's place, nothing below is meant.
        """
        directory: Inode | None = self.root
        end = -1
        for name in path.split(b"/") if path else ():
            end += 1 + len(name)
            below = directory.children.get(name) if directory and directory.children else None
            if below and below.is_symlink:
                if path[:end] in own_directories:
                    return None
                below = self._find(path[:end])
            directory = below
        return directory if directory and directory.is_directory else None

    def _add(self, entry: Entry) -> None:
        inode = entry.inode
        if inode is None:
            inode = self._link_target(entry)
        if not entry.path:
            self._describe_root(inode)
            return
        parent_path, _, name = entry.path.rpartition(b"/")
        parent = self._directories.get(parent_path) or self._make_parent(parent_path)
        children = parent.children
        assert children is not None  # noqa: S101 - _make_parent returns directories
        old = children.get(name)
        if old is inode:
            return
        if old is not None and (old.is_directory or old.is_symlink):
            if inode.is_directory and old.is_directory:
                inode.children = old.children
            self._forget()
        children[name] = inode

    def _describe_root(self, inode: Inode) -> None:
        if not inode.is_directory:
            raise ContentError("the root is not a directory; the image cannot be unpacked")
        inode.children = self.root.children
        self.root = inode
        self._forget()

    def _forget(self) -> None:
        self._directories = {b"": self.root}

    def _link_target(self, entry: Entry) -> Inode:
        parent_path, _, name = entry.link.rpartition(b"/")
        parent = self._find(parent_path)
        target = parent.children.get(name) if parent and parent.children else None
        if target is None or target.is_directory:
            what = "is a directory" if target else "does not exist"
            raise ContentError(
                f"its hard link target {printable(entry.link)!r} {what}; "
                "the image cannot be unpacked"
            )
        return target

    def _make_parent(self, path: bytes) -> Inode:
        """Resolve path inside the root, making what is missing, and remember it."""
        directory = self._walk(path, make=True)
        assert directory is not None  # noqa: S101 - made
        if not directory.is_directory:
            raise ContentError(
                f"{printable(path)!r} above it is not a directory; the image cannot be unpacked"
            )
        self._directories[path] = directory
        return directory

    def _find(self, path: bytes) -> Inode | None:
        """Resolve path inside the root, symlinks in every place followed; None if it is missing."""
        return self._directories.get(path) or self._walk(path, make=False)

    def _walk(self, path: bytes, *, make: bool) -> Inode | None:
        stack = [self.root]
        lengths = [0]
        names = path.split(b"/")[::-1]
        followed = 0
        while names:
            name = names.pop()
            if name in (b"", b"."):
                continue
            if name == b"..":
                if len(stack) > 1:
                    stack.pop()
                    lengths.pop()
                continue
            children = stack[-1].children
            if children is None:
                if make:
                    raise ContentError(
                        f"a parent in {printable(path)!r} is not a directory; "
                        "the image cannot be unpacked"
                    )
                return None
            inode = children.get(name)
            if inode is None:
                if not make:
                    return None
                inode = children[name] = self._imply()
            if inode.is_symlink:
                followed += 1
                if followed > SYMLINK_LIMIT:
                    raise ContentError(f"too many symbolic links in {printable(path)!r}")
                if inode.target.startswith(b"/"):
                    del stack[1:], lengths[1:]
                targets = inode.target.split(b"/")
                self._followed += len(targets)
                if self._followed > FOLLOW_LIMIT:
                    raise LimitError("the image's symbolic links lead too far; it may be a bomb")
                names.extend(reversed(targets))
                continue
            stack.append(inode)
            lengths.append(lengths[-1] + 1 + len(name))
            if make:
                self._check_depth(path, len(stack), lengths[-1])
        return stack[-1]

    def _imply(self) -> Inode:
        """Make a directory that no entry describes: one long path may ask for hundreds."""
        self._room -= 1
        if self._room < 0:
            raise LimitError(
                "the image's paths imply more directories than it may have entries; "
                "if that is right, raise --max-entries"
            )
        return new_directory(self._mtime)

    def _check_depth(self, path: bytes, depth: int, length: int) -> None:
        """Bound where symlinked parents lead: an entry's own path was bounded as it was read."""
        if depth > self._depth:
            raise too_deep("parents", path, self._depth)
        if length > PATH_LIMIT:
            raise ContentError(
                f"the symbolic links in {printable(path[:64])!r} lead to a path of over "
                f"{PATH_LIMIT} bytes; the image cannot be unpacked"
            )

    def lookup(self, path: bytes) -> Inode | None:
        """Resolve path inside the root as the guest would; None if it is missing or loops."""
        try:
            return self._find(path)
        except ContentError:
            return None


def walk(root: Inode) -> Iterator[tuple[bytes, Inode]]:
    """Yield (path, inode) for all names, parents first, names of a directory in byte order."""
    yield b"", root
    # Paths are made as they are reached: those of all siblings at once could fill the memory.
    pending = [(b"", root.children or {}, iter(sorted(root.children or ())))]
    while pending:
        prefix, children, names = pending[-1]
        for name in names:
            inode, path = children[name], prefix + name
            yield path, inode
            if inode.children:
                pending.append((path + b"/", inode.children, iter(sorted(inode.children))))
                break
        else:
            pending.pop()
