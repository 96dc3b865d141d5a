"""JSON files of any size, read item by item: memory holds one block of the file, not its million dictionaries."""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any, NamedTuple, NoReturn, TypeVar

from bestiary.errors import SourceError

Row = TypeVar("Row")
BLOCK_BYTES = 4 << 20
PEEK_BYTES = 1 << 18
_SPACE = re.compile(r"[ \t\n\r]*")
_BETWEEN_ITEMS = re.compile(r"[ \t\n\r]*([,\]}])[ \t\n\r]*")
_TOKEN = re.compile(r'"((?:[^"\\]|\\.)*)"(\s*:)?|[{}\[\]]')
_NEAR_END = 64  # characters: a number or an escape that the end of a block cuts is no longer


class JsonItem(NamedTuple):
    """A value of a JSON object: an item of one of its arrays, with its position from 0, or the value of another key."""

    key: str
    position: int
    value: Any


def iter_json_items(path: Path, arrays: Collection[str]) -> Iterator[JsonItem]:
    """Yield the items of those arrays of a JSON object one by one, and the values of its other keys.

    Raises SourceError, with the key, the item and the character, if the file is no JSON object, ends too early, has one
    of its keys twice, or something else than an array where one is expected.
    """
    try:
        with path.open("rb") as stream:
            yield from _Reader(path, stream).iter_items(arrays)
    except OSError as error:
        raise SourceError(f"{path} cannot be read: {error.strerror}.") from None


def read_item(path: Path, item: JsonItem, read: Callable[[dict[str, Any]], Row]) -> Row:
    """Return what `read` makes of an item; a missing key or a value of a wrong kind becomes a SourceError naming it."""
    try:
        return read(item.value)
    except KeyError as error:
        problem = f"{error.args[0]} is missing"
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        problem = str(error) if isinstance(item.value, dict) else f"{item.value!r:.60} is no object in braces"
    raise SourceError(f"{path}, {item.key}, item {item.position + 1:,}: {problem}.")


def peek_json_keys(path: Path) -> dict[str, set[str]]:
    """Return the keys of a JSON object that its beginning shows, each with the keys of its value or first item.

    Empty if the file does not begin with an object. Says nothing about whether the rest is JSON.
    """
    try:
        with path.open("rb") as stream:
            text = stream.read(PEEK_BYTES).decode("utf-8-sig", errors="replace")
    except OSError:
        return {}
    keys: dict[str, set[str]] = {}
    if not text.lstrip().startswith("{"):
        return keys
    key, opened, is_first = "", "", False
    for token in _TOKEN.finditer(text):
        if token[0] in ("{", "["):
            opened += token[0]
        elif token[0] in ("}", "]"):
            opened = opened[:-1]
            is_first = is_first and opened != "{["
        elif token[2] and opened == "{":
            key, is_first = token[1], True
            keys.setdefault(key, set())
        elif token[2] and is_first and opened in ("{{", "{[{"):
            keys[key].add(token[1])
    return keys


class _Reader:
    """A JSON text that is decoded from `position` in a block, which moves through the file."""

    def __init__(self, path: Path, stream: Any) -> None:
        self._path, self._stream = path, stream
        self._decode_bytes = codecs.getincrementaldecoder("utf-8-sig")().decode
        self._decode_json = json.JSONDecoder().raw_decode
        self._text, self._position, self._passed, self._is_end = "", 0, 0, False
        self._where = ""

    def iter_items(self, arrays: Collection[str]) -> Iterator[JsonItem]:
        self._expect("{", "an object in braces")
        keys = set[str]()
        if self._next_character() == "}":
            self._position += 1
        else:
            while True:
                key = self._decode_value()
                if not isinstance(key, str):
                    self._fail("expected a key in quotation marks")
                if key in keys:
                    raise SourceError(f'{self._path} has the key "{key}" twice. Expected it once.')
                keys.add(key)
                self._where = f", {key}"
                self._expect(":", "a colon")
                if key in arrays:
                    yield from self._iter_array(key)
                else:
                    yield JsonItem(key, 0, self._decode_value())
                self._where = ""
                if not self._has_next("}"):
                    break
        if self._next_character():
            self._fail("there is text after the end of the object")

    def _iter_array(self, key: str) -> Iterator[JsonItem]:
        if self._next_character() != "[":
            self._fail("expected an array")
        self._position += 1
        if self._next_character() == "]":
            self._position += 1
            return
        index = 0
        while True:
            self._where = f", {key}, item {index + 1:,}"
            yield JsonItem(key, index, self._decode_value())
            if not self._has_next("]"):
                return
            index += 1

    def _has_next(self, end: str) -> bool:
        """Return whether another item follows in an array or object, and move there, or behind its end."""
        between = _BETWEEN_ITEMS.match(self._text, self._position)
        if between is not None and between[1] == ",":  # the quick way, for millions of items
            self._position = between.end()
            return True
        character = self._next_character()
        if character not in (",", end):
            self._fail(f"expected a comma or {end}")
        self._position += 1
        return character == ","

    def _expect(self, character: str, name: str) -> None:
        if self._next_character() != character:
            self._fail(f"expected {name}")
        self._position += 1

    def _next_character(self) -> str:
        """Return the next character that is no white space, and move there; empty at the end of the file."""
        while True:
            self._position = _SPACE.match(self._text, self._position).end()  # type: ignore[union-attr]
            if self._position < len(self._text):
                return self._text[self._position]
            if self._is_end:
                return ""
            self._read_block()

    def _decode_value(self) -> Any:
        if self._position == len(self._text) or self._text[self._position] <= " ":
            self._next_character()
        while True:
            try:
                value, end = self._decode_json(self._text, self._position)
            except json.JSONDecodeError as error:
                is_cut = error.pos >= len(self._text) - _NEAR_END or error.msg.startswith("Unterminated string")
                if self._is_end or not is_cut:
                    is_open = error.msg.startswith("Unterminated string")
                    self._position = len(self._text) if is_open else error.pos
                    self._fail(error.msg[0].lower() + error.msg[1:])
            except RecursionError:
                self._fail("objects in objects are nested too deeply")
            except ValueError as error:  # a number with thousands of digits
                self._fail(str(error))
            else:
                # "12" may go on as 123, "0." was read as 0: only the end of a number is no sign that it is whole.
                is_number = isinstance(value, int | float)
                if not is_number or self._is_end or end < len(self._text) - _NEAR_END:
                    self._position = end
                    return value
            self._read_block()

    def _read_block(self) -> None:
        """Drop what was decoded and read on; as much as there is already, so that one huge value is not read often."""
        rest = self._text[self._position :]
        block = self._stream.read(max(BLOCK_BYTES, len(rest)))
        self._passed += self._position
        self._is_end = not block
        try:
            self._text = rest + self._decode_bytes(block, self._is_end)
        except UnicodeDecodeError:
            raise SourceError(f"{self._path} is not UTF-8 text{self._where}. Expected JSON in UTF-8.") from None
        self._position = 0

    def _fail(self, problem: str) -> NoReturn:
        end = self._is_end and self._position >= len(self._text.rstrip())
        where = "the file ends too early" if end else f"character {self._passed + self._position + 1:,}"
        raise SourceError(f"{self._path} is not valid JSON{self._where}: {where}: {problem}. Export the file again.")
