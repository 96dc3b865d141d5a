"""Absolute figures of an accelerator beside the same machine's processors and plain PyTorch, in under 8 minutes.

    python benchmarks/gpu.py [PICTURES] [--count 4000] [--seconds 380] [--out FILE.json]

Without PICTURES, 500 x 375 JPEGs are drawn, whose decoding takes as long as that of photographs. Pictures a second of:
features of a probe (lite2, 260 px) from files and from decoded arrays, an epoch from scratch (128 px), an epoch of
fine-tuning (lite0, 224 px, every stage), predictions over files; decoding alone is their limit. Plain PyTorch is a
DataLoader with a worker for each core, which decodes in every epoch, in float16 (inference) or bfloat16 (training) by
autocast on a GPU and float32 on a processor. Processors take fewer pictures. A part for which no time is left says so;
without an accelerator only the processors' figures are printed, and the reason.
"""

from __future__ import annotations

import hashlib
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import onnx
import timm
import torch
from PIL import Image
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from bestiary.array_types import Ints
from bestiary.batches.decoding import decode_ahead
from bestiary.context import Context
from bestiary.export.finalize import FinalModel, save_model
from bestiary.export.graph import OutputCalibration
from bestiary.inference.predictor import Predictor
from bestiary.machine import Device, FeatureDevice, TrainDevice, available_cores
from bestiary.models.accelerators import explain_unavailable, find_accelerator
from bestiary.models.backbones import bundled_backbone
from bestiary.models.device_measurement import draw_test_images
from bestiary.models.features import FeatureCache, training_feature_cache
from bestiary.models.head import Head
from bestiary.models.networks import Network, finetune_network, small_resnet
from bestiary.preprocess import Preprocessing
from bestiary.progress import SilentReporter
from bestiary.recipe_sections import AugmentConfig, FeaturesConfig
from bestiary.training.device import choose_device, describe_device, explain_no_torch_device
from bestiary.training.loop import LoopControl, LoopSettings, ValidationMetrics, fit
from measuring import build_parser, list_picture_files, read_processor_name, read_versions
from pipeline import build_reader
from plain_training import Files as TrainingFiles

LITE2, LITE0_SIZE, SCRATCH_SIZE = Preprocessing(260), 224, 128
CLASSES, EPOCHS, BATCH = 10, 3, 64
PROCESSOR_COUNT, PROCESSOR_TRAINING_COUNT = 256, 128  # pictures that the processors get
LEAST_SECONDS = 60  # a part is not begun with less time left
PART_SECONDS = 20  # after which a part ends with what it has done; an epoch that has begun is finished by bestiary
JPEG_SIZE = (500, 375)


NETWORKS: tuple[tuple[str, int, Callable[[], Network]], ...] = (
    ("scratch, epoch", SCRATCH_SIZE, partial(small_resnet, CLASSES)),
    ("fine-tuning, epoch", LITE0_SIZE, partial(finetune_network, CLASSES, "lite0")),
)


class Messages(SilentReporter):
    """Prints what is said, so that a device that fails does not pass for one that works."""

    def info(self, text: str) -> None:
        print(f"  # {text}", flush=True)


@dataclass
class Table:
    """The figures; each part runs unless the time is up."""

    end: float
    rows: list[dict[str, Any]] = field(default_factory=list)

    def add(self, part: str, how: str, device: str, measure: Callable[[], float]) -> None:
        row: dict[str, Any] = {"part": part, "how": how, "device": device}
        if time.perf_counter() > self.end - LEAST_SECONDS:
            row["skipped"] = "no time left"
        else:
            began = time.perf_counter()
            row["pictures_per_second"] = round(measure(), 1)
            row["seconds"] = round(time.perf_counter() - began, 1)
        self.rows.append(row)
        value = (
            row.get("skipped") or f"{row['pictures_per_second']:10.1f} pictures a second ({row['seconds']} s in all)"
        )
        print(f"{part:22} {how:26} {device:5} {value}", flush=True)


def main() -> None:
    began = time.perf_counter()
    parser = build_parser(__doc__)
    parser.add_argument("pictures", type=Path, nargs="?")
    parser.add_argument("--count", type=int, default=4000)
    parser.add_argument("--seconds", type=float, default=380)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    table, facts = Table(began + arguments.seconds), describe_machine()
    print("\n".join(f"{name}: {value}" for name, value in facts.items()), flush=True)
    with tempfile.TemporaryDirectory(prefix="bestiary-gpu-") as temporary:
        folder = Path(temporary)
        files = list_files(arguments.pictures, folder / "pictures", arguments.count)
        few = files[:PROCESSOR_COUNT]
        accelerator = find_accelerator()
        features: list[tuple[FeatureDevice, list[Path]]] = [("cpu", few)]
        features += [] if accelerator is None else [(accelerator.device, files)]
        trained: list[tuple[TrainDevice, list[Path]]] = [("cpu", few[:PROCESSOR_TRAINING_COUNT])]
        if (name := choose_device().type) != "cpu":
            trained.append((cast("TrainDevice", name), files))

        table.add("decoding alone", "bestiary, 260 px", "cpu", partial(decode, few))
        run = write_run(folder / "run")
        for device, paths in reversed(features):  # the accelerator first: it is what may lack time
            cache = folder / f"features-{device}"
            table.add("features, arrays", "bestiary", device, partial(features_of_arrays, device, cache))
            table.add("features, files", "bestiary", device, partial(features_of_files, paths, device, cache))
            table.add("predict, files", "bestiary", device, partial(predict, run, paths, device))
        for kind, paths in reversed(trained):
            table.add("features and predict", "PyTorch, DataLoader", kind, partial(plain_predict, paths, kind))
        for part, size, build in NETWORKS:
            for kind, paths in reversed(trained):
                table.add(part, "bestiary", kind, partial(train, paths, size, build, kind, folder))
                table.add(part, "PyTorch, DataLoader", kind, partial(plain_train, paths, size, build, kind))
    print_ratios(table.rows)
    print(f"{time.perf_counter() - began:.0f} s in all")
    if arguments.out is not None:
        arguments.out.write_text(json.dumps({"machine": facts, "figures": table.rows}, indent=1), encoding="utf-8")


def describe_machine() -> dict[str, str]:
    """Return what the figures belong to; "no accelerator" with the reason where there is none."""
    accelerator, device = find_accelerator(), choose_device()
    missing = {name: explain_unavailable(name) for name in ("cuda", "coreml")}
    versions = read_versions(("onnxruntime", "onnxruntime-gpu", "torch", "timm", "openvino"))
    return {
        "processor": f"{read_processor_name()}, {available_cores()} cores",
        "accelerator of ONNX Runtime": str(accelerator or f"no accelerator: {missing}"),
        "accelerator of torch": describe_device(device)
        if device.type != "cpu"
        else f"no accelerator: {explain_no_torch_device('cuda')}",
        "versions": ", ".join(f"{name} {value}" for name, value in versions.items()),
    }


def list_files(pictures: Path | None, folder: Path, count: int) -> list[Path]:
    """Return `count` files of the collection in random order, or drawn ones."""
    if pictures is not None:
        found = list_picture_files(pictures)
        return [found[row] for row in np.random.default_rng(0).permutation(len(found))[:count]]
    folder.mkdir()
    rng, paths = np.random.default_rng(0), []
    for number in range(count):
        small = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize(
            JPEG_SIZE, Image.Resampling.BICUBIC
        )
        grain = rng.integers(-12, 13, (*JPEG_SIZE[::-1], 1))
        paths.append(folder / f"{number:05}.jpg")
        Image.fromarray(np.clip(np.asarray(small) + grain, 0, 255).astype(np.uint8)).save(paths[-1], quality=88)
    return paths


def rate(counts: Iterable[int]) -> float:
    """Return pictures a second of the numbers of pictures that come back, until the part's time is up."""
    began, total = time.perf_counter(), 0
    for count in counts:
        total += count
        if time.perf_counter() > began + PART_SECONDS:
            break
    return total / (time.perf_counter() - began)


def decode(paths: list[Path]) -> float:
    return rate(1 for _ in decode_ahead(paths, LITE2, threads=available_cores()))


# ---- bestiary -------------------------------------------------------------------------------------------------------
def feature_cache(device: FeatureDevice, cache: Path) -> FeatureCache:
    context = Context(cache=cache, features=FeaturesConfig(device=device), reporter=Messages())
    return training_feature_cache(bundled_backbone("lite2"), LITE2, context)


def features_of_arrays(device: FeatureDevice, cache: Path) -> float:
    """Of the graph alone; the measurement that chooses engine and precision is before it."""
    features = feature_cache(device, cache)
    engine = features.load_engine()
    images = np.resize(draw_test_images(260), (max(engine.batch_size, 16), 260, 260, 3))
    batches = [images] * max(1, (4096 if device != "cpu" else PROCESSOR_COUNT) // len(images))
    for _ in engine.stream(batches[:2]):  # warms up
        pass
    return rate(len(outputs["features"]) for outputs in engine.stream(batches))


def features_of_files(paths: list[Path], device: FeatureDevice, cache: Path) -> float:
    features = feature_cache(device, cache)
    keys = [hashlib.sha256(path.read_bytes()).hexdigest() for path in paths]
    began = time.perf_counter()
    features.features(paths, keys)
    return len(set(keys)) / (time.perf_counter() - began)


def write_run(run: Path) -> Path:
    """Write a lite2 model with a random head: predictions take as long as those of a trained one."""
    context = Context(cache=run.parent / "graphs")
    graph = FeatureCache(bundled_backbone("lite2"), LITE2, "float32", context).graph
    weight = np.random.default_rng(0).normal(0, 0.02, (CLASSES, 1280)).astype(np.float32)
    head = Head(weight, np.zeros(CLASSES, np.float32), "average")
    names = tuple(f"class {number}" for number in range(CLASSES))
    calibration = OutputCalibration(temperature=1.0, energy_mean=0.0, energy_scale=1.0)
    run.mkdir()
    save_model(FinalModel(onnx.load(str(graph)), head, calibration, 0.5, 0.95, names, LITE2, "probe", "lite2"), run)
    return run


def predict(run: Path, paths: list[Path], device: FeatureDevice) -> float:
    predictor = Predictor(run, engine="fastest", device=device, reporter=Messages())
    return rate(1 for _ in predictor.predict_many(paths))


def train(paths: list[Path], size: int, build: Callable[[], Network], device: TrainDevice, folder: Path) -> float:
    """Return the median rate of the epochs after the first; the pixels are decoded before."""
    labels: Ints = np.arange(len(paths), dtype=np.int64) % CLASSES
    with tempfile.TemporaryDirectory(dir=folder) as run:
        read = build_reader(paths, Preprocessing(size))
        end = time.perf_counter() + PART_SECONDS
        control = LoopControl(device=device, should_continue=lambda _: time.perf_counter() < end)
        validation = ValidationMetrics(1.0, 0.5)
        job = build(), read, labels, lambda _: validation, SETTINGS, AugmentConfig(), Path(run), control
        rates = [line["images_per_second"] for line in fit(*job).history]
        return float(statistics.median(rates[1:] or rates))


SETTINGS = LoopSettings(
    epochs=EPOCHS,
    batch_size=BATCH,
    learning_rate=0.05,
    weight_decay=5e-4,
    momentum=0.9,
    label_smoothing=0.1,
    schedule="one-cycle",
    warmup_epochs=1,
    patience_epochs=EPOCHS,
    seed=0,
    threads=available_cores(),
)


# ---- Plain PyTorch --------------------------------------------------------------------------------------------------
class PredictionFiles(Dataset[torch.Tensor]):
    def __init__(self, paths: list[Path]) -> None:
        self._paths = paths
        self._transform = transforms.Compose(
            [
                transforms.Resize((260, 260), interpolation=transforms.InterpolationMode.BICUBIC),
                transforms.ToTensor(),
                transforms.Normalize([0.5] * 3, [0.5] * 3),
            ]
        )

    def __len__(self) -> int:
        return len(self._paths)

    def __getitem__(self, index: int) -> torch.Tensor:
        with Image.open(self._paths[index]) as image:
            pixels: torch.Tensor = self._transform(image.convert("RGB"))
        return pixels


def plain_predict(paths: list[Path], device: Device) -> float:
    model = timm.create_model("tf_efficientnet_lite2", num_classes=CLASSES).eval().to(device)
    loader = DataLoader(PredictionFiles(paths), BATCH, num_workers=available_cores())

    def iter_batches() -> Iterator[int]:
        with torch.inference_mode(), torch.autocast(device, torch.float16, enabled=device != "cpu"):
            for images in loader:
                model(images.to(device, non_blocking=True)).softmax(dim=1).cpu()
                yield len(images)

    return rate(iter_batches())


def plain_train(paths: list[Path], size: int, build: Callable[[], nn.Module], device: Device) -> float:
    """Return the median rate of the epochs after the first, as users see it: decoding included."""
    network = build().train().to(device)
    optimiser = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9, nesterov=True, weight_decay=5e-4)
    data = TrainingFiles(paths, [number % CLASSES for number in range(len(paths))])
    data.transform.transforms[0].size = (size, size)
    loader = DataLoader(
        data, BATCH, shuffle=True, drop_last=True, num_workers=available_cores(), pin_memory=device == "cuda"
    )
    rates = list(iter_plain_epochs(network, optimiser, loader, device))
    return statistics.median(rates[1:] or rates)


def iter_plain_epochs(
    network: nn.Module, optimiser: torch.optim.Optimizer, loader: DataLoader[Any], device: Device
) -> Iterator[float]:
    end = time.perf_counter() + PART_SECONDS
    for _ in range(EPOCHS):
        began, count = time.perf_counter(), 0
        for images, targets in loader:
            with torch.autocast(device, torch.bfloat16, enabled=device != "cpu"):
                logits = network(images.to(device, non_blocking=True))
            loss = functional.cross_entropy(logits.float(), targets.to(device), label_smoothing=0.1)
            optimiser.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimiser.step()
            count += len(targets)
            if time.perf_counter() > end:
                break
        if device == "cuda":
            torch.cuda.synchronize()
        yield count / (time.perf_counter() - began)
        if time.perf_counter() > end:
            return


def print_ratios(rows: list[dict[str, Any]]) -> None:
    """Print each figure of an accelerator as a multiple of the processors' and of plain PyTorch's."""
    speeds = {(row["part"], row["how"], row["device"]): row.get("pictures_per_second") for row in rows}
    for (part, how, device), speed in speeds.items():
        if how != "bestiary" or not speed:
            continue
        others = {
            "the processors": None if device == "cpu" else speeds.get((part, how, "cpu")),
            "plain PyTorch": speeds.get((part, "PyTorch, DataLoader", device))
            or (speeds.get(("features and predict", "PyTorch, DataLoader", device)) if "files" in part else None),
        }
        times = ", ".join(f"{speed / other:.2f} times {name}" for name, other in others.items() if other)
        print(f"{part} on {device}: {times}" if times else f"{part} on {device}: nothing to compare with", flush=True)


if __name__ == "__main__":
    main()
