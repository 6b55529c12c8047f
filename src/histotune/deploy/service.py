"""The HTTP side of a served head: a JSON API with its OpenAPI description, and the page that uses it.

Nothing that is sent is written anywhere, no name that is sent is used as a path, and what goes wrong is said in a
sentence; details stay in this server's own log.
"""

from __future__ import annotations

import asyncio
import base64
import inspect
import logging
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse, Response

from histotune.deploy.answers import (
    ExplainAnswer,
    Health,
    ImageAnswer,
    MapWindow,
    ModelFacts,
    PredictAnswer,
    RequestRefusal,
)
from histotune.deploy.batch_queue import BatchQueue, BusyError
from histotune.deploy.service_page import page_policy, render_service_page
from histotune.deploy.upload import RefusedError, printable, read_request, refusal, shown, upload_limit
from histotune.tools.errors import UserError
from histotune.tools.provenance import cpu_count

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from pydantic import BaseModel
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

    from histotune.deploy.answers import TrainingData
    from histotune.deploy.live_head import LiveHead, LiveImage
    from histotune.deploy.upload import Sent, SentImage

LOG = logging.getLogger(__name__)
MAX_REQUESTS = 32
"""Requests whose images are in memory at once; more wait with their images still on the way."""
MAX_HEADER_BYTES, MAX_ADDRESS_BYTES = 32_768, 8_192
LOCAL_NAMES = ("localhost", "127.0.0.1", "[::1]", "::1")
HEADERS = {
    "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store", "X-Frame-Options": "DENY", "Cross-Origin-Resource-Policy": "same-origin",
}  # fmt: skip
BODY = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["image"],
                "properties": {
                    "image": {
                        "type": "array",
                        "items": {"type": "string", "contentMediaType": "application/octet-stream"},
                        "description": "Image files: PNG, JPEG, TIFF, BMP or WebP.",
                    },
                    "mpp": {"type": "number", "description": "Scale of the images, um/px."},
                    "class": {"type": "string", "description": "explain: whose logit is drawn."},
                },
            }
        }
    },
}


@dataclass(frozen=True)
class ServiceSettings:
    """How requests are answered.

    Attributes:
        max_upload_mib: Most MiB of a request.
        only_local: Refuse requests that name another machine, as pages of other sites could make a browser send.
    """

    max_upload_mib: float = 32.0
    only_local: bool = True


@dataclass(frozen=True)
class ServedCard:
    """What is known of a head's run.

    Attributes:
        text: The model card, Markdown.
        data: The data sets of its run.
    """

    text: str
    data: tuple[TrainingData, ...] = ()


class Service:
    """Answers requests about one head.

    Args:
        live: The head, its network loaded.
        card: What is known of its run.
        settings: Limits.
    """

    def __init__(self, live: LiveHead, card: ServedCard, settings: ServiceSettings) -> None:
        self.live, self._card = live, card.text
        self._limit_bytes = upload_limit(live.settings.loader.max_pixels, settings.max_upload_mib)
        self.queue = BatchQueue(live.predict, live.batch_size)
        self._decoders = ThreadPoolExecutor(live.settings.loader.workers or cpu_count(), thread_name_prefix="decode")
        self._places = asyncio.Semaphore(MAX_REQUESTS)
        self.facts = ModelFacts.of(live, card.data)
        self._page = render_service_page(self.facts, self._limit_bytes, live.no_map)

    def close(self) -> None:
        """Answer what waits, then let the threads end."""
        self.queue.close()
        self._decoders.shutdown(wait=True, cancel_futures=True)

    # ---- What can be asked ----

    async def page(self) -> HTMLResponse:
        """Return the page for people."""
        return HTMLResponse(self._page)

    async def icon(self) -> Response:
        """Say that there is no icon, which browsers ask for unasked."""
        return Response(status_code=204)

    async def health(self) -> Health:
        """Say that this server answers, and for which head."""
        return Health(status="ok", head=self.facts.head_id, version=self.facts.version)

    async def model(self) -> ModelFacts:
        """Say what is served: classes, threshold, view, what sets and distances are worth."""
        return self.facts

    async def card(self) -> PlainTextResponse:
        """Return the model card, in Markdown."""
        return PlainTextResponse(self._card, media_type="text/markdown")

    async def predict(self, request: Request) -> Response:
        """Say what the head says of images: probabilities, decision, set of classes, warnings."""
        async with self._places:
            sent = await read_request(request, self._limit_bytes)
            images = await self._decoded(sent, keep=False)
            rows = await asyncio.gather(*(asyncio.wrap_future(self.queue.predicted(image)) for image in images))
        return _as_json(PredictAnswer(images=self._answers(images, rows), model=self.facts))

    async def explain(self, request: Request) -> Response:
        """Say where in one image the logit comes from: numbers and a picture; the picture alone for ``image/png``."""
        async with self._places:
            if self.live.no_map:
                raise RefusedError(409, f"There is no map for this head: {self.live.no_map}.")
            sent = await read_request(request, self._limit_bytes)
            if len(sent.images) != 1:
                raise RefusedError(422, f"A map is drawn for one image at a time, and {len(sent.images)} were sent.")
            names = self.live.bundle.head.class_names
            if sent.class_name and sent.class_name not in names:
                raise RefusedError(422, f"There is no class {shown(sent.class_name)}: there are {', '.join(names)}.")
            image = (await self._decoded(sent, keep=True))[0]
            row = await asyncio.wrap_future(self.queue.predicted(image))
            work = partial(self.live.explain, image, sent.class_name or None)
            found = await asyncio.wrap_future(self.queue.done(work))
            drawn = await self._in_thread(partial(self.live.draw, image, found))
        if "image/png" in request.headers.get("accept", ""):
            return Response(drawn.png, media_type="image/png")
        answer = ExplainAnswer(
            image=self._answers([image], [row])[0],
            class_name=found.class_name,
            against=found.against,
            logit=found.logit,
            probability=found.probability,
            baseline=found.baseline,
            cls_term=found.cls_term,
            map_sum=found.map_sum,
            cls_share=found.cls_share,
            words=found.words(),
            windows=[MapWindow(box_px=one.box_px, terms=one.terms_hw.tolist()) for one in found.windows],
            picture_png_base64=base64.b64encode(drawn.png).decode(),
        )
        return _as_json(answer)

    # ---- On the way ----

    async def _decoded(self, sent: Sent, *, keep: bool) -> list[LiveImage]:
        """Decode the images of a request in threads; all that can't be read are named together."""

        def read(one: SentImage) -> LiveImage:
            """Read one of them."""
            return self.live.read(one.data, one.name, sent.mpp, keep=keep)

        jobs = [self._in_thread(partial(read, one)) for one in sent.images]
        found = await asyncio.gather(*jobs, return_exceptions=True)
        refused = [one for one in found if isinstance(one, UserError)]
        if refused:
            raise RefusedError(422, " ".join(refusal(one).sentence for one in refused[:5]))
        for one in found:
            if isinstance(one, BaseException):
                raise one
        return [one for one in found if not isinstance(one, BaseException)]

    async def _in_thread(self, work: Callable[[], Any]) -> Any:  # noqa: ANN401  (whatever the work gives)
        return await asyncio.get_running_loop().run_in_executor(self._decoders, work)

    def _answers(self, images: Sequence[LiveImage], rows: Sequence[dict[str, Any]]) -> list[ImageAnswer]:
        return [ImageAnswer.of(image, row, self.live) for image, row in zip(images, rows, strict=True)]


def build_app(service: Service, settings: ServiceSettings, on_start: Callable[[], None] = lambda: None) -> ASGIApp:
    """Return the application that a server runs.

    Args:
        service: Answers requests.
        settings: Limits.
        on_start: Called when requests are answered from now on.

    Returns:
        An ASGI application.
    """

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        """Close the service when the server ends."""
        on_start()
        yield
        await asyncio.get_running_loop().run_in_executor(None, service.close)

    facts = service.facts
    quiet: dict[str, Any] = {"docs_url": None, "redoc_url": None}  # those pages load scripts from elsewhere
    if "telemetry" in inspect.signature(FastAPI.__init__).parameters:
        quiet["telemetry"] = {"tracing": False, "metrics": False, "logs": False}
    app = FastAPI(
        title="histotune", version=facts.version, description=f"{facts.title}. Not for diagnosis.", lifespan=lifespan,
        **quiet,
    )  # fmt: skip
    refusals: dict[int | str, dict[str, Any]] = {code: {"model": RequestRefusal} for code in ("4XX", 503)}
    app.add_api_route("/", service.page, include_in_schema=False, response_class=HTMLResponse)
    app.add_api_route("/favicon.ico", service.icon, include_in_schema=False, status_code=204)
    app.add_api_route("/health", service.health)
    app.add_api_route("/model", service.model)
    app.add_api_route("/card", service.card, response_class=PlainTextResponse)
    sends: dict[str, Any] = {"methods": ["POST"], "responses": refusals, "openapi_extra": {"requestBody": BODY}}
    app.add_api_route("/predict", service.predict, response_model=PredictAnswer, **sends)
    app.add_api_route("/explain", service.explain, response_model=ExplainAnswer, **sends)
    app.add_exception_handler(RefusedError, _refused)
    app.add_exception_handler(BusyError, _busy)
    app.add_exception_handler(HTTPException, _no_such_thing)
    app.add_exception_handler(Exception, _failed)
    return Guard(app, settings)


def _as_json(answer: BaseModel) -> Response:
    return Response(answer.model_dump_json(), media_type="application/json")


# ---- What goes wrong, in sentences ----


def _says(status: int, sentence: str, **headers: str) -> JSONResponse:
    return JSONResponse({"error": sentence}, status, headers={**HEADERS, **headers})


async def _refused(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RefusedError)
    return _says(error.status, error.sentence, Connection="close")  # what is left of its body is not read


async def _busy(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, BusyError)
    return _says(503, "Too many images are waiting: send this again in a few seconds.", **{"Retry-After": "2"})


async def _no_such_thing(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    place = shown(f"{request.method} {request.url.path}")
    if error.status_code in (404, 405):
        words = "GET /, /health, /model, /card, /openapi.json; POST /predict, /explain"
        return _says(error.status_code, f"There is nothing at {place}: there is {words}.")
    return _says(error.status_code, f"{place} is refused: {printable(str(error.detail))}.")


async def _failed(request: Request, error: Exception) -> JSONResponse:
    LOG.error("%s %s failed", request.method, printable(request.url.path), exc_info=error)
    return _says(500, "Something went wrong in this server; its own log says what.")


class Guard:
    """What every request passes: other sites are kept out, and every answer carries the page's policy.

    Args:
        app: Answers what passes.
        settings: Whether other names of this machine are refused.
    """

    def __init__(self, app: ASGIApp, settings: ServiceSettings) -> None:
        self._app, self._only_local = app, settings.only_local
        policy = {**HEADERS, "Content-Security-Policy": page_policy()}
        self._policy = [(name.lower().encode(), value.encode()) for name, value in policy.items()]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse or pass on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return

        async def with_policy(message: Message) -> None:
            """Add the policy to the headers of an answer."""
            if message["type"] == "http.response.start":
                known = {name for name, _ in message["headers"]}
                message["headers"] = [*message["headers"], *(one for one in self._policy if one[0] not in known)]
            await send(message)

        refused = self._refused(Request(scope))
        await (refused or self._app)(scope, receive, with_policy)

    def _refused(self, request: Request) -> JSONResponse | None:
        """Return why a request is not passed on; None where it is."""
        if len(request.scope.get("raw_path", b"")) + len(request.scope.get("query_string", b"")) > MAX_ADDRESS_BYTES:
            return _says(414, f"This address is too long: {MAX_ADDRESS_BYTES:,} bytes are read.", Connection="close")
        if sum(len(name) + len(value) for name, value in request.headers.raw) > MAX_HEADER_BYTES:
            return _says(431, f"These headers are too long: {MAX_HEADER_BYTES:,} bytes are read.", Connection="close")
        name = (request.headers.get("host") or "").rsplit(":", 1)[0] if self._only_local else LOCAL_NAMES[0]
        if name.lower() not in LOCAL_NAMES:
            return _says(403, f"This server answers to {' and '.join(LOCAL_NAMES[:2])}, and not to {shown(name)}.")
        if request.headers.get("sec-fetch-site") == "cross-site" and request.method != "GET":
            return _says(403, "Pages of other sites may not send images here.")
        return None
