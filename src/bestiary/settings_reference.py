"""Every setting of a recipe, as data: values, default, the methods that use it, and its meaning.

>>> [setting] = [setting for setting in list_settings() if setting.name == "train.epochs"]
>>> setting.values, setting.defaults, setting.methods
('integer, 1 to 10,000', {'finetune': 5, 'resnet': 48, 'plain': 20}, ('finetune', 'scratch'))
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from bestiary.group_rules import SITE_SYNTAX, SYNTAX
from bestiary.recipe import Recipe
from bestiary.recipe_sections import METHODS, Expectation, Section

# The learners: methods, and the networks of `scratch`. Each setting of a recipe is listed with its consumers.
ALL = ("probe", "finetune", "resnet", "plain")
PRETRAINED = ("probe", "finetune")
LOOP = ("finetune", "resnet", "plain")
SCRATCH = ("resnet", "plain")
SETTING_CONSUMERS: dict[tuple[str, ...], dict[str, str]] = {
    ALL: {
        "data": "classes label_depth min_per_class split val_fraction test_fraction folds near_duplicates suspects"
        " near_duplicate_bits group site crop",
        "picture": "size fit normalise max_pixels max_bytes",
        "model": "method",
        "features": "engine precision device",
        "train": "balance",
        "evaluate": "resamples coverage costs thresholds learning_curve prove",
    },
    PRETRAINED: {"model": "backbone weights", "probe": "regularisation views"},
    LOOP: {
        "augment": "mirror crop_min_area colour_jitter erasing vertical_mirror turn policy",
        "train": "epochs batch_size learning_rate weight_decay momentum label_smoothing optimiser schedule"
        " warmup_epochs patience_epochs precision size_from size_to checkpoint_seconds device",
    },
    SCRATCH: {"model": "network filters", "train": "sync_batch_norm"},
    ("probe",): {
        "onnx": "layout channel_order white mean std output output_layout prefix_tokens pooling",
    },
    ("finetune",): {"train": "unfreeze_stages views"},
    ("resnet",): {"model": "mirror_mean", "train": "distill distill_weight"},
    ("plain",): {"model": "kernel_size batch_norm pooling activation stage_dropout hidden dropout"},
}


def setting_consumers() -> dict[tuple[str, str], tuple[str, ...]]:
    """Return the learners that use each setting, by section and key."""
    return {
        (section, key): users
        for users, sections in SETTING_CONSUMERS.items()
        for section, keys in sections.items()
        for key in keys.split()
    }


# Values that the type of a setting does not say.
SPECIAL_VALUES = {
    "data.group": f"{SYNTAX}, or a column",
    "data.site": f"{SITE_SYNTAX}, or a column",
    "evaluate.costs": "list of [true label, predicted label, cost]",
    "evaluate.thresholds": "list of [class, precision], or a table of class = precision",
}
# What decides a default, where the method alone does not.
DEFAULT_REASONS = {
    "picture.size": "224 with lite0, 240 with lite1, 260 with lite2; with another backbone its own",
    "train.learning_rate": "depends on the optimiser and the network",
    "train.weight_decay": "depends on the optimiser",
    "train.warmup_epochs": "depends on train.epochs",
    "train.size_from": "depends on picture.size",
    "train.size_to": "depends on picture.size",
    "augment.colour_jitter": "0 with a policy",
}
TYPE_NAMES = {int: "integer", float: "number", str: "text", bool: "true or false"}


@dataclass(frozen=True)
class Setting:
    """A setting of a recipe.

    name: as `--set` takes it, "train.epochs". values: type and range in words. defaults: the default, as the value that
    TOML and JSON have, by learner: "probe", "finetune", and the networks of scratch, "resnet" and "plain"; only the
    learners that use the setting. default: the same as text. methods: that use it. networks: those of scratch, empty
    if it does not use the setting. meaning: what it does.
    """

    name: str
    values: str
    defaults: dict[str, Any]
    default: str
    methods: tuple[str, ...]
    networks: tuple[str, ...]
    meaning: str

    @property
    def section(self) -> str:
        """Return the section of the recipe, empty for a setting outside every section."""
        return self.name.rpartition(".")[0]

    @property
    def users(self) -> str:
        """Return the methods that use the setting as text, with the network where it is one of two."""
        alone = f" ({self.networks[0]})" if len(self.networks) == 1 else ""
        names = [method + (alone if method == "scratch" else "") for method in self.methods]
        return "all" if not alone and len(names) == len(METHODS) else ", ".join(names)


def list_settings() -> list[Setting]:
    """Return every setting of a recipe, in the order of its sections."""
    resolved = {learner: _resolve_for(learner) for learner in ALL}
    return [_describe_setting(name, field, resolved) for name, field in _iter_fields()]


def setting_choices() -> dict[str, tuple[str, ...]]:
    """Return the values of each setting that is one of a few words, or true or false.

    >>> setting_choices()["model.method"]
    ('probe', 'finetune', 'scratch')
    """
    choices = {name: _list_choices(field.annotation) for name, field in _iter_fields()}
    return {name: values for name, values in choices.items() if values}


def _list_choices(annotation: Any) -> tuple[str, ...]:
    """Return the words that a type allows, also of one that may be None; empty for any other type."""
    if annotation is bool:
        return ("true", "false")
    if get_origin(annotation) is Literal:
        return tuple(str(value) for value in get_args(annotation))
    parts = [part for part in get_args(annotation) if part is not type(None)]
    return _list_choices(parts[0]) if len(parts) == 1 and get_origin(annotation) not in (tuple, list) else ()


def describe_sections() -> dict[str, str]:
    """Return the sections of a recipe and what each is about, the first line of its docstring."""
    sections = {name: field.annotation for name, field in Recipe.model_fields.items() if _is_section(field.annotation)}
    return {name: str(section.__doc__).partition("\n")[0] for name, section in sections.items()}


def _is_section(annotation: Any) -> bool:
    return isinstance(annotation, type) and issubclass(annotation, Section)


def _iter_fields() -> Iterator[tuple[str, FieldInfo]]:
    """Yield the name of each setting and its field of the model."""
    for name, field in Recipe.model_fields.items():
        section: Any = field.annotation
        if _is_section(section):
            yield from ((f"{name}.{key}", part) for key, part in section.model_fields.items())
        else:
            yield name, field


def _resolve_for(learner: str) -> dict[str, Any]:
    """Return every default of a learner, as nested plain values."""
    model = {"method": "scratch", "network": learner} if learner in SCRATCH else {"method": learner}
    return Recipe.of({"model": model}).resolve().model_dump(mode="json")


def _describe_setting(name: str, field: FieldInfo, resolved: dict[str, dict[str, Any]]) -> Setting:
    section, dot, key = name.rpartition(".")
    learners = setting_consumers()[section, key] if dot else ALL
    is_choice = name in ("model.method", "model.network")  # the default is the same; the learner was set to resolve it
    defaults = {
        learner: field.default if is_choice else (resolved[learner][section] if dot else resolved[learner])[key]
        for learner in learners
    }
    networks = tuple(learner for learner in learners if learner in SCRATCH)
    methods = (*(learner for learner in learners if learner in PRETRAINED), *(["scratch"] if networks else []))
    default = _format_default(defaults, DEFAULT_REASONS.get(name))
    values = SPECIAL_VALUES.get(name) or _describe_values(field.annotation, field.metadata)
    return Setting(name, values, defaults, default, methods, networks, str(field.description))


def _format_default(defaults: dict[str, Any], reason: str | None) -> str:
    """Return defaults as text, by learner where they differ.

    >>> _format_default({"finetune": 5, "resnet": 48, "plain": 48}, "depends on the machine")
    '5 (finetune), 48 (scratch); depends on the machine'
    """
    texts = {learner: json.dumps(value, ensure_ascii=False) for learner, value in defaults.items()}
    if {*SCRATCH} <= texts.keys() and texts["resnet"] == texts["plain"]:
        texts = {learner: text for learner, text in texts.items() if learner != "plain"}
        texts["scratch"] = texts.pop("resnet")
    learners: dict[str, list[str]] = {}
    for learner, text in texts.items():
        learners.setdefault(text, []).append(learner)
    same = len(learners) == 1
    text = next(iter(learners)) if same else ", ".join(f"{text} ({', '.join(who)})" for text, who in learners.items())
    return f"{text}; {reason}" if reason else text


def _describe_values(annotation: Any, metadata: Iterable[Any] = ()) -> str:
    """Return the type and the range of a setting in words."""
    if get_origin(annotation) is Literal:
        return ", ".join(get_args(annotation))
    arguments = [argument for argument in get_args(annotation) if argument is not type(None)]
    if len(arguments) == 1 and get_origin(annotation) not in (tuple, list):  # a setting that may be None
        return _describe_values(arguments[0], metadata)
    metadata = list(metadata)
    if get_origin(annotation) is tuple:
        return _join_limits(f"list: {_describe_element(arguments[0])}", metadata)
    return _join_limits(TYPE_NAMES[annotation], metadata)


def _describe_element(annotation: Any) -> str:
    """Return the type and the range of an element of a list: a type, or one with its limits."""
    element, *limits = (getattr(annotation, "__metadata__", ()) and get_args(annotation)) or (annotation,)
    return _describe_values(element, [part for limit in limits for part in getattr(limit, "metadata", [limit])])


def _join_limits(name: str, metadata: list[Any]) -> str:
    """Return the name of a type with the limits of its values.

    >>> _join_limits("integer", [Ge(1), Le(10_000)]), _join_limits("number", [Gt(0)])
    ('integer, 1 to 10,000', 'number, above 0')
    """
    limits = [limit for limit in metadata if isinstance(limit, Ge | Gt | Le | Lt)]
    texts = {type(limit): f"{getattr(limit, type(limit).__name__.lower()):,}" for limit in limits}
    parts = [name]
    if Ge in texts and Le in texts:
        parts.append(f"{texts[Ge]} to {texts[Le]}")
    else:
        words = {Gt: "above {}", Ge: "{} or more", Le: "at most {}", Lt: "below {}"}
        parts += [" and ".join(word.format(texts[kind]) for kind, word in words.items() if kind in texts)]
    functions = [getattr(validator, "func", None) for validator in metadata]
    parts += [function.text for function in functions if isinstance(function, Expectation)]
    return ", ".join(part for part in parts if part)
