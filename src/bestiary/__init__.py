"""Train an image classifier from a folder of labelled pictures, and show how far to trust it.

>>> import bestiary
>>> bestiary.__version__.count(".")
2
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

__all__ = [
    "BestiaryError",
    "PictureClassifier",
    "Predictor",
    "Recipe",
    "UserError",
    "__version__",
    "audit",
    "evaluate",
    "load",
    "resume",
    "train",
]

if TYPE_CHECKING:
    from bestiary.classifier import PictureClassifier
    from bestiary.errors import BestiaryError, UserError
    from bestiary.flow import audit, evaluate, resume, train
    from bestiary.inference.predictor import Predictor, load
    from bestiary.recipe import Recipe
    from bestiary.version import __version__

_MODULES = {
    "BestiaryError": "bestiary.errors",
    "UserError": "bestiary.errors",
    "Recipe": "bestiary.recipe",
    "Predictor": "bestiary.inference.predictor",
    "load": "bestiary.inference.predictor",
    "train": "bestiary.flow",
    "resume": "bestiary.flow",
    "evaluate": "bestiary.flow",
    "audit": "bestiary.flow",
    "PictureClassifier": "bestiary.classifier",
    "__version__": "bestiary.version",
}

_NEEDS_TRAIN = {"bestiary.flow", "bestiary.classifier"}  # need the extra "train"; prediction and serving do not


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that `import bestiary` is fast."""
    import importlib

    if name not in _MODULES:
        raise AttributeError(f'bestiary has no "{name}". It has: {", ".join(__all__)}.')
    if _MODULES[name] in _NEEDS_TRAIN:
        from bestiary.errors import import_optional

        import_optional("polars", extra="train")
    return getattr(importlib.import_module(_MODULES[name]), name)
