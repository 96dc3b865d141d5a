"""Label noise: how many of the labels that a model doubts are expected to be wrong.

The more often a model errs, the more correct labels it doubts. The labels are described by a mixture: with probability
`noise` a label is drawn at random from all classes, else from the out-of-fold probabilities with the temperature T.
Both parameters are integrated over a grid by their likelihood, so a label's posterior probability of being wrong, and
the expected precision of a set of suspects, need no labels that are known to be correct. Symmetric label noise:
Natarajan et al., "Learning with Noisy Labels" (2013); temperature: Guo et al. (2017).

The estimate is cautious: the model was trained on the noisy labels, so its probabilities contain part of the noise
(docs/log.md has the figures).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bestiary.array_types import Floats, Ints
from bestiary.quick_metrics import softmax

NOISE_GRID = np.geomspace(1e-4, 0.4, 41)
TEMPERATURE_GRID = np.geomspace(0.1, 5.0, 60)
MAX_FITTED = 20_000  # pictures in the likelihood; more do not change the grid's weights noticeably
SMALLEST_WEIGHT = 1e-6
DRAWS = 1_000


@dataclass(frozen=True)
class LabelNoise:
    """The posterior weights of a grid of noise and temperature, (noise, temperature), which sum to 1."""

    weights: Floats

    @property
    def fraction(self) -> float:
        """The expected fraction of labels drawn at random."""
        return float(self.weights.sum(axis=1) @ NOISE_GRID)


@dataclass(frozen=True)
class WrongLabels:
    """Probabilities that labels are wrong: (grid, n) for each noise of the grid with weight, and its weight (grid,)."""

    by_noise: Floats
    weights: Floats

    @property
    def probability(self) -> Floats:
        """The probability that each label is wrong, (n,)."""
        return self.weights @ self.by_noise

    def precision_interval(self, seed: int = 0) -> tuple[float, float]:
        """Return the 95 % interval of the fraction of these labels that is wrong, from the posterior's draws."""
        rng = np.random.default_rng(seed)
        rows = rng.choice(len(self.weights), DRAWS, p=self.weights)
        drawn = [float((rng.random(self.by_noise.shape[1]) < self.by_noise[row]).mean()) for row in rows]
        low, high = np.quantile(drawn, [0.025, 0.975])
        return float(low), float(high)


def fit_label_noise(probabilities: Floats, labels: Ints) -> LabelNoise:
    """Return the posterior of noise and temperature given out-of-fold probabilities (n, classes) and labels (n,).

    Noise has Jeffreys' prior, ln(T) a standard normal one. Of more than MAX_FITTED pictures, evenly spaced ones are
    used. Raises ValueError without pictures or with fewer than two classes.
    """
    if len(labels) == 0 or probabilities.shape[1] < 2:
        raise ValueError(f"Label noise needs pictures of two classes or more; got {probabilities.shape}.")
    rows = np.unique(np.linspace(0, len(labels) - 1, min(len(labels), MAX_FITTED)).astype(int))
    logits, labels, classes = _log(probabilities[rows]), labels[rows], probabilities.shape[1]
    log_likelihood = np.empty((len(NOISE_GRID), len(TEMPERATURE_GRID)))
    for column, temperature in enumerate(TEMPERATURE_GRID):
        own = softmax(logits / temperature)[np.arange(len(labels)), labels]
        mixtures = (np.log((1 - noise) * own + noise / classes).sum() for noise in NOISE_GRID)
        log_likelihood[:, column] = [*mixtures]
    # On a grid in ln(noise), the prior noise^-1/2 becomes noise^1/2.
    log_prior = np.log(NOISE_GRID)[:, None] / 2 - np.log(TEMPERATURE_GRID) ** 2 / 2
    log_posterior = log_likelihood + log_prior
    weights = np.exp(log_posterior - log_posterior.max())
    return LabelNoise(weights / weights.sum())


def estimate_wrong_labels(noise: LabelNoise, probabilities: Floats, labels: Ints) -> WrongLabels:
    """Return the probabilities that these labels (n,) are wrong, given out-of-fold probabilities (n, classes)."""
    logits, classes = _log(probabilities), probabilities.shape[1]
    used = np.flatnonzero(noise.weights.max(axis=1) > SMALLEST_WEIGHT)
    by_noise = np.zeros((len(used), len(labels)))
    for column, temperature in enumerate(TEMPERATURE_GRID):
        weights = noise.weights[used, column]
        if weights.max() <= SMALLEST_WEIGHT:
            continue
        own = softmax(logits / temperature)[np.arange(len(labels)), labels]
        level = NOISE_GRID[used][:, None]
        at_random = level / classes
        by_noise += weights[:, None] * at_random * (1 - own) / ((1 - level) * own + at_random)
    totals = noise.weights[used].sum(axis=1)
    return WrongLabels(by_noise / totals[:, None], totals / totals.sum())


def _log(probabilities: Floats) -> Floats:
    logs: Floats = np.log(np.maximum(probabilities, 1e-12))
    return logs
