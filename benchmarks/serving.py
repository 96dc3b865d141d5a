"""The server under load, and under broken uploads.

    python benchmarks/serving.py load RUN PICTURES [--clients 50] [--seconds 60] [--pause 0]
    python benchmarks/serving.py broken RUN [--uploads 1000]

`load` measures one request at a time first, then many clients, each of which asks again as soon as it is answered (or
after a pause), and `predict` on the same files in the same process count. The clients run on the same processors.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import random
import statistics
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

from bestiary.inference.predictor import Predictor

HOST = "127.0.0.1"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", choices=["load", "broken"])
    options.add_argument("run", type=Path)
    options.add_argument("pictures", type=Path, nargs="?")
    options.add_argument("--clients", type=int, default=50)
    options.add_argument("--seconds", type=float, default=60)
    options.add_argument("--pause", type=float, default=0)
    options.add_argument("--uploads", type=int, default=1000)
    asked = options.parse_args()
    line = [sys.executable, "-m", "bestiary", "serve", str(asked.run), "--port", "0", "--quiet"]
    if asked.what == "load":
        files = sorted(asked.pictures.rglob("*.jp*g"))[::7][:500]
        plain = rate_of_predict(asked.run, files)
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline().rstrip("/\n").rpartition(":")[2])
        try:
            if asked.what == "load":
                asyncio.run(load(port, [path.read_bytes() for path in files], asked, plain))
            else:
                asyncio.run(broken(port, server.pid, asked.uploads))
        finally:
            server.terminate()
    print(f"exit code {server.returncode}")


def rate_of_predict(run: Path, files: list[Path]) -> float:
    predictor = Predictor(run, engine="fastest")
    list(predictor.predict_many(files[:50]))
    started = time.perf_counter()
    count = sum(1 for _ in predictor.predict_many(files))
    return count / (time.perf_counter() - started)


class Client:
    """One connection that is kept, as browsers and libraries do; as little work as possible, so as not to disturb."""

    def __init__(self, port: int) -> None:
        self._port = port

    async def __aenter__(self) -> Client:
        self._reader, self._writer = await asyncio.open_connection(HOST, self._port)
        return self

    async def __aexit__(self, *_: object) -> None:
        self._writer.close()

    async def post(self, body: bytes, kind: str = "image/jpeg", claimed: int | None = None) -> int:
        length = len(body) if claimed is None else claimed
        head = f"POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n"
        self._writer.write(head.encode() + body)
        await self._writer.drain()
        head_of_answer = await self._reader.readuntil(b"\r\n\r\n")
        lines = head_of_answer.decode("latin-1").lower().split("\r\n")
        lengths = [int(line.partition(":")[2]) for line in lines if line.startswith("content-length")]
        await self._reader.readexactly(lengths[0])
        return int(lines[0].split()[1])


async def load(port: int, pictures: list[bytes], asked: argparse.Namespace, plain: float) -> None:
    async with Client(port) as client:
        for picture in pictures[:20]:
            await client.post(picture)
        alone = []
        for picture in pictures[:200]:
            started = time.perf_counter()
            await client.post(picture)
            alone.append(time.perf_counter() - started)
    single = statistics.median(alone)
    print(f"one request at a time: median {1000 * single:.1f} ms; predict: {plain:.0f} pictures a second", flush=True)
    taken: list[float] = []
    codes: dict[int, int] = {}
    end = time.perf_counter() + asked.seconds

    async def ask(number: int) -> None:
        await asyncio.sleep(random.Random(number).uniform(0, asked.pause))
        async with Client(port) as client:
            for picture in itertools.cycle(pictures[number:] + pictures[:number]):
                if (started := time.perf_counter()) >= end:
                    return
                code = await client.post(picture)
                taken.append(time.perf_counter() - started)
                codes[code] = codes.get(code, 0) + 1
                await asyncio.sleep(asked.pause)

    await asyncio.gather(*(ask(number) for number in range(asked.clients)))
    rate, p99 = len(taken) / asked.seconds, statistics.quantiles(taken, n=100)[98]
    print(
        f"{asked.clients} clients, pause {asked.pause:g} s, {asked.seconds:g} s: {len(taken):,} answers, codes {codes}"
    )
    print(f"{rate:.0f} a second, {rate / plain:.0%} of predict's; p50 {1000 * statistics.median(taken):.0f} ms,")
    print(f"p99 {1000 * p99:.0f} ms = {p99 / single:.1f} times a single request")


async def broken(port: int, pid: int, uploads: int) -> None:
    before = memory_mb(pid)
    codes: dict[int, int] = {}
    rng = random.Random(0)
    for number in range(uploads):
        body, kind, claimed = bad_upload(number, rng)
        async with Client(port) as client:
            code = await client.post(body, kind, claimed)
        codes[code] = codes.get(code, 0) + 1
        if number == uploads // 5:
            before = memory_mb(pid)  # after the first of every kind: what is loaded once is loaded
    await asyncio.sleep(1)
    print(
        f"{uploads:,} broken uploads: codes {codes}; memory {before:.0f} MB after a fifth,"
        f" {memory_mb(pid):.0f} MB at the end"
    )


def bad_upload(number: int, rng: random.Random) -> tuple[bytes, str, int | None]:
    """Return body, content type and claimed length of one of six kinds of broken upload."""
    png = huge_png(200)
    match number % 6:
        case 0:
            return png[: rng.randrange(1, len(png) - 20)], "image/png", None
        case 1:
            return huge_png(rng.randrange(20_000, 60_000)), "image/png", None
        case 2:
            return rng.randbytes(rng.randrange(1, 100_000)), "image/jpeg", None
        case 3:
            return b"x", "image/jpeg", 2**31
        case 4:
            return b'{"pictures": ["' + rng.randbytes(50).hex().encode() + b"!", "application/json", None
        case _:
            return rng.randbytes(1000), "multipart/form-data; boundary=x", None


def huge_png(side: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    rows = zlib.compress(bytes(min(side, 200) * (3 * side + 1) // 2), 1)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def memory_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmRSS"))


if __name__ == "__main__":
    main()
