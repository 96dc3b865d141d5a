"""The command `settings`: every setting, searched by a word, as text and as JSON."""

from __future__ import annotations

import json

import pytest

from bestiary.settings_reference import describe_sections, list_settings
from commands import Call

NAMES = [setting.name for setting in list_settings()]


def names_of(text: str) -> list[str]:
    """The settings that a text lists: lines indented by two."""
    return [line.strip() for line in text.splitlines() if line.startswith("  ") and line.strip() in NAMES]


def test_every_setting_is_listed_with_its_values_default_and_users(bestiary: Call) -> None:
    code, out, err = bestiary("settings")
    assert (code, err, names_of(out)) == (0, "", NAMES)
    flat = " ".join(out.split())
    for setting in list_settings():
        users = "every method" if setting.users == "all" else setting.users
        entry = (
            f"{setting.name} {setting.meaning} values: {setting.values}; default: {setting.default}; used by {users}"
        )
        assert " ".join(entry.split()) in flat
    for section, about in describe_sections().items():
        assert f"[{section}] {about}" in flat


@pytest.mark.parametrize(
    ("words", "names"),
    [
        (["crop"], ["data.crop", "picture.fit", "augment.crop_min_area"]),
        (["CROP", "random"], ["augment.crop_min_area"]),
        (["train.epochs"], ["train.epochs"]),
        (["augmentation", "random"], [name for name in NAMES if name.startswith("augment.")]),
    ],
)
def test_words_search_name_section_and_meaning(bestiary: Call, words: list[str], names: list[str]) -> None:
    assert names_of(bestiary("settings", *words).out) == names


def test_json_has_every_field(bestiary: Call) -> None:
    for arguments in (["--format", "json"], ["--json"]):
        listed = json.loads(bestiary("settings", "train.epochs", *arguments).out)["settings"]
        assert [setting["name"] for setting in listed] == ["train.epochs"]
    [epochs] = listed
    assert (epochs["section"], epochs["methods"]) == ("train", ["finetune", "scratch"])
    assert epochs["defaults"] == {"finetune": 5, "resnet": 48, "plain": 20}
    assert {"values", "default", "networks", "meaning"} < epochs.keys()
    assert [setting["name"] for setting in json.loads(bestiary("settings", "--json").out)["settings"]] == NAMES


def test_a_word_that_no_setting_has_is_an_error_with_the_nearest_name(bestiary: Call) -> None:
    code, out, err = bestiary("settings", "epcohs")
    assert (code, out) == (2, "")
    assert 'No setting has "epcohs"' in err
    assert 'Did you mean "epochs"?' in err


def test_long_lines_are_wrapped_to_the_terminal(bestiary: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "70")
    lines = bestiary("settings", "train").out.splitlines()
    assert max(map(len, lines[:-1])) <= 70  # the command in the last line is copied as it is


def test_messages_about_unknown_settings_name_the_command(bestiary: Call) -> None:
    err = bestiary("train", "pictures", "--set", "train.epoch=3").err
    assert 'Did you mean "train.epochs"?' in err
    assert "`bestiary settings train` explains them." in err
    assert names_of(bestiary("settings", "train").out)
    assert "expected at least 32; got 3." in bestiary("train", "pictures", "--set", "picture.size=3").err
