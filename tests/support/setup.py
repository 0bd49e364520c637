"""Gets a Debian machine ready: the packages that tests and demo use, and the virtual environment.

Runs on the machine's own Python, before anything is installed. What is there already is left
alone, so that the second run takes no time and needs no network and no rights.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
VENV = CHECKOUT / ".venv"

PACKAGES = {
    "the virtual environment": "python3-venv ca-certificates",
    "booting": "qemu-system-x86",
    "building the kernel": "linux-source-6.1 gcc libc6-dev make flex bison bc perl xz-utils cpio "
    "kmod libelf-dev libssl-dev patch",
    "building hyperstart": "musl-tools linux-libc-dev clang libclang-rt-14-dev",
    "checking file systems": "erofs-utils e2fsprogs cryptsetup-bin attr libcap2-bin",
    "making disks and discs": "systemd-boot-efi isolinux syslinux-common",
    "checking and booting them": "ovmf qemu-utils gdisk dosfstools mtools xorriso",
    "making and serving images": "mmdebstrap umoci skopeo docker-registry openssl curl zstd "
    "util-linux busybox-static",
    "comparing with containers": "runc",
    "reading what others install": "rpm",
    "running what the documents say": "iproute2 mandoc",
    "measuring": "lz4 squashfs-tools",
}


def main() -> None:
    """Install what is missing."""
    if sys.version_info < (3, 11):  # noqa: UP036 (nothing has checked it yet)
        sys.exit(f"Error: Python {sys.version.split()[0]} is too old; install Python 3.11 or newer")
    missing = missing_packages([name for names in PACKAGES.values() for name in names.split()])
    if missing:
        install_packages(missing)
    else:
        print("setup: all Debian packages are there")
    if _stamp().exists() and _stamp().read_text() == _wanted():
        print("setup: .venv is up to date")
    else:
        make_environment()


def missing_packages(names: list[str]) -> list[str]:
    """Return those of names that dpkg does not know as installed."""
    field = "--showformat=${Package} ${db:Status-Status}\n"
    try:
        done = subprocess.run(
            ["dpkg-query", "--show", field, *names], capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        sys.exit(f"Error: this is not Debian; install the like of these yourself: {names}")
    rows = [line.split() for line in done.stdout.splitlines()]
    return sorted(set(names) - {row[0] for row in rows if row[-1] == "installed"})


def install_packages(names: list[str]) -> None:
    """Install Debian packages as root or by sudo; a flaky network gets three tries."""
    print(f"setup: installing Debian packages: {' '.join(names)}", flush=True)
    root = [] if os.geteuid() == 0 else ["sudo"]
    apt = [*root, "env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq"]
    apt += ["-o", "DPkg::Lock::Timeout=300", "-o", "Acquire::Retries=3", "-o", "Dpkg::Use-Pty=0"]
    for attempt in range(3):
        time.sleep(10 * attempt)
        if subprocess.run([*apt, "update"], check=False).returncode:
            continue
        argv = [*apt, "install", "--yes", "--no-install-recommends", *names]
        if not subprocess.run(argv, check=False, stdout=subprocess.DEVNULL).returncode:
            return
    sys.exit("Error: apt-get failed (see above); run it by hand, then this again")


def make_environment() -> None:
    """Make .venv with hyperbuild, editable, and the tools of development."""
    print("setup: installing Python packages into .venv", flush=True)
    _stamp().unlink(missing_ok=True)
    subprocess.run([sys.executable, "-m", "venv", VENV], check=True)
    pip = [VENV / "bin/python", "-m", "pip", "--quiet", "--disable-pip-version-check"]
    argv = [*pip, "install", "--retries", "10", "--editable", f"{CHECKOUT}[dev]"]
    if subprocess.run(argv, check=False).returncode:
        sys.exit("Error: pip failed (see above); check the network, then run this again")
    _stamp().write_text(_wanted())


def _stamp() -> Path:
    return VENV / ".made-from"


def _wanted() -> str:
    pyproject = (CHECKOUT / "pyproject.toml").read_bytes()
    return f"{hashlib.sha256(pyproject).hexdigest()} {sys.version} {VENV}\n"


if __name__ == "__main__":
    main()
