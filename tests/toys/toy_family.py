"""A toy family: attention that is added to its input, and nothing else."""

from __future__ import annotations

from gentool.config.model import Arch
from gentool.models.names import Dialect, as_stored
from gentool.models.positions import learned
from gentool.runtimes.ops import Attend, Ops, Tensor


def top_tensors(arch: Arch) -> dict[str, tuple[int, ...]]:
    table = {"embedding": (arch.n_vocab, arch.d_model)}
    return table | {"position": (arch.n_position, arch.d_model)}


def layer_tensors(arch: Arch, index: int) -> dict[str, tuple[int, ...]]:
    return {"qkv": (3 * arch.d_model, arch.d_model)}


def positional(ops: Ops, arch: Arch, top: dict[str, Tensor], positions: Tensor) -> Tensor:
    return learned(ops, arch, top["position"], positions)


def embed(ops: Ops, arch: Arch, top: dict[str, Tensor], ids: Tensor, positional: Tensor) -> Tensor:
    return ops.gather(top["embedding"], ids) + positional


def layer(
    ops: Ops, arch: Arch, w: dict[str, Tensor], x: Tensor, positional: Tensor, attend: Attend
) -> Tensor:
    q, k, v = ops.split(ops.linear(x, w["qkv"]), [arch.d_model] * 3)
    return x + attend(*(ops.heads(part, arch.d_head) for part in (q, k, v)))


def final(ops: Ops, arch: Arch, top: dict[str, Tensor], x: Tensor) -> Tensor:
    return x


def head(ops: Ops, arch: Arch, top: dict[str, Tensor], x: Tensor) -> Tensor:
    return ops.linear(x, top["embedding"])


DIALECTS = {
    "toy": Dialect(
        {"embedding": as_stored("words"), "position": as_stored("places")},
        {"qkv": as_stored("qkv.{i}")},
    )
}
