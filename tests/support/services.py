"""Images of well-known servers, made from Debian packages, each with the habits of its kind."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.debian import configure, copy_layout, install

if TYPE_CHECKING:
    from collections.abc import Mapping

    from tests.support.workshop import Workshop

RECIPE = (Path(__file__),)

_POSTGRES = """#!/bin/sh
set -e
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    initdb --no-sync --auth=trust --username=postgres >/dev/null
    echo "host all all all trust" >> "$PGDATA/pg_hba.conf"
fi
exec "$@"
"""

_PYTHON = """import http.server, os, sys

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = f"hello from python {sys.version.split()[0]} as {os.getuid()}".encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

http.server.ThreadingHTTPServer(("", int(os.environ["PORT"])), Handler).serve_forever()
"""

_NODE = """const http = require("http");
const server = http.createServer((request, response) => {
  response.end("hello from node " + process.version);
});
server.listen(process.env.PORT, () => console.log("listening"));
process.on("SIGTERM", () => server.close(() => process.exit(0)));
"""


@dataclass(frozen=True)
class Service:
    """What is on top of the minimal Debian: packages, files (path -> content), umoci options."""

    packages: tuple[str, ...]
    options: tuple[str, ...]
    files: Mapping[str, str]


def _cmd(*words: str) -> tuple[str, ...]:
    return tuple(f"--config.cmd={word}" for word in words)


SERVICES: Mapping[str, Service] = {
    "redis": Service(
        ("redis-server",),
        (
            *_cmd("redis-server", "--bind", "*", "--protected-mode", "no", "--save", ""),
            "--config.user=redis",
            "--config.workingdir=/var/lib/redis",
            "--config.exposedports=6379/tcp",
        ),
        {},
    ),
    "memcached": Service(
        ("memcached",),
        (
            *_cmd("memcached"),
            "--config.user=memcache",
            "--config.exposedports=11211/tcp",
        ),
        {},
    ),
    "postgresql": Service(
        ("postgresql",),
        (
            "--config.entrypoint=/usr/local/bin/docker-entrypoint.sh",
            *_cmd("postgres", "-c", "listen_addresses=*"),
            "--config.user=postgres",
            "--config.env=PATH=/usr/lib/postgresql/15/bin:/usr/local/bin:/usr/bin:/bin",
            "--config.env=PGDATA=/tmp/pgdata",
            "--config.volume=/var/lib/postgresql/data",
            "--config.stopsignal=SIGINT",
            "--config.exposedports=5432/tcp",
        ),
        {"usr/local/bin/docker-entrypoint.sh": _POSTGRES},
    ),
    "python": Service(
        ("python3-minimal", "libpython3-stdlib"),
        (
            *_cmd("python3", "server.py"),
            "--config.workingdir=/app",
            "--config.env=PORT=8000",
            "--config.user=1000:1000",
            "--config.exposedports=8000/tcp",
        ),
        {"app/server.py": _PYTHON},
    ),
    "nodejs": Service(
        ("nodejs",),
        (
            "--config.entrypoint=node",
            *_cmd("/app/server.js"),
            "--config.env=PORT=3000",
            "--config.exposedports=3000/tcp",
        ),
        {"app/server.js": _NODE},
    ),
}


def make_service(shop: Workshop, base: Path, layout: Path, service: Service) -> None:
    """Make the image of service on top of the layout base."""
    copy_layout(base, layout)
    bundle = shop.path / "bundle"
    shop.run("umoci", "unpack", "--image", f"{layout}:latest", bundle)
    root = bundle / "rootfs"
    install(shop, root, service.packages)
    for name, content in service.files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        path.chmod(0o755)
    shop.run("umoci", "repack", "--image", f"{layout}:latest", bundle)
    configure(shop, layout, *service.options)
    shop.run("umoci", "gc", "--layout", layout)


def make_busybox(shop: Workshop, layout: Path) -> None:
    """Make busybox from scratch: one static program and its links, as the well-known image."""
    root = shop.path / "root"
    (root / "bin").mkdir(parents=True)
    shutil.copy("/bin/busybox", root / "bin/busybox")
    applets = shop.run("/bin/busybox", "--list").split()
    for applet in applets:
        if applet != "busybox":
            (root / "bin" / applet).hardlink_to(root / "bin/busybox")
    (root / "www").mkdir()
    (root / "www/index.html").write_text("hello from busybox\n")
    _from_scratch(shop, root, layout, *_cmd("httpd", "-f", "-p", "80", "-h", "/www"))


def make_static(shop: Workshop, layout: Path, source: Path) -> None:
    """Make an image from scratch that holds one static program, compiled from source."""
    root = shop.path / "root"
    root.mkdir()
    flags = ("-static", "-Os", "-s", "-Wall", "-Wextra", "-Werror")
    shop.run("musl-gcc", *flags, "-o", root / "server", source)
    _from_scratch(shop, root, layout, "--config.entrypoint=/server")


def _from_scratch(shop: Workshop, root: Path, layout: Path, *options: str) -> None:
    tar = shop.path / "layer.tar"
    shop.run("tar", "-C", root, "--owner=0", "--group=0", "-cf", tar, ".")
    shop.run("umoci", "init", "--layout", layout)
    shop.run("umoci", "new", "--image", f"{layout}:latest")
    shop.run("umoci", "raw", "add-layer", "--image", f"{layout}:latest", tar)
    configure(shop, layout, "--os=linux", *options)
    shop.run("umoci", "gc", "--layout", layout)
