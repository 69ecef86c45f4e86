"""A model of any readable form as a folder that opens at once: its weights in one safetensors file,
products [out, in] and aligned so that they can be mapped, its tokenizer, and a YAML of all numbers.
The folder appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import math
import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import ml_dtypes
import numpy as np

from gentool import __version__, registry, tokenizers
from gentool.checkpoints import safetensors
from gentool.config.lookup import FOLDER_FILE
from gentool.config.model import ModelConfig
from gentool.errors import ModelError, UsageError
from gentool.generation.opening import ModelFiles, open_files
from gentool.models import column_blocks, weights
from gentool.models.quantized import INT4, INT8, SCALES, packed, shapes
from gentool.tokenizers import chat

WEIGHTS = "model.safetensors"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
DTYPES = {
    "fp32": np.dtype(np.float32),
    "fp16": np.dtype(np.float16),
    "bf16": np.dtype(ml_dtypes.bfloat16),
}


QUANTIZED: Final[dict[str, Literal["int8", "int4"]]] = {"int8": "int8", "int4": "int4"}
WORKERS = 2  # that quantise; numpy holds no lock while it computes


class Written(NamedTuple):
    """Bytes of weights so far, of how many, and the tensor they end with."""

    done: int
    size: int
    tensor: str


def convert(model: ModelConfig, target: Path, precision: str) -> Iterator[Written]:
    """Writes a model into the folder `target`, which does not exist yet, its weights in a
    precision or, where that is auto, as they are."""
    try:
        str(target).encode()  # its name stands in its YAML
    except UnicodeEncodeError:
        raise UsageError(f"{target} is not UTF-8", "name another folder") from None
    _check_new(target)
    opened = open_files(model)
    with _appearing(target) as folder:
        yield from _write_weights(folder / WEIGHTS, opened, precision)
        tokenizer = model.tokenizer
        if tokenizer:
            for path in tokenizers.files(tokenizer, model.folder):
                shutil.copyfile(path, folder / path.name)
            name = Path(tokenizer.model).name
            tokenizer = tokenizer.model_copy(update={"model": name})
        template = _copy_templates(model, folder)
        keys: dict[str, Any] = {
            "name": target.name,
            "checkpoint": WEIGHTS,
            "format": None,
            "tokenizer": tokenizer,
            "chat_template": template,
            "precision": model.precision if precision == "auto" else "auto",
            "adapter": [],  # it is merged
            "folder": folder,
        }
        written = registry.with_sums(opened.config.model_copy(update=keys))
        _durable(folder / FOLDER_FILE, registry.text(written).encode())


def _copy_templates(model: ModelConfig, folder: Path) -> str | None:
    """Copies a model's chat templates; gives its `chat_template` in the new folder."""
    paths = registry.template_files(model)
    named = model.chat_template
    for path in paths:
        inside = path.parent.name == chat.MORE_FOLDER and named is None
        place = folder / chat.MORE_FOLDER if inside else folder
        place.mkdir(exist_ok=True)
        shutil.copyfile(path, place / path.name)
    return paths[0].name if named is not None and paths else named


def _write_weights(path: Path, opened: ModelFiles, precision: str) -> Iterator[Written]:
    if any(weight.dtype in (INT8, INT4) for weight in opened.plan.values()):
        raise UsageError(
            f"{opened.source.files[0]} is quantised already", "convert the weights it was made of"
        )
    if precision in QUANTIZED:
        tensors, read = _integers(opened, precision)
        files = opened.source.files
        made_from = {_shown(file, files): registry.digest(file) for file in files}
        metadata = {"made_from": json.dumps(made_from), "quantizer": f"gentool {__version__}"}
    else:
        tensors, read = _floats(opened, precision)
        metadata = {}
    size = sum(dtype.itemsize * math.prod(shape) for dtype, shape in tensors.values())
    free = shutil.disk_usage(path.parent).free
    if free < size:
        raise ModelError(f"{path} needs {size} bytes, {free} are free", "free some space")
    done = 0
    with path.open("wb") as file:
        for name, count in safetensors.write(file, tensors, read, metadata):
            done += count
            yield Written(done, size, name)
        file.flush()
        os.fsync(file.fileno())


def _floats(
    opened: ModelFiles, precision: str
) -> tuple[safetensors.Tensors, Callable[[str], np.ndarray]]:
    """The tensors of a folder in floats, and how each is read."""
    source, plan = opened.source, opened.plan
    dtypes = {name: DTYPES.get(precision, weight.dtype) for name, weight in plan.items()}
    tensors = {
        n: (dtypes[n], column_blocks.stored_shape(n, w.shape, dtypes[n])) for n, w in plan.items()
    }

    def read(name: str) -> np.ndarray:
        dtype, shape = tensors[name]
        array = np.asarray(weights.read(source, plan[name]))
        return column_blocks.blocked(_cast(array, dtype, plan[name].names), shape)

    return tensors, read


def _integers(
    opened: ModelFiles, precision: str
) -> tuple[safetensors.Tensors, Callable[[str], np.ndarray]]:
    """The tensors of a folder in int8 or int4, and how each is read: products as integers and
    scales, the others as they are. The next products are quantised while one is written."""
    from gentool.runtimes.litert import quantize
    from gentool.runtimes.litert.lower import stored_precision

    source, plan = opened.source, opened.plan
    products = {
        name: stored_precision(name, weight.shape, QUANTIZED[precision])
        for name, weight in plan.items()
        if len(weight.shape) == 2 and (name.startswith("layers.") or name == "head")
    }
    tensors: dict[str, tuple[np.dtype, tuple[int, ...]]] = {}
    for name, weight in plan.items():
        if name not in products:
            tensors[name] = weight.dtype, weight.shape
        elif products[name] == "int8":
            values, scales = shapes(weight.shape, INT8)
            tensors |= {name: (np.dtype(np.int8), values)}
            tensors |= {name + SCALES: (np.dtype(np.float32), scales)}
        else:
            values, scales = shapes(weight.shape, INT4)
            tensors |= {name: (np.dtype(np.uint8), values)}
            tensors |= {name + SCALES: (np.dtype(np.float16), scales)}

    def quantized(name: str) -> dict[str, np.ndarray]:
        array = np.asarray(weights.read(source, plan[name]))
        if not np.isfinite(array).all():
            raise ModelError(
                f"tensor {', '.join(plan[name].names)} has numbers that are not finite",
                "they cannot be quantised",
            )
        values, scales = (quantize.int8 if products[name] == "int8" else quantize.int4)(array)
        if products[name] == "int4":
            values = packed(values).reshape(tensors[name][1])
        return {name: values, name + SCALES: scales}

    waiting, pool = list(products), ThreadPoolExecutor(WORKERS)
    running: deque[Future[dict[str, np.ndarray]]] = deque()
    ready: dict[str, np.ndarray] = {}

    def read(name: str) -> np.ndarray:
        if name.removesuffix(SCALES) not in products:
            array = np.asarray(weights.read(source, plan[name]))
            return _cast(array, plan[name].dtype, plan[name].names)
        while name not in ready:
            while waiting and len(running) <= WORKERS:
                running.append(pool.submit(quantized, waiting.pop(0)))
            ready.update(running.popleft().result())
        return ready.pop(name)

    return tensors, read


def _shown(file: Path, files: Sequence[Path]) -> str:
    """The name of a file; with its folder's where another file has the name, too."""
    names = [other.name for other in files]
    return file.name if names.count(file.name) == 1 else str(Path(file.parent.name, file.name))


def _cast(array: np.ndarray, dtype: np.dtype, names: tuple[str, ...]) -> np.ndarray:
    """The array in another type, in which all its numbers must be numbers."""
    if array.dtype == dtype:
        return array
    with np.errstate(over="ignore"):
        cast = array.astype(dtype)
    if (np.isfinite(array) & ~np.isfinite(cast)).any():
        raise ModelError(
            f"tensor {', '.join(names)} has numbers too large for {dtype}",
            "use bf16 or fp32" if dtype == np.float16 else "use fp32, or keep it as it is",
        )
    return cast


def _check_new(target: Path) -> None:
    if os.path.lexists(target):
        raise UsageError(f"{target} exists already", "name a folder that does not exist yet")


@contextlib.contextmanager
def _appearing(target: Path) -> Iterator[Path]:
    """A folder beside `target` that becomes it in the end, or vanishes. What a killed process left
    of one is removed first."""
    partial = target.parent / f".{target.name}.partial"
    try:
        partial.mkdir(exist_ok=True)
        lock = os.open(partial, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except OSError as e:
        hint = f"remove {partial}" if os.path.lexists(partial) else "name another folder"
        raise UsageError(f"cannot make {target}: {e.strerror}", hint) from None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if not os.path.samestat(os.fstat(lock), os.lstat(partial)):
            raise BlockingIOError  # what was opened has become the target of another
    except OSError:
        os.close(lock)
        raise UsageError(f"{target} is being written already", "wait for it") from None
    try:
        _check_new(target)
        for left in partial.iterdir():
            left.unlink()
        yield partial
        _check_new(target)
        partial.rename(target)
    except OSError as e:
        name = e.filename or target
        hint = "free some space" if e.errno in FULL else "check the folder and its disk"
        raise ModelError(f"cannot write {name}: {e.strerror}", hint) from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        os.close(lock)


def _durable(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
