"""The fuzzer: what it begins with is valid, and it notices what may not come out. `scripts/fuzz` runs it for long."""

import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bestiary.data.formats.registry import FORMATS
from fuzzing.cases import Case, make_file_cases
from fuzzing.mutations import BY_SUFFIX, choose_mutation, mutate_bytes
from fuzzing.targets import TARGETS, Bench, Target

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning")


@pytest.fixture(autouse=True)
def _own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """A bench changes the working folder."""
    monkeypatch.chdir(tmp_path)
    yield
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", TARGETS)
def test_every_case_is_read_as_it_is_and_refused_or_read_when_it_is_changed(name: str) -> None:
    bench, rng, refused = Bench(TARGETS[name]), random.Random(1), 0
    for number, case in enumerate(bench.cases):
        content = case.files[case.fuzzed]
        assert bench.run(number, content) == ""
        for _ in range(3):
            refused += bench.run(number, choose_mutation(case.fuzzed)(content, rng)) != ""
        refused += bench.run(number, b"") != ""
    bench.close()
    assert refused  # the changes reach the reader


def test_every_format_of_labels_is_a_target() -> None:
    assert {form.name for form in FORMATS} <= set(TARGETS)


def check_nothing(folder: Path, cache: Path, case: Case) -> None:
    pass


def check_with_bug(folder: Path, cache: Path, case: Case) -> None:
    raise KeyError("label")


def check_with_trace(folder: Path, cache: Path, case: Case) -> None:
    (folder / "beside.txt").write_text("x")


def check_with_change(folder: Path, cache: Path, case: Case) -> None:
    (folder / case.fuzzed).write_text("changed")


@pytest.mark.parametrize(
    ("check", "error"),
    [(check_with_bug, KeyError), (check_with_trace, AssertionError), (check_with_change, AssertionError)],
)
def test_a_bug_and_a_written_file_are_findings(check: object, error: type[Exception]) -> None:
    sound = Target(lambda: make_file_cases("a.txt", b"text"), check_nothing)
    bench = Bench(replace(sound, check=check))  # type: ignore[arg-type]
    with pytest.raises(error):
        bench.run(0, b"other")
    bench.close()
    bench = Bench(sound)
    assert bench.run(0, b"other") == ""
    bench.close()


@pytest.mark.parametrize("suffix", [*BY_SUFFIX, ".jpg"])
def test_changes_are_reproducible_and_take_any_input(suffix: str) -> None:
    mutate = choose_mutation(f"a{suffix}")
    assert mutate is BY_SUFFIX.get(suffix, mutate_bytes)
    for content in (b"", b"\xff\x00", b'{"a": [1, "x"]}', b"a,b\n1,2\n"):
        changed = [mutate(content, random.Random(seed)) for seed in range(20)]
        assert changed == [mutate(content, random.Random(seed)) for seed in range(20)]
        assert any(text != content for text in changed)
