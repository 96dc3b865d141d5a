"""The checks of the audit: name, severity, order and explanation of each, in one place.

`data/audit.py` measures them, the findings table, the audit page, the report and the review queue derive their
orders and texts from here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["decide", "know", "note"]  # a person has to decide; worth knowing; bestiary deals with it itself


@dataclass(frozen=True)
class AuditCheck:
    """One check.

    singular: what was found, empty where nothing can be counted; many: its plural, if not with an s; meaning: a phrase
    for a table; effect: on a model; remedy: what to do. table_order: place in the findings table, 0 for a check that is
    not written there; review_order: place in the review queue, 0 for a check without pictures to decide about.
    fails_strict: `audit --strict` fails; alters_model: the findings change the model or its score.
    """

    name: str
    singular: str
    meaning: str
    effect: str
    remedy: str
    severity: Severity = "decide"
    table_order: int = 0
    review_order: int = 0
    fails_strict: bool = False
    alters_model: bool = False
    many: str = ""

    @property
    def plural(self) -> str:
        """The findings in the plural."""
        return self.many or f"{self.singular}s"

    @property
    def needs_person(self) -> bool:
        """Whether a person has to decide about the findings."""
        return self.severity == "decide"

    def format_count(self, n: int) -> str:
        """Return how many were found: `3 suspect labels`."""
        return f"{n:,} {self.singular if n == 1 else self.plural}" if self.singular else self.plural


REMOVE_UNCLEAR = "Keep them if the model will meet such pictures; remove those that you could not name yourself."
# The most serious first: this is the order of the audit page.
CHECKS = (
    AuditCheck(
        "split-leak",
        "picture in two splits",
        "the same picture in two splits",
        "The model is tested on pictures that it was trained on, so its score is too high.",
        "Leave one of each group out, or let bestiary split the pictures: it keeps duplicates in one split.",
        table_order=18,
        review_order=6,
        fails_strict=True,
        alters_model=True,
        many="pictures in two splits",
    ),
    AuditCheck(
        "label-conflict",
        "label conflict",
        "the same picture under different labels",
        "At least one of the labels is wrong. The model is trained on both, and every prediction counts as a mistake"
        " for one of them.",
        "Decide which label is right, and give it to all pictures of the group; or leave the others out.",
        table_order=17,
        review_order=1,
        fails_strict=True,
        alters_model=True,
    ),
    # A suspect label is a doubt: of 120 right labels of a small drawn dataset 3 were doubted, and a sound dataset must
    # pass `audit --strict`.
    AuditCheck(
        "suspect-label",
        "suspect label",
        "labels that the model, trained without them, disagrees with",
        "Wrong labels in training blur the classes. Wrong labels in the test split make the model look worse than it"
        " is, and hide which model is best.",
        "Look at each. Correct those that are wrong; keep those that are right but unusual, the model learns most from"
        " them.",
        table_order=21,
        review_order=2,
        alters_model=True,
    ),
    AuditCheck(
        "shortcut",
        "shortcut",
        "file properties that predict the label without looking at the picture",
        "A model may learn this property instead of the content. It scores well here and fails on pictures from"
        " elsewhere.",
        "Bring the classes to the same sources, sizes and formats; evaluate the model on pictures from elsewhere.",
        table_order=20,
        fails_strict=True,
        alters_model=True,
    ),
    AuditCheck(
        "unreadable",
        "file that cannot be read",
        "files that no decoder could open",
        "They are left out of training and testing.",
        "Fetch them again from their source, or remove them.",
        table_order=1,
        fails_strict=True,
        many="files that cannot be read",
    ),
    AuditCheck(
        "truncated",
        "incomplete file",
        "files that end too early",
        "They are left out. Part of the picture is missing, which most programs silently fill with grey.",
        "Fetch them again from their source, or remove them.",
        table_order=2,
        fails_strict=True,
    ),
    AuditCheck(
        "huge",
        "picture beyond the size limit",
        "pictures beyond the size limit",
        "They are left out: a picture this large could fill the memory.",
        "Save smaller copies, or raise the limit (picture.max_pixels and picture.max_bytes in the recipe).",
        table_order=6,
        fails_strict=True,
        many="pictures beyond the size limit",
    ),
    AuditCheck(
        "left-out",
        "file left out",
        "files left out for a reason of their own",
        "They are left out of training and testing.",
        "Read the reason of each; if it is what you wanted, there is nothing to do.",
        many="files left out",
    ),
    AuditCheck(
        "imbalance",
        "",
        "classes with far fewer pictures than others",
        "Rare classes are learnt worst, and with few test pictures their scores are very uncertain.",
        "Add pictures of the small classes, as different from each other as you can; or leave those classes out.",
        table_order=19,
        many="classes of very unequal size",
    ),
    AuditCheck(
        "outlier",
        "outlier",
        "pictures unlike all others of their class",
        "A picture that fits no class adds noise to the class it is in.",
        "Look at each: remove what does not belong here; keep what is unusual but right.",
        table_order=22,
        review_order=4,
    ),
    AuditCheck(
        "low-information",
        "nearly empty picture",
        "pictures that show next to nothing",
        "There is next to nothing to learn from them, except that emptiness belongs to this class.",
        "Remove what shows nothing; keep plain drawings and silhouettes if the model should know those too.",
        table_order=11,
    ),
    AuditCheck(
        "exact-duplicate",
        "exact duplicate",
        "the same file more than once",
        "One picture counts several times. In a careless split, the model is tested on pictures from its training.",
        "Nothing has to be done: duplicates are kept in one split. Removing all but one saves time.",
        "know",
        table_order=15,
        review_order=8,
    ),
    AuditCheck(
        "near-duplicate",
        "near-duplicate",
        "nearly the same picture more than once",
        "One picture counts several times, resized, cropped or recoloured. In a careless split, the model is tested on"
        " pictures from its training.",
        "Nothing has to be done: duplicates are kept in one split. If you remove some, keep the largest.",
        "know",
        table_order=16,
        review_order=7,
    ),
    AuditCheck(
        "grey",
        "grey picture",
        "grey pictures among colour ones",
        "Colour is missing as a clue. If one class has many of them, greyness itself becomes the clue.",
        "Nothing, if every class has some; otherwise prefer colour, or add grey pictures of the other classes.",
        "know",
        table_order=12,
    ),
    AuditCheck(
        "blurry",
        "blurry picture",
        "pictures without sharp detail",
        "Fine detail such as fur or feathers cannot be learnt from them.",
        REMOVE_UNCLEAR,
        "know",
        table_order=10,
    ),
    AuditCheck(
        "dark",
        "dark picture",
        "very dark pictures",
        "Little of the subject can be seen. The model may take darkness for a sign of the class.",
        REMOVE_UNCLEAR,
        "know",
        table_order=8,
    ),
    AuditCheck(
        "bright",
        "bright picture",
        "very bright pictures",
        "Mostly cut-outs on white. The model may take the white for a sign of the class.",
        REMOVE_UNCLEAR,
        "know",
        table_order=9,
    ),
    AuditCheck(
        "tiny",
        "tiny picture",
        "very small pictures",
        "They are enlarged for the model, which adds no detail.",
        "Replace them by larger copies where you have them.",
        "know",
        table_order=5,
    ),
    AuditCheck(
        "extreme-aspect",
        "long and narrow picture",
        "pictures far wider than high, or the other way round",
        "Resized to a square, the subject is squeezed; cropped to a square, part of it is lost.",
        "Crop them by hand around the subject, or keep the default, which squeezes and loses nothing.",
        "know",
        table_order=7,
    ),
    AuditCheck(
        "animated",
        "animation",
        "moving pictures; only the first frame is used",
        "Only the first frame is used.",
        "Nothing, if the first frame shows the subject; otherwise save the frame that does.",
        "know",
        table_order=4,
    ),
    AuditCheck(
        "wrong-extension",
        "misnamed file",
        "files whose name promises another format than they hold",
        "None here: bestiary reads the content, not the name. Other programs may fail on them.",
        "Nothing; rename them if you like.",
        "know",
        table_order=3,
    ),
    AuditCheck(
        "rotated",
        "picture stored on its side",
        "pictures stored on their side, with a note how to turn them",
        "None here: bestiary turns them upright. Programs that ignore the EXIF orientation show them on their side.",
        "Nothing.",
        "note",
        table_order=13,
        many="pictures stored on their side",
    ),
    AuditCheck(
        "alpha",
        "picture with transparent parts",
        "pictures with transparent parts",
        "Transparent parts are laid on white.",
        "Nothing, if the subject can be seen well on white.",
        "note",
        table_order=14,
        many="pictures with transparent parts",
    ),
)
# Reasons for a review that come from the predictions of a run, not from the audit.
PREDICTION_CHECKS = (
    AuditCheck(
        "confident-mistake",
        "confident mistake",
        "pictures held back from training that the model confidently takes for another class",
        "Where the label is wrong, the score is lower than the model deserves.",
        "Correct the label if it is wrong. Keep it if it is right: then the model has something to learn.",
        review_order=3,
    ),
    AuditCheck(
        "unknown",
        "unknown picture",
        "pictures held back from training that the model takes for none of the classes",
        "Some show what is no class at all; others are only unusual.",
        "Drop what does not belong here; keep what is unusual but right.",
        review_order=5,
    ),
)
_BY_NAME = {check.name: check for check in (*CHECKS, *PREDICTION_CHECKS)}
_SEVERITY_RANKS = {check.name: rank for rank, check in enumerate(CHECKS)}
_AFTER_DECIDE = sum(check.needs_person for check in CHECKS) - 0.5

TABLE_ORDER = tuple(check.name for check in sorted(CHECKS, key=lambda check: check.table_order) if check.table_order)
REVIEW_ORDER = tuple(
    check.name for check in sorted(_BY_NAME.values(), key=lambda check: check.review_order) if check.review_order
)
NOTED = frozenset(check.name for check in CHECKS if check.severity == "note")
FAILS_STRICT = frozenset(check.name for check in CHECKS if check.fails_strict)
ALTERS_MODEL = tuple(check.name for check in CHECKS if check.alters_model)


def find_check(name: str) -> AuditCheck:
    """Return the check of this name; for a name that is not known, one with a general explanation."""
    words = name.replace("-", " ")
    return _BY_NAME.get(name) or AuditCheck(
        name,
        f"finding of “{words}”",
        "",
        "It depends on what was found: read the message at each picture.",
        "Look at some of them, and decide whether they belong here.",
        "know",
        many=f"findings of “{words}”",
    )


def severity_rank(name: str) -> tuple[float, str]:
    """Return a sort key for checks, the most serious first; unknown ones come after those that need a person."""
    return (_SEVERITY_RANKS.get(name, _AFTER_DECIDE), name)
