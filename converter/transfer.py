"""One HTTP request carried through: sessions, retries with backoff, and failures in plain words."""

from __future__ import annotations

import email.utils
import errno
import ipaddress
import random
import ssl
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import requests
import requests.adapters
import urllib3.exceptions

from hyperbuild.converter import pace
from hyperbuild.converter.errors import AccessError, HyperbuildError, UnavailableError
from hyperbuild.converter.partial import CancelledError

if TYPE_CHECKING:
    from pathlib import Path

    from hyperbuild.converter.settings import RegistrySettings


class UntrustedError(AccessError):
    """The other side speaks TLS with a certificate that nobody we trust has signed."""


#: Statuses that a later try may not meet again.
TRANSIENT = frozenset({408, 429, 500, 502, 503, 504})

#: OpenSSL's X509_V_ERR_CERT_HAS_EXPIRED.
_EXPIRED = 10

#: What a transfer can fail with below HTTP; all of it may be tried again.
FAILURES = (
    requests.RequestException,
    urllib3.exceptions.HTTPError,
    OSError,
)


@dataclass(slots=True)
class Patience:
    """How often to try, and for how long to wait; ``stop`` ends every wait."""

    settings: RegistrySettings
    stop: threading.Event = field(default_factory=threading.Event)

    def pause(self, tries: int, wanted: float | None = None) -> None:
        """Wait before the next try: wanted seconds, else the longer the more tries there were."""
        jitter = random.uniform(0.5, 1.5)  # noqa: S311 - spreads load, keeps no secret
        seconds = self.settings.pause * 2 ** (tries - 1) * jitter if wanted is None else wanted
        if self.stop.wait(min(seconds, self.settings.patience)):
            raise CancelledError("cancelled")


def set_up(session: requests.Session, ca: Path | None, *, verify: bool) -> None:
    """Set session up: nothing from the environment; certificates checked if verify.

    Trusted are the system's authorities and those in ca. AccessError if ca holds none.
    """
    session.trust_env = False
    session.headers["User-Agent"] = "hyperbuild"
    # Any other coding would change the bytes whose digest is declared.
    session.headers["Accept-Encoding"] = "identity"
    adapter = _Adapter(ca, verify=verify)
    for scheme in ("https://", "http://"):
        session.mount(scheme, adapter)


class _Adapter(requests.adapters.HTTPAdapter):
    def __init__(self, ca: Path | None, *, verify: bool) -> None:
        self._context = ssl.create_default_context()
        if not verify:
            self._context.check_hostname = False
            self._context.verify_mode = ssl.CERT_NONE
        elif ca:
            try:
                self._context.load_verify_locations(cafile=ca)
            except (OSError, ssl.SSLError) as error:
                raise AccessError(f"{ca} holds no certificates (PEM); name another ca") from error
        super().__init__()

    def init_poolmanager(self, *args: Any, **options: Any) -> None:
        super().init_poolmanager(*args, ssl_context=self._context, **options)
        pace.watch(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **options: Any) -> Any:
        manager = super().proxy_manager_for(*args, **options)
        pace.watch(manager)
        return manager


def send(
    session: requests.Session, request: requests.Request, patience: Patience, verify: bool
) -> requests.Response:
    """Send request, trying again where that can help; the response's body is still to be read.

    Any final status but those of TRANSIENT is returned. UnavailableError after the last try,
    AccessError if TLS fails; both name the host and say what to do.
    """
    settings = patience.settings
    host = urlsplit(request.url).netloc
    prepared = session.prepare_request(request)
    tries = 0
    while True:
        tries += 1
        try:
            response = session.send(
                prepared,
                stream=True,
                verify=verify,
                timeout=(settings.connect_timeout, settings.read_timeout),
                # What is posted may be an identity token, which is nobody else's business.
                allow_redirects=request.method != "POST",
                proxies=_proxies(settings, request.url),
            )
        except FAILURES as error:
            if tries >= _tries_for(error, settings.attempts):
                raise explain(error, host) from error
            patience.pause(tries)
            continue
        if response.status_code not in TRANSIENT:
            return response
        wanted = _retry_after(response)
        response.close()
        if tries >= settings.attempts or (wanted or 0) > settings.patience:
            raise UnavailableError(_gave_up(host, response.status_code, tries, wanted))
        patience.pause(tries, wanted)


def _proxies(settings: RegistrySettings, url: str) -> dict[str, str]:
    host = urlsplit(url).netloc
    if is_loopback(host) or _bypasses(host, settings.proxies.get("no", "")):
        return {}
    return {scheme: proxy for scheme, proxy in settings.proxies.items() if scheme != "no"}


def _bypasses(host: str, exceptions: str) -> bool:
    """Tell whether host, or a domain it is in, is among the comma-separated exceptions."""
    name = urlsplit(f"//{host}").hostname or ""
    for item in exceptions.replace(" ", ",").split(","):
        domain = item.lower().lstrip("*.")
        if item == "*" or (domain and (name == domain or name.endswith(f".{domain}"))):
            return True
        if domain == host:
            return True
    return False


def is_loopback(host: str) -> bool:
    """Tell whether host (with or without a port) is this machine, as docker sees it."""
    name = urlsplit(f"//{host}").hostname or ""
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _retry_after(response: requests.Response) -> float | None:
    text = response.headers.get("Retry-After", "")
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None


def _gave_up(host: str, status: int, tries: int, wanted: float | None) -> str:
    if status == 429:
        later = f"in {wanted:.0f} s" if wanted else "later"
        return f"{host} limits the rate of requests (status 429); log in, or try again {later}"
    return f"{host} answers with status {status} after {tries} tries; try again later"


def causes(error: BaseException | None) -> list[BaseException]:
    """Return error and what lies below it: requests wraps urllib3's errors, which wrap others."""
    found: list[BaseException] = []
    queue = [error]
    while queue:
        item = queue.pop(0)
        if isinstance(item, BaseException) and item not in found:
            found.append(item)
            queue += [*item.args, getattr(item, "reason", None), item.__cause__, item.__context__]
    return found


def _errno(error: BaseException) -> int:
    return next((e.errno for e in causes(error) if isinstance(e, OSError) and e.errno), 0)


def _is(error: BaseException, *kinds: type[BaseException]) -> bool:
    return any(isinstance(item, kinds) for item in causes(error))


def _tries_for(error: BaseException, attempts: int) -> int:
    if _is(error, ssl.SSLError, requests.exceptions.SSLError, requests.exceptions.InvalidURL):
        return 1
    if _is(error, requests.TooManyRedirects, requests.exceptions.InvalidSchema):
        return 1
    # One short retry is enough for a server that is being restarted, or for a busy resolver.
    unreachable = _errno(error) in (errno.ECONNREFUSED, errno.EHOSTUNREACH, errno.ENETUNREACH)
    if unreachable or _is(
        error, urllib3.exceptions.NameResolutionError, urllib3.exceptions.ConnectTimeoutError
    ):
        return min(2, attempts)
    return attempts


def explain(error: BaseException, host: str) -> HyperbuildError:
    """Return the failure of a request to host as one of the family."""
    if isinstance(error, HyperbuildError):
        return error
    if any(getattr(item, "verify_code", 0) == _EXPIRED for item in causes(error)):
        return UntrustedError(
            f"{host}: its TLS certificate has expired; have it renewed by whoever runs the registry"
        )
    if _is(error, ssl.SSLCertVerificationError):
        return UntrustedError(
            f"{host}: its TLS certificate is not trusted; name its CA in the file of registries "
            "(ca = ...), or set insecure = true there"
        )
    if _is(error, ssl.SSLError, requests.exceptions.SSLError):
        return AccessError(
            f"{host}: TLS failed, it may answer in plain HTTP only; "
            "if so, set insecure = true in the file of registries"
        )
    if _is(error, requests.exceptions.ProxyError):
        return UnavailableError(f"{host}: the proxy failed; check the proxy's settings")
    if _is(error, urllib3.exceptions.NameResolutionError):
        return UnavailableError(f"{host}: no such host is known; check the name and the network")
    return UnavailableError(f"{host}: {_what(error)}; check that the registry is up and try again")


def _what(error: BaseException) -> str:
    if _errno(error) == errno.ECONNREFUSED:
        return "connection refused"
    if _is(error, urllib3.exceptions.ConnectTimeoutError):
        return "no connection within the time limit"
    if _is(error, pace.SlowError):
        return "its answer comes too slowly"
    if _is(error, urllib3.exceptions.TimeoutError, TimeoutError):
        return "no answer within the time limit"
    if _is(error, requests.TooManyRedirects):
        return "too many redirects"
    for item in causes(error):
        if isinstance(item, OSError) and item.errno and item.strerror:
            return item.strerror
    return "the connection was cut"
