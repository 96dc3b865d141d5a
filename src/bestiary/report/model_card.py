"""The model card of a run (`README.md`): metadata that the Hugging Face hub reads, then what a user must know.

The metadata is YAML; it is written as JSON, of which YAML is a superset, so that no YAML library is needed. No path of
the machine is in it, and it says which files of the folder hold some.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from bestiary.recipe import BACKBONE_SIZES
from bestiary.report import format, verdict
from bestiary.report.calibration_section import describe_calibration, describe_prediction_sets
from bestiary.report.markdown import escape, format_metric, markdown_table
from bestiary.report.markdown_summary import test_reuse_warning
from bestiary.report.next_steps import summarise_run
from bestiary.report.run_files import RunFiles, run_caveats
from bestiary.text import format_percent
from bestiary.version import __version__

# Our key, the hub's name of the metric, its name for people.
METRICS = (
    ("accuracy", "accuracy", "Accuracy"),
    ("macro_f1", "f1", "Macro-F1"),
    ("macro_precision", "precision", "Macro precision"),
    ("macro_recall", "recall", "Macro recall"),
    ("log_loss", "log_loss", "Log loss"),
    ("brier", "brier_score", "Brier score"),
    ("ece", "ece", "Calibration error (ECE, 15 bins)"),
)
# Files of a run without a path of the machine and without a picture; those that are needed to use the model come first.
MAY_BE_PUBLISHED = (
    "README.md",
    "bundle.json",
    "model.onnx",
    "model.safetensors",
    "metrics.json",
    "classification_report.txt",
    "history.jsonl",
    "learning_curve.json",
    "asked.toml",
    "resolved.toml",
    "report.md",
)
NOT_RATES = ("log_loss", "brier")
USE = """```python
import bestiary

predictor = bestiary.load(".")
for answer in predictor.predict_many(["picture.jpg"]):
    print(answer.label, answer.probability, answer.unknown)
```

or `bestiary predict . picture.jpg`. `model.onnx` takes uint8 RGB pictures (n, height, width, 3) of the size below and
holds normalisation, network, calibration and softmax; it runs in ONNX Runtime alone."""


def model_card(run: RunFiles) -> str:
    """Return the card of a finished run as Markdown with metadata at its top."""
    metadata = json.dumps(card_data(run), indent=2, ensure_ascii=False, allow_nan=False)
    return f"---\n{metadata}\n---\n\n" + "\n\n".join(part for part in _iter_parts(run) if part) + "\n"


def card_data(run: RunFiles) -> dict[str, Any]:
    """Return the metadata, with the scores as the hub's `model-index` (one `EvalResult` for each)."""
    results = [
        {"type": kind, "name": f"{name} (95 % interval {_interval(run.metrics[key])})", "value": _value(run, key)}
        for key, kind, name in METRICS
        if run.metrics.get(key) and format.format_interval(run.metrics[key])
    ]
    data = {"type": "imagefolder", "name": _data_name(run.metrics), "split": str(run.metrics.get("split", "test"))}
    task = {"type": "image-classification", "name": "Image Classification"}
    return {
        "library_name": "bestiary",
        "pipeline_tag": "image-classification",
        "tags": ["bestiary", "onnx", "image-classification"],
        "metrics": ["accuracy", "f1"],
        "model-index": [
            {"name": _printable(run.name), "results": [{"task": task, "dataset": data, "metrics": results}]}
        ],
    }


def _data_name(metrics: Any) -> str:
    """Return what the scores were measured on, and what is to be kept in mind where nothing but the scores is shown."""
    times = metrics.get("test_scored", 1)
    caveats = [
        *(["cross-validated, by other models than this one"] if metrics.get("folds") else []),
        *(["test pictures with duplicates in training"] if metrics.get("leaks") else []),
        *([f"test pictures scored {times} times"] if times >= 2 else []),
    ]
    return "the run's own pictures" + (f" ({'; '.join(caveats)})" if caveats else "")


def _printable(name: str) -> str:
    """Return a name without the characters that YAML refuses."""
    return "".join(letter if letter.isprintable() else "?" for letter in name) or "run"


def _value(run: RunFiles, key: str) -> float:
    return round(float(run.metrics[key]["value"]), 6)


def _interval(metric: Any) -> str:
    return f"{metric['low']:.4f} to {metric['high']:.4f}"


def _iter_parts(run: RunFiles) -> Iterator[str]:
    metrics, bundle, evidence = run.metrics, run.bundle, summarise_run(run)
    labels = metrics["confusion"]["labels"]
    yield f"# {escape(run.name)}"
    yield escape(verdict.verdict(metrics, evidence.n_label_issues))
    yield from (f"> **Note.** {escape(note)}" for note in [*test_reuse_warning(metrics), *run_caveats(run)])
    about = ", ".join(str(part) for part in (bundle.get("method"), bundle.get("backbone")) if part)
    yield (
        f"A picture classifier for {len(labels)} classes"
        + (f" ({escape(about)})" if about else "")
        + f", made with bestiary {run.environment.get('bestiary', __version__)}. Its classes: "
        + ", ".join(escape(label) for label in labels)
        + "."
    )
    yield "## How to use it\n\n" + USE
    yield "## What it is good for, and what not"
    yield "\n".join(f"- {line}" for line in _iter_limits(run))
    yield "## How good it is"
    found = [(name, format_metric(metrics.get(key), is_rate=key not in NOT_RATES)) for key, _, name in METRICS]
    yield markdown_table((f"On {metrics['n']:,} test pictures", "Value (95 % interval)"), found)
    yield markdown_table(
        ("Class", "Precision", "Recall", "F1", "Test pictures", "Learnt from"),
        (
            (
                escape(label),
                *(format_metric(one.get(key), digits=0) for key in ("precision", "recall", "f1")),
                f"{one.get('support', 0):,}",
                f"{evidence.train_counts.get(label, 0):,}",
            )
            for label, one in metrics["per_class"].items()
        ),
    )
    if metrics.get("test_scored", 1) < 2 and not run_caveats(run):
        yield (
            "The test pictures were not used to learn or to choose anything, and duplicates of one picture lie on one"
            " side of the split. Intervals count a group of duplicates as one piece of evidence."
        )
    yield escape(" ".join(part for part in (describe_calibration(metrics), describe_prediction_sets(metrics)) if part))
    yield "## How it was made"
    yield markdown_table(("", ""), _iter_provenance(run))
    yield "## Which files of its folder may be published"
    yield (
        f"No path of a machine and no picture is in {', '.join(f'`{name}`' for name in MAY_BE_PUBLISHED)}; the names of"
        " classes and of folders of pictures are. To use the model, `bundle.json` and `model.onnx` are enough. Do not"
        " publish the other files unread: `environment.json` and the tables (`*.parquet`) hold paths of the machine"
        " that trained it, `report.html` holds such paths and pictures."
    )


def _iter_limits(run: RunFiles) -> Iterator[str]:
    metrics = run.metrics
    yield (
        "It names one of its classes for each picture, with a probability that is calibrated. Pictures unlike those"
        f" that it learnt from are answered “unknown”{_describe_coverage(metrics)}; that is no protection against all of them."
    )
    yield escape(verdict.describe_weakest_class(metrics))
    if said := (metrics.get("slices") or {}).get("sentence"):
        yield escape(said)
    yield (
        "The figures hold for pictures like those of its collection. On pictures from elsewhere a model does worse; by"
        " how much has to be measured: `bestiary evaluate`."
    )
    yield "Do not use it where a wrong answer does harm and nobody looks at it."


def _describe_coverage(metrics: Any) -> str:
    share = (metrics.get("unknown") or {}).get("coverage")
    return "" if share is None else f" ({format_percent(share)} of the test pictures get an answer)"


def _iter_provenance(run: RunFiles) -> Iterator[tuple[str, str]]:
    for key, name in (("method", "Method"), ("backbone", "Backbone"), ("size", "Input, pixels"), ("fit", "Fit")):
        if run.bundle.get(key) is not None:
            yield name, escape(run.bundle[key])
    for key, name in (("temperature", "Temperature"), ("threshold", "Threshold of familiarity")):
        if run.bundle.get(key) is not None:
            yield name, format.format_number(float(run.bundle[key]))
    yield "Training pictures", f"{int((run.pictures['split'] == 'train').sum()):,}"
    if seconds := (run.metrics.get("seconds") or {}).get("total"):
        yield "Time", f"{seconds:.0f} s"
    yield "Recipe", "`resolved.toml`"
    if run.bundle.get("method") != "scratch" and run.bundle.get("backbone") in BACKBONE_SIZES:
        yield "Licence of the backbone", "Apache-2.0 (EfficientNet-Lite, ImageNet)"
