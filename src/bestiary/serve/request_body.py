"""Reads pictures from a request body: multipart form, JSON with base64, or the bytes of one file."""

from __future__ import annotations

import base64
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from pydantic import ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from bestiary.serve.schemas import Base64Picture, PredictRequest
from bestiary.text import printable
from bestiary.web.guard import RequestRejectedError

UPLOAD_HINT = (
    "Send multipart/form-data with files, application/json with base64, or the bytes of one picture as image/*."
)


@dataclass(frozen=True)
class UploadedPicture:
    """A picture of a request. `name` is only returned with the prediction: no file of that name is opened."""

    name: str | None
    content: bytes


class _InMemoryParser(MultiPartParser):
    spool_max_size = 2**31  # the body is in memory already, and limited: no temporary file is needed


async def read_pictures(request: Request, *, max_pictures: int) -> list[UploadedPicture]:
    """Return the pictures of a request. Raises RequestRejectedError for none, too many, or a malformed body."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        uploads = await _read_form(request, max_pictures)
    elif kind == "application/json":
        uploads = _parse_json(await request.body())
    elif kind.startswith("image/") or kind == "application/octet-stream":
        uploads = [UploadedPicture(None, await request.body())]
    else:
        raise RequestRejectedError(415, f'Unsupported content type "{kind}". {UPLOAD_HINT}')
    if len(uploads) > max_pictures:
        raise RequestRejectedError(413, f"Too many pictures: {len(uploads):,}. Send at most {max_pictures} a request.")
    return uploads


async def _read_form(request: Request, max_pictures: int) -> list[UploadedPicture]:
    chunks = _iter_body(await request.body())
    try:
        form = await _InMemoryParser(request.headers, chunks, max_files=max_pictures, max_fields=8).parse()
    except (MultiPartException, UnicodeError) as error:  # a form may name a charset that its names are not in
        raise RequestRejectedError(422, f"The form cannot be parsed: {error}") from None
    try:
        files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        if not files:
            raise RequestRejectedError(422, "The form has no file. In curl: -F picture=@picture.jpg")
        return [UploadedPicture(printable(file.filename or "") or None, await file.read()) for file in files]
    finally:
        await form.close()


async def _iter_body(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


def _parse_json(body: bytes) -> list[UploadedPicture]:
    try:
        pictures = PredictRequest.model_validate_json(body).pictures
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        field = ".".join(map(str, first["loc"])) or "the body"
        raise RequestRejectedError(422, f'{field}: {first["msg"]}. Expected {{"pictures": ["BASE64", …]}}.') from None
    objects = [Base64Picture(data=picture, name=None) if isinstance(picture, str) else picture for picture in pictures]
    return [UploadedPicture(picture.name, from_base64(picture.data)) for picture in objects]


def from_base64(text: str) -> bytes:
    """Return the decoded bytes of base64 or of a data URL; raises RequestRejectedError if it is malformed."""
    head, comma, rest = text.partition(",")
    try:
        return base64.b64decode(rest if comma and head.startswith("data:") else text, validate=True)
    except ValueError:
        raise RequestRejectedError(422, "A picture is not valid base64.") from None
