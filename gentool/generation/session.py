"""An open model: the Python interface."""

from __future__ import annotations

import dataclasses
import functools
import logging
import math
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from gentool.config import folder
from gentool.config.model import ModelConfig
from gentool.config.sampling import SamplingArguments, SamplingParams, parameters
from gentool.config.schema import parse
from gentool.decoding.engine import Engine
from gentool.errors import ModelError, UsageError
from gentool.generation import chat
from gentool.generation import score as scores
from gentool.generation.request import (
    BeamSearch,
    Choose,
    Chunk,
    Ends,
    Request,
    Sample,
    Sampled,
    Search,
)
from gentool.generation.score import Choice, Normalize, Score
from gentool.models.weights import Weight
from gentool.runtimes import Runtime
from gentool.tokenizers import Tokenizer, repeated_start, special_id
from gentool.tokenizers.chat.encoding import marked_encoder
from gentool.tokenizers.chat.input_text import InputText
from gentool.tokenizers.token_bytes import Pieces, pieces
from gentool.voting.answers import AnswerRule
from gentool.voting.examples import parse_few_shot
from gentool.voting.tally import BUDGET, Ballot, Tally

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from gentool.decoding.constraints import Constraint
    from gentool.generation.prepared import ConstraintKey, PreparedRequest

SAMPLED = Sampled()
CONSTRAINTS = 16  # that are kept: a request after another may have the same
ANSWER_TOKENS = 32  # longer answers are invalid


class Model:
    """An open model: its tokenizer, its runtime with the weights, and its methods."""

    def __init__(
        self,
        config: ModelConfig,
        tokenizer: Tokenizer | None,
        runtime: Runtime,
        precision: str,
        plan: Mapping[str, Weight],
    ) -> None:
        self.config, self.precision, self.plan = config, precision, plan
        self._tokenizer, self.engine = tokenizer, Engine(runtime)
        self._warned = False  # of a start token that is there twice
        self._constraint = functools.lru_cache(CONSTRAINTS)(self._make_constraint)

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
        """One line: name, adapters, size, precision, runtime."""
        n_parameters = sum(math.prod(weight.shape) for weight in self.plan.values())
        adapters = f" with {', '.join(self.config.adapter)}" if self.config.adapter else ""
        return (
            f"{self.config.name}{adapters}: {n_parameters / 1e6:.1f} M parameters,"
            f" {self.precision}, {self.engine.runtime.describe()}"
        )

    def logits(self, ids: Sequence[int]) -> np.ndarray:
        """float32 [T, V]: row t holds the logits of the token after ids[: t + 1]."""
        self._check(self._ids(ids), 0, "the text")
        _, logits = self.engine.prefill(list(ids), all_positions=True)
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
        search: Search = SAMPLED,
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
        """The model's own sampling parameters, replaced by those of `given` that are not None."""
        params = {name: value for name, value in given.items() if value is not None}
        for name in ("ban", "stop"):
            if isinstance(params.get(name), str):
                params[name] = (params[name],)
        return parse(SamplingParams, dataclasses.asdict(self.config.sampling) | params, "complete")

    def score(
        self,
        text: str | Sequence[int],
        stride: int | None = None,
        *,
        batch_invariant: bool = False,
    ) -> Score:
        """Log-probabilities of a text (or ids). A text longer than the context is scored in windows
        of the context's length, `stride` tokens apart, half the context if it is None."""
        ids = self._ids(text, "the text")
        engine = self._engine(batch_invariant)
        return scores.score(engine, self._tokenizer, text, ids, stride)

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
        `stop` strings (None: those of the YAML)."""
        ids, stops = self._ids(prompt), self.config.sampling.stop if stop is None else stop
        for choice in choices:
            self._check_choice(choice)
        texts, new = scores.continuations(self._tokenizer, prompt, ids, choices)
        for text, added in zip(texts, new, strict=True):
            self._check([*ids, *added], 0, f"the prompt with the choice '{text}'")
        ends = scores.ends(self._tokenizer, ids, self._ends("default"), stops) if end else None
        return scores.choose(self._engine(batch_invariant), ids, texts, new, ends, normalize)

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
            few_shot = parse_few_shot(prompt)
            given["stop"] = few_shot.stop if few_shot else None
        given |= {name: value for name, value in params.items() if value is not None}
        request = Request(
            prompts=(prompt if isinstance(prompt, str) else tuple(map(int, prompt)),),
            rows=(row,),
            n=n,
            sampling=self._sampling(given | {"include_stop": False}),
            seed=secrets.randbits(32) if seed is None else seed,
            eos=eos,
            batch_invariant=batch_invariant,
            search=Sampled(stratified),
        )
        rule = AnswerRule(answer_regex, simplified)
        ballot = Ballot(n, curtail, confidence, exact, budget=budget, rule=rule)
        *_, last = self.votes(request, [ballot])
        return last

    def votes(self, request: Request, ballots: Sequence[Ballot]) -> Iterator[Tally]:
        """Yields the tallies of votes on each prompt of a request while they grow; the last of each
        has a verdict."""
        from gentool.generation import vote as votes

        yield from votes.tallies(self.prepare(request), ballots)

    def chat_ids(
        self,
        messages: Sequence[Mapping[str, Any]],
        *,
        add_generation_prompt: bool = True,
        continue_final_message: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        template: str | None = None,
        **extra: object,
    ) -> list[int]:
        """The ids of messages, each with `role` and `content`, by the model's chat template or by
        `template`, a name or a file. A text of a message never becomes a special token. `extra`
        are more variables of the template, such as enable_thinking."""
        chosen = chat.template_of(self.config, template, bool(tools))
        variables = {"add_generation_prompt": add_generation_prompt, "tools": tools, **extra}
        text = chat.rendered(
            self.config, self.tokenizer, chosen, messages, variables, continue_final_message
        )
        return self._encode_marked(text)

    def answer_ends(self, template: str | None = None) -> chat.AnswerEnds:
        """What ends an answer to messages: token ids, and stop texts."""
        chosen = chat.template_of(self.config, template)
        return chat.answer_ends(self.config, self.tokenizer, chosen, self._ends("default"))

    def check(self, prompt: str | Sequence[int]) -> None:
        """Raises UsageError for a prompt that cannot be continued: it is empty or too long."""
        self._check(self._ids(prompt), 1, "the prompt")

    def stream(self, request: Request) -> Iterator[Chunk]:
        """All samples of a request, chunk by chunk. Samples of a prompt and of several prompts are
        computed together, and their chunks interleave."""
        from gentool.generation import search as generate

        return generate.chunks(self.prepare(request))

    def prepare(self, request: Request) -> PreparedRequest:
        """Checks a request and adds its engine, tokenizer, ids and end tokens."""
        prompts = [self._ids(prompt) for prompt in request.prompts]
        if isinstance(request.search, Choose):
            for text in request.search.texts:
                self._check_choice(text)
        for row, ids in zip(request.rows, prompts, strict=True):
            self._check(ids, 1, f"the prompt of row {row}" if len(prompts) > 1 else "the prompt")
        stop_tokens = self._stop_tokens(request.sampling.stop)
        ends = self._ends(request.eos) | frozenset(stop_tokens)
        self._check_ids(request.sampling.logit_bias)
        from gentool.generation.prepared import PreparedRequest, constraint_key

        engine = self._engine(request.batch_invariant)
        key = constraint_key(request, ends, self._tokenizer, self.config.arch.n_vocab)
        make_constraint = functools.partial(self._constraint, key)
        return PreparedRequest(
            engine, self._tokenizer, make_constraint, request, prompts, ends, stop_tokens
        )

    def _make_constraint(self, key: ConstraintKey) -> Constraint | None:
        from gentool.generation.prepared import make_constraint

        return make_constraint(key, lambda: self._pieces)

    def _stop_tokens(self, stops: Sequence[str]) -> dict[int, str]:
        """The special tokens among stop texts: those that the model can draw."""
        tokens = {special_id(self._tokenizer, stop): stop for stop in stops}
        n_vocab = self.config.arch.n_vocab
        return {id: stop for id, stop in tokens.items() if id is not None and id < n_vocab}

    def _check_choice(self, choice: str | Sequence[int]) -> None:
        special = special_id(self._tokenizer, choice) if isinstance(choice, str) else None
        self._ids(choice if special is None else [special], f"the choice '{choice}'")

    def _engine(self, batch_invariant: bool) -> Engine:
        return dataclasses.replace(self.engine, batch_invariant=batch_invariant)

    @functools.cached_property
    def _encode_marked(self) -> Callable[[InputText], list[int]]:
        return marked_encoder(self.tokenizer)

    @functools.cached_property
    def _pieces(self) -> Pieces:
        return pieces(self.tokenizer, self.config.arch.n_vocab)

    def _ids(self, prompt: str | Sequence[int], what: str = "the prompt") -> list[int]:
        """The ids of a prompt, checked; `what` names it in messages."""
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
        if isinstance(prompt, str):
            self._warn_of_repeated_start(ids, what)
        self._check_ids(ids)
        return ids

    def _warn_of_repeated_start(self, ids: Sequence[int], what: str) -> None:
        """Warns once of a prompt whose start token is there twice."""
        start = repeated_start(self.tokenizer, ids)
        if start is None or self._warned:
            return
        self._warned = True
        texts = (text for text, token in self.tokenizer.special.items() if token == start)
        logging.getLogger(__name__).warning(
            "%s begins with %s, which the tokenizer puts before every text: it is there"
            " twice; leave it out, or use --set tokenizer.add_bos=false",
            *(what, next(texts, start)),
        )

    def _check_ids(self, ids: Iterable[int]) -> None:
        last = self.config.arch.n_vocab - 1
        if wrong := [i for i in ids if not 0 <= i <= last]:
            raise UsageError(
                f"token id {wrong[0]} is outside the vocabulary", f"0 to {last} are in"
            )

    def _check(self, ids: list[int], new: int, what: str) -> None:
        """Raises UsageError if `new` tokens after `ids` do not fit the context."""
        context = self.config.arch.n_ctx
        if len(ids) + new > context:
            raise UsageError(
                f"{what} has {len(ids)} tokens, the context of {self.config.name} is {context}",
                f"shorten it to {context - new} tokens or fewer",
            )

    def _ends(self, eos: Ends) -> frozenset[int]:
        """The end tokens: those of `eos`, else the YAML's, else the tokenizer's own."""
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
