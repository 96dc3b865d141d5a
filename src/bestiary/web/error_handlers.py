"""FastAPI exception handlers: every error response has the form `{"error": "…"}`."""

from __future__ import annotations

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

MAX_INPUT_CHARS = 80  # of the invalid input that a message repeats


def install_error_handlers(app: FastAPI) -> None:
    """Install the handlers for HTTP errors (404, 405, …) and for invalid parameters (422)."""
    app.add_exception_handler(HTTPException, _handle_http_error)
    app.add_exception_handler(RequestValidationError, _handle_validation_error)


async def _handle_http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JSONResponse({"error": str(error.detail)}, error.status_code, error.headers)


async def _handle_validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    value = first.get("input")
    got = f"; got {ascii(value)[:MAX_INPUT_CHARS]}" if isinstance(value, str | int | float) else ""
    return JSONResponse({"error": f"{'.'.join(map(str, first['loc']))}: {first['msg']}{got}."}, 422)
