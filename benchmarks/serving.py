"""The server under load, and with broken uploads.

    python benchmarks/serving.py load RUN PICTURES [--clients 50] [--seconds 60] [--pause 0]
    python benchmarks/serving.py broken RUN [--uploads 1000]

`load` measures `predict` on the same files, then one request at a time, then many clients, each of which sends its next
request as soon as it gets a response (or after a pause). The clients run on the same cores as the server.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import struct
import subprocess
import time
import zlib
from pathlib import Path

from bestiary.inference.predictor import Predictor
from measuring import build_command, build_parser

HOST = "127.0.0.1"


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("what", choices=["load", "broken"])
    parser.add_argument("run", type=Path)
    parser.add_argument("pictures", type=Path, nargs="?")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--pause", type=float, default=0)
    parser.add_argument("--uploads", type=int, default=1000)
    arguments = parser.parse_args()
    command = build_command("serve", arguments.run, "--port", 0, "--quiet")
    if arguments.what == "load":
        files = sorted(arguments.pictures.rglob("*.jp*g"))[::7][:500]
        predict_rate = measure_predict_rate(arguments.run, files)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().rstrip("/\n").rpartition(":")[2])
        try:
            if arguments.what == "load":
                asyncio.run(measure_load(port, [path.read_bytes() for path in files], arguments, predict_rate))
            else:
                asyncio.run(send_broken_uploads(port, server.pid, arguments.uploads))
        finally:
            server.terminate()
    print(f"exit code {server.returncode}")


def measure_predict_rate(run: Path, files: list[Path]) -> float:
    predictor = Predictor(run, engine="fastest")
    list(predictor.predict_many(files[:50]))
    start = time.perf_counter()
    count = sum(1 for _ in predictor.predict_many(files))
    return count / (time.perf_counter() - start)


class Client:
    """A client with a persistent connection; it does little work, because it runs on the cores of the server."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Client:
        self._reader, self._writer = await asyncio.open_connection(HOST, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def post(self, body: bytes, content_type: str = "image/jpeg", content_length: int | None = None) -> int:
        length = len(body) if content_length is None else content_length
        lines = [
            "POST /predict HTTP/1.1",
            "Host: localhost",
            f"Content-Type: {content_type}",
            f"Content-Length: {length}",
        ]
        head = "\r\n".join([*lines, "", ""])
        self._writer.write(head.encode() + body)
        await self._writer.drain()
        response_head = await self._reader.readuntil(b"\r\n\r\n")
        lines = response_head.decode("latin-1").lower().split("\r\n")
        lengths = [int(line.partition(":")[2]) for line in lines if line.startswith("content-length")]
        await self._reader.readexactly(lengths[0])
        return int(lines[0].split()[1])


async def measure_load(port: int, pictures: list[bytes], arguments: argparse.Namespace, predict_rate: float) -> None:
    async with Client(port) as client:
        for picture in pictures[:20]:
            await client.post(picture)
        single_times = []
        for picture in pictures[:200]:
            start = time.perf_counter()
            await client.post(picture)
            single_times.append(time.perf_counter() - start)
    single = statistics.median(single_times)
    print(
        f"one request at a time: median {1000 * single:.1f} ms; predict: {predict_rate:.0f} pictures per second",
        flush=True,
    )
    times: list[float] = []
    codes: dict[int, int] = {}
    end = time.perf_counter() + arguments.seconds

    async def send_requests(number: int) -> None:
        await asyncio.sleep(random.Random(number).uniform(0, arguments.pause))
        async with Client(port) as client:
            for picture in itertools.cycle(pictures[number:] + pictures[:number]):
                if (start := time.perf_counter()) >= end:
                    return
                code = await client.post(picture)
                times.append(time.perf_counter() - start)
                codes[code] = codes.get(code, 0) + 1
                await asyncio.sleep(arguments.pause)

    await asyncio.gather(*(send_requests(number) for number in range(arguments.clients)))
    rate, p99 = len(times) / arguments.seconds, statistics.quantiles(times, n=100)[98]
    print(f"{arguments.clients} clients, pause {arguments.pause:g} s, {arguments.seconds:g} s:", end=" ")
    print(f"{len(times):,} responses, codes {codes}")
    print(
        f"{rate:.0f} per second, {rate / predict_rate:.0%} of predict's; p50 {1000 * statistics.median(times):.0f} ms,"
    )
    print(f"p99 {1000 * p99:.0f} ms = {p99 / single:.1f} times a single request")


async def send_broken_uploads(port: int, pid: int, uploads: int) -> None:
    before = read_memory_mb(pid)
    codes: dict[int, int] = {}
    rng = random.Random(0)
    for number in range(uploads):
        body, content_type, content_length = make_broken_upload(number, rng)
        async with Client(port) as client:
            code = await client.post(body, content_type, content_length)
        codes[code] = codes.get(code, 0) + 1
        if number == uploads // 5:
            before = read_memory_mb(pid)  # after uploads of every kind, which import what they need once
    await asyncio.sleep(1)
    print(
        f"{uploads:,} broken uploads: codes {codes}; memory {before:.0f} MB after a fifth,"
        f" {read_memory_mb(pid):.0f} MB at the end"
    )


def make_broken_upload(number: int, rng: random.Random) -> tuple[bytes, str, int | None]:
    """Return the body, the content type and the Content-Length header of one of six kinds of broken upload."""
    png = make_png(200)
    match number % 6:
        case 0:
            return png[: rng.randrange(1, len(png) - 20)], "image/png", None
        case 1:
            return make_png(rng.randrange(20_000, 60_000)), "image/png", None
        case 2:
            return rng.randbytes(rng.randrange(1, 100_000)), "image/jpeg", None
        case 3:
            return b"x", "image/jpeg", 2**31
        case 4:
            return b'{"pictures": ["' + rng.randbytes(50).hex().encode() + b"!", "application/json", None
        case _:
            return rng.randbytes(1000), "multipart/form-data; boundary=x", None


def make_png(side: int) -> bytes:
    def make_chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(min(side, 200) * (3 * side + 1) // 2), 1)
    return b"\x89PNG\r\n\x1a\n" + make_chunk(b"IHDR", head) + make_chunk(b"IDAT", rows) + make_chunk(b"IEND", b"")


def read_memory_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))


if __name__ == "__main__":
    main()
