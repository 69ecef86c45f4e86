"""Changes of bytes, of the values in JSON and YAML, and of numbers, by a random generator."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from random import Random
from typing import Any

# every magnitude, and what looks like a number or is beside one
NUMBERS: tuple[Any, ...] = (
    *(0, -1, 1, 2, 3, 7, 255, 10**3, 10**6, 10**9),
    *(2**15, 2**16, 2**24, 2**24 + 1, 2**31 - 1, 2**31, -(2**31), 2**32, 2**53),
    *(2**62, 2**63 - 1, 2**63, -(2**63), 2**64, 10**18, 10**30, 10**400, -(10**400)),
    *(0.0, -0.0, 0.5, 1.5, 1e-320, 1e-30, 1e-5, 1e5, 1e9, 1e18, 1e30, 1e300, 1.7e308, -1e308),
    *(float("nan"), float("inf"), float("-inf")),
    *("1e3", "12", "0x10", "1_000", "٣", "nan", "-1", ""),
)
OTHERS: tuple[Any, ...] = (
    *(None, True, False, [], {}, [0], [None], [[]], {"a": 1}, [1, 2, 3], "x", "\ud800", "\0"),
    *("今天", "../../etc/passwd", "/dev/zero", "/dev/stdin", "a" * 5000, "{}", "%s", "\n", "."),
    *([0] * 5000, {str(i): i for i in range(2000)}, [[[[[[[[[[]]]]]]]]]], "null", "auto"),
)
WORDS = (
    b"\0",
    b"\xff",
    b"\x80",
    b"\n",
    b"{",
    b"}",
    b"[",
    b'"',
    b"1e999",
    b"NaN",
    b"null",
    b"\\ud800",
)
EXTREMES = (
    0,
    1,
    127,
    128,
    255,
    256,
    2**15,
    2**16 - 1,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**63,
    2**64 - 1,
)


def mutated(data: bytes, random: Random, near: int = 0) -> bytes:
    """Bytes with one to eight changes; half of them among the first or last `near` where it is
    given, which is where a file says what it holds."""
    changed = bytearray(data)
    for _ in range(random.choice((1, 1, 1, 2, 3, 8))):
        size = len(changed)
        at = random.randrange(size + 1) if size else 0
        if near and size > near and random.random() < 0.7:
            at = random.choice((random.randrange(near), size - random.randrange(near)))
        match random.randrange(9):
            case 0 if at < size:
                changed[at] ^= 1 << random.randrange(8)
            case 1 if at < size:
                changed[at] = random.randrange(256)
            case 2:
                del changed[at : at + random.choice((1, 2, 4, 8, 64, 4096))]
            case 3:
                changed[at:at] = random.choice(WORDS) * random.choice((1, 1, 2, 1000))
            case 4:
                width = random.choice((1, 2, 4, 8))
                value = random.choice(EXTREMES) % (1 << 8 * width)
                changed[at : at + width] = value.to_bytes(width, random.choice(("little", "big")))
            case 5:
                changed[at:] = b""
            case 6:
                begin = random.randrange(size + 1) if size else 0
                changed[at:at] = changed[begin : begin + random.choice((1, 8, 64, 1024))]
            case 7:
                changed[at : at + 8] = random.randbytes(random.choice((1, 8, 100)))
            case _:
                begin = random.randrange(size + 1) if size else 0
                length = random.choice((1, 8, 64))
                changed[at : at + length] = changed[begin : begin + length]
    return bytes(changed)


def places(data: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all values inside of `data`."""
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        yield (*way, key)
        if isinstance(value, dict | list):
            yield from places(value, (*way, key))


def replaced(data: Any, way: tuple[Any, ...], value: Any) -> Any:
    """A copy of `data` with another value at a place."""
    changed = copy.deepcopy(data)
    inner = changed
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = value
    return changed


def removed(data: Any, way: tuple[Any, ...]) -> Any:
    """A copy of `data` without a place."""
    changed = copy.deepcopy(data)
    inner = changed
    for key in way[:-1]:
        inner = inner[key]
    del inner[way[-1]]
    return changed


def with_wrong_keys(data: Any, random: Random, known: tuple[str, ...] = ()) -> Any:
    """`data` with one to three values of wrong types, missing keys and keys too many, `known` ones
    among them."""
    for _ in range(random.choice((1, 1, 2, 3))):
        ways = list(places(data))
        if not ways or random.random() < 0.02:
            return random.choice((*NUMBERS, *OTHERS))
        way = random.choice(ways)
        match random.randrange(4):
            case 0:
                data = removed(data, way)
            case 1 if known and isinstance(data, dict):
                data = {**data, random.choice(known): random.choice((*NUMBERS, *OTHERS))}
            case 2:
                data = replaced(data, way, random.choice(NUMBERS))
            case _:
                data = replaced(data, way, random.choice(OTHERS))
    return data


def to_json(data: Any, random: Random) -> bytes:
    """`data` as JSON, with what JSON has not, too: NaN, lone surrogates."""
    text = json.dumps(data, ensure_ascii=random.random() < 0.5)
    return text.encode("utf-8", "surrogatepass")
