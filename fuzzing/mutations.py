"""Changes that keep a file readable in part: of JSON values, table cells, XML attributes and members of archives."""

from __future__ import annotations

import io
import json
import random
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

from fuzzing.cases import pack_tar, pack_zip

Mutate = Callable[[bytes, random.Random], bytes]

VALUES: tuple[Any, ...] = (
    None, True, False, 0, -1, 1, 2, 0.5, -0.0, 1e-320, 1e308, 2**31, 2**53, 2**63, 2**64, 10**400, float("nan"),
    float("inf"), "", " ", "a", "\x00", "\ud800", "é", "e\u0301", "\u202e", "a/b.jpg", "..", "../../x.jpg",
    "/", "C:\\a.jpg", "%s", "{}", "\n", "train", "Blank", "1.0", "1,5", "-1", "1e999", "nan", "2019-02-30",
    "0000-00-00T00:00:00Z", "9999-12-31T23:59:59-23:59", "5/5/19 17:21",
    "a" * 300, "1" * 5000, "[" * 5000, [], [[]], {}, [0, 0, 1, 1],
    [0.1, 0.2], {"a": 1},
)  # fmt: skip
TOKEN = re.compile(rb"[^,;\t\n\"<>=' ]+")


def mutate_bytes(content: bytes, rng: random.Random) -> bytes:
    """Change, insert, remove or repeat some bytes."""
    changed = bytearray(content)
    for _ in range(rng.randint(1, 4)):
        start = rng.randrange(len(changed) + 1)
        end = min(len(changed), start + rng.choice((1, 2, 4, 16, 200)))
        piece = rng.choice((bytes(changed[start:end]) * 2, b"", rng.randbytes(end - start), b"\0", b"\xff" * 4))
        changed[start:end] = piece
    return bytes(changed)


def mutate_json(content: bytes, rng: random.Random) -> bytes:
    """Replace, remove or repeat a value anywhere in a document; bytes where there is none."""
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return mutate_bytes(content, rng)
    holders = list(_iter_holders(document))
    if not holders:
        return json.dumps(rng.choice(VALUES)).encode()
    holder, key = rng.choice(holders)
    kind = rng.randrange(8)
    if kind == 0:
        del holder[key]
    elif kind == 1 and isinstance(holder, list):
        holder.insert(key, holder[key])
    elif kind == 2:
        other, place = rng.choice(holders)
        holder[key] = json.loads(json.dumps(other[place]))
    else:
        holder[key] = rng.choice(VALUES)
    return json.dumps(document, ensure_ascii=rng.random() < 0.9).encode("utf-8", "surrogatepass")


def _iter_holders(value: Any) -> Iterator[tuple[Any, Any]]:
    """Yield each list and object in a document, with each of its indices or keys."""
    if isinstance(value, dict | list):
        for key in list(value) if isinstance(value, dict) else range(len(value)):
            yield value, key
            yield from _iter_holders(value[key])


def mutate_json_lines(content: bytes, rng: random.Random) -> bytes:
    """Change the document of one line."""
    lines = content.split(b"\n")
    number = rng.randrange(len(lines))
    lines[number] = mutate_json(lines[number], rng)
    return b"\n".join(lines)


def mutate_text(content: bytes, rng: random.Random) -> bytes:
    """Replace a word or cell by an unusual value or by another word, or repeat, remove or swap a line."""
    tokens, lines = list(TOKEN.finditer(content)), content.split(b"\n")
    if tokens and rng.random() < 0.7:
        match = rng.choice(tokens)
        value = rng.choice(VALUES)
        text = value if isinstance(value, str) else json.dumps(value)
        piece = rng.choice(tokens)[0] if rng.random() < 0.3 else text.encode("utf-8", "surrogatepass")
        return content[: match.start()] + piece + content[match.end() :]
    number, other = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[number : number + 1] = rng.choice(
        ([], [lines[number]] * 2, [lines[other]], [b""], [lines[number] + lines[other]])
    )
    return b"\n".join(lines)


def mutate_archive(content: bytes, rng: random.Random) -> bytes:
    """Change the name or content of a member, and pack it again; bytes where it cannot be unpacked."""
    try:
        members = _unpack(content)
    except Exception:  # an input of a fuzzer, damaged in any way
        return mutate_bytes(content, rng)
    if not members:
        return mutate_bytes(content, rng)
    name = rng.choice(list(members))
    text = members.pop(name)
    if rng.random() < 0.5:
        mutate = mutate_json if name.endswith(".json") else mutate_text
        members[name] = mutate(text, rng)
    else:
        value = rng.choice(
            ("../x.jpg", "/x.jpg", "a\\b.jpg", "x" * 300, "cat", "cat/", "1.jpg", "\udce9.jpg", "1.json", ".", "C:x")
        )
        members[value + rng.choice(("", name))] = text
    try:
        is_zip = content.startswith(b"PK")
        return pack_zip(members) if is_zip else pack_tar(members, rng.choice(("", "", "gz")))
    except (ValueError, OSError):
        return mutate_bytes(content, rng)


def _unpack(content: bytes) -> dict[str, bytes]:
    if content.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            return {entry.filename: archive.read(entry)[:4096] for entry in archive.infolist()[:20]}
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        entries = [entry for entry in archive.getmembers()[:20] if entry.isfile() and entry.size < 4096]
        return {entry.name: archive.extractfile(entry).read() for entry in entries}  # type: ignore[union-attr]


BY_SUFFIX: dict[str, Mutate] = {
    **dict.fromkeys((".json",), mutate_json),
    **dict.fromkeys((".jsonl",), mutate_json_lines),
    **dict.fromkeys((".csv", ".tsv", ".txt", ".xml", ".toml"), mutate_text),
    **dict.fromkeys((".zip", ".tar", ".gz", ".bz2", ".xz"), mutate_archive),
}


def choose_mutation(name: str) -> Mutate:
    """Return what changes a file of this name."""
    return BY_SUFFIX.get(name[name.rfind(".") :], mutate_bytes)
