"""A file fetched by HTTP and held to its SHA-256 while it streams in."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

import requests
import urllib3.exceptions

from hyperbuild.converter.errors import NotFoundError, UnavailableError, VerificationError
from hyperbuild.converter.files import draft, locked, sweep, write_all

if TYPE_CHECKING:
    from pathlib import Path

    from hyperbuild.converter.progress import Progress

#: Seconds to connect, and to wait for the next bytes.
TIMEOUT = (10.0, 60.0)

#: No kernel's source is larger: what a server may write to the disk at most.
MAX_SIZE = 2 << 30

_CHUNK = 1 << 20


def download(
    url: str,
    sha256: str,
    directory: Path,
    progress: Progress,
    timeout: tuple[float, float] = TIMEOUT,
) -> Path:
    """Return the file in directory with the digest sha256 (hex), fetched from url if not there.

    NotFoundError for 404 and 410, UnavailableError when the server cannot be reached, says
    something else or stops early, VerificationError when the bytes are others than asked for.
    """
    target = directory / sha256
    directory.mkdir(parents=True, exist_ok=True)
    with locked(directory / f".lock-{sha256}"):
        if not target.is_file():
            sweep(directory)
            try:
                _fetch(url, sha256, target, progress, timeout)
            except (requests.RequestException, urllib3.exceptions.HTTPError) as error:
                raise UnavailableError(
                    f"cannot fetch {url}: {_reason(error)}; try again later"
                ) from error
    return target


def _fetch(
    url: str, sha256: str, target: Path, progress: Progress, timeout: tuple[float, float]
) -> None:
    digest = hashlib.sha256()
    received = 0
    with requests.Session() as session, draft(target.parent) as file:
        session.trust_env = False
        # Identity: a decoded transfer is not the bytes that the digest was taken of.
        headers = {"Accept-Encoding": "identity"}
        with session.get(url, stream=True, timeout=timeout, headers=headers) as answer:
            _check_status(url, answer.status_code)
            declared = answer.headers.get("Content-Length", "")
            total = int(declared) if declared.isdecimal() else None
            with progress.task(f"fetching {url.rpartition('/')[2]}", total) as task:
                while chunk := answer.raw.read(_CHUNK, decode_content=False):
                    received += len(chunk)
                    if received > MAX_SIZE:
                        raise VerificationError(f"{url} is over {MAX_SIZE} bytes; check the URL")
                    digest.update(chunk)
                    write_all(file.fd, chunk)
                    task.advance(len(chunk))
        if total and received < total:
            raise UnavailableError(f"{url} ended after {received} of {total} bytes; try again")
        if digest.hexdigest() != sha256:
            raise VerificationError(
                f"{url} has sha256 {digest.hexdigest()}, not {sha256}; check URL and digest"
            )
        file.publish(target)


def _check_status(url: str, status: int) -> None:
    if status in {404, 410}:
        raise NotFoundError(f"{url} does not exist (HTTP {status}); check the URL")
    if status != 200:
        raise UnavailableError(f"{url} answers with HTTP {status}; try again later")


def _reason(error: BaseException) -> str:
    """Return the innermost cause: requests wraps the plain words several times."""
    while cause := error.__cause__ or error.__context__:
        error = cause
    return str(error) or type(error).__name__
