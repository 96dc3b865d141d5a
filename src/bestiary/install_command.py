"""The command that adds an extra to this installation: a checkout, a repository, a file, or the package index."""

from __future__ import annotations

import contextlib
import json
import shutil
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit


def install_command(extra: str) -> str:
    """Return the pip command that adds an extra, for the Python that runs this, such as `pip install -e ".[tune]"`.

    It follows the origin that pip has recorded (PEP 610): bestiary from a checkout is added to from there.
    """
    return f"{_pip_command()} install {_format_requirement(extra, _read_origin())}"


def cuda_install_command() -> str:
    """Return the commands that replace ONNX Runtime by its build for CUDA; both are the module `onnxruntime`."""
    pip = _pip_command()
    return f'{pip} uninstall -y onnxruntime && {pip} install "onnxruntime-gpu[cuda,cudnn]"'


def _read_origin() -> dict[str, Any]:
    """Return what pip recorded in direct_url.json; empty for a package from the index.

    Run from a checkout that is not installed, it is the checkout.
    """
    import importlib.metadata  # here, for few commands need it, and each would take longer to start

    recorded = None
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        recorded = importlib.metadata.distribution("bestiary").read_text("direct_url.json")
        if recorded is None:
            return {}
    with contextlib.suppress(ValueError):
        origin = json.loads(recorded or "")
        if isinstance(origin, dict):
            return origin
    checkout = Path(__file__).parents[2]
    return {"url": checkout.as_uri(), "dir_info": {"editable": True}} if (checkout / "pyproject.toml").exists() else {}


def _format_requirement(extra: str, origin: dict[str, Any]) -> str:
    url = str(origin.get("url", ""))
    if "dir_info" in origin:
        from urllib.request import url2pathname  # here, for it imports what opens connections

        folder = Path(url2pathname(urlsplit(url).path))
        path = "." if folder == Path.cwd() else str(folder)
        editable = "-e " if origin["dir_info"].get("editable") else ""
        return f'{editable}"{path}[{extra}]"'
    if "vcs_info" in origin:
        return f'"bestiary[{extra}] @ {origin["vcs_info"].get("vcs", "git")}+{url}"'
    return f'"bestiary[{extra}] @ {url}"' if url else f'"bestiary[{extra}]"'


def _pip_command() -> str:
    """Return `pip` if that of the command line belongs to the Python that runs this, else `PYTHON -m pip`."""
    pip, python = shutil.which("pip"), Path(sys.executable)
    if pip is not None and Path(pip).parent == python.parent:
        return "pip"
    with contextlib.suppress(ValueError):
        python = python.relative_to(Path.cwd())
    return f"{python} -m pip" if " " not in str(python) else f'"{python}" -m pip'
