"""The README's table of tools is what `benchmarks/results.json` gives; it says so where another tool is better."""

from __future__ import annotations

import copy
import json
import runpy
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
SCRIPT = runpy.run_path(str(ROOT / "benchmarks" / "peers" / "write_table.py"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
RESULTS: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results.json").read_text(encoding="utf-8"))


def render(results: dict[str, Any]) -> str:
    text: str = SCRIPT["render_table"](results)
    return text


def row_of(results: dict[str, Any], tool: str) -> str:
    title = results["tools"][tool]["title"]
    return next(line for line in render(results).splitlines() if line.startswith(f"| {title}:"))


def test_the_readme_has_the_table_of_the_results() -> None:
    assert SCRIPT["insert_table"](README, render(RESULTS)) == README


def test_a_changed_result_changes_the_readme() -> None:
    results = copy.deepcopy(RESULTS)
    results["tools"]["sklearn"]["macro_f1"]["value"] += 0.01
    assert SCRIPT["insert_table"](README, render(results)) != README


def test_every_tool_has_a_row_or_a_reason() -> None:
    text = render(RESULTS)
    for entry in RESULTS["tools"].values():
        assert f"| {entry['title']}: " in text or entry["not_run"] in text


def test_a_faster_tool_is_marked() -> None:
    results = copy.deepcopy(RESULTS)
    own, peer = results["tools"]["bestiary"], results["tools"]["sklearn"]
    own["cold_start"] = {"seconds": [0.5, 0.6, 0.5], "cpu_seconds": [0.5, 0.6, 0.5]}
    peer["cold_start"] = {"seconds": [0.25], "cpu_seconds": [1.0]}
    assert "| **0.25; 1.00** |" in row_of(results, "sklearn")
    peer["cold_start"]["seconds"] = [1000.0]
    assert "| 1000.00; 1.00 |" in row_of(results, "sklearn")


def test_the_whole_collection_has_a_sentence() -> None:
    results = copy.deepcopy(RESULTS)
    tools = results["all_pictures"]["tools"]
    for name, seconds in (("bestiary", 80.0), ("sklearn", 200.0)):
        tools[name]["train"] = [{"seconds": seconds, "cpu_seconds": 2 * seconds}]
    sentence = next(line for line in render(results).splitlines() if line.startswith("With all"))
    assert "80 s (160 processor seconds), macro-F1 0.939" in sentence
    assert "200 s (400 processor seconds), 2.5 and 2.5 times as many, +0.4 (-2.5 to +2.8) points." in sentence
    del results["all_pictures"]
    assert sentence not in render(results)


def test_a_higher_score_is_marked_if_the_interval_says_so() -> None:
    results = copy.deepcopy(RESULTS)
    difference = results["tools"]["sklearn"]["minus_bestiary"]["macro_f1"]
    difference |= {"value": 0.02, "low": 0.01, "high": 0.03}
    assert "**+2.0 (+1.0 to +3.0)**" in row_of(results, "sklearn")
    difference |= {"low": -0.01}
    assert "**+2.0" not in row_of(results, "sklearn")


def test_a_tool_that_did_not_run_is_named() -> None:
    results = copy.deepcopy(RESULTS)
    results["tools"]["other"] = {"title": "Other", "settings": "", "not_run": "no wheel for this Python"}
    assert "Other: no wheel for this Python" in render(results).partition("Not run: ")[2]


def test_a_readme_without_markers_is_refused() -> None:
    with pytest.raises(SystemExit, match="once"):
        SCRIPT["insert_table"]("# bestiary\n", render(RESULTS))
