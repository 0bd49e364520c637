"""``docker-daemon:NAME``: the image as a Docker engine saves it, over the engine's socket.

Protocol: Docker Engine API, "Export an image" (GET /images/{name}/get).
"""

from __future__ import annotations

import http.client
import os
import socket
import stat
from typing import TYPE_CHECKING
from urllib.parse import quote

from hyperbuild.converter.archive import Archive, saved
from hyperbuild.converter.errors import AccessError, NotFoundError, UnavailableError
from hyperbuild.converter.spool import spool

if TYPE_CHECKING:
    from pathlib import Path

    from hyperbuild.converter.layout import LocalSource
    from hyperbuild.converter.limits import Limits
    from hyperbuild.converter.reference import Reference
    from hyperbuild.converter.settings import RegistrySettings
    from hyperbuild.converter.store import Store


def open_daemon(
    reference: Reference, store: Store, settings: RegistrySettings, limits: Limits
) -> LocalSource:
    """Have the engine save the image, and open what it gives as a docker-archive."""
    path = settings.docker_socket
    name = str(reference.replace(transport="docker"))
    connection = _Connection(path, settings.read_timeout)
    try:
        connection.request("GET", f"/images/{quote(name, safe='/:@')}/get")
        answer = connection.getresponse()
        if answer.status == 404:
            raise NotFoundError(f"the Docker engine at {path} has no image {name}; docker pull it")
        if answer.status != 200:
            raise UnavailableError(
                f"the Docker engine at {path} answers with status {answer.status} for {name}; "
                "look at its log"
            )
        fd = spool(answer.read, name, store, limits)
    except (OSError, http.client.HTTPException) as error:
        raise UnavailableError(
            f"the Docker engine at {path} broke off; look at its log and try again"
        ) from error
    finally:
        connection.close()
    try:
        return saved(reference.replace(tag=""), Archive(fd, str(reference), limits.document))
    except BaseException:
        os.close(fd)
        raise


class _Connection(http.client.HTTPConnection):
    """HTTP over the Unix socket path."""

    def __init__(self, path: Path, seconds: float) -> None:
        super().__init__("docker", timeout=seconds)
        self._path = path

    def connect(self) -> None:
        """Connect; an error says what to do about the socket."""
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        try:
            if not stat.S_ISSOCK(self._path.stat().st_mode):
                raise UnavailableError(f"{self._path} is no socket; set DOCKER_HOST")
            self.sock.connect(str(self._path))
        except PermissionError as error:
            raise AccessError(
                f"{self._path}: permission denied; join the group docker, or use docker save"
            ) from error
        except OSError as error:
            raise UnavailableError(
                f"no Docker engine answers at {self._path}; start it, or use docker save "
                "and docker-archive:"
            ) from error
