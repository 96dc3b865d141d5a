"""Request and response models of the HTTP API, and the rest of its OpenAPI description."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class Base64Picture(BaseModel):
    """A picture in base64."""

    model_config = ConfigDict(extra="forbid")

    data: str = Field(description="the bytes of the file in base64, optionally after data:image/…;base64,")
    name: str | None = Field(None, description="returned with the prediction")


class PredictRequest(BaseModel):
    """Pictures to classify, in JSON."""

    model_config = ConfigDict(extra="forbid")

    pictures: list[Base64Picture | str] = Field(min_length=1, description="each a base64 string, or an object")


class ErrorResponse(BaseModel):
    """Why a request was rejected."""

    error: str


class PredictionResponse(BaseModel):
    """The prediction for one picture; if the picture cannot be read, `error` says why and there is no label."""

    name: str | None = Field(description="as in the request")
    label: str | None
    probability: float = Field(
        description="of the label, calibrated; it is not the highest if the label is chosen by cost"
    )
    unknown: bool = Field(
        description="unlike every class, or below the threshold of its class; the label is the nearest"
    )
    familiarity: float = Field(description="similarity to the training pictures, 0 to 1")
    probabilities: dict[str, float]
    error: str | None
    reason: str | None = Field(
        None, description='of a model with thresholds by class: "unfamiliar" or "below threshold", or empty'
    )
    heatmap: list[list[float]] | None = Field(
        None, description="evidence for the label at each position; null if not requested, or if the model has none"
    )


class PredictResponse(BaseModel):
    """One prediction for each picture, in order."""

    predictions: list[PredictionResponse]


class ModelInfo(BaseModel):
    """The model that is served, and the server's limits."""

    name: str
    classes: list[str]
    size: int = Field(description="side of the square model input in pixels")
    fit: str = Field(description="how a picture is resized to it: squash, letterbox or crop")
    method: str
    backbone: str
    calibration: str = Field(description="calibration of the probabilities on the run's test pictures, as a sentence")
    decision: str = Field(description="most probable class, or least expected cost")
    costs: list[list[float]] = Field(description="by true and predicted class; empty: the most probable class")
    class_thresholds: dict[str, float] = Field(description="by class, the least probability with which it is answered")
    no_heatmap: str = Field(description="why the model has no heatmaps; empty if it has")
    weights: dict[str, str] = Field(description="SHA-256, source and licence of the pretrained weights; empty without")
    bestiary: str
    max_bytes: int
    max_pictures: int


_BINARY = {"type": "string", "format": "binary"}
_PREDICT_BODIES = {
    "multipart/form-data": {
        "type": "object",
        "required": ["picture"],
        "properties": {"picture": {"type": "array", "items": _BINARY}},
    },
    "application/json": PredictRequest.model_json_schema(ref_template="#/components/schemas/{model}"),
    "image/*": _BINARY,
}
_INFER_BODIES = {
    "application/json": {
        "type": "object",
        "required": ["inputs"],
        "properties": {
            "id": {"type": "string"},
            "inputs": {"type": "array", "minItems": 1, "maxItems": 1, "items": {"type": "object"}},
            "outputs": {"type": "array", "items": {"type": "object"}},
        },
    }
}
PREDICT_BODY, INFER_BODY = (
    {"requestBody": {"required": True, "content": {kind: {"schema": schema} for kind, schema in bodies.items()}}}
    for bodies in (_PREDICT_BODIES, _INFER_BODIES)
)


_ERRORS = {
    400: "Not a valid request of the protocol.",
    401: "The token is missing or wrong.",
    403: "Cross-site request.",
    404: "Not the model that is served.",
    408: "Request timeout: the request took too long to arrive.",
    413: "Too large: more bytes, pixels or pictures than the limit.",
    415: "Unsupported content type.",
    421: "Host not allowed.",
    422: "No picture, or one that cannot be read.",
    503: "Overloaded; Retry-After gives the seconds to wait.",
}


def error_responses(*codes: int) -> dict[int | str, dict[str, Any]]:
    """Return the error responses of a route by status code; of all codes if none is given."""
    return {code: {"model": ErrorResponse, "description": _ERRORS[code]} for code in codes or _ERRORS}
