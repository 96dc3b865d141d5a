"""Compares the search for near hashes with the binary indexes of faiss: time, peak memory, pairs, installed size.

    pip install faiss-cpu                                      # not a dependency; without it only bestiary is measured
    python benchmarks/hamming_search.py [PICTURES] [--random 200000 1000000] [--hashes FILE.npz] [--queries 20000]
        [--runs 3] [--methods bestiary flat hash-2] [--json FILE]

PICTURES: searches the distinct 256-bit hashes of a collection; --hashes stores them in a file for later calls.
--random: searches random hashes with 2,000 planted pairs at 10, 20, 30 and 40 bits. The search radius is 40 bits.

Every measurement is a process of its own, methods alternating: seconds from hashes to pairs, building an index
included; processor seconds, which depend less on other jobs; peak memory beyond that before the search. faiss returns
every pair twice and each hash with itself. With more than --queries hashes it searches only the first of them (they
include all planted pairs), and its times are extrapolated, marked ~. `hash-F` is IndexBinaryMultiHash with 14 tables of
18 bits, in each of which F bits may differ: with two it misses no pair at 40 bits, because 14 x 3 > 40.
IndexBinaryHNSW has no range search: its ten nearest neighbours are used.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from importlib.metadata import PackageNotFoundError, distribution
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bestiary.data import hamming_search
from bestiary.machine import available_cores
from duplicates import draw_hashes
from measuring import build_parser, read_processor_name, read_versions, run_command, time_call

NEAR_BITS = 40
TABLES, TABLE_BITS = 14, 18  # of IndexBinaryMultiHash
PROBES, NEIGHBOURS = 32, 10  # of IndexBinaryIVF, of IndexBinaryHNSW
SMALL = 10_000  # up to so many hashes: median of five searches, after one that warms up
METHODS = ("bestiary", "flat", "hash-0", "hash-1", "hash-2", "ivf", "hnsw")
Bits = npt.NDArray[np.uint64]
Pairs = npt.NDArray[np.int64]


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("pictures", type=Path, nargs="?")
    parser.add_argument("--hashes", type=Path)
    parser.add_argument("--random", type=int, nargs="*", default=[200_000])
    parser.add_argument("--queries", type=int, default=20_000)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--methods", choices=METHODS, nargs="+", default=METHODS)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)  # in the process of a measurement
    arguments = parser.parse_args()
    if arguments.measure:
        method, source, target = arguments.measure
        print(json.dumps(measure(method, Path(source), Path(target), arguments.queries)))
        return
    methods = list(arguments.methods)
    if find_spec("faiss") is None:
        print("faiss is not installed (pip install faiss-cpu): only bestiary is measured.")
        methods = [method for method in methods if method == "bestiary"]
    versions = read_versions(["numpy", "faiss-cpu"])
    print(f"{read_processor_name()}, {available_cores()} cores; {versions}; faiss-cpu: {read_size('faiss-cpu'):.0f} MB")
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for title, source in write_cases(arguments, folder):
            selected = [method for method in methods if method in ("bestiary", "flat") or "views" not in title]
            results.append(compare(title, source, selected, arguments, folder))
    if arguments.json:
        report = {
            "processor": read_processor_name(),
            "cores": available_cores(),
            "versions": versions,
            "cases": results,
        }
        arguments.json.write_text(json.dumps(report, indent=1), encoding="utf-8")


# ---- Cases ---------------------------------------------------------------------------------------------------------


def write_cases(arguments: argparse.Namespace, folder: Path) -> list[tuple[str, Path]]:
    """Write the hashes of each case, uint64 (n, 4)."""
    cases = []
    hash_file = arguments.hashes or folder / "pictures.npz"
    if arguments.pictures and not hash_file.exists():
        hash_pictures(arguments.pictures, hash_file)
    if hash_file.exists():
        with np.load(hash_file) as arrays:
            whole = arrays["whole"]
        np.savez(folder / "whole.npz", base=whole)
        cases.append((f"{len(whole):,} pictures, up to {NEAR_BITS} bits", folder / "whole.npz"))
    for count in arguments.random:
        bits, distances = draw_hashes(count)
        file = folder / f"random-{count}.npz"
        np.savez(file, base=bits, planted=[(*pair, distance) for pair, distance in distances.items()])
        cases.append((f"{count:,} random hashes, up to {NEAR_BITS} bits", file))
    return cases


def hash_pictures(pictures: Path, hash_file: Path) -> None:
    """Write the distinct hashes of the readable pictures."""
    from bestiary.context import Context
    from bestiary.data.label_map import label_map
    from bestiary.data.scan import scan_pictures
    from bestiary.data.sources import list_sources
    from bestiary.picture import DecodeLimits

    listing = list_sources([pictures], label_map(None))
    table = scan_pictures(listing, DecodeLimits(), Context(cache=None))
    table = table.filter(table["error"].is_null()).unique("phash", keep="first", maintain_order=True)
    np.savez(hash_file, whole=hamming_search.hash_bits(table["phash"].to_list()))


def compare(
    title: str, source: Path, methods: list[str], arguments: argparse.Namespace, folder: Path
) -> dict[str, Any]:
    """Measure the methods alternately, --runs times each; print and return the results."""
    rows: dict[str, list[dict[str, Any]]] = {method: [] for method in methods}
    for _ in range(arguments.runs):
        for method in methods:
            target = folder / f"{source.stem}-{method}.npy"
            command = [sys.executable, __file__, "--queries", arguments.queries, "--measure", method, source, target]
            rows[method].append(json.loads(run_command(command).stdout))
    with np.load(source) as arrays:
        planted = {tuple(pair) for pair in arrays["planted"].tolist()} if "planted" in arrays else set()
    print(f"\n{title}, n = {arguments.runs}")
    print(f"{'':10}{'seconds (from, to)':>32}{'of processors':>32}{'of bestiary':>12}", end="")
    print(f"{'peak MB':>9}{'pairs':>9}{'planted':>15}")
    summary, baseline = [], None
    for method in methods:
        pairs = {tuple(pair) for pair in np.load(folder / f"{source.stem}-{method}.npy").tolist()}
        seconds, processors = ([row[name] for row in rows[method]] for name in ("seconds", "processor_seconds"))
        scaled = rows[method][0]["scaled"]
        baseline = statistics.median(processors) if method == "bestiary" else baseline
        row = {
            "method": method,
            "seconds": seconds,
            "processor_seconds": processors,
            "scaled": scaled,
            "peak_mb": statistics.median(row["peak_mb"] for row in rows[method]),
            "pairs": len(pairs),
            "planted": f"{len(pairs & planted)} of {len(planted)}",
        }
        summary.append(row)
        mark = "~" if scaled else ""
        ratio = f"{statistics.median(processors) / baseline:.2f} x" if baseline else ""
        print(f"{method:10}{mark + format_range(seconds):>32}{mark + format_range(processors):>32}{ratio:>12}", end="")
        print(f"{row['peak_mb']:>9,.0f}{len(pairs):>9,}{row['planted']:>15}", flush=True)
    return {"case": title, "methods": summary}


def format_range(values: list[float]) -> str:
    return f"{statistics.median(values):.3g} ({min(values):.3g}, {max(values):.3g})"


# ---- The process of a measurement ----------------------------------------------------------------------------------


def measure(method: str, source: Path, target: Path, max_queries: int) -> dict[str, Any]:
    """Search once, or several times if there are few hashes; write the pairs, int64 (pairs, 3), in order."""
    with np.load(source) as arrays:
        base = arrays["base"]
    search = build_search(method, base, max_queries)
    pairs: list[tuple[Pairs, float]] = []
    rounds = 5 if len(base) <= SMALL else 1
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # resets the peak
    before = read_memory("VmRSS")
    if len(base) <= SMALL:
        search()
    start = time.process_time()
    seconds = [time_call(lambda: pairs.append(search())) for _ in range(rounds)]
    processors = (time.process_time() - start) / rounds
    peak = read_memory("VmHWM") - before
    rows, extra = pairs[-1]
    np.save(target, rows)
    median = statistics.median(seconds)
    times = {"seconds": median + extra, "processor_seconds": processors * (median + extra) / median}
    return {**times, "scaled": extra > 0, "peak_mb": peak}


def build_search(method: str, base: Bits, max_queries: int) -> Callable[[], tuple[Pairs, float]]:
    """Return a function that returns the pairs, and the estimated seconds for the queries beyond `max_queries`."""
    if method != "bestiary":
        faiss = import_module("faiss")
        faiss.omp_set_num_threads(available_cores())
        return lambda: search_with_faiss(faiss, method, base, NEAR_BITS, max_queries)
    return lambda: (hamming_search.find_near_pairs(base, NEAR_BITS, threads=available_cores()), 0.0)


def search_with_faiss(faiss: Any, method: str, base: Bits, max_bits: int, max_queries: int) -> tuple[Pairs, float]:
    """Return the pairs from an index of `base`, and the estimated seconds for the queries beyond `max_queries`."""
    rows = base.view(np.uint8).reshape(len(base), -1)
    index = build_index(faiss, method, len(rows))
    if not index.is_trained:
        index.train(rows)
    index.add(rows)
    count = len(base) if len(base) <= SMALL else min(max_queries, len(base))
    start = time.perf_counter()
    query_rows = base[:count].view(np.uint8).reshape(count, -1)
    if method == "hnsw":
        distances, columns = (result.ravel() for result in index.search(query_rows, NEIGHBOURS))
        numbers = np.repeat(np.arange(count), NEIGHBOURS)
        near = distances <= max_bits
        numbers, columns, distances = numbers[near], columns[near], distances[near]
    else:
        ends, distances, columns = index.range_search(query_rows, max_bits + 1)  # faiss excludes the radius itself
        numbers = np.repeat(np.arange(count), np.diff(ends.astype(np.int64)))
    pairs = keep_nearest(len(base), numbers % len(base), columns, distances.astype(np.int64))
    return pairs, (time.perf_counter() - start) * (len(base) / count - 1)


def build_index(faiss: Any, method: str, count: int) -> Any:
    bits = hamming_search.HASH_BITS
    if method == "flat":
        return faiss.IndexBinaryFlat(bits)
    if method == "hnsw":
        return faiss.IndexBinaryHNSW(bits, 16)
    if method == "ivf":
        index = faiss.IndexBinaryIVF(faiss.IndexBinaryFlat(bits), bits, round(count**0.5))
        index.nprobe = PROBES
        return index
    index = faiss.IndexBinaryMultiHash(bits, TABLES, TABLE_BITS)
    index.nflip = int(method.removeprefix("hash-"))
    return index


def keep_nearest(count: int, first: Pairs, second: Pairs, distance: Pairs) -> Pairs:
    """Return each pair of different pictures once, with its smallest distance, the lower position first."""
    different = first != second
    rows = np.column_stack([np.minimum(first, second), np.maximum(first, second), distance])[different]
    rows = rows[np.lexsort((rows[:, 2], rows[:, 1], rows[:, 0]))]
    _, positions = np.unique(rows[:, 0] * count + rows[:, 1], return_index=True)
    nearest: Pairs = rows[positions]
    return nearest


def read_memory(name: str) -> float:
    """Return the memory of this process in MB: VmRSS is the current, VmHWM the peak."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return next(int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith(name))


def read_size(package: str) -> float:
    """Return the size of the files of an installed package in MB, 0 if it is not installed."""
    try:
        files = distribution(package).files or []
    except PackageNotFoundError:
        return 0.0
    paths = [Path(str(file.locate())) for file in files]
    return sum(path.stat().st_size for path in paths if path.is_file()) / 1e6


if __name__ == "__main__":
    main()
