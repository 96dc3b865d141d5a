"""What a search may try: for each setting that the recipe leaves open, the values; and recipes from chosen values."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from bestiary.errors import RecipeError
from bestiary.models.onnx_surgery import count_frozen_stages
from bestiary.recipe import Recipe, ResolvedRecipe, read_setting
from bestiary.training.budget import override_sections
from bestiary.training.recipe_checks import check_recipe_supported

INPUT_CONFIG = "look"  # backbone, size and fit together: each look needs features of its own
SAME_FOR_ALL = ("data.", "evaluate.", "picture.max_", "model.method", "train.epochs")
INPUT_CONFIG_KEYS = ("model.backbone", "picture.size", "picture.fit")
# From left to right: what is looked with first if time is short. The first is the default.
INPUT_CONFIGS = (
    ("lite2", 260, "squash"),
    ("lite2", 260, "letterbox"),
    ("lite0", 224, "squash"),
    ("lite2", 300, "squash"),
    ("lite2", 260, "crop"),
)
C_RANGE = 1.0, 5_000.0  # of the probe's head, divided by the number of training pictures
BALANCES = ("none", "class-weights", "logit-adjusted")  # oversampling would need other features
RESNET_FILTERS = ([32, 64, 128], [48, 96, 192], [64, 128, 256], [32, 64, 128, 256])
PLAIN_FILTERS = ([32, 64, 128], [32, 64, 128, 256], [64, 128, 256])
HIDDEN = ([128], [256], [512])
SCRATCH_SIZES = (96, 128)
LOG_FROM = 10.0  # ends of a span this many times apart are searched by their logarithm

Setting = str | int | float | bool
Settings = dict[str, Setting]  # what a trial chose, by the name of its dimension


@dataclass(frozen=True)
class Categorical:
    """Some values, each as JSON: of a setting; of the look an object of settings."""

    values: tuple[str, ...]


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included; whole numbers only, or by their logarithm."""

    low: float
    high: float
    log: bool = False
    whole: bool = False


Space = dict[str, Categorical | Range]


def default_space(base_recipe: Recipe, pictures: int) -> Space:
    """Return what is worth trying of what the recipe leaves open, for so many training pictures.

    Only settings that have an effect on what learns.
    """
    full = base_recipe.resolve()
    learner = full.model.network if full.model.method == "scratch" else full.model.method
    others = {"finetune": _finetune_space, "resnet": _resnet_space, "plain": _plain_space}
    space = _probe_space(base_recipe, pictures) if learner == "probe" else others[learner](base_recipe)
    given = _set_keys(base_recipe)
    return {name: dimension for name, dimension in space.items() if name == INPUT_CONFIG or name not in given}


def build_search_space(base_recipe: Recipe, pictures: int, requests: Iterable[str]) -> Space:
    """Return the default space with the wishes laid over it: `section.key=low..high`, or `section.key=[value, ...]`.

    Raises RecipeError for a wish that cannot be read, and for a value that no recipe can have, before any is tried.
    """
    wished = dict(parse_dimension(wish) for wish in requests)
    for name, dimension in wished.items():
        _check_searchable(base_recipe, name, dimension)
    for name in wished.keys() & _set_keys(base_recipe):
        raise RecipeError(f"{name} is both set and searched. Leave one of them out.")
    space = default_space(base_recipe, pictures)
    if space.keys() >= {INPUT_CONFIG} and wished.keys() & set(INPUT_CONFIG_KEYS):
        del space[INPUT_CONFIG]
    space |= wished
    if not space:
        raise RecipeError("The recipe sets everything that could be searched. Leave something open, or add --search.")
    for name, dimension in wished.items():
        for value in _endpoints(dimension):
            try:
                check_recipe_supported(apply_params(base_recipe, {name: value}))
            except RecipeError as error:
                raise RecipeError(f"The search cannot try {name} = {format_value(name, value)}. {error}") from None
    return space


def parse_dimension(text: str) -> tuple[str, Categorical | Range]:
    """Return the setting that is to be searched, and the values.

    >>> parse_dimension("train.learning_rate=0.01..0.5")
    ('train.learning_rate', Range(low=0.01, high=0.5, log=True, whole=False))
    >>> parse_dimension("picture.size=[96, 128]")
    ('picture.size', Categorical(values=('96', '128')))
    """
    name, equals, values = (part.strip() for part in text.partition("="))
    if not equals or not name.partition(".")[2]:
        raise RecipeError(f'--search takes section.key=low..high or section.key=[value, value]; got "{text}".')
    low, dots, high = values.partition("..")
    if dots:
        return name, _parse_range(text, low, high)
    found = read_setting(values)
    if not isinstance(found, list) or not found:
        raise RecipeError(f'--search {text}: expected low..high, or a list of values such as {name}=["a", "b"].')
    return name, Categorical(tuple(json.dumps(value) for value in dict.fromkeys(map(_hashable, found))))


def apply_params(base_recipe: Recipe, chosen: Mapping[str, Setting]) -> Recipe:
    """Return the recipe with what a trial chose; raises RecipeError if that is impossible."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in chosen.items():
        for key, setting in _settings(name, value):
            section, _, inner = key.partition(".")
            sections.setdefault(section, {})[inner] = setting
    return override_sections(base_recipe, sections)


def default_params(space: Space, base_recipe: Recipe) -> Settings:
    """Return the point of the space that the recipe itself is, or the nearest one."""
    full = base_recipe.resolve().model_dump(mode="json")
    values: Settings = {}
    for name, dimension in space.items():
        section, _, key = name.partition(".")
        if name == INPUT_CONFIG:
            values[name] = dimension.values[0] if isinstance(dimension, Categorical) else 0
        elif isinstance(dimension, Categorical):
            own = json.dumps(full[section][key])
            values[name] = own if own in dimension.values else dimension.values[0]
        else:
            given = full[section][key]
            own_number = math.sqrt(dimension.low * dimension.high) if given in (None, []) else _number(given)
            number = min(max(own_number, dimension.low), dimension.high)
            values[name] = round(number) if dimension.whole else number
    return values


def input_config_recipes(space: Space, base_recipe: Recipe) -> list[ResolvedRecipe]:
    """Return a recipe for each way of looking at pictures that the space has: whose features are to be there."""
    names = [name for name in (INPUT_CONFIG, *INPUT_CONFIG_KEYS) if name in space]
    ways: list[Settings] = [{}]
    for name in names:
        dimension = space[name]
        assert isinstance(dimension, Categorical)
        ways = [{**way, name: value} for way in ways for value in dimension.values]
    return [apply_params(base_recipe, way).resolve() for way in ways]


def format_value(name: str, value: Setting) -> str:
    """Return a value for people.

    >>> format_value("look", '{"model.backbone": "lite2", "picture.size": 260, "picture.fit": "squash"}')
    'lite2 at 260 px, squash'
    >>> format_value("train.balance", '"none"'), format_value("train.learning_rate", 0.0123456)
    ('none', '0.0123')
    >>> format_value("model.filters", "[]")
    'its own'
    """
    if isinstance(value, float):
        return f"{value:.3g}"
    if not isinstance(value, str):
        return str(value)
    plain = json.loads(value)
    if name == INPUT_CONFIG:
        return f"{plain['model.backbone']} at {plain['picture.size']} px, {plain['picture.fit']}"
    if plain == []:
        return "its own"
    return plain if isinstance(plain, str) else json.dumps(plain)


def format_space(space: Space) -> str:
    """Return the names of what is searched, for people; of the look all that is tried, since it is no setting.

    >>> way = '{"model.backbone": "lite2", "picture.size": 260, "picture.fit": "%s"}'
    >>> format_space({"look": Categorical((way % "squash", way % "crop")), "train.balance": Categorical(('"none"', '"oversample"'))})
    'look (lite2 at 260 px, squash; lite2 at 260 px, crop), train.balance'
    """
    parts = []
    for name, dimension in space.items():
        tried = dimension.values if name == INPUT_CONFIG and isinstance(dimension, Categorical) else ()
        parts.append(f"{name} ({'; '.join(format_value(name, value) for value in tried)})" if tried else name)
    return ", ".join(parts)


def space_to_json(space: Space) -> dict[str, Any]:
    """Return the space as plain values."""
    return {name: json.loads(json.dumps(asdict(dimension))) for name, dimension in space.items()}


def space_from_json(plain: Mapping[str, Any]) -> Space:
    """Return the space that `space_to_json` wrote."""
    return {
        name: Categorical(tuple(fields["values"])) if "values" in fields else Range(**fields)
        for name, fields in plain.items()
    }


# ---- What is worth trying ------------------------------------------------------------------------------------------


def _probe_space(base_recipe: Recipe, pictures: int) -> Space:
    full = base_recipe.resolve()
    given = _set_keys(base_recipe)
    own = (full.model.backbone, full.picture.size, full.picture.fit)
    fixed = [key in given for key in INPUT_CONFIG_KEYS]
    ways = [
        tuple(mine if keep else new for mine, new, keep in zip(own, look, fixed, strict=True)) for look in INPUT_CONFIGS
    ]
    looks = [json.dumps(dict(zip(INPUT_CONFIG_KEYS, way, strict=True))) for way in dict.fromkeys([own, *ways])]
    space: Space = {} if len(looks) == 1 else {INPUT_CONFIG: Categorical(tuple(looks))}
    strengths = Range(C_RANGE[0] / pictures, C_RANGE[1] / pictures, log=True)
    return space | {"probe.regularisation": strengths, "train.balance": _categorical(BALANCES)}


def _finetune_space(base_recipe: Recipe) -> Space:
    rate, decay = _rates(base_recipe)
    space: Space = {
        "train.learning_rate": Range(rate / 6, rate * 10, log=True),
        "train.weight_decay": Range(decay / 10, decay * 30, log=True),
        "train.label_smoothing": Range(0.0, 0.3),
        "train.balance": _categorical(BALANCES),
    }
    from_pixels = (
        count_frozen_stages(base_recipe.resolve()) is None
    )  # else each augmentation needs activations of its own
    return space | _augmentation_space() if from_pixels else space


def _scratch_space(base_recipe: Recipe) -> Space:
    rate, decay = _rates(base_recipe)
    own = base_recipe.resolve().picture.size
    return {
        "train.learning_rate": Range(rate / 5, rate * 4, log=True),
        "train.weight_decay": Range(decay / 10, decay * 10, log=True),
        **_augmentation_space(),
        "augment.erasing": Range(0.0, 0.5),
        "train.label_smoothing": Range(0.0, 0.2),
        "train.balance": _categorical((*BALANCES, "oversample")),
        "picture.size": _categorical(sorted({own, *SCRATCH_SIZES})),
    }


def _resnet_space(base_recipe: Recipe) -> Space:
    return {"model.filters": _filters(base_recipe, RESNET_FILTERS), **_scratch_space(base_recipe)}


def _plain_space(base_recipe: Recipe) -> Space:
    return {
        "model.filters": _filters(base_recipe, PLAIN_FILTERS),
        "model.hidden": _categorical(HIDDEN),
        "model.dropout": Range(0.0, 0.7),
        "model.stage_dropout": Range(0.0, 0.4),
        "model.batch_norm": _categorical((False, True)),
        **_scratch_space(base_recipe),
    }


def _augmentation_space() -> Space:
    return {"augment.crop_min_area": Range(0.1, 1.0), "augment.colour_jitter": Range(0.0, 0.6)}


def _filters(base_recipe: Recipe, worth: tuple[list[int], ...]) -> Categorical:
    """Return filters to try, the network's own (none) first. Small pictures have room for few stages."""
    full = base_recipe.resolve()
    side = min(full.picture.size, full.train.size_from)
    fit = [filters for filters in worth if side >= 2 ** (len(filters) + 1)]
    return _categorical(([], *(filters for filters in fit if filters != _own_filters(base_recipe))))


def _own_filters(base_recipe: Recipe) -> list[int]:
    return [48, 96, 192] if base_recipe.model.network == "resnet" else [32, 64, 128]


def _rates(base_recipe: Recipe) -> tuple[float, float]:
    train = base_recipe.resolve().train
    return train.learning_rate, train.weight_decay or 1e-4


# ---- Small pieces --------------------------------------------------------------------------------------------------


def _categorical(values: Iterable[Any]) -> Categorical:
    return Categorical(tuple(json.dumps(value) for value in values))


def _set_keys(base_recipe: Recipe) -> set[str]:
    """Return the settings that the recipe sets, as `section.key`."""
    return {
        f"{section}.{key}"
        for section, part in base_recipe.overrides().items()
        if isinstance(part, dict)
        for key in part
    }


def _settings(name: str, value: Setting) -> Iterator[tuple[str, Any]]:
    plain: Any = json.loads(value) if isinstance(value, str) else value
    if name == INPUT_CONFIG:
        yield from plain.items()
    else:
        yield name, [plain] if name == "probe.regularisation" and not isinstance(plain, list) else plain


def _check_searchable(base_recipe: Recipe, name: str, dimension: Categorical | Range) -> None:
    """Raise RecipeError for what must be the same in all trials, and for too many ways to look at pictures."""
    if name.startswith(SAME_FOR_ALL):
        raise RecipeError(
            f"{name} cannot be searched: pictures, split, judgement, method and epochs are the same for all trials, or"
            " their scores could not be compared. Set it instead, or make several searches."
        )
    if name in INPUT_CONFIG_KEYS and isinstance(dimension, Range) and base_recipe.model.method != "scratch":
        low, high = (f"{end:g}" for end in (dimension.low, dimension.high))
        raise RecipeError(
            f"--search {name}={low}..{high}: each value needs features of its own, too many for a range. Give values:"
            f" {name}=[{low}, {high}]."
        )


def _endpoints(dimension: Categorical | Range) -> list[Setting]:
    if isinstance(dimension, Categorical):
        return list(dimension.values)
    return [int(end) if dimension.whole else end for end in (dimension.low, dimension.high)]


def _parse_range(text: str, low: str, high: str) -> Range:
    try:
        ends = [float(low), float(high)]
    except ValueError:
        raise RecipeError(f"--search {text}: expected two numbers, low..high.") from None
    if not ends[0] < ends[1] < math.inf:
        raise RecipeError(f"--search {text}: expected a low end below the high one.")
    whole = all(end.strip().lstrip("-").isdigit() for end in (low, high))
    return Range(ends[0], ends[1], log=ends[0] > 0 and ends[1] / ends[0] >= LOG_FROM, whole=whole)


def _hashable(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _number(value: Any) -> float:
    return float(value[0] if isinstance(value, list) else value)
