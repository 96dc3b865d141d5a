"""The application of the prediction server: thin routes over the batcher."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Annotated, Any

from fastapi import FastAPI, Query, Request, Response
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from bestiary.errors import PictureError
from bestiary.inference.predictor import Prediction, Predictor
from bestiary.picture import DecodeLimits
from bestiary.serve import open_inference
from bestiary.serve.batching import Batcher, Outcome, Picture, QueueFullError
from bestiary.serve.calibration_text import describe_probabilities
from bestiary.serve.request_body import read_pictures
from bestiary.serve.schemas import INFER_BODY, PREDICT_BODY, ModelInfo, PredictResponse, error_responses
from bestiary.version import __version__
from bestiary.web.error_handlers import install_error_handlers
from bestiary.web.guard import RequestGuard, RequestRejectedError
from bestiary.web.metrics import CONTENT_TYPE, ServerMetrics
from bestiary.web.pages import add_pages
from bestiary.web.settings import ServerSettings

HTML, ASSETS = {"/": "serve.html", "/docs": "docs.html"}, ("serve.css", "serve.js", "docs.js")


@dataclass
class ServerState:
    """What the routes share: the model, its request queue, the metrics."""

    predictor: Predictor
    name: str
    settings: ServerSettings
    batcher: Batcher
    metrics: ServerMetrics
    is_open: bool = True

    async def predict_pictures(self, pictures: Sequence[Picture]) -> list[Outcome]:
        """Return a prediction or an error for each picture.

        Raises RequestRejectedError (503) if the queue is full or the predictions take too long.
        """
        try:
            async with asyncio.timeout(self.settings.seconds):
                outcomes = await self.batcher.predict(pictures)
        except QueueFullError as error:
            raise RequestRejectedError(503, str(error), Retry_After=str(error.seconds)) from None
        except TimeoutError:
            message = f"Timeout: no prediction within {self.settings.seconds:g} s. Retry after 5 s."
            raise RequestRejectedError(503, message, Retry_After="5") from None
        for outcome in outcomes:
            self.metrics.pictures.labels(_outcome_label(outcome)).inc()
        return outcomes


def create_app(predictor: Predictor, settings: ServerSettings, name: str) -> FastAPI:
    """Return the application that serves this model; `name` is the model's name in the protocol and on the page."""
    limits = DecodeLimits(settings.max_bytes, min(settings.max_pixels, predictor.bundle.max_pixels))
    preprocess = replace(predictor.bundle.preprocess, limits=limits)
    metrics = ServerMetrics()
    batcher = Batcher(predictor, preprocess, max_waiting=settings.max_waiting, on_batch=metrics.batches.observe)
    metrics.waiting.set_function(lambda: batcher.waiting)
    state = ServerState(predictor, name, settings, batcher, metrics)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        state.is_open = False
        await asyncio.to_thread(batcher.close)

    app = FastAPI(
        title="bestiary",
        version=__version__,
        description="Classifies pictures, and marks those unlike every class as unknown.",
        docs_url=None,  # FastAPI's page loads its scripts from a CDN; ours is /docs
        redoc_url=None,
        lifespan=lifespan,
    )
    app.add_middleware(RequestGuard, settings=settings, metrics=metrics)
    install_error_handlers(app)
    app.add_exception_handler(Exception, _handle_unexpected_error)
    add_pages(app, "bestiary.serve", HTML, ASSETS, asks_for_token=settings.token is not None)
    _add_predict_routes(app, state)
    _add_open_inference_routes(app, state)
    return app


async def _handle_unexpected_error(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": f"Internal server error: {type(error).__name__}. See the server's log."}, 500)


def _add_predict_routes(app: FastAPI, state: ServerState) -> None:
    bundle, settings = state.predictor.bundle, state.settings
    boxes = state.predictor.bundle.describe_whole_pictures()
    calibration = " ".join(filter(None, (boxes, describe_probabilities(state.predictor.run))))

    @app.get("/model", responses=error_responses(401, 421), summary="Model and limits")
    async def model() -> ModelInfo:
        return ModelInfo(
            name=state.name,
            classes=list(bundle.classes),
            size=bundle.size,
            fit=bundle.fit,
            method=bundle.method,
            backbone=bundle.backbone,
            calibration=calibration,
            decision="least expected cost" if bundle.costs else "most probable class",
            costs=bundle.costs,
            class_thresholds={name: value["threshold"] for name, value in bundle.class_thresholds.items()},
            no_heatmap=bundle.explain_no_heatmap(),
            weights=bundle.weights,
            bestiary=__version__,
            max_bytes=settings.max_bytes,
            max_pictures=settings.max_pictures,
        )

    @app.post(
        "/predict",
        response_model=PredictResponse,
        responses=error_responses(401, 403, 408, 413, 415, 421, 422, 503),
        openapi_extra=PREDICT_BODY,
        summary="Classify pictures",
    )
    async def predict(
        request: Request,
        heatmap: Annotated[bool, Query(description="add a heatmap of the evidence")] = False,
        each: Annotated[bool, Query(description="respond with 200 even if no picture is readable")] = False,
    ) -> Response:
        """Take pictures as files of a form, as base64 in JSON, or one picture as the request body.

        An unreadable picture is rejected with 422; among several, or with `each`, its prediction has an error instead.
        """
        uploads = await read_pictures(request, max_pictures=settings.max_pictures)
        outcomes = await state.predict_pictures([upload.content for upload in uploads])
        errors = [outcome for outcome in outcomes if isinstance(outcome, PictureError)]
        if not each and len(errors) == len(outcomes):
            raise _picture_error(errors[0])
        pairs = zip(uploads, outcomes, strict=True)
        return JSONResponse(
            {"predictions": [_prediction_json(upload.name, outcome, heatmap=heatmap) for upload, outcome in pairs]}
        )

    @app.get("/metrics", responses={200: {"content": {"text/plain": {}}}}, summary="Prometheus metrics")
    async def metrics() -> Response:
        return Response(state.metrics.text(), headers={"Content-Type": CONTENT_TYPE})


def _add_open_inference_routes(app: FastAPI, state: ServerState) -> None:
    size, classes = state.predictor.bundle.size, state.predictor.classes
    no_model = error_responses(404)

    def check_model(name: str, version: str) -> None:
        if name != state.name or version != open_inference.VERSION:
            raise HTTPException(404, f"There is no model {name}, version {version}; this server has {state.name}, 1.")

    @app.get("/v2", summary="Server metadata")
    async def server() -> dict[str, Any]:
        return {"name": "bestiary", "version": __version__, "extensions": open_inference.EXTENSIONS}

    @app.get("/v2/health/live", summary="Liveness: whether the server runs")
    async def live() -> dict[str, bool]:
        return {"live": True}

    @app.get("/v2/health/ready", responses=error_responses(503), summary="Readiness: whether it accepts requests")
    async def ready() -> Response:
        return JSONResponse({"ready": state.is_open}, 200 if state.is_open else 503)

    @app.get("/v2/models/{name}/versions/{version}/ready", responses=no_model, include_in_schema=False)
    @app.get("/v2/models/{name}/ready", responses=no_model, summary="Model readiness")
    async def model_ready(name: str, version: str = open_inference.VERSION) -> dict[str, Any]:
        check_model(name, version)
        return {"name": name, "ready": state.is_open}

    @app.get("/v2/models/{name}/versions/{version}", responses=no_model, include_in_schema=False)
    @app.get("/v2/models/{name}", responses=no_model, summary="Model metadata: inputs and outputs")
    async def model_metadata(name: str, version: str = open_inference.VERSION) -> dict[str, Any]:
        check_model(name, version)
        return open_inference.model_metadata(name, classes, size)

    @app.post("/v2/models/{name}/versions/{version}/infer", responses=error_responses(), include_in_schema=False)
    @app.post(
        "/v2/models/{name}/infer",
        responses=error_responses(),
        openapi_extra=INFER_BODY,
        summary="Inference (Open Inference Protocol v2)",
    )
    async def infer(request: Request, name: str, version: str = open_inference.VERSION) -> Response:
        check_model(name, version)
        inference = open_inference.parse_request(
            await request.body(),
            request.headers.get(open_inference.LENGTH_HEADER),
            size=size,
            max_pictures=state.settings.max_pictures,
        )
        outcomes = await state.predict_pictures(inference.pictures)
        predictions = [outcome for outcome in outcomes if isinstance(outcome, Prediction)]
        for error in outcomes:
            if isinstance(error, PictureError):
                raise _picture_error(error)
        body, headers = open_inference.build_response(inference, predictions, state.name, classes)
        return Response(body, headers=headers)


def _picture_error(error: PictureError) -> RequestRejectedError:
    return RequestRejectedError(413 if error.check == "huge" else 422, str(error))


def _prediction_json(name: str | None, outcome: Outcome, *, heatmap: bool) -> dict[str, Any]:
    if isinstance(outcome, PictureError):
        outcome = Prediction(None, None, 0.0, True, 0.0, {}, error=str(outcome))
    fields = {key: value for key, value in outcome.line().items() if key != "path"}
    grid = outcome.heatmap.tolist() if heatmap and outcome.heatmap is not None else None
    return fields | {"name": name, "heatmap": grid and [[round(value, 5) for value in row] for row in grid]}


def _outcome_label(outcome: Outcome) -> str:
    if isinstance(outcome, PictureError):
        return "unreadable"
    return "unknown" if outcome.unknown else "named"
