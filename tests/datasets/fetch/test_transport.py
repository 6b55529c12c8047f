from __future__ import annotations

import http.client
import socket
import ssl
import urllib.error
from email.message import Message
from pathlib import Path

import pytest

from histotune.datasets.fetch.download import Unavailable, download
from histotune.datasets.fetch.source import RemoteFile, show_bytes
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
