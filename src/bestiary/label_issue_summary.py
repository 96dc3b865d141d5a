"""What is known about the suspect labels of a collection as a whole: how many of them are expected to be wrong."""

from __future__ import annotations

from dataclasses import dataclass

from bestiary.checks import DOUBTFUL_LABEL, AuditCheck, find_check

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

    def describe(self) -> str:
        """Return a sentence about the expected precision, which is a cautious estimate.

        >>> LabelIssueSummary(40, 0.97, 0.85, 0.7, 0.95).describe()
        'Of 40 suspect labels, about 85 % (70 to 95 %) are expected to be wrong, by a cautious estimate.'
        """
        about = f"about {100 * self.precision:.0f} % ({100 * self.low:.0f} to {100 * self.high:.0f} %)"
        expected = f"{about} {'is' if self.count == 1 else 'are'} expected to be wrong, by a cautious estimate"
        labels = f"label{'s' * (self.count > 1)}"
        if not self.is_doubtful:
            return f"Of {self.count:,} suspect {labels}, {expected}."
        others = "the others may be correct labels of pictures that are hard for the model"
        return f"{self.count:,} doubtful {labels}, the most doubtful first: {expected}; {others}."


def resolve_check(name: str, label_issues: LabelIssueSummary | None) -> AuditCheck:
    """Return the check of this name; suspect labels are called doubtful where most are expected to be correct.

    >>> resolve_check("suspect-label", LabelIssueSummary(40, 0.7, 0.1, 0.0, 0.2)).format_count(40)
    '40 doubtful labels'
    """
    is_doubtful = label_issues is not None and label_issues.is_doubtful
    return DOUBTFUL_LABEL if is_doubtful and name == DOUBTFUL_LABEL.name else find_check(name)
