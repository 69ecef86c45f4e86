"""Adapters in the files of PEFT (Hugging Face): adapter_config.json beside tensors named by the
modules of transformers. Families that transformers does not have go by our own names.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import numpy as np

from gentool.checkpoints import TensorSource, open_checkpoint, safetensors
from gentool.config.adapter import WEIGHTS, AdapterConfig, read_adapter_config
from gentool.config.folder import ADAPTER
from gentool.config.model import Arch
from gentool.errors import GentoolError, ModelError
from gentool.models.adapter import Adapter, LowRank, Replaced
from gentool.models.names import Dialect, TensorRef, as_stored
from gentool.models.weights import FLOATS

PREFIX = "base_model.model."
KINDS = re.compile(
    r"(.+)\.(lora_A\.weight|lora_B\.weight|lora_embedding_A|lora_embedding_B"
    r"|lora_magnitude_vector)"
)
MATRICES = {
    "linear": ("lora_A.weight", "lora_B.weight"),
    "embedding": ("lora_embedding_A", "lora_embedding_B"),
}
EMBEDDINGS = ("embedding", "position", "query_position")


class Place(NamedTuple):
    """Where a tensor of transformers is: rows of one of our weights, [in, out] if `transposed`."""

    name: str
    start: int
    shape: tuple[int, ...]
    transposed: bool


def read_adapter(folder: Path, family: ModuleType, arch: Arch) -> Adapter:
    """The adapter in a folder, for a model of this family and these numbers.

    Raises:
        ModelError: it is damaged, of a kind that is not supported, or of another model.
    """
    files = read_adapter_config(folder)
    source = open_checkpoint(files.weights)
    reader = _Reader(files.config, source, files.weights)
    keys = sorted(source.shapes)
    places = _places_of(keys, family, arch)
    modules: dict[str, dict[str, str]] = {}
    changes: dict[str, list[LowRank | Replaced]] = {}
    whole: dict[str, str] = {}
    for key in keys:
        name = key.removeprefix(PREFIX) if key.startswith(PREFIX) else ""
        if kind := KINDS.fullmatch(name):
            modules.setdefault(kind[1], {})[kind[2]] = key
            continue
        name = name.replace(".base_layer.", ".")
        place = reader.place(places, key, name)
        if name in whole:
            raise ModelError(f"{files.weights}: {key} and {whole[name]} are one weight", _RESTORE)
        whole[name] = key
        changes.setdefault(place.name, []).append(reader.replaced(key, place))
    for module, tensors in modules.items():
        place = reader.place(places, min(tensors.values()), f"{module}.weight")
        if len(place.shape) != 2:
            problem = f"{files.weights}: {module} is no matrix, but has a change of low rank"
            raise ModelError(problem, _RESTORE)
        changes.setdefault(place.name, []).append(reader.low_rank(module, tensors, place))
    if not changes:
        raise ModelError(f"{files.weights} has no tensors", "it is an adapter of nothing")
    return Adapter(
        {n: tuple(all) for n, all in changes.items()}, (files.config_path, *source.files)
    )


def _places_of(keys: list[str], family: ModuleType, arch: Arch) -> dict[str, Place]:
    """The places by the names of tensors in the dialect that has most of an adapter's modules."""
    tables = [_places(dialect, family, arch) for dialect in _dialects(family, arch)]
    modules = {kind[1] for key in keys if (kind := KINDS.fullmatch(key.removeprefix(PREFIX)))}
    return max(tables, key=lambda table: sum(f"{module}.weight" in table for module in modules))


class _Reader(NamedTuple):
    """Reads the tensors of an adapter's file."""

    config: AdapterConfig
    source: TensorSource
    path: Path

    def place(self, places: Mapping[str, Place], key: str, name: str) -> Place:
        if name in places:
            return places[name]
        base = self.config.base_model_name_or_path
        raise ModelError(
            f"{self.path}: tensor {key[:200]} is for no weight of this model",
            f"it is an adapter of {base[:200]}" if base else "it is an adapter of another model",
        )

    def low_rank(self, module: str, tensors: Mapping[str, str], place: Place) -> LowRank:
        """The change that the tensors of a module make; `tensors` are their names by kind."""
        is_embedding = any(kind in tensors for kind in MATRICES["embedding"])
        kinds = MATRICES["embedding" if is_embedding else "linear"]
        for kind in kinds:
            if kind not in tensors:
                problem = f"{self.path}: tensor {PREFIX}{module}.{kind} is missing"
                raise ModelError(problem, _RESTORE)
        rank, (rows, inner) = self.config.rank(module), place.shape
        if is_embedding:
            b = self.array(tensors[kinds[0]], rank, rows).T
            a = self.array(tensors[kinds[1]], inner, rank).T
        else:
            a = self.array(tensors[kinds[0]], rank, inner)
            b = self.array(tensors[kinds[1]], rows, rank)
        magnitude = tensors.get("lora_magnitude_vector")
        if self.config.use_dora != (magnitude is not None) or (is_embedding and magnitude):
            raise ModelError(
                f"{self.path}: {module} {'has a' if magnitude else 'has no'} lora_magnitude_vector,"
                f" {ADAPTER} has use_dora {str(self.config.use_dora).lower()}",
                "DoRA of an embedding is not supported" if is_embedding else _RESTORE,
            )
        lengths = None if magnitude is None else self.array(magnitude, rows)
        return LowRank(a, b, self.config.scale(module), place.start, lengths)

    def replaced(self, key: str, place: Place) -> Replaced:
        shape = place.shape[::-1] if place.transposed else place.shape
        array = self.array(key, *shape)
        return Replaced(array.T if place.transposed else array, place.start)

    def array(self, key: str, *shape: int) -> np.ndarray:
        """A tensor of this shape in float32."""
        actual, dtype = self.source.shapes[key], self.source.dtypes[key]
        if actual != shape:
            raise ModelError(
                f"{self.path}: tensor {key} has shape {list(actual)}, not {list(shape)}",
                "the adapter must fit the model, and its rank the adapter_config.json",
            )
        if dtype not in FLOATS:
            raise ModelError(
                f"{self.path}: tensor {key} has dtype {dtype}",
                "save it in float16, bfloat16 or float32",
            )
        with np.errstate(over="ignore"):
            array = self.source.read(key).astype(np.float32)
        if not np.isfinite(array).all():
            problem = f"{self.path}: tensor {key} has numbers that are not finite"
            raise ModelError(problem, _RESTORE)
        return array


_RESTORE = "restore the adapter from its source"


def _dialects(family: ModuleType, arch: Arch) -> list[Dialect]:
    """The names of transformers, with and without a prefix; then our own, as modules."""
    theirs = [d for title, d in family.DIALECTS.items() if title.startswith("hugging face")]
    inner = {name for i in range(arch.n_layer) for name in family.layer_tensors(arch, i)}
    own = Dialect(
        {name: as_stored(f"{name}.weight") for name in family.top_tensors(_untied(arch))},
        {name: as_stored(f"layers.{{i}}.{name}.weight") for name in inner},
    )
    return [*theirs, own]


def _untied(arch: Arch) -> Arch:
    return arch.model_copy(update={"tied_head": False})


def _places(dialect: Dialect, family: ModuleType, arch: Arch) -> dict[str, Place]:
    """Where the tensors of a dialect are, by name."""
    weights = [
        (name, dialect.top[name], 0, shape)
        for name, shape in family.top_tensors(_untied(arch)).items()
    ]
    for i in range(arch.n_layer):
        for name, shape in family.layer_tensors(arch, i).items():
            weights.append((f"layers.{i}.{name}", dialect.layer[name], i, shape))
    places = {}
    for name, ref, i, shape in weights:
        start = 0
        for template, rows in zip(ref.names, _rows_of_parts(name, ref, shape, arch), strict=True):
            places[template.format(i=i)] = Place(name, start, (rows, *shape[1:]), ref.transposed)
            start += rows
    return places


def _rows_of_parts(name: str, ref: TensorRef, shape: tuple[int, ...], arch: Arch) -> list[int]:
    """The outputs of the tensors that a weight of this shape is concatenated of."""
    if len(ref.names) == 3 and ".qkv" in name:
        return [n * arch.d_head for n in (arch.n_head, arch.n_kv_head, arch.n_kv_head)]
    return [shape[0] // len(ref.names)] * len(ref.names)


def write_adapter(
    folder: Path, adapter: Adapter, family: ModuleType, arch: Arch, base: str
) -> None:
    """Writes an adapter of products as PEFT does: a part of a fused product, such as the queries,
    is a module of its own. Each of the two files is replaced at once; the configuration is the
    last. `base` is the name or folder of the model.

    Raises:
        GentoolError: the files cannot be written.
        ValueError: a change is none of whole tensors of low rank.
    """
    places = _places(_dialects(family, arch)[0], family, arch)
    tensors, ranks, alphas = {}, {}, {}
    for name, changes in adapter.changes.items():
        for change in changes:
            if isinstance(change, Replaced) or change.magnitude is not None or name in EMBEDDINGS:
                raise ValueError(f"the change of {name} is not one of a product by low rank")
            modules = list(_modules(places, name, change))
            if sum(len(b) for _, b in modules) != len(change.b):
                raise ValueError(f"the change of {name} ends inside a tensor")
            for module, b in modules:
                ranks[module] = len(change.a)
                alphas[module] = change.scale * len(change.a)
                for kind, array in zip(MATRICES["linear"], (change.a, b), strict=True):
                    tensors[f"{PREFIX}{module}.{kind}"] = np.ascontiguousarray(array, np.float32)
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "inference_mode": True,
        **_most_common("r", "rank_pattern", ranks),
        **_most_common("lora_alpha", "alpha_pattern", alphas),
        "use_rslora": False,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": any(places[f"{module}.weight"].transposed for module in ranks),
        "target_modules": _suffixes(ranks, places),
        "modules_to_save": None,
    }
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _replace(folder / WEIGHTS[0], safetensors.to_bytes(tensors, {"format": "pt"}))
        _replace(folder / ADAPTER, (json.dumps(config, indent=2) + "\n").encode())
    except OSError as e:
        raise GentoolError(
            f"cannot write {folder}: {e.strerror}", "free some space or check the permissions"
        ) from None


def _modules(
    places: Mapping[str, Place], name: str, change: LowRank
) -> Iterator[tuple[str, np.ndarray]]:
    """The modules whose weights a change covers, each with its rows of B."""
    for tensor, place in places.items():
        first, rows = place.start - change.start, place.shape[0]
        if place.name == name and 0 <= first and first + rows <= len(change.b):
            yield tensor.removesuffix(".weight"), change.b[first : first + rows]


def _most_common(key: str, pattern: str, values: Mapping[str, float]) -> dict[str, Any]:
    """The most common of the modules' values, and the others by the modules' paths."""
    whole = {module: int(x) if float(x).is_integer() else x for module, x in values.items()}
    usual = Counter(whole.values()).most_common(1)[0][0]
    return {key: usual, pattern: {m: x for m, x in whole.items() if x != usual}}


def _suffixes(modules: Iterable[str], places: Iterable[str]) -> list[str]:
    """The shortest ends of the modules' paths that no other module's path has."""
    every, chosen = (
        Counter(end for path in paths for end in _ends(path))
        for paths in ([tensor.removesuffix(".weight") for tensor in places], modules)
    )
    shortest = {next(end for end in _ends(path) if chosen[end] == every[end]) for path in modules}
    return sorted(shortest)


def _ends(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[i:]) for i in range(len(parts) - 1, -1, -1)]


def _replace(path: Path, data: bytes) -> None:
    """Writes a file beside `path`, then renames it, so that `path` is never partial."""
    part = path.with_name(f"{path.name}.part")
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise
