"""Event answers against majority vote and the most confident picture, on drawn events with calibrated pictures.

    python benchmarks/events.py [--events 4000] [--validation 4000] [--seeds 5]

Pictures are points around the centre of their class, and their probabilities are the exact posterior of each alone, so
that they are calibrated. What differs between designs is how the pictures of an event depend on each other. The
combination is chosen and calibrated on validation events, of each seed anew. Printed for each design: accuracy of a
single picture, of the event answers and of both baselines, their difference to the better baseline with its standard
error (paired), and the expected calibration error, all over the test events of all seeds; the mean ECE of one seed, and
in brackets the mean that perfectly calibrated answers of as many events would show; and what was chosen most often.
Exit code 1 if answers are worse than the best baseline by more than two standard errors, or their ECE exceeds 0.02.
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from bestiary.evaluation.event_answers import calibrated_ece, event_ece
from bestiary.export.event_choice import PictureEvents, choose_combination
from bestiary.inference.event_combination import combine_events, majority_vote, most_confident

Floats = npt.NDArray[np.float64]
CLASSES, DIMENSIONS, MAX_ECE = 8, 6, 0.02


@dataclass(frozen=True)
class Design:
    """How events are drawn. sizes: from a generator and a count; correlation: of the noise within an event.

    blurry: fraction of pictures whose noise is five times as large, one picture of each event excepted; stray: fraction
    of pictures that show another class; prior: of the classes, falling by this factor from class to class.
    """

    name: str
    sizes: Callable[[np.random.Generator, int], npt.NDArray[np.int64]]
    correlation: float = 0.0
    blurry: float = 0.0
    stray: float = 0.0
    prior: float = 1.0
    noise: float = 1.0


def always(size: int) -> Callable[[np.random.Generator, int], npt.NDArray[np.int64]]:
    """Return a function that gives every event this size."""
    return lambda _, count: np.full(count, size)


def varying(rng: np.random.Generator, count: int) -> npt.NDArray[np.int64]:
    """Return sizes from 1 to 40, most of them small."""
    return np.minimum(rng.geometric(0.2, count), 40)


DESIGNS = (
    Design("independent pictures", always(5)),
    Design("strongly correlated", always(10), correlation=0.9),
    Design("the same picture again", always(10), correlation=1.0),
    Design("one good among blurry", always(8), blurry=1.0, noise=0.7),
    Design("varying sizes", varying, correlation=0.5),
    Design("varying sizes, independent", varying, noise=1.5),
    Design("rare classes", always(5), prior=0.5),
    Design("stray pictures", always(6), stray=0.2, noise=0.6),
)


def draw_events(design: Design, count: int, rng: np.random.Generator) -> PictureEvents:
    """Return events with the exact posterior of each picture."""
    centres = np.random.default_rng(0).normal(size=(CLASSES, DIMENSIONS))
    prior = design.prior ** np.arange(CLASSES)
    prior /= prior.sum()
    labels, sizes = rng.choice(CLASSES, count, p=prior), design.sizes(rng, count)
    events = np.repeat(np.arange(count), sizes)
    n = len(events)
    shared = rng.normal(size=(count, DIMENSIONS))[events]
    noise = np.sqrt(design.correlation) * shared + np.sqrt(1 - design.correlation) * rng.normal(size=(n, DIMENSIONS))
    is_first = np.concatenate([[True], events[1:] != events[:-1]])
    scale = design.noise * np.where(~is_first & (rng.random(n) < design.blurry), 5.0, 1.0)
    shown = np.where(rng.random(n) < design.stray, rng.choice(CLASSES, n, p=prior), labels[events])
    points = centres[shown] + scale[:, None] * noise
    squares = ((points[:, None, :] - centres) ** 2).sum(axis=2)
    densities = np.exp(-(squares - squares.min(axis=1, keepdims=True)) / (2 * scale[:, None] ** 2)) * prior
    posterior = densities / densities.sum(axis=1, keepdims=True)
    posterior = (1 - design.stray) * posterior + design.stray * prior
    return PictureEvents(posterior, events, labels)


@dataclass(frozen=True)
class Result:
    """Of one seed: which test events each answer has right, the answers' probabilities, and what was chosen."""

    right: dict[str, Floats]
    probabilities: Floats
    labels: npt.NDArray[np.int64]
    chosen: str


def measure(design: Design, validation_events: int, test_events: int, seed: int) -> Result:
    """Return the result of one seed."""
    rng = np.random.default_rng([seed, sum(map(ord, design.name))])
    validation, test = draw_events(design, validation_events, rng), draw_events(design, test_events, rng)
    combination = choose_combination(validation)
    probabilities = combine_events(combination, test.probabilities, test.events)
    best = test.probabilities.argmax(axis=1)
    answers = {
        "events": probabilities.argmax(axis=1),
        "vote": majority_vote(best, test.probabilities, test.events),
        "confident": best[most_confident(test.probabilities, test.events)],
    }
    right = {name: (labels == test.labels).astype(np.float64) for name, labels in answers.items()}
    right["picture"] = (best == test.labels[test.events]).astype(np.float64)
    used = f"{combination.way} {combination.exponent:g} T {combination.temperature:.2f}"
    return Result(right, probabilities, test.labels, used + (" prior" if combination.prior else ""))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events", type=int, default=4000)
    parser.add_argument("--validation", type=int, default=4000)
    parser.add_argument("--seeds", type=int, default=5)
    arguments = parser.parse_args()
    is_failed = False
    print(f"{'design':28} picture events   vote confid.  difference (se)      ECE  of a seed         chosen")
    for design in DESIGNS:
        results = [measure(design, arguments.validation, arguments.events, seed) for seed in range(arguments.seeds)]
        rates = {name: float(np.concatenate([r.right[name] for r in results]).mean()) for name in results[0].right}
        rival = max(("vote", "confident"), key=lambda name: rates[name])
        gains = np.concatenate([result.right["events"] - result.right[rival] for result in results])
        gain, error = float(gains.mean()), float(gains.std(ddof=1)) / len(gains) ** 0.5
        ece = event_ece(*(np.concatenate([getattr(r, name) for r in results]) for name in ("probabilities", "labels")))
        of_seeds = statistics.mean(event_ece(result.probabilities, result.labels) for result in results)
        perfect = statistics.mean(calibrated_ece(result.probabilities) for result in results)
        is_failed = is_failed or gain < -2 * error or ece > MAX_ECE
        print(
            f"{design.name:28} {rates['picture']:7.3f} {rates['events']:6.3f} {rates['vote']:6.3f}"
            f" {rates['confident']:7.3f} {gain:+9.4f} ({error:.4f})  {ece:.4f}  {of_seeds:.4f} ({perfect:.4f})"
            f"  {statistics.mode(result.chosen for result in results)}"
        )
    sys.exit(int(is_failed))


if __name__ == "__main__":
    main()
