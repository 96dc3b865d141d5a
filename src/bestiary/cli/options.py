"""Options and arguments shared by several commands, and the recipe that they make."""

from __future__ import annotations

import re
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from bestiary.cli import completion
from bestiary.errors import UserError

if TYPE_CHECKING:
    from bestiary.recipe import Recipe


class Method(StrEnum):
    """Training methods."""

    probe = "probe"
    finetune = "finetune"
    scratch = "scratch"


class Split(StrEnum):
    """How given splits are used."""

    auto = "auto"
    keep = "keep"
    draw_test = "draw-test"
    resplit = "resplit"


class Format(StrEnum):
    """Output formats of predictions."""

    table = "table"
    jsonl = "jsonl"
    csv = "csv"
    parquet = "parquet"
    megadetector = "megadetector"
    camtrap_dp = "camtrap-dp"
    label_studio = "label-studio"
    huggingface = "huggingface"
    timelapse = "timelapse"


class ExperimentLog(StrEnum):
    """Libraries that a training is logged with."""

    tensorboard = "tensorboard"
    mlflow = "mlflow"


class Proof(StrEnum):
    """How many test pictures of a probe are predicted again from their files."""

    sample = "sample"
    all = "all"


class CropRule(StrEnum):
    """What a row of the pictures shows."""

    none = "none"
    boxes = "boxes"


class Device(StrEnum):
    """Devices of a job."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    mps = "mps"
    coreml = "coreml"


class PredictionDevice(StrEnum):
    """Devices of features and predictions."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"
    coreml = "coreml"


class ExportKind(StrEnum):
    """Formats of exported models."""

    onnx = "onnx"
    onnx_int8 = "onnx-int8"
    openvino = "openvino"


PICTURES: Any = typer.Argument(
    metavar="PICTURES…", help="One folder per class, split folders, an archive or a table; several are merged."
)
Pictures = Annotated[list[Path], PICTURES]
OptionalPictures = Annotated[list[Path] | None, PICTURES]
RunPath = Annotated[
    Path,
    typer.Argument(
        metavar="RUN", help="A run folder, for example runs/latest.", autocompletion=completion.complete_run
    ),
]
CORRECTIONS_HELP = (
    "Label decisions: sha256,action,label[,note,when,path]; action is keep, drop, relabel, or both (shows two classes)."
)
Corrections = Annotated[Path | None, typer.Option(metavar="FILE.csv", help=CORRECTIONS_HELP)]
Labels = Annotated[str | None, typer.Option(help='Map folder names to labels: "animals10", or a CSV of folder,label.')]
Classes = Annotated[str | None, typer.Option(help="Use only these labels: a,b,c.")]
LabelDepth = Annotated[
    int | None,
    typer.Option(min=1, max=10, help="Folder level of the labels; 2: in animals/cat/1.jpg the label is cat."),
]
FormatOption = Annotated[
    str | None,
    typer.Option(
        "--format",
        metavar="NAME",
        help="Format of PICTURES, for example table; default: recognised.",
        autocompletion=completion.complete_format,
    ),
]
ColumnsOption = Annotated[
    str | None,
    typer.Option(
        "--columns",
        metavar="ROLE=COLUMN,…",
        help="Columns of a table: path=File,label=Species, also split, group, site, time, and"
        " box=left+top+width+height or corners=left+top+right+bottom.",
    ),
]
PicturesFolder = Annotated[
    Path | None,
    typer.Option("--pictures", metavar="FOLDER", help="Folder that the pictures of a table or another file lie in."),
]
BoxesOption = Annotated[
    Path | None,
    typer.Option(
        "--boxes",
        metavar="FILE",
        help="With --crop boxes: a file that has the boxes of the pictures, such as MegaDetector results; default: the"
        " boxes of PICTURES.",
    ),
]
LeaveOut = Annotated[
    str | None,
    typer.Option(
        "--leave-out",
        metavar="NAME,…",
        help="What is no class in camera-trap formats: empty, human, vehicle, unknown, or none; default: unknown.",
        autocompletion=completion.complete_words("empty", "human", "vehicle", "unknown", "none"),
    ),
]
SplitOption = Annotated[
    Split | None,
    typer.Option(
        help="Use of given splits (train, val, test): auto makes val the test split if there is none; keep uses them by"
        " name; draw-test draws a missing test split from train; resplit ignores them."
    ),
]
GroupOption = Annotated[
    str | None,
    typer.Option(
        "--group",
        metavar="RULE",
        help="Pictures that stay in one split: a column, folder, regex:PATTERN (on paths), time:60s (no longer gap in"
        " capture time), none; default: a column group, or the sequences of the format.",
        autocompletion=completion.complete_words("folder", "time:60s", "none"),
    ),
]
SiteOption = Annotated[
    str | None,
    typer.Option(
        "--site",
        metavar="RULE",
        help="Sites, such as cameras, which stay in one split: a column, source (of the format), folder or"
        " regex:PATTERN. The report then compares known sites with new ones.",
        autocompletion=completion.complete_words("source", "folder"),
    ),
]
CropOption = Annotated[
    CropRule | None,
    typer.Option(
        help="boxes: look at each box of a source that has boxes (with a margin, at least 32 pixels) instead of the"
        " whole picture; the boxes of a picture stay in one split."
    ),
]
MethodOption = Annotated[Method | None, typer.Option(help="Training method; probe is fast and needs no torch.")]
Backbone = Annotated[
    str | None,
    typer.Option(
        metavar="NAME,…",
        help="lite0, lite1, lite2, timm:NAME (weights: --set model.weights=FILE or hub), or FILE.onnx for a probe; of"
        " several, the best on validation is chosen.",
        autocompletion=completion.complete_backbone,
    ),
]
RecipeName = Annotated[
    str | None,
    typer.Option(
        help="A TOML file of settings, or a name: original-v1, original-v2.", autocompletion=completion.complete_recipe
    ),
]
CostsOption = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE.csv",
        help="Costs of mistakes: true,predicted,cost (wolf,dog,20; * is any class; others cost 1), or a table. The"
        " label is then the one with the least expected cost.",
    ),
]
ProveOption = Annotated[
    Proof | None,
    typer.Option(
        help="all: score every test picture of a probe from its file, by the exported graph; default: 200 prove it."
    ),
]
ThresholdsOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILE.csv|CLASS=PRECISION,…",
        help="Precision on validation from which on a class is answered (wolf=0.95; * is any class), or a CSV of"
        " class,precision. Below it a picture is unknown.",
    ),
]
Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set",
        help="Override a recipe setting: section.key=value; `bestiary settings` lists them.",
        autocompletion=completion.complete_override,
    ),
]
Seed = Annotated[int | None, typer.Option(min=0, help="Random seed for the split and for training.")]
Port = Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 picks a free one.")]
Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Number of CPU threads; default: all cores; to train networks, the idle cores."),
]
DeviceOption = Annotated[
    Device,
    typer.Option(
        help="Where to compute. auto: an accelerator if it gives the same features and is faster here, else the"
        " processor; cuda: NVIDIA; coreml: Apple, features of a probe; mps: Apple, training of networks. `bestiary"
        " doctor` says what there is."
    ),
]
PredictionDeviceOption = Annotated[
    PredictionDevice,
    typer.Option(
        help="Where to compute. auto: for many pictures an accelerator if it gives the same answers and is faster here,"
        " else the processor; cuda: NVIDIA; coreml: Apple."
    ),
]
ClusterOption = Annotated[
    str | None,
    typer.Option(
        "--cluster",
        metavar="ADDRESS",
        help="Compute on a Ray cluster: local starts one here; auto, HOST:PORT or ray://HOST:PORT join one that runs.",
        autocompletion=completion.complete_words("local", "auto"),
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Hide progress and notices.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the result as one JSON object on stdout.")]


def build_recipe(
    name: str | None,
    settings: list[str] | None,
    *,
    method: Method | None = None,
    backbone: str | None = None,
    classes: str | None = None,
    seed: int | None = None,
    folds: int | None = None,
    label_depth: int | None = None,
    split: Split | None = None,
    costs: Path | None = None,
    group: str | None = None,
    site: str | None = None,
    crop: CropRule | None = None,
    thresholds: str | None = None,
    prove: Proof | None = None,
    device: Device = Device.auto,
) -> Recipe:
    """Return the recipe of a name or file, overridden by `--set`, then by the named options."""
    from bestiary.class_thresholds import read_thresholds
    from bestiary.costs import read_costs
    from bestiary.recipe import Recipe
    from bestiary.recipe_arguments import device_settings
    from bestiary.recipe_files import apply_overrides, load_recipe_values

    values = apply_overrides(load_recipe_values(name) if name else {}, settings or [])
    Recipe.of(values)  # reports errors in the file and `--set` before the options override them
    named: dict[tuple[str, str], Any] = {
        ("model", "method"): method.value if method else None,
        ("model", "backbone"): backbone,
        ("data", "classes"): None if classes is None else parse_names(classes),
        ("data", "folds"): folds,
        ("data", "label_depth"): label_depth,
        ("data", "group"): group,
        ("data", "site"): site,
        ("data", "crop"): crop.value if crop else None,
        ("data", "split"): split.value if split else None,
        ("evaluate", "costs"): None if costs is None else read_costs(costs),
        ("evaluate", "thresholds"): None if thresholds is None else read_thresholds(thresholds),
        ("evaluate", "prove"): prove.value if prove else None,
    }
    for (section, key), value in named.items():
        if value is not None:
            values.setdefault(section, {})[key] = value
    if device != Device.auto:
        for section, value in device_settings(device.value, Recipe.of(values).model.method).items():
            values.setdefault(section, {})["device"] = value
    return Recipe.of(values if seed is None else values | {"seed": seed})


def parse_names(text: str) -> list[str]:
    """Return the labels of a text, separated by commas."""
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UserError(f'--classes takes labels, for example --classes cat,dog; got "{text}".')
    return names


_UNITS = {"h": 3600, "m": 60, "min": 60, "s": 1}
_PART = re.compile(r"(\d+(?:\.\d+)?)\s*(h|min|m|s)", re.IGNORECASE)


def parse_duration(text: str) -> float:
    """Return the seconds of a duration such as `90s`, `10m`, `2h`, `1h30m`; raises UserError for anything else.

    >>> parse_duration("1h30m"), parse_duration("90s")
    (5400.0, 90.0)
    """
    parts = _PART.findall(text)
    normalised = "".join(f"{number}{unit}" for number, unit in parts)
    units = [_UNITS[unit.lower()] for _, unit in parts]
    seconds = sum(float(number) * size for (number, _), size in zip(parts, units, strict=True))
    is_falling = units == sorted(set(units), reverse=True)
    if not parts or not is_falling or seconds <= 0 or normalised != re.sub(r"\s", "", text):
        raise UserError(f'"{text}" is not a duration. Write 90s, 10m, 2h or 1h30m.')
    return seconds
