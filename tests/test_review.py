"""The review queue, the decision log, and the server of the review page."""

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
from bestiary.checks import REVIEW_ORDER
from bestiary.context import Context
from bestiary.data.corrections import append, make_correction, read_corrections
from bestiary.errors import MachineError, SourceError
from bestiary.flow import audit
from bestiary.models import engine_choice
from bestiary.models.neighbours import nearest_neighbours
from bestiary.recipe_sections import FeaturesConfig
from bestiary.review import review_session
from bestiary.review.app import create_app
from bestiary.review.decisions import DecisionLog, reviewer_name
from bestiary.review.queue import MIN_MISTAKE_CONFIDENCE, build_queue
from bestiary.review.review_session import ReviewSession
from bestiary.web.settings import ServerSettings
from reviewed_run import plant

A, B, C = ("a" * 64, "b" * 64, "c" * 64)
TOKEN = "the-token-of-this-page"
HOME = "http://127.0.0.1"


@pytest.fixture(scope="module")
def run(probed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with suspect labels, duplicates, a label conflict and an outlier. Shared: copy what you change."""
    return plant(probed, tmp_path_factory.mktemp("reviewed") / "run")


@pytest.fixture
def session(run: Path, tmp_path: Path) -> ReviewSession:
    return ReviewSession(run, DecisionLog(tmp_path / "corrections.csv", "anna"), threads=1)


@pytest.fixture
def client(session: ReviewSession) -> Iterator[TestClient]:
    app = create_app(session, ServerSettings(token=TOKEN))
    with TestClient(app, base_url=HOME, headers={"Authorization": f"Bearer {TOKEN}"}) as client:
        yield client


# ---- The queue ---------------------------------------------------------------------------------------------------


def pictures_of(*rows: tuple[int, str, str, int]) -> pl.DataFrame:
    """A picture table of `row_id, label, sha256, group`."""
    plain = {"bytes": 1, "width": 9, "height": 9, "format": "PNG", "phash": "", "split": "train", "error": None}
    table_rows = [
        {"row_id": row, "path": f"/p/{label}/{row}.png", "label": label, "sha256": content, "group": group, **plain}
        for row, label, content, group in rows
    ]
    return pl.DataFrame(table_rows, schema=table.PICTURES)


def findings_of(*rows: tuple[str, int, float]) -> pl.DataFrame:
    table_rows = [
        {"check": check, "row_id": row, "score": score, "is_issue": True, "message": f"{check}!"}
        for check, row, score in rows
    ]
    return pl.DataFrame(table_rows, schema=table.FINDINGS)


def predictions_of(*rows: tuple[int, str, str, float, bool]) -> pl.DataFrame:
    names = ("row_id", "label", "predicted", "probability", "unknown")
    table_rows = [{**dict(zip(names, row, strict=True)), "familiarity": 0.1, "split": "test"} for row in rows]
    return pl.DataFrame(table_rows, schema=table.PREDICTIONS)


def test_each_content_is_queued_once_with_all_its_reasons_the_most_serious_first() -> None:
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
    assert (first.copies, first.near_duplicates, first.name, first.suggested_label) == ((0,), (2,), "dog/1.png", "dog")


def test_pictures_of_one_site_are_not_offered_as_duplicates() -> None:
    pictures = pictures_of((0, "cat", A, 0), (1, "cat", B, 0), (2, "cat", C, 0))
    pictures = pictures.with_columns(duplicate_group=pl.Series([0, 0, 2]))
    (item,) = build_queue(pictures, findings_of(("near-duplicate", 1, 0.1)), predictions_of())
    assert item.near_duplicates == (0,)


def test_within_a_check_the_worst_comes_first() -> None:
    pictures = pictures_of((0, "cat", A, 0), (1, "cat", B, 1), (2, "cat", C, 2))
    findings = findings_of(("suspect-label", 0, 0.09), ("suspect-label", 1, 0.01), ("suspect-label", 2, 0.05))
    assert [item.row for item in build_queue(pictures, findings, predictions_of())] == [1, 2, 0]


def test_a_mistake_is_queued_if_the_model_was_confident_and_not_unknown() -> None:
    pictures = pictures_of((0, "cat", A, 0), (1, "cat", B, 1), (2, "cat", C, 2))
    predictions = predictions_of(
        (0, "cat", "dog", MIN_MISTAKE_CONFIDENCE - 0.01, False),
        (1, "cat", "dog", 0.95, True),
        (2, "cat", "dog", MIN_MISTAKE_CONFIDENCE, False),
    )
    items = build_queue(pictures, findings_of(), predictions)
    assert [(item.row, item.reasons[0].check, item.suggested_label) for item in items] == [
        (2, "confident-mistake", "dog"),
        (1, "unknown", None),
    ]


def test_resolved_unreadable_and_unreviewable_findings_are_skipped() -> None:
    pictures = pictures_of((0, "cat", A, 0), (1, "cat", B, 1)).with_columns(
        error=pl.when(pl.col("row_id") == 1).then(pl.lit("gone")).otherwise(None)
    )
    findings = findings_of(("suspect-label", 0, 0.1), ("suspect-label", 1, 0.1), ("dark", 0, 0.1), ("imbalance", 0, 0))
    assert [item.row for item in build_queue(pictures, findings, predictions_of())] == [0]
    settled = findings.with_columns(is_issue=pl.lit(False))
    assert build_queue(pictures, settled, predictions_of()) == []


# ---- Decisions ---------------------------------------------------------------------------------------------------


def test_a_decision_is_saved_at_once_with_the_name_of_the_reviewer(tmp_path: Path) -> None:
    file = tmp_path / "new" / "corrections.csv"
    DecisionLog(file, "anna").add(A, "relabel", "cat", "tail: striped")
    DecisionLog(file, "ben").add(B, "drop")
    rows = read_corrections(file).rows
    assert [(row.sha256, row.action, row.label, row.note, reviewer_name(row)) for row in rows] == [
        (A, "relabel", "cat", "anna: tail: striped", "anna"),
        (B, "drop", "", "ben", "ben"),
    ]
    assert all(row.when for row in rows)


def test_a_note_of_several_lines_becomes_one_and_can_be_undone(tmp_path: Path) -> None:
    mine = DecisionLog(tmp_path / "corrections.csv", "anna")
    [decision] = mine.add("a" * 64, "keep", note="blurred\r\n and  dark\r").rows
    assert decision.note == "anna: blurred and dark"
    mine.undo()
    assert mine.all().rows == ()


def test_undo_removes_ones_own_last_decision_and_leaves_those_of_others(tmp_path: Path) -> None:
    file = tmp_path / "corrections.csv"
    append(file, [make_correction(C, "keep", note="old", when="")])
    anna, ben = DecisionLog(file, "anna"), DecisionLog(file, "ben")
    anna.add(A, "keep")
    anna.add(B, "drop")
    ben.add(B, "keep")
    undone = anna.undo()
    assert undone is not None
    assert (undone.sha256, undone.action) == (B, "drop")
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


def test_a_malformed_file_is_not_changed(run: Path, tmp_path: Path) -> None:
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
    reference = np.array([[1, 0], [0.9, 0.1], [-1, 0.2], [0, 1], [0.1, -1]], np.float32)
    query = reference[[0, 3]] + np.float32(0.01)
    groups = np.array([7, 7, 1, 2, 3])
    neighbours = nearest_neighbours(query, reference, groups[[0, 3]], groups, 3)
    assert neighbours[1].tolist() == [2, 1, 0]
    assert set(neighbours[0]) == {2, 3, 4}
    assert nearest_neighbours(query[:1], reference[:2], groups[:1], groups[:2], 3).tolist() == [[-1, -1, -1]]


def test_the_nearest_are_training_pictures_of_other_groups(session: ReviewSession) -> None:
    row = next(iter(session.items))
    assert session.model_prediction(row)["neighbours"] is None
    session.start_neighbour_search(Context(threads=1))
    pictures = {
        picture["row_id"]: picture
        for picture in pl.read_parquet(session.run / "pictures.parquet").iter_rows(named=True)
    }
    for row in session.items:
        near = session.model_prediction(row)["neighbours"]
        assert len(near) == 6
        assert {neighbour["split"] for neighbour in near} == {"train"}
        assert pictures[row]["group"] not in {pictures[neighbour["row"]]["group"] for neighbour in near}


def test_the_nearest_of_a_run_of_another_processor_are_found(
    session: ReviewSession, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorded = FeaturesConfig(engine="openvino", precision="bfloat16")
    monkeypatch.setattr(review_session, "recorded_features", lambda run: recorded)
    monkeypatch.setattr(engine_choice, "has_bfloat16", lambda: False)
    session.start_neighbour_search(Context(threads=1))
    assert session.model_prediction(next(iter(session.items)))["neighbours"]


# ---- The server --------------------------------------------------------------------------------------------------


def test_the_overview_has_everything_the_page_needs(client: TestClient, session: ReviewSession) -> None:
    overview = client.get("/overview").json()
    assert overview["labels"] == ["bird", "fish", "rabbit", "spider"]
    assert [item["row"] for item in overview["items"]] == list(session.items)
    counts = {check["check"]: check["count"] for check in overview["checks"]}
    assert counts["suspect-label"] == 16
    assert {"suspect-label", "near-duplicate", "outlier"} <= counts.keys() <= set(REVIEW_ORDER)
    assert overview["commands"][0].startswith("bestiary train /")
    assert overview["commands"][0].endswith(f"--corrections {session.decisions.path}")
    assert overview["commands"][1] == f"bestiary compare {session.run} runs/latest --labels-of runs/latest"


def test_each_tab_undoes_its_own_decisions(tmp_path: Path) -> None:
    mine = DecisionLog(tmp_path / "corrections.csv", "anna")
    for sha256, tab in ((A, "one"), (B, "two"), (C, "one")):
        mine.add(sha256, "keep", tab=tab)
    undone = [mine.undo("two"), mine.undo("two"), mine.undo("one")]
    assert [decision and decision.sha256 for decision in undone] == [B, None, C]
    assert [row.sha256 for row in mine.all().rows] == [A]


def test_the_next_commands_name_the_run_itself_and_all_of_its_sources(session: ReviewSession, tmp_path: Path) -> None:
    facts = {"pictures": ["/some where/one", "/two.zip"], "labels": "/maps/mine.csv"}
    shutil.copytree(session.run, own := tmp_path / "own")
    (own / "environment.json").write_text(json.dumps(facts), encoding="utf-8")
    (latest := tmp_path / "latest").symlink_to(own, target_is_directory=True)
    train, compare = ReviewSession(latest, session.decisions, threads=1).commands()
    assert train.startswith("bestiary train '/some where/one' /two.zip --recipe ")
    assert f"--labels /maps/mine.csv --corrections {session.decisions.path}" in train
    assert compare.startswith(f"bestiary compare {own.resolve()} runs/latest")  # `latest` is another run by then
    here = ReviewSession(latest, DecisionLog(Path("mine.csv"), "anna"), threads=1).commands()[0]
    assert f"--corrections {Path('mine.csv').resolve()}" in here  # and may be typed in another folder


def test_the_prediction_route_gives_ranked_probabilities(client: TestClient, session: ReviewSession) -> None:
    row = next(row for row, item in session.items.items() if item.split == "train")
    prediction = client.get(f"/opinion/{row}").json()
    assert prediction["learned"] is True
    probabilities = [probability for _, probability in prediction["shares"]]
    assert sum(probabilities) == pytest.approx(1, abs=1e-5)
    assert probabilities == sorted(probabilities, reverse=True)
    assert client.get("/opinion/99999").status_code == 404


def test_decisions_reach_the_file_and_training(client: TestClient, session: ReviewSession, faulty: Any) -> None:
    suspect = next(item for item in session.items.values() if item.suggested_label)
    body = {"row": suspect.row, "action": "relabel", "label": suspect.suggested_label}
    response = client.post("/decide", json=body | {"tab": "one"})
    assert response.status_code == 200
    decision = response.json()["decisions"][str(suspect.row)]
    assert (decision["action"], decision["label"], decision["by"]) == ("relabel", suspect.suggested_label, "anna")
    corrected = audit(faulty.folder, corrections=session.decisions.path, threads=1).pictures
    assert set(corrected.filter(pl.col("sha256") == suspect.sha256)["label"]) == {suspect.suggested_label}
    assert client.post("/undo", json={"tab": "two"}).json()["row"] is None
    assert client.post("/undo", json={"tab": "one"}).json() == {"row": suspect.row, "decisions": {}}
    assert client.post("/undo").json() == {"row": None, "decisions": {}}


def test_a_batch_is_decided_and_undone_at_once(client: TestClient, session: ReviewSession) -> None:
    rows = list(session.items)[:5]
    client.post("/decide", json={"row": rows[0], "action": "keep", "tab": "one"})
    response = client.post("/decide-all", json={"rows": rows, "action": "drop", "tab": "one"})
    assert {response.json()["decisions"][str(row)]["action"] for row in rows} == {"drop"}
    saved = read_corrections(session.decisions.path).rows
    assert len(saved) == 6
    paths = dict(pl.read_parquet(session.run / "pictures.parquet").select("row_id", "path").iter_rows())
    assert [row.path for row in saved] == [paths[row] for row in (rows[0], *rows)]
    assert client.post("/undo", json={"tab": "one"}).json()["row"] == rows[0]
    assert [row.action for row in read_corrections(session.decisions.path).rows] == ["keep"]
    assert client.post("/decide-all", json={"rows": [*rows, 99999], "action": "drop"}).status_code == 404
    assert client.post("/decide-all", json={"rows": [], "action": "drop"}).status_code == 422
    assert len(read_corrections(session.decisions.path).rows) == 1


def test_a_new_label_is_confirmed_and_two_classes_are_recorded(client: TestClient, session: ReviewSession) -> None:
    first, second = list(session.items)[:2]
    body = {"row": first, "action": "relabel", "label": " otter ", "is_new": True}
    assert client.post("/decide", json=body).status_code == 200
    assert client.post("/decide", json={"row": second, "action": "both", "label": "fish"}).status_code == 200
    rows = read_corrections(session.decisions.path).rows
    assert [(row.action, row.label) for row in rows] == [("relabel", "otter"), ("both", "fish")]


def test_missing_files_are_named(run: Path, tmp_path: Path) -> None:
    assert ReviewSession(run, DecisionLog(tmp_path / "c.csv", "anna"), threads=1).overview()["missing"] == ""
    shutil.copytree(run, own := tmp_path / "own")
    pictures = pl.read_parquet(own / "pictures.parquet")
    table.write(pictures.with_columns(path=pl.format("/gone{}", "path")), own / "pictures.parquet")
    session = ReviewSession(own, DecisionLog(tmp_path / "c.csv", "anna"), threads=1)
    n = len(session.items)
    assert session.overview()["missing"].startswith(f"{n} of {n} pictures to review are not where the run found them: ")


def test_decisions_of_another_reviewer_are_shown(client: TestClient, session: ReviewSession) -> None:
    item = next(iter(session.items.values()))
    DecisionLog(session.decisions.path, "ben").add(item.sha256, "drop", note="blurred")
    decisions = client.get("/decisions").json()["decisions"]
    assert set(decisions) == {str(row) for row in (item.row, *item.copies)}
    assert (decisions[str(item.row)]["by"], decisions[str(item.row)]["note"]) == ("ben", "ben: blurred")


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"row": 99999, "action": "keep"}, 404, "nothing to review under number 99999"),
        ({"row": None, "action": "relabel", "label": "otter"}, 422, "No picture has the label"),
        ({"row": None, "action": "burn"}, 422, "burn"),
    ],
)
def test_an_invalid_decision_is_rejected_and_not_saved(
    body: dict[str, Any], status: int, message: str, client: TestClient, session: ReviewSession
) -> None:
    body = {**body, "row": next(iter(session.items)) if body["row"] is None else body["row"]}
    answer = client.post("/decide", json=body)
    assert answer.status_code == status
    assert message in answer.text
    assert not session.decisions.path.exists()


def test_pictures_of_the_run_are_served_as_copies_by_their_number(client: TestClient, session: ReviewSession) -> None:
    row = next(iter(session.items))
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


def test_a_file_that_has_changed_since_the_run_is_not_shown(run: Path, faulty: Any, tmp_path: Path) -> None:
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
        session = ReviewSession(own, DecisionLog(tmp_path / "corrections.csv", "anna"), threads=1)
        client = TestClient(create_app(session, ServerSettings(token=TOKEN)), base_url=HOME)
        answer = client.get(f"/picture/{row}/large", headers={"Authorization": f"Bearer {TOKEN}"})
        assert answer.status_code == 410
        assert path.name in answer.text or "has changed since the run" in answer.text


def test_without_the_token_only_the_empty_page_is_served(client: TestClient, session: ReviewSession) -> None:
    row = next(iter(session.items))
    del client.headers["Authorization"]
    for path in ("/overview", "/decisions", f"/opinion/{row}", f"/picture/{row}/large", "/docs", "/openapi.json"):
        assert client.get(path).status_code in (401, 404), path
    assert client.post("/decide", json={"row": row, "action": "keep"}).status_code == 401
    for path in ("/", "/page/review.js", "/page/review.css", "/page/style.css"):
        assert client.get(path).status_code == 200
    assert str(session.items[row].label) not in client.get("/").text


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "bestiary.example:8001"}, 421),
        ({"Origin": "http://elsewhere.example"}, 403),
        ({"Sec-Fetch-Site": "cross-site"}, 403),
        ({"Origin": HOME}, 200),
    ],
)
def test_cross_site_requests_are_rejected(
    headers: dict[str, str], status: int, client: TestClient, session: ReviewSession
) -> None:
    answer = client.post("/decide", json={"row": next(iter(session.items)), "action": "keep"}, headers=headers)
    assert answer.status_code == status
    assert session.decisions.path.exists() == (status == 200)


# ---- The command -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_command_prints_its_address_and_at_the_end_the_next_commands(run: Path, tmp_path: Path) -> None:
    import urllib.request

    file = tmp_path / "mine.csv"
    command = [sys.executable, "-m", "bestiary", "review", str(run), "--corrections", str(file), "--port", "0"]
    server = subprocess.Popen([*command, "--json", "--reviewer", "anna"], stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    address, _, token = json.loads(server.stdout.readline())["address"].partition("#token=")
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    with urllib.request.urlopen(urllib.request.Request(f"{address}overview", headers=headers), timeout=60) as answer:
        row = json.load(answer)["items"][0]["row"]
    body = json.dumps({"row": row, "action": "drop"}).encode()
    with urllib.request.urlopen(urllib.request.Request(f"{address}decide", body, headers), timeout=60) as answer:
        assert answer.status == 200
    os.kill(server.pid, signal.SIGINT)
    summary = json.loads(server.communicate(timeout=60)[0])
    assert server.returncode == 0
    assert (summary["corrections"], summary["keep"], summary["relabel"], summary["drop"]) == (str(file), 0, 0, 1)
    assert [command.split()[1] for command in summary["next"]] == ["train", "compare"]
    assert len(read_corrections(file).rows) == 1
