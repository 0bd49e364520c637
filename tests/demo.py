"""A tour: an nginx image from a registry to a web page served by a VM. `make demo` runs it."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.images import image
from tests.support.registry import free_port, push, serve_registry

if TYPE_CHECKING:
    from collections.abc import Iterator

CHECKOUT = Path(__file__).resolve().parents[1]
WORK = CHECKOUT / ".demo"
HYPERBUILD = Path(sys.executable).parent / "hyperbuild"
_PAGE_SECONDS = 120
_STOP_SECONDS = 60


def main() -> int:
    """Take the tour; the exit status is 0 if the page came and all was stopped."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    os.environ["XDG_DATA_HOME"] = str(WORK / "data")
    os.environ.setdefault("HYPERBUILD_ACCEL", "tcg")
    try:
        _tour()
    except KeyboardInterrupt:
        print("\nStopped.", file=sys.stderr)
        return 130
    except (RuntimeError, OSError, subprocess.CalledProcessError) as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    return 0


def _tour() -> None:
    with _step("an nginx image, made from Debian packages (cached)"):
        layout = image("nginx")
        print(f"  {layout}")
    with _step("the HyperKernel (minutes the first time, then cached)"):
        _run("kernel", "build")
    with serve_registry(WORK / "registry") as host:
        name = f"{host}/nginx:latest"
        with _step(f"push it to a docker-registry on {host}"):
            _show(
                "skopeo",
                "copy",
                "--dest-tls-verify=false",
                f"oci:{layout}:latest",
                f"docker://{name}",
            )
            push(layout, name)
        with _step("convert: pull, verify, flatten, write EROFS, join with kernel and initramfs"):
            bundle = _run("convert", name)
        port = free_port()
        with _step("boot it, and fetch the page"), _booted(bundle, port) as vm:
            page = _fetch(f"http://127.0.0.1:{port}/", vm)
            found = re.search(r"<title>.*</title>", page)
            print(f"  {found[0] if found else page}")
    print("\nEverything that the demo started is stopped. Its store is .demo/data.")


@contextmanager
def _step(title: str) -> Iterator[None]:
    print(f"\n── {title}", flush=True)
    start = time.monotonic()
    yield
    print(f"   {time.monotonic() - start:.1f} s", flush=True)


def _show(*argv: str | Path, background: bool = False) -> None:
    words = ["hyperbuild" if word == HYPERBUILD else str(word) for word in argv]
    print(f"  $ {shlex.join(words)}{' &' if background else ''}", flush=True)


def _run(*args: str) -> str:
    """Run hyperbuild, show what it prints, and return the last line of its stdout."""
    argv = [HYPERBUILD, *args]
    _show(*argv)
    done = subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="", flush=True)
    return (done.stdout.splitlines() or [""])[-1]


@contextmanager
def _booted(bundle: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Boot bundle in the background with its port 80 on port, and stop it at the end."""
    argv = [HYPERBUILD, "boot", "-p", f"{port}:80", bundle]
    _show(*argv, background=True)
    # Its own process group: Ctrl-C reaches it once, from here, as a request to stop.
    vm = subprocess.Popen(argv, stdin=subprocess.DEVNULL, process_group=0)
    try:
        yield vm
    finally:
        if vm.poll() is None:
            _show("kill", str(vm.pid))
            vm.terminate()
        try:
            print(f"  the VM ended with status {vm.wait(_STOP_SECONDS)}", flush=True)
        except subprocess.TimeoutExpired:
            vm.kill()
            vm.wait()
            raise RuntimeError(f"the VM did not stop within {_STOP_SECONDS} s") from None


def _fetch(url: str, vm: subprocess.Popen[bytes]) -> str:
    _show("curl", url)
    for _ in range(_PAGE_SECONDS * 20):
        if vm.poll() is not None:
            raise RuntimeError(f"boot ended with status {vm.returncode} before the page came")
        try:
            # A connection from before the guest's network was up hangs; a new one does not.
            with urllib.request.urlopen(url, timeout=0.5) as answer:
                return answer.read().decode()
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            time.sleep(0.05)
    raise RuntimeError(f"{url} did not answer within {_PAGE_SECONDS} s")


if __name__ == "__main__":
    sys.exit(main())
