"""External validation: shift first, copies left out, unknown classes apart, the run unchanged."""

from __future__ import annotations

import shutil
import threading
import time
import tomllib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import tomli_w
from PIL import Image, ImageOps

pytest.importorskip("sklearn")
from scipy.stats import fisher_exact, hypergeom, norm

from bestiary import files, table
from bestiary.context import Context
from bestiary.data.dataset import DataSource
from bestiary.data.formats.read_options import make_read_options
from bestiary.demo.dataset import SyntheticDataset, draw_ood_image
from bestiary.errors import SourceError
from bestiary.evaluation import external
from bestiary.evaluation.corruptions import evaluate_corrupted
from bestiary.evaluation.metrics import compute_metrics
from bestiary.evaluation.shift import _power, distribution_shift, within_class_auroc, within_class_rates
from bestiary.progress import SilentReporter
from bestiary.report.text_tables import format_corruption_table, format_external_evaluation


@pytest.fixture(scope="module")
def run(probed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(shutil.copytree(probed, tmp_path_factory.mktemp("elsewhere") / "run"))


@pytest.fixture(scope="module")
def others(run: Path, collection: SyntheticDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fresh birds and fish, a class that the model does not know, and copies of pictures it has learnt from."""
    folder = tmp_path_factory.mktemp("others") / "others"
    for name in ("bird", "fish"):
        shutil.copytree(collection.folder / name, folder / name)
    (folder / "nothing").mkdir()
    for seed in range(8):
        draw_ood_image(seed).save(folder / "nothing" / f"{seed}.png")
    learnt = table.read(run / "pictures.parquet", table.PICTURES).filter(pl.col("label") == "bird")
    for split, many in (("train", 3), ("val", 1), ("test", 1)):
        for path in learnt.filter(pl.col("split") == split)["path"].head(many):
            shutil.copy(path, folder / "bird" / f"{split}-{Path(path).name}")
    return folder


@pytest.fixture(scope="module")
def found(run: Path, others: Path) -> external.ExternalEvaluation:
    return external.evaluate_external(run, DataSource(others), Context(2))


def test_the_result_lies_in_the_run_alone(run: Path, probed: Path, found: external.ExternalEvaluation) -> None:
    assert found.path == run / "evaluations" / "others"
    assert files.read_json(found.path / "metrics.json").keys() == {"run", "source", *found.metrics}
    for name in ("metrics.json", "predictions.parquet", "bundle.json", "report.html"):
        assert (run / name).read_bytes() == (probed / name).read_bytes()


def test_a_column_of_groups_that_other_pictures_lack_is_no_obstacle(run: Path, others: Path, tmp_path: Path) -> None:
    own = Path(shutil.copytree(run, tmp_path / "run"))
    values = tomllib.loads((own / "resolved.toml").read_text(encoding="utf-8"))
    values["data"] |= {"group": "Burst", "site": "Camera"}
    (own / "resolved.toml").write_text(tomli_w.dumps(values), encoding="utf-8")
    rows = [f"{path},{path.parent.name},{number // 2}" for number, path in enumerate(sorted(others.glob("*/*.*"))[:20])]
    source = tmp_path / "other.csv"
    source.write_text("\n".join(["path,label,Burst", *rows]), encoding="utf-8")
    metrics = external.evaluate_external(own, DataSource(source), Context(2)).metrics
    messages = [notice["message"] for notice in metrics["notices"]]
    assert 'There is no column "Camera": the sites of the run are not used.' in messages
    assert any('by the column "Burst": 20 pictures, at most 2 of a group. Intervals' in message for message in messages)
    source.write_text("\n".join(["path,label,Seq", *rows]), encoding="utf-8")
    named = DataSource(source, reading=make_read_options(columns="group=Seq"))
    metrics = external.evaluate_external(own, named, Context(2)).metrics
    assert any("by the source: 20 pictures" in notice["message"] for notice in metrics["notices"])


def test_copies_of_learnt_pictures_are_left_out(found: external.ExternalEvaluation) -> None:
    names = [Path(path).name for path in table.read(found.path / "predictions.parquet", table.PREDICTIONS)["path"]]
    assert found.metrics["copies"]["train"] >= 3
    assert found.metrics["copies"]["val"] >= 1
    assert found.metrics["copies"]["test"] >= 1
    assert not [name for name in names if name.startswith(("train-", "val-"))]
    assert [name for name in names if name.startswith("test-")]


def test_each_picture_is_scored_or_has_a_reason(found: external.ExternalEvaluation) -> None:
    pictures = table.read(found.path / "pictures.parquet", table.PICTURES)
    assert (pictures["split"].is_null() == pictures["error"].is_not_null()).all()
    assert pictures["split"].count() == found.metrics["pictures"]
    [reason] = set(pictures["error"].drop_nulls())
    assert reason == "It is a copy of a picture that the run was trained or calibrated on."


def test_classes_are_told_apart(found: external.ExternalEvaluation) -> None:
    metrics = found.metrics
    assert list(metrics["unknown_classes"]) == ["nothing"]
    said = metrics["unknown_classes"]["nothing"]
    assert said["pictures"] == 8
    assert 0 <= said["low"] <= said["value"] <= said["high"] <= 1
    assert metrics["classes_without_pictures"] == ["rabbit", "spider"]
    assert metrics["n"] == metrics["pictures"] - 8
    f1 = [metrics["per_class"][name]["f1"]["value"] for name in ("bird", "fish")]
    assert metrics["present"]["macro_f1"]["value"] == pytest.approx(np.mean(f1))


def test_where_all_classes_have_pictures_their_mean_has_one_interval() -> None:
    truth = np.array([0, 0, 0, 1, 1, 1])
    shares = np.array([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7], [0.2, 0.8], [0.1, 0.9], [0.4, 0.6]])
    scores = compute_metrics(truth, shares, ["bird", "fish"], resamples=100)
    assert (
        external._present_class_averages(scores)["macro_f1"] == scores["macro_f1"]
    )  # else one number has two intervals


def test_the_shift_is_said_first(found: external.ExternalEvaluation) -> None:
    text = format_external_evaluation(found.metrics)
    assert text.startswith("These pictures")
    assert text.index("in-distribution") < text.index("accuracy")
    assert '"nothing" (8 pictures)' in text
    assert "rabbit, spider" in text
    assert found.metrics["slices"]["sentence"] in text


def test_a_second_evaluation_does_not_write_over_the_first(run: Path) -> None:
    (run / "evaluations" / "two").mkdir(parents=True)
    assert external.next_evaluation_folder(run, "two") == run / "evaluations" / "two-2"
    assert external.next_evaluation_folder(run, "../../x y").parent == run / "evaluations"


def test_evaluations_that_end_at_once_get_a_folder_each(run: Path) -> None:
    start = threading.Barrier(4)

    def contents(folder: Path) -> None:
        folder.mkdir()
        (folder / "metrics.json").write_text("{}")
        start.wait()

    with ThreadPoolExecutor(4) as pool:
        folders = list(pool.map(lambda _: external.create_evaluation_folder(run, "many", contents), range(4)))
    assert sorted(path.name for path in folders) == ["many", "many-2", "many-3", "many-4"]
    assert not list((run / "evaluations").glob(".*"))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "mirrored": ImageOps.mirror,
    "turned": lambda image: image.transpose(Image.Transpose.ROTATE_90),
    "cropped": lambda image: image.crop((image.width // 12, 0, image.width, image.height * 11 // 12)),
    "inverted": ImageOps.invert,
}


def test_changed_copies_of_learnt_pictures_are_left_out(run: Path, others: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(others, tmp_path / "changed"))
    learnt = table.read(run / "pictures.parquet", table.PICTURES).filter(pl.col("label") == "fish")
    paths = learnt.filter(pl.col("split") == "train")["path"].head(len(CHANGES)).to_list()
    for path, (name, change) in zip(paths, CHANGES.items(), strict=True):
        with Image.open(path) as image:
            change(image.convert("RGB")).save(folder / "fish" / f"{name}.png")
    result = external.evaluate_external(run, DataSource(folder), Context(1))
    scored = table.read(result.path / "predictions.parquet", table.PREDICTIONS)["path"].to_list()
    assert not {Path(path).stem for path in scored} & set(CHANGES)


def test_a_run_without_thumbnails_says_which_copies_it_does_not_find(run: Path, others: Path, tmp_path: Path) -> None:
    older = Path(shutil.copytree(run, tmp_path / "older"))
    (older / "thumbnails.parquet").unlink()
    messages: list[str] = []
    reporter = SilentReporter()
    reporter.info = messages.append  # type: ignore[method-assign,assignment]
    result = external.evaluate_external(older, DataSource(others), Context(1, reporter))
    assert result.metrics["copies"]["train"] >= 3  # equal files
    assert [message for message in messages if "mirrored" in message and "older version" in message]


def test_only_copies_are_nothing_to_score(run: Path, tmp_path: Path) -> None:
    learnt = table.read(run / "pictures.parquet", table.PICTURES).filter(pl.col("split") == "train")
    for label in ("bird", "fish"):
        (tmp_path / "only" / label).mkdir(parents=True)
        for path in learnt.filter(pl.col("label") == label)["path"].head(2):
            shutil.copy(path, tmp_path / "only" / label)
    with pytest.raises(SourceError, match="4 are copies"):
        external.evaluate_external(run, DataSource(tmp_path / "only"), Context(1))


def test_the_rank_test_compares_only_within_a_label() -> None:
    labels = np.array(["a"] * 40 + ["b"] * 40)
    is_here = np.array(([False] * 30 + [True] * 10) + ([False] * 10 + [True] * 30))
    by_label = np.where(labels == "b", 10.0, 0.0) + np.tile(np.arange(40) % 7, 2)
    auroc, p = within_class_auroc(by_label, is_here, labels)
    assert 0.3 < auroc < 0.7
    assert p > 0.05
    assert within_class_auroc(is_here * 1.0, is_here, labels)[0] == 1.0
    assert within_class_auroc(np.arange(3.0), np.array([True, False, True]), np.array(["a", "b", "c"])) == (0.5, 1.0)


def answers(n: int, familiarity: float, seed: int, mix: tuple[float, float] = (0.5, 0.5)) -> pl.DataFrame:
    rng = np.random.default_rng(seed)
    labels = rng.choice(["a", "b"], n, p=mix)
    known = 1 / (1 + np.exp(-rng.normal(familiarity, 1, n)))
    p = np.clip(np.where(labels == "a", 0.8, 0.2) + rng.normal(0, 0.05, n), 0.01, 0.99)
    columns = {"label": labels, "predicted": labels, "familiarity": known, "p_a": p, "p_b": 1 - p}
    return pl.DataFrame(columns)


@pytest.mark.parametrize(
    ("familiarity", "mix", "word"),
    [(0.0, (0.5, 0.5), "near"), (0.0, (0.9, 0.1), "near"), (-1.0, (0.5, 0.5), "shifted"), (-3.0, (0.5, 0.5), "far")],
)
def test_how_far_pictures_are(familiarity: float, mix: tuple[float, float], word: str) -> None:
    known, here = answers(300, 0.0, seed=0), answers(200, familiarity, seed=1, mix=mix)
    found = distribution_shift(known, here, ["a", "b"], threshold=0.05)
    assert found["verdict"] == word
    assert ("class proportions differ" in found["sentence"]) == (mix != (0.5, 0.5))
    assert 0 <= found["familiarity"]["answered"] <= 1


def test_too_few_pictures_are_called_too_few() -> None:
    found = distribution_shift(answers(300, 0, seed=0), answers(5, -3, seed=1), ["a", "b"], threshold=0.05)
    assert found["verdict"] == "unclear"
    assert found["classifier"] is None
    assert distribution_shift(answers(9, 0, seed=0), answers(5, 0, seed=1), ["x"], threshold=0.05)["verdict"] == "far"


@pytest.mark.slow
def test_spoilt_pictures_are_harder(run: Path) -> None:
    pytest.importorskip("imagecorruptions")
    rows: list[dict[str, Any]] = evaluate_corrupted(run, threads=2, reporter=SilentReporter()).to_dicts()
    assert (run / "evaluations" / "corruptions.parquet").exists()
    clean = next(row for row in rows if row["corruption"] == "none")
    strongest = [row["accuracy"] for row in rows if row["strength"] == 5]
    assert len(rows) == 1 + 5 * len(strongest)
    assert np.mean(strongest) < clean["accuracy"]
    text = format_corruption_table(rows)
    assert "jpeg compression" in text


def rows_of(answered: list[bool], labels: list[str] | None = None, groups: list[int] | None = None) -> pl.DataFrame:
    """Predictions of classes a and b, each as sure as the others, answered or not."""
    rng = np.random.default_rng(len(answered))
    names = labels or ["ab"[row % 2] for row in range(len(answered))]
    familiarity = [float(rng.uniform(0.4, 0.9) if is_in else rng.uniform(0.1, 0.2)) for is_in in answered]
    p = rng.uniform(0.45, 0.55, len(answered))
    columns: dict[str, Any] = {"label": names, "predicted": names, "familiarity": familiarity, "p_a": p, "p_b": 1 - p}
    return pl.DataFrame(columns | ({} if groups is None else {"group": groups}))


def test_a_fall_of_the_answered_fraction_is_tested_by_itself() -> None:
    """16 validation pictures, all answered, and 52 others, half of them answered: Fisher's exact test sees it."""
    found = distribution_shift(
        rows_of([True] * 16), rows_of([True, True, False, False] * 13), ["a", "b"], threshold=0.3
    )
    assert found["verdict"] == "far"
    assert found["familiarity"]["p_answered"] < 0.001
    assert found["classifier"] is None


def test_the_exact_test_equals_fishers_within_one_label_and_ignores_proportions() -> None:
    is_current = np.array([False] * 16 + [True] * 52)
    answered = np.array([True] * 16 + [True] * 27 + [False] * 25)
    expected, p = within_class_rates(answered, is_current, np.array(["a"] * 68))
    assert expected == 1.0
    assert p == pytest.approx(fisher_exact(np.array([[16, 0], [27, 25]])).pvalue)
    # Class b is answered half as often, before and now; only its proportion grows.
    labels = np.array(["a"] * 40 + ["b"] * 10 + ["a"] * 10 + ["b"] * 40)
    answered = np.array([True] * 40 + [True, False] * 5 + [True] * 10 + [True, False] * 20)
    expected, p = within_class_rates(answered, np.arange(100) >= 50, labels)
    assert expected == pytest.approx(0.6)
    assert p == pytest.approx(1.0)
    assert within_class_rates(np.ones(2, bool), np.array([True, False]), np.array(["a", "b"])) == (1.0, 1.0)


@pytest.mark.parametrize("fall", [0.0, 0.01, 0.05, 0.3])
def test_the_exact_test_leaves_only_negligible_chances_out(fall: float) -> None:
    rng = np.random.default_rng(0)
    labels, is_current = rng.integers(0, 5, 6000), rng.random(6000) < 0.5
    answered = rng.random(6000) < 0.9 - fall * is_current
    chances = np.ones(1)
    for label in range(5):
        own, current = labels == label, is_current & (labels == label)
        exact = hypergeom(int(own.sum()), int(answered[own].sum()), int(current.sum()))
        chances = np.convolve(chances, exact.pmf(np.arange(current.sum() + 1)))
    whole = chances[chances <= chances[int(answered[is_current].sum())] * (1 + 1e-7)].sum()
    assert within_class_rates(answered, is_current, labels)[1] == pytest.approx(whole, rel=1e-6, abs=1e-25)


def test_the_exact_test_of_many_pictures_is_quick() -> None:
    """Convolving whole distributions took 2.6 s of 100,000 pictures, and four times as much of twice as many."""
    rng = np.random.default_rng(0)
    labels, is_current = rng.integers(0, 10, 200_000), rng.random(200_000) < 0.5
    started = time.process_time()
    _, p = within_class_rates(rng.random(200_000) < 0.9, is_current, labels)
    assert time.process_time() - started < 1
    assert p > 0.001


@pytest.mark.parametrize(
    ("validation", "current", "verdict"),
    [(16, 52, "unclear"), (300, 30, "unclear"), (30, 300, "unclear"), (300, 100, "near"), (120, 120, "near")],
)
def test_pictures_are_near_only_if_a_shift_would_have_been_detected(
    validation: int, current: int, verdict: str
) -> None:
    found = distribution_shift(rows_of([True] * validation), rows_of([True] * current), ["a", "b"], threshold=0.3)
    assert found["verdict"] == verdict
    assert found["power"]["enough"] == (verdict == "near")
    assert ("too few to tell" in found["sentence"]) == (verdict == "unclear")
    assert found["sentence"].startswith("These pictures")


def test_the_power_is_as_stated() -> None:
    """A shift of the AUROC that is called detectable is detected about four times out of five."""
    rng = np.random.default_rng(0)
    labels, is_current = np.array(["a"] * 90 + ["b"] * 90), np.tile([True, False, False], 60)
    detectable = _power(is_current, labels, 1.0)["detectable_auroc"]
    offset = np.sqrt(2) * norm.ppf(detectable)
    detected = [
        within_class_auroc(rng.normal(size=180) + offset * is_current, is_current, labels)[1] < 0.01 for _ in range(300)
    ]
    assert 0.7 < np.mean(detected) < 0.9


def test_a_smaller_fall_that_is_certain_is_a_shift() -> None:
    fewer = [True] * 340 + [False] * 60
    found = distribution_shift(rows_of([True] * 400), rows_of(fewer), ["a", "b"], threshold=0.3)
    assert found["verdict"] == "shifted"


def test_duplicates_decide_once() -> None:
    """Fifty frames of one moment are one picture, however far they are from validation."""
    reference, frames = rows_of([True] * 200), [False] * 50 + [True] * 30
    as_single = distribution_shift(reference, rows_of(frames, groups=list(range(80))), ["a", "b"], threshold=0.3)
    labels = ["a"] * 50 + ["a", "b"] * 15
    burst = rows_of(frames, labels, groups=[0] * 50 + list(range(1, 31)))
    found = distribution_shift(reference, burst, ["a", "b"], threshold=0.3)
    assert as_single["verdict"] == "far"
    assert found["verdict"] == "unclear"
    assert found["power"]["pictures"] == 31
    assert found["pictures"] == 80


def test_a_run_without_validation_pictures_compares_nothing() -> None:
    found = distribution_shift(rows_of([]), rows_of([True] * 40), ["a", "b"], threshold=0.3)
    assert found == {
        "verdict": "unclear",
        "sentence": "These pictures cannot be compared: the run has no validation split.",
    }
