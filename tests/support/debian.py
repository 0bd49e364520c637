"""Container images made from Debian packages, by the machine's own package sources.

Layers are made as a Dockerfile would make them: a minimal Debian, then packages installed by its
own apt and dpkg, then settings. Nothing runs as a service, nothing is fetched but packages.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.support.workshop import Workshop

SUITE = "bookworm"
PATH = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PAGE_TITLE = "nginx, in a VM of its own"

_SLIM = [
    "path-exclude=/usr/share/doc/*",
    "path-include=/usr/share/doc/*/copyright",
    "path-exclude=/usr/share/man/*",
    "path-exclude=/usr/share/locale/*",
]
_NGINX_FILES = Path(__file__).parent / "nginx"
RECIPE = (Path(__file__), *sorted(path for path in _NGINX_FILES.rglob("*") if path.is_file()))


def make_base(shop: Workshop, layout: Path) -> None:
    """Make the one-layer image that the others begin with: a minimal Debian without docs."""
    tar = shop.path / "base.tar"
    hooks = [
        # Copies of this machine's own; a runtime mounts its own over them.
        'truncate --size=0 "$1/etc/hostname" "$1/etc/hosts" "$1/etc/resolv.conf"',
        'rm "$1/etc/apt/apt.conf.d/99mmdebstrap"',
        'printf "#!/bin/sh\\nexit 101\\n" > "$1/usr/sbin/policy-rc.d"',
        'chmod 0755 "$1/usr/sbin/policy-rc.d"',
    ]
    shop.run(
        "mmdebstrap",
        "--quiet",
        "--mode=root",
        "--variant=minbase",
        *(f"--aptopt={option}" for option in _apt_options()),
        *(f"--dpkgopt={option}" for option in _SLIM),
        *(f"--customize-hook={hook}" for hook in hooks),
        SUITE,
        tar,
        *_sources(shop),
    )
    shop.run("umoci", "init", "--layout", layout)
    shop.run("umoci", "new", "--image", f"{layout}:latest")
    shop.run("umoci", "raw", "add-layer", "--image", f"{layout}:latest", tar)
    configure(shop, layout, "--config.cmd=bash", f"--config.env={PATH}", "--os=linux")
    shop.run("umoci", "gc", "--layout", layout)


def make_nginx(shop: Workshop, base: Path, layout: Path) -> None:
    """Make an nginx image with the layers, settings and habits of the well-known one."""
    copy_layout(base, layout)
    bundle = shop.path / "bundle"
    root = bundle / "rootfs"
    image = f"{layout}:latest"
    shop.run("umoci", "unpack", "--image", image, bundle)
    install(shop, root, ["nginx", "curl", "gettext-base"])
    shop.run("setcap", "cap_net_bind_service=+ep", root / "usr/sbin/nginx")
    version = _package_version(shop, root, "nginx")
    shop.run("umoci", "repack", "--refresh-bundle", "--image", image, bundle)

    _set_up_nginx(shop, root)
    shop.run("umoci", "repack", "--image", image, bundle)
    page = shop.path / "page"
    shutil.copytree(_NGINX_FILES / "html", page)
    shop.run("setfattr", "-n", "user.title", "-v", PAGE_TITLE, page / "index.html")
    shop.run("umoci", "insert", "--opaque", "--image", image, page, "/var/www/html")
    configure(
        shop,
        layout,
        "--config.entrypoint=/docker-entrypoint.sh",
        *("--config.cmd=nginx", "--config.cmd=-g", "--config.cmd=daemon off;"),
        f"--config.env=NGINX_VERSION={version}",
        "--config.exposedports=80/tcp",
        "--config.stopsignal=SIGQUIT",
        "--config.label=org.opencontainers.image.title=nginx",
        f"--config.label=org.opencontainers.image.version={version}",
    )
    shop.run("umoci", "gc", "--layout", layout)


def make_development(shop: Workshop, base: Path, layout: Path) -> None:
    """Make a large image for measuring: compilers and headers, well over 50,000 entries."""
    copy_layout(base, layout)
    bundle = shop.path / "bundle"
    shop.run("umoci", "unpack", "--image", f"{layout}:latest", bundle)
    packages = (
        "build-essential git golang clang llvm-dev python3-dev python3-numpy "
        "libboost-dev libgtk-3-dev linux-headers-amd64"
    )
    install(shop, bundle / "rootfs", packages.split())
    shop.run("umoci", "repack", "--image", f"{layout}:latest", bundle)
    shop.run("umoci", "gc", "--layout", layout)


def add_program(shop: Workshop, base: Path, layout: Path, program: Path, *args: str) -> None:
    """Make base with one more layer that holds program as /NAME, run with args."""
    copy_layout(base, layout)
    image = f"{layout}:latest"
    shop.run("umoci", "insert", "--image", image, program, f"/{program.name}")
    words = (f"/{program.name}", *args)
    clear = ("--clear=config.entrypoint", "--clear=config.cmd")
    configure(shop, layout, *clear, *(f"--config.cmd={word}" for word in words))


def copy_layout(source: Path, target: Path) -> None:
    """Copy an OCI layout; its blobs, which never change, are shared."""
    shutil.copytree(
        source,
        target,
        copy_function=lambda a, b: os.link(a, b) if "blobs" in a else shutil.copy(a, b),
    )


def configure(shop: Workshop, layout: Path, *options: str) -> None:
    """Change the config of the layout's image by options of umoci config."""
    shop.run("umoci", "config", "--image", f"{layout}:latest", *options)


def install(shop: Workshop, root: Path, packages: Iterable[str]) -> None:
    """Install packages in root as `apt-get install && rm -rf /var/lib/apt/lists/*` would.

    apt runs outside, with root's own settings, so that names resolve and root needs no mounts.
    """
    config = shop.path / "apt.conf"
    lines = [f'Dir "{root}";', f'DPkg::Chroot-Directory "{root}";', *_apt_options()]
    config.write_text("".join(f"{line.rstrip(';')};\n" for line in lines))
    # Maintainer scripts run below root, where the workshop's own TMPDIR is not.
    env = {"APT_CONFIG": str(config), "DEBIAN_FRONTEND": "noninteractive", "TMPDIR": "/tmp"}
    shop.run("apt-get", "-q", "update", env=env)
    shop.run("apt-get", "-qy", "install", "--no-install-recommends", *packages, env=env)
    shop.run("apt-get", "clean", env=env)
    for entry in (root / "var/lib/apt/lists").iterdir():
        shutil.rmtree(entry) if entry.is_dir() else entry.unlink()
    leftovers = ("var/cache/apt/*.bin", "var/log/apt/*", "var/log/*.log", "var/cache/ldconfig/*")
    for path in (path for pattern in leftovers for path in root.glob(pattern)):
        path.unlink()


def _set_up_nginx(shop: Workshop, root: Path) -> None:
    for log, stream in (("access.log", "stdout"), ("error.log", "stderr")):
        path = root / "var/log/nginx" / log
        path.unlink(missing_ok=True)
        path.symlink_to(f"/dev/{stream}")
    (root / "etc/nginx/sites-enabled/default").unlink()
    (root / "etc/nginx/sites-available/default").unlink()
    shutil.copy(_NGINX_FILES / "default.conf", root / "etc/nginx/conf.d/default.conf")
    shutil.copytree(_NGINX_FILES / "docker-entrypoint.d", root / "docker-entrypoint.d")
    shutil.copy(_NGINX_FILES / "docker-entrypoint.sh", root / "docker-entrypoint.sh")
    shop.run(
        "chmod", "-R", "a+rX,go-w", root / "docker-entrypoint.d", root / "docker-entrypoint.sh"
    )


def _package_version(shop: Workshop, root: Path, package: str) -> str:
    field = "--showformat=${source:Upstream-Version}"
    return shop.run("dpkg-query", f"--root={root}", "--show", field, package)


def _apt_options() -> list[str]:
    """Return the lines of this machine's apt settings that say how to reach its sources."""
    wanted = ("Acquire::Check-", "Acquire::http", "Acquire::https")
    dump = subprocess.run(["apt-config", "dump"], check=True, capture_output=True, text=True)
    lines = [line for line in dump.stdout.splitlines() if line.startswith(wanted)]
    return [*(line for line in lines if not line.endswith('"";')), 'Acquire::Retries "3";']


def _sources(shop: Workshop) -> list[str]:
    """Return this machine's sources of SUITE and its updates, as one-line apt entries."""
    fields = "$(REPO_URI)|$(RELEASE)|$(COMPONENT)"
    argv = ["apt-get", "indextargets", "--format", fields, "Identifier: Packages"]
    # apt tells of no source whose lists it has not fetched, or has had removed.
    rows = shop.run(*argv) or (shop.run("apt-get", "-qq", "update") + shop.run(*argv))
    parts = [row.split("|") for row in dict.fromkeys(rows.splitlines())]
    suites = (SUITE, f"{SUITE}-updates", f"{SUITE}-security")
    chosen = [
        f"deb {uri} {suite} main"
        for uri, suite, component in parts
        if component == "main" and suite in suites
    ]
    if not chosen:
        raise RuntimeError(f"no apt source for Debian {SUITE} on this machine; add one")
    return chosen
