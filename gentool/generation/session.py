"""The only code that knows every room: opens a model, and is its Python interface."""

from __future__ import annotations

import functools
import math
import secrets
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from types import ModuleType
from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np

from gentool import checkpoints, tokenizers
from gentool.checkpoints import TensorSource
from gentool.config import folder
from gentool.config.model import ModelConfig
from gentool.config.sampling import SamplingArguments, SamplingParams, parameters
from gentool.config.schema import parse
from gentool.errors import ModelError, UsageError
from gentool.generation import score as scores
from gentool.generation.request import BeamSearch, Chunk, Draw, Ends, Request, Sample, Search
from gentool.generation.score import Choice, Normalize, Score
from gentool.runtimes.xla import device
from gentool.tokenizers import Tokenizer
from gentool.tokenizers.token_bytes import Pieces, pieces
from gentool.voting.answers import Rule
from gentool.voting.examples import shots
from gentool.voting.tally import BUDGET, Ballot, Tally

if TYPE_CHECKING:  # TensorFlow comes in when a model is opened
    from typing_extensions import Unpack

    from gentool.decoding.engine import Engine
    from gentool.generation.search import Job
    from gentool.models.weights import Weight

DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
SMALL = 1 << 28  # bytes of fp32 weights that are as fast as 16 bits
DRAW = Draw()
ANSWER_TOKENS = 32  # an answer that is longer is none


class Model:
    """An open model: its tokenizer, its weights, and the verbs on them."""

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: Tokenizer | None,
        engine: Engine,
        precision: str,
    ) -> None:
        self.config, self.precision = config, precision
        self._tokenizer, self.engine = tokenizer, engine

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
        from gentool.runtimes.xla import backend as paths

        top, layers = self.engine.params
        every = [*top.values(), *(weight for layer in layers for weight in layer.values())]
        count = sum(math.prod(weight.shape) for weight in every)
        return (
            f"{self.config.name}: {count / 1e6:.1f} M parameters, {self.precision},"
            f" {device.describe()}: {paths.describe(self.engine.rules)}"
        )

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """float32 [T, V]: row t holds the logits of the token after ids[: t + 1]."""
        self._check(self._ids(ids), 0, "the text")
        _, logits = self.engine.prefill(list(ids), every=True)
        return logits.copy()  # the caller's own, without the bucket they lie in

    def complete(
        self,
        prompt: str | Sequence[int],
        n: int = 1,
        *,
        seed: int | None = None,
        row: int = 0,
        eos: Ends = "default",
        batch_invariant: bool = False,
        search: Search = DRAW,
        logprobs: int | None = None,
        regex: str | None = None,
        json_schema: str | None = None,
        **params: Unpack[SamplingArguments],
    ) -> list[Sample]:
        """`n` continuations of a prompt (text or ids), in order of sample index. `params` are
        fields of `SamplingParams`: temperature, top_k, …, max_tokens, stop; what is left out is
        as the model's YAML says. Without a seed one is drawn."""
        request = Request(
            prompts=(prompt if isinstance(prompt, str) else tuple(map(int, prompt)),),
            rows=(row,),
            n=n,
            sampling=self._sampling(params),
            seed=secrets.randbits(32) if seed is None else seed,
            eos=eos,
            batch_invariant=batch_invariant,
            search=search,
            logprobs=logprobs,
            regex=regex,
            json_schema=json_schema,
        )
        done = {chunk.sample: chunk.done for chunk in self.stream(request) if chunk.done}
        return [done[index] for index in sorted(done)]

    def beam(
        self,
        prompt: str | Sequence[int],
        beams: int = 3,
        n_best: int | None = None,
        *,
        length_penalty: float = 1.0,
        early_stopping: bool | Literal["never"] = False,
        groups: int = 1,
        diversity_penalty: float = 0.0,
        rule: Literal["hf", "bert4keras"] = "hf",
        min_ends: int = 1,
        eos: Ends = "default",
        logprobs: int | None = None,
        **params: Unpack[SamplingArguments],
    ) -> list[Sample]:
        """The `n_best` best continuations that a beam search finds, best first, 3 where it is None;
        fewer if there are no more. The rule bert4keras gives one. `params` are as in `complete`;
        those that only narrow the distribution of samples are refused."""
        for parameter in parameters():
            if parameter.flag.stage == "distribution" and parameter.name in params:
                raise UsageError(f"{parameter.name} is for samples, not for beams", "drop it")
        wanted = min(3, beams) if n_best is None else n_best
        return self.complete(
            prompt,
            wanted if rule == "hf" else 1,
            eos=eos,
            logprobs=logprobs,
            search=BeamSearch(
                beams, length_penalty, early_stopping, groups, diversity_penalty, rule, min_ends
            ),
            **params,
        )

    def _sampling(self, given: Mapping[str, object]) -> SamplingParams:
        """The model's own sampling parameters with what is not None in `given`."""
        said = {name: value for name, value in given.items() if value is not None}
        for name in ("ban", "stop"):
            if isinstance(said.get(name), str):
                said[name] = (said[name],)
        return parse(SamplingParams, asdict(self.config.sampling) | said, "complete")

    def score(self, text: str | Sequence[int], stride: int | None = None) -> Score:
        """Log-probabilities of a text (or ids). One longer than the context is read in windows as
        long as that, each `stride` after the one before; half the context where it is None."""
        ids = self._ids(text, "the text")
        return scores.score(self.engine, self._tokenizer, text, ids, stride)

    def choose(
        self,
        prompt: str | Sequence[int],
        choices: Sequence[str | Sequence[int]],
        end: bool = False,
        *,
        stop: str | Sequence[str] | None = None,
        normalize: Normalize = "none",
        batch_invariant: bool = False,
    ) -> list[Choice]:
        """The choices (texts or ids), the most probable continuation of the prompt first. With
        `end` each is followed by one of the model's end tokens, or by the first token of one of the
        `stop` texts; where these are None they are the YAML's."""
        ids, stops = self._ids(prompt), self.config.sampling.stop if stop is None else stop
        for choice in choices:
            self._ids(choice, f"the choice '{choice}'")
        texts, new = scores.continuations(self._tokenizer, prompt, ids, choices)
        for text, added in zip(texts, new, strict=True):
            self._check([*ids, *added], 0, f"the prompt with the choice '{text}'")
        ends = scores.ends(self._tokenizer, ids, self._ends("default"), stops) if end else None
        return scores.choose(self.engine, ids, texts, new, ends, normalize, batch_invariant)

    def vote(
        self,
        prompt: str | Sequence[int],
        n: int = 300,
        *,
        confidence: float | None = None,
        exact: bool = False,
        budget: int = BUDGET,
        curtail: bool = True,
        answer_regex: str = "",
        simplified: bool = False,
        seed: int | None = None,
        row: int = 0,
        eos: Ends = "default",
        batch_invariant: bool = False,
        stratified: bool = False,
        **params: Unpack[SamplingArguments],
    ) -> Tally:
        """The most probable answer to a few-shot prompt under the sampling distribution: by `n`
        samples, certified, or exact; see `gentool.voting.tally`. `params` are as in `complete`, but
        that an answer has at most 32 tokens, and ends at what separates the examples of the prompt,
        unless `max_tokens` and `stop` say otherwise."""
        given: dict[str, object] = {"max_tokens": ANSWER_TOKENS, "min_tokens": 0}
        if params.get("stop") is None and isinstance(prompt, str):
            found = shots(prompt)
            given["stop"] = found.stop if found else None
        given |= {name: value for name, value in params.items() if value is not None}
        request = Request(
            prompts=(prompt if isinstance(prompt, str) else tuple(map(int, prompt)),),
            rows=(row,),
            n=n,
            sampling=self._sampling(given | {"include_stop": False}),
            seed=secrets.randbits(32) if seed is None else seed,
            eos=eos,
            batch_invariant=batch_invariant,
            search=Draw(stratified),
        )
        rule = Rule(answer_regex, simplified)
        ballot = Ballot(n, curtail, confidence, exact, budget=budget, rule=rule)
        *_, last = self.votes(request, [ballot])
        return last

    def votes(self, request: Request, ballots: Sequence[Ballot]) -> Iterator[Tally]:
        """Votes on each prompt of a request as they grow; each ends with a verdict."""
        from gentool.generation import vote as votes

        yield from votes.tallies(self._job(request), ballots)

    def check(self, prompt: str | Sequence[int]) -> None:
        """Raises UsageError for a prompt that cannot be continued: an empty or too long one."""
        self._check(self._ids(prompt), 1, "the prompt")

    def stream(self, request: Request) -> Iterator[Chunk]:
        """All samples of a request, chunk by chunk as they grow. Samples of one prompt and of
        neighbouring prompts are computed together, and their chunks interleave."""
        from gentool.generation import search as generate

        yield from generate.chunks(self._job(request))

    def _job(self, request: Request) -> Job:
        """A request, checked, with what it runs on."""
        prompts = [self._ids(prompt) for prompt in request.prompts]
        for row, ids in zip(request.rows, prompts, strict=True):
            self._check(ids, 1, f"the prompt of row {row}" if len(prompts) > 1 else "the prompt")
        ends = self._ends(request.eos)
        self._check_ids(request.sampling.logit_bias)
        from gentool.generation.search import Job

        return Job(self.engine, self._tokenizer, lambda: self._pieces, request, prompts, ends)

    @functools.cached_property
    def _pieces(self) -> Pieces:
        return pieces(self.tokenizer, self.config.arch.n_vocab)

    def _ids(self, prompt: str | Sequence[int], what: str = "the prompt") -> list[int]:
        """The ids of a prompt, each in the vocabulary."""
        if isinstance(prompt, str):
            try:
                prompt.encode()
            except UnicodeEncodeError as e:
                raise UsageError(
                    f"{what} is not text (character {e.start})", "decode it as UTF-8"
                ) from None
        if not len(prompt):
            raise UsageError(f"{what} is empty", "give at least one character")
        ids = self.tokenizer.encode(prompt) if isinstance(prompt, str) else list(prompt)
        if not ids:
            raise UsageError(f"{what} holds no token", "give other text")
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


def open_model(config: ModelConfig, precision: str | None = None, xla: bool | None = None) -> Model:
    """Opens what a YAML describes. `precision` is how weights are stored; products of 16-bit
    weights are summed in float32. auto is `fitting`; with `xla` None what is compiled is what is
    fastest, see `gentool.runtimes.xla.backend`."""
    precision = precision or config.precision
    if precision not in ("auto", *DTYPES):
        raise UsageError(f"precision is {precision!r}", f"it can be auto, {', '.join(DTYPES)}")
    tokenizer, family, source, plan = parts(config)
    precision = fitting(plan) if precision == "auto" else precision

    import tensorflow as tf

    from gentool.decoding.engine import Engine
    from gentool.models import weights
    from gentool.runtimes.xla import backend as paths

    params = weights.load(source, plan, config.arch.n_layer, tf.as_dtype(DTYPES[precision]))
    rules = paths.rules(device.kind(), DTYPES[precision], config.arch.d_model, xla)
    engine = Engine(family, config.arch, params, rules)
    return Model(config, tokenizer, engine, precision)
