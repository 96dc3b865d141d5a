"""The application: every route of the server, thin functions over the batcher."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from importlib.resources import files
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from bestiary.batches.preprocess import Preprocessing
from bestiary.errors import PictureError
from bestiary.inference.predictor import Predictor
from bestiary.picture import DecodeLimits
from bestiary.serve import open_inference
from bestiary.serve.batching import Batcher, BusyError, Outcome, Picture
from bestiary.serve.request_body import Asked, pictures_in
from bestiary.version import __version__
from bestiary.web.error_handlers import install_error_handlers
from bestiary.web.guard import RequestGuard, RequestRejectedError
from bestiary.web.metrics import CONTENT_TYPE, ServerMetrics
from bestiary.web.settings import ServerSettings

PAGE = {"serve.css": "text/css", "serve.js": "text/javascript", "docs.js": "text/javascript"}
TOO_MUCH = "Too large: more bytes, pixels or pictures than are taken."


class Failure(BaseModel):
    """Why a request was not served."""

    error: str


class Answer(BaseModel):
    """The answer for one picture; where `error` says why it could not be read, there is no label."""

    name: str | None = Field(description="as it was sent")
    label: str | None
    probability: float = Field(description="of the label, calibrated")
    unknown: bool = Field(description="like none of the classes: the label is only the nearest")
    familiarity: float = Field(description="how much it is like the pictures learned from, 0 to 1")
    probabilities: dict[str, float]
    error: str | None
    heatmap: list[list[float]] | None = Field(None, description="what each place adds to the evidence for the label")


class Answers(BaseModel):
    """One answer for each picture, in order."""

    predictions: list[Answer]


class About(BaseModel):
    """The model that answers."""

    name: str
    classes: list[str]
    size: int = Field(description="pixels of each side of what the model sees")
    fit: str = Field(description="how a picture gets there: squash, letterbox or crop")
    method: str
    backbone: str
    bestiary: str
    max_bytes: int
    max_pictures: int


FAILURES: dict[int | str, dict[str, Any]] = {
    400: {"model": Failure, "description": "Not what the protocol says."},
    401: {"model": Failure, "description": "The token is missing or wrong."},
    403: {"model": Failure, "description": "Asked by a page of another site."},
    408: {"model": Failure, "description": "The request took too long to arrive."},
    413: {"model": Failure, "description": TOO_MUCH},
    415: {"model": Failure, "description": "A content type that is not taken."},
    421: {"model": Failure, "description": "Asked by a name that is not this server's."},
    422: {"model": Failure, "description": "No picture, or one that cannot be read."},
    503: {"model": Failure, "description": "Too busy; Retry-After says when to come back."},
}
BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "required": ["picture"],
                    "properties": {"picture": {"type": "array", "items": {"type": "string", "format": "binary"}}},
                }
            },
            "application/json": {"schema": Asked.model_json_schema(ref_template="#/components/schemas/{model}")},
            "image/*": {"schema": {"type": "string", "format": "binary"}},
        },
    }
}
TENSORS = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["inputs"],
                    "properties": {
                        "id": {"type": "string"},
                        "inputs": {"type": "array", "minItems": 1, "maxItems": 1, "items": {"type": "object"}},
                        "outputs": {"type": "array", "items": {"type": "object"}},
                    },
                }
            }
        },
    }
}


@dataclass
class Service:
    """What the routes share: the model, its queue, its figures."""

    predictor: Predictor
    name: str
    settings: ServerSettings
    batcher: Batcher
    metrics: ServerMetrics
    is_open: bool = True

    async def outcomes(self, pictures: Sequence[Picture]) -> list[Outcome]:
        """Return an answer or an error for each picture. Raises RefusedError when there is no room or no time."""
        try:
            async with asyncio.timeout(self.settings.seconds):
                found = await self.batcher.answers(pictures)
        except BusyError as busy:
            raise RequestRejectedError(503, str(busy), Retry_After=str(busy.seconds)) from None
        except TimeoutError:
            raise RequestRejectedError(503, f"No answer within {self.settings.seconds:g} s.", Retry_After="5") from None
        for one in found:
            self.metrics.pictures.labels(_outcome(one)).inc()
        return found


def create_app(predictor: Predictor, settings: ServerSettings, name: str) -> FastAPI:
    """Return the application that serves this model; `name` is what the protocol and the page call it."""
    limits = DecodeLimits(settings.max_bytes, min(settings.max_pixels, predictor.bundle.max_pixels))
    view = Preprocessing(predictor.bundle.size, predictor.bundle.fit, limits)
    sizes: list[ServerMetrics] = []
    batcher = Batcher(
        predictor, view, max_waiting=settings.max_waiting, told=lambda size: sizes[0].batches.observe(size)
    )
    metrics = ServerMetrics(lambda: batcher.waiting)
    sizes.append(metrics)
    service = Service(predictor, name, settings, batcher, metrics)

    @asynccontextmanager
    async def running(_: FastAPI) -> AsyncIterator[None]:
        yield
        service.is_open = False
        await asyncio.to_thread(batcher.close)

    app = FastAPI(
        title="bestiary",
        version=__version__,
        description="Names what is in pictures, or says that it is not sure.",
        docs_url=None,  # FastAPI's page loads its scripts from a CDN; ours is /docs
        redoc_url=None,
        lifespan=running,
    )
    app.add_middleware(RequestGuard, settings=settings, metrics=metrics)
    install_error_handlers(app)
    app.add_exception_handler(Exception, _failed)
    _add_pages(app, asks_for_token=settings.token is not None)
    _add_answers(app, service)
    _add_protocol(app, service)
    return app


async def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"The server failed: {type(error).__name__}. Its log says more."}, 500)


def _add_pages(app: FastAPI, *, asks_for_token: bool) -> None:
    """Add the pages and what they load; they are read once, so no request names a file."""
    templates = files("bestiary.serve") / "templates"
    base = (files("bestiary.web") / "style.css").read_text(encoding="utf-8")

    def add(path: str, content: str, kind: str) -> None:
        answer = Response(content, media_type=f"{kind}; charset=utf-8", headers={"Cache-Control": "no-cache"})

        @app.get(path, include_in_schema=False)
        async def shown() -> Response:
            return answer

    page = (templates / "serve.html").read_text(encoding="utf-8")
    add("/", page.replace("<body>", "<body data-token>") if asks_for_token else page, "text/html")
    add("/docs", (templates / "docs.html").read_text(encoding="utf-8"), "text/html")
    for file, kind in PAGE.items():
        add(f"/page/{file}", (templates / file).read_text(encoding="utf-8"), kind)
    add("/page/style.css", base, "text/css")


def _add_answers(app: FastAPI, service: Service) -> None:
    bundle, settings = service.predictor.bundle, service.settings

    @app.get("/model", response_model=About, responses={k: FAILURES[k] for k in (401, 421)}, summary="The model")
    async def model() -> Response:
        about = About(
            name=service.name,
            classes=list(bundle.classes),
            size=bundle.size,
            fit=bundle.fit,
            method=bundle.method,
            backbone=bundle.backbone,
            bestiary=__version__,
            max_bytes=settings.max_bytes,
            max_pictures=settings.max_pictures,
        )
        return JSONResponse(about.model_dump())

    @app.post(
        "/predict",
        response_model=Answers,
        responses={code: FAILURES[code] for code in FAILURES if code != 400},
        openapi_extra=BODY,
        summary="Name what is in pictures",
    )
    async def predict(
        request: Request,
        heatmap: Annotated[bool, Query(description="where the evidence lies, too")] = False,
        each: Annotated[bool, Query(description="an answer for each picture, also where none can be read")] = False,
    ) -> Response:
        """Take pictures as a form's files, as base64 in JSON, or one as the body itself.

        One that cannot be read is refused with 422; among several, or with `each`, it has an error in its place.
        """
        sent = await pictures_in(request, at_most=settings.max_pictures)
        found = await service.outcomes([one.content for one in sent])
        if not each and all(isinstance(one, PictureError) for one in found):
            raise _refused(found[0])
        shown = [_shown(one.name, outcome, heatmap=heatmap) for one, outcome in zip(sent, found, strict=True)]
        return JSONResponse({"predictions": shown})

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}}, summary="Figures for Prometheus")
    async def metrics() -> Response:
        return Response(service.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


def _add_protocol(app: FastAPI, service: Service) -> None:
    size, classes = service.predictor.bundle.size, service.predictor.classes
    wrong: dict[int | str, dict[str, Any]] = {404: {"model": Failure, "description": "Not the model that is served."}}

    def check(name: str, version: str = open_inference.VERSION) -> None:
        if name != service.name or version != open_inference.VERSION:
            raise HTTPException(404, f"There is no model {name}, version {version}; this server has {service.name}, 1.")

    @app.get("/v2", summary="About the server")
    async def server() -> dict[str, Any]:
        return {"name": "bestiary", "version": __version__, "extensions": open_inference.EXTENSIONS}

    @app.get("/v2/health/live", summary="Whether the server runs")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready", responses={503: FAILURES[503]}, summary="Whether it takes requests")
    async def ready() -> Response:
        return JSONResponse({"ready": service.is_open}, 200 if service.is_open else 503)

    @app.get("/v2/models/{name}/versions/{version}/ready", responses=wrong, include_in_schema=False)
    @app.get("/v2/models/{name}/ready", responses=wrong, summary="Whether the model takes requests")
    async def model_ready(name: str, version: str = open_inference.VERSION) -> dict[str, Any]:
        check(name, version)
        return {"name": name, "ready": service.is_open}

    @app.get("/v2/models/{name}/versions/{version}", responses=wrong, include_in_schema=False)
    @app.get("/v2/models/{name}", responses=wrong, summary="Inputs and outputs of the model")
    async def model_metadata(name: str, version: str = open_inference.VERSION) -> dict[str, Any]:
        check(name, version)
        return open_inference.metadata(name, classes, size)

    @app.post("/v2/models/{name}/versions/{version}/infer", responses=wrong | FAILURES, include_in_schema=False)
    @app.post(
        "/v2/models/{name}/infer",
        responses=wrong | FAILURES,
        openapi_extra=TENSORS,
        summary="Open Inference Protocol v2",
    )
    async def infer(request: Request, name: str, version: str = open_inference.VERSION) -> Response:
        check(name, version)
        length, most = request.headers.get(open_inference.LENGTH_HEADER), service.settings.max_pictures
        asked = open_inference.read(await request.body(), length, size=size, at_most=most)
        found = await service.outcomes(asked.pictures)
        answers = []
        for one in found:
            if isinstance(one, PictureError):
                raise _refused(one)
            answers.append(one)
        body, headers = open_inference.respond(asked, answers, service.name, classes)
        return Response(body, headers=headers)


def _refused(one: Outcome) -> RequestRejectedError:
    assert isinstance(one, PictureError)
    return RequestRejectedError(413 if one.check == "huge" else 422, str(one))


def _shown(name: str | None, one: Outcome, *, heatmap: bool) -> dict[str, Any]:
    if isinstance(one, PictureError):
        empty: dict[str, Any] = {
            "label": None,
            "probability": 0.0,
            "unknown": True,
            "familiarity": 0.0,
            "probabilities": {},
        }
        return {"name": name, **empty, "error": str(one), "heatmap": None}
    shown = {**one.line(), "name": name}
    del shown["path"]
    grid = one.heatmap if heatmap else None
    return shown | {"heatmap": None if grid is None else [[round(float(x), 5) for x in line] for line in grid]}


def _outcome(one: Outcome) -> str:
    if isinstance(one, PictureError):
        return "unreadable"
    return "unknown" if one.unknown else "named"
