"""Tables and JSON for people and scripts."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from hyperbuild.builder.bundling import DIGEST_SHOWN
from hyperbuild.converter.errors import printable

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Sequence

    from hyperbuild.builder.bundling import StoredBundle
    from hyperbuild.kernel.build import Kernel


def table(
    header: Sequence[str], rows: Iterable[Sequence[str]], *, right: Collection[int] = ()
) -> str:
    """Align rows under header in columns two spaces apart, as docker's lists are.

    The columns whose numbers are in right are flush right.
    """
    lines = [list(header), *([printable(cell) for cell in row] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(header))]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if column in right else cell.ljust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def bundles_as_table(bundles: Iterable[StoredBundle]) -> str:
    """Show bundles as ``hyperbuild images`` does."""
    return table(
        ("IMAGE", "PLATFORM", "DIGEST", "ROOTFS", "KERNEL"),
        (
            (
                bundle.name,
                bundle.files.bundle.image.platform,
                bundle.digest[:DIGEST_SHOWN],
                f"{bundle.files.bundle.rootfs.size >> 20} MiB",
                bundle.files.bundle.kernel.version if bundle.files.bundle.kernel else "-",
            )
            for bundle in bundles
        ),
    )


def bundles_as_json(bundles: Iterable[StoredBundle]) -> str:
    """Describe bundles as a JSON array of objects: name, digest and bundle.json's content."""
    return json.dumps(
        [
            {
                "name": bundle.name,
                "digest": bundle.digest,
                "bundle": json.loads(bundle.files.bundle.to_json()),
            }
            for bundle in bundles
        ]
    )


def kernels_as_table(kernels: Iterable[Kernel]) -> str:
    """Show kernels as ``hyperbuild kernel list`` does."""
    return table(
        ("VERSION", "DIGEST", "SIZE", "PATH"),
        (
            (
                kernel.version,
                kernel.digest[:DIGEST_SHOWN],
                f"{kernel.size / (1 << 20):.1f} MiB",
                str(kernel.path),
            )
            for kernel in kernels
        ),
    )
