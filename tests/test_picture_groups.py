"""Groups and sites: rules, times, what is kept together, splits and folds of mixed groups, scores of new sites."""

from __future__ import annotations

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image
from typer.testing import CliRunner

import bestiary
from bestiary import table as columns
from bestiary.cli.app import app
from bestiary.data.assign_splits import assign_splits, select_fold
from bestiary.data.dataset import AuditedDataset
from bestiary.data.formats.times import format_times, parse_times
from bestiary.data.joined_groups import join_groups, torn_group_notices
from bestiary.data.mixed_groups import fold_mixed_groups, has_mixed_groups, split_mixed_groups
from bestiary.data.picture_groups import add_picture_groups, require_divisible_sites
from bestiary.errors import RecipeError, SourceError
from bestiary.evaluation.cluster_intervals import cluster_bootstrap, cluster_mean, cluster_rate
from bestiary.evaluation.group_scores import compare_group_scores, describe_group_scores
from bestiary.few_groups import describe_few_groups
from bestiary.group_rules import GroupRule, parse_group_rule, parse_site_rule
from bestiary.recipe import Recipe


def table(**columns: Sequence[str | None]) -> pl.DataFrame:
    """Return pictures with these columns; the others are null."""
    count = len(next(iter(columns.values())))
    names = ("path", "label", "error", "given_group", "site", "time", "taken", "given_split")
    values = {name: columns.get(name, [None] * count) for name in names}
    return pl.DataFrame(values, schema=dict.fromkeys(names, pl.String))


def groups_of(pictures: pl.DataFrame, group: str, site: str = "none") -> list[str | None]:
    grouped, _ = add_picture_groups(pictures, parse_group_rule(group), parse_site_rule(site))
    return grouped["given_group"].to_list()


# ---- Rules ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("auto", GroupRule("auto")),
        ("folder", GroupRule("folder")),
        ("regex:^(a+)", GroupRule("regex:", "^(a+)")),
        ("time:1.5h", GroupRule("time:", gap_seconds=5400)),
        ("Camera 1", GroupRule("column", "Camera 1")),
    ],
)
def test_a_rule_is_a_word_a_pattern_a_time_or_a_column(text: str, rule: GroupRule) -> None:
    assert parse_group_rule(text) == rule


@pytest.mark.parametrize("text", ["time:0s", "time:fast", "time:5", "regex:", "regex:(", "", "  "])
def test_a_rule_that_cannot_be_read_is_an_error_of_the_recipe(text: str) -> None:
    with pytest.raises(RecipeError):
        Recipe.of({"data": {"group": text}})


def test_sites_are_no_bursts() -> None:
    with pytest.raises(RecipeError, match="time:5s"):
        Recipe.of({"data": {"site": "time:5s"}})


def test_folders_and_patterns_group_by_the_path() -> None:
    pictures = table(path=["/p/fox/s1/a_1.jpg", "/p/fox/s1/a_2.jpg", "/p/fox/s2/b_1.jpg", "/p/cat/s1/c_1.jpg"])
    assert groups_of(pictures, "folder") == ["/p/fox/s1", "/p/fox/s1", "/p/fox/s2", "/p/cat/s1"]
    assert groups_of(pictures, r"regex:/(s\d)/([a-z])_") == ["s1|a", "s1|a", "s2|b", "s1|c"]
    sites, _ = add_picture_groups(pictures, GroupRule("none"), parse_site_rule("folder"))
    assert sites["site"].to_list() == ["s1", "s1", "s2", "s1"]  # the camera s1 stood under both classes


def test_a_sequence_of_all_pictures_says_how_to_do_without_it() -> None:
    pictures = table(path=["/p/1.jpg", "/p/2.jpg"], given_group=["s", "s"])
    with pytest.raises(SourceError, match=r"^The group column or the sequences of the source put all 2 .*--group none"):
        groups_of(pictures, "auto")


def test_times_that_cannot_be_read_name_the_option_for_their_column() -> None:
    with pytest.raises(SourceError, match=r"no picture has a time that can be read.*--columns time=COLUMN"):
        groups_of(table(path=["/p/1.jpg", "/p/2.jpg"]), "time:60s")


def test_windows_paths_have_folders_too() -> None:
    assert groups_of(table(path=["c:\\p\\a\\1.jpg", "c:\\p\\b\\2.jpg"]), "folder") == ["c:\\p\\a", "c:\\p\\b"]


def test_a_group_of_the_source_is_used_unless_it_is_refused() -> None:
    pictures = table(path=["1", "2", "3"], given_group=["x", "x", None])
    assert groups_of(pictures, "auto") == groups_of(pictures, "source") == ["x", "x", None]
    assert groups_of(pictures, "none") == [None, None, None]
    assert groups_of(table(path=["1", "2"]), "auto") == [None, None]


@pytest.mark.parametrize(
    ("group", "columns", "message"),
    [
        ("source", {}, "the source has no group"),
        ("regex:zebra", {}, "matches no name of a picture, such as"),
        ("time:5s", {}, "no picture has a time"),
        ("Burst", {"given_group": ["a", "a"]}, 'all 2 pictures into one group, "a"'),
        ("folder", {}, "The folder of a picture is its class"),
    ],
)
def test_a_rule_that_cannot_split_is_refused(
    group: str, columns: dict[str, Sequence[str | None]], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        groups_of(table(path=["p/1.jpg", "p/2.jpg"], **columns), group)


def test_a_rule_that_fits_nothing_is_no_obstacle_where_nothing_is_split() -> None:
    pictures = table(path=["p/1.jpg", "p/2.jpg"], site=["s", "s"])
    rules = parse_group_rule("regex:zebra"), parse_site_rule("source")
    grouped, notices = add_picture_groups(pictures, *rules, for_split=False)
    assert grouped.select("given_group", "site").null_count().row(0) == (2, 2)
    assert [notice.message for notice in notices] == [
        'All 2 pictures are of one site, "s": intervals are over pictures, duplicates counted once.',
        "None of these pictures has a group by the run's rule, data.group = regex:zebra: intervals are over pictures,"
        " duplicates counted once.",
    ]
    grouped, notices = add_picture_groups(
        table(path=["1", "2", "3"], given_group=["a", "a", "b"]), GroupRule("auto"), GroupRule("none"), for_split=False
    )
    assert "Intervals count each once." in notices[0].message
    assert not notices[0].is_issue


def test_pictures_that_cannot_be_read_have_no_group() -> None:
    pictures = table(path=["a/1", "b/2", "c/3"], error=[None, None, "broken"])
    assert groups_of(pictures, "folder") == ["a", "b", None]


def test_unique_large_and_missing_groups_are_told() -> None:
    def message(values: Sequence[str | None]) -> tuple[str, bool]:
        pictures = table(path=[str(number) for number in range(len(values))], given_group=values)
        _, notices = add_picture_groups(pictures, GroupRule("auto"), GroupRule("none"))
        return notices[-1].message, notices[-1].is_issue

    text, is_issue = message(["a", "b", "c", "d"])
    assert "nothing is kept together" in text
    assert is_issue
    text, is_issue = message(["a", "a", "a", "b"])
    assert "75 % of all pictures" in text
    assert is_issue
    text, is_issue = message(["a", "a", "b", "b", None])
    assert "1 picture has no group" in text
    assert not is_issue


# ---- Times ---------------------------------------------------------------------------------------------------------


def test_times_with_and_without_a_zone_are_read() -> None:
    texts = ["2026-05-31T08:25:38", "2026-05-31 08:25:38.5+02:00", "2026-05-31T08:25Z", "2026-05-31T08:25:38-0330", "x"]
    frame = parse_times(pl.Series(texts))
    assert frame["local"].is_null().to_list() == [False, False, False, False, True]
    assert frame["offset"].to_list() == [None, 120, 0, -210, None]
    assert parse_times(pl.Series(["2026-05-31T08:25:38+02", "2026-05-31", "2026-13-31T08:25Z"])).rows() == [
        (datetime(2026, 5, 31, 8, 25, 38), 120),
        (None, None),
        (None, None),
    ]
    assert format_times(pl.Series(["2026-05-31 08:25:38-03"]))[0].to_list() == ["2026-05-31T08:25:38-03:00"]


def test_bursts_are_chains_of_short_gaps() -> None:
    seconds = [0, 50, 100, 161, 162]
    taken = [f"2026-05-31T08:{second // 60:02d}:{second % 60:02d}" for second in seconds]
    groups = groups_of(table(path=[str(s) for s in seconds], taken=taken), "time:60s")
    assert groups[0] == groups[1] == groups[2] != groups[3] == groups[4]


def test_a_time_of_the_table_comes_before_that_of_the_file() -> None:
    day = "2026-01-01T00:00"
    pictures = table(
        path=["1", "2", "3"],
        time=[f"{day}:00", None, "2026-01-02T00:00:00"],
        taken=["2026-03-01", f"{day}:01", f"{day}:02"],
    )
    groups = groups_of(pictures, "time:5s")
    assert groups[0] == groups[1] != groups[2]


def test_instants_are_compared_and_mixed_zones_told() -> None:
    same = ["2026-05-31T10:00:00+02:00", "2026-05-31T08:00:01Z", "2026-05-31T12:00:00Z"]
    groups = groups_of(table(path=["1", "2", "3"], taken=same), "time:5s")
    assert groups[0] == groups[1] != groups[2]
    mixed = table(
        path=["1", "2", "3"], taken=["2026-05-31T10:00:00+02:00", "2026-05-31T10:00:01", "2026-06-01T10:00:00"]
    )
    grouped, notices = add_picture_groups(mixed, parse_group_rule("time:5s"), GroupRule("none"))
    assert grouped["given_group"][0] == grouped["given_group"][1]
    assert "1 of 3 times have a time zone" in notices[0].message


def test_cameras_that_fire_at_once_are_no_burst() -> None:
    pictures = table(path=["1", "2", "3"], taken=["2026-05-31T10:00:00"] * 3, site=["a", "b", "b"])
    groups = groups_of(pictures, "time:5s", "source")
    assert groups[0] != groups[1] == groups[2]


def test_times_that_cannot_be_read_are_counted() -> None:
    pictures = table(path=["1", "2", "3"], time=["2026-05-31T10:00:00", "2026-05-31T12:00:00", "yesterday"])
    grouped, notices = add_picture_groups(pictures, parse_group_rule("time:5s"), GroupRule("none"))
    assert grouped["given_group"][2] is None
    assert '1 times cannot be read, such as "yesterday"' in notices[0].message


# ---- Joined groups -------------------------------------------------------------------------------------------------


def joinable(group: list[int], given: Sequence[str | None], site: Sequence[str | None]) -> pl.DataFrame:
    names = [f"sha{number}" for number in range(len(group))]
    return pl.DataFrame(
        {"group": group, "given_group": given, "site": site, "sha256": names, "error": [None] * len(group)},
        schema_overrides={"given_group": pl.String, "site": pl.String},
    )


def test_duplicates_groups_and_sites_are_joined() -> None:
    pictures = joinable(
        [0, 0, 2, 3, 4, 5, 6], [None, "x", "x", None, "y", "y", None], [None] * 3 + ["s", "s", None, "t"]
    )
    joined, notices = join_groups(pictures)
    assert joined.tolist() == [0, 0, 0, 3, 3, 3, 6]
    assert not notices


def test_without_groups_duplicates_stay_as_they_are() -> None:
    joined, _ = join_groups(joinable([0, 0, 2], [None] * 3, [None] * 3))
    assert joined.tolist() == [0, 0, 2]


def test_empty_scenes_that_look_alike_do_not_join_all_sites() -> None:
    sites = ["a"] * 4 + ["b"] * 4 + ["c"] * 4
    group = [0, 1, 2, 3, 0, 5, 6, 7, 0, 9, 10, 11]  # one near-duplicate at each site
    joined, notices = join_groups(joinable(group, [None] * 12, sites))
    assert len(set(joined.tolist())) == 3
    assert "3 pictures have a near-duplicate at another site" in notices[0].message
    equal = joinable(group, [None] * 12, sites).with_columns(
        sha256=pl.Series([f"sha{number}" if number % 4 else "same" for number in range(12)])
    )
    joined, _ = join_groups(equal)
    assert len(set(joined.tolist())) == 1  # equal files always stay together


def test_a_given_split_that_divides_a_site_is_told() -> None:
    pictures = table(path=["1", "2", "3"], site=["a", "a", "b"], given_split=["train", "test", "test"])
    (notice,) = torn_group_notices(pictures)
    assert "divides 1 of 2 sites" in notice.message


def test_a_class_of_one_site_is_refused_with_the_way_on() -> None:
    with pytest.raises(SourceError, match='All 2 pictures of the class "cow" are of 1 site.*--classes'):
        require_divisible_sites(["a", "a", "a", "b", "c"], ["cow", "cow", "dog", "dog", "dog"])


def grouped_dataset(sites_per_class: int) -> AuditedDataset:
    """Return pictures of two classes, ten at each site; each class has as many sites of its own."""
    count = 2 * sites_per_class * 10
    site = [number // 10 for number in range(count)]
    label = ["cat" if number < sites_per_class else "dog" for number in site]
    names = [f"{number:064x}" for number in range(count)]
    values: dict[str, object] = {"row_id": range(count), "path": names, "label": label, "sha256": names, "group": site}
    pictures = pl.DataFrame(
        {name: values.get(name, [None] * count) for name in columns.PICTURES}, schema=columns.PICTURES
    ).with_columns(
        given_split=pl.lit(None, pl.String),
        given_label="label",
        dropped=False,
        duplicate_group="row_id",
        given_group=pl.Series(map(str, site)),
        site=pl.lit(None, pl.String),
        taken=pl.lit(None, pl.String),
    )
    return AuditedDataset(pictures, pl.DataFrame(schema=columns.FINDINGS), {})


@pytest.mark.parametrize("folds", [0, 3])
def test_too_few_groups_of_a_class_are_not_called_duplicates(folds: int) -> None:
    data = Recipe.of({"data": {"folds": folds}}).data
    with pytest.raises(SourceError, match='Class "cat" has .* 2 groups.*--group none') as caught:
        assign_splits(grouped_dataset(2), data, seed=0)
    assert "duplicates counted once" not in str(caught.value)
    pictures, _ = assign_splits(grouped_dataset(12), data, seed=0)
    parts = "fold" if folds else "split"
    assert pictures.group_by("given_group").agg(pl.col(parts).n_unique())[parts].to_list() == [1] * 24
    for fold in range(1, folds + 1):
        chosen = select_fold(pictures, fold, data, seed=0)
        assert chosen.group_by("given_group").agg(pl.col("split").n_unique())["split"].to_list() == [1] * 24


def test_few_sites_in_validation_are_told() -> None:
    rows = {"split": ["train"] * 6 + ["val"] * 3 + ["test"] * 3, "group": [1, 2, 3, 4, 5, 6, 7, 7, 7, 8, 8, 9]}
    sites = pl.DataFrame(rows).with_columns(site=pl.format("s{}", "group"))
    caution = describe_few_groups(sites)
    assert "only 1 site for validation and 2 sites for test" in caution
    assert "--folds 5" in caution
    assert describe_few_groups(sites.drop("site")) == ""
    assert describe_few_groups(sites.with_columns(group=pl.int_range(12), site=pl.lit("s"))[:0]) == ""


# ---- Splits of mixed groups ----------------------------------------------------------------------------------------


def draw_sites(seed: int, sites: int = 30, pictures: int = 1500, classes: int = 6) -> tuple[list[int], list[int]]:
    rng = np.random.default_rng(seed)
    mixtures = rng.dirichlet(np.full(classes, 0.5), size=sites)
    groups = rng.integers(0, sites, pictures)
    return [int(rng.choice(classes, p=mixtures[site])) for site in groups], groups.tolist()


@pytest.mark.parametrize("seed", range(5))
def test_sites_with_several_classes_are_split_in_proportion(seed: int) -> None:
    labels, groups = draw_sites(seed)
    order = np.random.default_rng(seed).permutation(sorted(set(groups))).tolist()
    splits = split_mixed_groups(labels, groups, order, {"test": 0.15, "val": 0.15})
    assert set(splits) == set(groups)
    test = [splits[group] == "test" for group in groups]
    assert 0.08 < np.mean(test) < 0.25
    for label in set(labels):
        parts = {splits[group] for group, own in zip(groups, labels, strict=True) if own == label}
        assert parts == {"train", "val", "test"}


def test_a_label_with_three_groups_is_in_every_split() -> None:
    labels, groups = [0] * 9 + [1] * 30, [0] * 3 + [1] * 3 + [2] * 3 + [number // 3 for number in range(30)]
    splits = split_mixed_groups(labels, groups, sorted(set(groups)), {"test": 0.15, "val": 0.15})
    assert {splits[group] for group in (0, 1, 2)} == {"train", "val", "test"}


def test_folds_of_sites_have_equal_parts_of_each_class() -> None:
    labels, groups = (np.array(values, np.int64) for values in draw_sites(7))
    folds = fold_mixed_groups(labels, groups, folds=5, seed=0)
    for group in np.unique(groups):
        assert len(np.unique(folds[groups == group])) == 1
    counts = np.array([[np.sum((folds == fold) & (labels == label)) for fold in range(5)] for label in range(6)])
    assert (counts / counts.sum(axis=1, keepdims=True)).std(axis=1).max() < 0.12


def test_a_few_mixed_groups_are_exceptions() -> None:
    labels, groups = np.array([0, 1] * 50, np.int64), np.arange(100, dtype=np.int64)
    groups[:2] = 0
    assert not has_mixed_groups(labels, groups)
    assert has_mixed_groups(labels, groups // 10)


# ---- Intervals over sites, scores ------------------------------------------------------------------------------------


def test_intervals_over_sites_contain_the_truth() -> None:
    rng, inside = np.random.default_rng(0), 0
    for _ in range(200):
        rates = rng.beta(8, 2, size=30)
        clusters = np.repeat(np.arange(30), 20)
        correct = (rng.uniform(size=600) < rates[clusters]).astype(np.float64)
        metric = cluster_rate(correct, clusters, trials=600)
        inside += metric["low"] <= 0.8 <= metric["high"]
    assert 0.9 <= inside / 200 <= 0.99


def test_equal_sites_still_have_an_interval() -> None:
    metric = cluster_rate(np.ones(100), np.repeat(np.arange(10), 10), trials=100)
    assert metric["value"] == metric["high"] == 1
    assert 0.9 < metric["low"] < 1
    for difference in (1.0, 0.2):  # of one site: all that is possible, and no more
        one = cluster_mean(np.full(5, difference), np.zeros(5, np.int64))
        assert (one["low"], one["high"]) == (-1.0, 1.0)
    two = cluster_mean(np.array([1.0, -1, 1, 1]), np.array([0, 0, 1, 1]))
    assert (two["low"], two["high"]) == (-1.0, 1.0)


def test_a_bootstrap_over_sites_is_as_wide_as_the_formula() -> None:
    rng = np.random.default_rng(1)
    clusters = np.repeat(np.arange(25), 10)
    correct = (rng.uniform(size=250) < rng.beta(4, 2, size=25)[clusters]).astype(np.float64)
    sums = np.bincount(clusters, weights=correct)
    low, high = cluster_bootstrap(lambda w: (w @ sums) / (w.sum(axis=1) * 10), clusters, resamples=4000, seed=0)
    formula = cluster_rate(correct, clusters, trials=250)
    assert abs((high - low) / (formula["high"] - formula["low"]) - 1) < 0.12


def test_scores_name_the_loss_at_new_sites() -> None:
    rng, n = np.random.default_rng(0), 2000
    labels, clusters = rng.integers(0, 3, n), np.repeat(np.arange(40), 50)

    def predict(accuracy: float) -> np.ndarray:
        return np.where(rng.uniform(size=n) < accuracy, labels, (labels + 1) % 3)

    ways = {"random": predict(0.95), "grouped": predict(0.9), "new_sites": predict(0.7)}
    scores = compare_group_scores(labels, ways, clusters, trials=n, seed=0)
    difference = scores["differences"]["grouped"]["accuracy"]
    assert difference["low"] < 0.2 < difference["high"]
    assert difference["low"] > 0.1
    assert abs(scores["ways"]["new_sites"]["macro_f1"]["value"] - 0.7) < 0.05
    sentence = describe_group_scores(scores | {"by": "site", "folds": 10})
    assert "known sites: 9" in sentence
    assert "40 sites" in sentence


# ---- The commands --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def cameras(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table of 12 sites, whose pictures of two classes have the site's colour."""
    folder, rng, rows = tmp_path_factory.mktemp("cameras"), np.random.default_rng(0), ["path,label,Camera,time"]
    for site in range(12):
        colour = rng.integers(0, 255, 3)
        for number in range(8):
            label = ("fox", "cat")[(site + (number > 5)) % 2]
            pixels = (colour + rng.normal(0, 25, (48, 48, 3))).clip(0, 255).astype(np.uint8)
            pixels[8:40, 8:40] = 255 if label == "fox" else 0
            pixels[:: 2 + number % 3] //= 2
            Image.fromarray(pixels).save(folder / f"{site}-{number}.png")
            rows.append(
                f"{site}-{number}.png,{label},cam{site},2026-05-{site + 1:02d}T10:{number // 4:02d}:{number % 4:02d}"
            )
    (folder / "table.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder / "table.csv"


@pytest.mark.slow
def test_a_site_is_in_one_split_and_the_report_has_both_scores(cameras: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = ["train", str(cameras), "--site", "Camera", "--group", "time:10s", "--backbone", "lite0"]
    settings = ["--set", "picture.size=32", "--set", "data.near_duplicates=false", "--out", str(run), "--quiet"]
    printed = CliRunner().invoke(app, [*command, *settings], catch_exceptions=False).output
    pictures = pl.read_parquet(run / "pictures.parquet")
    assert pictures.group_by("site").agg(pl.col("split").n_unique())["split"].max() == 1
    assert pictures["given_group"].n_unique() == 24
    scores = json.loads((run / "metrics.json").read_text(encoding="utf-8"))["group_scores"]
    assert set(scores["ways"]) == {"random", "grouped", "new_sites"}
    assert scores["units"] == 12
    assert scores["sentence"] in printed
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Known and new sites" in page
    assert "Sites never seen" in page


def test_a_misspelt_column_is_named(cameras: Path) -> None:
    with pytest.raises(SourceError, match='no column "Kamera". Did you mean "Camera"?'):
        bestiary.audit(cameras, group="Kamera", quiet=True)
