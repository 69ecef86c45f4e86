"""Pickles of checkpoints as inert data. Instructions are decoded by pickletools, which calls
nothing, and carried out on a stack of our own. The few names a checkpoint needs are names here too,
never the things they name; every other name, and every other instruction, is refused."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pickletools import OpcodeInfo, genops
from types import MappingProxyType
from typing import Any

import ml_dtypes
import numpy as np

_STEPS = 1_000_000  # instructions; CPM-LM's pickle has 20 000
_LONGEST = 4096  # characters of a string that is kept: comparing long keys can take for ever


class Refused(Exception):
    """What is wrong with a file, to be said after its name."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.hint = hint


@dataclass(frozen=True, eq=False)
class Storage:
    """A run of elements in the storage called `key`."""

    dtype: np.dtype[Any]
    key: str
    first: int
    count: int


@dataclass(frozen=True, eq=False)
class Tensor:
    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class _Name:
    name: str


class _Opaque:
    """Data that checkpoints hold and nobody asks for: random states, sets, bytes, arrays."""


_OPAQUE = _Opaque()

_STORAGES: Mapping[str, np.dtype[Any]] = MappingProxyType(
    {
        "torch.DoubleStorage": np.dtype("<f8"),
        "torch.FloatStorage": np.dtype("<f4"),
        "torch.HalfStorage": np.dtype("<f2"),
        "torch.BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
        "torch.LongStorage": np.dtype("<i8"),
        "torch.IntStorage": np.dtype("<i4"),
        "torch.ShortStorage": np.dtype("<i2"),
        "torch.CharStorage": np.dtype("i1"),
        "torch.ByteStorage": np.dtype("u1"),
        "torch.BoolStorage": np.dtype("?"),
        "torch.ComplexFloatStorage": np.dtype("<c8"),
        "torch.ComplexDoubleStorage": np.dtype("<c16"),
        "torch.UntypedStorage": np.dtype("u1"),
        "torch.storage.UntypedStorage": np.dtype("u1"),
        "torch.storage._UntypedStorage": np.dtype("u1"),
    }
)

_FLOATS = "get the weights in float16, bfloat16 or float32"
_STATE = "save model.state_dict() instead; nothing in the file was run"
# How names begin of what is not read: what it is, what to do.
UNREAD = {
    "torch._utils._rebuild_tensor_v3": ("a tensor of float8 or another new type", _FLOATS),
    "torch._utils._rebuild_qtensor": ("a quantised tensor", _FLOATS),
    "torch._utils._rebuild_sparse": ("a sparse tensor", _FLOATS),
    "torch._utils._rebuild_nested": ("a nested tensor", _FLOATS),
    "torch._utils._rebuild_meta": (
        "a tensor without data (meta)",
        "save the model when it is loaded",
    ),
    "torch._utils._rebuild_wrapper_subclass": ("a tensor of a class of its own", _FLOATS),
    "torch._tensor._rebuild_from_type": ("a tensor of a class of its own", _FLOATS),
    "torch.nn.": ("a whole module, not its tensors", _STATE),
    "transformers.": ("a whole model, not its tensors", _STATE),
    **{
        f"torch.{name}": ("a tensor of another type", _FLOATS)
        for name in ("float8", "Float8", "qint", "quint", "QInt", "QUInt")
    },
}

_TENSORS = frozenset({"torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2"})

_MAKE_OPAQUE = frozenset(
    {
        "__builtin__.set",
        "builtins.set",
        "_codecs.encode",
        "numpy.core.multiarray._reconstruct",
        "numpy.core.multiarray.scalar",
        "numpy._core.multiarray._reconstruct",
        "numpy._core.multiarray.scalar",
        "numpy.dtype",
        "torch.Size",
        "torch.device",
    }
)

_ONLY_NAMED = frozenset(
    {"numpy.ndarray", "torch.storage.TypedStorage", "torch.storage._TypedStorage"}
) | {
    f"torch.{dtype}"
    for dtype in (
        *("float16", "bfloat16", "float32", "float64", "complex64", "complex128"),
        *("uint8", "int8", "int16", "int32", "int64", "bool"),
    )
}

_KNOWN = (
    frozenset(_STORAGES)
    | _TENSORS
    | _MAKE_OPAQUE
    | _ONLY_NAMED
    | {"torch._utils._rebuild_parameter", "collections.OrderedDict"}
)


def _instructions(stream: Any) -> Iterator[tuple[OpcodeInfo, Any, int | None]]:
    """What genops decodes, without its warnings of odd escapes in strings."""
    decoded = genops(stream)
    while True:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = next(decoded, None)
        if found is None:
            return
        yield found


def unpickle(stream: BytesIO, storages: list[Storage]) -> object:
    """The object of the pickle at the stream's place, which is left behind the pickle. Storages
    the pickle refers to are added to `storages`. Dicts keep their entries under strings only: no
    other is asked for, and hashing what a file chose can take for ever."""
    stack: list[object] = []
    below: list[list[object]] = []
    memo: dict[int, object] = {}
    steps = _STEPS
    arg: Any
    for op, arg, _ in _instructions(stream):
        steps -= 1
        if steps < 0:
            raise Refused("holds a pickle of more instructions than any checkpoint needs")
        match op.name:
            case "PROTO" | "FRAME":
                pass
            case "STOP":
                break
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(op.name == "NEWTRUE")
            case "BININT" | "BININT1" | "BININT2" | "INT" | "LONG1" | "LONG4" | "BINFLOAT":
                stack.append(arg)
            case (
                "BINUNICODE" | "SHORT_BINUNICODE" | "BINUNICODE8" | "BINSTRING" | "SHORT_BINSTRING"
            ):
                stack.append(arg if len(arg) <= _LONGEST else _OPAQUE)
            case "BINBYTES" | "SHORT_BINBYTES" | "BINBYTES8" | "BYTEARRAY8" | "EMPTY_SET":
                stack.append(_OPAQUE)
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_DICT":
                stack.append({})
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                length = int(op.name[-1])
                stack.append(tuple(_popped(stack, length)))
            case "MARK":
                below.append(stack)
                stack = []
            case "TUPLE" | "LIST" | "DICT" | "FROZENSET" | "POP_MARK":
                items, stack = stack, below.pop()
                if op.name != "POP_MARK":
                    stack.append(_collection(op.name, items))
            case "APPENDS" | "SETITEMS" | "ADDITEMS":
                items, stack = stack, below.pop()
                _extend(op.name, stack[-1], items)
            case "APPEND" | "SETITEM":
                items = _popped(stack, 1 if op.name == "APPEND" else 2)
                _extend(op.name + "S", stack[-1], items)
            case "POP":
                stack.pop()
            case "DUP":
                stack.append(stack[-1])
            case "BINPUT" | "LONG_BINPUT":
                memo[arg] = stack[-1]
            case "MEMOIZE":
                memo[len(memo)] = stack[-1]
            case "BINGET" | "LONG_BINGET":
                if arg not in memo:
                    raise Refused("holds a broken pickle: it asks for what it never made")
                stack.append(memo[arg])
            case "GLOBAL":
                stack.append(_named(arg.replace(" ", ".", 1)))
            case "STACK_GLOBAL":
                module, name = _popped(stack, 2)
                if not isinstance(module, str) or not isinstance(name, str):
                    raise Refused("holds a broken pickle: a name is not a string")
                stack.append(_named(f"{module}.{name}"))
            case "BINPERSID":
                storage = _storage(stack.pop())
                storages.append(storage)
                stack.append(storage)
            case "REDUCE":
                called, args = _popped(stack, 2)
                if not isinstance(called, _Name) or not isinstance(args, tuple) or len(args) > 8:
                    raise Refused("holds a pickle that calls what is not a name")
                steps -= sum(len(a) for a in args if isinstance(a, list))
                stack.append(_made(called.name, args))
            case "BUILD":
                state = stack.pop()
                _check_state(stack[-1], state)
            case _:
                raise Refused(f"holds the pickle instruction {op.name}, which no checkpoint needs")
    return stack.pop()


def _popped(stack: list[object], count: int) -> list[object]:
    if len(stack) < count:
        raise Refused("holds a broken pickle: it takes more than it made")
    items = stack[-count:]
    del stack[-count:]
    return items


def _named(name: str) -> _Name:
    if name not in _KNOWN:
        for begin, (what, hint) in UNREAD.items():
            if name.startswith(begin):
                raise Refused(f"holds {what} ({name[:100]!r}), which is not read", hint)
        shown = name[:100].encode("ascii", "backslashreplace").decode()
        printable = shown if shown.isprintable() else repr(shown)
        raise Refused(
            f"names {printable}, which no checkpoint needs",
            "the file may be hostile; nothing in it was run. Get the weights from their publisher",
        )
    return _Name(name)


def _collection(kind: str, items: list[object]) -> object:
    match kind:
        case "TUPLE":
            return tuple(items)
        case "LIST":
            return items
        case "DICT":
            made: dict[str, object] = {}
            _extend("SETITEMS", made, items)
            return made
        case _:
            return _OPAQUE


def _extend(kind: str, target: object, items: list[object]) -> None:
    if kind == "APPENDS" and isinstance(target, list):
        target.extend(items)
    elif kind == "SETITEMS" and isinstance(target, dict) and len(items) % 2 == 0:
        pairs = zip(items[::2], items[1::2], strict=True)
        target.update((key, value) for key, value in pairs if isinstance(key, str))
    elif kind != "ADDITEMS" or target is not _OPAQUE:
        raise Refused("holds a broken pickle: it adds to what is no collection")


def _check_state(target: object, state: object) -> None:
    """The only states of checkpoints, all without use: attributes of an OrderedDict (_metadata of a
    state_dict), and what numpy's arrays and dtypes hold."""
    if isinstance(target, dict) and isinstance(state, dict):
        return
    if target is _OPAQUE and isinstance(state, tuple):
        return
    raise Refused("holds a pickle that sets the state of what has none")


def _made(name: str, args: tuple[object, ...]) -> object:
    """What a call stands for; nothing is called."""
    match args:
        case (Storage() as storage, offset, shape, strides, *more) if name in _TENSORS:
            bits = more[2] if len(more) > 2 and isinstance(more[2], dict) else {}
            if bits.get("neg") or bits.get("conj"):
                raise Refused(
                    "holds a tensor whose sign or conjugate is not applied yet",
                    "save tensor.resolve_neg().resolve_conj()",
                )
            return _tensor(storage, offset, shape, strides)
        case (Tensor() as tensor, *_) if name == "torch._utils._rebuild_parameter":
            return tensor
        case () if name == "collections.OrderedDict":
            return {}
        case (list() as items,) if name == "collections.OrderedDict":  # python 2
            pairs = [i for i in items if isinstance(i, list | tuple) and len(i) == 2]
            return {i[0]: i[1] for i in pairs if isinstance(i[0], str)}
        case _ if name in _MAKE_OPAQUE:
            return _OPAQUE
    raise Refused(f"holds a call of {name} that torch.save does not write")


def _tensor(storage: Storage, offset: object, shape: object, strides: object) -> Tensor:
    sizes, steps = _counts(shape), _counts(strides)
    (start,) = _counts((offset,))
    if len(sizes) != len(steps):
        raise Refused("holds a tensor with a broken shape")
    return Tensor(storage, start, sizes, steps)


def _counts(values: object) -> tuple[int, ...]:
    if not isinstance(values, tuple) or len(values) > 32:
        raise Refused("holds a tensor with a broken shape")
    counts = tuple(v for v in values if type(v) is int and 0 <= v < 1 << 62)
    if len(counts) != len(values):
        raise Refused("holds a tensor with a broken shape")
    return counts


def _storage(identity: object) -> Storage:
    match identity:
        case ("storage", _Name(kind), str(key), _, count, *view) if kind in _STORAGES:
            match view:
                case [] | [None]:
                    (length,) = _counts((count,))
                    return Storage(_STORAGES[kind], key, 0, length)
                case [(_, offset, size)]:
                    first, length = _counts((offset, size))
                    return Storage(_STORAGES[kind], key, first, length)
    raise Refused("refers to data outside its pickle in an unknown way")
