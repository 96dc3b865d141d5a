"""What is known about the suspect labels of a collection as a whole: how many of them are expected to be wrong."""

from __future__ import annotations

from dataclasses import dataclass

from bestiary.checks import DOUBTFUL_LABEL, AuditCheck, find_check

MAX_WIDTH = 0.9  # of an interval of one label: a wider one says nothing
MIN_PRECISION = 0.5  # with a lower expected precision, suspect labels are called doubtful


@dataclass(frozen=True)
class LabelIssueSummary:
    """What is known about the suspect labels as a whole.

    count: suspect labels; accuracy: of the out-of-fold model; precision: expected fraction of the suspect labels that
    is wrong, with its 95 % interval `low` to `high` (`evaluation.label_noise`): wrong labels that look like hard
    pictures to the model are not counted, so that it is rather too low than too high.
    """

    count: int
    accuracy: float
    precision: float
    low: float
    high: float

    @property
    def is_doubtful(self) -> bool:
        """Whether fewer than half of them are expected to be wrong."""
        return self.precision < MIN_PRECISION

    @property
    def kind(self) -> str:
        """What these labels are called."""
        return "doubtful" if self.is_doubtful else "suspect"

    def describe_expected(self) -> str:
        """Return how many are expected to be wrong, with the 95 % interval.

        >>> LabelIssueSummary(40, 0.97, 0.85, 0.7, 0.95).describe_expected()
        'about 34 (28 to 38)'
        """
        expected, low, high = (round(self.count * fraction) for fraction in (self.precision, self.low, self.high))
        return f"about {expected:,} ({low:,} to {high:,})"

    def describe(self) -> str:
        """Return a sentence about the number of labels that are expected to be wrong, which is a low estimate.

        >>> LabelIssueSummary(40, 0.97, 0.85, 0.7, 0.95).describe()
        'Of 40 suspect labels, about 34 (28 to 38) are expected to be wrong, a low estimate.'
        >>> LabelIssueSummary(1, 0.97, 0.04, 0.0, 0.1).describe()
        'The doubtful label is expected to be wrong with a probability of 4 % (0 to 10 %).'
        >>> LabelIssueSummary(1, 0.97, 0.02, 0.0, 1.0).describe()
        'The doubtful label may be wrong: one is too few to estimate its probability.'
        """
        if self.count == 1 and self.high - self.low > MAX_WIDTH:
            return f"The {self.kind} label may be wrong: one is too few to estimate its probability."
        if self.count == 1:
            percent = f"{100 * self.precision:.0f} % ({100 * self.low:.0f} to {100 * self.high:.0f} %)"
            return f"The {self.kind} label is expected to be wrong with a probability of {percent}."
        are = "is" if round(self.count * self.precision) == 1 else "are"
        sentence = f"Of {self.count:,} {self.kind} labels, {self.describe_expected()} {are} expected to be wrong"
        if not self.is_doubtful:
            return f"{sentence}, a low estimate."
        return f"{sentence}, a low estimate; the others may be correct labels of pictures that are hard for the model."


def resolve_check(name: str, label_issues: LabelIssueSummary | None) -> AuditCheck:
    """Return the check of this name; suspect labels are called doubtful where most are expected to be correct.

    >>> resolve_check("suspect-label", LabelIssueSummary(40, 0.7, 0.1, 0.0, 0.2)).format_count(40)
    '40 doubtful labels'
    """
    is_doubtful = label_issues is not None and label_issues.is_doubtful
    return DOUBTFUL_LABEL if is_doubtful and name == DOUBTFUL_LABEL.name else find_check(name)
