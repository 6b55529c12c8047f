"""A file over HTTP, resumed where it stopped, under its final name only when it is verified."""

from __future__ import annotations

import hashlib
import http.client
import json
import os
import socket
import ssl
import time
import urllib.error
import urllib.request
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NoReturn
from urllib.parse import urlsplit

from histotune import __version__
from histotune.datasets.fetch.source import Digest, show_bytes
from histotune.tools.errors import UserError
from histotune.tools.files import FULL_DISK, NO_WRITE, write_json
from histotune.tools.progress import track_bytes

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from email.message import Message
    from http.client import HTTPMessage
    from pathlib import Path
    from typing import IO

    from histotune.datasets.fetch.source import Checksums, NetworkConfig, RemoteFile, Transfer

    ExtraCheck = Callable[[Path], None]


@dataclass(frozen=True)
class Downloaded:
    """A file that arrived and was verified.

    Attributes:
        path: Under its final name.
        digest: Its real length and hashes.
        url: Address it came from.
    """

    path: Path
    digest: Digest
    url: str


class Unavailable(Exception):
    """No address of a file gave it.

    Args:
        reasons: One phrase for each address tried.
        fix: What a person can do, where it is known.
    """

    def __init__(self, reasons: tuple[str, ...], fix: str | None) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = reasons
        self.fix = fix


def download(file: RemoteFile, folder: Path, transfer: Transfer, check: ExtraCheck | None = None) -> Downloaded:
    """Download a file into a folder that this process has locked."""
    partial = Partial(file, folder)
    brought = _bring(partial, transfer)
    try:
        digest = _verify(partial, check)
    except UserError as error:
        partial.drop()
        if not brought.pieced:
            raise _rejected(error, brought.url) from error
        # The bytes kept from an earlier connection may be the wrong ones: once more, from the first byte.
        transfer.say(f"{file.name} was put together from several connections and is wrong ({error.what}); from zero")
        brought = _bring(partial, transfer)
        digest = _verify_again(partial, check, brought.url)
    return Downloaded(partial.finish(), digest, brought.url)


@dataclass(frozen=True)
class _Brought:
    """Where the bytes of a partial came from.

    Attributes:
        url: The address.
        pieced: Whether more than one connection, or an earlier call, brought them.
    """

    url: str
    pieced: bool


def _verify(partial: Partial, check: ExtraCheck | None) -> Digest:
    digest = digest_file(partial.path)
    require_match(digest, partial.file)
    if check is not None:
        check(partial.path)
    return digest


def _verify_again(partial: Partial, check: ExtraCheck | None, url: str) -> Digest:
    try:
        return _verify(partial, check)
    except UserError as error:
        partial.drop()
        raise _rejected(error, url) from error


def _rejected(error: UserError, url: str) -> UserError:
    return UserError(
        f"{error.what}; what arrived was removed",
        value=public_url(url),
        fix=error.fix or "try again later or from another --source: the file there was changed or damaged",
    )


def _bring(partial: Partial, transfer: Transfer) -> _Brought:
    """Fill the partial from the first address that gives the whole file, the one it already comes from first."""
    record = partial.read()
    urls = partial.file.urls
    if record is not None:
        urls = (record.url, *(url for url in urls if url != record.url))
    reasons: list[str] = []
    fix: str | None = None
    for url in urls:
        try:
            return _Brought(url, _Attempts(partial, url, transfer).run())
        except TransferError as error:
            reasons.append(f"{public_url(url)}: {error.what}")
            fix = error.fix or fix
    raise Unavailable(tuple(reasons), fix)


class _Attempts:
    """Attempts at one address until the file is whole or patience ends.

    Args:
        partial: What is there so far.
        url: The address.
        transfer: Patience, jitter and messages.
    """

    def __init__(self, partial: Partial, url: str, transfer: Transfer) -> None:
        self.partial = partial
        self.url = url
        self.transfer = transfer
        self.furthest_bytes = partial.size_bytes
        self.idle = 0  # attempts in a row without progress
        self.answered = False
        self.pieced = partial.size_bytes > 0

    def run(self) -> bool:
        """Try until the whole file is there."""
        while True:
            try:
                if self._attempt():
                    return self.pieced
            except TransferError as error:
                self._wait_or_give_up(error)

    def _wait_or_give_up(self, error: TransferError) -> None:
        config = self.transfer.config
        self.answered |= error.connected
        here_bytes = self.partial.size_bytes
        if here_bytes >= self.furthest_bytes + config.progress_bytes:
            self.idle = 0
            self.furthest_bytes = here_bytes
        self.idle += 1
        patience = config.attempts if self.answered else config.first_attempts
        if not error.retry or self.idle >= patience:
            times = f", {self.idle} times in a row" if error.retry and self.idle > 1 else ""
            raise TransferError(f"{error.what}{times}", retry=False, fix=error.fix) from error
        wait_s = self._wait_s(error)
        self.transfer.say(
            f"{self.partial.file.name}: {error.what} after {show_bytes(here_bytes)}; next attempt in {wait_s:.0f} s"
        )
        self.transfer.sleep(wait_s)

    def _wait_s(self, error: TransferError) -> float:
        config = self.transfer.config
        if error.retry_after_s is not None:
            if error.retry_after_s > config.retry_after_limit_s:
                raise TransferError(
                    f"{error.what} and asks to come back in {error.retry_after_s:,.0f} s", retry=False
                ) from error
            return error.retry_after_s
        # Full jitter between half and all of the doubled wait, so that clients cut off together don't return together.
        wait_s = min(config.backoff_limit_s, config.backoff_s * 2.0 ** (self.idle - 1))
        return wait_s * float(self.transfer.rng.uniform(0.5, 1.0))

    def _attempt(self) -> bool:
        """Ask once and keep what comes; return whether the file is whole."""
        record = self.partial.read()
        start_bytes = self.partial.size_bytes if record is not None and record.url == self.url else 0
        known_bytes = self.partial.file.size_bytes or (record.total_bytes if record is not None else None)
        if start_bytes and start_bytes == known_bytes:
            return True  # killed between the last byte and the final name; the checks decide
        resumable = record is not None and (record.validator or self.partial.file.checksums.known)
        if not resumable or (known_bytes is not None and start_bytes > known_bytes):
            start_bytes = 0
        with request(self.url, _range_headers(start_bytes, record), self.transfer.config) as reply:
            self.answered = True
            if reply.status == 416:
                return self._beyond_the_end(start_bytes, reply)
            record = self._accept(start_bytes, record, reply)
            return self._receive(reply, record)

    def _beyond_the_end(self, start_bytes: int, reply: Reply) -> bool:
        if not start_bytes or reply.total_bytes != start_bytes:
            self._start_over("the file at the server is shorter than what is here")
        if self.partial.file.size_bytes is not None:
            self._another_length(start_bytes)
        return True

    def _accept(self, start_bytes: int, record: PartialRecord | None, reply: Reply) -> PartialRecord:
        """Decide whether the reply continues the partial; one that is the whole file starts it anew."""
        if reply.status == 200:
            if start_bytes:
                changed = record is not None and record.validator not in (None, reply.etag, reply.last_modified)
                why = "the file at the server changed" if changed else "the server does not continue downloads"
                self.transfer.say(f"{self.partial.file.name}: {why}; from zero")
            self.pieced = False
            return self.partial.begin(self.url, reply)
        if record is None or not start_bytes or reply.range_start != start_bytes:
            self._start_over("the server sent another part than the one asked for")
        if None not in (record.etag, reply.etag) and record.etag != reply.etag:
            self._start_over("the file at the server changed")
        if None not in (record.total_bytes, reply.total_bytes) and record.total_bytes != reply.total_bytes:
            self._start_over("the file at the server has another length now")
        self.pieced = True
        return record

    def _receive(self, reply: Reply, record: PartialRecord) -> bool:
        """Write what arrives; return whether it is the whole file."""
        start_bytes, config = self.partial.size_bytes, self.transfer.config
        expected = self.partial.file.size_bytes or reply.total_bytes or record.total_bytes
        ends = None if reply.announced_bytes is None else start_bytes + reply.announced_bytes
        pace = _Pace(config)
        label = f"downloading {self.partial.file.name}"
        with self.partial.writer() as write, track_bytes(label, expected, start_bytes) as advance:
            here_bytes = start_bytes
            while data := self._next_bytes(reply, here_bytes == (ends if ends is not None else expected)):
                here_bytes += len(data)
                if expected is not None and here_bytes > expected:
                    break
                write(data)
                advance(len(data))
                pace.require(len(data))
        if expected is not None and here_bytes > expected:
            self._too_long(expected)
        if expected is None or here_bytes == expected:
            return True
        if here_bytes == reply.total_bytes:
            self._another_length(here_bytes)
        raise TransferError(f"the connection ended at {here_bytes:,} of {expected:,} bytes", retry=True)

    def _next_bytes(self, reply: Reply, may_end: bool) -> bytes:
        try:
            return read_some(reply, self.transfer.config.chunk_bytes)
        except TransferError:
            # Some servers keep a connection open behind the last byte although they were asked to close it.
            if may_end:
                return b""
            raise

    def _too_long(self, expected: int) -> NoReturn:
        self.partial.drop()
        whose = "it announced" if self.partial.file.size_bytes is None else "that are published"
        raise TransferError(f"the server sent more than the {expected:,} bytes {whose}; they were removed", retry=False)

    def _another_length(self, n_bytes: int) -> NoReturn:
        self.partial.drop()
        known = f"{self.partial.file.size_bytes:,}"
        raise TransferError(
            f"the file there has {n_bytes:,} bytes and the published one {known}; it was removed", retry=False
        )

    def _start_over(self, why: str) -> NoReturn:
        self.partial.drop()
        raise TransferError(f"{why}; from zero", retry=True)


class _Pace:
    """Gives up a connection that stays too slow over a window of time."""

    def __init__(self, config: NetworkConfig) -> None:
        self.config = config
        self.since_s = time.monotonic()
        self.n_bytes = 0

    def require(self, n_bytes: int) -> None:
        """Count bytes that arrived."""
        self.n_bytes += n_bytes
        passed_s = time.monotonic() - self.since_s
        if passed_s < self.config.slow_window_s:
            return
        if self.n_bytes < self.config.slowest_bytes_per_s * passed_s:
            raise TransferError("the connection became too slow", retry=True)
        self.since_s, self.n_bytes = time.monotonic(), 0


def _range_headers(start_bytes: int, record: PartialRecord | None) -> dict[str, str]:
    if not start_bytes:
        return {}
    validator = None if record is None else record.validator
    return {"Range": f"bytes={start_bytes}-"} | ({"If-Range": validator} if validator else {})


# ------------------------------------------------------------------------------
# One HTTP request with the standard library: redirects bounded, https kept, bodies read as they arrive.
#
# No dependency offers what a verified download needs in its public interface: huggingface_hub's own downloader resumes
# only files of the hub, and httpx comes and goes with it. ``urllib`` honours proxies and certificates of the system.


LOOPBACK = ("127.0.0.1", "::1", "localhost")
COME_BACK = (408, 425, 429, 500, 502, 503, 504)
NOT_A_FILE = ("text/html", "application/xhtml+xml")


class TransferError(Exception):
    """A request or a body that failed.

    Args:
        what: What happened, for people; no address with a query, no header, nothing a server wrote.
        retry: Whether trying the same address again can help.
        connected: Whether a server had answered.
        retry_after_s: How long the server asks to wait, in seconds.
        fix: What a person can do, where it is known.
    """

    def __init__(
        self,
        what: str,
        *,
        retry: bool,
        connected: bool = True,
        retry_after_s: float | None = None,
        fix: str | None = None,
    ) -> None:
        super().__init__(what)
        self.what = what
        self.retry = retry
        self.connected = connected
        self.retry_after_s = retry_after_s
        self.fix = fix


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
    opener = urllib.request.build_opener(_Redirects(config.redirects))
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


class _Redirects(urllib.request.HTTPRedirectHandler):
    """Follows a few redirects, never from https to http."""

    def __init__(self, limit: int) -> None:
        self.left = limit

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: HTTPMessage, newurl: str
    ) -> urllib.request.Request | None:
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
    known = {
        401: "the server asks for a login",
        403: "the server refuses access",
        404: "the file is not at its address any more",
        407: "the proxy asks for a login",
        410: "the file is not at its address any more",
        429: "the server asks to slow down",
        503: "the server is overloaded or in maintenance",
    }
    if 300 <= error.code < 400:
        return TransferError("the server redirects too often, or to nowhere", retry=False)
    what = known.get(error.code, "the server failed" if error.code >= 500 else "the server refuses the request")
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
        return TransferError(
            "the server's certificate can't be verified",
            retry=False,
            fix="check this machine's clock; behind a company proxy point SSL_CERT_FILE to its certificate",
        )
    if isinstance(cause, ssl.SSLError):
        return TransferError("the secure connection failed (TLS)", retry=True, connected=connected)
    if isinstance(cause, socket.gaierror):
        return TransferError("the server's name can't be resolved (DNS)", retry=True, connected=False,
                             fix="check the network connection of this machine")  # fmt: skip
    if isinstance(cause, TimeoutError):
        return TransferError("the connection stalled", retry=True, connected=connected)
    if isinstance(cause, ConnectionRefusedError):
        return TransferError("the server refuses the connection", retry=True, connected=connected)
    broke = connected or isinstance(cause, http.client.HTTPException | ConnectionError)
    what = "the connection broke" if broke else "the server can't be reached"
    return TransferError(what, retry=True, connected=connected)


# ------------------------------------------------------------------------------
# A download in progress: NAME.partial and the small file that says what it is part of.


@dataclass(frozen=True)
class PartialRecord:
    """What the bytes so far belong to.

    Attributes:
        url: Address they came from.
        etag: Entity tag of that version of the file, for If-Range.
        last_modified: Its date, used where there is no entity tag.
        total_bytes: Announced length of the whole.
        md5: Expected hash, "" where none is published.
        sha256: Expected hash, "" where none is published.
    """

    url: str
    etag: str | None
    last_modified: str | None
    total_bytes: int | None
    md5: str
    sha256: str

    @property
    def validator(self) -> str | None:
        """Value of If-Range."""
        return self.etag or self.last_modified


@dataclass(frozen=True)
class Partial:
    """The pair of files beside the finished name.

    Attributes:
        file: What is being downloaded.
        folder: Where.
    """

    file: RemoteFile
    folder: Path

    @property
    def path(self) -> Path:
        """The bytes so far."""
        return self.folder / f"{self.file.name}.partial"

    @property
    def record_path(self) -> Path:
        """What they belong to."""
        return self.folder / f"{self.file.name}.partial.json"

    @property
    def size_bytes(self) -> int:
        """Bytes so far."""
        return self.path.stat().st_size if self.path.is_file() else 0

    def read(self) -> PartialRecord | None:
        """Return what the bytes belong to; None where that is unknown or was another file."""
        try:
            record = PartialRecord(**json.loads(self.record_path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        same = (record.md5, record.sha256) == self._hashes and record.url in self.file.urls
        return record if same else None

    def begin(self, url: str, reply: Reply) -> PartialRecord:
        """Empty the bytes, then write down what the next ones belong to."""
        # In this order: a process killed in between leaves no bytes of one version beside the name of another.
        with explained_writes(self):
            self.path.write_bytes(b"")
        record = PartialRecord(url, reply.etag, reply.last_modified, reply.total_bytes, *self._hashes)
        write_json(self.record_path, asdict(record))
        return record

    @contextmanager
    def writer(self) -> Iterator[Callable[[bytes], None]]:
        """Add bytes behind those that are there; on a full disk those that fitted stay and count."""
        with explained_writes(self), self.path.open("ab", buffering=0) as stream:

            def write(data: bytes) -> None:
                view = memoryview(data)
                while view:
                    view = view[stream.write(view) :]

            yield write

    def drop(self) -> None:
        """Remove both files."""
        self.path.unlink(missing_ok=True)
        self.record_path.unlink(missing_ok=True)

    def finish(self) -> Path:
        """Give the verified bytes their final name."""
        final = self.folder / self.file.name
        with explained_writes(self):
            with self.path.open("rb+") as stream:
                os.fsync(stream.fileno())
            self.path.replace(final)
            flush_folder(self.folder)
        self.record_path.unlink(missing_ok=True)
        return final

    @property
    def _hashes(self) -> tuple[str, str]:
        return self.file.checksums.md5 or "", self.file.checksums.sha256 or ""


@contextmanager
def explained_writes(partial: Partial) -> Iterator[None]:
    """Turn a full disk and a missing permission into one message that says what is kept."""
    try:
        yield
    except OSError as error:
        if error.errno in FULL_DISK:
            kept = partial.size_bytes
            missing = max(0, partial.file.about_bytes - kept)
            raise UserError(
                f"the disk is full; {show_bytes(kept)} of {partial.file.name} are kept",
                value=partial.folder,
                fix=f"free at least {show_bytes(missing)} there and run the same command again; it continues",
            ) from error
        if error.errno in NO_WRITE:
            raise UserError("this folder can't be written", value=partial.folder,
                            fix="choose a folder you own with --to, or change its permissions") from error  # fmt: skip
        raise


def flush_folder(folder: Path) -> None:
    """Flush a rename in a folder to disk, where the platform can."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(handle)
    except OSError:
        return  # some network file systems
    finally:
        os.close(handle)


# ------------------------------------------------------------------------------
# Is a file what it should be: its length and hashes against the published ones, and what to say where none exist.


BLOCK_BYTES = 1 << 20


def digest_file(path: Path) -> Digest:
    """Hash a file in one pass."""
    md5, sha256, size_bytes = hashlib.md5(usedforsecurity=False), hashlib.sha256(), 0
    with path.open("rb") as stream, track_bytes(f"verifying {path.name}", path.stat().st_size) as advance:
        while block := stream.read(BLOCK_BYTES):
            md5.update(block)
            sha256.update(block)
            size_bytes += len(block)
            advance(len(block))
    return Digest(size_bytes, md5.hexdigest(), sha256.hexdigest())


def mismatches(digest: Digest, checksums: Checksums, size_bytes: int | None = None) -> list[str]:
    """Return what differs from the published facts, one phrase each; empty where all agrees."""
    found = []
    if size_bytes is not None and digest.size_bytes != size_bytes:
        found.append(f"it has {digest.size_bytes:,} bytes, not {size_bytes:,}")
    if checksums.md5 is not None and digest.md5 != checksums.md5:
        found.append(f"its MD5 is {digest.md5}, not {checksums.md5}")
    if checksums.sha256 is not None and digest.sha256 != checksums.sha256:
        found.append(f"its SHA-256 is {digest.sha256}, not {checksums.sha256}")
    return found


def require_match(digest: Digest, file: RemoteFile) -> None:
    """Refuse a file that is not the published one."""
    found = mismatches(digest, file.checksums, file.size_bytes)
    if found:
        raise UserError(f"{file.name} is not the published file: {'; '.join(found)}")


def describe_check(checksums: Checksums) -> str:
    """Return how a file with these published hashes is verified, as a phrase."""
    names = [name for name, value in (("MD5", checksums.md5), ("SHA-256", checksums.sha256)) if value is not None]
    return f"{' and '.join(names)} as published" if names else "no checksum is published"
