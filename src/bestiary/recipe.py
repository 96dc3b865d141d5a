"""The frozen configuration of an experiment: as requested (`Recipe`), and with every default (`ResolvedRecipe`).

>>> recipe = Recipe.of({"model": {"method": "scratch"}}).resolve()
>>> recipe.picture.size, recipe.train.epochs
(128, 48)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator

from bestiary.class_thresholds import ThresholdEntry, check_thresholds
from bestiary.costs import CostEntry, check_entries
from bestiary.defaults import augment_defaults, train_defaults
from bestiary.errors import RecipeError
from bestiary.group_rules import check_group_rule, check_site_rule
from bestiary.recipe_errors import check_keys, format_validation_error
from bestiary.recipe_files import load_recipe_values, write_toml

if TYPE_CHECKING:
    from bestiary.picture import DecodeLimits
    from bestiary.preprocess import Preprocessing

Method = Literal["probe", "finetune", "scratch"]
Fit = Literal["squash", "letterbox", "crop"]
Normalise = Literal["collection", "backbone", "none"]
Optimiser = Literal["sgd", "adamw", "muon"]
Schedule = Literal["one-cycle", "cosine", "constant"]
Activation = Literal["relu", "leaky-relu", "elu", "silu", "gelu", "tanh"]
CropRule = Literal["none", "boxes"]
SplitParts = Literal["auto", "keep", "draw-test", "resplit"]
FeatureEngine = Literal["auto", "openvino", "onnxruntime"]
FeaturePrecision = Literal["auto", "float32", "bfloat16"]
Balance = Literal["none", "class-weights", "oversample", "balanced-sampler", "logit-adjusted"]
Turn = Literal["none", "quarters", "any"]
Policy = Literal["none", "trivial"]
ProbeViews = Literal["none", "mirror", "quarters"]

METHODS: tuple[str, ...] = get_args(Method)
BACKBONE_SIZES, SCRATCH_SIZE = {"lite0": 224, "lite2": 260}, 128


def _expect(condition: Callable[[Any], bool], text: str) -> AfterValidator:
    """Return a validator that raises ValueError "expected `text`" unless the condition holds."""

    def check(value: Any) -> Any:
        if not condition(value):
            raise ValueError(f"expected {text}")
        return value

    return AfterValidator(check)


# A number or a list of numbers.
_AsTuple = BeforeValidator(lambda value: (value,) if isinstance(value, int | float) else value)
_Sorted = AfterValidator(lambda values: tuple(sorted(values)))
_Positive = _expect(lambda values: all(value > 0 for value in values), "numbers above 0")
_Odd = _expect(lambda sizes: sizes and all(size % 2 for size in sizes), "odd numbers, so that a kernel has a centre")
Counts = tuple[Annotated[int, Field(ge=1)], ...]
Widths = Annotated[Counts, _AsTuple, _expect(bool, "one or more widths")]
KernelSizes = Annotated[tuple[Annotated[int, Field(ge=1, le=11)], ...], _AsTuple, _Odd]
Strengths = Annotated[tuple[float, ...], _AsTuple, _Positive, _Sorted]
Folds = Annotated[int, Field(ge=0, le=50), _expect(lambda folds: folds != 1, "2 or more, or 0 for one test split")]
GroupRuleText = Annotated[str, AfterValidator(check_group_rule)]
SiteRuleText = Annotated[str, AfterValidator(check_site_rule)]
Costs = Annotated[tuple[CostEntry, ...], AfterValidator(check_entries)]
_AsPairs = BeforeValidator(lambda value: tuple(value.items()) if isinstance(value, Mapping) else value)
Thresholds = Annotated[tuple[ThresholdEntry, ...], _AsPairs, AfterValidator(check_thresholds)]


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class DataConfig(_Section):
    """The pictures and their split."""

    classes: tuple[str, ...] = Field((), description="use only these labels; empty: all")
    label_depth: int = Field(1, ge=1, le=10, description="labels are the names of the folders at this level")
    min_per_class: int = Field(10, ge=3, description="a class with fewer pictures is an error")
    split: SplitParts = Field("auto", description="given splits; auto: without a test split, val is the test split")
    val_fraction: float = Field(0.15, gt=0, lt=0.5)
    test_fraction: float = Field(0.15, gt=0, lt=0.5)
    folds: Folds = Field(0, description="of cross-validation; 0: one test split")
    near_duplicates: bool = Field(True, description="keep near-duplicates in the same split")
    group: GroupRuleText = Field(
        "auto", description="pictures that stay in one split: auto, none, a column, folder, regex:PATTERN, time:60s"
    )
    site: SiteRuleText = Field(
        "none", description="sites, which stay in one split: none, a column, source, folder, regex:PATTERN"
    )
    crop: CropRule = Field("none", description="boxes: a row is a box of a picture, and shows that part of it only")
    suspects: bool = Field(True, description="look for label errors, outliers and shortcuts")
    near_duplicate_bits: int = Field(40, ge=0, le=64, description="largest distance of near-duplicates, of 256 bits")


class InputConfig(_Section):
    """Decoding and preprocessing of a picture."""

    size: int | None = Field(None, ge=32, le=1024, description="pixels; default: that of the backbone")
    fit: Fit = "squash"
    normalise: Normalise | None = Field(None, description="mean and deviation of: collection, backbone; none: 0 to 1")
    max_pixels: int = Field(80_000_000, ge=1, le=170_000_000, description="larger pictures are not decoded")
    max_bytes: int = Field(100_000_000, ge=1, description="larger files are not read")


class ModelConfig(_Section):
    """Method, backbone and network."""

    method: Method = "probe"
    backbone: str = Field("lite2", description="for probe: lite0, lite2; for finetune: any timm name as well")
    weights: str = Field("bundled", description='"bundled", "hub" (downloads), or the path of a file')
    network: Literal["resnet", "plain"] = Field("resnet", description="for scratch")
    filters: Counts = Field((), description="of each stage; empty: the network's default")
    mirror_mean: bool = Field(True, description="for resnet: average the picture and its mirror image")
    kernel_size: KernelSizes = Field((3,), description="for plain: of each stage; the last also for later stages")
    batch_norm: bool = Field(False, description="for plain")
    pooling: Literal["max", "average"] = Field("max", description="for plain: after each stage")
    activation: Activation = Field("relu", description="for plain: after each convolution; dense layers use relu")
    stage_dropout: float = Field(0.0, ge=0, lt=1, description="for plain: after each stage")
    hidden: Widths = Field((128,), description="for plain: widths of the dense layers")
    dropout: float = Field(0.5, ge=0, lt=1, description="for plain: after each dense layer")


class FeaturesConfig(_Section):
    """Feature extraction by a bundled backbone; "auto": what is fastest on this computer, measured once."""

    engine: FeatureEngine = "auto"
    precision: FeaturePrecision = Field("auto", description="of training and audit features; elsewhere float32")

    @model_validator(mode="after")
    def _check_engine(self) -> Self:
        if self.engine == "onnxruntime" and self.precision == "bfloat16":
            raise ValueError('only the engine "openvino" computes in bfloat16')
        return self


class ProbeConfig(_Section):
    """The linear head on frozen features."""

    regularisation: Strengths = Field((), description="inverse strengths C; empty: 4 to 1,200 / training pictures")
    views: ProbeViews = Field(
        "none", description="training pictures also mirrored, or turned by 90, 180 and 270 degrees"
    )


class AugmentConfig(_Section):
    """Random augmentation of training pictures; 0 turns a part off. From scratch it is stronger: see `defaults`."""

    mirror: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    crop_min_area: float = Field(0.5, gt=0, le=1, description="smallest area fraction of a random crop; 1 turns it off")
    colour_jitter: float = Field(0.2, ge=0, le=1, description="strength of brightness, contrast and saturation changes")
    erasing: float = Field(0.0, ge=0, le=1, description="probability of an erased rectangle")
    vertical_mirror: float = Field(0.0, ge=0, le=1, description="probability of a vertical flip")
    turn: Turn = Field("none", description="quarters: by 0, 90, 180 or 270 degrees; any: by any angle")
    policy: Policy = Field("none", description="trivial: TrivialAugment; then colour_jitter defaults to 0")

    @property
    def is_off(self) -> bool:
        """Whether pictures are shown as they are."""
        parts = self.mirror, self.vertical_mirror, 1 - self.crop_min_area, self.colour_jitter, self.erasing
        return max(parts) == 0 and self.turn == self.policy == "none"


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
    patience_epochs: int | None = Field(None, ge=1, description="stop if validation macro-F1 does not improve")
    balance: Balance = "none"
    unfreeze_stages: int = Field(1, ge=0, description="for finetune: number of trained last stages")
    views: int = Field(3, ge=1, description="for finetune, bundled backbone: plain, mirrored, augmented copies")
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    size_from: int | None = Field(None, ge=16, description="pixels: training size of the first epochs")
    size_to: int | None = Field(None, ge=16, description="of the last epochs; for resnet")
    checkpoint_seconds: float = Field(240.0, gt=0, description="interval of checkpoints within an epoch")


class EvaluateConfig(_Section):
    """Evaluation of the model."""

    resamples: int = Field(2000, ge=100, le=100_000, description="bootstrap resamples")
    coverage: float = Field(0.95, gt=0, le=1, description="fraction of in-distribution pictures that are not rejected")
    costs: Costs = Field(
        (), description="of mistakes, as true, predicted, cost; empty: label is the most probable class"
    )
    thresholds: Thresholds = Field((), description="precision on validation from which a class is answered, by class")
    learning_curve: Literal["auto", "on", "off"] = Field("auto", description="auto: if the probe's features are cached")


class ResolvedInput(InputConfig):
    """Input settings of a resolved recipe; `InputConfig` has checked the values."""

    size: int
    normalise: Normalise


class ResolvedTrain(TrainConfig):
    """Training settings of a resolved recipe; `TrainConfig` has checked the values."""

    epochs: int
    learning_rate: float
    weight_decay: float
    optimiser: Optimiser
    schedule: Schedule
    warmup_epochs: float
    patience_epochs: int
    size_from: int
    size_to: int


class Recipe(_Section):
    """An experiment. Create one with `Recipe.of`, `Recipe.read` or keyword sections; `resolve` adds every default."""

    seed: int = Field(0, ge=0, lt=2**32)
    data: DataConfig = DataConfig()
    picture: InputConfig = InputConfig()
    model: ModelConfig = ModelConfig()
    features: FeaturesConfig = FeaturesConfig()
    probe: ProbeConfig = ProbeConfig()
    augment: AugmentConfig = AugmentConfig()
    train: TrainConfig = TrainConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="after")
    def _check_split_fractions(self) -> Self:
        if (total := self.data.val_fraction + self.data.test_fraction) >= 0.9:
            raise ValueError(f"data.val_fraction + data.test_fraction = {total:g} leaves too little to train on")
        return self

    @classmethod
    def of(cls, values: Mapping[str, Any] | Recipe) -> Recipe:
        """Return the recipe with these settings; raises RecipeError naming the setting and the expected value."""
        if isinstance(values, Recipe):
            return values
        if not isinstance(values, Mapping):
            raise RecipeError(f'A recipe is nested settings, such as {{"train": {{"epochs": 30}}}}; got {values!r}.')
        check_keys(values, cls)
        try:
            return cls.model_validate(values)
        except ValidationError as error:
            raise RecipeError(format_validation_error(error)) from None

    @classmethod
    def read(cls, path: Path | str) -> Recipe:
        """Return a built-in recipe by name, or the recipe in a TOML file; raises RecipeError naming file and line."""
        return cls.of(load_recipe_values(str(path)))

    @property
    def limits(self) -> DecodeLimits:
        """Return the limits of the picture decoder."""
        from bestiary.picture import DecodeLimits

        return DecodeLimits(self.picture.max_bytes, self.picture.max_pixels)

    def overrides(self) -> dict[str, Any]:
        """Return only the explicit settings, as nested plain values."""
        return self.model_dump(mode="json", exclude_unset=True, exclude_none=True)

    def resolve(self) -> ResolvedRecipe:
        """Return the recipe with a value for every setting."""
        scratch = self.model.method == "scratch"
        size = self.picture.size or (SCRATCH_SIZE if scratch else BACKBONE_SIZES.get(self.model.backbone, 224))
        normalise = self.picture.normalise or ("collection" if scratch else "backbone")
        explicit = self.train.model_dump(exclude_unset=True, exclude_none=True)
        values = self.model_dump()
        values["picture"] |= {"size": size, "normalise": normalise}
        augment = self.augment.model_dump(exclude_unset=True)
        values["augment"] = augment_defaults(self.model.method, augment) | augment
        values["train"] |= train_defaults(self.model.method, self.model.network, size, explicit) | explicit
        return ResolvedRecipe.model_validate(values)

    def override(self, settings: Mapping[str, Mapping[str, Any]]) -> Recipe:
        """Return the recipe with other settings, by section. Raises RecipeError for invalid ones."""
        values = self.overrides()
        return Recipe.of(values | {section: {**values.get(section, {}), **new} for section, new in settings.items()})

    def with_epochs(self, epochs: int | None) -> Recipe:
        """Return the recipe with this number of epochs (None: its own); an explicit warm-up is scaled with them."""
        before, warmup = self.resolve().train.epochs, self.train.warmup_epochs
        if epochs is None or epochs == before:
            return self
        scaled = {"warmup_epochs": warmup * epochs / before} if warmup else {}
        return self.override({"train": scaled | {"epochs": epochs}})

    def toml(self) -> str:
        """Return every setting that has a value, as TOML for `Recipe.read`."""
        return write_toml(self.model_dump(mode="json", exclude_none=True))

    def asked(self) -> dict[str, Any]:
        """Old name of `overrides`."""
        return self.overrides()

    def resolved(self) -> ResolvedRecipe:
        """Old name of `resolve`."""
        return self.resolve()


class ResolvedRecipe(Recipe):
    """A recipe in which no setting is None; see `Recipe.resolve`."""

    picture: ResolvedInput
    train: ResolvedTrain

    @property
    def preprocessing(self) -> Preprocessing:
        """Return the preprocessing of a picture for the model."""
        from bestiary.preprocess import Preprocessing

        return Preprocessing(self.picture.size, self.picture.fit, self.limits)
