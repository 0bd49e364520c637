"""An Inspection for people in a terminal, and for scripts as JSON (docs/inspect.md)."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

from hyperbuild.builder.report import table
from hyperbuild.builder.stored import DIGEST_SHOWN
from hyperbuild.converter.errors import printable
from hyperbuild.converter.limits import shown_size
from hyperbuild.converter.survey import biggest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from hyperbuild.builder.inspecting import Inspection, Layer, Layers
    from hyperbuild.builder.lint import Point
    from hyperbuild.converter.survey import Weight
    from hyperbuild.launcher.bundle import Finding

#: Raised when a key of the JSON is renamed, removed or changes its meaning.
SCHEMA_VERSION = 1
_CREATED_BY_SHOWN = 60
#: Words of histories that say nothing, the longest first.
_SHELL = ("/bin/sh -c #(nop) ", "/bin/sh -c ")


def inspection_as_text(found: Inspection, top: int) -> str:
    """Show found in sections, with the top biggest files."""
    return "\n\n".join(_sections(found, top))


def _sections(found: Inspection, top: int) -> Iterator[str]:
    yield "\n".join(f"{name:9} {printable(value)}" for name, value in facts(found))
    if found.layers:
        yield _layer_table(found.layers)
    else:
        yield f"LAYERS\n{without_layers(found)}"
    if found.contents and top:
        yield _weights("BIGGEST FILES", biggest(found.contents.weights, top))
    if found.layers and top and (lost := biggest(found.layers.lost, top)):
        yield _weights("BIGGEST WASTED", lost)
    yield "\n".join(["DAX", *_points(found.lint)] if found.lint else ["DAX", without_rootfs(found)])
    if found.bundle:
        yield "\n".join(["START", *_findings(found.bundle.process.findings)])


def facts(found: Inspection) -> Iterator[tuple[str, str]]:
    """Yield (name, value) of what there is to say before all tables."""
    image, bundle, contents = found.image, found.bundle, found.contents
    yield "image", image.reference
    yield "platform", image.platform
    yield "manifest", image.manifest_digest
    yield "config", image.config_digest
    if bundle:
        rootfs = bundle.rootfs
        yield "rootfs", f"{rootfs.format}, {shown_size(rootfs.size)}, {rootfs.digest}"
        if rootfs.verity:
            yield "verity", f"root hash {rootfs.verity.root_hash}"
        if bundle.kernel:
            yield "kernel", f"{bundle.kernel.version}, {bundle.kernel.digest}"
    if contents:
        counts = f"{contents.files:,} files, {contents.directories:,} directories, "
        counts += f"{contents.symlinks:,} symlinks, {contents.others:,} others"
        yield "content", f"{shown_size(contents.root.size)} in {counts}"
    if found.layers:
        yield "shown", f"{found.layers.efficiency:.1%} of the bytes that the layers carry"


def without_layers(found: Inspection) -> str:
    """Say why there is no table of layers, and where there is one."""
    return f"not at hand: hyperbuild inspect {printable(found.image.reference)} reads the image"


def without_rootfs(found: Inspection) -> str:
    """Say why there is nothing to judge of a root file system."""
    return f"not converted yet: hyperbuild convert {printable(found.image.reference)}"


def short_created_by(layer: Layer) -> str:
    """Return what made a layer, less the words that say nothing; "-" if it is not known."""
    text = layer.created_by
    for words in _SHELL:
        text = text.replace(words, "", 1)
    return " ".join(text.removesuffix("# buildkit").split()) or "-"


def wasted_share(wasted: int, size: int) -> str:
    """Show wasted bytes with their share of size; "-" for none."""
    if not wasted:
        return "-"
    share = f"{wasted / size:.1%}" if wasted * 1000 >= size else "<0.1%"
    return f"{shown_size(wasted)} ({share})"


def _layer_table(layers: Layers) -> str:
    rows = [
        (
            str(number),
            layer.digest.partition(":")[2][: DIGEST_SHOWN - len("sha256:")],
            shown_size(layer.compressed),
            shown_size(layer.use.size),
            f"{layer.use.entries + layer.use.hides:,}",
            wasted_share(layer.use.wasted, layer.use.size),
            _cut(short_created_by(layer)),
        )
        for number, layer in enumerate(layers.layers, 1)
    ]
    uses = [layer.use for layer in layers.layers]
    size, wasted = sum(use.size for use in uses), sum(use.wasted for use in uses)
    total = (
        "",
        "total",
        shown_size(sum(layer.compressed for layer in layers.layers)),
        shown_size(size),
        f"{sum(use.entries + use.hides for use in uses):,}",
        wasted_share(wasted, size),
        "",
    )
    header = ("#", "DIGEST", "PACKED", "FILES", "ENTRIES", "WASTED", "CREATED BY")
    return "LAYERS\n" + table(header, [*rows, total], right={0, 2, 3, 4, 5})


def _cut(text: str) -> str:
    text = printable(text)
    return text if len(text) <= _CREATED_BY_SHOWN else text[: _CREATED_BY_SHOWN - 1] + "…"


def _weights(title: str, weights: Iterable[Weight]) -> str:
    rows = [
        (
            shown_size(weight.size),
            "-" if weight.layer is None else str(weight.layer + 1),
            printable(weight.path),
        )
        for weight in weights
    ]
    return title + "\n" + table(("SIZE", "LAYER", "PATH"), rows, right={0, 1})


def _points(points: Iterable[Point]) -> Iterator[str]:
    for point in points:
        yield f"{point.level:7}  {point.name:10}  {point.text}"
        if point.remedy:
            yield f"{'':7}  {'':10}  -> {point.remedy}"


def _findings(findings: Iterable[Finding]) -> Iterator[str]:
    lines = [f"problem  {found.name:10}  {printable(found.text)}" for found in findings]
    return iter(lines or ["ok       nothing is found that keeps the application from starting"])


def inspection_as_json(found: Inspection, top: int) -> str:
    """Return found as a JSON object whose keys stay (docs/inspect.md); sizes are in bytes."""
    return json.dumps(_document(found, top), indent=2)


def _document(found: Inspection, top: int) -> dict[str, Any]:
    bundle, layers, contents = found.bundle, found.layers, found.contents
    described = json.loads(bundle.to_json()) if bundle else {}
    image = found.image
    return {
        "schemaVersion": SCHEMA_VERSION,
        "name": found.name,
        "image": {
            "reference": image.reference,
            "manifestDigest": image.manifest_digest,
            "configDigest": image.config_digest,
            "platform": image.platform,
        },
        "rootfs": described.get("rootfs"),
        "kernel": described.get("kernel"),
        "layers": layers and [_layer_document(layer) for layer in layers.layers],
        "totals": layers and _totals(layers),
        "contents": contents
        and {
            "size": contents.root.size,
            "files": contents.files,
            "directories": contents.directories,
            "symlinks": contents.symlinks,
            "others": contents.others,
        },
        "biggest": _weight_documents(contents.weights, top) if contents else None,
        "wasted": _weight_documents(layers.lost, top) if layers else None,
        "dax": [
            {"name": p.name, "level": p.level, "text": p.text, "remedy": p.remedy}
            for p in found.lint
        ]
        or None,
        "findings": described["process"]["findings"] if bundle else None,
    }


def _layer_document(layer: Layer) -> dict[str, Any]:
    return {
        "digest": layer.digest,
        "diffId": layer.diff_id,
        "createdBy": layer.created_by,
        "compressedSize": layer.compressed,
        "size": layer.use.size,
        "wasted": layer.use.wasted,
        "entries": layer.use.entries,
        "whiteouts": layer.use.hides,
    }


def _totals(layers: Layers) -> dict[str, Any]:
    return {
        "compressedSize": sum(layer.compressed for layer in layers.layers),
        "size": sum(layer.use.size for layer in layers.layers),
        "wasted": sum(layer.use.wasted for layer in layers.layers),
        "entries": sum(layer.use.entries for layer in layers.layers),
        "whiteouts": sum(layer.use.hides for layer in layers.layers),
        "efficiency": layers.efficiency,
    }


def _weight_documents(weights: Iterable[Weight], top: int) -> list[dict[str, Any]]:
    return [
        {"path": os.fsdecode(weight.path), "size": weight.size, "layer": weight.layer}
        for weight in biggest(weights, top)
    ]
