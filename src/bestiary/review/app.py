"""The routes of the review page: thin functions over the desk. No request names a file."""

from __future__ import annotations

from collections.abc import Callable
from importlib.resources import files
from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from bestiary.errors import PictureError, UserError
from bestiary.review.review_session import ReviewSession
from bestiary.web.error_handlers import install_error_handlers
from bestiary.web.guard import RequestGuard
from bestiary.web.metrics import ServerMetrics
from bestiary.web.settings import ServerSettings

PAGE = {
    "/": ("review.html", "text/html"),
    "/page/style.css": ("style.css", "text/css"),
    "/page/review.css": ("review.css", "text/css"),
    "/page/review.js": ("review.js", "text/javascript"),
}
CACHE_SECONDS = 3600


class DecisionRequest(BaseModel):
    """What a reviewer decides about one item."""

    row: int
    action: Literal["keep", "drop", "relabel"]
    label: str = Field("", max_length=500)
    note: str = Field("", max_length=2000)
    tab: str = Field("", max_length=100)


class UndoRequest(BaseModel):
    """Which tab of the browser takes back its last decision."""

    tab: str = Field("", max_length=100)


def create_app(session: ReviewSession, settings: ServerSettings) -> FastAPI:
    """Return the application of the review page; every request but for the empty page needs the token of `settings`."""
    app = FastAPI(title="bestiary review", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(RequestGuard, settings=settings, metrics=ServerMetrics(lambda: 0))
    install_error_handlers(app)
    app.add_exception_handler(UserError, _handle_user_error)
    for path, (file, kind) in PAGE.items():
        folder = files("bestiary.web") if file == "style.css" else files("bestiary.review") / "templates"
        content = (folder / file).read_text(encoding="utf-8")
        app.get(path)(_make_page_route(content, kind))
    _add_routes(app, session)
    return app


def _add_routes(app: FastAPI, session: ReviewSession) -> None:
    @app.get("/overview")
    def overview() -> dict[str, Any]:
        return session.overview()

    @app.get("/decisions")
    def decisions() -> dict[str, Any]:
        return {"decisions": session.decisions_by_row()}

    @app.get("/opinion/{row}")
    def opinion(row: int) -> dict[str, Any]:
        if row not in session.items:
            raise HTTPException(404, f"There is nothing to review under number {row}.")
        return session.model_prediction(row)

    @app.get("/picture/{row}/{size}")
    def picture(row: int, size: Literal["large", "small"]) -> Response:
        try:
            content = session.picture(row, size)
        except LookupError:
            raise HTTPException(404, f"This run has no picture {row}.") from None
        except PictureError as error:
            raise HTTPException(410, str(error)) from None
        return Response(
            content, media_type="image/jpeg", headers={"Cache-Control": f"private, max-age={CACHE_SECONDS}"}
        )

    @app.post("/decide")
    def decide(asked: DecisionRequest) -> dict[str, Any]:
        if asked.row not in session.items:
            raise HTTPException(404, f"There is nothing to review under number {asked.row}.")
        session.decide(asked.row, asked.action, asked.label, asked.note, asked.tab)
        return {"decisions": session.decisions_by_row()}

    @app.post("/undo")
    def undo(asked: UndoRequest | None = None) -> dict[str, Any]:
        return {"row": session.undo(asked.tab if asked else ""), "decisions": session.decisions_by_row()}


def _make_page_route(content: str, kind: str) -> Callable[[], Response]:
    def page() -> Response:
        return Response(content, media_type=f"{kind}; charset=utf-8", headers={"Cache-Control": "no-cache"})

    return page


async def _handle_user_error(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 422)
