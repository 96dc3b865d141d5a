"""The groups that `--help` lists options in, by what they are about.

In one table: many options are shared by several commands, and some names differ in meaning between them.
"""

from __future__ import annotations

PICTURES, SPLIT, MODEL = "Pictures and labels", "Split", "Model and training"
SCORES, OUTPUT, ANSWERS = "Scores", "Output", "Answers"
SEARCH, SERVER, COMPUTER, COMMON = "Search", "Server", "Computer", "Every command"
# In the order of the help.
GROUPS: dict[str, tuple[str, ...]] = {
    PICTURES: (
        *("--labels", "--classes", "--label-depth", "--format", "--columns", "--pictures", "--leave-out", "--crop"),
        *("--boxes", "--corrections"),
    ),
    SPLIT: ("--split", "--group", "--site", "--folds", "--leak-report"),
    MODEL: (
        *("--method", "--backbone", "--recipe", "--set", "--seed", "--seeds", "--against", "--preset"),
        *("--costs", "--thresholds", "--budget"),
    ),
    SEARCH: ("--trials", "--search", "--storage", "--inner-folds", "--fresh-seeds"),
    ANSWERS: (
        *("--top", "--sets", "--unknown-label", "--heatmaps", "--link-into", "--events", "--nearest", "--map"),
        "--max-pixels",
    ),
    SCORES: ("--prove", "--corruptions", "--intersection", "--labels-of", "--resamples", "--name"),
    SERVER: ("--host", "--port", "--token", "--allow-name", "--reviewer"),
    OUTPUT: (
        *("--out", "--to", "--no-pictures", "--table", "--package", "--resume", "--log", "--strict", "--force"),
        "--sort",
    ),
    COMPUTER: ("--device", "--threads", "--torch", "--cluster", "--workers"),
    COMMON: ("--quiet", "--json", "--help"),
}
# Where a command means something else by a name.
EXCEPTIONS: dict[tuple[str, str], str] = {
    ("predict", "--format"): OUTPUT,
    ("predict", "--columns"): OUTPUT,
    ("predict", "--pictures"): OUTPUT,
    ("predict", "--group"): ANSWERS,
    ("predict", "--site"): ANSWERS,
    ("settings", "--format"): OUTPUT,
    ("review", "--corrections"): OUTPUT,
}
UNGROUPED = "More options"
# What stands for the value of an option that does not name it itself; by default the word of its type.
VALUES = {
    "--allow-name": "NAME",
    "--backbone": "NAME",
    "--budget": "TIME",
    "--classes": "NAME,…",
    "--host": "ADDRESS",
    "--labels": "NAME|FILE.csv",
    "--name": "NAME",
    "--preset": "NAME",
    "--recipe": "NAME|FILE.toml",
    "--reviewer": "NAME",
    "--search": "SETTING=VALUES",
    "--set": "SETTING=VALUE",
    "--storage": "FILE|URL",
    "--token": "SECRET",
}


def find_group(command: str, option: str) -> str:
    """Return the group of an option of a command.

    >>> find_group("train", "--group"), find_group("predict", "--group")
    ('Split', 'Answers')
    """
    groups = (group for group, options in GROUPS.items() if option in options)
    return EXCEPTIONS.get((command, option)) or next(groups, UNGROUPED)
