"""The only code that knows every room: opens a model, and turns requests of text into samples."""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from gentool import checkpoints, device, tokenizers
from gentool.config import ModelConfig, Sampling, parse
from gentool.errors import ModelError, UsageError
from gentool.tokenizers import Tokenizer
from gentool.tokenizers.stream import TextStream

if TYPE_CHECKING:  # TensorFlow comes in when a model is opened
    from gentool.decoding.engine import Engine

Finish = Literal["eos", "stop", "length"]
Ends = int | Sequence[int] | None | Literal["default"]
GROUP_ROWS = 64  # rows decoded together when there are many prompts


@dataclass(frozen=True)
class Sample:
    """One continuation; without a tokenizer its text is empty. `ids` are all tokens drawn, an end
    token and those of a stop string included; `logprob` is their summed natural log-probability
    under the model itself, before any filter; `score` is what samples are ordered by, here the
    same."""

    text: str
    ids: tuple[int, ...]
    logprob: float
    score: float
    finish: Finish


@dataclass(frozen=True)
class Request:
    """Prompts and how to continue each: `n` samples by the law `sampling`, their random numbers
    keyed by seed and the `rows` of the prompts. `eos` is the model's own end, none, or ids."""

    prompts: tuple[str | tuple[int, ...], ...]
    rows: tuple[int, ...]
    n: int
    sampling: Sampling
    seed: int
    eos: Ends = "default"
    batch_invariant: bool = False


@dataclass(frozen=True)
class Piece:
    """Text that sample `sample` of prompt `prompt` has grown by; `done` comes with its last."""

    prompt: int
    sample: int
    text: str
    done: Sample | None = None


class Model:
    """An open model: its tokenizer, its weights, and the verbs on them."""

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: Tokenizer | None,
        engine: Engine,
        precision: str,
        xla: bool,
    ) -> None:
        self.config = config
        self.precision, self.xla = precision, xla
        self._tokenizer, self._engine = tokenizer, engine

    @property
    def tokenizer(self) -> Tokenizer:
        if self._tokenizer is None:
            raise ModelError(
                f"{self.config.name} has no tokenizer", "name one under tokenizer: in its YAML"
            )
        return self._tokenizer

    def describe(self) -> str:
        """One line: name, size, precision, how it runs."""
        top, layers = self._engine.params
        every = [*top.values(), *(weight for layer in layers for weight in layer.values())]
        count = sum(math.prod(weight.shape) for weight in every)
        how = "XLA" if self.xla else "no XLA"
        return (
            f"{self.config.name}: {count / 1e6:.1f} M parameters, {self.precision}, {how},"
            f" {device.describe()}"
        )

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """float32 [T, V]: row t holds the logits of the token after ids[: t + 1]."""
        self._check(len(ids), 0, "the text")
        _, logits = self._engine.prefill(list(ids), every=True)
        return logits

    def complete(
        self,
        prompt: str | Sequence[int],
        n: int = 1,
        *,
        temperature: float | None = None,
        top_k: int | None = None,
        top_p: float | None = None,
        max_tokens: int | None = None,
        min_tokens: int | None = None,
        stop: Sequence[str] | None = None,
        include_stop: bool | None = None,
        seed: int | None = None,
        row: int = 0,
        eos: Ends = "default",
        batch_invariant: bool = False,
    ) -> list[Sample]:
        """`n` continuations of a prompt (text or ids), in order of sample index. What is None is
        as the model's YAML says, else as `Sampling` does; without a seed one is drawn."""
        given = {
            "temperature": temperature,
            "top_k": top_k,
            "top_p": top_p,
            "max_tokens": max_tokens,
            "min_tokens": min_tokens,
            "stop": None if stop is None else list(stop),
            "include_stop": include_stop,
        }
        changed = {key: value for key, value in given.items() if value is not None}
        request = Request(
            prompts=(prompt if isinstance(prompt, str) else tuple(prompt),),
            rows=(row,),
            n=n,
            sampling=parse(Sampling, self.config.sampling.model_dump() | changed, "complete"),
            seed=secrets.randbits(32) if seed is None else seed,
            eos=eos,
            batch_invariant=batch_invariant,
        )
        done = {piece.sample: piece.done for piece in self.stream(request) if piece.done}
        return [done[index] for index in range(n)]

    def stream(self, request: Request) -> Iterator[Piece]:
        """All samples of a request, piece by piece as they grow. Samples of one prompt and of
        neighbouring prompts are computed together, and their pieces interleave."""
        prompts = [self._ids(prompt) for prompt in request.prompts]
        for row, ids in zip(request.rows, prompts, strict=True):
            self._check(
                len(ids), 1, f"the prompt of row {row}" if len(prompts) > 1 else "the prompt"
            )
        size = max(1, GROUP_ROWS // request.n)
        for first in range(0, len(prompts), size):
            yield from self._stream_group(request, prompts[first : first + size], first)

    def _stream_group(
        self, request: Request, prompts: list[list[int]], first: int
    ) -> Iterator[Piece]:
        from gentool.decoding.loop import Limits, Row, decode
        from gentool.decoding.sampling import Law

        s = request.sampling
        rows = [
            Row(index, request.rows[first + index], sample)
            for index in range(len(prompts))
            for sample in range(request.n)
        ]
        most = tuple(min(s.max_tokens, self.config.arch.n_ctx - len(ids)) for ids in prompts)
        limits = Limits(s.min_tokens, most, self._ends(request.eos))
        texts = [
            TextStream(self._tokenizer, prompts[r.prompt], s.stop, s.include_stop, s.min_tokens)
            for r in rows
        ]
        ids: list[list[int]] = [[] for _ in rows]
        sums = [0.0] * len(rows)
        computed = [self._engine.prefill(prompt) for prompt in prompts]
        stopped: set[int] = set()
        steps = decode(
            self._engine,
            [prefix for prefix, _ in computed],
            np.concatenate([logits for _, logits in computed]),
            rows,
            Law(s.temperature, s.top_k, s.top_p),
            limits,
            request.seed,
            stopped,
            request.batch_invariant,
        )
        for tokens in steps:
            for token in tokens:
                index, row = token.row, rows[token.row]
                ids[index].append(token.id)
                sums[index] += token.log_probability
                text = texts[index].push(token.id)
                finish: Finish | None = None
                if texts[index].stopped:
                    finish = "stop"
                    stopped.add(index)
                elif token.ended:
                    finish = "eos"
                elif len(ids[index]) == most[row.prompt]:
                    finish = "length"
                done = None
                if finish:
                    text += texts[index].finish()
                    finish = "stop" if texts[index].stopped else finish
                    done = Sample(
                        texts[index].text, tuple(ids[index]), sums[index], sums[index], finish
                    )
                if text or done:
                    yield Piece(first + row.prompt, row.sample, text, done)

    def _ids(self, prompt: str | tuple[int, ...]) -> list[int]:
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        if not ids or not prompt:
            raise UsageError("the prompt is empty", "give at least one character to continue")
        if wrong := [i for i in ids if not 0 <= i < self.config.arch.n_vocab]:
            raise UsageError(
                f"token id {wrong[0]} is outside the vocabulary of {self.config.arch.n_vocab}",
                f"ids go from 0 to {self.config.arch.n_vocab - 1}",
            )
        return ids

    def _check(self, length: int, new: int, what: str) -> None:
        context = self.config.arch.n_ctx
        if length + new > context:
            raise UsageError(
                f"{what} has {length} tokens, the context of {self.config.name} is {context}",
                f"shorten it to {context - new} tokens or fewer",
            )

    def _ends(self, eos: Ends) -> frozenset[int]:
        if eos == "default":
            return frozenset(self._tokenizer.end if self._tokenizer else ())
        if eos is None:
            return frozenset()
        return frozenset([eos] if isinstance(eos, int) else eos)


def open_model(config: ModelConfig, precision: str | None = None, xla: bool = True) -> Model:
    """Opens what a YAML describes. `precision` is how weights are stored; products of 16-bit
    weights are summed in float32. auto is fp32, which is fastest for models that fit in a cache."""
    device.setup()
    import tensorflow as tf

    from gentool import models
    from gentool.decoding.engine import Engine
    from gentool.models import weights

    precision = precision or config.precision
    precision = "fp32" if precision == "auto" else precision
    dtype = {"fp32": tf.float32, "fp16": tf.float16, "bf16": tf.bfloat16}[precision]
    family = models.load_family(config.family)
    source = checkpoints.open_checkpoint(config.folder / config.checkpoint)
    params = weights.load(source, family, config.arch, dtype)
    tokenizer = tokenizers.load(config.tokenizer, config.folder) if config.tokenizer else None
    return Model(config, tokenizer, Engine(family, config.arch, params, xla), precision, xla)
