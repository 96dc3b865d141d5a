"""Recipes as files and command-line settings: reading and writing of TOML, built-in recipes, `--set`."""

from __future__ import annotations

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tomli_w

from bestiary.errors import RecipeError


def read_toml(path: Path) -> dict[str, Any]:
    """Return the nested values of a TOML file; raises RecipeError naming the file and the line."""
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RecipeError(f"There is no recipe at {path}.") from None
    except (OSError, UnicodeDecodeError) as error:
        raise RecipeError(f"The recipe {path} cannot be read: {error}.") from None
    except (ValueError, RecursionError) as error:  # also for a number of thousands of digits, and deep nesting
        raise RecipeError(f"The recipe {path} is not valid TOML: {error}.") from None


def write_toml(values: Mapping[str, Any]) -> str:
    """Return nested plain values as TOML, without empty sections."""
    return tomli_w.dumps({key: value for key, value in values.items() if value != {}})


def builtin_recipes() -> dict[str, Path]:
    """Return the paths of the built-in recipes by name."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.toml"))}


def load_recipe_values(name: str) -> dict[str, Any]:
    """Return the nested values of a built-in recipe or of a TOML file."""
    recipes = builtin_recipes()
    if name in recipes or Path(name).suffix or Path(name).exists():
        return read_toml(recipes.get(name, Path(name)))
    raise RecipeError(f'There is no recipe "{name}": neither a file, nor one of {", ".join(recipes)}.')


def apply_overrides(values: Mapping[str, Any], settings: Iterable[str]) -> dict[str, Any]:
    """Return `values` overridden by `section.key=value` texts; see `read_setting`."""
    merged: dict[str, Any] = {key: dict(part) if isinstance(part, Mapping) else part for key, part in values.items()}
    for setting in settings:
        name, equals, text = (part.strip() for part in setting.partition("="))
        if not equals or not name:
            raise RecipeError(f'--set takes section.key=value, for example train.epochs=30; got "{setting}".')
        section, dot, key = name.partition(".")
        target = merged.setdefault(section, {}) if dot else merged
        if not isinstance(target, dict):
            raise RecipeError(f'"{section}" is not a section of the recipe; got "{setting}".')
        target[key if dot else section] = read_setting(text)
    return merged


def read_setting(text: str) -> Any:
    """Return the value of a command-line setting, parsed as TOML or else as text."""
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text
