"""The images that are run both ways, each with ``report`` in it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support import debian
from tests.support.images import image
from tests.support.layers import d, f, layer, layout, s
from tests.support.workshop import content_key, made

if TYPE_CHECKING:
    from tests.support.workshop import Workshop

SOURCE = Path(__file__).with_name("report.c")

_ACCOUNTS = """root:x:0:0:root:/root:/bin/sh
app:x:1000:1001:App:/home/app:/bin/sh
twin:x:1000:1002::/home/twin:/bin/sh
7:x:1007:1007:a name of digits:/home/seven:/bin/sh
"""
_GROUPS = """root:x:0:
wheel:x:10:root,app
audio:x:29:app,twin
app:x:1001:
twin:x:1002:
"""
_APPLETS = ("cat", "mv", "sh", "sleep", "true")
_WAYS = ("report-volumes", "report-wait", "report-die", "report-crash")


def report(cache: Path) -> Path:
    """Return the program, static, so that it runs in every image."""

    def make(shop: Workshop, target: Path) -> None:
        target.mkdir()
        flags = ("-std=c11", "-D_GNU_SOURCE", "-Wall", "-Wextra", "-Werror", "-Os", "-static", "-s")
        shop.run("musl-gcc", *flags, "-o", target / "report", SOURCE)

    return made(cache, f"report-{content_key(SOURCE)}", make) / "report"


def with_report(name: str, cache: Path) -> Path:
    """Return the layout of a Debian image with one more layer, which holds /report."""
    base, program = image(name, cache), report(cache)

    def make(shop: Workshop, target: Path) -> None:
        debian.copy_layout(base, target)
        shop.run("umoci", "insert", "--image", f"{target}:latest", program, "/report")

    return made(cache, f"{base.name}-report-{content_key(SOURCE)}", make)


def torture(directory: Path, cache: Path, config: dict[str, Any]) -> Path:
    """Write the layout of an image of hard cases for USER, WORKDIR and VOLUME, with config."""
    tree = [
        d("./"),
        *(d(name) for name in ("bin", "etc", "real", "real/inner", "data", "data/sub")),
        f("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755),
        *(s(f"bin/{name}", "busybox") for name in _APPLETS),
        f("bin/report", report(cache).read_bytes(), mode=0o755),
        *(s(f"bin/{name}", "report") for name in _WAYS),
        f("etc/passwd", _ACCOUNTS),
        f("etc/group", _GROUPS),
        d("private", mode=0o700),
        s("link", "/real"),
        s("dangling", "../../nowhere/yet"),
        # Volumes with content: odd owners and modes, their own included.
        d("data", mode=0o2770, uid=1000, gid=29),
        d("data/sub", mode=0o1777, uid=65534, gid=65534),
        f("data/secret", "s", mode=0o400, uid=4294967294, gid=7),
        s("data/link", "secret"),
        f("real/inner/file", "x", mode=0o640, uid=1, gid=1000),
    ]
    return layout(directory, layer(*tree), config=config)
