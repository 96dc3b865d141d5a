"""The facts about a run that its verdict and its next steps follow from."""

from __future__ import annotations

import shlex
import tomllib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from bestiary.errors import RecipeError
from bestiary.evaluation.slices import macro_f1_from_confusion
from bestiary.install_command import install_command
from bestiary.label_issue_summary import LabelIssueSummary
from bestiary.models.backbones import backbone_names, is_graph
from bestiary.recipe import Recipe
from bestiary.recipe_sections import BACKBONE_SIZES
from bestiary.report.commands import compare_command, reset_options, retrain_command
from bestiary.report.run_files import RunFiles

FEW_GROUPS = 10  # different pictures of a class that folds need
LABEL_CHECK = "suspect-label"


@dataclass(frozen=True)
class RunSummary:
    """The facts about a run that the steps follow from.

    train_counts: training pictures by class; issues: findings by check; suspects: suspect labels by split;
    label_issues: how many of them are expected to be wrong, None in older runs; relabelling_gain: rise of the test
    macro-F1 if the suspect labels in the test split were the suggested ones; suspect_mistakes: how many test pictures
    with a suspect label are mistakes, by true and predicted class; label_check: the reason why labels were not checked,
    empty if they were, None in older runs; run: quoted for a shell; size: of the input in pixels; finetune, full_size,
    lite2, folds, compare: commands that train on the same pictures in another way, and that compare the result, empty
    where they would fail; torch: the command that installs it, empty if it is.
    """

    metrics: Mapping[str, Any]
    train_counts: Mapping[str, int]
    history: Sequence[Mapping[str, Any]] = ()
    issues: Mapping[str, int] = field(default_factory=dict)
    suspects: Mapping[str, int] = field(default_factory=dict)
    relabelling_gain: float | None = None
    label_issues: LabelIssueSummary | None = None
    suspect_mistakes: Mapping[tuple[str, str], int] = field(default_factory=dict)
    label_check: str | None = None
    lessons: Mapping[str, Any] = field(default_factory=dict)
    method: str = ""
    run: str = "RUN"
    finetune: str = "bestiary train PICTURES --method finetune"
    backbone: str = ""
    size: int = 0
    full_size: str = ""
    lite2: str = ""
    folds: str = ""
    compare: str = ""
    torch: str = ""

    @property
    def is_doubtful(self) -> bool:
        """Whether most of the suspect labels are expected to be correct."""
        return self.label_issues is not None and self.label_issues.is_doubtful


def summarise_run(run: RunFiles) -> RunSummary:
    """Return the facts about a run that its verdict and its next steps follow from."""
    marked = run.findings.filter(pl.col("is_issue") & (pl.col("check") == LABEL_CHECK))
    of_suspects = run.pictures.filter(pl.col("row_id").is_in(marked["row_id"].implode()))
    train = run.pictures.filter(pl.col("split") == "train")["label"]
    recipe, requested = run.folder / "asked.toml", _read_requested(run)
    corrections: Path | None = run.folder / "corrections.csv"
    backbone, size = str(run.bundle.get("backbone", "")), int(run.bundle.get("size") or 0)
    groups = (
        run.pictures.filter(pl.col("split").is_not_null())
        .group_by("label", maintain_order=True)
        .agg(pl.col("group").n_unique())
    )
    can_fold = groups.height > 0 and bool((groups["group"] >= FEW_GROUPS).all())
    native, largest = str(BACKBONE_SIZES.get(backbone, "")), str(BACKBONE_SIZES["lite2"])
    own_size = ("--set", f"picture.size={largest}") if size != BACKBONE_SIZES.get(backbone) else ()
    corrections = corrections if corrections is not None and corrections.exists() else None
    command = partial(retrain_command, recipe, run.environment, corrections)
    names, chosen, same = backbone_names(requested.model.backbone), requested.model.backbone, list[str]()
    if len(names) > 1:  # of several, only the chosen one can be cross-validated or fine-tuned
        chosen = str(tomllib.loads(run.resolved)["model"]["backbone"])
        same = ["--backbone", chosen, *reset_options(requested, chosen)]
    finetune = ["--method", "finetune", *same[:2], *reset_options(requested, chosen, "finetune")]
    lite2 = ["--backbone", "lite2", *reset_options(requested, "lite2"), *own_size]
    return RunSummary(
        run.metrics,
        {str(label): n for label, n in Counter(train.to_list()).items()},
        run.history,
        {count.check.name: count.issues for count in run.finding_counts.checks if count.issues},
        Counter(of_suspects["split"].drop_nulls().to_list()),
        _relabelling_gain(run, marked),
        run.label_issues,
        _count_suspect_mistakes(run, marked),
        _read_label_check(run),
        run.lessons,
        str(run.bundle.get("method", "")),
        shlex.quote(str(run.folder)),
        "" if is_graph(chosen) else command(*finetune),
        backbone,
        size,
        command("--set", f"picture.size={native}", *same) if native else "",
        "" if len(names) > 1 and "lite2" in names else command(*lite2),
        command("--folds", "5", "--split", "resplit", *same) if can_fold else "",
        compare_command(run.folder),
        "" if find_spec("torch") else install_command("torch"),
    )


def _read_requested(run: RunFiles) -> Recipe:
    """Return the requested recipe; the default one where it is of another version, and no command could use it."""
    try:
        return Recipe.of(tomllib.loads(run.requested))
    except RecipeError:
        return Recipe()


def _read_label_check(run: RunFiles) -> str | None:
    skipped = run.environment.get("skipped checks")
    return None if skipped is None else str(skipped.get(LABEL_CHECK, ""))


def _count_suspect_mistakes(run: RunFiles, label_issues: pl.DataFrame) -> Mapping[tuple[str, str], int]:
    """Return how many mistakes on test pictures have a suspect label, by true and predicted class."""
    mistakes = run.predictions.filter((pl.col("split") == "test") & (pl.col("label") != pl.col("predicted")))
    rows = mistakes.join(label_issues.select("row_id"), on="row_id", how="semi", maintain_order="left")
    return Counter((str(label), str(predicted)) for label, predicted in rows.select("label", "predicted").iter_rows())


def _relabelling_gain(run: RunFiles, label_issues: pl.DataFrame) -> float | None:
    """Return the rise of macro-F1 if the suspect labels of the test split were the suggested ones."""
    labels = run.metrics["confusion"]["labels"]
    index = {label: at for at, label in enumerate(labels)}
    counts = np.array(run.metrics["confusion"]["counts"], np.float64).reshape(len(labels), len(labels))
    test = run.predictions.filter(pl.col("split") == "test").select("row_id", "label", "predicted")
    before = macro_f1_from_confusion(counts)
    issues = label_issues.filter(pl.col("suggested_label").is_in(labels)).select("row_id", "suggested_label")
    rows = test.join(issues, on="row_id", maintain_order="left").drop_nulls()
    for label, predicted, suggested in rows.select("label", "predicted", "suggested_label").iter_rows():
        counts[index[label], index[predicted]] -= 1
        counts[index[suggested], index[predicted]] += 1
    return macro_f1_from_confusion(counts) - before if rows.height else None
