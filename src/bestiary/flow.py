"""The whole story: pictures -> table -> audit -> splits -> model -> sealed graph -> predictions -> metrics -> report.

Read this first. Every command is a thin function over what stands here.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl

from bestiary import table
from bestiary.batches.decoding import View
from bestiary.data.preparation import Audited, audited, divided
from bestiary.deliver.report import write_report
from bestiary.errors import InterruptedRun, RunError, SourceError
from bestiary.evaluation.calibration import choose_threshold, fit_temperature
from bestiary.evaluation.classification_report import classification_report
from bestiary.evaluation.curves import overfitting_sentence, path_sentence
from bestiary.evaluation.predictions import judge, prediction_table
from bestiary.inference.bundle import read_bundle
from bestiary.inference.graph import Calibration
from bestiary.inference.predictor import Predictor
from bestiary.inference.sealing import Model, prove_parity, unproven, validation_answers, write_model
from bestiary.machine import Clock, PeakMemory, cache_folder, cores, write_text
from bestiary.picture import Limits
from bestiary.progress import Reporter, Silent
from bestiary.recipe import Recipe
from bestiary.training import run_folder
from bestiary.training.methods import LEARN, refuse_impossible
from bestiary.training.session import Session, held, session
from bestiary.training.task import Learned, Task

SILENT = Silent()


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and what `metrics.json` says."""

    path: Path
    metrics: dict[str, Any]


def audit(
    pictures: Path | str,
    *,
    labels: str | None = None,
    recipe: Recipe | None = None,
    threads: int | None = None,
    reporter: Reporter = SILENT,
) -> Audited:
    """Return the pictures of a folder or table, measured and grouped, with everything found wrong with them."""
    settings = (recipe or Recipe()).resolved()
    limits = Limits(settings.picture.max_bytes, settings.picture.max_pixels)
    workers, cache = threads or cores(), cache_folder()
    return audited(Path(pictures), labels, settings.data, limits, threads=workers, cache=cache, reporter=reporter)


def train(
    pictures: Path | str,
    *,
    labels: str | None = None,
    recipe: Recipe | None = None,
    out: Path | str | None = None,
    threads: int | None = None,
    reporter: Reporter = SILENT,
) -> Run:
    """Return a finished run: the pictures audited and split, a model trained, sealed, judged and reported.

    pictures: a folder per class, folders already split, or a table; labels: a map of folder names to labels.
    Raises UserError for what the user can mend, IntegrityError if a proof fails, InterruptedRun on Ctrl-C.
    """
    asked, clock, workers = recipe or Recipe(), Clock(), threads or cores()
    out = None if out is None else Path(out)
    refuse_impossible(asked)
    run_folder.refuse_taken(out)
    with PeakMemory() as memory:
        # ---- Pictures: measured, audited, split --------------------------------------------------------------------
        with clock.stage("audit"):
            collection = audit(pictures, labels=labels, recipe=asked, threads=workers, reporter=reporter)
            shown, digest = divided(collection, asked.data, seed=asked.seed)
        reporter.say(_described(shown, collection))

        # ---- The run folder: nothing is written before the pictures are known to be good ---------------------------
        source = {"pictures": str(Path(pictures).absolute()), "labels": labels, "threads": workers}
        left_over = {"split digest": digest, "passed over": dict(collection.passed_over)}

        def contents(folder: Path) -> None:
            run_folder.write_json(folder / "environment.json", run_folder.environment(source | left_over))
            table.write(shown, folder / "pictures.parquet")
            table.write(collection.findings, folder / "findings.parquet")

        run = run_folder.create(out, asked, contents=contents)
        with _resumable(run), session(run, clock, memory) as account:
            return _finish(run, threads=workers, clock=clock, account=account, reporter=reporter)


def resume(run: Path | str, *, threads: int | None = None, reporter: Reporter = SILENT) -> Run:
    """Return the finished run that an interrupted one becomes, from its pictures, recipe and last checkpoint.

    However it ended (Ctrl-C, a full disk, SIGKILL), the scores are those of the run that was not interrupted; its
    seconds are those of all sessions. Raises RunError if it is finished, or in use by another process.
    """
    run, clock = Path(run), Clock()
    run_folder.recipe_of(run)
    with PeakMemory() as memory, _resumable(run), session(run, clock, memory) as account:
        if (run / "report.html").exists():
            raise RunError(f"{run} is finished already. Its report: {run / 'report.html'}")
        run_folder.sweep(run)
        times, before = len(account.earlier), account.seconds["total"]
        reporter.say(f"Going on with {run}, after {times} session{'s' * (times > 1)} of {before:.0f} s in all.")
        run_folder.note(run, {"resumed": f"{times} time{'s' * (times > 1)}; the seconds are those of all sessions"})
        if (run / "metrics.json").exists():  # the test split was scored: scoring it twice would have to be counted
            return _reported(run, run_folder.read_json(run / "metrics.json"), clock, account)
        return _finish(run, threads=threads or cores(), clock=clock, account=account, reporter=reporter, resume=True)


def evaluate(run: Path | str, *, threads: int | None = None, reporter: Reporter = SILENT) -> Run:
    """Score a finished run on its own test split once more; the run counts that, and its report says so."""
    run = Path(run)
    recipe, before = run_folder.resolved_of(run), run_folder.read_json(run / "metrics.json")
    with held(run):
        shown, old = _pictures_of(run), table.read(run / "predictions.parquet", table.PREDICTIONS)
        test = shown.filter(pl.col("split") == "test").sort("row_id")
        predictions = _predicted(run, test, threads=threads or cores(), reporter=reporter)
        metrics = {**before, **_judged(run, predictions, shown, recipe), "test_scored": before["test_scored"] + 1}
        table.write(pl.concat([predictions, old.filter(pl.col("split") != "test")]), run / "predictions.parquet")
        _write(run, metrics)
    return Run(run, metrics)


def _finish(
    run: Path, *, threads: int, clock: Clock, account: Session, reporter: Reporter, resume: bool = False
) -> Run:
    """Train, seal, judge and report what a run folder describes."""
    recipe, shown = run_folder.resolved_of(run), _pictures_of(run)
    classes = tuple(sorted(shown.filter(pl.col("split") == "train")["label"].unique()))
    task = Task(recipe, shown, classes, _view(recipe), run, cache_folder(), threads, reporter, clock, resume)

    # ---- Model: learned, calibrated on validation, sealed, held against itself -------------------------------------
    with clock.stage("train"):
        learned = LEARN[recipe.model.method](task)
        sealed = _seal(task, learned)
    run_folder.note(run, learned.notes)

    # ---- Judgement: the test pictures, from their files, through the predictor that users get ----------------------
    with clock.stage("evaluate"):
        test, val = (shown.filter(pl.col("split") == split) for split in ("test", "val"))
        predictions = _predicted(run, test, threads=threads, reporter=reporter)
        known = prediction_table(val, validation_answers(sealed, learned.val_logits), classes)
        table.write(pl.concat([predictions, known]), run / "predictions.parquet")
        scored = _judged(run, predictions, shown, recipe)

    # ---- Report ----------------------------------------------------------------------------------------------------
    curve = path_sentence if recipe.model.method == "probe" else overfitting_sentence
    metrics = scored | {"test_scored": 1, "overfitting": curve(learned.history)}
    return _reported(run, metrics | {"temperature": sealed.calibration.temperature}, clock, account)


def _reported(run: Path, metrics: dict[str, Any], clock: Clock, account: Session) -> Run:
    """Write what came out and the report of it, and note how long all of it took."""
    with clock.stage("report"):
        _write(run, metrics | {"seconds": account.seconds, "peak_rss_mb": account.peak_megabytes})
    metrics |= {"seconds": account.seconds, "peak_rss_mb": account.peak_megabytes}
    run_folder.write_json(run / "metrics.json", metrics)
    if run.parent == run_folder.RUNS:
        run_folder.point_latest(run)
    return Run(run, metrics)


@contextmanager
def _resumable(run: Path) -> Iterator[None]:
    """Turn Ctrl-C into an error that says how to go on."""
    try:
        yield
    except KeyboardInterrupt:
        raise InterruptedRun(run) from None


def _seal(task: Task, learned: Learned) -> Model:
    """Fit temperature and threshold on validation, write the graph that holds them, prove that it agrees; return it."""
    val, coverage, model = task.part("val"), task.recipe.evaluate.coverage, task.recipe.model
    temperature = fit_temperature(learned.val_logits, val.labels)
    calibration = Calibration.of(learned.val_logits, temperature)
    threshold = choose_threshold(calibration.familiarity(learned.val_logits), coverage)
    backbone = model.network if model.method == "scratch" else model.backbone
    sealed = Model(
        learned.trunk, learned.head, calibration, threshold, coverage, task.classes, task.view, model.method, backbone
    )
    with unproven(task.run) as place:  # nobody can use the run before the proof
        write_model(sealed, place)
        prove_parity(place, val.paths, learned.reference, learned.val_logits, threads=task.threads)
    return sealed


def _predicted(run: Path, pictures: pl.DataFrame, *, threads: int, reporter: Reporter) -> pl.DataFrame:
    """Return the prediction table of these pictures, from their files, through the predictor that users get."""
    predictor = Predictor(run, threads=threads, engine="fastest")
    with reporter.task("Predicting", pictures.height) as advance:
        answers = []
        for answer in predictor.predict_many(Path(path) for path in pictures["path"]):
            if answer.error is not None:
                raise SourceError(f"{answer.error} It could be read before: do not change the pictures during a run.")
            answers.append(answer)
            advance(1)
    return prediction_table(pictures, answers, predictor.classes)


def _judged(run: Path, predictions: pl.DataFrame, shown: pl.DataFrame, recipe: Recipe) -> dict[str, Any]:
    """Return the metrics of test predictions, with intervals from resampling groups of duplicates."""
    bundle = read_bundle(run)
    groups = predictions.join(shown.select("row_id", "group"), on="row_id", how="left", maintain_order="left")["group"]
    metrics = judge(
        predictions,
        groups.to_numpy(),
        bundle.classes,
        threshold=bundle.threshold,
        resamples=recipe.evaluate.resamples,
        seed=recipe.seed,
    )
    return {"split": "test", **metrics}


def _write(run: Path, metrics: dict[str, Any]) -> None:
    run_folder.write_json(run / "metrics.json", metrics)
    write_text(run / "classification_report.txt", classification_report(metrics))
    write_report(run)


def _pictures_of(run: Path) -> pl.DataFrame:
    return table.read(run / "pictures.parquet", table.PICTURES)


def _view(recipe: Recipe) -> View:
    assert recipe.picture.size is not None  # a resolved recipe has it
    limits = Limits(recipe.picture.max_bytes, recipe.picture.max_pixels)
    return View(recipe.picture.size, recipe.picture.fit, limits)


def _described(pictures: pl.DataFrame, collection: Audited) -> str:
    """Return one sentence on what will be used."""
    used = pictures.filter(pl.col("split").is_not_null())
    parts = {name: used.filter(pl.col("split") == name).height for name in table.SPLITS}
    left_out = pictures.height - used.height
    groups = used.height - used["group"].n_unique()
    return (
        f"{used.height:,} pictures of {used['label'].n_unique()} classes: {parts['train']:,} to train,"
        f" {parts['val']:,} to validate, {parts['test']:,} to test. {groups:,} duplicates kept on one side,"
        f" {left_out:,} files left out, {collection.findings.height:,} findings."
    )
