"""The frozen description of an experiment: what was asked, and what that means with every default spelled out.

>>> recipe = Recipe.of({"model": {"method": "scratch"}}).resolved()
>>> recipe.picture.size, recipe.train.epochs
(128, 48)
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator

from bestiary.defaults import SCRATCH_AUGMENT, train_defaults
from bestiary.errors import RecipeError, did_you_mean

Method = Literal["probe", "finetune", "scratch"]
Fit = Literal["squash", "letterbox", "crop"]
Normalise = Literal["collection", "backbone", "none"]
Optimiser = Literal["sgd", "adamw", "muon"]
Schedule = Literal["one-cycle", "cosine", "constant"]
Activation = Literal["relu", "leaky-relu", "elu", "silu", "gelu", "tanh"]
Balance = Literal["none", "class-weights", "oversample", "balanced-sampler", "logit-adjusted"]

BACKBONE_SIZES = {"lite0": 224, "lite2": 260}
SCRATCH_SIZE = 128


def _as_tuple(value: Any) -> Any:
    return (value,) if isinstance(value, int | float) else value


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class DataConfig(_Section):
    """Which pictures, and how they are split."""

    classes: tuple[str, ...] = Field((), description="only these labels; empty means all")
    min_per_class: int = Field(10, ge=3, description="a class with fewer pictures is refused")
    val_fraction: float = Field(0.15, gt=0, lt=0.5)
    test_fraction: float = Field(0.15, gt=0, lt=0.5)
    folds: int = Field(0, ge=0, le=50, description="cross-validation with so many folds in place of one test part")
    near_duplicates: bool = Field(True, description="keep near-duplicates on one side of the split")
    suspects: bool = Field(True, description="look for labels that are probably wrong, outliers and shortcuts")
    near_duplicate_bits: int = Field(40, ge=0, le=64, description="of 256: pictures this close count as one")

    @field_validator("folds")
    @classmethod
    def _check_folds(cls, value: int) -> int:
        if value == 1:
            raise ValueError("expected 2 folds or more, or 0 for one test part")
        return value


class InputConfig(_Section):
    """How a picture becomes the input of the model."""

    size: int | None = Field(None, ge=32, le=1024, description="pixels; derived from the backbone when not given")
    fit: Fit = "squash"
    normalise: Normalise | None = Field(
        None, description="by the collection's own colours (from scratch), the backbone's, or none: 0 to 1"
    )
    max_pixels: int = Field(
        80_000_000, ge=1, le=170_000_000, description="larger pictures are refused before they are decoded"
    )
    max_bytes: int = Field(100_000_000, ge=1, description="larger files are refused before they are read")


class ModelConfig(_Section):
    """What learns."""

    method: Method = "probe"
    backbone: str = Field("lite2", description="for probe and finetune: lite0, lite2; finetune: any timm name as well")
    weights: str = Field("bundled", description='"bundled", "hub" (downloads), or the path of a file')
    network: Literal["resnet", "plain"] = Field("resnet", description="for scratch")
    filters: tuple[Annotated[int, Field(ge=1)], ...] = Field(
        (), description="filters of each stage; empty means the network's own"
    )
    mirror_mean: bool = Field(True, description="for resnet: answer for the mean of a picture and its mirror image")
    kernel_size: Annotated[tuple[Annotated[int, Field(ge=1, le=11)], ...], BeforeValidator(_as_tuple)] = Field(
        (3,), description="for plain: of each stage; the last one counts for the stages after it"
    )
    batch_norm: bool = Field(False, description="for plain")
    pooling: Literal["max", "average"] = Field("max", description="for plain: what halves the maps after each stage")
    activation: Activation = Field("relu", description="for plain: after each convolution; dense layers have relu")
    stage_dropout: float = Field(0.0, ge=0, lt=1, description="for plain: after each stage")
    hidden: Annotated[tuple[Annotated[int, Field(ge=1)], ...], BeforeValidator(_as_tuple)] = Field(
        (128,), description="widths of plain's dense layers"
    )
    dropout: float = Field(0.5, ge=0, lt=1, description="for plain: after each dense layer")

    @field_validator("kernel_size")
    @classmethod
    def _check_odd(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if not values or any(value % 2 == 0 for value in values):
            raise ValueError("expected odd numbers, so that a kernel has a middle")
        return values

    @field_validator("hidden")
    @classmethod
    def _check_not_empty(cls, values: tuple[int, ...]) -> tuple[int, ...]:
        if not values:
            raise ValueError("expected one or more widths")
        return values


class ProbeConfig(_Section):
    """The linear head on frozen features."""

    regularisation: Annotated[tuple[float, ...], BeforeValidator(_as_tuple)] = Field(
        (),
        description="inverse strengths C to try, of which validation loss chooses; empty: 4 to 1,200 divided by the"
        " number of training pictures",
    )

    @field_validator("regularisation")
    @classmethod
    def _check_positive(cls, values: tuple[float, ...]) -> tuple[float, ...]:
        if values and min(values) <= 0:
            raise ValueError("expected numbers above 0")
        return tuple(sorted(values))


class AugmentConfig(_Section):
    """What is done at random to a training picture; 0 turns a part off. From scratch more is done: see `defaults`."""

    mirror: float = Field(0.5, ge=0, le=1, description="share of pictures mirrored left to right")
    crop_min_area: float = Field(0.5, gt=0, le=1, description="smallest part of the picture shown; 1 turns it off")
    colour_jitter: float = Field(0.2, ge=0, le=1, description="strength of brightness, contrast and saturation changes")
    erasing: float = Field(0.0, ge=0, le=1, description="share of pictures with a rectangle erased")


class TrainConfig(_Section):
    """The training loop, for scratch and finetune."""

    epochs: int | None = Field(None, ge=1, le=10_000)
    batch_size: int = Field(64, ge=1, le=4096)
    learning_rate: float | None = Field(None, gt=0)
    weight_decay: float | None = Field(None, ge=0)
    momentum: float = Field(0.9, ge=0, lt=1)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    optimiser: Optimiser | None = None
    schedule: Schedule | None = None
    warmup_epochs: float | None = Field(None, ge=0)
    patience_epochs: int | None = Field(
        None, ge=1, description="stop after so many epochs without a better validation macro-F1"
    )
    balance: Balance = "none"
    unfreeze_stages: int = Field(1, ge=0, description="for finetune: how many of the backbone's last stages learn")
    views: int = Field(
        3,
        ge=1,
        description="for finetune with a bundled backbone: each picture as it is, mirrored, then changed at random;"
        " one epoch shows all",
    )
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    size_from: int | None = Field(None, ge=16, description="side of the training pictures in the first epochs, pixels")
    size_to: int | None = Field(None, ge=16, description="and in the last; for resnet")
    checkpoint_seconds: float = Field(240.0, gt=0, description="a checkpoint is written so often within an epoch")


class EvaluateConfig(_Section):
    """How the model is judged."""

    resamples: int = Field(2000, ge=100, le=100_000, description="of the bootstrap")
    coverage: float = Field(0.95, gt=0, le=1, description="share of real pictures that get an answer")
    learning_curve: Literal["auto", "on", "off"] = Field(
        "auto", description="whether more pictures would help; auto: if the probe's features are there anyway"
    )


class Recipe(_Section):
    """An experiment. Make one with `Recipe.of`, `Recipe.read` or keyword sections; `resolved` fills every gap."""

    seed: int = Field(0, ge=0, lt=2**32)
    data: DataConfig = DataConfig()
    picture: InputConfig = InputConfig()
    model: ModelConfig = ModelConfig()
    probe: ProbeConfig = ProbeConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _check_split_fractions(self) -> Self:
        held_back = self.data.val_fraction + self.data.test_fraction
        if held_back >= 0.9:
            raise ValueError(f"data.val_fraction + data.test_fraction = {held_back:g} leaves too little to train on")
        return self

    @classmethod
    def of(cls, values: Mapping[str, Any] | Recipe) -> Recipe:
        """Return the recipe with these settings, or raise RecipeError that names the setting and what was expected."""
        if isinstance(values, Recipe):
            return values
        if not isinstance(values, Mapping):
            raise RecipeError(f'A recipe is nested settings, such as {{"train": {{"epochs": 30}}}}; got {values!r}.')
        _check_keys(values, cls, prefix="")
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise RecipeError(_validation_message(error)) from None

    @classmethod
    def read(cls, path: Path | str) -> Recipe:
        """Return the recipe of this name, or written in a TOML file; raises RecipeError naming file and line."""
        return cls.of(load_recipe_values(str(path)))

    def overrides(self) -> dict[str, Any]:
        """Return only what was set, as nested plain values."""
        return self.model_dump(mode="json", exclude_unset=True, exclude_none=True)

    def resolve(self) -> Recipe:
        """Return the recipe with every derived setting filled in; nothing is None afterwards."""
        scratch = self.model.method == "scratch"
        size = self.picture.size or (SCRATCH_SIZE if scratch else BACKBONE_SIZES.get(self.model.backbone, 224))
        normalise = self.picture.normalise or ("collection" if scratch else "backbone")
        given = _explicit_values(self.train)
        train = TrainConfig.model_validate(train_defaults(self.model.method, self.model.network, size, given) | given)
        full = {
            **self.model_dump(),
            "picture": {**self.picture.model_dump(), "size": size, "normalise": normalise},
            "augment": (SCRATCH_AUGMENT if scratch else {}) | _explicit_values(self.augment),
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


def builtin_recipes() -> dict[str, Path]:
    """Return the recipes that come with the package, by name."""
    folder = Path(__file__).parent / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def load_recipe_values(name: str) -> dict[str, Any]:
    """Return the nested values of a recipe that comes with the package, or of a TOML file."""
    if name in builtin_recipes():
        return read_toml(builtin_recipes()[name])
    if Path(name).suffix or Path(name).exists():
        return read_toml(Path(name))
    raise RecipeError(f'There is no recipe "{name}": neither a file, nor one of {", ".join(builtin_recipes())}.')


def apply_overrides(values: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Return `values` with `section.key=value` texts laid over it; values are read as TOML, else as text."""
    merged: dict[str, Any] = {key: dict(part) if isinstance(part, Mapping) else part for key, part in values.items()}
    for setting in settings:
        name, equals, text = setting.partition("=")
        if not equals or not name.strip():
            raise RecipeError(f'--set takes section.key=value, for example train.epochs=30; got "{setting}".')
        section, dot, key = name.strip().partition(".")
        if dot:
            inner = merged.setdefault(section, {})
            if not isinstance(inner, dict):
                raise RecipeError(f'"{section}" is not a section of the recipe; got "{setting}".')
            inner[key] = read_setting(text.strip())
        else:
            merged[section] = read_setting(text.strip())
    return merged


def override_epochs(values: Mapping[str, Any], epochs: int) -> dict[str, Any]:
    """Return `values` with so many epochs; a warm-up that it asks for keeps its share of them."""
    train, before = dict(values.get("train", {})), Recipe.of(values).resolve().train.epochs
    if (warm_up := train.get("warmup_epochs")) and before:
        train["warmup_epochs"] = warm_up * epochs / before
    return {**values, "train": {**train, "epochs": epochs}}


def _explicit_values(section: BaseModel) -> dict[str, Any]:
    return {key: value for key, value in section.model_dump(exclude_unset=True).items() if value is not None}


def _check_keys(values: Mapping[str, Any], model: type[BaseModel], *, prefix: str) -> None:
    for key, value in values.items():
        if key not in model.model_fields:
            raise RecipeError(
                f'Unknown setting "{prefix}{key}". {_suggest_section(key)}{did_you_mean(key, model.model_fields)}'
            )
        kind = model.model_fields[key].annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            if not isinstance(value, Mapping):
                raise RecipeError(
                    f'"{prefix}{key}" is a section; give its keys, for example {key}.{next(iter(kind.model_fields))}.'
                )
            _check_keys(value, kind, prefix=f"{prefix}{key}.")


def _suggest_section(key: str) -> str:
    """Return where a key that was looked for in the wrong place is, as the start of a sentence; empty if nowhere."""
    sections = {name: field.annotation for name, field in Recipe.model_fields.items()}
    places = [f"{name}.{key}" for name, kind in sections.items() if key in getattr(kind, "model_fields", ())]
    return f'Did you mean "{places[0]}"? ' if places else ""


def _validation_message(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"]) or "recipe"
    message = first["msg"].removeprefix("Value error, ").replace("a valid tuple", "a list, such as [1, 2]")
    given = "" if isinstance(first["input"], BaseModel | dict) else f" got {first['input']!r}."
    return f'Setting "{name}": {message};{given}' if given else f"{name}: {message}."


def read_setting(text: str) -> Any:
    """Return a value written on the command line: read as TOML, else as text."""
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
