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
from bestiary.serve.batching import Batcher, Outcome, Picture, QueueFullError
from bestiary.serve.request_body import PredictRequest, read_pictures
from bestiary.version import __version__
from bestiary.web.error_handlers import install_error_handlers
from bestiary.web.guard import RequestGuard, RequestRejectedError
from bestiary.web.metrics import CONTENT_TYPE, ServerMetrics
from bestiary.web.settings import ServerSettings

PAGE = {"serve.css": "text/css", "serve.js": "text/javascript", "docs.js": "text/javascript"}
TOO_LARGE_MESSAGE = "Too large: more bytes, pixels or pictures than are taken."


class ErrorResponse(BaseModel):
    """Why a request was not served."""

    error: str


class PredictionResponse(BaseModel):
    """The answer for one picture; where `error` says why it could not be read, there is no label."""

    name: str | None = Field(description="as it was sent")
    label: str | None
    probability: float = Field(description="of the label, calibrated")
    unknown: bool = Field(description="like none of the classes: the label is only the nearest")
    familiarity: float = Field(description="how much it is like the pictures learned from, 0 to 1")
    probabilities: dict[str, float]
    error: str | None
    heatmap: list[list[float]] | None = Field(None, description="what each place adds to the evidence for the label")


class PredictResponse(BaseModel):
    """One answer for each picture, in order."""

    predictions: list[PredictionResponse]


class ModelInfo(BaseModel):
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


ERROR_RESPONSES: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorResponse, "description": "Not what the protocol says."},
    401: {"model": ErrorResponse, "description": "The token is missing or wrong."},
    403: {"model": ErrorResponse, "description": "Asked by a page of another site."},
    408: {"model": ErrorResponse, "description": "The request took too long to arrive."},
    413: {"model": ErrorResponse, "description": TOO_LARGE_MESSAGE},
    415: {"model": ErrorResponse, "description": "A content type that is not taken."},
    421: {"model": ErrorResponse, "description": "Asked by a name that is not this server's."},
    422: {"model": ErrorResponse, "description": "No picture, or one that cannot be read."},
    503: {"model": ErrorResponse, "description": "Too busy; Retry-After says when to come back."},
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
            "application/json": {
                "schema": PredictRequest.model_json_schema(ref_template="#/components/schemas/{model}")
            },
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
class ServerState:
    """What the routes share: the model, its queue, its figures."""

    predictor: Predictor
    name: str
    settings: ServerSettings
    batcher: Batcher
    metrics: ServerMetrics
    is_open: bool = True

    async def predict_pictures(self, pictures: Sequence[Picture]) -> list[Outcome]:
        """Return an answer or an error for each picture. Raises RefusedError when there is no room or no time."""
        try:
            async with asyncio.timeout(self.settings.seconds):
                found = await self.batcher.predict(pictures)
        except QueueFullError as busy:
            raise RequestRejectedError(503, str(busy), Retry_After=str(busy.seconds)) from None
        except TimeoutError:
            raise RequestRejectedError(503, f"No answer within {self.settings.seconds:g} s.", Retry_After="5") from None
        for one in found:
            self.metrics.pictures.labels(_outcome_label(one)).inc()
        return found


def create_app(predictor: Predictor, settings: ServerSettings, name: str) -> FastAPI:
    """Return the application that serves this model; `name` is what the protocol and the page call it."""
    limits = DecodeLimits(settings.max_bytes, min(settings.max_pixels, predictor.bundle.max_pixels))
    view = Preprocessing(predictor.bundle.size, predictor.bundle.fit, limits)
    sizes: list[ServerMetrics] = []
    batcher = Batcher(
        predictor, view, max_waiting=settings.max_waiting, on_batch=lambda size: sizes[0].batches.observe(size)
    )
    metrics = ServerMetrics(lambda: batcher.waiting)
    sizes.append(metrics)
    service = ServerState(predictor, name, settings, batcher, metrics)

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
    app.add_exception_handler(Exception, _handle_unexpected_error)
    _add_pages(app, asks_for_token=settings.token is not None)
    _add_predict_routes(app, service)
    _add_open_inference_routes(app, service)
    return app


async def _handle_unexpected_error(_: Request, error: Exception) -> Response:
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


def _add_predict_routes(app: FastAPI, state: ServerState) -> None:
    bundle, settings = state.predictor.bundle, state.settings

    @app.get(
        "/model", response_model=ModelInfo, responses={k: ERROR_RESPONSES[k] for k in (401, 421)}, summary="The model"
    )
    async def model() -> Response:
        about = ModelInfo(
            name=state.name,
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
        response_model=PredictResponse,
        responses={code: ERROR_RESPONSES[code] for code in ERROR_RESPONSES if code != 400},
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
        sent = await read_pictures(request, max_pictures=settings.max_pictures)
        found = await state.predict_pictures([one.content for one in sent])
        if not each and all(isinstance(one, PictureError) for one in found):
            raise _picture_error(found[0])
        shown = [_prediction_json(one.name, outcome, heatmap=heatmap) for one, outcome in zip(sent, found, strict=True)]
        return JSONResponse({"predictions": shown})

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}}, summary="Figures for Prometheus")
    async def metrics() -> Response:
        return Response(state.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


def _add_open_inference_routes(app: FastAPI, state: ServerState) -> None:
    size, classes = state.predictor.bundle.size, state.predictor.classes
    wrong: dict[int | str, dict[str, Any]] = {
        404: {"model": ErrorResponse, "description": "Not the model that is served."}
    }

    def check(name: str, version: str = open_inference.VERSION) -> None:
        if name != state.name or version != open_inference.VERSION:
            raise HTTPException(404, f"There is no model {name}, version {version}; this server has {state.name}, 1.")

    @app.get("/v2", summary="About the server")
    async def server() -> dict[str, Any]:
        return {"name": "bestiary", "version": __version__, "extensions": open_inference.EXTENSIONS}

    @app.get("/v2/health/live", summary="Whether the server runs")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready", responses={503: ERROR_RESPONSES[503]}, summary="Whether it takes requests")
    async def ready() -> Response:
        return JSONResponse({"ready": state.is_open}, 200 if state.is_open else 503)

    @app.get("/v2/models/{name}/versions/{version}/ready", responses=wrong, include_in_schema=False)
    @app.get("/v2/models/{name}/ready", responses=wrong, summary="Whether the model takes requests")
    async def model_ready(name: str, version: str = open_inference.VERSION) -> dict[str, Any]:
        check(name, version)
        return {"name": name, "ready": state.is_open}

    @app.get("/v2/models/{name}/versions/{version}", responses=wrong, include_in_schema=False)
    @app.get("/v2/models/{name}", responses=wrong, summary="Inputs and outputs of the model")
    async def model_metadata(name: str, version: str = open_inference.VERSION) -> dict[str, Any]:
        check(name, version)
        return open_inference.model_metadata(name, classes, size)

    @app.post("/v2/models/{name}/versions/{version}/infer", responses=wrong | ERROR_RESPONSES, include_in_schema=False)
    @app.post(
        "/v2/models/{name}/infer",
        responses=wrong | ERROR_RESPONSES,
        openapi_extra=TENSORS,
        summary="Open Inference Protocol v2",
    )
    async def infer(request: Request, name: str, version: str = open_inference.VERSION) -> Response:
        check(name, version)
        length, most = request.headers.get(open_inference.LENGTH_HEADER), state.settings.max_pictures
        asked = open_inference.parse_request(await request.body(), length, size=size, max_pictures=most)
        found = await state.predict_pictures(asked.pictures)
        answers = []
        for one in found:
            if isinstance(one, PictureError):
                raise _picture_error(one)
            answers.append(one)
        body, headers = open_inference.build_response(asked, answers, state.name, classes)
        return Response(body, headers=headers)


def _picture_error(outcome: Outcome) -> RequestRejectedError:
    assert isinstance(outcome, PictureError)
    return RequestRejectedError(413 if outcome.check == "huge" else 422, str(outcome))


def _prediction_json(name: str | None, outcome: Outcome, *, heatmap: bool) -> dict[str, Any]:
    if isinstance(outcome, PictureError):
        empty: dict[str, Any] = {
            "label": None,
            "probability": 0.0,
            "unknown": True,
            "familiarity": 0.0,
            "probabilities": {},
        }
        return {"name": name, **empty, "error": str(outcome), "heatmap": None}
    shown = {**outcome.line(), "name": name}
    del shown["path"]
    grid = outcome.heatmap if heatmap else None
    return shown | {"heatmap": None if grid is None else [[round(float(x), 5) for x in line] for line in grid]}


def _outcome_label(outcome: Outcome) -> str:
    if isinstance(outcome, PictureError):
        return "unreadable"
    return "unknown" if outcome.unknown else "named"
