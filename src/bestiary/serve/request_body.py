"""From the body of a request to pictures: multipart, JSON with base64, or the bytes of one file."""

from __future__ import annotations

import base64
import binascii
from collections.abc import AsyncGenerator
from dataclasses import dataclass

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import Request

from bestiary.text import printable
from bestiary.web.guard import RequestRejectedError

UPLOAD_HINT = (
    "Send multipart/form-data with files, application/json with base64, or the bytes of one picture as image/*."
)


@dataclass(frozen=True)
class UploadedPicture:
    """One picture as it came. `name` is only handed back: nothing is ever opened by it."""

    name: str | None
    content: bytes


class Base64Picture(BaseModel):
    """A picture in base64."""

    model_config = ConfigDict(extra="forbid")

    data: str = Field(description="the bytes of the file in base64, with or without data:image/…;base64, before them")
    name: str | None = Field(None, description="handed back with the answer")


class PredictRequest(BaseModel):
    """Pictures to be named, in JSON."""

    model_config = ConfigDict(extra="forbid")

    pictures: list[Base64Picture | str] = Field(
        min_length=1, description="each a base64 text, or an object with a name"
    )


class _InMemory(MultiPartParser):
    spool_max_size = 2**31  # the body is in memory already, and limited: no file is needed


async def read_pictures(request: Request, *, max_pictures: int) -> list[UploadedPicture]:
    """Return the pictures of a request. Raises RefusedError if there are none, too many, or they are not sent right."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "multipart/form-data":
        sent = await _read_form(request, max_pictures)
    elif kind == "application/json":
        sent = _parse_json(await request.body())
    elif kind.startswith("image/") or kind == "application/octet-stream":
        sent = [UploadedPicture(None, await request.body())]
    else:
        raise RequestRejectedError(415, f'The content type is "{kind}". {UPLOAD_HINT}')
    if len(sent) > max_pictures:
        raise RequestRejectedError(
            413, f"The request has {len(sent):,} pictures; at most {max_pictures} are taken at once."
        )
    return sent


async def _read_form(request: Request, max_pictures: int) -> list[UploadedPicture]:
    try:
        form = await _InMemory(
            request.headers, _iter_body(await request.body()), max_files=max_pictures, max_fields=8
        ).parse()
    except (MultiPartException, UnicodeError) as error:  # a form may name a charset that its names are not in
        raise RequestRejectedError(422, f"The form cannot be read: {error}") from None
    try:
        files = [part for _, part in form.multi_items() if isinstance(part, UploadFile)]
        if not files:
            raise RequestRejectedError(422, "The form has no file. In curl: -F picture=@cat.jpg")
        return [UploadedPicture(printable(file.filename or "") or None, await file.read()) for file in files]
    finally:
        await form.close()


async def _iter_body(body: bytes) -> AsyncGenerator[bytes, None]:
    yield body


def _parse_json(body: bytes) -> list[UploadedPicture]:
    try:
        asked = PredictRequest.model_validate_json(body)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"])) or "the body"
        raise RequestRejectedError(422, f'{where}: {first["msg"]}. Expected {{"pictures": ["BASE64", …]}}.') from None
    return [
        _decode_base64_picture(Base64Picture(data=one, name=None) if isinstance(one, str) else one)
        for one in asked.pictures
    ]


def _decode_base64_picture(encoded: Base64Picture) -> UploadedPicture:
    return UploadedPicture(encoded.name, from_base64(encoded.data))


def from_base64(text: str) -> bytes:
    """Return the bytes; raises RefusedError if the text is not base64."""
    head, comma, rest = text.partition(",")
    try:
        return base64.b64decode(rest if comma and head.startswith("data:") else text, validate=True)
    except (binascii.Error, ValueError):
        raise RequestRejectedError(422, "A picture is not valid base64.") from None
