"""The images that tests, demo and benchmarks use, as OCI layouts in a cache.

`python -m tests.support.images nginx` makes one and prints where it is.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from tests.support import debian, services, torture
from tests.support.treelist import SOURCE as TREELIST_SOURCE
from tests.support.treelist import treelist
from tests.support.workshop import Workshop, as_root, content_key, default_cache, made

_STATIC_SOURCE = Path(__file__).with_name("hello.c")
_CHECKOUT = Path(__file__).parents[2]


def image(name: str, cache: Path | None = None) -> Path:
    """Return the OCI layout (tag `latest`) of the image name, made if it is not in the cache.

    Names: `debian`, `nginx`, `torture`, each also with `-tree` behind it (the same image with
    treelist as its command), the servers of ``services.SERVICES``, `busybox` and `static` (both
    from scratch), and `development`. Making one needs root or sudo.
    """
    cache = cache or default_cache()
    layout = cache / _key(name)
    if layout.exists():
        return layout
    if os.geteuid() != 0 and name != "torture":
        return _image_by_sudo(name, cache)
    base_name = name.removesuffix("-tree")
    if name != base_name:
        base, program = image(base_name, cache), treelist(cache)

        def make(shop: Workshop, target: Path) -> None:
            debian.add_program(shop, base, target, program, "/")

    elif name == "debian":
        make = debian.make_base
    elif name == "torture":
        make = torture.make_torture
    elif name == "busybox":
        make = services.make_busybox
    elif name == "static":

        def make(shop: Workshop, target: Path) -> None:
            services.make_static(shop, target, _STATIC_SOURCE)

    elif name in services.SERVICES:
        below = image("debian", cache)

        def make(shop: Workshop, target: Path) -> None:
            services.make_service(shop, below, target, services.SERVICES[name])

    else:
        base = image("debian", cache)
        recipe = {"nginx": debian.make_nginx, "development": debian.make_development}[name]

        def make(shop: Workshop, target: Path) -> None:
            recipe(shop, base, target)

    return made(cache, _key(name), make)


def _key(name: str) -> str:
    base_name = name.removesuffix("-tree")
    recipe = torture.RECIPE if base_name == "torture" else debian.RECIPE
    if name in {*services.SERVICES, "busybox", "static"}:
        recipe = (*debian.RECIPE, *services.RECIPE, _STATIC_SOURCE)
    program = () if name == base_name else (TREELIST_SOURCE,)
    return f"{name}-{content_key(name, *recipe, *program)}"


def _image_by_sudo(name: str, cache: Path) -> Path:
    argv = [sys.executable, "-m", "tests.support.images", "--cache", str(cache), name]
    done = subprocess.run(
        as_root(*argv), check=True, stdout=subprocess.PIPE, text=True, cwd=_CHECKOUT
    )
    owner = f"{os.getuid()}:{os.getgid()}"
    subprocess.run(as_root("chown", "-R", owner, cache), check=True)
    return Path(done.stdout.splitlines()[-1])


def main() -> None:
    """Make the images named on the command line; print the layout of each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="+", metavar="NAME", help="debian, nginx, torture, …")
    parser.add_argument("--cache", type=Path, default=default_cache())
    options = parser.parse_args()
    for name in options.names:
        print(image(name, options.cache.absolute()), flush=True)


if __name__ == "__main__":
    main()
