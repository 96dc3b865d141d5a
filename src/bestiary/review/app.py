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
from bestiary.review.review_session import Desk
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
KEPT_SECONDS = 3600


class Decision(BaseModel):
    """What a reviewer decides about one item."""

    row: int
    action: Literal["keep", "drop", "relabel"]
    label: str = Field("", max_length=500)
    note: str = Field("", max_length=2000)
    tab: str = Field("", max_length=100)


class Undo(BaseModel):
    """Which tab of the browser takes back its last decision."""

    tab: str = Field("", max_length=100)


def create_app(desk: Desk, settings: ServerSettings) -> FastAPI:
    """Return the application of the review page; every request but for the empty page needs the token of `settings`."""
    app = FastAPI(title="bestiary review", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(RequestGuard, settings=settings, metrics=ServerMetrics(lambda: 0))
    install_error_handlers(app)
    app.add_exception_handler(UserError, _refused)
    for path, (file, kind) in PAGE.items():
        folder = files("bestiary.web") if file == "style.css" else files("bestiary.review") / "templates"
        content = (folder / file).read_text(encoding="utf-8")
        app.get(path)(_page(content, kind))
    _add_routes(app, desk)
    return app


def _add_routes(app: FastAPI, desk: Desk) -> None:
    @app.get("/overview")
    def overview() -> dict[str, Any]:
        return desk.overview()

    @app.get("/decisions")
    def decisions() -> dict[str, Any]:
        return {"decisions": desk.decided()}

    @app.get("/opinion/{row}")
    def opinion(row: int) -> dict[str, Any]:
        if row not in desk.items:
            raise HTTPException(404, f"There is nothing to review under number {row}.")
        return desk.opinion(row)

    @app.get("/picture/{row}/{size}")
    def picture(row: int, size: Literal["large", "small"]) -> Response:
        try:
            content = desk.picture(row, size)
        except LookupError:
            raise HTTPException(404, f"This run has no picture {row}.") from None
        except PictureError as error:
            raise HTTPException(410, str(error)) from None
        return Response(content, media_type="image/jpeg", headers={"Cache-Control": f"private, max-age={KEPT_SECONDS}"})

    @app.post("/decide")
    def decide(asked: Decision) -> dict[str, Any]:
        if asked.row not in desk.items:
            raise HTTPException(404, f"There is nothing to review under number {asked.row}.")
        desk.decide(asked.row, asked.action, asked.label, asked.note, asked.tab)
        return {"decisions": desk.decided()}

    @app.post("/undo")
    def undo(asked: Undo | None = None) -> dict[str, Any]:
        return {"row": desk.undo(asked.tab if asked else ""), "decisions": desk.decided()}


def _page(content: str, kind: str) -> Callable[[], Response]:
    def page() -> Response:
        return Response(content, media_type=f"{kind}; charset=utf-8", headers={"Cache-Control": "no-cache"})

    return page


async def _refused(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 422)
