"""What is known about the suspect labels of a collection as a whole: how many of them are expected to be wrong."""

from __future__ import annotations

from dataclasses import dataclass

from bestiary.checks import DOUBTFUL_LABEL, AuditCheck, find_check

MAX_WIDTH = 0.9  # of the interval of a probability: a wider one says nothing
MAX_VAGUE = 10  # labels that are so few that an interval from none to all is said in words
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
        """Return how many of several are expected to be wrong, with the 95 % interval: a part of a sentence.

        >>> LabelIssueSummary(40, 0.97, 0.85, 0.7, 0.95).describe_expected()
        'probably about 34 of the 40 suspect labels (95 % interval 28 to 38), perhaps more'
        >>> LabelIssueSummary(2, 0.8, 0.4, 0.0, 1.0).describe_expected()
        'perhaps about 1 of the 2 doubtful labels; they are too few for a good estimate'
        """
        if self._is_vague():
            return f"perhaps {self._format_amount()}; they are too few for a good estimate"
        return f"probably {self._format_amount()}{self._format_spread()}"

    def describe(self) -> str:
        """Return how many labels are expected to be wrong, and of doubtful ones why they may be correct.

        >>> LabelIssueSummary(40, 0.97, 0.85, 0.7, 0.95).describe()
        'Probably about 34 of the 40 suspect labels are wrong (95 % interval 28 to 38), perhaps more.'
        >>> LabelIssueSummary(1, 0.97, 0.04, 0.0, 0.1).describe()
        'The doubtful label is probably correct; it is wrong with a probability of 4 % (95 % interval 0 to 10 %).'
        >>> LabelIssueSummary(2, 0.97, 0.4, 0.0, 1.0).describe()
        'Perhaps about 1 of the 2 doubtful labels is wrong; any number from 0 to 2 is possible, as they are few.'
        """
        if self.count == 1 and self._is_vague():
            return f"The {self.kind} label may be wrong or correct: one is too few for an estimate."
        if self.count == 1:
            likely = "correct; it is wrong" if self.is_doubtful else "wrong,"
            interval = f"95 % interval {100 * self.low:.0f} to {100 * self.high:.0f} %"
            probability = f"with a probability of {100 * self.precision:.0f} % ({interval})"
            return f"The {self.kind} label is probably {likely} {probability}."
        expected, _, _ = self._round_counts()
        are = "is" if expected < 2 else "are"
        if self._is_vague():
            possible = f"any number from 0 to {self.count:,} is possible, as they are few"
            return f"Perhaps {self._format_amount()} {are} wrong; {possible}."
        sentence = f"Probably {self._format_amount()} {are} wrong{self._format_spread()}."
        if not self.is_doubtful:
            return sentence
        if self.count - expected == 1:
            return f"{sentence} The other may be the correct label of a picture that is hard for the model."
        rest = "The others" if expected else "They"
        return f"{sentence} {rest} may be correct labels of pictures that are hard for the model."

    def _is_vague(self) -> bool:
        """Whether the interval says nothing: anything from none to all of a few labels."""
        if self.count == 1:
            return self.high - self.low > MAX_WIDTH
        return self.count <= MAX_VAGUE and self._round_counts()[1:] == (0, self.count)

    def _round_counts(self) -> tuple[int, int, int]:
        """Return how many labels are expected to be wrong, and the ends of the interval."""
        expected, low, high = (round(self.count * fraction) for fraction in (self.precision, self.low, self.high))
        return expected, low, high

    def _format_amount(self) -> str:
        """Return `about 34 of the 40 suspect labels`, or that it is none or all of them."""
        expected, _, _ = self._round_counts()
        if expected == self.count:
            return f"both {self.kind} labels" if self.count == 2 else f"all {self.count:,} {self.kind} labels"
        amount = f"about {expected:,}" if expected else "neither" if self.count == 2 else "none"
        return f"{amount} of the {self.count:,} {self.kind} labels"

    def _format_spread(self) -> str:
        """Return the 95 % interval in brackets, and "perhaps more" where there may be: the estimate is a low one."""
        expected, low, high = self._round_counts()
        interval = f" (95 % interval {low:,} to {high:,})" if low < high else ""
        return f"{interval}, perhaps more" if 0 < expected < self.count else interval


def resolve_check(name: str, label_issues: LabelIssueSummary | None) -> AuditCheck:
    """Return the check of this name; suspect labels are called doubtful where most are expected to be correct.

    >>> resolve_check("suspect-label", LabelIssueSummary(40, 0.7, 0.1, 0.0, 0.2)).format_count(40)
    '40 doubtful labels'
    """
    is_doubtful = label_issues is not None and label_issues.is_doubtful
    return DOUBTFUL_LABEL if is_doubtful and name == DOUBTFUL_LABEL.name else find_check(name)
