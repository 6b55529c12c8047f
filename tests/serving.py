"""A served head for tests: the real server on a free port of this machine, in a thread, and requests to it."""

from __future__ import annotations

import http.client
import json
import re
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from histotune.deploy.answers import TrainingData
from histotune.deploy.batch_queue import BatchQueue
from histotune.deploy.bundle import Bundle
from histotune.deploy.live_head import LiveHead
from histotune.deploy.serve import ServeSettings, _listen, make_server
from histotune.deploy.service import ServedCard, Service, ServiceSettings, build_app
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
    def json(self) -> Any:  # noqa: ANN401
        """The body as JSON."""
        return json.loads(self.body)


@dataclass(frozen=True)
class Served:
    """A server under test, in this process unless it has no service."""

    port: int
    service: Service | None = None
    process: subprocess.Popen[str] | None = None

    @property
    def live(self) -> LiveHead:
        """The head that is served."""
        assert self.service is not None
        return self.service.live

    @property
    def queue(self) -> BatchQueue:
        """What waits for its network."""
        assert self.service is not None
        return self.service.queue

    def memory_mib(self) -> float:
        """Memory of the process, MiB."""
        assert self.process is not None
        pages = int(Path(f"/proc/{self.process.pid}/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize() / 2**20

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
            with suppress(OSError):  # it may have answered and closed before everything was sent
                connection.sendall(data)
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
def serving(
    bundle: Bundle,
    cache: Path,
    settings: ServiceSettings | None = None,
    data: tuple[TrainingData, ...] = (),
) -> Iterator[Served]:
    """Serve a head with the server of ``histotune serve`` until the block ends."""
    limits = settings or ServiceSettings()
    live = LiveHead(bundle, backbone_of_head(bundle, cache), predict_settings(cache, None))
    service = Service(live, ServedCard(CARD, data), limits)
    started = threading.Event()
    listener = _listen(ServeSettings(port=0))
    server = make_server(build_app(service, limits, started.set))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    assert started.wait(60)
    while not server.started:
        time.sleep(0.01)
    try:
        yield Served(listener.getsockname()[1], service)
    finally:
        server.should_exit = True
        thread.join(30)
        assert not thread.is_alive()


@contextmanager
def serving_process(head: Path, cache: Path, *options: str) -> Iterator[Served]:
    """Run ``histotune serve`` as its users do, on a free port, and end it as they do."""
    command = [sys.executable, "-m", "histotune", "serve", str(head), "--cache", str(cache), "--port", "0", *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        line = process.stdout.readline()
        found = re.search(r"on http://127\.0\.0\.1:(\d+) ", line)
        assert found, line + process.stderr.read()
        try:
            yield Served(int(found[1]), process=process)
        finally:
            process.send_signal(signal.SIGINT)
            try:
                process.wait(30)
            finally:
                process.kill()
