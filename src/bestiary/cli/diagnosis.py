"""What `bestiary doctor` says: facts of `diagnose` as JSON, and as lines of text."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from typing import Any

from bestiary.cli.versions import collect_versions, format_versions
from bestiary.errors import EXTRAS
from bestiary.files import cache_folder
from bestiary.install_command import install_command
from bestiary.machine import available_cores
from bestiary.models.accelerators import explain_unavailable, read_accelerator
from bestiary.models.device_proof import iter_proofs
from bestiary.models.engine import has_bfloat16, has_openvino
from bestiary.models.graph_cache import GRAPHS
from bestiary.processor import read_processor

# What each extra is for; the modules of those that `errors.EXTRAS` does not list.
PURPOSES = {
    "train": "audit, train a probe, evaluate, report",
    "torch": "train networks: --method scratch and finetune",
    "tune": "search hyperparameters",
    "fetch": "download collections",
    "corruptions": "evaluate --corruptions",
    "tensorboard": "train --log tensorboard",
    "mlflow": "train --log mlflow",
    "cluster": "work on a Ray cluster",
    "remote": "predict from and to s3://, gs:// and hdfs://",
    "heif": "HEIC and HEIF pictures",
}
MODULES = EXTRAS | {
    "torch": ("torch", "torchvision", "timm", "onnxscript"),
    "fetch": ("kagglehub",),
    "corruptions": ("imagecorruptions",),
    "tensorboard": ("tensorboard",),
    "mlflow": ("mlflow",),
    "cluster": ("ray",),
    "remote": ("pyarrow", "boto3"),
    "heif": ("pillow_heif",),
}
# The folders of the cache -> what is in them.
CACHES = {
    "features": "features of pictures",
    "activations": "inputs of the last stage, for --method finetune",
    "pixels": "decoded pictures, for training of networks",
    "inspections": "measurements of picture files",
    "duplicates": "comparisons of pictures",
    "label-check": "label checks",
    "archives": "unpacked archives",
    GRAPHS: "graphs of backbones",
    "engines": "measured speeds of engines",
    "devices": "proofs of accelerators",
    "verified": "proofs of models on this processor",
    "locks": "locks between processes",
}


def diagnose(*, threads: int | None, with_torch: bool) -> dict[str, Any]:
    """Return the facts of `bestiary --version`, and accelerators, extras, precision and caches."""
    cache = cache_folder()
    return collect_versions() | {
        "threads": threads or available_cores(),
        "bfloat16": {"possible": has_bfloat16(), "reason": _explain_no_bfloat16()},
        "accelerators": {
            "features and predictions (ONNX Runtime)": {
                device: explain_unavailable(device) or str(read_accelerator(device)) for device in ("cuda", "coreml")
            },
            "training of networks (torch)": _diagnose_torch() if with_torch else {},
            "models": [
                {"graph": proof.graph, "accelerator": proof.accelerator, "error": proof.error}
                | {"pictures_per_second": proof.pictures_per_second}
                | {"processor_pictures_per_second": proof.processor_pictures_per_second}
                | {"differences": proof.differences}
                for proof in iter_proofs(cache)
            ],
        },
        "extras": {extra: _diagnose_extra(extra) for extra in PURPOSES},
        "cache": {
            "folder": str(cache),
            "set by": "BESTIARY_CACHE" if os.environ.get("BESTIARY_CACHE") else "default",
            "megabytes": _count_megabytes(cache),
            "parts": {path.name: _count_megabytes(path) for path in _list_folders(cache)},
        },
    }


def format_diagnosis(facts: dict[str, Any]) -> str:
    """Return the facts of `diagnose` as lines of text."""
    bfloat16, accelerators = facts["bfloat16"], facts["accelerators"]
    versions = format_versions(facts).replace(" (bestiary doctor says why)", "")
    lines = [versions, "", "Precision of training features"]
    lines += ["  float32: yes", f"  bfloat16: {bfloat16['reason'] or 'yes, where it is measured to be faster'}"]
    lines.append("Accelerators")
    for purpose in ("features and predictions (ONNX Runtime)", "training of networks (torch)"):
        lines += [f"  {purpose}"] if accelerators[purpose] else []
        lines += [f"    {device}: {state}" for device, state in accelerators[purpose].items()]
    for proof in accelerators["models"]:
        speeds = (
            f"{proof['pictures_per_second']:g} pictures a second, processor {proof['processor_pictures_per_second']:g}"
        )
        lines.append(f"  model {proof['graph'][:12]} by {proof['accelerator']}: {proof['error'] or speeds}")
    lines.append("Extras")
    for extra, state in facts["extras"].items():
        lines.append(f"  {extra} ({PURPOSES[extra]}): {_format_extra(state)}")
    cache = facts["cache"]
    origin = "set by BESTIARY_CACHE" if cache["set by"] == "BESTIARY_CACHE" else "BESTIARY_CACHE sets another"
    lines += ["Cache", f"  {cache['folder']}: {cache['megabytes']:,.1f} MB; safe to delete; {origin}"]
    parts = sorted(cache["parts"].items(), key=lambda part: -part[1])
    lines += [f"    {name} ({CACHES.get(name, 'other results')}): {size:,.1f} MB" for name, size in parts]
    return "\n".join(lines)


def _explain_no_bfloat16() -> str:
    """Return why features are not computed in bfloat16 here; empty if they can be."""
    if has_bfloat16():
        return ""
    if not has_openvino():
        return f"no: OpenVINO is not installed; {install_command('train')} (on x86-64)"
    return f"no: the processor, {read_processor().name}, has no instructions for it, or the environment forbids them"


def _diagnose_torch() -> dict[str, str]:
    if importlib.util.find_spec("torch") is None:
        missing = f"torch is not installed; {install_command('torch')}"
        no_mps = "MPS is a part of macOS, and this is another system"
        return {"cuda": missing, "mps": missing if sys.platform == "darwin" else no_mps}
    from bestiary.training.device import choose_device, describe_device, explain_no_torch_device

    states = {"cuda": explain_no_torch_device("cuda"), "mps": explain_no_torch_device("mps")}
    states = {device: reason or "yes" for device, reason in states.items()}
    return states | {"used": describe_device(choose_device())}


def _diagnose_extra(extra: str) -> dict[str, Any]:
    missing = [module for module in MODULES[extra] if importlib.util.find_spec(module) is None]
    return {
        "missing": missing,
        "command": install_command(extra) if missing else "",
        "note": _note_size(extra, missing),
    }


def _note_size(extra: str, missing: list[str]) -> str:
    """Return what to know before torch is installed; empty for other extras."""
    if extra != "torch" or "torch" not in missing or sys.platform == "darwin":
        return ""
    return "about 5 GB with CUDA; without an NVIDIA card install the CPU build of torch first (pytorch.org): 1 GB"


def _format_extra(state: dict[str, Any]) -> str:
    if not state["missing"]:
        return "installed"
    return "; ".join(filter(None, [f"missing {', '.join(state['missing'])}", state["command"], state.get("note")]))


def _list_folders(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.is_dir()) if folder.is_dir() else []


def _count_megabytes(folder: Path) -> float:
    """Return the size of the files in a folder, in MB."""
    total = 0
    for path in folder.rglob("*") if folder.is_dir() else ():
        try:
            total += path.stat().st_size if path.is_file() else 0
        except OSError:  # removed by another process
            continue
    return round(total / 1e6, 1)
