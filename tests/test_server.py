"""The prediction server: every way to send a picture, every rejection, the queue, the Open Inference Protocol."""

from __future__ import annotations

import base64
import io
import json
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnx")

from starlette.testclient import TestClient

from bestiary.errors import PictureError, UserError
from bestiary.inference.predictor import Predictor
from bestiary.preprocess import Preprocessing
from bestiary.serve.app import create_app
from bestiary.serve.batching import Batcher, QueueFullError
from bestiary.serve.calibration_text import NOT_MEASURED
from bestiary.web import running
from bestiary.web.settings import ServerSettings
from tiny_model import COLOURS, RGB, SIZE, coloured, write_run

JPEG = {"Content-Type": "image/jpeg"}
HERE = "http://localhost"


@pytest.fixture(scope="module")
def predictor(tmp_path_factory: pytest.TempPathFactory) -> Predictor:
    return Predictor(write_run(tmp_path_factory.mktemp("model")), threads=2)


@pytest.fixture
def client(predictor: Predictor) -> Iterator[TestClient]:
    with TestClient(create_app(predictor, ServerSettings(), "colours"), base_url=HERE) as client:
        yield client


def limited(predictor: Predictor, **settings: Any) -> TestClient:
    return TestClient(create_app(predictor, ServerSettings(**settings), "colours"), base_url=HERE)


def form(*contents: bytes) -> list[tuple[str, tuple[str, bytes]]]:
    return [("picture", (f"{number}.png", content)) for number, content in enumerate(contents)]


def in_json(*contents: bytes) -> dict[str, list[str]]:
    return {"pictures": [base64.b64encode(content).decode() for content in contents]}


def bomb(side: int = 30_000) -> bytes:
    """A PNG of a few KB that would take gigabytes."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    )


# ---- Requests --------------------------------------------------------------------------------------------------------


def test_every_way_to_send_a_picture_gives_the_prediction_of_predict(client: TestClient, predictor: Predictor) -> None:
    red = coloured("red")
    expected = {key: value for key, value in predictor.predict(red).line().items() if key != "path"}
    ways = [
        client.post("/predict", files=form(red)),
        client.post("/predict", json=in_json(red)),
        client.post("/predict", json={"pictures": ["data:image/png;base64," + in_json(red)["pictures"][0]]}),
        client.post("/predict", json={"pictures": [{"name": "0.png", "data": in_json(red)["pictures"][0]}]}),
        client.post("/predict", content=red, headers=JPEG),
    ]
    for answer in ways:
        assert answer.status_code == 200, answer.text
        [prediction] = answer.json()["predictions"]
        assert {key: prediction[key] for key in expected} == expected
        assert prediction["heatmap"] is None
    assert [answer.json()["predictions"][0]["name"] for answer in ways] == ["0.png", None, None, "0.png", None]


def test_several_pictures_keep_their_order_with_an_error_for_an_unreadable_one(client: TestClient) -> None:
    answer = client.post("/predict", files=form(coloured("red"), b"no picture", coloured("blue"), coloured("grey")))
    predictions = answer.json()["predictions"]
    assert [prediction["label"] for prediction in predictions[:3]] == ["red", None, "blue"]
    assert [prediction["unknown"] for prediction in predictions] == [False, True, False, True]
    assert "not a picture" in predictions[1]["error"]
    alone = client.post("/predict?each=true", files=form(b"no picture"))
    assert (alone.status_code, alone.json()["predictions"][0]["label"]) == (200, None)


def test_the_heatmap_is_returned_on_request(client: TestClient, predictor: Predictor) -> None:
    [prediction] = client.post("/predict?heatmap=true", files=form(coloured("red"))).json()["predictions"]
    expected = predictor.predict(coloured("red")).heatmap
    assert expected is not None
    np.testing.assert_allclose(prediction["heatmap"], expected, atol=1e-5)


def test_concurrent_requests_are_each_answered(client: TestClient) -> None:
    wrong: list[str] = []

    def ask(number: int) -> None:
        name = COLOURS[number % 3]
        [prediction] = client.post("/predict", files=form(coloured(name))).json()["predictions"]
        if prediction["label"] != name:
            wrong.append(name)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_the_model_route_describes_the_model(client: TestClient) -> None:
    about = client.get("/model").json()
    assert (about["name"], about["classes"], about["size"], about["fit"]) == ("colours", list(COLOURS), SIZE, "squash")
    assert about["calibration"] == NOT_MEASURED  # no test scores beside this model


def test_the_metrics_count_pictures_and_requests(client: TestClient) -> None:
    client.post("/predict", files=form(coloured("red"), coloured("grey")))
    client.post("/predict", content=b"no picture", headers=JPEG)
    text = client.get("/metrics").text
    assert 'bestiary_pictures_total{outcome="named"} 1.0' in text
    assert 'bestiary_pictures_total{outcome="unknown"} 1.0' in text
    assert 'bestiary_pictures_total{outcome="unreadable"} 1.0' in text
    assert 'bestiary_requests_total{path="/predict",status="422"} 1.0' in text
    assert "bestiary_waiting_pictures 0.0" in text


@pytest.mark.parametrize(
    "path", ["/", "/docs", "/page/serve.js", "/page/serve.css", "/page/style.css", "/page/docs.js"]
)
def test_the_pages_load_nothing_from_other_sites(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert answer.status_code == 200
    assert "http://" not in answer.text.replace('href="data:,"', "")
    assert "https://" not in answer.text
    assert "default-src 'none'" in answer.headers["content-security-policy"]


# ---- Rejections ------------------------------------------------------------------------------------------------------

RED = coloured("red")
REJECTED: dict[str, tuple[dict[str, Any], int, str]] = {
    "nothing": ({"content": b"", "headers": JPEG}, 422, "empty"),
    "no picture": ({"content": b"hello", "headers": JPEG}, 422, "not a picture"),
    "half a picture": ({"content": RED[: len(RED) // 2], "headers": JPEG}, 422, "cannot be decoded"),
    "a bomb": ({"content": bomb(), "headers": JPEG}, 413, "pixels"),
    "another content type": ({"content": RED, "headers": {"Content-Type": "text/plain"}}, 415, "multipart"),
    "no content type": ({"content": RED}, 415, "multipart"),
    "an empty form": ({"data": {"picture": "red"}, "files": [("x", (None, "y"))]}, 422, "no file"),
    "half a form": (
        {"content": b"--x\r\nContent-Disp", "headers": {"Content-Type": "multipart/form-data; boundary=x"}},
        *(422, "form"),
    ),
    "a form without boundary": ({"content": b"x", "headers": {"Content-Type": "multipart/form-data"}}, 422, "boundary"),
    "no JSON": ({"content": b"{", "headers": {"Content-Type": "application/json"}}, 422, "Expected"),
    "other JSON": ({"json": {"images": []}}, 422, "pictures"),
    "no pictures": ({"json": {"pictures": []}}, 422, "pictures"),
    "no base64": ({"json": {"pictures": ["ä"]}}, 422, "base64"),
    "a path": ({"json": {"pictures": [{"name": "/etc/passwd", "path": "/etc/passwd"}]}}, 422, "pictures"),
    "too many": ({"files": form(*[RED] * 65)}, 422, "Too many files"),
    "too many in JSON": ({"json": in_json(*[RED] * 65)}, 413, "at most 64"),
    "an unknown charset": (
        {
            "content": b'--x\r\nContent-Disposition: form-data; name="a"; filename="a"\r\n\r\na\r\n--x--\r\n',
            "headers": {"Content-Type": "multipart/form-data; boundary=x; charset=undefined"},
        },
        *(422, "form"),
    ),
    "an invalid heatmap flag": (
        {"files": form(RED), "params": {"heatmap": "perhaps"}},
        422,
        "heatmap",
    ),
    "compressed": ({"content": RED, "headers": JPEG | {"Content-Encoding": "gzip"}}, 415, "compressed"),
}


@pytest.mark.parametrize(("request_", "status", "message"), REJECTED.values(), ids=REJECTED)
def test_an_invalid_request_is_rejected_with_a_reason(
    client: TestClient, request_: dict[str, Any], status: int, message: str
) -> None:
    answer = client.post("/predict", **request_)
    assert (answer.status_code, message in answer.json()["error"]) == (status, True), answer.text
    assert client.post("/predict", files=form(RED)).status_code == 200


def test_a_name_that_is_not_valid_text_is_escaped(client: TestClient) -> None:
    head = b'--x\r\nContent-Disposition: form-data; name="a"; filename="\\ud800.png"\r\n\r\n'
    kind = {"Content-Type": "multipart/form-data; boundary=x; charset=unicode_escape"}
    answer = client.post("/predict", content=head + RED + b"\r\n--x--\r\n", headers=kind)
    assert (answer.status_code, answer.json()["predictions"][0]["name"]) == (200, "\\ud800.png")
    body = tensor("pictures", "BYTES", [1], data=["eA=="]) | {"outputs": [{"name": "\ud800"}]}
    assert infer(client, body).status_code == 400


def test_a_body_is_rejected_by_its_content_length_and_by_its_size(predictor: Predictor) -> None:
    with limited(predictor, max_bytes=1000) as client:
        claimed = client.post("/predict", content=b"x", headers=JPEG | {"Content-Length": "2147483648"})
        assert (claimed.status_code, "2,147,483,648" in claimed.text) == (413, True)
        sent = client.post("/predict", content=iter([b"x" * 400] * 3), headers=JPEG)
        assert (sent.status_code, "1,200" in sent.text) == (413, True)
    with limited(predictor, max_held_bytes=100) as client:
        busy = client.post("/predict", content=b"x" * 101, headers=JPEG)
        assert (busy.status_code, busy.headers["retry-after"]) == (503, "1")


@pytest.mark.parametrize(
    "path", ["/nope", "/page/../app.py", "/page/serve.html", "/page//etc/passwd", "/v2/models/other"]
)
def test_other_paths_are_not_found(client: TestClient, path: str) -> None:
    answer = client.get(path)
    assert (answer.status_code, list(answer.json())) == (404, ["error"])


@pytest.mark.parametrize(
    ("host", "status"),
    [("localhost:8000", 200), ("127.0.0.1", 200), ("[::1]:80", 200), ("evil.example", 421), ("", 421), ("[", 421)],
)
def test_a_foreign_host_is_rejected(client: TestClient, host: str, status: int) -> None:
    assert client.get("/model", headers={"Host": host}).status_code == status


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Origin": "http://localhost", "Sec-Fetch-Site": "same-origin"}, 200),
        ({"Origin": "https://evil.example"}, 403),
        ({"Origin": "null"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Sec-Fetch-Site": "same-site"}, 403),
    ],
)
def test_a_cross_site_request_is_rejected(client: TestClient, headers: dict[str, str], status: int) -> None:
    assert client.post("/predict", files=form(RED), headers=headers).status_code == status


class _Bound:
    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 80


def test_a_public_server_needs_a_token() -> None:
    with pytest.raises(UserError, match="--token"):
        ServerSettings(host="0.0.0.0")
    assert not ServerSettings(host="0.0.0.0", token="x").is_local
    for token in ("", "two words", "schlüssel", "tab\t"):
        with pytest.raises(UserError, match="token"):
            ServerSettings(token=token)
    assert running.browser_url(_Bound(), ServerSettings(token="a#b&c")) == "http://127.0.0.1:80/#token=a%23b%26c"  # type: ignore[arg-type]
    assert ServerSettings(host="::1").is_local


def test_every_route_but_the_page_requires_the_token(predictor: Predictor) -> None:
    with limited(predictor, host="0.0.0.0", token="sesame") as client:
        valid = {"Authorization": "Bearer sesame"}
        for path in ("/", "/page/serve.js", "/docs", "/v2/health/live", "/v2/health/ready"):
            assert client.get(path).status_code == 200
        for path in ("/model", "/metrics", "/v2", "/v2/models/colours"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers=valid | {"Host": "any.example"}).status_code == 200
        for wrong in ("Bearer", "Bearer sesam", "Basic sesame", "Bearer \xe9"):
            refused = client.post("/predict", files=form(RED), headers={b"Authorization": wrong.encode("latin-1")})
            assert (refused.status_code, refused.headers["www-authenticate"]) == (401, "Bearer")
        assert client.post("/predict", files=form(RED), headers=valid).status_code == 200


# ---- The queue -------------------------------------------------------------------------------------------------------


class Slow:
    """A stand-in for a predictor that is slow, or fails."""

    threads = 2

    def __init__(self, predictor: Predictor) -> None:
        self._predictor, self.gate, self.fails = predictor, threading.Event(), False
        self.bundle, self.classes, self.run = predictor.bundle, predictor.classes, predictor.run

    def predict_many(self, images: Any) -> Iterator[Any]:
        self.gate.wait(10)
        if self.fails:
            raise RuntimeError("the engine is gone")
        yield from self._predictor.predict_many(images)


def test_a_full_queue_rejects_with_retry_after(predictor: Predictor) -> None:
    slow = Slow(predictor)
    app = create_app(slow, ServerSettings(max_waiting=3, seconds=10), "colours")  # type: ignore[arg-type]
    with TestClient(app, base_url=HERE) as client:
        answers: list[int] = []
        asking = [
            threading.Thread(target=lambda: answers.append(client.post("/predict", files=form(RED)).status_code))
            for _ in range(3)
        ]
        for thread in asking:
            thread.start()
        _until(lambda: "bestiary_waiting_pictures 3.0" in client.get("/metrics").text)
        refused = client.post("/predict", files=form(RED))
        assert refused.status_code == 503
        assert int(refused.headers["retry-after"]) >= 1
        slow.gate.set()
        for thread in asking:
            thread.join()
        assert answers == [200, 200, 200]
        assert client.post("/predict", files=form(RED)).status_code == 200


def test_a_slow_prediction_times_out(predictor: Predictor) -> None:
    slow = Slow(predictor)
    app = create_app(slow, ServerSettings(seconds=0.2), "colours")  # type: ignore[arg-type]
    with TestClient(app, base_url=HERE) as client:
        assert client.post("/predict", files=form(RED)).status_code == 503
        slow.gate.set()
        _until(lambda: "bestiary_waiting_pictures 0.0" in client.get("/metrics").text)
        assert client.post("/predict", files=form(RED)).status_code == 200


def test_an_engine_that_fails_fails_its_requests_only(predictor: Predictor) -> None:
    slow = Slow(predictor)
    slow.gate.set()
    app = create_app(slow, ServerSettings(), "colours")  # type: ignore[arg-type]
    with TestClient(app, base_url=HERE, raise_server_exceptions=False) as client:
        slow.fails = True
        failed = client.post("/predict", files=form(RED))
        assert (failed.status_code, "RuntimeError" in failed.json()["error"]) == (500, True)
        slow.fails = False
        assert client.post("/predict", files=form(RED)).status_code == 200


def test_accepted_pictures_are_finished_before_shutdown(predictor: Predictor) -> None:
    import asyncio

    slow = Slow(predictor)
    batcher = Batcher(slow, Preprocessing(SIZE), max_waiting=50, on_batch=lambda size: None)  # type: ignore[arg-type]

    async def ask() -> list[Any]:
        answers = asyncio.ensure_future(batcher.predict([RED, b"no picture"] * 20))
        await asyncio.sleep(0.05)
        with pytest.raises(QueueFullError):
            await batcher.predict([RED] * 31)
        slow.gate.set()
        await asyncio.to_thread(batcher.close)
        return await answers

    outcomes = asyncio.run(ask())
    assert [isinstance(outcome, PictureError) for outcome in outcomes] == [False, True] * 20
    assert batcher.waiting == 0


def _until(true: Any) -> None:
    for _ in range(500):
        if true():
            return
        time.sleep(0.01)
    raise AssertionError("timeout")


# ---- The Open Inference Protocol -------------------------------------------------------------------------------------


def tensor(name: str, kind: str, shape: list[int], **rest: Any) -> dict[str, Any]:
    return {"inputs": [{"name": name, "datatype": kind, "shape": shape, **rest}]}


def infer(client: TestClient, body: dict[str, Any], tail: bytes | None = None, name: str = "colours") -> Any:
    head = json.dumps(body).encode()
    headers = {} if tail is None else {"Inference-Header-Content-Length": str(len(head))}
    return client.post(f"/v2/models/{name}/infer", content=head + (tail or b""), headers=headers)


def test_health_and_metadata(client: TestClient) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/v2").json()["extensions"] == ["binary_tensor_data"]
    assert client.get("/v2/models/colours/ready").json() == {"name": "colours", "ready": True}
    assert client.get("/v2/models/colours/versions/1/ready").status_code == 200
    assert client.get("/v2/models/colours/versions/2").status_code == 404
    about = client.get("/v2/models/colours").json()
    assert [tensor["name"] for tensor in about["inputs"]] == ["pictures", "images"]
    assert about["outputs"][0] == {"name": "probabilities", "datatype": "FP32", "shape": [-1, 3]}


def test_files_and_pixels_in_json(client: TestClient) -> None:
    files = in_json(coloured("red"), coloured("blue"))["pictures"]
    response = infer(client, tensor("pictures", "BYTES", [2], data=files) | {"id": "7"}).json()
    assert (response["id"], response["model_name"]) == ("7", "colours")
    by_name = {output["name"]: output for output in response["outputs"]}
    assert by_name["label"]["data"] == ["red", "blue"]
    assert by_name["probabilities"]["shape"] == [2, 3]
    pixels = np.full((1, SIZE, SIZE, 3), RGB["green"], np.uint8)
    for data in (pixels.tolist(), pixels.ravel().tolist()):
        body = tensor("images", "UINT8", [1, SIZE, SIZE, 3], data=data) | {"outputs": [{"name": "label"}]}
        [only] = infer(client, body).json()["outputs"]
        assert only["data"] == ["green"]


def test_files_and_pixels_as_bytes_behind_the_json(client: TestClient, predictor: Predictor) -> None:
    red = coloured("red")
    packed = struct.pack("<I", len(red)) + red
    binary = {"parameters": {"binary_data_output": True}}
    size = {"parameters": {"binary_data_size": len(packed)}}
    answer = infer(client, tensor("pictures", "BYTES", [1], **size) | binary, packed)
    head = json.loads(answer.content[: int(answer.headers["inference-header-content-length"])])
    tail = answer.content[int(answer.headers["inference-header-content-length"]) :]
    assert [output["parameters"]["binary_data_size"] for output in head["outputs"]] == [12, 7, 1, 4]
    expected = list(predictor.predict(red).probabilities.values())
    np.testing.assert_allclose(np.frombuffer(tail[:12], np.float32), expected, atol=1e-6)
    assert tail[12:19] == b"\x03\0\0\0red"


PIXELS = bytes(SIZE * SIZE * 3)
WRONG: dict[str, tuple[Any, bytes | None]] = {
    "no input": ({"inputs": []}, None),
    "two inputs": ({"inputs": [{}, {}]}, None),
    "not an object": ([1], None),
    "another name": (tensor("x", "BYTES", [1], data=["eA=="]), None),
    "another content type": (tensor("images", "FP32", [1, SIZE, SIZE, 3], data=[0]), None),
    "another shape": (tensor("images", "UINT8", [1, 9, 9, 3], data=[0]), None),
    "too few": (tensor("images", "UINT8", [1, SIZE, SIZE, 3], data=[0]), None),
    "out of range": (tensor("images", "UINT8", [1, SIZE, SIZE, 3], data=[256] * len(PIXELS)), None),
    "text": (tensor("images", "UINT8", [1, SIZE, SIZE, 3], data=["x"] * len(PIXELS)), None),
    "no pictures": (tensor("pictures", "BYTES", [0], data=[]), None),
    "too many": (tensor("pictures", "BYTES", [10**9], data=[]), None),
    "count": (tensor("pictures", "BYTES", [2], data=["eA=="]), None),
    "numbers": (tensor("pictures", "BYTES", [1], data=[1]), None),
    "nothing": (tensor("pictures", "BYTES", [1]), None),
    "size": (tensor("images", "UINT8", [1, SIZE, SIZE, 3], parameters={"binary_data_size": 5}), PIXELS),
    "short": (tensor("pictures", "BYTES", [1], parameters={"binary_data_size": 6}), b"\xff\0\0\0ab"),
    "torn": (tensor("pictures", "BYTES", [1], parameters={"binary_data_size": 2}), b"\xff\0"),
    "output": (tensor("pictures", "BYTES", [1], data=["eA=="]) | {"outputs": [{"name": "x"}]}, None),
}


@pytest.mark.parametrize(("body", "tail"), WRONG.values(), ids=WRONG)
def test_a_malformed_inference_request_is_rejected(client: TestClient, body: Any, tail: bytes | None) -> None:
    answer = infer(client, body, tail)
    assert (answer.status_code, list(answer.json())) == (400, ["error"]), answer.text


def test_other_models_lengths_and_bad_pictures(client: TestClient) -> None:
    body = tensor("pictures", "BYTES", [1], data=["eA=="])
    assert infer(client, body, name="other").status_code == 404
    assert infer(client, body).status_code == 422
    for length in ("x", "-1", "99999", "²"):
        headers = {b"Inference-Header-Content-Length": length.encode()}
        assert client.post("/v2/models/colours/infer", content=b"{}", headers=headers).status_code == 400


def test_both_protocols_give_the_same_probabilities(client: TestClient) -> None:
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (31, 17, 3), dtype=np.uint8)).save(stream, "PNG")
    [page] = client.post("/predict", files=form(stream.getvalue())).json()["predictions"]
    inference = infer(client, tensor("pictures", "BYTES", [1], data=in_json(stream.getvalue())["pictures"])).json()
    np.testing.assert_allclose(inference["outputs"][0]["data"], list(page["probabilities"].values()), atol=1e-6)


def test_no_request_opens_a_file(client: TestClient, tmp_path: Path) -> None:
    secret = tmp_path / "secret.png"
    secret.write_bytes(coloured("red"))
    for content in (str(secret).encode(), secret.as_uri().encode()):
        assert client.post("/predict", content=content, headers=JPEG).status_code == 422
        assert client.post("/predict", json=in_json(content)).status_code == 422
