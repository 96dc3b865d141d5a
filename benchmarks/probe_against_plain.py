"""Compares the probe with a plain script: the same pictures, split and backbone.

    python benchmarks/probe_against_plain.py PICTURES --labels animals10 [--seed 0]

bestiary starts with an empty cache, and its time includes audit, evaluation with intervals and report; the script
(`plain_script.py`) only decodes, computes features, fits and scores. Whole processes, imports included.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

from main_job import run_training
from measuring import build_picture_parser, run_command


def main() -> None:
    parser = build_picture_parser(__doc__, backbone="lite0")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ours = run_training(arguments, Path(folder), "cold", arguments.seed)
        print("bestiary:", ours, flush=True)
        script = Path(__file__).with_name("plain_script.py")
        command = [sys.executable, str(script), str(Path(folder) / "cold" / "pictures.parquet")]
        start = time.perf_counter()
        process = run_command(command)
        seconds = time.perf_counter() - start
    print("plain script:", {"seconds": round(seconds, 1), **json.loads(process.stdout)})
    print(f"bestiary is {seconds / ours['seconds']:.1f} times as fast")


if __name__ == "__main__":
    main()
