"""The trials of a search, run by this process until there are enough or the time is up: one at a time, or several.

Several are run by as many threads, each of which asks the study for a trial, has it scored by a worker, and records it.
The study is asked and told here alone, so that workers need no access to the storage.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor, as_completed

from bestiary.errors import RecipeError, RunError
from bestiary.progress import Advance
from bestiary.tune.storage import failure_reasons
from bestiary.tune.trial import SearchContext, SearchTimeoutError, TrialOutcome, run_trial

MAX_INITIAL_FAILURES = 3  # the search ends if so many trials fail before any succeeds


def run_trials(search: SearchContext) -> bool:
    """Run trials until there are enough or the time is up; return whether this process should finish the search."""
    storage, report = search.storage, search.context.reporter.info
    with storage.session(), search.context.reporter.progress("Trials", search.max_trials) as advance:
        if notice := storage.use(search.plan.epochs, seed=search.base_recipe.seed):
            report(notice)
        ending = storage.pending_finish()
        loop = _TrialLoop(search, advance)
        if ending is not None and ending["wanted"] == search.max_trials:
            report("The winner is chosen already: no more trials are run.")
        elif search.workers.count == 1:
            loop.run()
        else:
            _run_at_once(loop, search)
    if loop.outcomes:
        report(_describe_outcomes(loop.outcomes))
    is_last = storage.wait(lambda: search.deadlines.room() < 0, report)
    if is_last and not storage.best():
        raise RunError(
            f"No trial is complete: {len(failure_reasons(storage.trials()))} failed, or the time limit was reached."
            " Increase --budget: the same command resumes the search."
        )
    return is_last


class _TrialLoop:
    """Runs one trial after another; several threads may do so."""

    def __init__(self, search: SearchContext, advance: Advance) -> None:
        self._search, self._advance, self._lock = search, advance, threading.Lock()
        self._failures, self._typical_seconds, self._is_over = 0, 0.0, False
        self.outcomes = Counter[TrialOutcome]()

    def run(self) -> None:
        """Run trials until there are enough, the time is up, or another thread has ended the search."""
        search = self._search
        while not self._is_over and search.deadlines.room() > self._typical_seconds:
            try:
                with search.storage.trial_claim(search.max_trials) as trial:
                    if trial is None:
                        break
                    seconds, outcome = run_trial(search, trial)
            except SearchTimeoutError:
                self._report_timeout()
                break
            with self._lock:
                self._count(seconds, outcome)

    def end(self) -> None:
        """Let the threads end, and have the trials that they are running queued again."""
        self._is_over = True
        self._search.workers.stop()

    def _count(self, seconds: float, outcome: TrialOutcome) -> None:
        """Count a trial. Raises RecipeError if all trials so far have failed."""
        storage, typical = self._search.storage, self._typical_seconds
        storage.clear()
        self._advance(1)
        self.outcomes[outcome] += 1
        self._typical_seconds = 0.8 * typical + 0.2 * seconds if typical else seconds
        self._failures = self._failures + 1 if outcome == "failed" else 0
        if self._failures >= MAX_INITIAL_FAILURES and not storage.best():
            raise RecipeError(
                f"{self._failures} trials failed, and none succeeded. The last one:"
                f" {failure_reasons(storage.trials())[-1]} Change the recipe, or narrow the search."
            )

    def _report_timeout(self) -> None:
        """Say once that the time is up."""
        with self._lock:
            if not self._is_over:
                are = "trials are" if self._search.workers.count > 1 else "trial is"
                self._search.context.reporter.info(
                    f"The time limit for trials is reached; the running {are} queued again."
                )
            self._is_over = True


def _run_at_once(loop: _TrialLoop, search: SearchContext) -> None:
    """Run as many trials at a time as there are workers; the first error, or Ctrl-C, ends all."""
    count = search.workers.count
    with ThreadPoolExecutor(count, "bestiary-trial") as pool:
        threads = [pool.submit(loop.run) for _ in range(count)]
        try:
            for thread in as_completed(threads):
                thread.result()
        except BaseException:
            loop.end()
            raise


def _describe_outcomes(outcomes: Mapping[TrialOutcome, int]) -> str:
    """Return how many trials this process ran, and how they ended.

    >>> _describe_outcomes({"complete": 9, "pruned": 3})
    '12 trials: 9 complete, 3 stopped early.'
    """
    words: dict[TrialOutcome, str] = {"complete": "complete", "pruned": "stopped early", "failed": "failed"}
    ended = ", ".join(f"{outcomes[outcome]} {words[outcome]}" for outcome in words if outcomes.get(outcome))
    total = sum(outcomes.values())
    return f"{total} trial{'s' * (total != 1)}: {ended}."
