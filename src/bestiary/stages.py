"""The stages of a job: each progress line begins with the number of its stage and how many there are."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from bestiary.progress import Advance, Reporter

Job = Literal["audit", "train", "resume", "evaluate", "evaluate pictures", "tune", "study"]
Stage = tuple[str, ...]  # how the titles begin that belong to one stage

MEASURE: Stage = ("Unpacking", "Reading pictures")
DUPLICATES: Stage = ("Searching for duplicates",)
SHORTCUTS: Stage = ("Checking for shortcuts",)
LABELS: Stage = ("Computing features", "Checking labels")
PLAN: Stage = ("Estimating the time",)
FIT: Stage = ("Computing features", "Computing activations", "Decoding pictures", "Fitting", "Epoch")
VERIFY: Stage = ("Verifying",)
CURVE: Stage = ("Learning curve",)
COPIES: Stage = ("Searching for duplicates of training pictures",)
PREDICT: Stage = ("Predicting",)
SCORE: Stage = ("Computing metrics",)
TEST: Stage = (*PREDICT, *SCORE)  # a probe's test pictures are predicted by its features, others from their files
REPORT: Stage = ("Writing the report",)
TRIALS: Stage = ("Computing features", "Trials")
RESCORE: Stage = ("Rescoring",)
DATA, FINISH = (MEASURE, DUPLICATES, SHORTCUTS), (FIT, VERIFY, CURVE, TEST, REPORT)
WINNER: Stage = tuple(title for stage in FINISH for title in stage)
STAGES: dict[Job, Sequence[Stage]] = {
    "audit": (*DATA, LABELS),
    "train": (*DATA, PLAN, LABELS, *FINISH),
    "resume": FINISH,
    "evaluate": (PREDICT, SCORE, REPORT),
    "evaluate pictures": (*DATA, COPIES, PREDICT),
    "tune": (*DATA, TRIALS, RESCORE, (*LABELS, *WINNER)),
    "study": (*DATA, LABELS, WINNER),
}


@dataclass
class StageReporter:
    """A reporter that numbers the stages of a job: "[4/11] Checking labels".

    A title that belongs to several stages is of the first one that is not over; a stage that has nothing to do is
    skipped, and one that is repeated, as the training of each fold is, keeps its number.
    """

    reporter: Reporter
    stages: Sequence[Stage]
    current: int = 0

    def info(self, text: str) -> None:
        """Pass the notice on."""
        self.reporter.info(text)

    def progress(self, title: str, total: int | None) -> contextlib.AbstractContextManager[Advance]:
        """Open a task under its title with the number of the stage."""
        own = [number for number, stage in enumerate(self.stages) if title.startswith(stage)]
        ahead = [number for number in own if number >= self.current]
        self.current = ahead[0] if ahead else own[-1] if own else self.current
        return self.reporter.progress(f"[{self.current + 1}/{len(self.stages)}] {title}", total)


def number_stages(reporter: Reporter, job: Job) -> Reporter:
    """Return the reporter with the stages of the job numbered; unchanged if it numbers those of an outer job."""
    return reporter if isinstance(reporter, StageReporter) else StageReporter(reporter, STAGES[job])
