"""Every family is functions of an ops table: traced against a stub that knows shapes alone, with a
stub of attention, as a runtime that records a graph does it."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import NamedTuple

import pytest
from tiny import TINY

from gentool.config.model import Arch
from gentool.models import FAMILIES, load_family
from gentool.models.transformer import Params, forward
from gentool.runtimes.ops import Ops

ROWS = (3, 5)  # N, T
LEARNED = {"gpt2", "gpt2_ml", "pangu"}
NEITHER = {"tensorflow", "numpy", "ml_dtypes"}


class Shape(NamedTuple):
    """A tensor of which only the shape is known."""

    shape: tuple[int, ...]

    def _with(self, other: object) -> Shape:
        if isinstance(other, Shape):
            assert other.shape in (self.shape, self.shape[-len(other.shape) :]), (self, other)
        return self

    __add__ = __sub__ = __mul__ = __floordiv__ = __mod__ = _with  # type: ignore[assignment]


class Recorder:
    """An ops table that checks the shapes of what a family asks for."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.used: set[int] = set()

    def ops(self) -> Ops:
        def recorded(name: str) -> object:
            def call(*args: object, **kwargs: object) -> object:
                self.calls.append(name)
                self.used |= {id(arg) for arg in args if isinstance(arg, Shape)}
                return getattr(self, name)(*args, **kwargs)

            return call

        return Ops(**{name: recorded(name) for name in Ops._fields})

    def gather(self, table: Shape, ids: Shape | int) -> Shape:
        return Shape((*(ids.shape if isinstance(ids, Shape) else ()), table.shape[1]))

    def rotation(self, positions: Shape, frequency: object, length: float) -> tuple[Shape, Shape]:
        half = Shape((*positions.shape, len(frequency)))  # type: ignore[arg-type]
        return half, half

    def linear(self, x: Shape, weight: Shape, bias: Shape | None = None) -> Shape:
        assert x.shape[-1] == weight.shape[1]
        assert bias is None or bias.shape == weight.shape[:1]
        return Shape((*x.shape[:-1], weight.shape[0]))

    def rms_norm(self, x: Shape, scale: Shape, eps: float, offset: float = 0.0) -> Shape:
        assert scale.shape == x.shape[-1:]
        return x

    def layer_norm(self, x: Shape, scale: Shape, bias: Shape, eps: float) -> Shape:
        assert scale.shape == bias.shape == x.shape[-1:]
        return x

    def gelu(self, x: Shape, kind: str) -> Shape:
        assert kind in ("gelu_tanh", "gelu_erf")
        return x

    def swiglu(self, x: Shape) -> Shape:
        return Shape((*x.shape[:-1], x.shape[-1] // 2))

    geglu = swiglu

    def split(self, x: Shape, sizes: list[int]) -> list[Shape]:
        assert sum(sizes) == x.shape[-1]
        return [Shape((*x.shape[:-1], size)) for size in sizes]

    def heads(self, x: Shape, size: int) -> Shape:
        return Shape((*x.shape[:-1], x.shape[-1] // size, size))

    def rope(self, x: Shape, rotation: tuple[Shape, Shape]) -> Shape:
        assert rotation[0].shape == (*x.shape[:-2], x.shape[-1] // 2)
        return x

    def softcap(self, x: Shape, cap: float | None) -> Shape:
        return x


def arch_of(family: str) -> Arch:
    if family not in LEARNED:
        return TINY
    update = {"n_kv_head": TINY.n_head, "d_head": 8, "tied_head": True}
    return TINY.model_copy(update=update)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_is_traced_by_shapes_alone(name: str) -> None:
    family, arch, recorder = load_family(name), arch_of(name), Recorder()
    ops = recorder.ops()
    top = {key: Shape(shape) for key, shape in family.top_tensors(arch).items()}
    layers = tuple(
        {key: Shape(shape) for key, shape in family.layer_tensors(arch, index).items()}
        for index in range(arch.n_layer)
    )
    attended = []

    def attend(q: Shape, k: Shape, v: Shape) -> Shape:
        assert q.shape == (*ROWS, arch.n_head, arch.d_head)
        assert k.shape == v.shape == (*ROWS, arch.n_kv_head, arch.d_head)
        attended.append(q)
        return Shape((*ROWS, arch.n_head * arch.d_head))

    def run_layer(index: int, weights: dict[str, Shape], x: Shape, positional: object) -> Shape:
        before = len(attended)
        x = family.layer(ops, arch, weights, x, positional, attend)
        assert x.shape == (*ROWS, arch.d_model) and len(attended) == before + 1
        return x

    x = forward(family, ops, arch, Params(top, layers), Shape(ROWS), Shape(ROWS), run_layer)
    logits = family.head(ops, arch, top, family.final(ops, arch, top, x))
    assert logits.shape == (*ROWS, arch.n_vocab)
    weights = [*top.values(), *(weight for layer in layers for weight in layer.values())]
    assert all(id(weight) in recorder.used for weight in weights), "a weight is never used"
    assert set(recorder.calls) <= set(Ops._fields)


@pytest.mark.parametrize("name", FAMILIES)
def test_a_family_imports_neither_tensorflow_nor_numpy(name: str) -> None:
    path = Path(str(load_family(name).__file__))
    tree = ast.parse(path.read_text("utf-8"))
    names = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    } | {str(n.module) for n in ast.walk(tree) if isinstance(n, ast.ImportFrom)}
    assert not {name.partition(".")[0] for name in names} & NEITHER
