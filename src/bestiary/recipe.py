"""The frozen description of an experiment: what was asked, and what that means with every default spelled out.

>>> recipe = Recipe.of({"model": {"method": "scratch"}}).resolved()
>>> recipe.picture.size, recipe.train.epochs
(128, 20)
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from bestiary.errors import RecipeError, nearest

Method = Literal["probe", "finetune", "scratch"]
Fit = Literal["squash", "letterbox", "crop"]
Balance = Literal["none", "class-weights", "oversample", "balanced-sampler", "logit-adjusted"]

BACKBONE_SIZES = {"lite0": 224, "lite2": 260}
SCRATCH_SIZE = 128


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class Data(_Section):
    """Which pictures, and how they are split."""

    classes: tuple[str, ...] = Field((), description="only these labels; empty means all")
    min_per_class: int = Field(10, ge=3, description="a class with fewer pictures is refused")
    val_fraction: float = Field(0.15, gt=0, lt=0.5)
    test_fraction: float = Field(0.15, gt=0, lt=0.5)
    near_duplicates: bool = Field(True, description="keep near-duplicates on one side of the split")
    near_duplicate_bits: int = Field(40, ge=0, le=64, description="of 256: pictures this close count as one")


class Picture(_Section):
    """How a picture becomes the input of the model."""

    size: int | None = Field(None, ge=32, le=1024, description="pixels; derived from the backbone when not given")
    fit: Fit = "squash"
    max_pixels: int = Field(
        80_000_000, ge=1, le=170_000_000, description="larger pictures are refused before they are decoded"
    )
    max_bytes: int = Field(100_000_000, ge=1, description="larger files are refused before they are read")


class Model(_Section):
    """What learns."""

    method: Method = "probe"
    backbone: str = Field("lite2", description="for probe and finetune: lite0, lite2; finetune: any timm name as well")
    weights: str = Field("bundled", description='"bundled", "hub" (downloads), or the path of a file')
    network: Literal["resnet", "plain"] = Field("resnet", description="for scratch")
    filters: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="filters of each stage; empty means the network's own"
    )
    kernel_size: int = Field(3, ge=1, le=11, description="for plain")
    batch_norm: bool = Field(False, description="for plain")
    hidden: int = Field(128, ge=1, description="width of plain's dense layer")
    dropout: float = Field(0.5, ge=0, lt=1, description="for plain")

    @field_validator("kernel_size")
    @classmethod
    def _odd(cls, value: int) -> int:
        if value % 2 == 0:
            raise ValueError("expected an odd number, so that a kernel has a middle")
        return value


class Probe(_Section):
    """The linear head on frozen features."""

    regularisation: tuple[float, ...] = Field(
        (),
        description="inverse strengths C to try, of which validation loss chooses; empty: 4 to 1,200 divided by the"
        " number of training pictures",
    )

    @field_validator("regularisation")
    @classmethod
    def _positive(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if values and min(values) <= 0:
            raise ValueError("expected numbers above 0")
        return tuple(sorted(values))


class Augment(_Section):
    """What is done at random to a training picture; 0 turns a part off."""

    mirror: float = Field(0.5, ge=0, le=1, description="share of pictures mirrored left to right")
    crop_min_area: float = Field(0.5, gt=0, le=1, description="smallest part of the picture shown; 1 turns it off")
    colour_jitter: float = Field(0.2, ge=0, le=1, description="strength of brightness, contrast and saturation changes")
    erasing: float = Field(0.0, ge=0, le=1, description="share of pictures with a rectangle erased")


class Train(_Section):
    """The training loop, for scratch and finetune."""

    epochs: int | None = Field(None, ge=1, le=10_000)
    batch_size: int = Field(64, ge=1, le=4096)
    learning_rate: float | None = Field(None, gt=0)
    weight_decay: float | None = Field(None, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    schedule: Literal["one-cycle", "cosine"] | None = None
    warmup_epochs: float | None = Field(None, ge=0)
    patience_epochs: int | None = Field(
        None, ge=1, description="stop after so many epochs without a better validation macro-F1"
    )
    balance: Balance = "none"
    unfreeze_stages: int = Field(2, ge=0, description="for finetune: how many of the backbone's last stages learn")
    views: int = Field(
        4,
        ge=1,
        description="for finetune: each picture as it is, mirrored, then changed at random; one epoch shows all",
    )
    whole_epochs: int = Field(0, ge=0, description="for finetune: epochs that train the whole network afterwards")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"


class Evaluate(_Section):
    """How the model is judged."""

    resamples: int = Field(2000, ge=100, le=100_000, description="of the bootstrap")
    coverage: float = Field(0.95, gt=0, le=1, description="share of real pictures that get an answer")


class Recipe(_Section):
    """An experiment. Make one with `Recipe.of`, `Recipe.read` or keyword sections; `resolved` fills every gap."""

    seed: int = Field(0, ge=0, lt=2**32)
    data: Data = Data()
    picture: Picture = Picture()
    model: Model = Model()
    probe: Probe = Probe()
    augment: Augment = Augment()
    train: Train = Train()
    evaluate: Evaluate = Evaluate()

    @model_validator(mode="after")
    def _splits_leave_training(self) -> Self:
        held_back = self.data.val_fraction + self.data.test_fraction
        if held_back >= 0.9:
            raise ValueError(f"data.val_fraction + data.test_fraction = {held_back:g} leaves too little to train on")
        return self

    @classmethod
    def of(cls, asked: Mapping[str, Any]) -> Recipe:
        """Return the recipe with these settings, or raise RecipeError that names the setting and what was expected."""
        _refuse_unknown(asked, cls, prefix="")
        try:
            return cls.model_validate(asked)
        except ValidationError as error:
            raise RecipeError(_explain(error)) from None

    @classmethod
    def read(cls, path: Path) -> Recipe:
        """Return the recipe written in a TOML file; raises RecipeError naming file and line."""
        return cls.of(read_toml(path))

    def asked(self) -> dict[str, Any]:
        """Return only what was set, as nested plain values."""
        return self.model_dump(mode="json", exclude_unset=True, exclude_none=True)

    def resolved(self) -> Recipe:
        """Return the recipe with every derived setting filled in; nothing is None afterwards."""
        scratch = self.model.method == "scratch"
        size = self.picture.size or (SCRATCH_SIZE if scratch else BACKBONE_SIZES.get(self.model.backbone, 224))
        train = Train.model_validate({**_train_defaults(self.model, self.train.epochs), **_given(self.train)})
        full = {
            **self.model_dump(),
            "picture": {**self.picture.model_dump(), "size": size},
            "train": train.model_dump(),
        }
        return Recipe.model_validate(full)

    def toml(self) -> str:
        """Return every setting that has a value, as TOML that `Recipe.read` takes back."""
        return write_toml(self.model_dump(mode="json", exclude_none=True))


def read_toml(path: Path) -> dict[str, Any]:
    """Return the nested values of a TOML file; raises RecipeError naming the file and the line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"There is no recipe at {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"The recipe {path} cannot be read: {error}.") from None
    except tomllib.TOMLDecodeError as error:
        raise RecipeError(f"The recipe {path} is not valid TOML: {error}.") from None


def write_toml(values: Mapping[str, Any]) -> str:
    """Return two levels of plain values (text, numbers, truth, lists of these) as TOML."""
    top = [f"{key} = {_toml_value(value)}" for key, value in values.items() if not isinstance(value, Mapping)]
    parts = ["\n".join(top)] if top else []
    for key, section in values.items():
        if isinstance(section, Mapping) and section:
            lines = [f"{name} = {_toml_value(value)}" for name, value in section.items()]
            parts.append("\n".join([f"[{key}]", *lines]))
    return "\n\n".join(parts) + "\n"


def with_settings(asked: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Return `asked` with `section.key=value` texts laid over it; values are read as TOML, else as text."""
    merged: dict[str, Any] = {key: dict(part) if isinstance(part, Mapping) else part for key, part in asked.items()}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name.strip():
            raise RecipeError(f'--set takes section.key=value, for example train.epochs=30; got "{setting}".')
        section, dot, key = name.strip().partition(".")
        if dot:
            inner = merged.setdefault(section, {})
            if not isinstance(inner, dict):
                raise RecipeError(f'"{section}" is not a section of the recipe; got "{setting}".')
            inner[key] = _setting_value(text.strip())
        else:
            merged[section] = _setting_value(text.strip())
    return merged


def _train_defaults(model: Model, asked_epochs: int | None) -> dict[str, Any]:
    """The warm-up is a fifth of the epochs of the residual network, a tenth elsewhere."""
    if model.method == "finetune":
        epochs = asked_epochs or 5
        rates = {"learning_rate": 3e-4, "weight_decay": 0.01, "schedule": "cosine", "patience_epochs": 3}
        return {**rates, "epochs": epochs, "warmup_epochs": epochs / 10}
    # From scratch the rate falls to the end of the schedule and the best epochs come last: patience is long.
    epochs = asked_epochs or 20
    scratch = {"epochs": epochs, "weight_decay": 5e-4, "schedule": "one-cycle", "patience_epochs": 20}
    if model.network == "plain":
        return {**scratch, "learning_rate": 0.01, "warmup_epochs": epochs / 10}
    return {**scratch, "learning_rate": 0.2, "warmup_epochs": epochs / 5}


def _given(section: BaseModel) -> dict[str, Any]:
    return {key: value for key, value in section.model_dump(exclude_unset=True).items() if value is not None}


def _refuse_unknown(asked: Mapping[str, Any], model: type[BaseModel], *, prefix: str) -> None:
    for key, value in asked.items():
        if key not in model.model_fields:
            raise RecipeError(f'Unknown setting "{prefix}{key}". {nearest(key, model.model_fields)}')
        kind = model.model_fields[key].annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if not isinstance(value, Mapping):
                raise RecipeError(f'"{prefix}{key}" is a section; give its keys, for example {key}.{_first(kind)}.')
            _refuse_unknown(value, kind, prefix=f"{prefix}{key}.")


def _first(model: type[BaseModel]) -> str:
    return next(iter(model.model_fields))


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"]) or "recipe"
    message = first["msg"].removeprefix("Value error, ")
    given = "" if isinstance(first["input"], BaseModel | dict) else f" got {first['input']!r}."
    return f'Setting "{name}": {message};{given}' if given else f"{name}: {message}."


def _setting_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _toml_value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(_toml_value(item) for item in value)}]"
    # TOML's strings, numbers and truth values are JSON's, but for the one control character that JSON does not escape.
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


METHODS: tuple[str, ...] = get_args(Method)
