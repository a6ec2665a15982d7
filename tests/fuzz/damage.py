"""What goes wrong with files and values: cut short, bits turned, two files in one, names that lead elsewhere."""

import json
from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Literal

# Put behind or before a file, to make two of it.
OTHER_FILES = (
    b"<html><script>alert(1)</script></html>",
    b"PK\x05\x06" + bytes(18),
    b"%PDF-1.7\n",
    b"#!/bin/sh\ntouch outside\n",
    b"\x89PNG\r\n\x1a\n",
    b"\xff\xd8\xff\xe0",
    b"GIF89a\xff\xff\xff\xff",
    b"version https://git-lfs.github.com/spec/v1\n",
)
NUMBERS = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)
ORDERS: tuple[Literal["little", "big"], ...] = ("little", "big")

NAMES = (
    "",
    ".",
    "..",
    "../../../../../../etc/passwd",
    "/etc/passwd",
    "/dev/zero",
    "/dev/stdin",
    "a\0b",
    "a\nb",
    "a;b",
    "x" * 300,
    "x/" * 3000,
    "-rf",
    "~",
    "~nobody/x",
    "\x1b[2J\x1b]0;title\x07",
    "\udcff.png",
    "\u202egnp.exe",
    "é" * 200 + ".png",
    "%s%n%x",
    "{0.__class__}",
    "CON",
    "a\\..\\b",
    "file:///etc/passwd",
    "data:image/png;base64,AAAA",
)
LEADING_OUT = (
    "../outside/secret",
    "../../outside/secret",
    "a/../../outside/secret",
)  # of the folder; see `judge.Guard`
DEEP = 100_000


def damaged(rng: Random, content: bytes) -> bytes:
    """A file's content with one to three faults."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        fault: Callable[[Random, bytes], bytes] = rng.choice(FAULTS)
        content = fault(rng, content)
    return content


def cut(rng: Random, content: bytes) -> bytes:
    return content[: rng.randrange(len(content) + 1)]


def bits(rng: Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 4, 32)) if changed else 0):
        changed[place(rng, len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def number(rng: Random, content: bytes) -> bytes:
    """A number in it made zero, small, or as large as it can be: a length, a size, a count."""
    if len(content) < 8:
        return content
    width, order = rng.choice((1, 2, 4, 8)), rng.choice(ORDERS)
    packed = (rng.choice(NUMBERS) & ((1 << 8 * width) - 1)).to_bytes(width, order)
    start = place(rng, len(content) - width + 1)
    return content[:start] + packed + content[start + width :]


def taken_out(rng: Random, content: bytes) -> bytes:
    start = place(rng, len(content) + 1)
    return content[:start] + content[start + rng.choice((1, 4, 64, 1024)) :]


def put_in(rng: Random, content: bytes) -> bytes:
    start = place(rng, len(content) + 1)
    return content[:start] + rng.randbytes(rng.choice((1, 4, 64, 1024))) + content[start:]


def doubled(rng: Random, content: bytes) -> bytes:
    start = place(rng, len(content) + 1)
    piece = content[start : start + rng.choice((8, 64, 1024))]
    return content[:start] + piece * rng.choice((2, 3, 50)) + content[start + len(piece) :]


def two_in_one(rng: Random, content: bytes) -> bytes:
    other = rng.choice(OTHER_FILES)
    return other + content if rng.random() < 0.5 else content + other


FAULTS = (cut, bits, bits, number, number, taken_out, put_in, doubled, two_in_one)


def place(rng: Random, length: int) -> int:
    """A place in a file: half of the time in its first bytes, where headers are."""
    return rng.randrange(min(length, 64) if rng.random() < 0.5 else length) if length else 0


# --- values -----------------------------------------------------------------------------------------------------------


def value(rng: Random) -> Any:
    """Any value of JSON, most often one that nobody expects."""
    return rng.choice(
        (
            None,
            True,
            False,
            rng.choice((-1, 0, 1, 2, 255, 2**31, 2**63, 2**64, -(2**70), 10**400)),
            rng.choice((-0.5, 0.5, 1e-320, 1e308, float("inf"), float("-inf"), float("nan"))),
            rng.choice(NAMES),
            rng.choice(NAMES),
            "9" * 5000,
            [],
            {},
            [[[[]]]],
            [1, 2, 3, 4],
            [0, 0, 2**40, 2**40],
            {"path": rng.choice(NAMES), "sha256": None},
        )
    )


def changed(rng: Random, document: Any) -> Any:
    """A document with a part exchanged, left out or added."""
    document = json.loads(json.dumps(document))
    places = list(inner(document))
    if not places:
        return value(rng)
    for _ in range(rng.choice((1, 1, 2))):
        holder, key = rng.choice(places)
        kind = rng.random()
        if kind < 0.7:
            holder[key] = value(rng)
        elif kind < 0.85 and isinstance(holder, dict):
            holder.pop(key, None)
        elif isinstance(holder, dict):
            holder[rng.choice(NAMES)] = value(rng)
        else:
            holder.append(value(rng))
    return document


def inner(document: Any) -> Sequence[tuple[Any, Any]]:
    """Every place in a document where something stands: what holds it, and its key or number there."""
    found: list[tuple[Any, Any]] = []
    items = document.items() if isinstance(document, dict) else enumerate(document)
    for key, one in list(items):
        found.append((document, key))
        if isinstance(one, dict | list):
            found.extend(inner(one))
    return found


def text(rng: Random, document: Any) -> bytes:
    """A document as JSON that is changed, damaged, or nested deeper than a parser follows."""
    kind = rng.random()
    if kind < 0.03:
        return b"[" * DEEP
    if kind < 0.06:
        return b'{"a":' * DEEP
    if kind < 0.7:
        return json.dumps(changed(rng, document)).encode("utf-8", "surrogatepass")
    return damaged(rng, json.dumps(document).encode())
