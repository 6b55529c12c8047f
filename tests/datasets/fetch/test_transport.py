from __future__ import annotations

import http.client
import shutil
import socket
import ssl
import threading
import time
import urllib.error
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from email.message import Message
from pathlib import Path

import pytest

from histotune.datasets.fetch import download as download_module
from histotune.datasets.fetch.download import Unavailable, download
from histotune.datasets.fetch.source import Checksums, RemoteFile, show_bytes
from histotune.datasets.fetch.transport import public_url, seconds_asked

from .conftest import IMPATIENT, Heard, remote, sums
from .server import Act, Server

NOW_S = 1_793_707_200.0  # 2026-11-03 12:00:00 UTC


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (None, None),
        ("7", 7.0),
        (" 0 ", 0.0),
        ("Tue, 03 Nov 2026 12:00:30 GMT", 30.0),
        ("Tue, 03 Nov 2026 11:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, seconds: float | None) -> None:
    assert seconds_asked(value, NOW_S) == seconds


def test_an_address_is_shown_without_its_secrets() -> None:
    assert public_url("https://user:pass@host:8080/a/b.gz?token=x#y") == "https://host:8080/a/b.gz"


@pytest.mark.parametrize(
    ("cause", "why"),
    [
        (socket.gaierror(-2, "Name or service not known"), "DNS"),
        (ssl.SSLCertVerificationError("certificate verify failed"), "certificate can't be verified"),
        (ssl.SSLError("handshake"), "TLS"),
        (TimeoutError(), "stalled"),
        (ConnectionRefusedError(), "refuses the connection"),
        (ConnectionResetError(), "the connection broke"),
        (OSError(101, "Network is unreachable"), "can't be reached"),
        (http.client.RemoteDisconnected(), "the connection broke"),
        (http.client.BadStatusLine("SECRET"), "the connection broke"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
@pytest.mark.parametrize("wrapped", [True, False])
def test_what_goes_wrong_with_a_connection_is_a_phrase(
    heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cause: Exception, why: str, wrapped: bool
) -> None:
    def refuse(*_: object, **__: object) -> object:
        raise urllib.error.URLError(cause) if wrapped else cause

    monkeypatch.setattr("urllib.request.OpenerDirector.open", refuse)
    file = RemoteFile("a.bin", ("https://example.org/a.bin?key=SECRET",), 10, True, sums(b""))
    with pytest.raises(Unavailable, match=why) as caught:
        download(file, tmp_path, heard.transfer())
    assert "SECRET" not in str(caught.value) + "".join(heard.said)
    assert len(heard.waits_s) == (0 if isinstance(cause, ssl.SSLCertVerificationError) else 2)


@pytest.mark.parametrize("status", [400, 407, 418, 500, 502, 504, 599])
def test_a_status_is_explained_in_our_own_words(server: Server, heard: Heard, tmp_path: Path, status: int) -> None:
    server.always["file.bin"] = Act(status=status, headers={"Retry-After": "garbage"})
    config = IMPATIENT.model_copy(update={"attempts": 2})
    with pytest.raises(Unavailable, match=rf"\(status {status}\)"):
        download(remote(server, b"data"), tmp_path, heard.transfer(config))
    assert len(server.requests) == (2 if status in (500, 502, 504) else 1)


@pytest.mark.parametrize("length", ["-5", "12abc", "1" * 40, "٣"])
def test_a_length_that_is_no_number_is_none(server: Server, heard: Heard, tmp_path: Path, length: str) -> None:
    server.always["file.bin"] = Act(headers={"Content-Length": None, "X-Length": length.encode().decode("latin-1")})
    assert download(remote(server, b"data"), tmp_path, heard.transfer()).digest.size_bytes == 4


def test_https_is_never_left_for_http(heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from histotune.datasets.fetch import transport

    handler = transport._Redirects(5)
    asked = transport.urllib.request.Request("https://example.org/a.bin")
    for target in ("http://example.org/a.bin", "http://127.0.0.1/a.bin", "file:///etc/passwd"):
        with pytest.raises(transport.TransferError, match="https"):
            handler.redirect_request(asked, None, 302, "", Message(), target)  # type: ignore[arg-type]
    assert handler.redirect_request(asked, None, 302, "", Message(), "https://mirror.example/a.bin") is not None  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("n_bytes", "text"), [(0, "0 bytes"), (999, "999 bytes"), (1_000, "1.0 kB"), (6_421_353_462, "6.4 GB")]
)
def test_lengths_are_shown_as_people_read_them(n_bytes: int, text: str) -> None:
    assert show_bytes(n_bytes) == text


@contextmanager
def dripping(before: bytes, piece: bytes, pause_s: float) -> Iterator[tuple[str, list[float]]]:
    """Yield the address of a server that sends ``before``, then ``piece`` again and again; and when it was asked."""
    listener = socket.create_server(("127.0.0.1", 0))
    asked: list[float] = []
    ended = threading.Event()

    def answer(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            connection.recv(65536)
            asked.append(time.monotonic())
            connection.sendall(before)
            while not ended.wait(pause_s):
                connection.sendall(piece)

    def serve() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=answer, args=(listener.accept()[0],), daemon=True).start()

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/file.bin", asked
    finally:
        ended.set()
        listener.close()


@pytest.mark.parametrize(
    ("before", "piece"),
    [
        (b"", b"H"),
        (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n"),
        (b"HTTP/1.1 200 OK\r\nX-Long: ", b"a"),
        (b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 100 Continue\r\n\r\n"),
        (b"HTTP/1.1 302 Found\r\nLocation: /", b"a"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"0"),
    ],
    ids=["status line", "header lines", "one header", "continue", "redirect", "length of a chunk"],
)
def test_an_answer_that_drips_runs_into_the_stall_limit(
    heard: Heard, tmp_path: Path, before: bytes, piece: bytes
) -> None:
    config = IMPATIENT.model_copy(update={"attempts": 2, "first_attempts": 2})
    with dripping(before, piece, 0.05) as (url, asked):
        start_s = time.monotonic()
        with pytest.raises(Unavailable) as caught:
            download(RemoteFile("file.bin", (url,), 9, True, Checksums()), tmp_path, heard.transfer(config))
        taken_s = time.monotonic() - start_s
    assert "stalled" in caught.value.reasons[0] or "broke" in caught.value.reasons[0]
    assert len(asked) == 2
    assert taken_s < 4, "each of two attempts has 0.3 s"


@pytest.mark.parametrize("head", [b"Connection: close\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n"])
@pytest.mark.parametrize("bound", ["configured", "disk", "published"])
def test_a_body_without_length_is_bounded(
    heard: Heard, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: bytes, bound: str
) -> None:
    piece = b"x" * 4096 if b"close" in head else b"1000\r\n" + b"x" * 4096 + b"\r\n"
    config = IMPATIENT.model_copy(update={"most_bytes": 100_000 if bound == "configured" else 10**9})
    if bound == "disk":
        free = shutil.disk_usage(tmp_path).free
        config = config.model_copy(update={"margin_bytes": free - 100_000})
        monkeypatch.setattr(download_module, "free_bytes", lambda folder: free)
    file = RemoteFile("file.bin", ("",), 100_000, bound == "published", Checksums())
    with dripping(b"HTTP/1.1 200 OK\r\n" + head, piece, 0.0005) as (url, _), pytest.raises(Unavailable) as caught:
        download(replace(file, urls=(url,)), tmp_path, heard.transfer(config))
    (reason,) = caught.value.reasons
    assert {"configured": "the most that is taken", "disk": "all the room there is", "published": "more than the"}[
        bound
    ] in reason
    assert not (tmp_path / "file.bin.partial").exists()


def test_a_length_beyond_all_bounds_is_refused_before_a_byte_is_kept(
    heard: Heard, tmp_path: Path, server: Server
) -> None:
    file = remote(server, b"x" * 100, exact=False, known=False)
    server.always["file.bin"] = Act(announce=10**17)
    with pytest.raises(Unavailable, match="announces 100,000,000,000,000,000 bytes"):
        download(file, tmp_path, heard.transfer())
    assert not (tmp_path / "file.bin.partial").exists()
