"""Parameters, memory and vocabulary, from shapes alone: no weight is read."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

from gentool.config.model import Arch
from gentool.models.quantized import BLOCK
from gentool.models.weights import Weight
from gentool.runtimes.litert.lower import Precision, stored_precision
from gentool.runtimes.litert.record import Recording, reachable
from gentool.tokenizers import Tokenizer

FLOAT_BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
KV_BYTES = 4  # of a number in the KV cache, float32 in both runtimes
PARTS = ("embedding", "layers", "norms", "head")


class Memory(NamedTuple):
    """Bytes of a model in one precision on one runtime. `table` is the part of `weights` that
    LiteRT gathers rows from and leaves in the mapped file."""

    precision: str
    runtime: str
    weights: int
    table: int


class Sizes(NamedTuple):
    """Parameters by part; memory by precision; bytes of the KV cache for each token."""

    parameters: Mapping[str, int]
    memory: tuple[Memory, ...]
    kv_cache_per_token: int
    n_ctx: int

    @property
    def kv_cache(self) -> int:
        """Bytes of the KV cache of one sequence at the full context."""
        return self.kv_cache_per_token * self.n_ctx


class Vocabulary(NamedTuple):
    """Rows of the embedding, pieces of the tokenizer, its special tokens, ids without a piece."""

    rows: int
    pieces: int
    special: int
    unused: tuple[int, ...]


def measure(arch: Arch, plan: Mapping[str, Weight], recording: Recording) -> Sizes:
    """The sizes of planned weights. On TensorFlow all are in one precision. LiteRT packs the
    products and keeps the tables in the file's dtype; a tied head is packed besides the table.
    Weights that are quantised already have their own precision only."""
    counts = {name: math.prod(weight.shape) for name, weight in plan.items()}
    parameters = dict.fromkeys(PARTS, 0)
    for name, count in counts.items():
        parameters[part(name)] += count
    floats = [
        Memory(name, "TensorFlow", size * sum(counts.values()), 0)
        for name, size in FLOAT_BYTES.items()
    ]
    products = product_names(recording)
    tables = sum(
        counts[name] * weight.dtype.itemsize
        for name, weight in plan.items()
        if len(weight.shape) == 2 and part(name) == "embedding"
    )
    vectors = sum(4 * count for name, count in counts.items() if len(plan[name].shape) == 1)
    litert = []
    precisions: tuple[Precision, ...] = ("fp32", "int8", "int4")
    for precision in precisions:
        packed = sum(product_bytes(name, plan[name].shape, precision) for name in products)
        litert.append(Memory(precision, "LiteRT", packed + vectors + tables, tables))
    per_token = sum(
        KV_BYTES * attention.key.heads * (attention.key.size + attention.value.size)
        for attention in recording.attentions
    )
    memory = [*litert, *floats]
    integers = {weight.dtype.name for weight in plan.values()} & {"int8", "int4"}
    if integers:  # int4 folders have int8 products, too
        memory = [row for row in litert if row.precision == min(integers)]
    return Sizes(parameters, tuple(memory), per_token, arch.n_ctx)


def part(name: str) -> str:
    """The part of a model that a weight belongs to; position tables belong to the embedding."""
    if "norm" in name.rpartition(".")[2]:
        return "norms"
    if name.startswith("layers."):
        return "layers"
    return "head" if name.startswith("head") else "embedding"


def product_names(recording: Recording) -> list[str]:
    """The matrices that a step multiplies with, in the order of computation; the head is last."""
    pieces = (*recording.pieces, recording.head)
    values = (value for piece in pieces for value in reachable(piece.outputs, piece.inputs))
    return list(dict.fromkeys(value.attributes[0] for value in values if value.op == "linear"))


def product_bytes(name: str, shape: tuple[int, ...], precision: Precision) -> int:
    """Bytes of a product's weight [out, in] on LiteRT, scales included."""
    out, width = shape
    stored = stored_precision(name, shape, precision)
    if stored == "int4":
        return out * width // 2 + 2 * out * (width // BLOCK)
    return out * (width + 4) if stored == "int8" else 4 * out * width


def vocabulary(arch: Arch, tokenizer: Tokenizer | None) -> Vocabulary:
    """What the rows of the embedding are for; without a tokenizer nothing is known of them."""
    if tokenizer is None:
        return Vocabulary(arch.n_vocab, 0, 0, ())
    special = set(tokenizer.special.values())
    beyond = range(tokenizer.n_vocab, arch.n_vocab)
    unused = tuple(id for id in beyond if id not in special and not tokenizer.piece(id, None))
    pieces = arch.n_vocab - len(unused)
    return Vocabulary(arch.n_vocab, pieces, len(special), unused)
