"""A server on this machine that behaves as servers do: well, or in every bad way that is asked of it."""

from __future__ import annotations

import hashlib
import socket
import struct
import threading
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@dataclass(frozen=True)
class Act:
    """How one request is answered; a request without an act is answered well.

    Attributes:
        status: Sent in place of 200 or 206, with no body.
        headers: Added, or in place of the usual ones; None leaves one out.
        cut: Body bytes after which the connection ends.
        end: How it ends there: closed, reset, or held open without a byte.
        announce: Content-Length in place of the true one.
        ignore_range: Send the whole file with 200 although a part was asked for.
        body: Sent in place of the file.
        shift: Added to the first byte of a 206, which makes it another part than the one asked for.
        pause_s: Wait between pieces of 10 bytes.
    """

    status: int | None = None
    headers: dict[str, str | None] = field(default_factory=dict)
    cut: int | None = None
    end: str = "close"
    announce: int | None = None
    ignore_range: bool = False
    body: bytes | None = None
    shift: int = 0
    pause_s: float = 0.0


@dataclass
class Server:
    """What is served, and what was asked.

    Attributes:
        port: On 127.0.0.1.
        files: Path -> bytes.
        acts: Path -> acts for the next requests, used up one by one.
        always: Path -> act for every request once ``acts`` are used up.
        requests: (path, headers) of every request.
        released: Set when connections held open may end.
    """

    port: int
    files: dict[str, bytes] = field(default_factory=dict)
    acts: dict[str, list[Act]] = field(default_factory=lambda: defaultdict(list))
    always: dict[str, Act] = field(default_factory=dict)
    requests: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    released: threading.Event = field(default_factory=threading.Event)
    guard: threading.Lock = field(default_factory=threading.Lock)

    def url(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    def ranges(self, name: str) -> list[str | None]:
        return [headers.get("range") for path, headers in self.requests if path.split("?")[0] == f"/{name}"]


def etag_of(data: bytes) -> str:
    return f'"{hashlib.sha256(data).hexdigest()[:16]}"'


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    plan: Server

    def log_message(self, *_: object) -> None:
        return

    def do_GET(self) -> None:
        plan = self.plan
        path = self.path.split("?")[0]
        name = path.lstrip("/")
        with plan.guard:
            plan.requests.append((self.path, {key.lower(): value for key, value in self.headers.items()}))
            act = plan.acts[name].pop(0) if plan.acts[name] else plan.always.get(name, Act())
        if act.status is not None or name not in plan.files:
            self._head(act.status or 404, {"Content-Length": "0"}, act)
            return
        self._serve(plan.files[name] if act.body is None else act.body, act)

    def _serve(self, data: bytes, act: Act) -> None:
        tag = etag_of(data)
        asked = self.headers.get("Range")
        valid = self.headers.get("If-Range") in (None, tag, "Mon, 02 Nov 2026 10:00:00 GMT")
        start = int(asked.removeprefix("bytes=").split("-")[0]) if asked and valid and not act.ignore_range else 0
        headers: dict[str, str] = {"ETag": tag, "Content-Type": "application/octet-stream"}
        if start >= len(data) and start:
            self._head(416, {**headers, "Content-Range": f"bytes */{len(data)}", "Content-Length": "0"}, act)
            return
        status = 206 if start else 200
        start += act.shift if start else 0
        part = data[start:]
        if status == 206:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        headers["Content-Length"] = str(len(part) if act.announce is None else act.announce)
        self._head(status, headers, act)
        self._body(part, act)

    def _head(self, status: int, headers: dict[str, str], act: Act) -> None:
        self.send_response_only(status)
        for key, value in {**headers, "Connection": "close", **act.headers}.items():
            if value is not None:
                self.send_header(key, value)
        self.end_headers()
        self.close_connection = True

    def _body(self, part: bytes, act: Act) -> None:
        try:
            whole = part if act.cut is None else part[: act.cut]
            if act.pause_s:
                for place in range(0, len(whole), 10):
                    self.wfile.write(whole[place : place + 10])
                    if self.plan.released.wait(act.pause_s):
                        return
            else:
                self.wfile.write(whole)
            self.wfile.flush()
            if act.end == "hold":
                self.plan.released.wait(10)
            elif act.end == "reset":
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.close()
        except OSError:
            return


@contextmanager
def serving() -> Iterator[Server]:
    """Serve on a free port of this machine until the block ends."""
    handler = type("Handler", (_Handler,), {})
    http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    http.daemon_threads = True
    plan = Server(http.server_address[1])
    handler.plan = plan
    thread = threading.Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    try:
        yield plan
    finally:
        plan.released.set()
        http.shutdown()
        http.server_close()
        thread.join()
