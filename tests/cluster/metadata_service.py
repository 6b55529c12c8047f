"""An instance metadata service (IMDSv2) on this machine: a token by PUT, a notice when a test says so."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

NOTICE = json.dumps({"action": "terminate", "time": "2026-11-30T08:22:00Z"})


class Service:
    """What it was asked, and when it speaks."""

    def __init__(self, is_time: Callable[[], bool], notice: str = NOTICE) -> None:
        self.is_time, self.notice = is_time, notice
        self.tokens: list[str] = []
        self.asked: list[str] = []
        self.valid_for = 10**9


@contextmanager
def serving(service: Service) -> Iterator[str]:
    """Serve it; yield its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            if self.path != "/latest/api/token" or not self.headers.get("X-aws-ec2-metadata-token-ttl-seconds"):
                return self._say(400, "")
            service.tokens.append(f"token-{len(service.tokens)}")
            return self._say(200, service.tokens[-1])

        def do_GET(self) -> None:
            service.asked.append(self.path)
            known = bool(service.tokens) and self.headers.get("X-aws-ec2-metadata-token") == service.tokens[-1]
            if not known or len(service.asked) % service.valid_for == 0:
                return self._say(401, "")
            if self.path != "/latest/meta-data/spot/instance-action" or not service.is_time():
                return self._say(404, "<html>not found</html>")
            return self._say(200, service.notice)

        def _say(self, code: int, text: str) -> None:
            self.send_response(code)
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
