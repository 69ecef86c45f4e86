"""The bytes under a TensorFlow index: a sorted string table (LevelDB's) whose values are protocol
buffers. Knows keys and fields, no tensor. Every length is checked against its bytes before use, and
work and memory are bounded by `MOST`, whatever the file says."""

from __future__ import annotations

from collections.abc import Iterator

MOST = 1 << 22  # bytes of an index or of an object graph; that of 48 layers with slots has 1e5
_MOST_NAMES = 1 << 24  # bytes of all names, which share their beginnings in the file
_PER_NAME = 256  # what a name costs besides its bytes
_MAGIC = (0xDB4775248B80FB57).to_bytes(8, "little")
_FOOTER = 48  # two block handles, padding, magic
_TRAILER = 5  # of a block: compression, masked checksum
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5  # wire types of protocol buffers


class Broken(ValueError):
    """The bytes are not what the format says; the message is for after "FILE: "."""


def table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Keys and values: footer -> index block -> data blocks -> entries."""
    if len(data) < _FOOTER or data[-8:] != _MAGIC:
        raise Broken("it does not end like one")
    footer = data[-_FOOTER:]
    _, at = _handle(footer, 0)  # of the block of meta data, always empty
    index, _ = _handle(footer, at)
    last, end, room = None, 0, _MOST_NAMES
    for _, value in _block(data, *index):
        (start, size), _ = _handle(value, 0)
        if start < end:
            raise Broken("its blocks overlap")
        end = start + size + _TRAILER
        for key, entry in _block(data, start, size):
            if last is not None and key <= last:
                raise Broken("its names are not in order")
            last, room = key, room - len(key) - _PER_NAME
            if room < 0:
                raise Broken("it has more names than any model")
            yield key, entry


def _handle(data: bytes, at: int) -> tuple[tuple[int, int], int]:
    start, at = varint(data, at)
    size, at = varint(data, at)
    return (start, size), at


def _block(data: bytes, start: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Each key says how many bytes it shares with the key before it."""
    end = start + size
    if size < 4 or end + _TRAILER > len(data) - _FOOTER:
        raise Broken("a block lies outside the file")
    if masked_crc(data[start : end + 1]) != int.from_bytes(data[end + 1 : end + 5], "little"):
        raise Broken("a block does not match its checksum")
    if data[end] != 0:
        name = {1: "snappy"}.get(data[end], f"type {data[end]}")
        raise Broken(f"a block is compressed ({name}), which TensorFlow does not do")
    restarts = int.from_bytes(data[end - 4 : end], "little")
    stop = end - 4 - 4 * restarts
    key, at, room = b"", start, _MOST_NAMES
    while at < stop:
        shared, at = varint(data, at)
        fresh, at = varint(data, at)
        length, at = varint(data, at)
        room -= shared + fresh + _PER_NAME
        if shared > len(key) or at + fresh + length > stop or room < 0:
            raise Broken("a name or an entry is longer than its block")
        key = key[:shared] + data[at : at + fresh]
        at += fresh
        yield key, data[at : at + length]
        at += length
    if at != stop:
        raise Broken("a block ends inside an entry")


def _crc_table() -> tuple[int, ...]:
    rows = list(range(256))
    for _ in range(8):
        rows = [(c >> 1) ^ (0x82F63B78 if c & 1 else 0) for c in rows]
    return tuple(rows)


_CRC = _crc_table()


def masked_crc(data: bytes) -> int:
    """CRC-32C as these files store it: turned and shifted, since the bytes may hold checksums."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc = _CRC[(crc ^ byte) & 255] ^ (crc >> 8)
    crc ^= 0xFFFFFFFF
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def varint(data: bytes, at: int) -> tuple[int, int]:
    """A number and where it ends; a negative one comes as the huge one of the same bits."""
    value = 0
    for i, byte in enumerate(data[at : at + 10]):
        value |= (byte & 127) << (7 * i)
        if byte < 128:
            return value, at + i + 1
    raise Broken("a number does not end")


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    at = 0
    while at < len(data):
        tag, at = varint(data, at)
        wire = tag & 7
        if wire == _VARINT:
            number, at = varint(data, at)
            yield tag >> 3, number
            continue
        if wire == _BYTES:
            size, at = varint(data, at)
        elif wire in (_FIXED32, _FIXED64):
            size = 4 if wire == _FIXED32 else 8
        else:
            raise Broken(f"a field is of wire type {wire}")
        value = data[at : at + size]
        if len(value) < size:
            raise Broken("a field is longer than its message")
        at += size
        yield tag >> 3, value if wire == _BYTES else int.from_bytes(value, "little")


def numbers(message: bytes) -> dict[int, int]:
    """Fields of numbers by their field number; the last one counts."""
    return {number: value for number, value in _fields(message) if isinstance(value, int)}


def parts(message: bytes, number: int) -> Iterator[bytes]:
    """Every message, string or bytes of one field number."""
    return (value for n, value in _fields(message) if n == number and isinstance(value, bytes))


def text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Broken(f"the name {data[:80]!r} is not UTF-8") from None
