"""The application of the review page: thin routes over the session. No request names a file."""

from __future__ import annotations

from typing import Any, Literal

from fastapi import FastAPI, Request, Response
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from bestiary.errors import PictureError, UserError
from bestiary.review.review_session import ReviewDecision, ReviewSession
from bestiary.web.error_handlers import install_error_handlers
from bestiary.web.guard import RequestGuard
from bestiary.web.metrics import ServerMetrics
from bestiary.web.pages import add_pages
from bestiary.web.settings import ServerSettings

CACHE_SECONDS = 3600


class _Decision(BaseModel):
    action: Literal["keep", "drop", "relabel", "both"]
    label: str = Field("", max_length=500)
    note: str = Field("", max_length=2000)
    tab: str = Field("", max_length=100)
    is_new: bool = False

    def decision(self) -> ReviewDecision:
        return ReviewDecision(self.action, self.label, self.note, self.tab, self.is_new)


class DecisionRequest(_Decision):
    """A reviewer's decision about one item."""

    row: int


class BulkRequest(_Decision):
    """The same decision about several items."""

    rows: list[int] = Field(min_length=1, max_length=1_000_000)


class UndoRequest(BaseModel):
    """The browser tab whose last decision is undone."""

    tab: str = Field("", max_length=100)


def create_app(session: ReviewSession, settings: ServerSettings) -> FastAPI:
    """Return the application of the review page; every request except for the empty page needs the token."""
    app = FastAPI(title="bestiary review", docs_url=None, redoc_url=None, openapi_url=None)
    app.add_middleware(RequestGuard, settings=settings, metrics=ServerMetrics())
    install_error_handlers(app)
    app.add_exception_handler(UserError, _handle_user_error)
    add_pages(app, "bestiary.review", {"/": "review.html"}, ("review.css", "review.js"))
    _add_routes(app, session)
    return app


def _add_routes(app: FastAPI, session: ReviewSession) -> None:
    def check_row(row: int) -> None:
        if row not in session.items:
            raise HTTPException(404, f"There is nothing to review under number {row}.")

    @app.get("/overview")
    def overview() -> dict[str, Any]:
        return session.overview()

    @app.get("/decisions")
    def decisions() -> dict[str, Any]:
        return {"decisions": session.decisions_by_row()}

    @app.get("/opinion/{row}")
    def prediction(row: int) -> dict[str, Any]:
        check_row(row)
        return session.model_prediction(row)

    @app.get("/picture/{row}/{size}")
    def picture(row: int, size: Literal["large", "small"]) -> Response:
        try:
            content = session.picture(row, size)
        except LookupError:
            raise HTTPException(404, f"This run has no picture {row}.") from None
        except PictureError as error:
            raise HTTPException(410, str(error)) from None
        headers = {"Cache-Control": f"private, max-age={CACHE_SECONDS}"}
        return Response(content, media_type="image/jpeg", headers=headers)

    @app.post("/decide")
    def decide(request: DecisionRequest) -> dict[str, Any]:
        check_row(request.row)
        session.decide([request.row], request.decision())
        return {"decisions": session.decisions_by_row()}

    @app.post("/decide-all")
    def decide_all(request: BulkRequest) -> dict[str, Any]:
        for row in request.rows:
            check_row(row)
        session.decide(request.rows, request.decision())
        return {"decisions": session.decisions_by_row()}

    @app.post("/undo")
    def undo(request: UndoRequest | None = None) -> dict[str, Any]:
        return {"row": session.undo(request.tab if request else ""), "decisions": session.decisions_by_row()}


async def _handle_user_error(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, 422)
