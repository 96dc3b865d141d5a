"""Sections of a recipe: settings of data, pictures, model, features, training and evaluation."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from bestiary.class_thresholds import ThresholdEntry, check_thresholds
from bestiary.costs import CostEntry, check_entries
from bestiary.group_rules import check_group_rule, check_site_rule
from bestiary.machine import FeatureDevice, TrainDevice

Method = Literal["probe", "finetune", "scratch"]
Fit = Literal["squash", "letterbox", "crop"]
Normalise = Literal["collection", "backbone", "none"]
Optimiser = Literal["sgd", "adamw", "muon"]
Schedule = Literal["one-cycle", "cosine", "constant"]
Activation = Literal["relu", "leaky-relu", "elu", "silu", "gelu", "tanh"]
CropRule = Literal["none", "boxes"]
SplitParts = Literal["auto", "keep", "draw-test", "resplit"]
FeatureEngine = Literal["auto", "openvino", "onnxruntime"]
FeaturePrecision = Literal["auto", "float32", "bfloat16", "float16"]
InputLayout = Literal["auto", "nchw", "nhwc"]
FeatureLayout = Literal["auto", "nchw", "nhwc", "tokens", "vector"]
TokenPooling = Literal["mean", "class-token"]
ChannelOrder = Literal["auto", "rgb", "bgr"]
SyncBatchNorm = Literal["auto", "on", "off"]
Balance = Literal["none", "class-weights", "oversample", "balanced-sampler", "logit-adjusted"]
Turn = Literal["none", "quarters", "any"]
Policy = Literal["none", "trivial"]
Teacher = Literal["none", "lite0", "lite1", "lite2"]
ProbeViews = Literal["none", "mirror", "quarters"]

METHODS: tuple[str, ...] = get_args(Method)
BACKBONE_SIZES, SCRATCH_SIZE = {"lite0": 224, "lite1": 240, "lite2": 260}, 128


@dataclass(frozen=True)
class Expectation:
    """A condition on a value, and what it expects in words. Called as a validator, it raises ValueError."""

    condition: Callable[[Any], Any]
    text: str

    def __call__(self, value: Any) -> Any:
        """Return the value; raise ValueError "expected `text`" unless the condition holds."""
        if not self.condition(value):
            raise ValueError(f"expected {self.text}")
        return value


def _expect(condition: Callable[[Any], Any], text: str) -> AfterValidator:
    return AfterValidator(Expectation(condition, text))


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
Colours = Annotated[
    tuple[float, ...], _AsTuple, _expect(lambda values: len(values) in (0, 1, 3), "one number, or one for each channel")
]
Thresholds = Annotated[tuple[ThresholdEntry, ...], _AsPairs, AfterValidator(check_thresholds)]


class Section(BaseModel):
    """The base of all sections: frozen, without unknown settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)


class DataConfig(Section):
    """The pictures and their split."""

    classes: tuple[str, ...] = Field((), description="use only these labels; empty: all")
    label_depth: int = Field(1, ge=1, le=10, description="labels are the names of the folders at this level")
    min_per_class: int = Field(10, ge=3, description="a class with fewer pictures is an error")
    split: SplitParts = Field(
        "auto", description="what becomes of existing splits; auto: without a test split, val is the test split"
    )
    val_fraction: float = Field(0.15, gt=0, lt=0.5, description="fraction of the pictures for validation")
    test_fraction: float = Field(0.15, gt=0, lt=0.5, description="fraction of the pictures for the test")
    folds: Folds = Field(0, description="folds of cross-validation; 0: one test split")
    near_duplicates: bool = Field(True, description="keep near-duplicates in the same split")
    group: GroupRuleText = Field(
        "auto", description="pictures that stay in one split; auto: the groups or sequences of a source"
    )
    site: SiteRuleText = Field("none", description="camera sites, which stay in one split")
    crop: CropRule = Field("none", description="boxes: a row is a box of a picture, and shows that part of it only")
    suspects: bool = Field(True, description="look for label errors, outliers and shortcuts")
    near_duplicate_bits: int = Field(40, ge=0, le=64, description="largest distance of near-duplicates, of 256 bits")


class InputConfig(Section):
    """Decoding and preprocessing of a picture."""

    size: int | None = Field(None, ge=32, le=1024, description="side of the square that the model sees, in pixels")
    fit: Fit = Field("squash", description="how a picture becomes a square: stretched, padded, or its middle")
    normalise: Normalise | None = Field(
        None, description="mean and deviation of the collection or of the backbone; none: values from 0 to 1"
    )
    max_pixels: int = Field(80_000_000, ge=1, le=170_000_000, description="pictures with more pixels are not decoded")
    max_bytes: int = Field(100_000_000, ge=1, description="files with more bytes are not read")


class ModelConfig(Section):
    """Method, backbone and network."""

    method: Method = Field(
        "probe",
        description="probe: a linear head on a frozen backbone; finetune: its last stages too; scratch: a new network",
    )
    backbone: str = Field(
        "lite2", description="lite0, lite1, lite2, timm:NAME; for probe also FILE.onnx, or several to choose from"
    )
    weights: str = Field("bundled", description='"bundled", "hub" (downloads them), or the path of a file')
    network: Literal["resnet", "plain"] = Field(
        "resnet", description="resnet: a residual network; plain: a sequence of convolutions"
    )
    filters: Counts = Field((), description="filters of each stage; empty: the network's default")
    mirror_mean: bool = Field(True, description="average the answers to the picture and its mirror image")
    kernel_size: KernelSizes = Field(
        (3,), description="size of the kernels of each stage; the last also holds for later stages"
    )
    batch_norm: bool = Field(False, description="batch normalisation after each convolution")
    pooling: Literal["max", "average"] = Field("max", description="pooling after each stage")
    activation: Activation = Field("relu", description="activation after each convolution; dense layers use relu")
    stage_dropout: float = Field(0.0, ge=0, lt=1, description="dropout after each stage")
    hidden: Widths = Field((128,), description="widths of the dense layers")
    dropout: float = Field(0.5, ge=0, lt=1, description="dropout after each dense layer")


class FeaturesConfig(Section):
    """Feature extraction by the backbone."""

    engine: FeatureEngine = Field(
        "auto", description="engine of training and audit features; auto: the fastest on this computer, measured once"
    )
    precision: FeaturePrecision = Field(
        "auto", description="precision of training and audit features; elsewhere float32"
    )
    device: FeatureDevice = Field(
        "auto", description="device of features; auto: an accelerator that is faster here and agrees with cpu"
    )

    @model_validator(mode="after")
    def _check_engine(self) -> Self:
        if self.engine == "onnxruntime" and self.precision == "bfloat16":
            raise ValueError('only the engine "openvino" computes in bfloat16')
        if self.device in ("cuda", "coreml") and (self.engine == "openvino" or self.precision == "bfloat16"):
            raise ValueError(f'the device "{self.device}" is used by the engine "onnxruntime", in float32 or float16')
        if self.precision == "float16" and (self.engine == "openvino" or self.device == "cpu"):
            raise ValueError('float16 is computed on the devices "cuda" and "coreml" only')
        return self


class OnnxConfig(Section):
    """How the graph of `model.backbone = "FILE.onnx"` takes pictures, and which of its tensors are the features.

    The input of the graph is (pixel / 255 * white - mean) / std. What is open is read from the graph, its metadata and
    the `preprocessor_config.json` beside it.
    """

    layout: InputLayout = Field("auto", description="layout of the input; auto: by where its 3 channels are")
    channel_order: ChannelOrder = Field(
        "auto", description="channel order of the input; auto: by the metadata, else rgb"
    )
    white: float = Field(0, ge=0, description="value of a white pixel before mean and std: 1 or 255; 0: read")
    mean: Colours = Field((), description="subtracted from the input, in the order of the graph's channels")
    std: Annotated[Colours, _Positive] = Field(
        (), description="divides the input, in the order of the graph's channels"
    )
    output: str = Field("", description="tensor with the features: an output, or one inside; empty: the only output")
    output_layout: FeatureLayout = Field(
        "auto", description="layout of the features; tokens: (n, t, c); vector: (n, c)"
    )
    prefix_tokens: int = Field(
        -1, ge=-1, description="tokens before the patches: class token, registers; -1: 0 or 1, by their number"
    )
    pooling: TokenPooling = Field("mean", description="features of tokens: the mean of the patches, or the class token")


class ProbeConfig(Section):
    """The linear head on frozen features."""

    regularisation: Strengths = Field(
        (), description="inverse strengths C to choose from; empty: 4 to 1,200 / training pictures"
    )
    views: ProbeViews = Field(
        "none", description="training pictures also mirrored, or turned by 90, 180 and 270 degrees"
    )


class AugmentConfig(Section):
    """Random augmentation of training pictures; 0 turns a part off.

    From scratch it is stronger: see `defaults`.
    """

    mirror: float = Field(0.5, ge=0, le=1, description="probability of a horizontal flip")
    crop_min_area: float = Field(0.5, gt=0, le=1, description="smallest area fraction of a random crop; 1 turns it off")
    colour_jitter: float = Field(0.2, ge=0, le=1, description="strength of brightness, contrast and saturation changes")
    erasing: float = Field(0.0, ge=0, le=1, description="probability of an erased rectangle")
    vertical_mirror: float = Field(0.0, ge=0, le=1, description="probability of a vertical flip")
    turn: Turn = Field("none", description="random turns; quarters: by 0, 90, 180 or 270 degrees; any: by any angle")
    policy: Policy = Field("none", description="trivial: TrivialAugment, which changes colours itself")

    @property
    def is_off(self) -> bool:
        """Whether pictures are shown as they are."""
        parts = self.mirror, self.vertical_mirror, 1 - self.crop_min_area, self.colour_jitter, self.erasing
        return max(parts) == 0 and self.turn == self.policy == "none"


class TrainConfig(Section):
    """The training loop, for scratch and finetune."""

    epochs: int | None = Field(None, ge=1, le=10_000, description="passes over the training pictures")
    batch_size: int = Field(64, ge=1, le=4096, description="pictures in each step")
    learning_rate: float | None = Field(None, gt=0, description="highest learning rate of the schedule")
    weight_decay: float | None = Field(
        None, ge=0, description="weight decay of matrices and filters; biases and norms have none"
    )
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of sgd and muon; for adamw its first beta")
    label_smoothing: float = Field(0.1, ge=0, lt=1, description="probability that the loss spreads over all classes")
    optimiser: Optimiser | None = Field(None, description="optimiser of the network")
    schedule: Schedule | None = Field(None, description="schedule of the learning rate")
    warmup_epochs: float | None = Field(None, ge=0, description="epochs in which the learning rate rises")
    patience_epochs: int | None = Field(
        None, ge=1, description="epochs without a better validation macro-F1 until training stops"
    )
    balance: Balance = Field(
        "none", description="how training makes up for unequal classes; balanced-sampler is not for probe"
    )
    unfreeze_stages: int = Field(1, ge=0, description="number of last stages of the backbone that are trained")
    views: int = Field(
        3, ge=1, description="copies of a picture with a bundled backbone: plain, mirrored, the rest augmented"
    )
    distill: Teacher = Field("none", description="backbone whose features the network learns beside the classes")
    distill_weight: float = Field(6.0, gt=0, le=100, description="weight of the loss of these features")
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="precision of training; auto: the faster one"
    )
    device: TrainDevice = Field(
        "auto", description="device that the network is trained on; auto: cuda, mps or cpu, the first there is"
    )
    size_from: int | None = Field(None, ge=16, description="size of training pictures in the first epochs, in pixels")
    size_to: int | None = Field(None, ge=16, description="size of training pictures in the last epochs, in pixels")
    checkpoint_seconds: float = Field(240.0, gt=0, description="seconds between checkpoints within an epoch")
    sync_batch_norm: SyncBatchNorm = Field(
        "auto", description="batch normalisation over all workers together; auto: below 32 pictures a worker"
    )


class EvaluateConfig(Section):
    """Evaluation of the model."""

    resamples: int = Field(2000, ge=100, le=100_000, description="bootstrap resamples of each interval")
    coverage: float = Field(0.95, gt=0, le=1, description="fraction of in-distribution pictures that are not rejected")
    costs: Costs = Field((), description="costs of mistakes; empty: the label is the most probable class")
    thresholds: Thresholds = Field((), description="precision on validation from which a class is answered")
    learning_curve: Literal["auto", "on", "off"] = Field(
        "auto", description="gain from more pictures; auto: if the features of the probe are cached"
    )
    prove: Literal["sample", "all"] = Field(
        "sample", description="test pictures of a probe that are predicted again from their files: 200, or all"
    )


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
