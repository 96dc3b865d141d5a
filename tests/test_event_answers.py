"""Event answers: pictures of an event are combined as validation says, and `predict --group` writes the answers."""

from __future__ import annotations

import csv
import html
import json
import re
import shlex
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import ExifTags, Image

pytest.importorskip("sklearn")

import polars as pl

import bestiary
from bestiary import cli
from bestiary.class_thresholds import ClassThreshold, as_bundle_values
from bestiary.data.picture_groups import add_picture_groups
from bestiary.demo.dataset import SyntheticDataset, draw_creature
from bestiary.errors import RunError, UserError
from bestiary.evaluation.event_answers import ANSWERS, CONFIDENT, VOTE, calibrated_ece, event_ece, score_events
from bestiary.export import event_choice
from bestiary.export.event_choice import MIN_EVENTS, PictureEvents, choose_combination, group_events
from bestiary.flow import train
from bestiary.group_rules import parse_group_rule, parse_site_rule
from bestiary.inference.bundle import Bundle, read_bundle
from bestiary.inference.event_answers import EventTracker, default_event_file
from bestiary.inference.event_combination import EventCombination, combine_events, majority_vote, most_confident
from bestiary.inference.event_names import event_finder
from bestiary.inference.predictor import Prediction
from bestiary.recipe import Recipe
from bestiary.recipe_sections import DataConfig
from bestiary.report.run_report import write_report
from bestiary.stats import wilson_interval
from peak_memory import measure_peak

Array = NDArray[Any]
Command = Callable[..., tuple[str, str]]
CENTRES = np.random.default_rng(0).normal(size=(4, 3))
WAYS = (
    EventCombination(),
    EventCombination("maximum", temperature=1.7),
    EventCombination("log-mean", 1.0, temperature=0.9, prior=(0.4, 0.3, 0.2, 0.1)),
    EventCombination("log-mean", 0.5, uniform=0.1),
)


def drawn(count: int, seed: int, *, size: int = 5, correlation: float = 0.0) -> PictureEvents:
    """Events with the exact posterior of each picture alone."""
    rng = np.random.default_rng(seed)
    labels, events = rng.integers(0, 4, count), np.repeat(np.arange(count), size)
    noise = np.sqrt(1 - correlation) * rng.normal(size=(count * size, 3))
    noise += np.sqrt(correlation) * rng.normal(size=(count, 3))[events]
    squares = ((CENTRES[labels[events]] + 1.3 * noise)[:, None, :] - CENTRES) ** 2
    densities = np.exp(-squares.sum(axis=2) / (2 * 1.3**2))
    return PictureEvents(densities / densities.sum(axis=1, keepdims=True), events, labels)


def accuracy(labels: Array, events: PictureEvents) -> float:
    return float((labels == events.labels).mean())


# ---- Combination -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("combination", WAYS, ids=lambda c: f"{c.way} {c.exponent}")
def test_an_event_of_one_picture_has_its_probabilities(combination: EventCombination) -> None:
    single = drawn(50, 1, size=1)
    combined = combine_events(combination, single.probabilities, single.events)
    assert np.allclose(combined, single.probabilities, atol=1e-9)


@pytest.mark.parametrize("combination", WAYS, ids=lambda c: f"{c.way} {c.exponent}")
def test_pictures_one_by_one_give_what_all_at_once_give(combination: EventCombination) -> None:
    events = drawn(40, 2, size=4)
    order = np.random.default_rng(3).permutation(len(events.events))
    bundle = a_bundle(events=combination.to_json())
    tracker = EventTracker(bundle, lambda path: path.partition("/")[0])
    for row in order:
        probabilities = dict(zip(bundle.classes, events.probabilities[row].tolist(), strict=True))
        tracker.add(Prediction(f"{events.events[row]}/{row}.jpg", "a", 0.5, False, 0.9, probabilities))
    answers = sorted(tracker.answers(), key=lambda answer: int(answer.event))
    combined = combine_events(combination, events.probabilities, events.events)
    assert np.allclose([list(answer.probabilities.values()) for answer in answers], combined)
    assert [answer.label for answer in answers] == [bundle.classes[best] for best in combined.argmax(axis=1)]
    best = most_confident(events.probabilities, events.events)
    assert [answer.picture for answer in answers] == [f"{events.events[row]}/{row}.jpg" for row in best]


def test_an_event_is_unknown_if_all_its_pictures_are_unfamiliar_or_it_is_below_the_threshold_of_its_class() -> None:
    chosen = ClassThreshold(0.9, 0.8, is_met=True, predicted=20, answered=10, correct=10, low=0.7, high=1.0)
    thresholds = as_bundle_values({"b": chosen})
    tracker = EventTracker(a_bundle(class_thresholds=thresholds), lambda path: path[0], "nothing")
    for path, familiarity, best, probability in (
        ("x1", 0.1, "a", 0.7),
        ("x2", 0.9, "a", 0.7),
        ("y1", 0.1, "a", 0.7),
        ("y2", 0.2, "a", 0.7),
        ("z1", 0.9, "b", 0.7),
    ):
        probabilities = dict.fromkeys("abcd", (1 - probability) / 3) | {best: probability}
        tracker.add(Prediction(path, best, probability, familiarity < 0.5, familiarity, probabilities))
    answers = {answer.event: (answer.label, answer.unknown) for answer in tracker.answers()}
    assert answers == {"x": ("a", False), "y": ("nothing", True), "z": ("nothing", True)}


def test_independent_pictures_are_multiplied_and_equal_ones_are_not() -> None:
    independent = choose_combination(drawn(1_500, 4))
    assert (independent.way, independent.exponent) == ("log-mean", 1.0)
    assert 0.8 < independent.temperature < 1.25
    same = drawn(1_500, 5, correlation=1.0)
    combined = combine_events(choose_combination(same), same.probabilities, same.events)
    first = same.probabilities[::5]
    assert np.abs(combined - first).max() < 0.05


@pytest.mark.parametrize("correlation", [0.0, 0.5, 0.95])
def test_answers_are_calibrated_and_no_worse_than_both_baselines(correlation: float) -> None:
    validation, test = (drawn(2_000, seed, correlation=correlation) for seed in (6, 7))
    combined = combine_events(choose_combination(validation), test.probabilities, test.events)
    best = test.probabilities.argmax(axis=1)
    vote = accuracy(majority_vote(best, test.probabilities, test.events), test)
    confident = accuracy(best[most_confident(test.probabilities, test.events)], test)
    assert accuracy(combined.argmax(axis=1), test) >= max(vote, confident) - 0.004
    assert event_ece(combined, test.labels) <= calibrated_ece(combined) + 0.01


def test_with_few_validation_events_nothing_is_chosen() -> None:
    few = choose_combination(drawn(MIN_EVENTS - 1, 8))
    assert few == EventCombination()
    assert "not calibrated" in few.describe()
    singles = drawn(500, 9, size=1)
    assert choose_combination(singles) == EventCombination()  # single pictures are no evidence
    chosen = choose_combination(drawn(MIN_EVENTS, 10))
    assert chosen.events == MIN_EVENTS
    assert f"{MIN_EVENTS} validation events" in chosen.describe()


def test_memory_is_that_of_the_events() -> None:
    row = {"a": 0.7, "b": 0.1, "c": 0.1, "d": 0.1}

    def track() -> EventTracker:
        tracker = EventTracker(a_bundle(), lambda path: str(int(path) % 50))
        for _ in tracker.track(Prediction(str(n), "a", 0.7, False, 0.9, row) for n in range(30_000)):
            pass
        return tracker

    assert measure_peak(track, enough=1_000_000) < 1_000_000
    tracker = track()
    assert len(tracker) == 50
    assert sum(answer.pictures for answer in tracker.answers()) == 30_000


def test_ties_of_a_vote_go_to_the_more_probable_label() -> None:
    rows = np.array([[0.6, 0.4, 0.0], [0.1, 0.9, 0.0]])
    assert majority_vote(np.array([0, 1]), rows, np.array([0, 0])).tolist() == [1]


def test_events_of_several_labels_and_pictures_without_event_are_counted() -> None:
    labels = np.array([0, 0, 1, 2, 1])
    events, rows, names = group_events(np.eye(5, 4) + 0.1, labels, ["a", "a", "b", "b", None])
    assert (names, rows.tolist(), events.labels.tolist()) == (["a"], [0, 1], [0])
    assert (events.mixed, events.ungrouped) == (1, 1)
    none, rows, _ = group_events(np.eye(2, 4), np.array([0, 1]), [None, None])
    assert (len(none.labels), len(rows), none.ungrouped) == (0, 0, 2)


# ---- Bundle and scores -----------------------------------------------------------------------------------------------


def a_bundle(**values: Any) -> Bundle:
    return Bundle(
        *(("a", "b", "c", "d"), 64, "crop", 10**6, 10**6, 1.0, 0.5, 0.95, "probe", "lite0", "0" * 64, "1.0"), **values
    )


@pytest.mark.parametrize(
    "events",
    [
        {"way": "sum"},
        {"exponent": 2.0},
        {"temperature": 0},
        {"prior": [0.5, 0.5]},
        {"prior": [0.5, 0.5, 0.0, 0.0]},
        {"more": 1},
        {"events": -1},
    ],
    ids=str,
)
def test_a_bundle_with_an_impossible_combination_is_refused(events: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"events"):
        a_bundle(events=events)


def test_a_bundle_without_events_has_no_such_field(tmp_path: Path, probed: Path) -> None:
    bundle = read_bundle(probed)
    assert bundle.events == {}
    assert "events" not in json.loads((probed / "bundle.json").read_text())
    run = tmp_path / "run"
    shutil.copytree(probed, run)
    combination = EventCombination("log-mean", 0.5, events=31)
    replace(bundle, events=combination.to_json()).write(run)
    assert EventCombination.of(read_bundle(run).events) == combination
    replaced = (run / "bundle.json").read_text().replace("log-mean", "product")
    (run / "bundle.json").write_text(replaced)
    with pytest.raises(RunError, match=r"events\.way"):
        read_bundle(run)


def tables(events: PictureEvents, *, folds: int = 0) -> tuple[Any, Any]:
    """The prediction table and the picture table of these events, ten events a site."""
    names = ("a", "b", "c", "d")
    best = events.probabilities.argmax(axis=1)
    predictions = pl.DataFrame(
        {
            "row_id": np.arange(len(best)),
            "label": [names[label] for label in events.labels[events.events]],
            "predicted": [names[label] for label in best],
            **{f"p_{name}": events.probabilities[:, index] for index, name in enumerate(names)},
        }
    )
    pictures = predictions.select("row_id").with_columns(
        given_group=pl.Series([f"e{event}" for event in events.events]),
        site=pl.Series([f"s{event // 10}" for event in events.events]),
        group=pl.Series(events.events // 10),
    )
    return predictions, pictures.with_columns(fold=pl.col("group") % folds + 1) if folds else pictures


def test_scores_are_over_events_with_intervals_over_sites() -> None:
    test = drawn(400, 11)
    predictions, pictures = tables(test)
    bundle = a_bundle(events=choose_combination(drawn(1_000, 12)).to_json())
    scores = score_events(predictions, pictures, bundle, DataConfig(group="time:60s"))["events"]
    assert (scores["n"], scores["pictures"], scores["by"], scores["units"]) == (400, 2_000, "site", 40)
    combined = combine_events(EventCombination.of(bundle.events), test.probabilities, test.events)
    assert scores["accuracy"][ANSWERS]["value"] == accuracy(combined.argmax(axis=1), test)
    for name in (VOTE, CONFIDENT):
        assert scores["accuracy"][name]["low"] < scores["accuracy"][name]["value"] < scores["accuracy"][ANSWERS]["low"]
        assert scores["differences"][name]["low"] > 0
    assert scores["ece"] < scores["ece_if_calibrated"] + 0.02
    assert "400 test events" in scores["sentence"]
    assert score_events(predictions, pictures.drop("given_group"), bundle, DataConfig()) == {}
    ungrouped = pictures.with_columns(given_group=pl.lit(None, pl.String))
    assert score_events(predictions, ungrouped, bundle, DataConfig()) == {}


def test_events_that_share_pictures_are_one_piece_of_evidence() -> None:
    """Without sites, a group joins events by near-duplicates: 40 correct events in 4 groups are 4 trials, not 40."""
    certain = np.tile([0.97, 0.01, 0.01, 0.01], (80, 1))
    test = PictureEvents(certain, np.repeat(np.arange(40), 2), np.zeros(40, np.int64))
    predictions, pictures = tables(test)
    pictures = pictures.with_columns(site=pl.lit(None, pl.String))
    scores = score_events(predictions, pictures, a_bundle(), DataConfig(group="folder"))["events"]
    assert (scores["n"], scores["by"], scores["units"]) == (40, "group", 4)
    low, _ = wilson_interval(np.array(1.0), np.array(4))
    assert scores["accuracy"][ANSWERS]["low"] == pytest.approx(float(low))


def test_in_cross_validation_each_fold_is_combined_as_is_best_for_the_others() -> None:
    test = drawn(600, 13)
    scores = score_events(*tables(test, folds=4), a_bundle(), DataConfig(group="folder"))["events"]
    product = combine_events(EventCombination("log-mean", 1.0), test.probabilities, test.events)
    assert abs(scores["accuracy"][ANSWERS]["value"] - accuracy(product.argmax(axis=1), test)) < 0.02
    assert "other folds" in scores["how"]


def test_the_report_has_the_scores_and_a_command(probed: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(probed, run)
    metrics = json.loads((run / "metrics.json").read_text())
    write_report(run)
    assert 'id="events"' not in (run / "report.html").read_text(encoding="utf-8")
    predictions, pictures = tables(drawn(400, 14))
    for rule, is_command in (("regex:(b[0-9]+)_", True), ("Sequence", False)):
        scores = score_events(predictions, pictures, a_bundle(), DataConfig(group=rule))
        (run / "metrics.json").write_text(json.dumps(metrics | scores))
        page = write_report(run).read_text(encoding="utf-8")
        assert "Event answer" in page
        assert "Majority vote" in page
        assert ("new --group" in page) == is_command


@pytest.mark.slow
def test_a_model_of_bursts_has_calibrated_events_and_its_printed_command_works(
    command: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_choice, "MIN_EVENTS", 3)
    monkeypatch.chdir(tmp_path)
    for index, kind in enumerate(("bird", "fish", "snail")):
        for number in range(42):
            path = tmp_path / "bursts" / kind / f"{kind}{number // 3:03}_{number % 3}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            image = draw_creature(kind, np.random.default_rng([index, number // 3]))
            noise = np.random.default_rng([index, number]).integers(0, 60, (image.height, image.width, 3))
            Image.fromarray(np.clip(np.asarray(image.convert("RGB")) + noise, 0, 255).astype(np.uint8)).save(path)
    asked = {
        "data": {"group": r"regex:([a-z]+[0-9]+)_", "suspects": False},
        "picture": {"size": 64},
        "model": {"backbone": "lite0"},
        "probe": {"regularisation": [0.01]},
    }
    run = train(tmp_path / "bursts", recipe=Recipe.of(asked), out=tmp_path / "run", threads=2)
    assert EventCombination.of(read_bundle(run.path).events).events >= 3
    assert run.metrics["events"]["n"] >= 3
    page = html.unescape((run.path / "report.html").read_text(encoding="utf-8"))
    match = re.search(r"<code>(bestiary predict [^<]+ --group [^<]+)</code>", page)
    assert match is not None
    shutil.copytree(tmp_path / "bursts" / "bird", tmp_path / "new")
    _, _, _, *words = shlex.split(match[1])
    command(run.path, *words)
    assert len(read_events(tmp_path / "new.events.csv")) == 14


# ---- Names -----------------------------------------------------------------------------------------------------------

PATHS = ["fox/CAM1/a_1.jpg", "fox/CAM1/a_2.jpg", "owl\\CAM2\\a_3.jpg", "owl/CAM2/b_4.jpg", "owl/CAM2/b_5.jpg"]


@pytest.mark.parametrize("rule", ["folder", r"regex:([ab])_\d", r"regex:([ab])_(\d)", "regex:b_", r"regex:(a)?_\d"])
def test_rules_name_events_as_in_training(rule: str) -> None:
    group = parse_group_rule(rule)
    empty = pl.lit(None, pl.String)
    pictures = pl.DataFrame({"path": PATHS}).with_columns(
        error=empty, given_group=empty, site=empty, time=empty, taken=empty
    )
    trained, _ = add_picture_groups(pictures, group, parse_site_rule("none"))
    find = event_finder(group, parse_site_rule("none"), PATHS, None, 1)
    assert [find(path) for path in PATHS] == trained["given_group"].to_list()


TIMES: dict[str, Sequence[str | None]] = {
    "plain": ["2026:05:14 12:00:00", "2026:05:14 12:00:50", "2026:05:14 12:01:30", "2026:05:14 13:00:00", None],
    "zones": ["2026:05:14 12:00:00+02:00", "2026:05:14 10:00:30+00:00", "2026:05:14 12:00:20+02:00", None, None],
    "mixed": ["2026:05:14 12:00:00+02:00", "2026:05:14 10:00:30", "2026:05:14 10:00:40", "2026:05:14 12:00:30", None],
}


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
@pytest.mark.parametrize("site", ["none", "folder"])
def test_bursts_are_those_of_training(times: Sequence[str | None], site: str, tmp_path: Path) -> None:
    paths, taken = [], []
    for number, time in enumerate(times):
        path = tmp_path / f"cam{number % 2}" / f"{number}.jpg"
        path.parent.mkdir(exist_ok=True)
        draw_with_time(path, time)
        paths.append(str(path))
        taken.append(None if time is None else time[:10].replace(":", "-") + "T" + time[11:])
    empty = pl.lit(None, pl.String)
    pictures = pl.DataFrame({"path": paths, "taken": taken}).with_columns(
        error=empty, given_group=empty, site=empty, time=empty
    )
    group, sites = parse_group_rule("time:60s"), parse_site_rule(site)
    trained, _ = add_picture_groups(pictures, group, sites)
    find = event_finder(group, sites, paths, None, 2)
    names = [find(path) for path in paths]

    def partition(values: Sequence[str | None]) -> list[int | None]:
        return [None if value is None else values.index(value) for value in values]

    assert partition(names) == partition(trained["given_group"].to_list())
    assert names.count(None) == times.count(None)


def draw_with_time(path: Path, time: str | None) -> None:
    exif = Image.Exif()
    if time is not None:
        exif[0x010F] = "camera"
        exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.DateTimeOriginal] = time[:19]
        if len(time) > 19:
            exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.OffsetTimeOriginal] = time[19:]
    Image.new("RGB", (40, 30), (30, 90, 40)).save(path, exif=exif)


# ---- The command -----------------------------------------------------------------------------------------------------


@pytest.fixture
def new(tmp_path: Path, collection: SyntheticDataset) -> Path:
    """Two bursts of three, a single picture, one of another name and one that cannot be read."""
    folder = tmp_path / "new"
    folder.mkdir()
    names = ("b1_1.jpg", "b1_2.jpg", "b1_3.jpg", "b2_1.jpg", "b2_2.jpg", "b2_3.jpg", "b3_1.jpg", "odd.jpg")
    for path, name in zip(sorted(collection.kinds), names, strict=False):
        Image.open(path).convert("RGB").save(folder / name)
    (folder / "b2_4.jpg").write_text("no picture")
    (folder / "b4_1.jpg").write_text("no picture")
    return folder


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Command:
    """`bestiary predict …` in this process: its standard output and its messages."""

    def run(run: Path, *words: str | Path, code: int = 0) -> tuple[str, str]:
        monkeypatch.setattr("sys.argv", ["bestiary", "predict", str(run), *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, messages = capsys.readouterr()
        assert (ended.value.code or 0) == code, messages
        return out, " ".join(messages.split())

    return run


def read_events(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


def test_events_are_written_beside_the_predictions(command: Command, probed: Path, new: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.csv"
    _, text = command(probed, new, "--group", r"regex:(b\d)_", "--out", out)
    assert "not calibrated" in text
    assert "2 of several pictures" in text
    assert "1 picture belongs to no event" in text
    rows = read_events(tmp_path / "out.events.csv")
    assert [(row["event"], row["pictures"], row["unreadable"]) for row in rows] == [
        ("b1", "3", "0"),
        ("b2", "3", "1"),
        ("b3", "1", "0"),
        ("b4", "0", "1"),
    ]
    with out.open(newline="") as lines:
        pictures = [row for row in csv.DictReader(lines) if Path(row["path"]).name.startswith("b1")]
    for name in read_bundle(probed).classes:
        mean = np.mean([float(row[f"p_{name}"]) for row in pictures])
        assert float(rows[0][f"p_{name}"]) == pytest.approx(mean)
    assert (rows[3]["label"], rows[3]["p_bird"]) == ("", "")
    _, refused = command(probed, new, "--group", "folder", "--out", tmp_path / "out.csv", code=2)
    assert "out.events.csv exists already" in refused


@pytest.mark.parametrize("suffix", ["csv", "jsonl", "parquet"])
def test_a_resumed_command_has_the_events_of_all_pictures(
    suffix: str, command: Command, probed: Path, new: Path, tmp_path: Path
) -> None:
    rule = ("--group", r"regex:(b\d)_", "--quiet")
    command(probed, new, *rule, "--out", tmp_path / f"whole.{suffix}", "--events", tmp_path / "whole.events.csv")
    part = tmp_path / f"part.{suffix}"
    command(probed, new / "b1_1.jpg", new / "b2_4.jpg", new / "b2_1.jpg", "--quiet", "--out", part)
    command(probed, new, *rule, "--out", part, "--resume", "--events", tmp_path / "part.events.csv")
    whole, resumed = (sorted(read_events(tmp_path / f"{name}.events.csv"), key=str) for name in ("whole", "part"))
    assert [row["event"] for row in whole] == [row["event"] for row in resumed]
    for one, two in zip(whole, resumed, strict=True):
        assert (one["pictures"], one["unreadable"], one["label"]) == (two["pictures"], two["unreadable"], two["label"])
        if one["p_bird"]:
            assert float(one["p_bird"]) == pytest.approx(float(two["p_bird"]), abs=1e-6)


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_events_have_the_format_of_their_file(
    suffix: str, command: Command, probed: Path, new: Path, tmp_path: Path
) -> None:
    out = tmp_path / f"out.{suffix}"
    printed, _ = command(probed, new, "--group", r"regex:(b\d)_", "--out", out, "--quiet", "--json")
    path = Path(json.loads(printed)["events"])
    assert path == tmp_path / f"out.events.{suffix}"
    rows = (
        pl.read_parquet(path).to_dicts()
        if suffix == "parquet"
        else [json.loads(line) for line in path.read_text().splitlines()]
    )
    assert [row["event"] for row in rows] == ["b1", "b2", "b3", "b4"]
    assert [row["pictures"] for row in rows] == [3, 3, 1, 0]


def test_on_a_terminal_events_follow_the_pictures(command: Command, probed: Path, new: Path) -> None:
    text, _ = command(probed, new, "--group", r"regex:(b\d)_", "--quiet")
    assert "(4 pictures)" in text
    assert "b4  cannot be read (1 picture)" in text
    values = json.loads(command(probed, new, "--group", r"regex:(b\d)_", "--quiet", "--json")[0])
    assert len(values["predictions"]) == 10
    assert [event["event"] for event in values["events"]] == ["b1", "b2", "b3", "b4"]


def test_python_has_events_too(probed: Path, new: Path) -> None:
    pictures: list[Path | Image.Image] = [*sorted(new.iterdir()), Image.new("RGB", (40, 30))]
    answers = bestiary.predict(probed, pictures, group=r"regex:(b\d)_", quiet=True)
    assert len(answers) == 11
    assert [(event.event, event.pictures, event.unreadable) for event in answers.events] == [
        ("b1", 3, 0),
        ("b2", 3, 1),
        ("b3", 1, 0),
        ("b4", 0, 1),
    ]
    assert bestiary.predict(probed, new / "b1_1.jpg", quiet=True).events == ()
    with pytest.raises(UserError, match="expected a time between pictures"):
        bestiary.predict(probed, new, group="time:60", quiet=True)


def test_a_column_of_a_table_names_events(command: Command, probed: Path, new: Path, tmp_path: Path) -> None:
    table = tmp_path / "media.csv"
    table.write_text("path,Sequence\nb1_1.jpg,S1\nb2_1.jpg,S1\nb3_1.jpg,S2\nodd.jpg,\n")
    out = tmp_path / "out.csv"
    _, text = command(probed, new, "--table", table, "--group", "Sequence", "--out", out)
    assert [(row["event"], row["pictures"]) for row in read_events(tmp_path / "out.events.csv")] == [
        ("S1", "2"),
        ("S2", "1"),
    ]
    assert "1 picture belongs to no event" in text
    _, wrong = command(probed, new, "--table", table, "--group", "Sequenz", code=2)
    assert 'no column "Sequenz"' in wrong
    assert "Sequence" in wrong


def test_a_picture_that_is_listed_twice_counts_once(command: Command, probed: Path, new: Path, tmp_path: Path) -> None:
    """A table of observations has a row for each, and several of one picture."""
    tables = {"once": "b1_1.jpg,S1\nb2_1.jpg,S1\n", "twice": "b1_1.jpg,S1\nb1_1.jpg,S1\nb2_1.jpg,S1\nb1_1.jpg,S1\n"}
    rows = {}
    for name, lines in tables.items():
        (tmp_path / f"{name}.csv").write_text(f"path,Sequence\n{lines}")
        out = tmp_path / f"{name}-out.csv"
        command(probed, new, "--table", tmp_path / f"{name}.csv", "--group", "Sequence", "--out", out)
        rows[name] = read_events(tmp_path / f"{name}-out.events.csv")
    assert rows["twice"] == rows["once"]
    assert [row["pictures"] for row in rows["once"]] == ["2"]
    assert len((tmp_path / "twice-out.csv").read_text().splitlines()) == 1 + 4, "the table keeps its rows"


def test_a_picture_with_two_events_is_an_error(command: Command, probed: Path, new: Path, tmp_path: Path) -> None:
    table = tmp_path / "media.csv"
    table.write_text("path,Sequence\nb1_1.jpg,S1\nb2_1.jpg,S1\nb1_1.jpg,S2\n")
    _, text = command(probed, new, "--table", table, "--group", "Sequence", "--out", tmp_path / "out.csv", code=2)
    assert 'b1_1.jpg with two values of the column "Sequence", "S1" and "S2"' in " ".join(text.split())


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--group", "auto"], "is for training"),
        (["--group", "Sequence"], "Add --table"),
        (["--group", "time:60"], "expected a time between pictures"),
        (["--group", "time:60s"], "no picture has a time"),
        (["--group", "folder", "--site", "folder"], "--site divides events by time"),
        (["--site", "folder"], "Add --group"),
        (["--group", "folder", "--format", "csv"], "Add --events"),
        (["--group", "folder", "--events", "e.txt"], "has the suffix"),
    ],
    ids=str,
)
def test_rules_that_cannot_be_used_say_why(
    words: list[str], message: str, command: Command, probed: Path, new: Path
) -> None:
    assert message in command(probed, new, *words, code=2)[1]


def test_the_file_of_events_is_named_after_that_of_predictions() -> None:
    names = {
        "a.csv": "a.events.csv",
        "a.b.jsonl": "a.b.events.jsonl",
        "md.json": "md.events.csv",
        "dp": "dp.events.csv",
    }
    assert {name: default_event_file(Path(name)).name for name in names} == names
