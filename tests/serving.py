"""A served head for tests: the real server on a free port of this machine, in a thread, and requests to it."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from histotune.deploy.bundle import Bundle
from histotune.deploy.live_head import LiveHead
from histotune.deploy.serve import ServeSettings, _listen, make_server
from histotune.deploy.service import Service, ServiceSettings, build_app
from histotune.studies.head_verbs import predict_settings
from histotune.studies.setup import backbone_of_head

CARD = "---\nlicense: other\n---\n\n# a card\n"


@dataclass(frozen=True)
class Answered:
    """An answer."""

    status: int
    body: bytes
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    """A server under test."""

    port: int
    service: Service
    live: LiveHead

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, timeout_s: float = 60.0
    ) -> Answered:
        """Send a request of one connection."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout_s)
        try:
            connection.request(method, path, body or None, headers or {})
            response = connection.getresponse()
            names = {name.lower(): value for name, value in response.getheaders()}
            return Answered(response.status, response.read(), names)
        finally:
            connection.close()

    def send(self, path: str, *files: tuple[str, bytes], accept: str = "", **fields: str) -> Answered:
        """Send images as a form."""
        body, kind = form([("image", name, data) for name, data in files], fields)
        more = {"Accept": accept} if accept else {}
        return self.ask("POST", path, body, {"Content-Type": kind, **more})

    def raw(self, data: bytes, timeout_s: float = 30.0) -> Answered:
        """Send bytes that no client library would, and read what comes back."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as connection:
            try:
                connection.sendall(data)
                connection.shutdown(socket.SHUT_WR)
            except OSError:
                pass  # it has answered and closed before everything was sent
            response = http.client.HTTPResponse(connection)
            response.begin()
            return Answered(response.status, response.read())


def form(files: list[tuple[str, str, bytes]], fields: dict[str, str] | None = None) -> tuple[bytes, str]:
    """Return a multipart body and its content type."""
    mark = uuid.uuid4().hex
    parts = [
        f'--{mark}\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n'.encode()
        for name, value in (fields or {}).items()
    ]
    for field_name, file_name, data in files:
        head = f'--{mark}\r\nContent-Disposition: form-data; name="{field_name}"; filename="{file_name}"\r\n'
        parts.append(head.encode() + b"Content-Type: application/octet-stream\r\n\r\n" + data + b"\r\n")
    return b"".join(parts) + f"--{mark}--\r\n".encode(), f"multipart/form-data; boundary={mark}"


@contextmanager
def serving(bundle: Bundle, cache: Path, settings: ServiceSettings | None = None, **more: Any) -> Iterator[Served]:
    """Serve a head with the server of ``histotune serve`` until the block ends."""
    limits = settings or ServiceSettings()
    live = LiveHead(bundle, backbone_of_head(bundle, cache), predict_settings(cache, None, **more))
    service = Service(live, CARD, limits)
    started = threading.Event()
    listener = _listen(ServeSettings(port=0))
    server = make_server(build_app(service, limits, started.set))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    assert started.wait(60)
    while not server.started:
        time.sleep(0.01)
    try:
        yield Served(listener.getsockname()[1], service, live)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()
