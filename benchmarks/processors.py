"""Compares the answers of 8-bit models on other processors, emulated by QEMU, with those on this one.

    python benchmarks/processors.py RUN GRAPH.onnx … [--pictures 200] [--float32-pictures 5] [--only a72,a76]
        [--folder FOLDER] [--mirror URI] [--json FILE]

GRAPH.onnx: 8-bit exports of the run. Its float32 graph is run too, on fewer pictures, since that is slow. Pictures are
evenly spaced validation pictures, preprocessed once by this processor; every processor runs the same pixels with ONNX
Runtime on one thread (`plain/run_graph.py`). For each processor and graph: the largest difference of a probability
from this processor's, the pictures in which one differs by more than 0.01, the labels that change, and how many times
as fast as float32 the graph is there. Emulated speed is that of translated instructions, not of the real device.

Needs x86-64 Debian, and downloads about 130 MB into --folder (default: a temporary one): QEMU and a Python for 64-bit
Arm as packages of Debian 13, verified with Debian's keys and unpacked without installing them, and wheels with the
versions of this environment. --mirror: the Debian mirror; by default that of apt's configuration.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bestiary import table
from bestiary.array_types import Floats
from bestiary.batches.pixel_cache import iter_pixel_batches
from bestiary.inference.bundle import read_bundle
from bestiary.machine import available_cores
from bestiary.processor import read_processor
from measuring import build_parser, parse_choices, read_versions

SCRIPT = Path(__file__).parent / "plain" / "run_graph.py"
KEYS = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
RELEASE, PYTHON = "trixie", "3.13"  # QEMU 7.2 of the release before cannot load ONNX Runtime for Arm
ARM_PACKAGES = (
    *(f"python{PYTHON}-minimal", f"libpython{PYTHON}-minimal", f"libpython{PYTHON}-stdlib"),
    *("libc6", "libstdc++6", "libgcc-s1", "zlib1g", "libexpat1", "libffi8", "libbz2-1.0", "liblzma5"),
)
WHEELS = ("onnxruntime", "numpy")
WHEEL_PLATFORMS = tuple(f"manylinux_2_{glibc}_aarch64" for glibc in (17, 27, 28, 31, 34))
NOTICEABLE = 0.01  # of a probability


@dataclass(frozen=True)
class Target:
    """A processor. model: QEMU's name of it, None for this processor."""

    title: str
    architecture: str = "x86_64"
    model: str | None = None


TARGETS = {
    "avx2": Target("x86-64 with AVX2 alone (Haswell)", "x86_64", "Haswell"),
    "a72": Target("Arm Cortex-A72 (Raspberry Pi 4)", "aarch64", "cortex-a72"),
    "a76": Target("Arm Cortex-A76 (Raspberry Pi 5)", "aarch64", "cortex-a76"),
}


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("graphs", type=Path, nargs="+", metavar="GRAPH.onnx")
    parser.add_argument("--pictures", type=int, default=200)
    parser.add_argument("--float32-pictures", type=int, default=5)
    parser.add_argument(
        "--only", type=partial(parse_choices, known=TARGETS), default=tuple(TARGETS), metavar=",".join(TARGETS)
    )
    parser.add_argument("--folder", type=Path, help="where downloads and pictures stay for the next time")
    parser.add_argument("--mirror", help="URI of a Debian mirror")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = (arguments.folder or Path(name)).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        rows = []
        for row in iter_comparisons(arguments, folder):
            rows.append(row)
            if arguments.json:
                arguments.json.write_text(json.dumps(rows, indent=1), encoding="utf-8")


def iter_comparisons(arguments: argparse.Namespace, folder: Path) -> Iterator[dict[str, Any]]:
    """Run all graphs on all processors; print and yield a row for each."""
    emulator = Emulator(folder, arguments.mirror)
    pictures = write_pictures(arguments.run, arguments.pictures, folder / "pictures.npz")
    graphs = {arguments.run / "model.onnx": min(arguments.float32_pictures, arguments.pictures)}
    graphs |= dict.fromkeys(arguments.graphs, arguments.pictures)
    native = Target(str(read_processor()))
    print(f"{native.title}, {emulator.version}, {read_versions(WHEELS)}", flush=True)
    reference = {graph: emulator.run_graph(native, graph, pictures, arguments.pictures) for graph in graphs}
    for target in [native, *(TARGETS[name] for name in arguments.only)]:
        float32_seconds = None
        for graph, count in graphs.items():
            result = emulator.run_graph(target, graph, pictures, count) if target.model else reference[graph]
            seconds = statistics.median(result.seconds)
            float32_seconds = float32_seconds or seconds  # the first graph is in float32
            row = {"processor": target.title, "graph": str(graph), "seconds": seconds}
            row |= compare(reference[graph].probabilities, result.probabilities)
            row |= {"speed": float32_seconds / seconds, "emulator": emulator.version if target.model else None}
            print(format_row(row), flush=True)
            yield row


@dataclass(frozen=True)
class Result:
    """Probabilities (n, classes) and processor seconds for each picture."""

    probabilities: Floats
    seconds: list[float]


def compare(expected: Floats, actual: Floats) -> dict[str, float]:
    """Return the differences between the probabilities (n, classes), n the smaller number of pictures."""
    expected = expected[: len(actual)]
    actual = actual[: len(expected)]
    differences = np.abs(actual - expected).max(axis=1)
    return {
        "pictures": len(actual),
        "largest_difference": float(differences.max()),
        "above_0.01": int((differences > NOTICEABLE).sum()),
        "labels_changed": int((actual.argmax(axis=1) != expected.argmax(axis=1)).sum()),
    }


def format_row(row: dict[str, Any]) -> str:
    return (
        f"{row['processor'][:40]:40} {row['graph'][-40:]:40} {row['pictures']:4} pictures, largest difference"
        f" {row['largest_difference']:.2g}, {row['above_0.01']} above {NOTICEABLE}, {row['labels_changed']} labels"
        f" changed; {row['seconds']:.3f} processor seconds a picture, {row['speed']:.2f} times float32"
    )


def write_pictures(run: Path, count: int, file: Path) -> Path:
    """Write `count` evenly spaced validation pictures, ready for the graph."""
    bundle, pictures = read_bundle(run), table.read(run / "pictures.parquet", table.PICTURES)
    val = pictures.filter(pl.col("split") == "val").sort("row_id")["path"]
    paths = [Path(val[int(row)]) for row in np.linspace(0, len(val) - 1, min(count, len(val)))]
    np.random.default_rng(0).shuffle(paths)  # the first few, for float32, are of all classes
    np.savez(file, images=np.concatenate(list(iter_pixel_batches(paths, bundle.preprocess, threads=available_cores()))))
    return file


class Emulator:
    """QEMU's user mode, and a Python for each architecture."""

    def __init__(self, folder: Path, mirror: str | None) -> None:
        """Download what is missing in the folder."""
        self._programs, self._arm = folder / "qemu" / "usr" / "bin", folder / "arm"
        if not self._programs.exists():
            download_packages(folder, mirror)
        if not (site := folder / "site-packages").exists():
            download_wheels(site)
        self._site = site
        version = subprocess.run([self._programs / "qemu-aarch64", "--version"], capture_output=True, check=True)
        self.version = version.stdout.decode().splitlines()[0]

    def run_graph(self, target: Target, graph: Path, pictures: Path, count: int) -> Result:
        """Run the first `count` pictures on a processor."""
        command: list[object] = []
        if target.model:
            command = [self._programs / f"qemu-{target.architecture}", "-cpu", target.model]
        if target.architecture == "aarch64":
            command += [
                "-L",
                self._arm,
                "-E",
                f"PYTHONPATH={self._site}",
                self._arm / "usr" / "bin" / f"python{PYTHON}",
            ]
        else:
            command += [sys.executable]
        answer = run_process([*command, SCRIPT, graph.resolve(), pictures, count])
        values = json.loads(answer)
        return Result(np.array(values["probabilities"]), values["seconds"])


def download_packages(folder: Path, mirror: str | None) -> None:
    """Unpack QEMU into `qemu`, and a Python for 64-bit Arm into `arm`, by an apt of its own in the folder."""
    apt, packages = folder / "apt", folder / "packages"
    for name in ("lists/partial", "cache/archives/partial"):
        (apt / name).mkdir(parents=True, exist_ok=True)
    packages.mkdir(exist_ok=True)
    source = f"deb [arch=amd64,arm64 signed-by={KEYS}] {mirror or find_mirror()} {RELEASE} main\n"
    (apt / "sources.list").write_text(source, encoding="utf-8")
    (apt / "status").touch()
    options = {
        "Dir::Etc::sourcelist": apt / "sources.list",
        "Dir::Etc::sourceparts": "-",
        "Dir::State::lists": apt / "lists",
        "Dir::State::status": apt / "status",
        "Dir::Cache": apt / "cache",
        "APT::Sandbox::User": "root",
        "Acquire::Languages": "none",
    }
    command = ["apt-get", "-qq", *(f"-o{name}={value}" for name, value in options.items())]
    command += [f"-oAPT::Architectures::={architecture}" for architecture in ("amd64", "arm64")]
    run_process([*command, "update"])
    run_process([*command, "download", "qemu-user", *(f"{name}:arm64" for name in ARM_PACKAGES)], packages)
    for file in packages.glob("*.deb"):
        run_process(["dpkg", "-x", file, folder / ("arm" if file.stem.endswith("_arm64") else "qemu")])
    (folder / "arm" / "lib").symlink_to("usr/lib")  # the package base-files has this link


def download_wheels(site: Path) -> None:
    """Unpack the Arm wheels of this environment's versions."""
    versions = read_versions(WHEELS)
    with tempfile.TemporaryDirectory() as folder:
        run_process(
            [
                *(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--only-binary=:all:", "-d", folder),
                *("--python-version", PYTHON, *(f"--platform={name}" for name in WHEEL_PLATFORMS)),
                *(f"{name}=={versions[name]}" for name in WHEELS),
            ]
        )
        for wheel in Path(folder).glob("*.whl"):
            run_process([sys.executable, "-m", "zipfile", "-e", wheel, site])


def find_mirror() -> str:
    """Return the Debian mirror of apt's configuration; the script ends if there is none."""
    uris = run_process(["apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages"]).split()
    mirrors = [uri for uri in uris if uri.rstrip("/").endswith("/debian")]
    if not mirrors:
        raise SystemExit("apt's configuration names no Debian mirror; name one with --mirror.")
    return mirrors[0]


def run_process(command: Sequence[object], folder: Path | None = None) -> str:
    """Return what a program prints; the script ends with its error text if it fails."""
    process = subprocess.run([*map(str, command)], capture_output=True, text=True, cwd=folder, check=False)
    if process.returncode:
        error = "\n".join(process.stderr.strip().splitlines()[-5:])
        raise SystemExit(f"{command[0]} ended with {process.returncode}: {error}")
    return process.stdout


if __name__ == "__main__":
    main()
