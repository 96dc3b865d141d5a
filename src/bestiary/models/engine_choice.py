"""Choice of the engine and precision of feature extraction: the fastest that agrees with float32, measured once.

Which is faster depends on the processor: bfloat16 takes half the time of float32 on one with fast instructions for it,
and 1.6 times as long on another (docs/processors.md). Results are remembered in the cache folder by processor, versions
and graph.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from filelock import FileLock

from bestiary.array_types import Float32s, Pixels
from bestiary.context import Context
from bestiary.errors import MachineError, RecipeError, RunError
from bestiary.files import cache_folder, read_json, write_json
from bestiary.install_command import install_command
from bestiary.machine import available_cores
from bestiary.models.accelerators import Accelerator, explain_unavailable, find_accelerator, require_accelerator
from bestiary.models.device_measurement import LARGEST_DIFFERENCES, draw_test_images, measure_device
from bestiary.models.engine import (
    ENGINE_TITLES,
    ISA_LIMITS,
    Engine,
    EngineChoice,
    OnnxRuntimeEngine,
    Precision,
    engine_version,
    has_bfloat16,
    has_openvino,
    make_engine,
    run_batch,
)
from bestiary.models.onnx_surgery import add_global_pool
from bestiary.processor import read_processor
from bestiary.recipe_sections import FeaturesConfig
from bestiary.telemetry import import_openvino

FOLDER = "engines"  # in the cache folder
OPENVINO, BFLOAT16 = EngineChoice("openvino", "float32"), EngineChoice("openvino", "bfloat16")
REFERENCE = EngineChoice("onnxruntime", "float32")  # it is always installed; the others are compared with its features
ROUNDS = 5
# What a measured speed counts for. bfloat16 has to be faster by a tenth, so that noise does not choose it. ONNX Runtime
# by a fifth: one thread is measured, and OpenVINO, which runs several batches at once, gains more from further ones.
SPEED_WEIGHTS = {OPENVINO: 1.0, BFLOAT16: 1 / 1.1, REFERENCE: 1 / 1.2}
DEVICE_PRECISIONS: tuple[Precision, ...] = ("float32", "float16")
DEVICE_WEIGHT = 1 / 1.1  # an accelerator has to be faster than all cores by a tenth


@dataclass(frozen=True)
class EngineMeasurement:
    """The measurement of an engine in one precision, on one thread, or on an accelerator.

    difference: of its features from those of ONNX Runtime in float32, relative, in the L2 norm. error: why it cannot
    be used; empty if it can. batch_size: of an accelerator, the fastest; 0 for a processor.
    """

    choice: EngineChoice
    pictures_per_second: float
    difference: float
    error: str = ""
    batch_size: int = 0


@dataclass(frozen=True)
class EngineRecord:
    """The measurements of a backbone graph on one computer: its processor and the versions of its engines.

    accelerator: its name and driver; empty if it was not measured.
    """

    processor: str
    versions: dict[str, str]
    graph: str
    measurements: tuple[EngineMeasurement, ...]
    accelerator: str = ""

    @classmethod
    def read(cls, path: Path) -> EngineRecord | None:
        """Return the record in a file; None if there is none, if it is damaged, or if it has no usable engine."""
        try:
            values = read_json(path)
            entries = [entry | {"choice": EngineChoice(**entry["choice"])} for entry in values["measurements"]]
            measurements = tuple(EngineMeasurement(**entry) for entry in entries)
            if all(entry.error for entry in measurements):
                return None
            accelerator = values.get("accelerator", "")
            return cls(values["processor"], values["versions"], values["graph"], measurements, accelerator)
        except (RunError, KeyError, TypeError, ValueError):
            return None

    @property
    def title(self) -> str:
        """The backbone and its input size, such as "lite2-260px"."""
        return "-".join(self.graph.split("-")[1:3])

    def describe(self, choice: EngineChoice) -> str:
        """Return a sentence about the choice and the speeds that it rests on."""
        speeds = [f"{entry.choice} {entry.error or f'{entry.pictures_per_second:.0f}'}" for entry in self.measurements]
        unit = "a second and core (on an accelerator: a second)" if self.accelerator else "a second and core"
        return f"Features by {choice}. Pictures {unit}, measured on this computer: {', '.join(speeds)}."


def choose_engine(graph: Path, size: int, context: Context) -> EngineChoice:
    """Return the engine and the training precision for a backbone graph: as set, else the fastest on this computer.

    graph: from `cached_backbone_graph`; size: of its input in pixels. The nodes of a cluster compute on processors, by
    the choice of this computer. Raises RecipeError if the settings cannot be met here, or with a cluster,
    MissingExtraError if their engine is not installed.
    """
    settings = context.features if context.cluster is None else _settings_on_cluster(context.features)
    if settings.device in ("cuda", "coreml"):
        accelerator: Accelerator | None = require_accelerator(settings.device)
    else:
        accelerator = find_accelerator() if _may_use_accelerator(settings) else None
    if settings.engine == "openvino" or settings.precision == "bfloat16":
        import_openvino()
    if reason := explain_impossible(settings):
        raise RecipeError(
            f'features.precision = "{settings.precision}" is not possible on this computer: {reason}. Set it to'
            ' "auto" or "float32".'
        )
    if settings.precision == "bfloat16":
        return BFLOAT16
    if settings.engine == "onnxruntime" and accelerator is None:
        return REFERENCE
    if settings.engine == "openvino" and settings.precision == "float32":
        return OPENVINO
    return select_engine(_load_or_measure(graph, size, accelerator, context).measurements, settings)


def _settings_on_cluster(settings: FeaturesConfig) -> FeaturesConfig:
    """Return the settings with the processor as the device; RecipeError if another one is asked for."""
    if settings.device in ("auto", "cpu"):
        return settings.model_copy(update={"device": "cpu"})
    raise RecipeError(
        f'features.device = "{settings.device}" is not possible with --cluster: its nodes compute features on their'
        ' processors. Leave out --cluster to use an accelerator of this computer, or set it to "cpu".'
    )


def recorded_batch_size(choice: EngineChoice, graph: Path, cache: Path) -> int | None:
    """Return the batch size that was measured to be the fastest on an accelerator; None if none was."""
    if choice.device == "cpu":
        return None
    entries = (entry for record in iter_records(cache) if record.graph == graph.stem for entry in record.measurements)
    return next((entry.batch_size for entry in entries if entry.choice == choice and entry.batch_size), None)


def _may_use_accelerator(settings: FeaturesConfig) -> bool:
    return settings.device == "auto" and settings.engine != "openvino" and settings.precision != "bfloat16"


def explain_impossible(settings: FeaturesConfig) -> str | None:
    """Return why this computer cannot compute features with these settings, and None if it can."""
    if settings.device in ("cuda", "coreml"):
        return explain_unavailable(settings.device) or None
    if settings.precision == "float16" and find_accelerator() is None:
        return "float16 is computed on an accelerator, and there is none (`bestiary doctor` says why)"
    if (settings.engine == "openvino" or settings.precision == "bfloat16") and not has_openvino():
        return f"OpenVINO is not installed; add it with: {install_command('train')}"
    if settings.precision == "bfloat16" and not has_bfloat16():
        return f"its processor, {describe_processor()}, has no instructions for bfloat16"
    return None


def select_engine(measurements: Sequence[EngineMeasurement], settings: FeaturesConfig) -> EngineChoice:
    """Return the fastest of the measured engines that the settings allow and whose features agree with float32.

    Raises RecipeError, with the reasons, if there is none.
    """
    allowed = [
        entry
        for entry in measurements
        if settings.engine in ("auto", entry.choice.engine)
        and settings.precision in ("auto", entry.choice.precision)
        and settings.device in ("auto", entry.choice.device)
    ]
    # Validation features are float32: a device that is wrong in float32 is not used at all.
    wrong = {entry.choice.device for entry in measurements if entry.error and entry.choice.precision == "float32"}
    usable = [
        entry
        for entry in allowed
        if not entry.error and not (entry.choice.device != "cpu" and entry.choice.device in wrong)
    ]
    if not usable:
        name = "features.engine" if settings.device in ("auto", "cpu") else "features.device"
        value = settings.engine if name == "features.engine" else settings.device
        entries = allowed if name == "features.engine" else [e for e in measurements if e.choice.device == value]
        reasons = "; ".join(f"{entry.choice}: {entry.error}" for entry in entries if entry.error)
        raise RecipeError(f'{name} = "{value}" fails here: {reasons}. Set it to "auto".')
    return max(usable, key=_weigh_speed).choice


def _weigh_speed(entry: EngineMeasurement) -> float:
    """Return what a measured speed counts for: of a processor that of all cores."""
    if entry.choice.device != "cpu":
        return entry.pictures_per_second * DEVICE_WEIGHT
    return entry.pictures_per_second * SPEED_WEIGHTS[entry.choice] * available_cores()


def fastest_float32_engine(model: Path | bytes, *, threads: int) -> Engine:
    """Return the engine for many pictures in float32: OpenVINO, if installed and not measured to be the slower one.

    ONNX Runtime runs a graph that OpenVINO cannot load, such as one of a backbone with operations that it lacks.
    """
    if not has_openvino():
        return OnnxRuntimeEngine(model, threads=threads)
    settings = FeaturesConfig(precision="float32", device="cpu")
    measured = {select_engine(record.measurements, settings) for record in iter_records(cache_folder())}
    try:
        return make_engine(REFERENCE if measured == {REFERENCE} else OPENVINO, model, threads=threads)
    except RunError:
        return OnnxRuntimeEngine(model, threads=threads)


def iter_records(cache: Path) -> Iterator[EngineRecord]:
    """Yield the records of this processor with the installed versions, in the cache folder."""
    processor, versions = describe_processor(), engine_versions()
    for path in sorted((cache / FOLDER).glob("*.json")):
        record = EngineRecord.read(path)
        if record is not None and (record.processor, record.versions) == (processor, versions):
            if record.accelerator and record.accelerator != str(find_accelerator()):
                continue
            yield record


def describe_processor() -> str:
    """Return the processor, and the limit of oneDNN's instruction sets if the environment sets one."""
    limits = [f"{name}={os.environ[name]}" for name in ISA_LIMITS if os.environ.get(name)]
    return ", ".join([str(read_processor()), *limits])


def engine_versions() -> dict[str, str]:
    """Return the versions of the installed engines, by package."""
    names = [name for name in ENGINE_TITLES if name != "openvino" or has_openvino()]
    return {name: engine_version(name) for name in names}


def measure_engines(graph: bytes, images: Pixels) -> tuple[EngineMeasurement, ...]:
    """Return the measurements of every installed engine in every precision of this processor, in under a second.

    graph: with an output `features`; images: uint8 (1, size, size, 3). Each engine runs on one thread, in turns, and
    its best time counts: another program on a core does not decide.
    """
    engines, errors = dict[EngineChoice, Engine](), list[EngineMeasurement]()
    for choice in _candidates():
        try:
            engines[choice] = make_engine(choice, graph, threads=1)
        except RunError as error:
            errors.append(EngineMeasurement(choice, 0.0, 0.0, str(error)))
    features = {choice: run_batch(engine, images)["features"] for choice, engine in engines.items()}  # warms up as well
    seconds = dict.fromkeys(engines, float("inf"))
    for _ in range(ROUNDS):
        for choice, engine in engines.items():
            began = time.perf_counter()
            run_batch(engine, images)
            seconds[choice] = min(seconds[choice], time.perf_counter() - began)
    reference = features[REFERENCE]
    return (*(_measurement(choice, seconds[choice], features[choice], reference) for choice in engines), *errors)


def _candidates() -> list[EngineChoice]:
    if not has_openvino():
        return [REFERENCE]
    return [OPENVINO, BFLOAT16, REFERENCE] if has_bfloat16() else [OPENVINO, REFERENCE]


def _measurement(choice: EngineChoice, seconds: float, features: Float32s, reference: Float32s) -> EngineMeasurement:
    difference = float(np.linalg.norm(features - reference) / np.linalg.norm(reference))
    limit = LARGEST_DIFFERENCES[choice.precision]
    error = "" if difference <= limit else f"features differ from float32 by {difference:.2g}, more than {limit:g}"
    return EngineMeasurement(choice, round(1 / seconds, 1), difference, error)


def find_record(graph: Path, context: Context, accelerator: Accelerator | None = None) -> EngineRecord | None:
    """Return the record of a backbone graph on this computer, None if it was not measured."""
    return EngineRecord.read(_record_path(graph, context, accelerator))


def _record_path(graph: Path, context: Context, accelerator: Accelerator | None) -> Path:
    device = [] if accelerator is None else [str(accelerator)]
    content = json.dumps([describe_processor(), engine_versions(), graph.stem, *device])
    return context.require_cache() / FOLDER / f"{hashlib.sha256(content.encode()).hexdigest()[:16]}.json"


def _measure_accelerator(
    graph: bytes, size: int, accelerator: Accelerator, *, threads: int
) -> tuple[EngineMeasurement, ...]:
    """Return the measurements of a graph on an accelerator, in each precision."""
    images = draw_test_images(size)
    expected = {"features": run_batch(OnnxRuntimeEngine(graph, threads=threads), images)["features"]}
    entries = []
    for precision in DEVICE_PRECISIONS:
        result = measure_device(graph, accelerator, precision, images, expected, threads=threads)
        choice, difference = EngineChoice("onnxruntime", precision, accelerator.device), result.differences
        speed, batch_size = result.pictures_per_second, result.batch_size
        entries.append(EngineMeasurement(choice, speed, difference.get("features", 0.0), result.error, batch_size))
    return tuple(entries)


def _load_or_measure(graph: Path, size: int, accelerator: Accelerator | None, context: Context) -> EngineRecord:
    """Return the record of a graph on this computer, measured and written if there is none.

    One process measures at a time, and the others take its result: a search in several processes computes one kind of
    features.
    """
    if (record := find_record(graph, context, accelerator)) is not None:
        return record
    with _measurement_lock(context.require_cache()):
        if (record := find_record(graph, context, accelerator)) is not None:
            return record
        measurements = measure_engines(add_global_pool(graph), draw_test_images(size, 1))
        if accelerator is not None:
            threads = context.threads
            measurements += _measure_accelerator(add_global_pool(graph), size, accelerator, threads=threads)
        device = "" if accelerator is None else str(accelerator)
        record = EngineRecord(describe_processor(), engine_versions(), graph.stem, measurements, device)
        write_json(_record_path(graph, context, accelerator), asdict(record))
    context.reporter.info(record.describe(select_engine(measurements, context.features)))
    return record


@contextlib.contextmanager
def _measurement_lock(cache: Path) -> Iterator[None]:
    """Lock measuring for all processes that use this cache folder. Raises MachineError if it cannot be written."""
    path = cache / "locks" / "engines.lock"
    lock = FileLock(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except OSError as error:
        raise MachineError(f"Cannot write {path}: {error.strerror or error}.") from None
    try:
        yield
    finally:
        lock.release()
