"""One HTTPS request with the standard library: redirects bounded, https kept, bodies read as they arrive.

No dependency offers what a verified download needs in its public interface: huggingface_hub's own downloader resumes
only files of the hub, and httpx comes and goes with it. ``urllib`` honours proxies and certificates of the system.
"""

from __future__ import annotations

import http.client
import io
import socket
import ssl
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import KW_ONLY, dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from histotune import __version__

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from email.message import Message
    from http.client import HTTPMessage
    from typing import IO

    from histotune.datasets.fetch.source import NetworkConfig


LOOPBACK = ("127.0.0.1", "::1", "localhost")
COME_BACK = (408, 425, 429, 500, 502, 503, 504)
KNOWN = {
    401: "the server asks for a login", 403: "the server refuses access",
    404: "the file is not at its address any more", 407: "the proxy asks for a login",
    410: "the file is not at its address any more", 429: "the server asks to slow down",
    503: "the server is overloaded or in maintenance",
}  # fmt: skip
CERTIFICATE = "check this machine's clock; behind a company proxy point SSL_CERT_FILE to its certificate"
NOT_A_FILE = ("text/html", "application/xhtml+xml")


@dataclass(eq=False)
class TransferError(Exception):
    """A request or a body that failed.

    Attributes:
        what: What happened, for people; no address with a query, no header, nothing a server wrote.
        retry: Whether trying the same address again can help.
        connected: Whether a server had answered.
        retry_after_s: How long the server asks to wait, in seconds.
        fix: What a person can do, where it is known.
    """

    what: str
    _: KW_ONLY
    retry: bool
    connected: bool = True
    retry_after_s: float | None = None
    fix: str | None = None

    def __str__(self) -> str:
        """Return what happened."""
        return self.what


@dataclass(frozen=True)
class Reply:
    """The head of an answer, and its body.

    Attributes:
        status: 200, 206 or 416.
        etag: Entity tag that may be compared byte for byte; None for a weak one.
        last_modified: As sent.
        announced_bytes: Content-Length of this body.
        range_start: First byte of a 206.
        total_bytes: Length of the whole file as announced.
        body: Read it with :func:`read_some`; None for a 416.
    """

    status: int
    etag: str | None
    last_modified: str | None
    announced_bytes: int | None
    range_start: int | None
    total_bytes: int | None
    body: http.client.HTTPResponse | None


@contextmanager
def request(url: str, headers: Mapping[str, str], config: NetworkConfig) -> Iterator[Reply]:
    """Send a GET request."""
    _require_https(url)
    full = {"Accept-Encoding": "identity", "User-Agent": f"histotune/{__version__}", **headers}
    opener = urllib.request.build_opener(_Redirects(config.redirects), _TimedHttp, _TimedHttps)
    try:
        response = opener.open(urllib.request.Request(url, headers=full), timeout=config.stall_s)  # noqa: S310
    except urllib.error.HTTPError as error:
        if error.code != 416:
            error.close()
            raise _refused(error) from error
        with error:
            yield _reply(416, error.headers, None)
        return
    except (OSError, http.client.HTTPException) as error:
        raise _unreachable(error) from error
    with response:
        _require_the_file_itself(url, response)
        reply = _reply(response.status, response.headers, response)
        # What is announced is compared with what arrives, so the body must be read to its real end.
        response.length = None if reply.announced_bytes is not None else response.length
        yield reply


def read_some(reply: Reply, limit_bytes: int) -> bytes:
    """Return the next bytes of a body as soon as some have arrived; empty at its end."""
    try:
        if isinstance(reply.body, _TimedResponse):
            reply.body.start_clock()
        return b"" if reply.body is None else reply.body.read1(limit_bytes)
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise _unreachable(error, connected=True) from error


def public_url(url: str) -> str:
    """Return an address without user, query and fragment, which may hold secrets."""
    parts = urlsplit(url)
    port = f":{parts.port}" if parts.port else ""
    return f"{parts.scheme}://{parts.hostname or ''}{port}{parts.path}"


def seconds_asked(value: str | None, now_s: float) -> float | None:
    """Return what a Retry-After header asks for, in seconds from now; None where it makes no sense."""
    if value is None:
        return None
    if value.strip().isdigit():
        return float(value)
    try:
        return max(0.0, parsedate_to_datetime(value).timestamp() - now_s)
    except (TypeError, ValueError, OverflowError):
        return None


class _TimedStream(io.RawIOBase):
    """The bytes of a socket, which must be there within one limit for several of them: a drip is a stall.

    Args:
        sock: Its timeout is the limit.
    """

    def __init__(self, sock: socket.socket) -> None:
        self.sock, self.limit_s = sock, sock.gettimeout()
        self.stream = sock.makefile("rb", buffering=0)
        self.start_clock()

    def start_clock(self) -> None:
        """Give what comes from now on the whole limit."""
        self.since_s = time.monotonic()

    def readable(self) -> bool:
        """Say that it can be read, as a buffered reader asks."""
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int | None:  # type: ignore[override]
        """Read some bytes within what is left of the time."""
        if self.limit_s is not None:
            left_s = self.limit_s - (time.monotonic() - self.since_s)
            if left_s <= 0:
                raise TimeoutError
            self.sock.settimeout(left_s)
        return self.stream.readinto(buffer)

    def close(self) -> None:
        """Close the socket's stream as well."""
        self.stream.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    """An answer whose head must arrive within the socket's timeout as a whole, not byte by byte."""

    def __init__(self, sock: socket.socket, *arguments: Any, **options: Any) -> None:  # noqa: ANN401
        super().__init__(sock, *arguments, **options)
        self.fp.close()
        self.timed = _TimedStream(sock)
        self.fp = io.BufferedReader(self.timed)

    def start_clock(self) -> None:
        """Give the next bytes of the body the whole limit."""
        self.timed.start_clock()


class _HttpConnection(http.client.HTTPConnection):
    response_class = _TimedResponse


class _HttpsConnection(http.client.HTTPSConnection):
    response_class = _TimedResponse


class _TimedHttp(urllib.request.HTTPHandler):
    def http_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Open a connection whose answers are timed."""
        return self.do_open(_HttpConnection, req)


class _TimedHttps(urllib.request.HTTPSHandler):
    def https_open(self, req: urllib.request.Request) -> http.client.HTTPResponse:
        """Open an encrypted connection whose answers are timed."""
        return self.do_open(_HttpsConnection, req, context=self._context)  # type: ignore[attr-defined]


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, never from https to http."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
        """Follow one redirect more, or refuse it."""
        self.left -= 1
        if self.left < 0:
            raise TransferError("the server redirects too often", retry=False)
        _require_https(newurl)
        if urlsplit(req.full_url).scheme == "https" and urlsplit(newurl).scheme != "https":
            raise TransferError("the server redirects from https to http, which is not followed", retry=False)
        return super().redirect_request(req, fp, code, msg, headers, newurl)


def _require_https(url: str) -> None:
    parts = urlsplit(url)
    if parts.scheme == "https" or (parts.scheme == "http" and parts.hostname in LOOPBACK):
        return
    raise TransferError(f"{public_url(url)} is not https", retry=False)


def _require_the_file_itself(url: str, response: http.client.HTTPResponse) -> None:
    """Refuse a web page and an encoded body; a .gz labelled as gzip-encoded is sent as it is and kept as it is."""
    encoding = (response.headers.get("Content-Encoding") or "identity").strip().lower()
    if encoding != "identity" and not (encoding in ("gzip", "x-gzip") and urlsplit(url).path.endswith("gz")):
        raise TransferError("the server encoded the file although it was asked not to", retry=False)
    if response.headers.get_content_type() in NOT_A_FILE:
        raise TransferError("the server sent a web page in place of the file", retry=False)
    if response.headers.get_content_type() == "multipart/byteranges" or response.status not in (200, 206):
        raise TransferError(f"the server answered in a way that can't be used ({response.status})", retry=False)


def _reply(status: int, headers: Message, body: http.client.HTTPResponse | None) -> Reply:
    etag = headers.get("ETag")
    length = _whole_number(headers.get("Content-Length"))
    start, total = _content_range(headers.get("Content-Range"))
    return Reply(
        status=status,
        etag=None if etag is None or etag.startswith("W/") else etag,
        last_modified=headers.get("Last-Modified"),
        announced_bytes=length,
        range_start=start if status == 206 else None,
        total_bytes=length if status == 200 else total,
        body=body,
    )


def _content_range(value: str | None) -> tuple[int | None, int | None]:
    """Return first byte and total length of ``bytes 5-9/10`` or ``bytes */10``."""
    unit, _, rest = (value or "").strip().partition(" ")
    span, _, total = rest.partition("/")
    if unit.lower() != "bytes":
        return None, None
    return _whole_number(span.partition("-")[0]), _whole_number(total)


def _whole_number(text: str | None) -> int | None:
    digits = (text or "").strip()
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 19 else None


def _refused(error: urllib.error.HTTPError) -> TransferError:
    """Explain a status; the phrase is ours, since a server may write anything into its own."""
    if 300 <= error.code < 400:
        return TransferError("the server redirects too often, or to nowhere", retry=False)
    what = KNOWN.get(error.code, "the server failed" if error.code >= 500 else "the server refuses the request")
    return TransferError(
        f"{what} (status {error.code})",
        retry=error.code in COME_BACK,
        retry_after_s=seconds_asked(error.headers.get("Retry-After"), time.time()),
        fix="check the proxy's user and password in https_proxy" if error.code == 407 else None,
    )


def _unreachable(error: BaseException, *, connected: bool = False) -> TransferError:
    """Explain a connection that could not be made or broke."""
    cause = error.reason if isinstance(error, urllib.error.URLError) else error
    if isinstance(cause, ssl.SSLCertVerificationError):
        return TransferError("the server's certificate can't be verified", retry=False, fix=CERTIFICATE)
    if isinstance(cause, socket.gaierror):
        what, fix = "the server's name can't be resolved (DNS)", "check the network connection of this machine"
        return TransferError(what, retry=True, connected=False, fix=fix)
    reasons: tuple[tuple[type[BaseException] | tuple[type[BaseException], ...], str], ...] = (
        (ssl.SSLError, "the secure connection failed (TLS)"),
        (TimeoutError, "the connection stalled"),
        (ConnectionRefusedError, "the server refuses the connection"),
        (BaseException if connected else (http.client.HTTPException, ConnectionError), "the connection broke"),
        (BaseException, "the server can't be reached"),
    )
    what = next(what for kinds, what in reasons if isinstance(cause, kinds))
    return TransferError(what, retry=True, connected=connected)
