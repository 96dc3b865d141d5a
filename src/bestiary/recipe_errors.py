"""Messages about wrong settings of a recipe: unknown keys, with the nearest one, and values of another type."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ValidationError

from bestiary.errors import MAX_NAMES, RecipeError
from bestiary.text import format_names

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

# Of pydantic's messages -> shorter ones.
PLAIN_WORDS = {
    "Input should be": "expected",
    "greater than or equal to": "at least",
    "less than or equal to": "at most",
    "a valid tuple": "a list, such as [1, 2]",
    "a valid ": "a ",
    "a integer": "a whole number",
    ", unable to parse string as a number": "",
    ", unable to parse string as an integer": "",
}


def check_keys(values: Mapping[str, Any], recipe: type[BaseModel]) -> None:
    """Raise RecipeError for a key that the recipe, or the section that it is in, does not have."""
    _check_section_keys(values, recipe, recipe, "")


def format_validation_error(error: ValidationError) -> str:
    """Return the first fault as a sentence with the setting and its value."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"]) or "recipe"
    message = first["msg"].removeprefix("Value error, ")
    for words, plain in PLAIN_WORDS.items():
        message = message.replace(words, plain)
    if isinstance(first["input"], BaseModel | dict):
        return f"{name}: {message}."
    return f'Setting "{name}": {message}; got {first["input"]!r}.{_suggest_name(first)}'


def _suggest_name(error: ErrorDetails) -> str:
    """Return a question with the nearest of the names that a setting may have, empty if none is near."""
    if error["type"] != "literal_error" or not isinstance(error["input"], str):
        return ""
    close = difflib.get_close_matches(error["input"], re.findall(r"'([^']*)'", error["ctx"]["expected"]), n=1)
    return f' Did you mean "{close[0]}"?' if close else ""


def _check_section_keys(
    values: Mapping[str, Any], model: type[BaseModel], recipe: type[BaseModel], prefix: str
) -> None:
    for key, value in values.items():
        if key not in model.model_fields:
            hint = _suggest_section(key, recipe) or _suggest_key(key, model, prefix)
            names = format_names(sorted(model.model_fields), MAX_NAMES)
            listing = f"`bestiary settings{f' {prefix[:-1]}' if prefix else ''}` explains them"
            raise RecipeError(f'Unknown setting "{prefix}{key}". {hint}Known: {names}; {listing}.')
        section = model.model_fields[key].annotation
        if isinstance(section, type) and issubclass(section, BaseModel):
            if not isinstance(value, Mapping):
                example = f"{key}.{next(iter(section.model_fields))}"
                raise RecipeError(f'"{prefix}{key}" is a section; give its keys, for example {example}.')
            _check_section_keys(value, section, recipe, f"{prefix}{key}.")


def _suggest_key(key: str, model: type[BaseModel], prefix: str) -> str:
    """Return a question with the nearest setting of a section, empty if none is near."""
    close = difflib.get_close_matches(key, model.model_fields, n=1)
    return f'Did you mean "{prefix}{close[0]}"? ' if close else ""


def _suggest_section(key: str, recipe: type[BaseModel]) -> str:
    """Return a sentence with the section that has this key, empty if none has."""
    sections = {name: field.annotation for name, field in recipe.model_fields.items()}
    names = [f"{name}.{key}" for name, section in sections.items() if key in getattr(section, "model_fields", ())]
    return f'Did you mean "{names[0]}"? ' if names else ""
