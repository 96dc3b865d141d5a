"""Compares bestiary with other tools on the same files and split; every tool alternates with bestiary.

    python benchmarks/peers/run.py PICTURES --environments DIR --work DIR [--labels animals10] [--only NAME,…]
        [--steps train,cold,broken,split,export,size,score] [--rounds 1] [--every 1] [--per-class N]

DIR of --environments has one environment a tool, made from `requirements/`; see README.md beside this file. Results go
into benchmarks/results.json after every measurement: what is not measured this time stays. --per-class: of the split of
all pictures, use at most N training pictures of a class, and as many parts of val and test, where time is short.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
from functools import partial
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import polars as pl  # noqa: E402

from broken_files import WRITERS, describe_outcome, last_line, write_small_split  # noqa: E402
from measuring import build_parser, count_cores, list_class_files, parse_choices, read_processor_name  # noqa: E402
from peer_script import THREADS, read_rows  # noqa: E402
from process import Measured, run_measured  # noqa: E402
from scores import count_torn_pairs, read_duplicate_pairs, read_pictures, score_answers  # noqa: E402
from sizes import measure_environment  # noqa: E402
from tools import BESTIARY, TOOLS, Tool  # noqa: E402

RESULTS = HERE.parent / "results.json"
STEPS = ("train", "cold", "broken", "split", "export", "size", "score")
SMALLER = {"train": 1.0, "val": 0.25, "test": 0.75}  # of --per-class
COLD_RUNS, TIMEOUT_SECONDS, SMALL_TIMEOUT_SECONDS = 5, 2400, 900


class Bench:
    """Folders, the environment of all processes, and the results so far."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.pictures: Path = arguments.pictures.resolve()
        self.environments: Path = arguments.environments.resolve()
        self.work: Path = arguments.work.resolve()
        self.path: Path = arguments.results.resolve()
        self.results: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8")) if self.path.exists() else {}
        self.work.mkdir(parents=True, exist_ok=True)

    def entry(self, tool: Tool) -> dict[str, Any]:
        entry: dict[str, Any] = self.results.setdefault("tools", {}).setdefault(tool.name, {})
        if entry.get("settings", tool.settings) != tool.settings:
            for name in ("train", "predict", "cold_start", "export"):  # figures of other settings
                entry.pop(name, None)
        entry |= {"title": tool.title, "settings": tool.settings}
        return entry

    def save(self) -> None:
        self.path.write_text(json.dumps(self.results, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")

    def python(self, tool: Tool) -> Path:
        return self.environments / tool.environment / "bin" / "python"

    def model(self, tool: Tool) -> Path:
        return self.work / "models" / tool.name

    def run(
        self, tool: Tool, *arguments: object, timeout_seconds: float = TIMEOUT_SECONDS, memory: bool = True
    ) -> Measured:
        """Run a command of the tool's script in its environment, with empty caches of its own."""
        home = self.work / "home"
        shutil.rmtree(home / "bestiary", ignore_errors=True)
        home.mkdir(exist_ok=True)
        clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
        environment = clean | {
            "BESTIARY_CACHE": str(home / "bestiary"),
            "XDG_CACHE_HOME": str(home),
            "MPLCONFIGDIR": str(home),
            "YOLO_CONFIG_DIR": str(home),
            "KERAS_HOME": str(home),
            "HF_HUB_OFFLINE": "1",
            "TF_CPP_MIN_LOG_LEVEL": "2",
            "OMP_NUM_THREADS": str(THREADS),
        }
        command = [self.python(tool), HERE / tool.script, *arguments]
        return run_measured(command, environment, self.work, timeout_seconds, with_memory=memory)


def main() -> None:
    parser = build_parser(__doc__)
    parser.add_argument("pictures", type=Path)
    parser.add_argument("--labels")
    parser.add_argument("--environments", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--results", type=Path, default=RESULTS)
    names = [tool.name for tool in TOOLS]
    parser.add_argument("--only", type=partial(parse_choices, known=names), default=tuple(names))
    parser.add_argument("--steps", type=partial(parse_choices, known=STEPS), default=STEPS)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--every", type=int, default=1, help="bestiary runs before every so many tools")
    parser.add_argument("--per-class", type=int, help="training pictures of a class; default: all")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    bench = Bench(arguments)
    split = write_split(bench, arguments)
    tools = [tool for tool in TOOLS if tool.name in arguments.only]
    note_circumstances(bench, tools, split, arguments.seed)
    if "train" in arguments.steps:
        for _ in range(arguments.rounds):
            for tool in list_turns(tools, arguments.every):
                measure_training(bench, tool, split)
    trained = [tool for tool in tools if (bench.model(tool) / "facts.json").exists()]
    if "cold" in arguments.steps:
        measure_cold_starts(bench, list(dict.fromkeys((BESTIARY, *trained))), split)
    for step, measure in (("size", measure_size), ("split", measure_split), ("broken", measure_broken)):
        for tool in tools if step in arguments.steps else ():
            measure(bench, tool, split)
    for tool in trained if "export" in arguments.steps else ():
        measure_export(bench, tool, split)
    if "score" in arguments.steps:
        score(bench)


# ---- The split, and what stays the same ----------------------------------------------------------------------------


def write_split(bench: Bench, arguments: argparse.Namespace) -> Path:
    """Let bestiary split the pictures once; return the table `path,label,split` that all tools train from."""
    split, run = bench.work / "split.csv", bench.work / "split-run"
    if not run.exists():
        command = ["-m", "bestiary", "train", bench.pictures, "--seed", arguments.seed, "--out", run]
        command += ["--labels", arguments.labels] if arguments.labels else []
        environment = os.environ | {"BESTIARY_CACHE": str(bench.work / "split-cache")}
        done = run_measured([bench.python(BESTIARY), *command], environment, bench.work, TIMEOUT_SECONDS)
        if done.code:
            raise SystemExit(done.output)
    if not split.exists():
        rows = read_pictures(run).select("path", "label", "split")
        if arguments.per_class:
            limit = pl.col("split").replace_strict(SMALLER, return_dtype=pl.Float64) * arguments.per_class
            rows = rows.sample(fraction=1, shuffle=True, seed=arguments.seed)
            rows = rows.filter(pl.int_range(pl.len()).over("label", "split") < limit).sort("path")
        rows.write_csv(split)
    return split


def list_turns(tools: list[Tool], every: int) -> list[Tool]:
    """Return the tools with bestiary before the first and after every `every` of them."""
    others = [tool for tool in tools if tool is not BESTIARY] or tools
    turns = [turn for start in range(0, len(others), every) for turn in (BESTIARY, *others[start : start + every])]
    return list(dict.fromkeys(turns)) if others == [BESTIARY] else turns


def note_circumstances(bench: Bench, tools: list[Tool], split: Path, seed: int) -> None:
    rows = read_rows(split)
    counts = {name: sum(row["split"] == name for row in rows) for name in ("train", "val", "test")}
    bench.results |= {
        "processor": read_processor_name(),
        "cores": count_cores(),
        "threads": THREADS,
        "pictures": {"files": len(list_class_files(bench.pictures)), "used": len(rows), "seed": seed, **counts},
    }
    for tool in tools:
        bench.entry(tool)["versions"] = read_versions(bench, tool)
    bench.save()


def read_versions(bench: Bench, tool: Tool) -> dict[str, str]:
    program = (
        "import importlib.metadata as m, json, platform, sys; "
        "print(json.dumps({'python': platform.python_version()} | {n: m.version(n) for n in sys.argv[1:]}))"
    )
    if not bench.python(tool).exists():
        return {}
    done = run_measured([bench.python(tool), "-c", program, *tool.packages], os.environ, bench.work, 60)
    return dict(json.loads(done.output)) if done.code == 0 else {}


# ---- Training and prediction ---------------------------------------------------------------------------------------


def measure_training(bench: Bench, tool: Tool, split: Path) -> None:
    """Train, then predict all test pictures; keep the answers of the last round for the scores."""
    entry, model = bench.entry(tool), bench.model(tool)
    shutil.rmtree(model, ignore_errors=True)
    weights = ("--weights", bench.work / f"{tool.weights}.pt") if tool.weights else ()
    done = bench.run(tool, "train", split, model, *weights, *tool.options)
    report(tool, "train", done)
    if done.code:
        entry["not_run"] = f"train ended with {done.code}: {last_line(done.output, bench.work)}"
        shutil.rmtree(model, ignore_errors=True)
        bench.save()
        return
    entry.pop("not_run", None)
    entry |= json.loads((model / "facts.json").read_text(encoding="utf-8"))
    entry.setdefault("train", []).append(done.figures())
    bench.save()
    done = run_prediction(bench, tool, write_paths(bench, split), answers_path(bench, tool))
    report(tool, "predict", done)
    entry.setdefault("predict", []).append(done.figures())
    bench.save()


def run_prediction(bench: Bench, tool: Tool, paths: Path, answers: Path, *, memory: bool = True) -> Measured:
    """Label pictures with a trained tool; raises SystemExit with its output if it fails."""
    answers.unlink(missing_ok=True)
    done = bench.run(tool, "predict", bench.model(tool), paths, answers, memory=memory)
    if done.code:
        raise SystemExit(done.output)
    return done


def measure_cold_starts(bench: Bench, tools: list[Tool], split: Path) -> None:
    """Time fresh processes that predict one picture, the tools in turn; one more first, which reads the files in."""
    path = write_paths(bench, split, limit=1)
    runs: dict[str, list[Measured]] = {tool.name: [] for tool in tools}
    for _ in range(COLD_RUNS + 1):
        for tool in tools:
            done = run_prediction(bench, tool, path, bench.work / "one.csv", memory=False)
            runs[tool.name].append(done)
    for tool in tools:
        counted = runs[tool.name][1:]
        seconds, cpu_seconds = [done.seconds for done in counted], [done.cpu_seconds for done in counted]
        loads = [done.load[0] for done in counted]
        bench.entry(tool)["cold_start"] = {"seconds": seconds, "cpu_seconds": cpu_seconds, "load": loads}
        print(f"{tool.name:15} cold start {statistics.median(seconds):.2f} s", flush=True)
    bench.save()


# ---- Files, splits, exports, sizes ---------------------------------------------------------------------------------


def measure_broken(bench: Bench, tool: Tool, split: Path) -> None:
    outcomes = {}
    for kind in WRITERS:
        folder = bench.work / "broken" / kind.replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        small = write_small_split(read_rows(split), folder, kind)
        weights = ("--weights", bench.work / f"{tool.weights}.pt") if tool.weights else ()
        options = [*tool.options, "--epochs", "3"]  # fastai leaves the last part of a batch out of each epoch
        model = folder / "model"
        done = bench.run(
            tool, "train", small, model, *weights, *options, timeout_seconds=SMALL_TIMEOUT_SECONDS, memory=False
        )
        outcome = {"outcome": describe_outcome(done, model)}
        if done.code:
            outcome["error"] = last_line(done.output, folder)
        outcomes[kind] = outcome
        (bench.work / f"broken-{tool.name}-{kind.replace(' ', '-')}.txt").write_text(done.output, encoding="utf-8")
        print(f"{tool.name:15} {kind}: {outcome}", flush=True)
    bench.entry(tool)["broken"] = outcomes
    bench.save()


def measure_split(bench: Bench, tool: Tool, split: Path) -> None:
    """Count the pairs of near-duplicates that the tool's own splitter would tear."""
    pairs = read_duplicate_pairs(bench.work / "split-run")
    entry = bench.entry(tool)
    if tool.environment == BESTIARY.environment:
        parts = {row["path"]: row["split"] for row in read_rows(split)}
    elif not tool.splitter:
        entry["split"] = {"how": "has no splitter"}
        bench.save()
        return
    else:
        table = bench.work / f"parts-{tool.name}.csv"
        done = bench.run(tool, "split", bench.pictures, table, memory=False)
        if done.code:
            raise SystemExit(done.output)
        parts = {row["path"]: row["part"] for row in read_rows(table)}
    entry["split"] = {"how": tool.splitter, "torn": count_torn_pairs(pairs, parts), "pairs": len(pairs)}
    print(f"{tool.name:15} {entry['split']}", flush=True)
    bench.save()


def measure_size(bench: Bench, tool: Tool, _: Path) -> None:
    bench.entry(tool).update(measure_environment(bench.environments / tool.environment))
    bench.save()


def measure_export(bench: Bench, tool: Tool, split: Path) -> None:
    """Count the test pictures that the exported model labels differently from the trained one."""
    entry = bench.entry(tool)
    if tool.no_export:
        entry["export"] = {"how": tool.no_export}
        bench.save()
        return
    answers = bench.work / f"exported-{tool.name}.csv"
    done = bench.run(tool, "export", bench.model(tool), write_paths(bench, split), answers, memory=False)
    if done.code:
        entry["export"] = {"how": "failed", "error": last_line(done.output, bench.work)}
    else:
        trained = {row["path"]: row["label"] for row in read_rows(answers_path(bench, tool))}
        changed = sum(trained[row["path"]] != row["label"] for row in read_rows(answers))
        how = json.loads((bench.model(tool) / "facts.json").read_text(encoding="utf-8"))["export"]
        entry["export"] = {"how": how, "changed": changed, "of": len(trained)}
    print(f"{tool.name:15} {entry['export']}", flush=True)
    bench.save()


def score(bench: Bench) -> None:
    test = [row["path"] for row in read_rows(bench.work / "split.csv") if row["split"] == "test"]
    pictures = read_pictures(bench.work / "split-run").filter(pl.col("path").is_in(test))
    answers = {tool.name: answers_path(bench, tool) for tool in TOOLS if answers_path(bench, tool).exists()}
    for name, scores in score_answers(answers, pictures, BESTIARY.name).items():
        bench.results["tools"][name] |= scores
    bench.save()


# ---- Helpers -------------------------------------------------------------------------------------------------------


def answers_path(bench: Bench, tool: Tool) -> Path:
    return bench.work / f"answers-{tool.name}.csv"


def write_paths(bench: Bench, split: Path, limit: int | None = None) -> Path:
    """Write the paths of the test pictures, or of the first ones, one a line."""
    paths = [row["path"] for row in read_rows(split) if row["split"] == "test"][:limit]
    target = bench.work / ("paths.txt" if limit is None else "one.txt")
    target.write_text("\n".join(paths), encoding="utf-8")
    return target


def report(tool: Tool, what: str, done: Measured) -> None:
    figures = f"{done.seconds:.0f} s, processor {done.cpu_seconds:.0f} s, {done.peak_mb:.0f} MB, load {done.load[0]}"
    print(f"{tool.name:15} {what}: code {done.code}, {figures}", flush=True)


if __name__ == "__main__":
    main()
