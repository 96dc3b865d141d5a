"""Search space: the values to try for each setting that the recipe leaves open, and the recipe of chosen values."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from bestiary.errors import RecipeError
from bestiary.models.onnx_surgery import count_frozen_stages
from bestiary.recipe import Recipe, ResolvedRecipe
from bestiary.recipe_files import read_setting
from bestiary.training.recipe_checks import check_recipe_supported

INPUT_CONFIG = "look"  # backbone, size and fit together: each input configuration needs features of its own
INPUT_CONFIG_KEYS = ("model.backbone", "picture.size", "picture.fit")
# The first is the default. If time is short, only the first ones are searched.
INPUT_CONFIGS = (
    ("lite2", 260, "squash"),
    ("lite2", 260, "letterbox"),
    ("lite0", 224, "squash"),
    ("lite2", 300, "squash"),
    ("lite2", 260, "crop"),
)
SAME_FOR_ALL = ("data.", "evaluate.", "picture.max_", "model.method", "train.epochs")
C_RANGE = 1.0, 5_000.0  # of the probe's head, divided by the number of training pictures
BALANCES = ("none", "class-weights", "logit-adjusted")  # oversampling would need other features
FILTERS = {  # besides the network's own: resnet 48, 96, 192; plain 32, 64, 128
    "resnet": ([32, 64, 128], [64, 128, 256], [32, 64, 128, 256]),
    "plain": ([32, 64, 128, 256], [64, 128, 256]),
}
HIDDEN = ([128], [256], [512])
SCRATCH_SIZES = (96, 128)
LOG_FROM = 10.0  # a range is searched on a log scale if its ends are this many times apart

Setting = str | int | float | bool
Settings = dict[str, Setting]  # the values of a trial, by the name of the dimension


@dataclass(frozen=True)
class Categorical:
    """A list of values, each as JSON: of a setting, or of the input configuration an object of settings."""

    values: tuple[str, ...]


@dataclass(frozen=True)
class Range:
    """Numbers from low to high, both included; only integers (`whole`), or on a log scale."""

    low: float
    high: float
    log: bool = False
    whole: bool = False


Dimension = Categorical | Range
Space = dict[str, Dimension]
AUGMENTATION: Space = {"augment.crop_min_area": Range(0.1, 1.0), "augment.colour_jitter": Range(0.0, 0.6)}


def default_space(base_recipe: Recipe, pictures: int) -> Space:
    """Return the dimensions worth searching for this many training pictures.

    Only settings that the recipe leaves open and that have an effect on its method.
    """
    recipe, set_keys = base_recipe.resolve(), _set_keys(base_recipe)
    if recipe.model.method == "probe":
        space = _probe_space(recipe, pictures, set_keys)
    else:
        space = _finetune_space(recipe) if recipe.model.method == "finetune" else _scratch_space(recipe)
    return {name: dimension for name, dimension in space.items() if name not in set_keys}


def build_search_space(base_recipe: Recipe, pictures: int, requests: Iterable[str]) -> Space:
    """Return the default space with the requested dimensions: `section.key=low..high` or `section.key=[value, ...]`.

    Raises RecipeError, before any trial, for a request that cannot be parsed and for a value that no recipe can have.
    """
    requested = dict(map(parse_dimension, requests))
    for name, dimension in requested.items():
        _check_searchable(base_recipe, name, dimension)
    for name in requested.keys() & _set_keys(base_recipe):
        raise RecipeError(f"{name} is both set and searched. Remove one of the two.")
    space = default_space(base_recipe, pictures)
    if requested.keys() & set(INPUT_CONFIG_KEYS):
        space.pop(INPUT_CONFIG, None)
    space |= requested
    if not space:
        raise RecipeError("The recipe sets everything that could be searched. Leave a setting open, or add --search.")
    for name, dimension in requested.items():
        for value in _endpoints(dimension):
            try:
                check_recipe_supported(apply_params(base_recipe, {name: value}))
            except RecipeError as error:
                raise RecipeError(f"The search cannot try {name} = {format_value(name, value)}. {error}") from None
    return space


def parse_dimension(text: str) -> tuple[str, Dimension]:
    """Return the setting to search, and its dimension.

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
    parsed = read_setting(values)
    if not isinstance(parsed, list) or not parsed:
        raise RecipeError(f'--search {text}: expected low..high, or a list of values such as {name}=["a", "b"].')
    return name, Categorical(tuple(dict.fromkeys(json.dumps(value) for value in parsed)))


def apply_params(base_recipe: Recipe, params: Mapping[str, Setting]) -> Recipe:
    """Return the recipe with the values of a trial; raises RecipeError if the values are invalid together."""
    sections: dict[str, dict[str, Any]] = {}
    for name, value in params.items():
        plain: Any = json.loads(value) if isinstance(value, str) else value
        if name == "probe.regularisation" and not isinstance(plain, list):
            plain = [plain]
        for key, setting in (plain if name == INPUT_CONFIG else {name: plain}).items():
            section, _, inner = key.partition(".")
            sections.setdefault(section, {})[inner] = setting
    return base_recipe.override(sections)


def default_params(space: Space, base_recipe: Recipe) -> Settings:
    """Return the point of the space that corresponds to the recipe itself, or the nearest one."""
    sections, params = base_recipe.resolve().model_dump(mode="json"), Settings()
    for name, dimension in space.items():
        section, _, key = name.partition(".")
        own = sections.get(section, {}).get(key)  # None for the input configuration: its first value is the default
        if isinstance(dimension, Categorical):
            text = json.dumps(own)
            params[name] = text if text in dimension.values else dimension.values[0]
        else:
            middle = math.sqrt(dimension.low * dimension.high)
            number = middle if own in (None, []) else float(own[0] if isinstance(own, list) else own)
            number = min(max(number, dimension.low), dimension.high)
            params[name] = round(number) if dimension.whole else number
    return params


def input_config_recipes(space: Space, base_recipe: Recipe) -> list[ResolvedRecipe]:
    """Return a recipe for each input configuration of the space: their features are computed before the search."""
    dimensions = {name: space[name] for name in (INPUT_CONFIG, *INPUT_CONFIG_KEYS) if name in space}
    values = [dimension.values for dimension in dimensions.values() if isinstance(dimension, Categorical)]
    configs = (dict(zip(dimensions, config, strict=True)) for config in itertools.product(*values))
    return [apply_params(base_recipe, config).resolve() for config in configs]


def format_value(name: str, value: Setting) -> str:
    """Return a value as text.

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
    """Return the names of the dimensions; for the input configuration, which is not a setting, also its values.

    >>> config = '{"model.backbone": "lite2", "picture.size": 260, "picture.fit": "%s"}'
    >>> format_space({"look": Categorical((config % "squash", config % "crop")), "train.balance": Categorical(("0",))})
    'look (lite2 at 260 px, squash; lite2 at 260 px, crop), train.balance'
    """
    parts = []
    for name, dimension in space.items():
        values = dimension.values if name == INPUT_CONFIG and isinstance(dimension, Categorical) else ()
        parts.append(f"{name} ({'; '.join(format_value(name, value) for value in values)})" if values else name)
    return ", ".join(parts)


# ---- Default dimensions --------------------------------------------------------------------------------------------


def _probe_space(recipe: ResolvedRecipe, pictures: int, set_keys: set[str]) -> Space:
    own = dict(zip(INPUT_CONFIG_KEYS, (recipe.model.backbone, recipe.picture.size, recipe.picture.fit), strict=True))
    fixed = {key: value for key, value in own.items() if key in set_keys}
    configs = [{**dict(zip(INPUT_CONFIG_KEYS, config, strict=True)), **fixed} for config in INPUT_CONFIGS]
    values = tuple(dict.fromkeys(json.dumps(config) for config in [own, *configs]))
    space: Space = {} if len(values) == 1 else {INPUT_CONFIG: Categorical(values)}
    c_values = Range(C_RANGE[0] / pictures, C_RANGE[1] / pictures, log=True)
    return space | {"probe.regularisation": c_values, "train.balance": _categorical(BALANCES)}


def _finetune_space(recipe: ResolvedRecipe) -> Space:
    rate, decay = _rates(recipe)
    space: Space = {
        "train.learning_rate": Range(rate / 6, rate * 10, log=True),
        "train.weight_decay": Range(decay / 10, decay * 30, log=True),
        "train.label_smoothing": Range(0.0, 0.3),
        "train.balance": _categorical(BALANCES),
    }
    # Above frozen stages, each augmentation would need activations of its own.
    return space if count_frozen_stages(recipe) is not None else space | AUGMENTATION


def _scratch_space(recipe: ResolvedRecipe) -> Space:
    rate, decay = _rates(recipe)
    space: Space = {"model.filters": _filters(recipe)}
    if recipe.model.network == "plain":
        space |= {
            "model.hidden": _categorical(HIDDEN),
            "model.dropout": Range(0.0, 0.7),
            "model.stage_dropout": Range(0.0, 0.4),
            "model.batch_norm": _categorical((False, True)),
        }
    return space | {
        "train.learning_rate": Range(rate / 5, rate * 4, log=True),
        "train.weight_decay": Range(decay / 10, decay * 10, log=True),
        **AUGMENTATION,
        "augment.erasing": Range(0.0, 0.5),
        "train.label_smoothing": Range(0.0, 0.2),
        "train.balance": _categorical((*BALANCES, "oversample")),
        "picture.size": _categorical(sorted({recipe.picture.size, *SCRATCH_SIZES})),
    }


def _filters(recipe: ResolvedRecipe) -> Categorical:
    """Return filters to try, the network's own (none) first. Small pictures have room for few stages."""
    side = min(recipe.picture.size, recipe.train.size_from)
    fitting = (filters for filters in FILTERS[recipe.model.network] if side >= 2 ** (len(filters) + 1))
    return _categorical(([], *fitting))


def _rates(recipe: ResolvedRecipe) -> tuple[float, float]:
    return recipe.train.learning_rate, recipe.train.weight_decay or 1e-4


def _categorical(values: Iterable[Any]) -> Categorical:
    return Categorical(tuple(json.dumps(value) for value in values))


# ---- Checks --------------------------------------------------------------------------------------------------------


def _set_keys(base_recipe: Recipe) -> set[str]:
    """Return the settings that the recipe sets, as `section.key`."""
    sections = {name: values for name, values in base_recipe.overrides().items() if isinstance(values, dict)}
    return {f"{section}.{key}" for section, values in sections.items() for key in values}


def _check_searchable(base_recipe: Recipe, name: str, dimension: Dimension) -> None:
    """Raise RecipeError for settings that all trials must share, and for too many input configurations."""
    if name.startswith(SAME_FOR_ALL):
        raise RecipeError(
            f"{name} cannot be searched: all trials need the same pictures, split, evaluation, method and epochs to be"
            " comparable. Set it instead, or run several searches."
        )
    if name in INPUT_CONFIG_KEYS and isinstance(dimension, Range) and base_recipe.model.method != "scratch":
        low, high = (f"{end:g}" for end in (dimension.low, dimension.high))
        raise RecipeError(
            f"--search {name}={low}..{high}: each value needs features of its own, too many for a range. Give values:"
            f" {name}=[{low}, {high}]."
        )


def _endpoints(dimension: Dimension) -> list[Setting]:
    if isinstance(dimension, Categorical):
        return list(dimension.values)
    return [int(end) if dimension.whole else end for end in (dimension.low, dimension.high)]


def _parse_range(text: str, low: str, high: str) -> Range:
    try:
        ends = [float(low), float(high)]
    except ValueError:
        raise RecipeError(f"--search {text}: expected two numbers, low..high.") from None
    if not ends[0] < ends[1] < math.inf:
        raise RecipeError(f"--search {text}: expected a low end below the high end.")
    whole = all(end.strip().lstrip("-").isdigit() for end in (low, high))
    return Range(ends[0], ends[1], log=ends[0] > 0 and ends[1] / ends[0] >= LOG_FROM, whole=whole)
