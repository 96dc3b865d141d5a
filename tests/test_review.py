"""What there is to review, how decisions are kept, and who may ask the page's server."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

pytest.importorskip("sklearn")

from fastapi.testclient import TestClient

from bestiary import table
from bestiary.data.corrections import append, make_correction, read_corrections
from bestiary.errors import MachineError, SourceError
from bestiary.evaluation.neighbours import nearest_neighbours
from bestiary.files import cache_folder
from bestiary.flow import audit
from bestiary.progress import SilentReporter
from bestiary.review.app import create_app
from bestiary.review.decisions import DecisionLog, reviewer_name
from bestiary.review.queue import CHECKS, MIN_MISTAKE_CONFIDENCE, build_queue
from bestiary.review.review_session import ReviewSession
from bestiary.web.settings import ServerSettings
from reviewed_run import plant

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
TOKEN = "the-token-of-this-page"
HOME = "http://127.0.0.1"


@pytest.fixture(scope="module")
def run(probed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with suspects, duplicates, a label conflict and an outlier. Shared: copy what you change."""
    return plant(probed, tmp_path_factory.mktemp("reviewed") / "run")


@pytest.fixture
def desk(run: Path, tmp_path: Path) -> ReviewSession:
    return ReviewSession(run, DecisionLog(tmp_path / "corrections.csv", "anna"), threads=1)


@pytest.fixture
def client(desk: ReviewSession) -> Iterator[TestClient]:
    app = create_app(desk, ServerSettings(token=TOKEN))
    with TestClient(app, base_url=HOME, headers={"Authorization": f"Bearer {TOKEN}"}) as made:
        yield made


# ---- What there is to review -------------------------------------------------------------------------------------


def pictures_of(*rows: tuple[int, str, str, int]) -> pl.DataFrame:
    """A picture table of `row_id, label, sha256, group`."""
    plain = {"bytes": 1, "width": 9, "height": 9, "format": "PNG", "phash": "", "split": "train", "error": None}
    made = [
        {"row_id": row, "path": f"/p/{label}/{row}.png", "label": label, "sha256": content, "group": group, **plain}
        for row, label, content, group in rows
    ]
    return pl.DataFrame(made, schema=table.PICTURES)


def findings_of(*rows: tuple[str, int, float]) -> pl.DataFrame:
    made = [
        {"check": check, "row_id": row, "score": score, "is_issue": True, "message": f"{check}!"}
        for check, row, score in rows
    ]
    return pl.DataFrame(made, schema=table.FINDINGS)


def predictions_of(*rows: tuple[int, str, str, float, bool]) -> pl.DataFrame:
    names = ("row_id", "label", "predicted", "probability", "unknown")
    made = [{**dict(zip(names, row, strict=True)), "familiarity": 0.1, "split": "test"} for row in rows]
    return pl.DataFrame(made, schema=table.PREDICTIONS)


def test_each_content_comes_once_with_all_its_reasons_the_gravest_first() -> None:
    pictures = pictures_of((0, "cat", A, 0), (1, "dog", A, 0), (2, "cat", B, 0), (3, "dog", C, 3))
    findings = findings_of(
        ("exact-duplicate", 1, 0.0), ("near-duplicate", 2, 0.1), ("suspect-label", 3, 0.05), ("label-conflict", 1, 0.0)
    )
    items = build_queue(pictures, findings, predictions_of((0, "cat", "dog", 0.9, False)))
    assert [(item.row, [reason.check for reason in item.reasons]) for item in items] == [
        (1, ["label-conflict", "confident-mistake", "exact-duplicate"]),
        (3, ["suspect-label"]),
        (2, ["near-duplicate"]),
    ]
    first = items[0]
    assert (first.copies, first.near_duplicates, first.name, first.suggested) == ((0,), (2,), "dog/1.png", "dog")


def test_within_a_check_the_worst_comes_first() -> None:
    pictures = pictures_of((0, "cat", A, 0), (1, "cat", B, 1), (2, "cat", C, 2))
    findings = findings_of(("suspect-label", 0, 0.09), ("suspect-label", 1, 0.01), ("suspect-label", 2, 0.05))
    assert [item.row for item in build_queue(pictures, findings, predictions_of())] == [1, 2, 0]


def test_a_mistake_counts_where_the_model_was_sure_and_did_answer() -> None:
    pictures = pictures_of((0, "cat", A, 0), (1, "cat", B, 1), (2, "cat", C, 2))
    predictions = predictions_of(
        (0, "cat", "dog", MIN_MISTAKE_CONFIDENCE - 0.01, False),
        (1, "cat", "dog", 0.95, True),
        (2, "cat", "dog", MIN_MISTAKE_CONFIDENCE, False),
    )
    items = build_queue(pictures, findings_of(), predictions)
    assert [(item.row, item.reasons[0].check, item.suggested) for item in items] == [
        (2, "confident-mistake", "dog"),
        (1, "unknown", None),
    ]


def test_what_is_settled_unreadable_or_not_for_a_person_is_passed_over() -> None:
    pictures = pictures_of((0, "cat", A, 0), (1, "cat", B, 1)).with_columns(
        error=pl.when(pl.col("row_id") == 1).then(pl.lit("gone")).otherwise(None)
    )
    findings = findings_of(("suspect-label", 0, 0.1), ("suspect-label", 1, 0.1), ("dark", 0, 0.1), ("imbalance", 0, 0))
    assert [item.row for item in build_queue(pictures, findings, predictions_of())] == [0]
    settled = findings.with_columns(is_issue=pl.lit(False))
    assert build_queue(pictures, settled, predictions_of()) == []


# ---- Decisions ---------------------------------------------------------------------------------------------------


def test_a_decision_is_in_the_file_at_once_with_the_name_of_who_made_it(tmp_path: Path) -> None:
    file = tmp_path / "new" / "corrections.csv"
    DecisionLog(file, "anna").add(A, "relabel", "cat", "tail: striped")
    DecisionLog(file, "ben").add(B, "drop")
    rows = read_corrections(file).rows
    assert [(row.sha256, row.action, row.label, row.note, reviewer_name(row)) for row in rows] == [
        (A, "relabel", "cat", "anna: tail: striped", "anna"),
        (B, "drop", "", "ben", "ben"),
    ]
    assert all(row.when for row in rows)


def test_a_note_of_several_lines_becomes_one_and_can_be_taken_back(tmp_path: Path) -> None:
    mine = DecisionLog(tmp_path / "corrections.csv", "anna")
    [made] = mine.add("a" * 64, "keep", note="blurred\r\n and  dark\r").rows
    assert made.note == "anna: blurred and dark"
    mine.undo()
    assert mine.all().rows == ()


def test_undo_takes_back_ones_own_last_decision_and_leaves_those_of_others(tmp_path: Path) -> None:
    file = tmp_path / "corrections.csv"
    append(file, [make_correction(C, "keep", note="old", when="")])
    anna, ben = DecisionLog(file, "anna"), DecisionLog(file, "ben")
    anna.add(A, "keep")
    anna.add(B, "drop")
    ben.add(B, "keep")
    taken = anna.undo()
    assert taken is not None
    assert (taken.sha256, taken.action) == (B, "drop")
    assert [(row.sha256[0], reviewer_name(row)) for row in read_corrections(file).rows] == [
        ("c", "old"),
        ("a", "anna"),
        ("b", "ben"),
    ]
    anna.undo()
    assert anna.undo() is None
    assert [row.sha256[0] for row in read_corrections(file).rows] == ["c", "b"]
    assert anna.mine() == ()


PROGRAM = """
import sys
from pathlib import Path
from bestiary.review.decisions import DecisionLog
decisions = DecisionLog(Path(sys.argv[1]), sys.argv[2])
for number in range(25):
    decisions.add(f"{number:064x}", "keep")
"""


def test_two_reviewers_in_two_processes_lose_no_line(tmp_path: Path) -> None:
    file = tmp_path / "corrections.csv"
    names = ("anna", "ben")
    writers = [subprocess.Popen([sys.executable, "-c", PROGRAM, str(file), name]) for name in names]
    assert [writer.wait(timeout=120) for writer in writers] == [0, 0]
    rows = read_corrections(file).rows
    for name in names:
        assert [int(row.sha256, 16) for row in rows if reviewer_name(row) == name] == list(range(25))


def test_a_file_that_somebody_broke_is_left_as_it_is(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "corrections.csv"
    file.write_text("not,a,corrections,file\n")
    with pytest.raises(SourceError, match='no column "sha256"'):
        ReviewSession(run, DecisionLog(file, "anna"))
    with pytest.raises(SourceError, match='no column "sha256"'):
        DecisionLog(file, "anna").add(A, "keep")
    assert file.read_text() == "not,a,corrections,file\n"


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match=r"Cannot write beside .*corrections\.csv"):
        DecisionLog(tmp_path / "file" / "corrections.csv", "anna").add(A, "keep")


# ---- Nearest training pictures -----------------------------------------------------------------------------------


def test_the_nearest_are_those_of_the_same_direction_but_not_ones_own_duplicates() -> None:
    known = np.array([[1, 0], [0.9, 0.1], [-1, 0.2], [0, 1], [0.1, -1]], np.float32)
    asked = known[[0, 3]] + np.float32(0.01)
    groups = np.array([7, 7, 1, 2, 3])
    found = nearest_neighbours(asked, known, groups[[0, 3]], groups, 3)
    assert found[1].tolist() == [2, 1, 0]
    assert set(found[0]) == {2, 3, 4}
    assert nearest_neighbours(asked[:1], known[:2], groups[:1], groups[:2], 3).tolist() == [[-1, -1, -1]]


def test_the_nearest_are_training_pictures_of_other_groups(desk: ReviewSession) -> None:
    row = next(iter(desk.items))
    assert desk.model_prediction(row)["neighbours"] is None
    desk.start_neighbour_search(cache_folder(), threads=1, reporter=SilentReporter())
    pictures = {one["row_id"]: one for one in pl.read_parquet(desk.run / "pictures.parquet").iter_rows(named=True)}
    for row in desk.items:
        near = desk.model_prediction(row)["neighbours"]
        assert len(near) == 6
        assert {one["split"] for one in near} == {"train"}
        assert pictures[row]["group"] not in {pictures[one["row"]]["group"] for one in near}


# ---- The server --------------------------------------------------------------------------------------------------


def test_the_overview_has_all_that_the_page_needs(client: TestClient, desk: ReviewSession) -> None:
    told = client.get("/overview").json()
    assert told["labels"] == ["bird", "fish", "rabbit", "spider"]
    assert [item["row"] for item in told["items"]] == list(desk.items)
    counts = {check["check"]: check["count"] for check in told["checks"]}
    assert counts["suspect-label"] == 16
    assert {"suspect-label", "near-duplicate", "outlier"} <= counts.keys() <= set(CHECKS)
    assert told["commands"][0].startswith("bestiary train /")
    assert told["commands"][0].endswith(f"--corrections {desk.decisions.path}")
    assert told["commands"][1] == f"bestiary compare {desk.run} runs/latest --labels-of runs/latest"


def test_each_tab_takes_back_its_own(tmp_path: Path) -> None:
    mine = DecisionLog(tmp_path / "corrections.csv", "anna")
    for sha256, tab in ((A, "one"), (B, "two"), (C, "one")):
        mine.add(sha256, "keep", tab=tab)
    taken = [mine.undo("two"), mine.undo("two"), mine.undo("one")]
    assert [one and one.sha256 for one in taken] == [B, None, C]
    assert [row.sha256 for row in mine.all().rows] == [A]


def test_what_to_do_next_names_the_run_itself_and_all_of_its_sources(desk: ReviewSession, tmp_path: Path) -> None:
    facts = {"pictures": ["/some where/one", "/two.zip"], "labels": "/maps/mine.csv"}
    shutil.copytree(desk.run, own := tmp_path / "own")
    (own / "environment.json").write_text(json.dumps(facts), encoding="utf-8")
    (latest := tmp_path / "latest").symlink_to(own, target_is_directory=True)
    train, compare = ReviewSession(latest, desk.decisions, threads=1).commands()
    assert train.startswith("bestiary train '/some where/one' /two.zip --recipe ")
    assert f"--labels /maps/mine.csv --corrections {desk.decisions.path}" in train
    assert compare.startswith(f"bestiary compare {own.resolve()} runs/latest")  # `latest` is another run by then
    here = ReviewSession(latest, DecisionLog(Path("mine.csv"), "anna"), threads=1).commands()[0]
    assert f"--corrections {Path('mine.csv').resolve()}" in here  # and may be typed in another folder


def test_an_opinion_is_what_the_predictor_says(client: TestClient, desk: ReviewSession) -> None:
    row = next(row for row, item in desk.items.items() if item.split == "train")
    told = client.get(f"/opinion/{row}").json()
    assert told["learned"] is True
    assert sum(share for _, share in told["shares"]) == pytest.approx(1, abs=1e-5)
    shares = [share for _, share in told["shares"]]
    assert shares == sorted(shares, reverse=True)
    assert client.get("/opinion/99999").status_code == 404


def test_decisions_reach_the_file_and_training(client: TestClient, desk: ReviewSession, faulty: Any) -> None:
    suspect = next(item for item in desk.items.values() if item.suggested)
    asked = {"row": suspect.row, "action": "relabel", "label": suspect.suggested}
    told = client.post("/decide", json=asked | {"tab": "one"})
    assert told.status_code == 200
    made = told.json()["decisions"][str(suspect.row)]
    assert (made["action"], made["label"], made["by"]) == ("relabel", suspect.suggested, "anna")
    found = audit(faulty.folder, corrections=desk.decisions.path, threads=1).pictures
    assert set(found.filter(pl.col("sha256") == suspect.sha256)["label"]) == {suspect.suggested}
    assert client.post("/undo", json={"tab": "two"}).json()["row"] is None
    assert client.post("/undo", json={"tab": "one"}).json() == {"row": suspect.row, "decisions": {}}
    assert client.post("/undo").json() == {"row": None, "decisions": {}}


def test_decisions_of_another_reviewer_are_shown(client: TestClient, desk: ReviewSession) -> None:
    item = next(iter(desk.items.values()))
    DecisionLog(desk.decisions.path, "ben").add(item.sha256, "drop", note="blurred")
    told = client.get("/decisions").json()["decisions"]
    assert set(told) == {str(row) for row in (item.row, *item.copies)}
    assert (told[str(item.row)]["by"], told[str(item.row)]["note"]) == ("ben", "ben: blurred")


@pytest.mark.parametrize(
    ("asked", "status", "says"),
    [
        ({"row": 99999, "action": "keep"}, 404, "nothing to review under number 99999"),
        ({"row": None, "action": "relabel", "label": "otter"}, 422, "No picture has the label"),
        ({"row": None, "action": "burn"}, 422, "burn"),
    ],
)
def test_a_decision_that_makes_no_sense_is_refused_and_not_written(
    asked: dict[str, Any], status: int, says: str, client: TestClient, desk: ReviewSession
) -> None:
    asked = {**asked, "row": next(iter(desk.items)) if asked["row"] is None else asked["row"]}
    answer = client.post("/decide", json=asked)
    assert answer.status_code == status
    assert says in answer.text
    assert not desk.decisions.path.exists()


def test_pictures_of_the_run_are_served_as_copies_by_their_number(client: TestClient, desk: ReviewSession) -> None:
    row = next(iter(desk.items))
    large, small = (client.get(f"/picture/{row}/{size}") for size in ("large", "small"))
    assert large.headers["content-type"] == small.headers["content-type"] == "image/jpeg"
    assert large.content.startswith(b"\xff\xd8")
    assert b"Exif" not in large.content
    assert len(small.content) < len(large.content)


@pytest.mark.parametrize(
    "path", ["/picture/99999/large", "/picture/0/huge", "/picture/..%2f..%2fetc%2fpasswd/large", "/picture/-1/small"]
)
def test_nothing_else_is_served(path: str, client: TestClient) -> None:
    assert client.get(path).status_code in (404, 422)


def test_a_file_that_is_not_the_one_of_the_run_any_more_is_not_shown(run: Path, faulty: Any, tmp_path: Path) -> None:
    own = tmp_path / "run"
    shutil.copytree(run, own)
    pictures = pl.read_parquet(own / "pictures.parquet")
    row = pictures.filter(pl.col("split").is_not_null())["row_id"][0]
    changed, gone = tmp_path / "changed.jpg", tmp_path / "gone.jpg"
    shutil.copy(pictures.filter(pl.col("row_id") == row)["path"].item(), changed)
    with changed.open("ab") as file:
        file.write(b"more")
    for path in (changed, gone):
        moved = pictures.with_columns(path=pl.when(pl.col("row_id") == row).then(pl.lit(str(path))).otherwise("path"))
        table.write(moved, own / "pictures.parquet")
        desk = ReviewSession(own, DecisionLog(tmp_path / "corrections.csv", "anna"), threads=1)
        client = TestClient(create_app(desk, ServerSettings(token=TOKEN)), base_url=HOME)
        answer = client.get(f"/picture/{row}/large", headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 410
        assert path.name in answer.text or "has changed since the run" in answer.text


def test_only_who_has_the_token_sees_anything_but_the_empty_page(client: TestClient, desk: ReviewSession) -> None:
    row = next(iter(desk.items))
    del client.headers["Authorization"]
    for path in ("/overview", "/decisions", f"/opinion/{row}", f"/picture/{row}/large", "/docs", "/openapi.json"):
        assert client.get(path).status_code in (401, 404), path
    assert client.post("/decide", json={"row": row, "action": "keep"}).status_code == 401
    for path in ("/", "/page/review.js", "/page/review.css", "/page/style.css"):
        assert client.get(path).status_code == 200
    assert str(desk.items[row].label) not in client.get("/").text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "bestiary.example:8001"}, 421),
        ({"Origin": "http://elsewhere.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": HOME}, 200),
    ],
)
def test_pages_of_other_sites_are_refused(
    headers: dict[str, str], status: int, client: TestClient, desk: ReviewSession
) -> None:
    answer = client.post("/decide", json={"row": next(iter(desk.items)), "action": "keep"}, headers=headers)
    assert answer.status_code == status
    assert desk.decisions.path.exists() == (status == 200)


# ---- The command -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_prints_its_address_and_at_the_end_what_to_do_next(run: Path, tmp_path: Path) -> None:
    import urllib.request

    file = tmp_path / "mine.csv"
    command = [sys.executable, "-m", "bestiary", "review", str(run), "--corrections", str(file), "--port", "0"]
    server = subprocess.Popen([*command, "--json", "--reviewer", "anna"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address, _, token = json.loads(server.stdout.readline())["address"].partition("#token=")
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{address}overview", headers=headers), timeout=60) as answer:
        row = json.load(answer)["items"][0]["row"]
    asked = json.dumps({"row": row, "action": "drop"}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{address}decide", asked, headers), timeout=60) as answer:
        assert answer.status == 200
    os.kill(server.pid, signal.SIGINT)
    told = json.loads(server.communicate(timeout=60)[0])
    assert server.returncode == 0
    assert (told["corrections"], told["keep"], told["relabel"], told["drop"]) == (str(file), 0, 0, 1)
    assert [command.split()[1] for command in told["next"]] == ["train", "compare"]
    assert len(read_corrections(file).rows) == 1
