"""An Inspection as one page: no script, nothing fetched, and no name can become markup.

The treemap's views lie in one place; the address's #fragment says which is seen, so that links
alone lead down and up.
"""

from __future__ import annotations

from html import escape
from itertools import islice
from typing import TYPE_CHECKING

from hyperbuild.builder.report_style import STYLE
from hyperbuild.builder.report_text import (
    facts,
    short_created_by,
    wasted_share,
    without_layers,
    without_rootfs,
)
from hyperbuild.builder.treemap import draw
from hyperbuild.converter.errors import UnavailableError, printable
from hyperbuild.converter.files import named_output, write_atomically
from hyperbuild.converter.limits import shown_size
from hyperbuild.converter.survey import biggest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from hyperbuild.builder.inspecting import Inspection, Layers
    from hyperbuild.builder.treemap import Box, View
    from hyperbuild.converter.survey import Contents, Weight

WIDTH, HEIGHT = 1200.0, 640.0
#: The bytes that all boxes may take; directories on the way to a view, rows of layers.
_BOXES, _CRUMBS, _LAYERS = 1_600_000, 8, 500
_COLORS = 10
#: How much of a name is written: a path may have 4095 bytes, and each take six when escaped.
_LABEL, _TITLE, _CELL = 40, 120, 300
#: Smallest boxes, in pixels, that have a name in them, and their size below it.
_NAMED, _SIZED = (34.0, 14.0), (64.0, 32.0)
#: Nothing may be run or fetched, whatever an image's names manage to smuggle in.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def write_page(path: Path, found: Inspection, top: int) -> None:
    """Write found, with the top biggest files, as the page path, whole or not at all."""
    try:
        write_atomically(named_output(path), page(found, top).encode())
    except OSError as error:
        raise UnavailableError(
            f"cannot write the page {path}: {error.strerror}; choose another file"
        ) from error


def page(found: Inspection, top: int) -> str:
    """Return found as an HTML document."""
    title = _text(found.image.reference)
    return "\n".join(
        (
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width,initial-scale=1">',
            f"<title>{title}</title><style>{STYLE}</style></head><body><main>",
            f"<h1>{title}</h1><p>{_text(found.image.platform)}</p>",
            _tiles(found),
            *_sections(found, top),
            "</main></body></html>\n",
        )
    )


def _sections(found: Inspection, top: int) -> Iterator[str]:
    layers = found.layers
    if found.contents and found.contents.root.size:
        yield _section("Where the bytes are", _map(found.contents, layers))
    yield _section("Layers", _layer_rows(layers) if layers else f"<p>{without_layers(found)}</p>")
    lists = []
    if found.contents and top:
        lists.append(_section("Biggest files", _weights(biggest(found.contents.weights, top))))
    if layers and top and (lost := biggest(layers.lost, top)):
        lists.append(_section("Biggest wasted", _weights(lost)))
    yield f'<div class="two">{"".join(lists)}</div>'
    points = [(p.level, p.name, p.text, p.remedy) for p in found.lint]
    yield _section("DAX", _points(points) if points else f"<p>{without_rootfs(found)}</p>")
    if found.bundle:
        problems = [("problem", f.name, f.text, "") for f in found.bundle.process.findings]
        fine = ("ok", "start", "nothing is found that keeps the application from starting", "")
        yield _section("Start", _points(problems or [fine]))
    values = "".join(f"<dt>{name}</dt><dd>{_text(value)}</dd>" for name, value in facts(found))
    yield _section("Details", f"<dl>{values}</dl>")


def _text(name: str | bytes, limit: int = _CELL) -> str:
    """Return a name from outside as text of the page: printable, short, escaped."""
    text = printable(name if len(name) <= 4 * limit else name[: 4 * limit])
    return escape(text if len(text) <= limit else f"{text[: limit // 2]}…{text[-limit // 2 :]}")


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


def _tiles(found: Inspection) -> str:
    tiles = []
    if found.bundle:
        rootfs = found.bundle.rootfs
        tiles.append((shown_size(rootfs.size), f"root file system, {rootfs.format}"))
    if found.contents:
        tiles.append((shown_size(found.contents.root.size), f"{found.contents.files:,} files"))
    if found.layers:
        uses = [layer.use for layer in found.layers.layers]
        packed = sum(layer.compressed for layer in found.layers.layers)
        tiles.append((shown_size(packed), f"compressed, {len(uses)} layers"))
        wasted = shown_size(sum(use.wasted for use in uses))
        tiles.append((f"{found.layers.efficiency:.1%}", f"efficiency, {wasted} wasted"))
    if found.lint:
        warnings = sum(point.level == "warning" for point in found.lint)
        judged = f"{warnings} warnings" if warnings else "no warnings"
        tiles.append(("in doubt" if warnings else "ready", f"DAX, {judged}"))
    return '<div class="tiles">{}</div>'.format(
        "".join(
            f'<div class="tile"><b>{value}</b><span>{what}</span></div>' for value, what in tiles
        )
    )


def _map(contents: Contents, layers: Layers | None) -> str:
    by_layer = layers is not None

    def cost(box: Box) -> int:
        return len(_box(box, {box.path: 100}, by_layer).encode())

    views = draw(contents.root, WIDTH, HEIGHT, budget=_BOXES, cost=cost)
    numbers = {view.path: number for number, view in enumerate(views)}
    # The root's view is the last, so that one chosen by the address can hide it.
    drawn = (_view(view, numbers, by_layer) for view in (*views[1:], views[0]))
    return "".join(drawn) + _key(views[0], layers)


def _view(view: View, numbers: Mapping[bytes, int], by_layer: bool) -> str:
    boxes = "".join(_box(box, numbers, by_layer) for box in view.boxes)
    size = f"{shown_size(view.node.size)}, {view.node.names - 1:,} names"
    return (
        f'<div class="view" id="v{numbers[view.path]}"><p class="crumbs">'
        f'{_crumbs(view.path, numbers)}: {size}</p><div class="map">{boxes}</div></div>'
    )


def _crumbs(path: bytes, numbers: Mapping[bytes, int]) -> str:
    links, prefix = ['<a href="#v0">the image</a>'], b""
    for name in path.split(b"/") if path else ():
        prefix = prefix + b"/" + name if prefix else name
        links.append(f'<a href="#v{numbers[prefix]}">{_text(name, _TITLE)}</a>')
    left_out = ["…"] if len(links) > _CRUMBS else []
    return " › ".join((links[0], *left_out, *links[1:][1 - _CRUMBS :]))


def _box(box: Box, numbers: Mapping[bytes, int], by_layer: bool) -> str:
    node, rect = box.node, box.rect
    number = numbers.get(box.path) if node and node.children else None
    tag, link = ("i", "") if number is None else ("a", f" href=#v{number}")
    size = shown_size(box.size)
    if node is None:
        kind, label, title = "m", f"{box.names:,} more", f"{box.names:,} smaller names, {size}"
    else:
        label, title = _text(node.name, _LABEL), f"{_text(box.path, _TITLE)}, {size}"
        if node.children is not None:
            kind, title = "de"[box.level % 2], f"{title}, {node.names - 1:,} names"
        else:
            color = (node.layer or 0) if by_layer else box.branch
            kind = f"k{color % _COLORS}"
            title += f", layer {node.layer + 1}" if node.layer is not None else ""
    if rect.width < _NAMED[0] or rect.height < _NAMED[1]:
        label = ""
    elif rect.width >= _SIZED[0] and rect.height >= _SIZED[1] and kind not in ("d", "e"):
        label += f"<small>{size}</small>"
    place = (
        f"left:{rect.left / WIDTH:.2%};top:{rect.top:.1f}px;"
        f"width:{rect.width / WIDTH:.2%};height:{rect.height:.1f}px"
    )
    return f'<{tag} class={kind}{link} style="{place}" title="{title}">{label}</{tag}>'


def _key(view: View, layers: Layers | None) -> str:
    """Say what the colors are: layers, or the root's directories where no layers are known."""
    if layers:
        names = [f"layer {number}" for number in range(1, len(layers.layers) + 1)]
    else:
        tops = sorted((box for box in view.boxes if not box.level and box.node), key=_branch)
        names = [_text(box.path, _LABEL) for box in tops]
    shown = "".join(
        f'<span class="k{number % _COLORS}">{name}</span>'
        for number, name in enumerate(names[: 2 * _COLORS])
    )
    return f'<div class="key">{shown}<i>Click a directory to look into it.</i></div>'


def _branch(box: Box) -> int:
    return box.branch


def _layer_rows(layers: Layers) -> str:
    largest = max((layer.use.size for layer in layers.layers), default=0) or 1
    rows = []
    for number, layer in enumerate(islice(layers.layers, _LAYERS)):
        use = layer.use
        shown, wasted = (100 * part / largest for part in (use.size - use.wasted, use.wasted))
        rows.append(
            f'<tr><td class="r"><span class="swatch k{number % _COLORS}"></span>{number + 1}</td>'
            f"<td><code>{layer.digest.partition(':')[2][:12]}</code></td>"
            f'<td class="r">{shown_size(layer.compressed)}</td>'
            f'<td class="r">{shown_size(use.size)}</td>'
            f'<td><div class="bar"><i style="width:{shown:.1f}%"></i>'
            f'<i style="width:{wasted:.1f}%"></i></div></td>'
            f'<td class="r">{use.entries + use.hides:,}</td>'
            f'<td class="r">{wasted_share(use.wasted, use.size).replace("<", "&lt;")}</td>'
            f'<td class="path">{_text(short_created_by(layer))}</td></tr>'
        )
    heads = (
        '<th class="r">#</th><th>Digest</th><th class="r">Packed</th><th class="r">Files</th>'
        '<th>Shown, wasted</th><th class="r">Entries</th><th class="r">Wasted</th>'
        "<th>Created by</th>"
    )
    return f'<div class="scroll"><table><tr>{heads}</tr>{"".join(rows)}</table></div>'


def _weights(weights: Iterable[Weight]) -> str:
    rows = "".join(
        f'<tr><td class="r">{shown_size(weight.size)}</td>'
        f'<td class="r">{"-" if weight.layer is None else weight.layer + 1}</td>'
        f'<td class="path">{_text(weight.path)}</td></tr>'
        for weight in weights
    )
    heads = '<th class="r">Size</th><th class="r">Layer</th><th>Path</th>'
    return f"<table><tr>{heads}</tr>{rows}</table>"


def _points(points: Iterable[tuple[str, str, str, str]]) -> str:
    rows = []
    for level, name, text, remedy in points:
        advice = f"<p>→ {_text(remedy)}</p>" if remedy else ""
        rows.append(
            f'<tr><td class="{level}">{level}</td><td class="name">{_text(name)}</td>'
            f'<td class="wide">{_text(text)}{advice}</td></tr>'
        )
    return f"<table>{''.join(rows)}</table>"
