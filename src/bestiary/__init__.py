"""A folder of labelled pictures in, a classifier that its owner can trust out.

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

_HOMES = {
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

_LEARNING = {"bestiary.flow", "bestiary.classifier"}  # what the base install, which predicts and serves, has not


def __getattr__(name: str) -> Any:
    """Import a public name when it is first used, so that `import bestiary` costs next to nothing."""
    import importlib

    if name not in _HOMES:
        raise AttributeError(f'bestiary has no "{name}". It has: {", ".join(__all__)}.')
    if _HOMES[name] in _LEARNING:
        from bestiary.errors import import_optional

        import_optional("polars", extra="train")
    return getattr(importlib.import_module(_HOMES[name]), name)
