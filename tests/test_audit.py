from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from bestiary import table
from bestiary.checks import FAILS_STRICT
from bestiary.data import audit
from bestiary.data.scan import MEASUREMENT_COLUMNS

NO_PAIRS = np.zeros((0, 4), np.int64)
SOUND: dict[str, Any] = {
    "label": "cat",
    "given_split": None,
    "bytes": 9_000,
    "mtime_ns": 1,
    "width": 300,
    "height": 200,
    "format": "JPEG",
    "frames": 1,
    "orientation": 1,
    "has_alpha": False,
    "phash": "0" * 64,
    "luma": 0.5,
    "contrast": 0.6,
    "entropy": 7.0,
    "thumbnail": bytes(range(256)) * 4,
    "sharpness": 0.1,
    "saturation": 0.3,
    "check": None,
    "error": None,
}


def subject(parts: int) -> bytes:
    """A white thumbnail on which so many of its 1,024 parts are darker."""
    return bytes([200] * parts + [252] * (1024 - parts))


def pictures(*changes: dict[str, Any]) -> pl.DataFrame:
    """Measured pictures that are sound but for the changes, each in a group of its own."""
    rows = [
        SOUND | {"row_id": i, "path": f"/p/{i}.jpg", "sha256": f"{i:064x}", "group": i} | change
        for i, change in enumerate(changes)
    ]
    kinds = {"row_id": pl.UInt32, "label": pl.String, "given_split": pl.String, "group": pl.Int64}
    return pl.DataFrame(rows, schema=kinds | MEASUREMENT_COLUMNS)


def pairs(*found: tuple[int, int, int]) -> NDArray[np.int64]:
    return np.array([(*pair, 0) for pair in found], np.int64)  # 0: no changes


def checks(*changes: dict[str, Any], pairs: NDArray[np.int64] = NO_PAIRS) -> list[str]:
    return audit.find_issues(pictures(*changes), pairs)["check"].to_list()


def test_sound_pictures_have_no_findings() -> None:
    found = audit.find_issues(pictures({}, {"label": "dog"}), NO_PAIRS)
    assert found.height == 0
    assert found.schema == pl.Schema(table.FINDINGS)


@pytest.mark.parametrize(
    ("check", "bad", "good", "message"),
    [
        ("tiny", {"width": 31, "height": 40}, {"width": 32, "height": 40}, "Very small: 31 x 40 pixels."),
        (
            "extreme-aspect",
            {"width": 501},
            {"width": 500},
            "Extreme aspect ratio: 501 x 200 pixels; a centre crop would keep 40",
        ),
        ("extreme-aspect", {"height": 751}, {"height": 750}, "Extreme aspect ratio: 300 x 751 pixels"),
        ("dark", {"luma": 0.119}, {"luma": 0.121}, "Very dark."),
        ("bright", {"luma": 0.951}, {"luma": 0.949}, "Almost white."),
        ("blurry", {"sharpness": 0.005}, {"sharpness": 0.007}, "Blurry."),
        (
            "low-information",
            {"thumbnail": subject(20)},
            {"thumbnail": subject(21)},
            "Almost uniform: 2.0 % of it differs",
        ),
        ("low-information", {"thumbnail": subject(0)}, {"thumbnail": b""}, "Almost uniform: 0.0 % of it differs"),
        ("grey", {"saturation": 0.007}, {"saturation": 0.009}, "Grey; most pictures of cat have colour."),
        ("rotated", {"orientation": 6}, {"orientation": 1}, "Rotated or mirrored by EXIF"),
        ("alpha", {"has_alpha": True}, {"has_alpha": False}, "Has transparent parts"),
        ("animated", {"frames": 2}, {"frames": 1}, "An animation of 2 frames; its first frame is used."),
        (
            "animated",
            {"frames": 3, "format": "TIFF", "path": "/p/x.tif"},
            {"format": "TIFF", "path": "/p/x.tif"},
            "A TIFF of 3 pages",
        ),
        (
            "wrong-extension",
            {"format": "PNG"},
            {"format": "MPO"},
            "The content is PNG, which does not match the file extension.",
        ),
        ("wrong-extension", {"path": "/p.jpg/x"}, {"path": "/p/x.JPEG"}, "The content is JPEG"),
        ("wrong-extension", {"path": "/p/x.jpg.png"}, {"path": "/p/x.png.jpg"}, "The content is JPEG"),
    ],
)
def test_a_rule_holds_on_one_side_of_its_threshold(
    check: str, bad: dict[str, Any], good: dict[str, Any], message: str
) -> None:
    found = audit.find_issues(pictures({}, bad), NO_PAIRS)
    (row,) = found.iter_rows(named=True)
    assert (row["check"], row["row_id"], row["is_issue"]) == (check, 1, check not in ("rotated", "alpha"))
    assert row["path"] == bad.get("path", "/p/1.jpg")
    assert row["message"].startswith(message)
    assert 0 <= row["score"] <= 1
    assert checks({}, good) == []


@pytest.mark.parametrize(
    ("worse", "better"),
    [({"width": 4}, {"width": 30}), ({"luma": 0.01}, {"luma": 0.1}), ({"luma": 0.99}, {"luma": 0.96})],
)
def test_the_worst_come_first(worse: dict[str, Any], better: dict[str, Any]) -> None:
    found = audit.find_issues(pictures(better, worse), NO_PAIRS)
    found = found.filter(pl.col("check") != "extreme-aspect")
    assert found["row_id"].to_list() == [1, 0]
    assert found["score"].is_sorted()


def test_findings_come_in_the_order_of_the_checks() -> None:
    found = checks(
        {"luma": 0.0}, {"width": 5}, {"check": "truncated", "error": "x"}, {"check": "unreadable", "error": "y"}
    )
    assert found == ["unreadable", "truncated", "tiny", "extreme-aspect", "dark"]


def test_a_file_that_cannot_be_used_has_one_finding_with_its_reason() -> None:
    broken = {
        "check": "huge",
        "error": "/p/0.jpg has too many pixels.",
        "width": 0,
        "height": 0,
        "luma": 0.0,
        "format": "",
    }
    (row,) = audit.find_issues(pictures(broken), NO_PAIRS).iter_rows(named=True)
    assert (row["check"], row["message"], row["score"]) == ("huge", "/p/0.jpg has too many pixels.", 0.0)


def test_a_truncated_file_is_worse_the_more_of_it_is_missing() -> None:
    cut = {"check": "truncated", "error": "It ends too early."}
    found = audit.find_issues(pictures(cut | {"missing": 0.25}, cut | {"missing": 0.75}, cut), NO_PAIRS)
    assert found.select("row_id", "score").rows() == [(2, 0.0), (1, 0.25), (0, 0.75)]


def test_grey_is_told_only_where_colour_is_usual() -> None:
    grey, other = {"saturation": 0.0}, {"saturation": 0.4, "label": "dog"}
    assert checks(grey, grey, {}, other, other) == []  # most cats are grey: an X-ray archive has no grey pictures
    assert checks(grey, {}, {}, other, other) == ["grey"]


def test_duplicates_are_named_with_the_first_of_them() -> None:
    found = audit.find_issues(
        pictures({}, {"sha256": "0" * 64, "group": 0}, {}, {"group": 2}), pairs((0, 1, 0), (2, 3, 16))
    )
    assert found.select("check", "row_id", "group", "score", "message").rows() == [
        ("exact-duplicate", 1, 0, 0.0, "The same file as 0.jpg."),
        ("near-duplicate", 3, 2, 16 / 256, "Nearly the same as 2.jpg."),
    ]


def test_duplicates_are_named_with_their_folders_in_the_collection() -> None:
    paths = [{"path": f"/p/{folder}/1.jpg", "group": 0} for folder in ("train/cat", "train/dog", "test/cat")]
    found = audit.find_issues(pictures(*paths), pairs((0, 1, 0), (1, 2, 16)))
    messages = found.filter(pl.col("check").is_in(["exact-duplicate", "near-duplicate"]))["message"].to_list()
    assert messages == ["Nearly the same as train/cat/1.jpg.", "Nearly the same as train/dog/1.jpg."]


def test_duplicates_under_two_labels_or_on_two_sides_are_serious() -> None:
    found = audit.find_issues(
        pictures(
            {"given_split": "train"},
            {"given_split": "test", "label": "dog", "sha256": "0" * 64, "group": 0},
            {"given_split": "train", "group": 0},
        ),
        pairs((0, 1, 0), (0, 2, 9)),
    )
    messages = dict(found.select("check", "message").iter_rows())
    assert messages["label-conflict"] == "Labelled dog, but the same file as 0.jpg, which is labelled cat."
    assert messages["split-leak"] == "In test, but the same file as 0.jpg, which is in train."
    assert found["check"].to_list() == ["exact-duplicate", "near-duplicate", "label-conflict", "split-leak"]
    assert {"label-conflict", "split-leak"} <= FAILS_STRICT <= set(table.CHECKS)


def test_imbalance_is_told_from_three_times_on() -> None:
    uneven: list[dict[str, Any]] = [{}] * 6 + [{"label": "dog"}] * 2
    (row,) = audit.find_issues(pictures(*uneven), NO_PAIRS).iter_rows(named=True)
    assert (row["check"], row["row_id"], row["path"]) == ("imbalance", None, None)
    assert row["message"].startswith(
        "cat has 6 pictures, dog only 2: 3 times fewer. With 1 test picture, a recall of 90 %"
    )
    assert row["score"] == pytest.approx(1 / 3)
    assert checks(*uneven[1:]) == []
    assert checks({}, {}, {}) == []


@pytest.mark.parametrize(
    ("few", "fraction", "said"),
    [
        (40, 0.15, "With 6 test pictures, a recall of 90 % has a 95 % interval from 50 to"),
        (40, 0.3, "With 12 test pictures, a recall of 90 % has a 95 % interval from 63 to"),
    ],
)
def test_imbalance_tells_how_well_the_smallest_class_will_be_known(few: int, fraction: float, said: str) -> None:
    uneven = pictures(*[{}] * 200, *[{"label": "dog"}] * few)
    (message,) = audit.find_issues(uneven, NO_PAIRS, test_fraction=fraction)["message"]
    assert said in message


def test_of_a_given_split_the_test_pictures_are_counted() -> None:
    split: list[dict[str, Any]] = [{"given_split": "train"}] * 9 + [{"given_split": "test", "label": "dog"}] * 2
    (message,) = audit.find_issues(pictures(*split), NO_PAIRS)["message"]
    assert "With 2 test pictures" in message
    (message,) = audit.find_issues(pictures(*split[:9], {"given_split": "train", "label": "dog"}), NO_PAIRS)["message"]
    assert "It has no test picture" in message


def test_pictures_that_cannot_be_used_do_not_count_for_balance() -> None:
    unusable = {"label": "dog", "check": "unreadable", "error": "x"}
    assert "imbalance" in checks(*[{}] * 6, {"label": "dog"}, {"label": "dog"}, *[unusable] * 4)
