"""A network of its own, where registries have the names and ports that the documents use.

`python -m tests.docs.town DIRECTORY`, in new namespaces of network and mounts, serves it until its
standard input ends. Nothing in there reaches the world, and no port of it is one of this machine.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.images import image
from tests.support.layers import f, layer, layout
from tests.support.registry import PASSWORD, USER, certificate, push, serve_registry

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Names that lead to this machine, and so to the registries below.
NAMES = ("registry.lan", "mirror.lan", "registry-1.docker.io")
_CONFIG = Path(__file__).parents[1] / "support/nginx/default.conf"
PUBLIC, PRIVATE, MIRROR, PLAIN = 443, 5000, 5001, 43207
#: What the registry on 443 (and, without TLS, on 43207) has, by the image that it is; the private
#: one has app:1, the mirror of Docker Hub library/nginx:latest.
_CONTENT = {
    "nginx": ("nginx:latest", "nginx:1.25"),
    "welcome": ("library/nginx:latest",),
    "redis": ("library/redis:7",),
    "busybox": ("library/busybox:latest",),
    "app": ("app:1",),
}


@contextmanager
def serve_town(directory: Path) -> Iterator[int]:
    """Run the town with its data in directory, and give the number of its process."""
    with subprocess.Popen(
        ["unshare", "--net", "--mount", sys.executable, "-m", "tests.docs.town", directory],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    ) as process:
        assert process.stdin
        assert process.stdout
        try:
            assert process.stdout.readline() == "open\n"
            yield process.pid
        finally:
            process.stdin.close()
            process.wait()


def main(directory: Path) -> None:
    """Serve, in the namespaces that this process has, until standard input ends."""
    hosts = directory / "hosts"
    hosts.write_text(f"127.0.0.1 localhost {' '.join(NAMES)}\n")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["mount", "--bind", hosts, "/etc/hosts"], check=True)
    # It shows the interfaces of the network that it was mounted in.
    subprocess.run(["mount", "-t", "sysfs", "sysfs", "/sys"], check=True)
    tls = certificate(directory, *NAMES)
    with ExitStack() as stack:
        public, private, plain = (directory / name for name in ("public", "private", "plain"))
        for each in (public, private, plain):
            each.mkdir()
        (public / "data").mkdir()
        (plain / "data").symlink_to(public / "data")
        stack.enter_context(serve_registry(public, tls=tls, port=PUBLIC))
        stack.enter_context(serve_registry(private, auth=True, tls=tls, port=PRIVATE))
        stack.enter_context(serve_registry(directory / "mirror", tls=tls, port=MIRROR))
        host = stack.enter_context(serve_registry(plain, port=PLAIN))
        _fill(directory, host)
        print("open", flush=True)
        sys.stdin.read()


def _fill(directory: Path, host: str) -> None:
    own = {"app": _app, "welcome": _welcome}
    for kind, names in _CONTENT.items():
        source = own[kind](directory / kind) if kind in own else image(kind)
        for name in names:
            push(source, f"{host}/{name}")
    private, mirror = f"127.0.0.1:{PRIVATE}", f"127.0.0.1:{MIRROR}"
    push(directory / "app", f"{private}/app:1", "latest", f"--dest-creds={USER}:{PASSWORD}")
    push(directory / "welcome", f"{mirror}/library/nginx:latest")


def _welcome(directory: Path) -> Path:
    """Make nginx with the page that everybody knows, where Docker Hub's image has it."""
    shutil.copytree(image("nginx"), directory)
    page, config = directory.with_name("index.html"), directory.with_name("default.conf")
    page.write_text("<title>Welcome to nginx!</title>\n<h1>Welcome to nginx!</h1>\n")
    config.write_text(_CONFIG.read_text().replace("/var/www/html", "/usr/share/nginx/html"))
    insert = ["umoci", "insert", "--image", f"{directory}:latest"]
    for source, path in (
        (page, "/usr/share/nginx/html/index.html"),
        (config, "/etc/nginx/conf.d/default.conf"),
    ):
        subprocess.run([*insert, source, path], check=True)
    return directory


def _app(directory: Path) -> Path:
    """Make a small web server: busybox and a page."""
    busybox = f("bin/busybox", Path("/bin/busybox").read_bytes(), mode=0o755)
    page = f("www/index.html", "<title>Welcome</title>\n")
    serve = ["/bin/busybox", "httpd", "-f", "-p", "80", "-h", "/www"]
    config = {"Cmd": serve, "ExposedPorts": {"80/tcp": {}}}
    return layout(directory, layer(busybox, page), config=config)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
