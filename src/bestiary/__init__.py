"""Train an image classifier from a folder of labelled pictures, and show how far to trust it.

>>> import bestiary
>>> bestiary.__version__.count(".")
2
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from bestiary.telemetry import disable_telemetry

__all__ = [
    "BestiaryError",
    "Event",
    "PictureClassifier",
    "Predictor",
    "Recipe",
    "UserError",
    "__version__",
    "audit",
    "compare",
    "embed",
    "evaluate",
    "export",
    "load",
    "predict",
    "read_boxes",
    "resume",
    "study",
    "train",
    "tune",
]

if TYPE_CHECKING:
    from bestiary.api import audit, compare, embed, evaluate, export, read_boxes, resume, train
    from bestiary.api_predict import predict
    from bestiary.api_search import study, tune
    from bestiary.classifier import PictureClassifier
    from bestiary.errors import BestiaryError, UserError
    from bestiary.events import Event
    from bestiary.inference.predictor import Predictor, load
    from bestiary.recipe import Recipe
    from bestiary.version import __version__

disable_telemetry()  # before any library is imported

_MODULES = {
    "BestiaryError": "bestiary.errors",
    "UserError": "bestiary.errors",
    "Event": "bestiary.events",
    "Recipe": "bestiary.recipe",
    "Predictor": "bestiary.inference.predictor",
    "load": "bestiary.inference.predictor",
    "predict": "bestiary.api_predict",
    **dict.fromkeys(("audit", "compare", "embed", "evaluate", "export"), "bestiary.api"),
    **dict.fromkeys(("read_boxes", "resume", "train"), "bestiary.api"),
    **dict.fromkeys(("study", "tune"), "bestiary.api_search"),
    "PictureClassifier": "bestiary.classifier",
    "__version__": "bestiary.version",
}

_NEEDS_TRAIN = {
    "bestiary.api",
    "bestiary.api_search",
    "bestiary.classifier",
}  # need the extra "train"; prediction and serving do not


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import bestiary` is fast."""
    import importlib

    if name not in _MODULES:
        raise AttributeError(f'bestiary has no "{name}". It has: {", ".join(__all__)}.')
    if _MODULES[name] in _NEEDS_TRAIN:
        from bestiary.errors import import_optional

        import_optional("polars", extra="train")
    return getattr(importlib.import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    """List the public names, imported or not."""
    return __all__


class _Package(ModuleType):
    """The package as a module whose public functions are not hidden by its folders of the same names.

    Importing `bestiary.tune.page` sets the attribute `tune` of the package to that folder. `from bestiary.tune import
    page` does not need it, and `bestiary.tune` is the function, whatever was imported before.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (isinstance(value, ModuleType) and name in _MODULES):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
