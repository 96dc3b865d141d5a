#!/bin/sh
# Optuna 5.0.0: `Trial.should_prune()` is not only a question. With SuccessiveHalvingPruner it records the trial's rung,
# and a trial that never asks is missing from the values that later trials are compared with. A program that spares one
# trial (a baseline that must never be pruned) by writing `if not is_baseline and trial.should_prune()` therefore prunes
# the others differently than one that writes `if trial.should_prune() and not is_baseline`.
#
# Seen: with the same reported values the worse trial is pruned if the baseline asked, and goes on if it did not; the
# system attribute "completed_rung_0" exists only where the baseline asked.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check "optuna==5.0.0" >/dev/null 2>&1
"$folder/venv/bin/python" - <<'PYTHON'
import optuna

optuna.logging.set_verbosity(optuna.logging.ERROR)


def second_is_pruned(*, baseline_asks: bool) -> tuple[bool, bool]:
    pruner = optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=2)
    study = optuna.create_study(direction="maximize", pruner=pruner)
    baseline, second = study.ask(), study.ask()
    baseline.report(0.9, 1)
    if baseline_asks:
        baseline.should_prune()  # its answer is ignored
    second.report(0.1, 1)
    pruned = second.should_prune()
    recorded = "completed_rung_0" in study.trials[0].system_attrs
    return pruned, recorded


asked, silent = second_is_pruned(baseline_asks=True), second_is_pruned(baseline_asks=False)
print(f"optuna {optuna.__version__}: baseline asks: second pruned, rung recorded = {asked}; baseline silent: {silent}")
assert optuna.__version__ == "5.0.0"
assert asked == (True, True), "the behaviour has changed"
assert silent == (False, False), "the behaviour has changed"
PYTHON
