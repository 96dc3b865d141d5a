"""What an audit check means to someone who has never heard of it: the finding, its effect on a model, the remedy."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class CheckText:
    """What is said about the findings of one check.

    `one` and `many` name what was found (`one` is empty where nothing can be counted), `meaning` is a phrase for a
    table; `effect` is what it does to a model, `remedy` what to do; `needs_you` is whether a person has
    to decide something, where the others are dealt with or only worth knowing.
    """

    singular: str
    plural: str
    meaning: str
    effect: str
    remedy: str
    needs_you: bool

    def format_count(self, n: int) -> str:
        """Return how many were found, as words: `3 suspect labels`."""
        return f"{n:,} {self.singular if n == 1 else self.plural}" if self.singular else self.plural


# One, many, what it does to a model, what to do. The most serious first: this is the order of the page.
URGENT = {
    "split-leak": (
        "picture in two splits",
        "pictures in two splits",
        "The model is asked about pictures that it learnt from, so its score is better than it deserves.",
        "Leave one of each group out, or let bestiary divide the pictures: it keeps duplicates on one side.",
    ),
    "label-conflict": (
        "label conflict",
        "label conflicts",
        "At least one of the labels is wrong. The model is taught both, and whichever it answers, it is marked wrong"
        " for some.",
        "Decide which label is right, and give it to all pictures of the group; or leave the others out.",
    ),
    "suspect-label": (
        "suspect label",
        "suspect labels",
        "Wrong labels that are learnt from blur the classes. Wrong labels that are judged by make the model look worse"
        " than it is, and hide which model is best.",
        "Look at each. Correct those that are wrong; keep those that are right but unusual, they teach the most.",
    ),
    "shortcut": (
        "shortcut",
        "shortcuts",
        "A model may learn this property instead of what is to be seen. It scores well here and fails on pictures from"
        " elsewhere.",
        "Bring the classes to the same sources, sizes and formats; judge the model by pictures from elsewhere.",
    ),
    "unreadable": (
        "file that cannot be read",
        "files that cannot be read",
        "They are left out: nothing is learnt from them and nothing is judged by them.",
        "Fetch them again from where they came, or remove them.",
    ),
    "truncated": (
        "incomplete file",
        "incomplete files",
        "They are left out. Part of the picture is missing, which most programs fill with grey without a word.",
        "Fetch them again from where they came, or remove them.",
    ),
    "huge": (
        "picture beyond the size limit",
        "pictures beyond the size limit",
        "They are left out: a picture this large could fill the memory.",
        "Save smaller copies, or raise the limit (picture.max_pixels and picture.max_bytes in the recipe).",
    ),
    "left-out": (
        "file left out",
        "files left out",
        "Nothing is learnt from them and nothing is judged by them.",
        "Read the reason of each; nothing else has to be done if it is what you wanted.",
    ),
    "imbalance": (
        "",
        "classes of very unequal size",
        "Rare classes are learnt worst, and with few pictures to test them, their score is little more than a guess.",
        "Add pictures of the small classes, as different from each other as you can; or leave those classes out.",
    ),
    "outlier": (
        "outlier",
        "outliers",
        "A picture that fits no class teaches nothing about any of them, and makes one of them vaguer.",
        "Look at each: remove what does not belong here; keep what is unusual but right.",
    ),
    "low-information": (
        "nearly empty picture",
        "nearly empty pictures",
        "There is next to nothing to learn from, except that emptiness belongs to this class.",
        "Remove what shows nothing; keep plain drawings and silhouettes if the model shall know those too.",
    ),
}
OTHERS = {
    "exact-duplicate": (
        "exact duplicate",
        "exact duplicates",
        "One animal counts several times. Split carelessly, a model is asked about what it has learnt by heart.",
        "Nothing has to be done: duplicates are kept on one side of the split. Removing all but one saves time.",
    ),
    "near-duplicate": (
        "near-duplicate",
        "near-duplicates",
        "One picture counts several times, resized, cropped or recoloured. Split carelessly, a model is asked about"
        " what it has learnt by heart.",
        "Nothing has to be done: duplicates are kept on one side of the split. If you remove some, keep the largest.",
    ),
    "grey": (
        "grey picture",
        "grey pictures",
        "Colour is missing as a clue. If one class has many of them, greyness itself becomes the clue.",
        "Nothing, if every class has some; otherwise prefer colour, or add grey pictures of the other classes.",
    ),
    "blurry": (
        "blurry picture",
        "blurry pictures",
        "Fine detail such as fur or feathers cannot be learnt from them.",
        "Keep them if the model will meet such pictures; remove those that you could not name yourself.",
    ),
    "dark": (
        "dark picture",
        "dark pictures",
        "Little of the animal can be seen. The model may take darkness for a sign of the class.",
        "Keep them if the model will meet such pictures; remove those that you could not name yourself.",
    ),
    "bright": (
        "bright picture",
        "bright pictures",
        "Mostly cut-outs on white. The model may take the white for a sign of the class.",
        "Keep them if the model will meet such pictures; remove those that you could not name yourself.",
    ),
    "tiny": (
        "tiny picture",
        "tiny pictures",
        "They are enlarged for the model, which adds no detail.",
        "Replace them by larger copies where you have them.",
    ),
    "extreme-aspect": (
        "long and narrow picture",
        "long and narrow pictures",
        "Made square, the animal is squeezed; cropped to a square, part of it is lost.",
        "Crop them by hand around the animal, or keep the default, which squeezes and loses nothing.",
    ),
    "animated": (
        "animation",
        "animations",
        "Only the first frame is looked at.",
        "Nothing, if the first frame shows the animal; otherwise save the frame that does.",
    ),
    "wrong-extension": (
        "misnamed file",
        "misnamed files",
        "None here: bestiary goes by what is inside. Another program may stumble over them.",
        "Nothing; rename them if you like.",
    ),
}
NOTED = {
    "rotated": (
        "picture stored on its side",
        "pictures stored on their side",
        "None here: bestiary turns them upright. A program that does not would see them lying.",
        "Nothing.",
    ),
    "alpha": (
        "picture with see-through parts",
        "pictures with see-through parts",
        "See-through parts are laid on white.",
        "Nothing, if the animal can be seen well on white.",
    ),
}
ORDER = tuple(URGENT | OTHERS | NOTED)


def check_text(check: str) -> CheckText:
    """Return what is said about a check, also about one that nobody has written about yet."""
    words = (URGENT | OTHERS | NOTED).get(check)
    if words is None:
        name = check.replace("-", " ")
        words = (
            f"finding of “{name}”",
            f"findings of “{name}”",
            "It depends on what was found: read the message at each picture.",
            "Look at some of them, and decide whether they belong here.",
        )
    meaning = CHECKS.get(check, "files left out for a reason of their own" if check == "left-out" else "")
    return CheckText(words[0], words[1], meaning, words[2], words[3], check in URGENT)


def severity_rank(check: str) -> tuple[float, str]:
    """Return what sorts checks, the most serious first; unknown ones come after those that need a person."""
    return (ORDER.index(check) if check in ORDER else len(URGENT) - 0.5, check)


CHECKS = {
    "unreadable": "files that no decoder could open",
    "truncated": "files that end too early",
    "wrong-extension": "files whose name promises another format than they hold",
    "animated": "moving pictures; only the first frame is used",
    "tiny": "very small pictures",
    "huge": "pictures beyond the size limit",
    "extreme-aspect": "pictures far wider than high, or the other way round",
    "dark": "very dark pictures",
    "bright": "very bright pictures",
    "blurry": "pictures without sharp detail",
    "low-information": "pictures that show next to nothing",
    "exact-duplicate": "the same file more than once",
    "near-duplicate": "nearly the same picture more than once",
    "label-conflict": "the same picture under different labels",
    "split-leak": "the same picture in two splits",
    "imbalance": "classes with far fewer pictures than others",
    "shortcut": "file properties that give the label away without looking at the picture",
    "suspect-label": "labels that the model, trained without them, disagrees with",
    "outlier": "pictures unlike all others of their class",
    "grey": "grey pictures among colour ones",
    "rotated": "pictures stored on their side, with a note how to turn them",
    "alpha": "pictures with see-through parts",
}
# Checks whose findings change the score or the model, in the order in which they deserve a look.
SERIOUS = ("label-conflict", "split-leak", "suspect-label", "shortcut")
