"""The probe against the script that one would write by hand: the same pictures, split and backbone, in one run.

    python benchmarks/probe_against_plain.py PICTURES --labels animals10 [--seed 0]

bestiary starts from an empty cache and does its audit, evaluation with intervals and report as well; the script
(`plain_script.py`) only decodes, computes features, fits and scores. Whole processes, imports included.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from main_job import one_run


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("pictures", type=Path)
    options.add_argument("--labels", default="animals10")
    options.add_argument("--backbone", default="lite0")
    options.add_argument("--seed", type=int, default=0)
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        ours = one_run(asked, Path(folder), "cold", asked.seed)
        print("bestiary:", ours, flush=True)
        script = Path(__file__).with_name("plain_script.py")
        command = [sys.executable, str(script), str(Path(folder) / "cold" / "pictures.parquet")]
        started = time.perf_counter()
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        seconds = time.perf_counter() - started
    print("plain script:", {"seconds": round(seconds, 1), **json.loads(done.stdout)})
    print(f"bestiary is {seconds / ours['seconds']:.1f} times as fast")


if __name__ == "__main__":
    main()
