"""A head on an address of this machine, until it is told to stop."""

from __future__ import annotations

import contextlib
import ipaddress
import logging
import os
import socket
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

from histotune.tools.errors import UserError

if TYPE_CHECKING:
    from collections.abc import Callable

    import uvicorn

    from histotune.backbones.spec import BackboneSpec
    from histotune.deploy.bundle import Bundle
    from histotune.deploy.predict import PredictSettings
    from histotune.evaluation.findings import Findings

LOG = logging.getLogger(__name__)
PACKAGES = {"fastapi": "fastapi", "uvicorn": "uvicorn", "python_multipart": "python-multipart"}
STOP_S = 10
BACKLOG = 256


@dataclass(frozen=True)
class ServeSettings:
    """Where a head is served, and to whom.

    Attributes:
        host: Address of this machine; 127.0.0.1 can be reached from this machine alone.
        port: Port; 0 takes a free one.
        to_network: Allow an address that other machines reach.
        max_upload_mib: Most MiB of a request.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    to_network: bool = False
    max_upload_mib: float = 32.0


def check_serve(settings: ServeSettings) -> None:
    """Refuse settings that can't be meant, and missing packages, before a network is loaded.

    Args:
        settings: Where the head is to be served.

    Raises:
        UserError: An address that others reach without the word that allows it, an odd port, or missing packages.
    """
    missing = [name for module, name in PACKAGES.items() if find_spec(module) is None]
    if missing:
        raise UserError(f"serving needs {', '.join(missing)}, not installed here", fix="pip install 'histotune[serve]'")
    if not 0 <= settings.port <= 65_535:
        raise UserError("there is no such port", value=settings.port, allowed="0 to 65535", fix="--port 8000")
    if not 0 < settings.max_upload_mib <= 4096:
        raise UserError(
            "the limit of an upload can't be this",
            value=settings.max_upload_mib,
            allowed="above 0, up to 4096 MiB",
            fix="--max-upload-mib 32",
        )
    if not is_local(settings.host) and not settings.to_network:
        raise UserError(
            "other machines could reach this address, and whoever reaches it can send images and read the model card: "
            "there is no password",
            value=settings.host,
            allowed="127.0.0.1, which this machine alone reaches",
            fix="leave out --host, or add --to-network where that is meant",
        )


def is_local(host: str) -> bool:
    """Return whether an address can be reached from this machine alone.

    Example:
        >>> is_local("127.0.0.1"), is_local("0.0.0.0")
        (True, False)
    """
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def serve_head(
    bundle: Bundle,
    backbone: BackboneSpec,
    predict: PredictSettings,
    card: str,
    findings: Findings | None,
    settings: ServeSettings,
    say: Callable[[str], None] = print,
) -> None:
    """Load a head and answer requests until SIGINT or SIGTERM; what is under way is answered first.

    Args:
        bundle: The head, its backbone and view.
        backbone: The bundle's backbone, found.
        predict: Device, how pixels are read, scale of the images.
        card: Model card, Markdown.
        findings: What the head's run found; None where there is no run.
        settings: Where, and to whom.
        say: Takes the line that says where the head is.

    Raises:
        UserError: A port that is taken, a network that can't be loaded.
    """
    check_serve(settings)
    listener = _listen(settings)
    with listener:
        _keep_quiet()
        from histotune.deploy.answers import TrainingData
        from histotune.deploy.live_head import LiveHead
        from histotune.deploy.service import ServedCard, Service, ServiceSettings, build_app

        live = LiveHead(bundle, backbone, predict)
        only_local = is_local(settings.host)
        limits = ServiceSettings(settings.max_upload_mib, only_local)
        service = Service(live, ServedCard(card, TrainingData.of(findings)), limits)
        address = _address(listener)
        if not only_local:
            LOG.warning("Other machines may reach this server: there is no password, and nothing is encrypted.")
        words = f"Serving {service.facts.title} on {address} (page, and API: {address}/openapi.json). Ctrl-C ends it."
        with contextlib.suppress(KeyboardInterrupt):  # Ctrl-C, which the server has answered by then
            make_server(build_app(service, limits, lambda: say(words))).run(sockets=[listener])


def make_server(app: Callable[..., Any]) -> uvicorn.Server:
    """Return a server of an application, with limits on headers and on waiting, and without a word of its own."""
    import uvicorn

    config = uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="on",
        log_config=None,
        log_level="error",
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=15,
        timeout_graceful_shutdown=STOP_S,
        h11_max_incomplete_event_size=65_536,
    )
    return uvicorn.Server(config)


def _listen(settings: ServeSettings) -> socket.socket:
    """Take the port before anything is loaded."""
    try:
        family, kind, protocol, _, place = socket.getaddrinfo(settings.host, settings.port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
    except OSError as error:
        raise UserError(
            f"this address can't be used ({error.strerror})", value=settings.host, fix="leave out --host"
        ) from error
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(place)
        listener.listen(BACKLOG)
    except OSError as error:
        listener.close()
        raise UserError(
            f"the port can't be taken ({error.strerror})",
            value=f"{settings.host}:{settings.port}",
            fix=f"--port {settings.port + 1 if 0 < settings.port < 65_535 else 8000}, or --port 0 for a free one",
        ) from error
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _keep_quiet() -> None:
    """Switch off what libraries would tell their makers."""
    for name in ("HF_HUB_DISABLE_TELEMETRY", "DO_NOT_TRACK", "DISABLE_TELEMETRY"):
        os.environ[name] = "1"
    os.environ["OTEL_SDK_DISABLED"] = "true"
