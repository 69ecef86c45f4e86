"""The only code that knows every room: opens a model, and turns requests of text into samples."""

from __future__ import annotations

import itertools
import math
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from gentool import checkpoints, device, folder, tokenizers
from gentool.checkpoints import TensorSource
from gentool.config import ModelConfig, Sampling
from gentool.errors import ModelError, UsageError
from gentool.schema import parse
from gentool.tokenizers import Tokenizer
from gentool.tokenizers.stream import TextStream

if TYPE_CHECKING:  # TensorFlow comes in when a model is opened
    from gentool.decoding.engine import Engine
    from gentool.models.weights import Weight

Finish = Literal["eos", "stop", "length"]
Ends = int | Sequence[int] | None | Literal["default"]
DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
SMALL = 1 << 28  # bytes of fp32 weights that are as fast as 16 bits
GROUP_ROWS = 64  # rows decoded together when there are many prompts
MOST_ROWS = 512  # of one prompt decoded together


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
    keyed by seed (below 2^64) and the `rows` of the prompts (below 2^32). `eos` is the model's own
    end, none, or ids."""

    prompts: tuple[str | tuple[int, ...], ...]
    rows: tuple[int, ...]
    n: int
    sampling: Sampling
    seed: int
    eos: Ends = "default"
    batch_invariant: bool = False

    def __post_init__(self) -> None:
        limits = {"n": (self.n, 1, 2**32), "seed": (self.seed, 0, 2**64)}
        limits |= {f"row {row}": (row, 0, 2**32) for row in self.rows}
        for name, (value, low, high) in limits.items():
            if not low <= value < high:
                raise UsageError(f"{name} is {value}", f"it can be {low} to {high - 1}")


@dataclass(frozen=True)
class Chunk:
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
                f"{self.config.name} has no tokenizer",
                f"put {', '.join(folder.TOKENIZERS)} into {self.config.folder}, or name the file"
                " with --set tokenizer.model=… and its kind with --set tokenizer.kind=…",
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
        self._check(self._ids(ids), 0, "the text")
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
        stop: str | Sequence[str] | None = None,
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
            "stop": [stop] if isinstance(stop, str) else stop and list(stop),
            "include_stop": include_stop,
        }
        changed = {key: value for key, value in given.items() if value is not None}
        request = Request(
            prompts=(prompt if isinstance(prompt, str) else tuple(map(int, prompt)),),
            rows=(row,),
            n=n,
            sampling=parse(Sampling, self.config.sampling.model_dump() | changed, "complete"),
            seed=secrets.randbits(32) if seed is None else seed,
            eos=eos,
            batch_invariant=batch_invariant,
        )
        done = {chunk.sample: chunk.done for chunk in self.stream(request) if chunk.done}
        return [done[index] for index in range(n)]

    def stream(self, request: Request) -> Iterator[Chunk]:
        """All samples of a request, chunk by chunk as they grow. Samples of one prompt and of
        neighbouring prompts are computed together, and their chunks interleave."""
        prompts = [self._ids(prompt) for prompt in request.prompts]
        for row, ids in zip(request.rows, prompts, strict=True):
            self._check(ids, 1, f"the prompt of row {row}" if len(prompts) > 1 else "the prompt")
        ends = self._ends(request.eos)
        size = max(1, GROUP_ROWS // request.n)
        for first in range(0, len(prompts), size):
            group = range(first, min(first + size, len(prompts)))
            for sample in range(0, request.n, MOST_ROWS):
                samples = range(sample, min(sample + MOST_ROWS, request.n))
                yield from self._decode(request, prompts, group, samples, ends)

    def _decode(
        self,
        request: Request,
        prompts: list[list[int]],
        group: range,
        samples: range,
        ends: frozenset[int],
    ) -> Iterator[Chunk]:
        """The given samples of a group of prompts, together."""
        from gentool.decoding.loop import Limits, Row, decode
        from gentool.decoding.sampling import Law

        s, context = request.sampling, self.config.arch.n_ctx
        rows = [
            Row(index, request.rows[prompt], sample)
            for index, prompt in enumerate(group)
            for sample in samples
        ]
        most = tuple(min(s.max_tokens, context - len(prompts[prompt])) for prompt in group)
        texts = [
            TextStream(
                self._tokenizer, prompts[group[r.prompt]], s.stop, s.include_stop, s.min_tokens
            )
            for r in rows
        ]
        ids: list[list[int]] = [[] for _ in rows]
        sums = [0.0] * len(rows)
        computed = [self._engine.prefill(prompts[prompt]) for prompt in group]
        stopped: set[int] = set()
        steps = decode(
            self._engine,
            [prefix for prefix, _ in computed],
            np.concatenate([logits for _, logits in computed]),
            rows,
            Law(s.temperature, s.top_k, s.top_p),
            Limits(s.min_tokens, most, min(s.max_tokens, context), ends),
            request.seed,
            stopped,
            request.batch_invariant,
        )
        for token in itertools.chain.from_iterable(steps):
            index, row, stream = token.row, rows[token.row], texts[token.row]
            ids[index].append(token.id)
            sums[index] += token.log_probability
            text = "" if token.ended else stream.push(token.id)
            length = len(ids[index]) == most[row.prompt]
            done = None
            if stream.stopped or token.ended or length:
                text += stream.finish()
                finish: Finish = "eos" if token.ended else "length"
                if stream.stopped:
                    finish = "stop"
                    stopped.add(index)
                done = Sample(stream.text, tuple(ids[index]), sums[index], sums[index], finish)
            if text or done:
                yield Chunk(group[row.prompt], row.sample, text, done)

    def _ids(self, prompt: str | Sequence[int]) -> list[int]:
        """The ids of a prompt, each in the vocabulary."""
        if isinstance(prompt, str):
            try:
                prompt.encode()
            except UnicodeEncodeError as e:
                raise UsageError(
                    f"the prompt is not text (character {e.start})", "decode it as UTF-8"
                ) from None
        if not len(prompt):
            raise UsageError("the prompt is empty", "give at least one character to continue")
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        if not ids:
            raise UsageError("the prompt holds no token", "give other text to continue")
        self._check_ids(ids)
        return ids

    def _check_ids(self, ids: Iterable[int]) -> None:
        last = self.config.arch.n_vocab - 1
        if wrong := [i for i in ids if not 0 <= i <= last]:
            raise UsageError(
                f"token id {wrong[0]} is outside the vocabulary", f"0 to {last} are in"
            )

    def _check(self, ids: list[int], new: int, what: str) -> None:
        """That `new` tokens after `ids` are within the context."""
        context = self.config.arch.n_ctx
        if len(ids) + new > context:
            raise UsageError(
                f"{what} has {len(ids)} tokens, the context of {self.config.name} is {context}",
                f"shorten it to {context - new} tokens or fewer",
            )

    def _ends(self, eos: Ends) -> frozenset[int]:
        """The ids that end a text: those asked for, else the YAML's, else the tokenizer's own."""
        named = self.config.tokenizer.end if self.config.tokenizer else None
        ids: Sequence[int]
        if eos == "default":
            own = self._tokenizer.end if self._tokenizer else ()
            ids = own if named is None else named
        elif eos is None:
            ids = ()
        else:
            ids = [int(eos)] if isinstance(eos, int | np.integer) else [int(i) for i in eos]
        self._check_ids(ids)
        return frozenset(ids)


class Parts(NamedTuple):
    """What a YAML names, opened: everything but the weights themselves, which are only planned."""

    tokenizer: Tokenizer | None
    family: ModuleType
    source: TensorSource
    plan: Mapping[str, Weight]


def parts(config: ModelConfig) -> Parts:
    """Opens a model's files, and checks that they are of one model."""
    tokenizer = tokenizers.load(config.tokenizer, config.folder) if config.tokenizer else None
    if config.tokenizer and tokenizer:
        more = config.arch.n_vocab - tokenizer.n_vocab
        # rows without a piece are usual, but GPT2_ML's two vocabularies are mistaken for each other
        if more < 0 or (config.tokenizer.kind == "wordpiece" and more > 1000):
            raise ModelError(
                f"{config.folder / config.tokenizer.model} has {tokenizer.n_vocab} pieces,"
                f" {config.name} has {config.arch.n_vocab}",
                "they are not of one model: name its own with --set tokenizer.model=FILE",
            )
    source = checkpoints.open_checkpoint(config.folder / config.checkpoint, config.format)
    device.setup()
    from gentool import models
    from gentool.models import weights

    family = models.load_family(config.family)
    return Parts(tokenizer, family, source, weights.plan(source, family, config.arch))


def fitting(plan: Mapping[str, Weight]) -> str:
    """The precision for weights as they lie in a file: fp32 where that is small or what they have,
    else the 16 bits they have, which are read faster than fp32 and need not be copied."""
    stored = {weight.dtype.name for weight in plan.values()}
    size = 4 * sum(math.prod(weight.shape) for weight in plan.values())
    same = [name for name, dtype in DTYPES.items() if stored == {dtype}]
    return same[0] if same and size > SMALL else "fp32"


def open_model(config: ModelConfig, precision: str | None = None, xla: bool = True) -> Model:
    """Opens what a YAML describes. `precision` is how weights are stored; products of 16-bit
    weights are summed in float32. auto is `fitting`."""
    precision = precision or config.precision
    if precision not in ("auto", *DTYPES):
        raise UsageError(f"precision is {precision!r}", f"it can be auto, {', '.join(DTYPES)}")
    tokenizer, family, source, plan = parts(config)
    precision = fitting(plan) if precision == "auto" else precision

    import tensorflow as tf

    from gentool.decoding.engine import Engine
    from gentool.models import weights

    params = weights.load(source, plan, config.arch.n_layer, tf.as_dtype(DTYPES[precision]))
    return Model(config, tokenizer, Engine(family, config.arch, params, xla), precision, xla)
