"""FastAPI's own refusals in the form of all others: `{"error": "…"}`."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

MAX_INPUT_CHARS = 80  # letters of what was sent


def install_error_handlers(app: FastAPI) -> None:
    """Have an application tell in one form what it does not serve."""
    app.add_exception_handler(HTTPException, _handle_http_error)
    app.add_exception_handler(RequestValidationError, _handle_validation_error)


async def _handle_http_error(_: Request, error: Exception) -> Response:
    """No such path, no such method, and what routes say so of."""
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


async def _handle_validation_error(_: Request, error: Exception) -> Response:
    """A parameter or a field that is missing, or of another kind."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    sent = first.get("input")
    got = f"; got {ascii(sent)[:MAX_INPUT_CHARS]}" if isinstance(sent, str | int | float) else ""
    return JSONResponse({"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}{got}."}, 422)
