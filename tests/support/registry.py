"""A real docker-registry on loopback, and a proxy in front of it that misbehaves as told.

with serve_registry(directory) as host:               # "127.0.0.1:PORT"
    push(layout, f"{host}/library/nginx:latest")
with serve_registry(directory, auth=True) ...         # basic auth: USER, PASSWORD
with serve_registry(directory, tls=certificate(directory)) ...
"""

from __future__ import annotations

import http.client
import socket
import subprocess
import threading
import time
import urllib.parse
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

USER, PASSWORD = "someone", "sesame-0pen"
# bcrypt, the only form that docker-registry takes, of PASSWORD.
_HTPASSWD = "someone:$2b$05$abcdefghijklmnopqrstuu4DLnPoVA/gxWsTmSS2j5wJgpq84sn8S\n"
_START_SECONDS = 20


@dataclass(frozen=True, slots=True)
class Certificate:
    """A private CA and a server's certificate by it for localhost and 127.0.0.1 (PEM files)."""

    ca: Path
    certificate: Path
    key: Path


def certificate(directory: Path, *hosts: str, days: int = 2) -> Certificate:
    """Make a CA and a certificate, good for so many days, for loopback and hosts by their names."""
    ca, ca_key = directory / "ca.pem", directory / "ca.key"
    key, request, chain = directory / "tls.key", directory / "tls.csr", directory / "tls.pem"
    names = directory / "names.cnf"
    more = "".join(f",DNS:{host}" for host in hosts)
    names.write_text(f"subjectAltName=DNS:localhost,IP:127.0.0.1{more}\n")
    make = ["openssl", "req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    _run(*make, "-x509", "-days", "2", "-subj", "/CN=test CA", "-keyout", ca_key, "-out", ca)
    _run(*make, "-subj", "/CN=localhost", "-keyout", key, "-out", request)
    sign = ["openssl", "x509", "-req", "-days", str(days), "-CAcreateserial"]
    _run(*sign, "-CA", ca, "-CAkey", ca_key, "-extfile", names, "-in", request, "-out", chain)
    return Certificate(ca, chain, key)


def free_port() -> int:
    """Return a TCP port of loopback that nothing listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def serve_registry(
    directory: Path,
    *,
    auth: bool = False,
    tls: Certificate | None = None,
    realm: str = "",
    port: int = 0,
) -> Iterator[str]:
    """Run docker-registry on its data in directory and give its "127.0.0.1:PORT".

    auth asks for USER and PASSWORD; realm (with tls) for a bearer token to be had at that URL.
    port 0 takes a free one. The log is directory/registry.log; a failure to start shows its end.
    """
    port = port or free_port()
    directory.mkdir(parents=True, exist_ok=True)
    config, log = directory / "registry.yml", directory / "registry.log"
    config.write_text(_config(directory, port, auth, tls, realm))
    with log.open("wb") as output:
        process = subprocess.Popen(
            ["docker-registry", "serve", config], stdout=output, stderr=output, cwd=directory
        )
    try:
        _wait_until_open(process, port, log)
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait()


def push(layout: Path, name: str, tag: str = "latest", *options: str) -> None:
    """Copy the image called tag in an OCI layout to a registry, by skopeo.

    Its bytes stay as they are unless the options ask for another format.
    """
    keep = [] if "--format" in options else ["--preserve-digests"]
    copy = ["skopeo", "copy", "--quiet", "--dest-tls-verify=false", *keep, *options]
    _run(*copy, f"oci:{layout}:{tag}", f"docker://{name}")


def _config(directory: Path, port: int, auth: bool, tls: Certificate | None, realm: str) -> str:
    lines = [
        "version: 0.1",
        "log: {level: warn}",
        f"storage: {{filesystem: {{rootdirectory: {directory}/data}}, delete: {{enabled: true}}}}",
        f"http: {{addr: 127.0.0.1:{port}",
    ]
    if tls:
        lines[-1] += f", tls: {{certificate: {tls.certificate}, key: {tls.key}}}"
    lines[-1] += "}"
    if auth:
        (directory / "htpasswd").write_text(_HTPASSWD)
        lines.append(f"auth: {{htpasswd: {{realm: test, path: {directory}/htpasswd}}}}")
    if realm and tls:
        token = f"realm: {realm}, service: test, issuer: test, rootcertbundle: {tls.certificate}"
        lines.append(f"auth: {{token: {{{token}}}}}")
    return "\n".join(lines) + "\n"


def _wait_until_open(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    for _ in range(_START_SECONDS * 20):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        if process.poll() is not None:
            break
        time.sleep(0.05)
    raise RuntimeError(f"docker-registry did not start: {log.read_text()[-2000:]}")


def _run(*command: str | Path) -> None:
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command[0]} failed: {done.stderr.decode()[-2000:]}")


@dataclass(slots=True)
class Answer:
    """What the proxy is about to send; a fault changes it in place."""

    status: int
    headers: dict[str, str]
    body: bytes
    #: Close the connection after so many bytes of the body.
    cut_after: int | None = None
    #: Sleep before the first byte, in seconds.
    delay: float = 0.0
    #: Close the connection with a reset before any byte.
    reset: bool = False
    #: Send a header that never ends, or the body, a byte at a time: pauses between, in seconds.
    trickle_head: float = 0.0
    trickle_body: float = 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """One request that came to the proxy."""

    method: str
    path: str
    headers: dict[str, str]


@dataclass(slots=True)
class Proxy:
    """A proxy's address, what was asked of it, and its fault: called with request and answer."""

    host: str
    fault: Callable[[Seen, Answer], None] = lambda seen, answer: None
    seen: list[Seen] = field(default_factory=list)

    def asked(self, part: str) -> list[Seen]:
        """Return the requests whose path has part in it."""
        return [request for request in self.seen if part in request.path]


@contextmanager
def serve_proxy(upstream: str) -> Iterator[Proxy]:
    """Serve what the registry at upstream ("HOST:PORT", plain HTTP) does, but for the fault set."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
    server.daemon_threads = True
    proxy = Proxy(f"127.0.0.1:{server.server_address[1]}")
    server.proxy, server.upstream = proxy, upstream  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def handle(self) -> None:
        # A client that speaks TLS to find out, or goes away, is no news.
        try:
            super().handle()
        except OSError:
            self.close_connection = True

    def do_GET(self) -> None:
        proxy: Proxy = self.server.proxy  # type: ignore[attr-defined]
        seen = Seen(self.command, self.path, dict(self.headers.items()))
        proxy.seen.append(seen)
        answer = self._ask()
        proxy.fault(seen, answer)
        time.sleep(answer.delay)
        self._send(answer)

    do_POST = do_PUT = do_HEAD = do_GET  # noqa: N815 - the names that http.server looks for

    def _ask(self) -> Answer:
        length = int(self.headers.get("Content-Length", 0))
        body = self.rfile.read(length) if length else None
        dropped = ("connection", "host", "content-length")
        headers = {k: v for k, v in self.headers.items() if k.lower() not in dropped}
        # What the registry calls itself in the locations of its answers.
        headers["X-Forwarded-Host"] = self.server.proxy.host  # type: ignore[attr-defined]
        connection = http.client.HTTPConnection(self.server.upstream)  # type: ignore[attr-defined]
        try:
            connection.request(self.command, self.path, body, headers)
            response = connection.getresponse()
            content = response.read()
            kept = {
                k: v
                for k, v in response.getheaders()
                if k.lower() not in ("connection", "transfer-encoding", "date")
            }
            return Answer(response.status, kept, content)
        finally:
            connection.close()

    def _send(self, answer: Answer) -> None:
        if answer.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
            self.connection.close()
            raise ConnectionResetError
        self.send_response(answer.status)
        answer.headers.setdefault("Content-Length", str(len(answer.body)))
        for name, value in answer.headers.items():
            if value:
                self.send_header(name, value)
        if answer.cut_after is not None or not answer.headers["Content-Length"]:
            self.close_connection = True
        if answer.trickle_head:
            self.flush_headers()
            self._trickle(b"X-Endless: " + b"x" * 10_000, answer.trickle_head)
        self.end_headers()
        if answer.trickle_body:
            self._trickle(answer.body, answer.trickle_body)
        else:
            self.wfile.write(answer.body[: answer.cut_after])

    def _trickle(self, content: bytes, pause: float) -> None:
        for at in range(len(content)):
            self.wfile.write(content[at : at + 1])
            time.sleep(pause)

    def log_message(self, *args: object) -> None:
        pass


def query(request: Seen) -> dict[str, str]:
    """Return the parameters of a request's path."""
    return dict(urllib.parse.parse_qsl(urllib.parse.urlsplit(request.path).query))
