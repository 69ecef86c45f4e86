"""Requests to samples: runs each kind of search on the engine and yields chunks of text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from gentool.decoding import beam, choices, contrastive, loop
from gentool.decoding.philox import uniform
from gentool.decoding.sampling import top_k_ids
from gentool.generation import score
from gentool.generation.prepared import PreparedRequest, SampleBuilder
from gentool.generation.request import (
    Alternatives,
    BeamSearch,
    Choose,
    Chunk,
    Contrastive,
    Sample,
    Sampled,
)

MAX_ROWS_OF_PROMPTS = 64  # rows of several prompts that are decoded together
MAX_ROWS_OF_PROMPT = 512  # rows of one prompt that are decoded together


def chunks(prepared: PreparedRequest) -> Iterator[Chunk]:
    """Yields all samples of a request, chunk by chunk. Samples of a prompt and of neighbouring
    prompts are computed together, and their chunks interleave."""
    request = prepared.request
    match request.search:
        case BeamSearch() as search:
            yield from _beams(prepared, search)
        case Contrastive() as search:
            yield from _contrastive(prepared, search)
        case Choose() as search:
            yield from _choices(prepared, search)
        case Sampled() | Alternatives() as search:
            size = max(1, MAX_ROWS_OF_PROMPTS // request.n)
            for first in range(0, len(prepared.prompts), size):
                group = range(first, min(first + size, len(prepared.prompts)))
                for sample in range(0, request.n, MAX_ROWS_OF_PROMPT):
                    samples = range(sample, min(sample + MAX_ROWS_OF_PROMPT, request.n))
                    yield from _samples(prepared, search, group, samples)


def _samples(
    prepared: PreparedRequest, search: Sampled | Alternatives, group: range, samples: range
) -> Iterator[Chunk]:
    """Decodes the given samples of a group of prompts together."""
    request, decoding = prepared.request, decode_loop(prepared, search)
    keys: list[tuple[int, int]] = []
    for prompt in group:
        prefix, logits = prepared.engine.prefill(prepared.prompts[prompt])
        drawn = [loop.Sample(request.rows[prompt], sample) for sample in samples]
        if isinstance(search, Alternatives):
            first = top_k_ids(logits[0], request.n)
            drawn = [s._replace(forced_first=int(first[s.rng_sample])) for s in drawn]
        decoding.add(prepared.computed(prompt, prefix, logits[0]), drawn)
        keys += [(prompt, sample) for sample in samples]
    yield from sampled(prepared, decoding, keys)


def decode_loop(prepared: PreparedRequest, search: Sampled | Alternatives) -> loop.DecodeLoop:
    """A decode loop without rows, for the options of a request."""
    return loop.DecodeLoop(prepared.engine, _options(prepared, search), prepared.constraint)


def sampled(
    prepared: PreparedRequest, decoding: loop.DecodeLoop, keys: Sequence[tuple[int, int]]
) -> Iterator[Chunk]:
    """Decodes until all rows have ended; `keys` are the prompt and the sample of each row."""
    builders = [SampleBuilder(prepared, prompt) for prompt, _ in keys]
    while not decoding.done:
        for token in decoding.step():
            new, done = builders[token.row].push(token)
            if done and done.finish == "stop":
                decoding.stop(token.row)
            if new or done:
                yield Chunk(*keys[token.row], new, done)


def _options(prepared: PreparedRequest, search: Sampled | Alternatives) -> loop.DecodeOptions:
    request, s = prepared.request, prepared.sampling
    sampled = search if isinstance(search, Sampled) else Sampled()
    return loop.DecodeOptions(
        sampling=replace(s, temperature=0.0) if isinstance(search, Alternatives) else s,
        seed=request.seed,
        max_new_tokens=min(s.max_tokens, prepared.engine.arch.n_ctx),
        min_new_tokens=s.min_tokens,
        end=prepared.ends,
        strata=request.n if sampled.stratified else 0,
        top_logprobs=request.logprobs or 0,
        # products of several tokens sum in another order, so batch-invariant rows get no drafts
        lookup=0 if request.batch_invariant else sampled.lookup,
    )


def _beams(prepared: PreparedRequest, search: BeamSearch) -> Iterator[Chunk]:
    """Beam search for each prompt. Penalties, n-gram bans, bias and constraints adjust its scores;
    temperature and the filters that narrow a distribution do not apply."""
    s, request = prepared.sampling, prepared.request
    options = beam.BeamOptions(search, s.max_tokens, request.n, s.min_tokens)
    for prompt, prompt_ids in enumerate(prepared.prompts):
        prefix, logits = prepared.engine.prefill(prompt_ids)
        following = prepared.following(prompt)
        stops = [prepared.stops(prompt, following)] if s.stop or following else []
        adjust = prepared.adjust(prompt, following)
        (hypotheses,) = beam.search(
            prepared.engine, [prefix], logits, options, prepared.ends, adjust, stops
        )
        for sample, hypothesis in enumerate(hypotheses):
            text = prepared.finished_text(prompt, hypothesis.ids)
            stop = prepared.stop_text(hypothesis.ids[-1])
            finish = prepared.finish(hypothesis.ids[-1], hypothesis.ended, text.stopped)
            pairs = zip(hypothesis.ids, hypothesis.logprobs, strict=True)
            tokens = [loop.Token(sample, id, p, False) for id, p in pairs]
            steps = prepared.steps(prompt, tokens)
            ids, logprob = hypothesis.ids, hypothesis.logprob
            whole = text.text + stop
            done = Sample(whole, ids, logprob, hypothesis.score, finish, steps)
            yield Chunk(prompt, sample, whole, done)


def _contrastive(prepared: PreparedRequest, search: Contrastive) -> Iterator[Chunk]:
    """Contrastive search: one text for each prompt."""
    s = prepared.sampling
    options = contrastive.ContrastiveOptions(search.alpha, search.k, s.max_tokens, s.min_tokens)
    for prompt, ids in enumerate(prepared.prompts):
        builder = SampleBuilder(prepared, prompt)
        adjust = prepared.adjust(prompt, prepared.following(prompt))
        logprobs = prepared.request.logprobs or 0
        tokens = contrastive.search(prepared.engine, ids, options, prepared.ends, adjust, logprobs)
        for token in tokens:
            new, done = builder.push(token)
            if new or done:
                yield Chunk(prompt, 0, new, done)
            if done:
                break


def _choices(prepared: PreparedRequest, search: Choose) -> Iterator[Chunk]:
    """Draws choices by their probabilities among the choices."""
    request, tokenizer = prepared.request, prepared.tokenizer
    for prompt, (ids, row) in enumerate(zip(prepared.prompts, request.rows, strict=True)):
        texts, new = score.continuations(tokenizer, request.prompts[prompt], ids, search.texts)
        stop = prepared.sampling.stop
        ends = score.ends(tokenizer, ids, prepared.ends, stop) if search.end else None
        prefix, logits = prepared.engine.prefill(ids)
        masses = choices.masses(prepared.engine, prefix, logits, new, ends)
        u = uniform(request.seed, np.array(row), np.arange(request.n), np.array(0))
        greedy = prepared.sampling.temperature == 0
        drawn = [int(np.argmax(masses))] * request.n if greedy else choices.draw(masses, u)
        for sample, index in enumerate(drawn):
            logprob = masses[index]
            done = Sample(texts[index], tuple(new[index]), logprob, logprob, "stop")
            yield Chunk(prompt, sample, texts[index], done)
