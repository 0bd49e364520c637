"""A mirror of Debian packages in a directory: made here, of a package or two, and not signed."""

from __future__ import annotations

import hashlib
import subprocess
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

SUITE = "house"
_DATE = "Sat, 11 Jul 2026 10:16:37 UTC"
_INDEX = "main/binary-amd64/Packages"


def make_mirror(root: Path, packages: Mapping[str, Mapping[str, bytes]]) -> str:
    """Make packages ("name version" -> path -> content) and return a line of sources.list."""
    pool, release = root / "pool", root / "dists" / SUITE
    pool.mkdir(parents=True, exist_ok=True)
    (release / _INDEX).parent.mkdir(parents=True, exist_ok=True)
    index = "".join(_package(root, *name.split(), files) for name, files in packages.items())
    (release / _INDEX).write_text(index)
    digest = hashlib.sha256(index.encode()).hexdigest()
    (release / "Release").write_text(
        f"Suite: {SUITE}\nCodename: {SUITE}\nDate: {_DATE}\nArchitectures: amd64\n"
        f"Components: main\nSHA256:\n {digest} {len(index)} {_INDEX}\n"
    )
    return f"deb [trusted=yes] file://{root} {SUITE} main"


def _package(root: Path, name: str, version: str, files: Mapping[str, bytes]) -> str:
    tree, target = root / "tree" / f"{name}-{version}", root / "pool" / f"{name}-{version}.deb"
    control = (
        f"Package: {name}\nVersion: {version}\nArchitecture: amd64\n"
        "Maintainer: Nobody <nobody@example.org>\nDescription: made for a test\n"
    )
    if not target.exists():
        for path, content in {"DEBIAN/control": control.encode(), **files}.items():
            (tree / path).parent.mkdir(parents=True, exist_ok=True)
            (tree / path).write_bytes(content)
            (tree / path).chmod(0o755)
        argv = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", tree, target]
        env = {"PATH": "/usr/bin:/bin", "SOURCE_DATE_EPOCH": "1700000000"}
        subprocess.run(argv, check=True, capture_output=True, env=env)
    content = target.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    place = target.relative_to(root)
    return f"{control}Filename: {place}\nSize: {len(content)}\nSHA256: {digest}\n\n"
