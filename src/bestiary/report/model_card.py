"""Model card of a run (`README.md`): metadata for the Hugging Face hub, then usage, limits and scores.

The metadata is YAML, written as JSON, of which YAML is a superset, so that no YAML library is needed. The card has no
path of the machine, and lists the files of the folder that have none.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Iterator
from typing import Any

from bestiary.finding_counts import SEVERITY_NAMES
from bestiary.inference.bundle import TEACHER
from bestiary.report import verdict
from bestiary.report.calibration_section import describe_calibration, describe_prediction_sets
from bestiary.report.format import format_interval, format_metric, format_number
from bestiary.report.markdown import escape, markdown_table
from bestiary.report.proof_text import describe_model_proof
from bestiary.report.run_files import RunFiles, run_caveats
from bestiary.report.run_summary import RunSummary, summarise_run
from bestiary.report.threshold_section import iter_threshold_blocks
from bestiary.text import format_percent
from bestiary.tried_backbones import TRIED, describe_tried_backbones
from bestiary.version import __version__

# Key in metrics.json, the hub's name of the metric, its display name.
METRICS = (
    ("accuracy", "accuracy", "Accuracy"),
    ("macro_f1", "f1", "Macro-F1"),
    ("macro_precision", "precision", "Macro precision"),
    ("macro_recall", "recall", "Macro recall"),
    ("log_loss", "log_loss", "Log loss"),
    ("brier", "brier_score", "Brier score"),
    ("ece", "ece", "Calibration error (ECE, 15 bins)"),
)
# Files of a run without paths of the machine and without pictures; those that are needed to use the model come first.
MAY_BE_PUBLISHED = (
    *("README.md", "bundle.json", "model.onnx", "model.safetensors", "metrics.json", "classification_report.txt"),
    *("history.jsonl", "learning_curve.json", "asked.toml", "resolved.toml", "report.md"),
)
RECIPES = ("asked.toml", "resolved.toml")
OLDER_BACKBONES = ("lite0", "lite2")  # of runs before their bundles named the weights
NOT_RATES = ("log_loss", "brier")
USE = """```python
import bestiary

predictor = bestiary.load(".")
for prediction in predictor.predict_many(["picture.jpg"]):
    print(prediction.label, prediction.probability, prediction.unknown)
```

or `bestiary predict . picture.jpg`. `model.onnx` takes uint8 RGB pictures (n, height, width, 3) of the size below and
contains normalisation, network, calibration and softmax; it needs only ONNX Runtime."""


def model_card(run: RunFiles) -> str:
    """Return the card of a finished run as Markdown with a metadata header."""
    metadata = json.dumps(card_data(run), indent=2, ensure_ascii=False, allow_nan=False)
    return f"---\n{metadata}\n---\n\n" + "\n\n".join(part for part in _iter_parts(run) if part) + "\n"


def card_data(run: RunFiles) -> dict[str, Any]:
    """Return the metadata, with the scores as the hub's `model-index` (one `EvalResult` for each)."""
    m = run.metrics
    results = [
        {"type": kind, "name": f"{name} (95 % interval {interval})", "value": round(float(m[key]["value"]), 6)}
        for key, kind, name in METRICS
        if (interval := format_interval(m.get(key), 4, 1))
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
    """Return the name of the data set, with the caveats of the scores, for places that show only the scores."""
    times = metrics.get("test_scored", 1)
    caveats = [
        *(["cross-validated, by other models than this one"] if metrics.get("folds") else []),
        *(["test pictures with duplicates in training"] if metrics.get("leaks") else []),
        *([f"test pictures scored {times} times"] if times >= 2 else []),
    ]
    return "the run's own pictures" + (f" ({'; '.join(caveats)})" if caveats else "")


def _printable(name: str) -> str:
    """Return a name without the characters that YAML forbids."""
    return "".join(letter if letter.isprintable() else "?" for letter in name) or "run"


def _iter_parts(run: RunFiles) -> Iterator[str]:
    metrics, bundle, summary = run.metrics, run.bundle, summarise_run(run)
    labels = metrics["confusion"]["labels"]
    yield f"# {escape(run.name)}"
    yield escape(verdict.run_verdict(summary))
    yield from (f"> **Note.** {escape(note)}" for note in run_caveats(run))
    about = ", ".join(str(part) for part in (bundle.get("method"), bundle.get("backbone")) if part)
    about = f" ({escape(about)})" if about else ""
    version, classes = run.environment.get("bestiary", __version__), ", ".join(map(escape, labels))
    yield f"An image classifier for {len(labels)} classes{about}, made with bestiary {version}. Its classes: {classes}."
    yield "## How to use it\n\n" + USE
    yield "## Intended use and limits"
    yield "\n".join(f"- {line}" for line in _iter_limits(run, summary))
    yield "## Evaluation"
    rows = [(name, format_metric(metrics.get(key), is_rate=key not in NOT_RATES)) for key, _, name in METRICS]
    yield markdown_table((f"On {metrics['n']:,} test pictures", "Value (95 % interval)"), rows)
    yield markdown_table(
        ("Class", "Precision", "Recall", "F1", "Test pictures", "Training pictures"),
        (
            (
                escape(label),
                *(format_metric(scores.get(key), 0) for key in ("precision", "recall", "f1")),
                f"{scores.get('support', 0):,}",
                f"{summary.train_counts.get(label, 0):,}",
            )
            for label, scores in metrics["per_class"].items()
        ),
    )
    yield from iter_threshold_blocks(metrics)
    if not run_caveats(run):
        yield (
            "The test pictures were not used for training or for any choice, and duplicates are in one split. Intervals"
            " count a group of duplicates, or of pictures that were kept together by --group or --site, once."
        )
    yield escape(" ".join(part for part in (describe_calibration(metrics), describe_prediction_sets(metrics)) if part))
    if proof := describe_model_proof(bundle, metrics, run.resolved):
        yield escape(proof)
    yield "## Training"
    yield markdown_table(("", ""), _iter_provenance(run))
    yield "## Findings about its pictures"
    yield _describe_findings(run)
    yield "## Files that may be published"
    yield (
        f"{', '.join(f'`{name}`' for name in _publishable_files(run))} contain names of classes and of picture folders,"
        " but no paths of the machine and no pictures. To use the model, `bundle.json` and `model.onnx` are enough."
        " Check the others before publishing them: `environment.json` and the tables (`*.parquet`) contain paths of"
        " the machine that trained it, `report.html` contains such paths and pictures."
    )


def _publishable_files(run: RunFiles) -> list[str]:
    """Return the files without paths of the machine; a recipe may name a file of weights, or a graph."""
    models = [tomllib.loads(text).get("model", {}) for text in (run.requested, run.resolved)]
    has_paths = any(
        ".onnx" in model.get("backbone", "").lower() or model.get("weights", "bundled") not in ("bundled", "hub")
        for model in models
    )
    return [name for name in MAY_BE_PUBLISHED if not has_paths or name not in RECIPES]


def _describe_findings(run: RunFiles) -> str:
    """Return the findings of the audit by check and severity; paths of pictures stay out."""
    counts = run.finding_counts
    rows = [
        (escape(count.check.list_name), f"{n:,}", SEVERITY_NAMES[severity])
        for count in counts.checks
        for n, severity in ((count.issues, count.severity), (count.noted, "note"))
        if n
    ]
    expected = "" if run.label_issues is None else f" {run.label_issues.describe()}"
    listed = f"\n\n{markdown_table(('Check', 'Findings', 'Severity'), rows)}" if rows else ""
    return f"{escape(counts.describe() + expected)}{listed}"


def _iter_limits(run: RunFiles, summary: RunSummary) -> Iterator[str]:
    metrics, coverage = run.metrics, (run.metrics.get("unknown") or {}).get("coverage")
    answered = "" if coverage is None else f" ({format_percent(coverage)} of the test pictures get an answer)"
    yield (
        "It predicts one of its classes for each picture, with a calibrated probability. Pictures unlike its training"
        f" pictures are answered “unknown”{answered}; some of them are still classified."
    )
    if run.bundle.get("crop") == "boxes":
        yield (
            "It was trained and tested on boxes of pictures, with a margin, not on whole pictures: its scores are not"
            " valid for those, and do not count what a detector misses. Give it boxes: `bestiary predict RUN"
            " detections.json`."
        )
    yield escape(verdict.describe_run_mistakes(summary))
    if decision := metrics.get("decision"):
        yield escape(decision["sentence"])
    if sentence := (metrics.get("slices") or {}).get("sentence"):
        yield escape(sentence)
    yield (
        "The scores are valid for pictures like those of its dataset. On pictures from other sources accuracy is"
        " usually lower; `bestiary evaluate RUN PICTURES` measures by how much."
    )
    yield "Do not use it where a wrong prediction does harm and nobody checks it."


def _iter_provenance(run: RunFiles) -> Iterator[tuple[str, str]]:
    for key, name in (("method", "Method"), ("backbone", "Backbone"), ("size", "Input, pixels"), ("fit", "Fit")):
        if run.bundle.get(key) is not None:
            yield name, escape(run.bundle[key])
    for key, name in (("temperature", "Temperature"), ("threshold", "Familiarity threshold")):
        if run.bundle.get(key) is not None:
            yield name, format_number(float(run.bundle[key]))
    yield "Training pictures", f"{int((run.pictures['split'] == 'train').sum()):,}"
    if seconds := (run.metrics.get("seconds") or {}).get("total"):
        yield "Time", f"{seconds:.0f} s"
    yield "Recipe", "`resolved.toml`"
    weights = run.bundle.get("weights") or {}
    if not weights and run.bundle.get("method") != "scratch" and run.bundle.get("backbone") in OLDER_BACKBONES:
        yield "Licence of the backbone", "Apache-2.0 (EfficientNet-Lite, ImageNet)"
    source = "Distilled from" if weights.get("use") == TEACHER else "Pretrained weights"
    for key, name in (("source", source), ("licence", "Licence of the weights")):
        if weights.get(key):
            yield name, escape(weights[key])
    if weights.get("sha256"):
        yield "SHA-256 of the weights", f"`{weights['sha256']}`"
    if run.bundle.get("no_heatmap"):
        yield "Heatmaps", escape(f"none, as {run.bundle['no_heatmap']}")
    if tried := describe_tried_backbones(run.environment.get(TRIED, ())):
        yield "Backbones on validation", escape("; ".join(tried))
