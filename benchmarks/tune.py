"""How many recipes a search tries in its time, what two processes gain, and what stopping hopeless trials saves.

    python benchmarks/tune.py probe PICTURES [--labels animals10] [--budget 5m] [--cache empty|kept]
    python benchmarks/tune.py two PICTURES [--labels animals10] [--trials 40]
    python benchmarks/tune.py scratch PICTURES [--labels animals10] [--budget 45m] [--classes ...] [--set ...]
    python benchmarks/tune.py pruning PICTURES [--labels animals10] [--trials 12] [--classes ...] [--set ...]

Whole processes of the command line. `probe`: one search within its budget, wanted 60 trials in 5 minutes on two cores.
`two`: as many trials by one process and by two that share a storage, one thread each, features kept from before; the
time is that of the trials alone, from the first to the last, as the storage tells; wanted 1.6 times as fast. `scratch`:
a search within its budget, and the default recipe trained in full beside it, both on the same test pictures. `pruning`:
so many trials; the share of training time that stopping the hopeless ones saved, wanted one half.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SEVEN = "dog,horse,elephant,butterfly,chicken,cat,spider"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", choices=["probe", "two", "scratch", "pruning"])
    options.add_argument("pictures", type=Path)
    options.add_argument("--labels")
    options.add_argument("--classes")
    options.add_argument("--budget")
    options.add_argument("--trials", type=int)
    options.add_argument("--threads", type=int)
    options.add_argument("--set", dest="settings", action="append", default=[])
    options.add_argument("--cache", choices=["empty", "kept"], default="kept")
    asked = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if asked.cache == "empty":
            os.environ["BESTIARY_CACHE"] = str(folder / "cache")
        {"probe": probe, "two": two, "scratch": scratch, "pruning": pruning}[asked.what](asked, folder)


def probe(asked: argparse.Namespace, folder: Path) -> None:
    began = time.perf_counter()
    found = ended(started(asked, folder / "search", "--budget", asked.budget or "5m"))
    taken = time.perf_counter() - began
    print(f"{finished(found)} trials in {taken:.0f} s, cache {asked.cache}; {told(found)}")


def two(asked: argparse.Namespace, folder: Path) -> None:
    trials = asked.trials or 40
    asked.threads, words = 1, ("--trials", str(trials), "--fresh-seeds", "0")
    ended(started(asked, folder / "first", "--trials", "1", "--fresh-seeds", "0"))  # fills the caches
    ended(started(asked, folder / "one", *words))
    shared = ("--storage", str(folder / "shared.db"))
    for process in [started(asked, folder / f"of-two-{number}", *words, *shared) for number in (1, 2)]:
        ended(process)
    alone, together = (span(folder / place) for place in ("one/tune.db", "shared.db"))
    print(f"{trials} trials: one process {alone:.1f} s, two {together:.1f} s, {alone / together:.2f} times as fast")


def scratch(asked: argparse.Namespace, folder: Path) -> None:
    began = time.perf_counter()
    found = ended(started(asked, folder / "search", "--method", "scratch", "--budget", asked.budget or "45m"))
    taken = time.perf_counter() - began
    print(f"{finished(found)} trials, all in {taken:.0f} s; saved by stopping {found['pruning']['share saved']:.0%}")
    command = ["train", *common(asked), "--method", "scratch", "--out", str(folder / "default"), "--json"]
    default = ended(subprocess.Popen([sys.executable, "-m", "bestiary", *command], stdout=subprocess.PIPE, text=True))
    compared = ["compare", str(folder / "default"), found["run"]]
    print(f"default: test macro-F1 {default['metrics']['macro_f1']['value']:.4f}; {told(found)}")
    print(subprocess.run([sys.executable, "-m", "bestiary", *compared], capture_output=True, text=True).stdout)


def pruning(asked: argparse.Namespace, folder: Path) -> None:
    words = ("--method", "scratch", "--trials", str(asked.trials or 12), "--fresh-seeds", "0")
    found = ended(started(asked, folder / "search", *words))
    saved = found["pruning"]
    print(f"{found['trials']}, {saved['seconds']:.0f} s of training, {saved['seconds without']:.0f} s without stopping")
    print(f"saved {saved['share saved']:.1%}; {told(found)}")


def started(asked: argparse.Namespace, out: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "bestiary", "tune", *common(asked), *words, "--out", str(out), "--json"]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def common(asked: argparse.Namespace) -> list[str]:
    words = [str(asked.pictures)]
    words += ["--labels", asked.labels] if asked.labels else []
    words += ["--classes", asked.classes] if asked.classes else []
    words += ["--threads", str(asked.threads)] if asked.threads else []
    return words + [word for setting in asked.settings for word in ("--set", setting)]


def ended(process: subprocess.Popen[str]) -> dict[str, Any]:
    written, _ = process.communicate()
    if process.returncode:
        raise SystemExit("a command failed")
    found: dict[str, Any] = json.loads(written)
    return found


def finished(found: dict[str, Any]) -> int:
    return int(sum(found["trials"].values()))


def told(found: dict[str, Any]) -> str:
    winner, default, test = found["winner"], found["default"], found["test"]["macro_f1"]
    return (
        f"validation macro-F1 {default['macro_f1']:.4f} (default) to {winner['macro_f1']:.4f}; test macro-F1 of the"
        f" winner {test['value']:.4f} ({test['low']:.4f} to {test['high']:.4f}). {found['luck']['sentence']}"
    )


def span(storage: Path) -> float:
    """Return the seconds from the start of the first trial to the end of the last."""
    import optuna

    study = optuna.load_study(study_name="tune-probe", storage=f"sqlite:///{storage}")
    starts = [trial.datetime_start for trial in study.trials if trial.datetime_start]
    ends = [trial.datetime_complete for trial in study.trials if trial.datetime_complete]
    return (max(ends) - min(starts)).total_seconds()


if __name__ == "__main__":
    main()
