"""The server as a process: the command, its shutdown, third-party clients."""

from __future__ import annotations

import http.client
import json
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest

pytest.importorskip("onnx")

from bestiary.inference.predictor import Predictor
from served import served
from tiny_model import RGB, SIZE, coloured, write_run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("model") / "colours")


@pytest.fixture(scope="module")
def address(run: Path) -> Iterator[str]:
    with served(run, "--quiet") as (address, _):
        yield address


def post(address: str, body: bytes, **headers: str) -> tuple[int, dict[str, object]]:
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=20)
    kind = {"Content-Type": "image/png"} | {name.replace("_", "-"): value for name, value in headers.items()}
    connection.request("POST", "/predict", body, kind)
    answer = connection.getresponse()
    response = answer.status, json.loads(answer.read())
    connection.close()
    return response


def test_the_command_prints_its_address_and_answers(address: str) -> None:
    assert address.startswith("http://127.0.0.1:")
    status, body = post(address, coloured("red"))
    assert (status, body["predictions"][0]["label"]) == (200, "red")  # type: ignore[index]


def test_a_content_length_of_two_gigabytes_is_rejected_at_once(address: str) -> None:
    host, port = urlsplit(address).netloc.split(":")
    with socket.create_connection((host, int(port)), timeout=20) as connection:
        head = (
            "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: 2147483648\r\n\r\n"
        )
        connection.sendall(head.encode())
        assert connection.recv(100).startswith(b"HTTP/1.1 413")


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_shuts_the_server_down_gracefully(run: Path, how: signal.Signals) -> None:
    with served(run, "--quiet") as (address, process):
        codes: list[int] = []
        started = threading.Event()

        def ask() -> None:
            for _ in range(30):
                try:
                    codes.append(post(address, coloured("blue"))[0])
                except OSError:  # no more connections are taken
                    return
                started.set()

        asking = [threading.Thread(target=ask) for _ in range(4)]
        for thread in asking:
            thread.start()
        assert started.wait(20)
        process.send_signal(how)
        for thread in asking:
            thread.join()
        assert process.wait(20) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
        assert set(codes) == {200}


def test_a_port_in_use_and_a_missing_token_are_errors(run: Path, address: str) -> None:
    port = urlsplit(address).port
    for options, message in ((["--port", str(port)], f"port {port}"), (["--host", "0.0.0.0"], "--token")):
        line = [sys.executable, "-m", "bestiary", "serve", str(run), *options]
        done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
        assert (done.returncode, done.stdout, len(done.stderr.splitlines())) == (2, "", 1)
        assert message in done.stderr


def test_the_triton_client_works(run: Path, address: str) -> None:
    triton = pytest.importorskip("tritonclient.http")
    pixels = np.stack([np.full((SIZE, SIZE, 3), RGB[name], np.uint8) for name in ("red", "blue")])
    files = np.array([coloured("green"), coloured("red")], dtype=object)
    expected = Predictor(run).probabilities(pixels)
    client = triton.InferenceServerClient(urlsplit(address).netloc)
    try:
        assert client.is_server_live()
        assert client.is_server_ready()
        assert client.is_model_ready("colours")
        assert client.get_server_metadata()["name"] == "bestiary"
        about = client.get_model_metadata("colours")
        for binary in (True, False):
            images = triton.InferInput("images", list(pixels.shape), "UINT8")
            images.set_data_from_numpy(pixels, binary_data=binary)
            wanted = [triton.InferRequestedOutput(o["name"], binary_data=binary) for o in about["outputs"]]
            response = client.infer("colours", [images], outputs=wanted, request_id="a")
            np.testing.assert_allclose(response.as_numpy("probabilities"), expected, atol=1e-6)
            assert [str(np.array(label).astype(str)) for label in response.as_numpy("label")] in (
                ["red", "blue"],
                ["b'red'", "b'blue'"],
            )
            assert response.as_numpy("unknown").tolist() == [False, False]
        pictures = triton.InferInput("pictures", [2], "BYTES")
        pictures.set_data_from_numpy(files)
        response = client.infer("colours", [pictures])
        assert [bytes(label) for label in response.as_numpy("label")] == [b"green", b"red"]
        assert response.as_numpy("familiarity").shape == (2,)
        with pytest.raises(triton.InferenceServerException, match="There is no model other"):
            client.infer("other", [pictures])
    finally:
        client.close()


def test_no_request_of_the_openapi_description_causes_a_server_error(address: str) -> None:
    """Schemathesis generates valid and invalid requests from the server's OpenAPI description."""
    pytest.importorskip("schemathesis")
    line = [sys.executable, "-m", "schemathesis.cli", "run", f"{address}openapi.json", "--checks", "not_a_server_error"]
    line += ["--max-examples", "20", "--seed", "1", "--workers", "1", "--no-color"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=240)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
