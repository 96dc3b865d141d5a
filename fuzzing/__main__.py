"""Fuzzes targets one after another, each in a process of its own: `scripts/fuzz --help`."""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from fuzzing.targets import TARGETS, Bench

OUT = Path("build/fuzz")
MEMORY_MB, SECONDS = 2048, 60  # limits of one input: of memory in use at all, and of time


@dataclass(frozen=True)
class Outcome:
    """What became of a target: inputs tried, branches reached, highest memory in MB, and the file that ended it."""

    inputs: int
    branches: int
    memory_mb: int
    artifact: Path | None


def fuzz(name: str, seconds: int, seed: int) -> Outcome:
    """Fuzz a target for so long; the inputs that reached new branches stay in its folder, for the next time."""
    folder = (OUT / name).absolute()
    seeds, corpus = folder / "seeds", folder / "corpus"
    for path in (seeds, corpus):
        path.mkdir(parents=True, exist_ok=True)
    for number, case in enumerate(TARGETS[name].make_cases()):
        (seeds / f"{number:02}").write_bytes(bytes([number]) + case.files[case.fuzzed])
    before = set(folder.iterdir())
    command = [sys.executable, "-m", "fuzzing.worker", name, f"-max_total_time={seconds}", f"-seed={seed}"]
    limits = [
        f"-rss_limit_mb={MEMORY_MB}",
        f"-timeout={SECONDS}",
        f"-report_slow_units={SECONDS}",
        "-max_len=20000",
        "-len_control=0",
    ]
    command += [*limits, f"-artifact_prefix={folder}/", "-verbosity=1", str(corpus), str(seeds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    log = done.stdout.decode(errors="replace")
    (folder / "log.txt").write_text(log, encoding="utf-8")
    artifacts = sorted(set(folder.iterdir()) - before - {folder / "log.txt"})
    if done.returncode and not artifacts:
        artifacts = [folder / "log.txt"]
    inputs, branches, memory = (
        max(map(int, re.findall(pattern, log)), default=0)
        for pattern in (r"(?m)^#(\d+)", r"cov: (\d+)", r"rss: (\d+)Mb")
    )
    return Outcome(inputs, branches, memory, artifacts[0] if artifacts else None)


def repeat(name: str, path: Path) -> None:
    """Run a target on one input, with its traceback."""
    data, bench = path.read_bytes(), Bench(TARGETS[name])
    try:
        print(bench.run(data[0], data[1:]) or "read without an error")
    finally:
        bench.close()


def main() -> int:
    """Fuzz the targets that are named; return 1 if one of them ended with a finding."""
    parser = argparse.ArgumentParser(prog="scripts/fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"default: all of {', '.join(TARGETS)}")
    parser.add_argument("--minutes", type=float, default=10, help="for each target (default: %(default)g)")
    parser.add_argument("--seed", type=int, default=1, help="of the changes (default: %(default)s)")
    parser.add_argument("--input", type=Path, help="run one target on this file only, with its traceback")
    arguments = parser.parse_args()
    names = arguments.targets or list(TARGETS)
    if unknown := [name for name in names if name not in TARGETS]:
        parser.error(f"there is no target {unknown[0]}; targets are {', '.join(TARGETS)}")
    if arguments.input:
        if len(arguments.targets) != 1:
            parser.error("--input runs one target: name it, as in coco --input FILE")
        repeat(names[0], arguments.input.absolute())
        return 0
    failed = 0
    for name in names:
        start = time.monotonic()
        result = fuzz(name, max(1, round(60 * arguments.minutes)), arguments.seed)
        minutes = (time.monotonic() - start) / 60
        end = f"FAILED, see {result.artifact}" if result.artifact else "no finding"
        print(
            f"{name}: {minutes:.1f} min, {result.inputs:,} inputs, {result.branches:,} branches,"
            f" {result.memory_mb:,} MB: {end}",
            flush=True,
        )
        failed += result.artifact is not None
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main())
