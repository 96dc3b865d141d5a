"""Names of folders that mean a part of a split: train, validation_set, test1, images to test, unlabelled."""

from __future__ import annotations

import re
import unicodedata
from dataclasses import dataclass

# The kind of part that a word means. "eval" and "holdout" may be validation or test; "predict" and "unlabelled" parts
# hold pictures without a label.
PART_WORDS = {
    **dict.fromkeys(("train", "training", "trn"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "validate", "dev", "devel", "development"), "val"),
    **dict.fromkeys(("test", "testing", "tests", "tst"), "test"),
    **dict.fromkeys(("eval", "evaluation", "evaluate"), "eval"),
    **dict.fromkeys(("holdout", "heldout"), "holdout"),
    **dict.fromkeys(("pred", "predict", "prediction", "predictions", "inference", "submission"), "predict"),
    **dict.fromkeys(("unlabelled", "unlabeled", "unlabel", "nolabel", "nolabels"), "unlabelled"),
}
# Two words that mean one.
JOINED = {("hold", "out"), ("held", "out"), ("no", "label"), ("no", "labels"), ("un", "labelled"), ("un", "labeled")}
# Words beside the one that decides: test_images, images to test, seg_train, train 224x224 px, training set 2.
FILLERS = frozenset(
    word
    for words in (
        "set sets image images img imgs picture pictures pic pics photo photos data dataset split splits part subset",
        "folder dir files seg segment to for the of my our final full raw all only public private resized cropped",
        "processed x px v batch fold stage jpg jpeg png",
    )
    for word in words.split()
)
GLUED = ("sets", "set", "images", "image", "imgs", "img", "pictures", "photos", "dataset", "data", "split")
_WORD = re.compile(r"[^\W\d_]+|\d+")
_CAMEL = re.compile(r"(?<=[a-z])(?=[A-Z])")


@dataclass(frozen=True)
class PartName:
    """What a folder name says about a split: the kind of part, and whether the name is that word and nothing else.

    kind: train, val, test, eval, holdout, predict or unlabelled.
    """

    kind: str
    is_plain: bool


def parse_part(name: str) -> PartName | None:
    """Return the part of a split that a folder name means, or None if it means none.

    >>> parse_part("Train"), parse_part("images to test"), parse_part("trainspotting"), parse_part("test tube")
    (PartName(kind='train', is_plain=True), PartName(kind='test', is_plain=False), None, None)
    >>> parse_part("trainA")
    PartName(kind='train', is_plain=False)
    """
    text = _CAMEL.sub(" ", unicodedata.normalize("NFKC", name).strip())
    words = _join_words([word for word in _WORD.findall(text.casefold()) if not word.isdigit()])
    kinds = [_part_kind(word) for word in words if word not in FILLERS and len(word) > 1]  # trainA is a part of train
    if len(kinds) != 1 or kinds[0] is None:
        return None
    return PartName(kinds[0], is_plain=name.strip().casefold() in PART_WORDS)


def _join_words(words: list[str]) -> list[str]:
    joined: list[str] = []
    for word in words:
        if joined and (joined[-1], word) in JOINED:
            word = joined.pop() + word
        joined.append(word)
    return joined


def _part_kind(word: str) -> str | None:
    stems = [word, *(word.removesuffix(ending) for ending in GLUED)]
    return next((PART_WORDS[stem] for stem in stems if stem in PART_WORDS), None)
