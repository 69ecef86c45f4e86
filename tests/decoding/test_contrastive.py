"""Contrastive search: what Hugging Face computed, a float64 reference without a cache, and laws."""

import itertools
import json
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from oracle import numpy_llama
from tiny import TINY, XLA, make_engine, random_weights, traces

import gentool
from gentool.config.sampling import SamplingParams
from gentool.decoding.contrastive import ContrastiveOptions, search
from gentool.decoding.filters import adjusted
from gentool.errors import GentoolError
from gentool.runtimes.xla import backend

GOLDEN = Path(__file__).parents[1] / "golden"
NO_END = frozenset[int]()
NEAR = 1e-4  # scores and probabilities this near may change places in float32


def ids_of(engine, prompt, options, end=NO_END, **more):
    return [token.id for token in search(engine, prompt, options, end, **more)]


@cache
def small(seed):
    """A random model of few tokens, its weights, and an engine; flat, so that many compete."""
    arch = TINY.model_copy(update={"n_vocab": 12})
    arrays = random_weights(arch, seed)
    arrays["head"] *= 0.3
    return arch, arrays, make_engine(arch, arrays)


# --- Hugging Face


@cache
def golden(name):
    data = json.loads((GOLDEN / "contrastive" / f"{name}.json").read_text("utf-8"))
    return gentool.load(str(GOLDEN / name), precision="fp32", xla=XLA).engine, data


@pytest.mark.parametrize("name", ["hf_gpt2", "hf_llama"])
def test_hugging_face(name):
    engine, data = golden(name)
    assert len(data["cases"]) == 24
    for case in data["cases"]:
        params = SamplingParams(repetition_penalty=case.get("repetition_penalty", 1.0))

        def adjust(logits, _, outputs, params=params, prompt=case["prompt"]):
            return adjusted(logits, params, [prompt], outputs)

        end = frozenset(case.get("eos_token_id", ()))
        limits = case["max_new_tokens"], case.get("min_new_tokens", 0)
        options = ContrastiveOptions(case["penalty_alpha"], case["top_k"], *limits)
        assert ids_of(engine, case["prompt"], options, end, adjust=adjust) == case["output"]


@pytest.mark.parametrize("name", ["hf_gpt2", "hf_llama"])
def test_hidden_states_of_hugging_face(name):
    engine, data = golden(name)
    ids, expected = data["ids"], np.array(data["hidden_states"])
    _, hidden = engine.prefill(ids, all_positions=True, hidden=True)
    np.testing.assert_allclose(hidden, expected, rtol=0, atol=1e-4)
    prefix, last = engine.prefill(ids[:2], hidden=True)
    np.testing.assert_allclose(last, expected[1:2], rtol=0, atol=1e-4)
    _, rows = engine.extend([prefix], None, [0, 0], [0, 0], np.array([ids[2:]] * 2), hidden=True)
    np.testing.assert_allclose(rows, [expected[2:]] * 2, rtol=0, atol=1e-4)


# --- The reference


def reference(arch, arrays, prompt, options, end):
    """Su et al. 2022, equations 4 to 6, each candidate's text computed anew: tokens, and whether
    each was clearly the best."""
    text = list(prompt)
    for step in range(options.max_new_tokens):
        logits = numpy_llama.logits(arch, arrays, text)[-1]
        if step < options.min_new_tokens:
            logits[sorted(end)] = -np.inf
        p = np.exp(logits - logits.max())
        p /= p.sum()
        order = np.argsort(-p)
        few = [token for token in order[: options.k] if p[token] > 0]
        scores = []
        for token in few:
            states = numpy_llama.hidden_states(arch, arrays, [*text, token])
            states /= np.linalg.norm(states, axis=-1, keepdims=True)
            scores.append(
                (1 - options.alpha) * p[token] - options.alpha * max(states[:-1] @ states[-1])
            )
        best = np.sort(scores)[::-1]
        sure = len(few) == 1 or best[0] - best[1] > NEAR
        sure &= options.k >= len(p) or p[order[options.k - 1]] - p[order[options.k]] > NEAR
        text.append(int(few[int(np.argmax(scores))]))
        yield text[-1], sure
        if text[-1] in end:
            return


SEED = st.integers(0, 1)  # each is an engine that traces every shape for itself
PROMPT = st.lists(st.integers(0, 11), min_size=1, max_size=20)
ALPHA = st.sampled_from([0.0, 0.2, 0.6, 0.9, 1.0])


@settings(max_examples=25)
@given(
    seed=SEED,
    prompt=PROMPT,
    alpha=ALPHA,
    k=st.sampled_from([1, 2, 4, 5, 12, 40]),
    max_new_tokens=st.integers(1, 20),
    min_new_tokens=st.integers(0, 4),
    end=st.frozensets(st.integers(0, 11), max_size=3),
    invariant=st.booleans(),
)
@example(0, [3, 1, 4], 0.6, 4, 20, 0, NO_END, False)
@example(1, [3], 0.9, 5, 20, 4, frozenset({1, 2}), True)
def test_equals_a_search_that_computes_everything_anew(
    seed, prompt, alpha, k, max_new_tokens, min_new_tokens, end, invariant
):
    arch, arrays, engine = small(seed)
    options = ContrastiveOptions(alpha, k, max_new_tokens, min_new_tokens)
    actual = ids_of(replace(engine, batch_invariant=invariant), prompt, options, end)
    expected = list(reference(arch, arrays, prompt, options, end))
    sure = list(itertools.takewhile(lambda step: step[1], expected))
    assert actual[: len(sure)] == [token for token, _ in sure]
    assert len(sure) < len(expected) or len(actual) == len(expected)


def test_the_reference_is_sure_of_most_steps():
    for seed in range(4):
        arch, arrays, _ = small(seed)
        expected = list(reference(arch, arrays, [3, 1, 4], ContrastiveOptions(0.6, 4, 20), NO_END))
        assert sum(sure for _, sure in expected) >= 18
        assert len({token for token, _ in expected}) > 2


def test_hidden_states_equal_the_reference(engine, tiny_weights):
    """Of a prompt, of one that continues a prefix, and of rows; their product is the logits."""
    ids = np.random.default_rng(2).integers(0, TINY.n_vocab, 40)
    expected = numpy_llama.hidden_states(TINY, tiny_weights, ids)
    prefix, hidden = engine.prefill(ids[:21], all_positions=True, hidden=True)
    assert hidden.dtype == np.float32
    np.testing.assert_allclose(hidden, expected[:21], rtol=0, atol=1e-4)
    np.testing.assert_allclose(
        engine.logits(hidden), engine.prefill(ids[:21], all_positions=True)[1], rtol=0, atol=1e-4
    )
    prefix, hidden = engine.prefill(ids[21:30], prefix, hidden=True)
    np.testing.assert_allclose(hidden, expected[29:30], rtol=0, atol=1e-4)
    for invariant in (False, True):
        _, rows = replace(engine, batch_invariant=invariant).extend(
            [prefix], None, [0] * 3, [0] * 3, np.tile(ids[30:], (3, 1)), 10, hidden=True
        )
        np.testing.assert_allclose(rows, [expected[30:]] * 3, rtol=0, atol=1e-4)


# --- Laws


@settings(max_examples=20)
@given(seed=SEED, prompt=PROMPT, alpha=ALPHA, k=st.integers(1, 12))
def test_alpha_0_and_k_1_are_greedy(seed, prompt, alpha, k):
    engine, text = small(seed)[2], list(prompt)
    for _ in range(6):
        text.append(int(engine.prefill(text)[1].argmax()))
    assert ids_of(engine, prompt, ContrastiveOptions(0.0, k, 6)) == text[len(prompt) :]
    assert ids_of(engine, prompt, ContrastiveOptions(alpha, 1, 6)) == text[len(prompt) :]


@settings(max_examples=20)
@given(seed=SEED, prompt=PROMPT, cut=st.integers(1, 7))
def test_the_caller_may_stop(seed, prompt, cut):
    """What has been said does not depend on what was to follow, and a search leaves nothing."""
    engine, options = small(seed)[2], ContrastiveOptions(0.6, 4, 8)
    whole = ids_of(engine, prompt, options)
    steps = search(engine, prompt, options, NO_END)
    assert [next(steps).id for _ in range(cut)] == whole[:cut]
    steps.close()
    assert ids_of(engine, prompt, options._replace(max_new_tokens=cut)) == whole[:cut]
    assert ids_of(engine, prompt, options) == whole


@settings(max_examples=20)
@given(seed=SEED, prompt=PROMPT, end=st.frozensets(st.integers(0, 11), max_size=6))
def test_tokens_have_the_models_log_probabilities(seed, prompt, end):
    arch, arrays, engine = small(seed)
    tokens = list(search(engine, prompt, ContrastiveOptions(0.6, 4, 12, 2), end, top_logprobs=3))
    text = [*prompt, *(token.id for token in tokens)]
    logits = numpy_llama.logits(arch, arrays, text)[len(prompt) - 1 : -1]
    exact = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    for row, token in zip(exact, tokens, strict=True):
        assert token.log_probability == pytest.approx(row[token.id], abs=1e-4)
        ids, logprobs = zip(*token.top_logprobs, strict=True)
        np.testing.assert_allclose(logprobs, -np.sort(-row)[:3], rtol=0, atol=1e-4)
        np.testing.assert_allclose(logprobs, row[list(ids)], rtol=0, atol=1e-4)
    assert [token.ended for token in tokens] == [token.id in end for token in tokens]
    assert not any(token.ended for token in tokens[:-1])
    assert tokens[-1].ended or len(tokens) == 12
    assert not {token.id for token in tokens[:2]} & end


def test_banned_tokens_are_never_chosen():
    """Even where a banned token is all that differs from the text, as alpha 1 wants it to."""
    seen = []

    def adjust(logits, prompts, outputs):
        assert prompts == [0]
        seen.append(outputs[0])
        banned = np.full(logits.shape, -np.inf)
        banned[0, [1, 2]] = logits[0, [1, 2]]
        return banned

    tokens = ids_of(small(0)[2], [3], ContrastiveOptions(1.0, 5, 8), adjust=adjust)
    assert set(tokens) == {1, 2}
    assert seen == [tuple(tokens[:step]) for step in range(8)]

    def nothing(logits, prompts, outputs):
        return np.full(logits.shape, -np.inf)

    assert len(ids_of(small(0)[2], [3], ContrastiveOptions(0.6, 5, 3), adjust=nothing)) == 3


def test_a_search_ends_with_the_context():
    assert len(ids_of(small(0)[2], [1] * (TINY.n_ctx - 2), ContrastiveOptions(0.6, 4, 50))) == 2


def test_logits_that_are_not_numbers_are_an_error(tiny_weights):
    broken = tiny_weights | {"final_norm": np.full(32, np.nan, np.float32)}
    engine = make_engine(TINY, broken)
    with pytest.raises(GentoolError, match="not numbers"):
        ids_of(engine, [1], ContrastiveOptions(0.6, 4, 2))


def test_a_search_compiles_no_layer_of_its_own(tiny_weights):
    """The same shapes have the same layers, hidden states or not, and no step or prompt of a
    bucket, alpha, or lack of candidates needs another."""
    engine = make_engine(TINY, tiny_weights, backend.XLA_LAYER)
    prefix, _ = engine.prefill([1] * 17)
    engine.extend([prefix], None, [0] * 4, [0] * 4, np.ones((4, 1), int), 16)

    def counts():
        r = engine.runtime
        functions = r.layer, r.logits_step, r.hidden_step, r.logits
        return [traces(function) for function in functions]

    assert counts() == [2, 2, 0, 0]
    ids_of(engine, [1] * 17, ContrastiveOptions(0.6, 4, 16))
    assert counts() == [2, 2, 2, 1]

    def one(logits, prompts, outputs):
        return np.where(np.arange(TINY.n_vocab) == 5, logits, -np.inf)

    ids_of(engine, [2] * 32, ContrastiveOptions(0.9, 3, 9), adjust=one)
    engine.prefill([3] * 20)
    assert counts() == [2, 2, 2, 1]
