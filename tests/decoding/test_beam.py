"""Beam search: what the ancestors computed, and the laws of any beam search."""

import itertools
import json
import math
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from oracle import numpy_llama
from tiny import TINY, XLA, make_engine, random_weights, traces

import gentool
from gentool.decoding.beam import BeamOptions, BeamSearch, search, steps
from gentool.decoding.sampling import normalized
from gentool.errors import GentoolError, UsageError
from gentool.runtimes.xla import backend

GOLDEN = Path(__file__).parents[1] / "golden"
TOLERANCE = 1e-4  # of scores
FAMILIES = ["hf_gpt2", "hf_llama", "hf_llama3", "hf_qwen2", "hf_qwen3", "hf_gemma", "hf_gemma2"]
NO_END = frozenset[int]()


@cache
def engine_of(folder):
    return gentool.load(str(folder), precision="fp32", xla=XLA).engine


def options(width, max_new_tokens, n_best=1, min_new_tokens=0, **parameters):
    return BeamOptions(BeamSearch(width, **parameters), max_new_tokens, n_best, min_new_tokens)


def find(engine, prompt, beams, end=NO_END, adjust=None, **more):
    """The hypotheses for one prompt."""
    prefix, logits = engine.prefill(prompt)
    return search(engine, [prefix], logits, beams, end, adjust, **more)[0]


# --- Hugging Face


def hf_filters(case, prompt):
    """The processors a case names, on log-probabilities as `generate` applies them."""

    def adjust(scores, prompts, outputs):
        assert prompts == [0] * len(outputs)
        scores = scores.copy()
        for row, output in zip(scores, outputs, strict=True):
            text = [*prompt, *output]
            if penalty := case.get("repetition_penalty"):
                row[list(set(text))] *= penalty  # log-probabilities are negative
            if case.get("no_repeat_ngram_size"):
                row[[b for a, b in itertools.pairwise(text) if a == text[-1]]] = -np.inf
        return scores

    return adjust


@pytest.mark.parametrize("name", FAMILIES)
def test_hugging_face(name):
    """The goldens: all width hypotheses, their order, and their scores."""
    cases = json.loads((GOLDEN / name / "golden.json").read_text("utf-8"))["cases"]
    cases = [case for case in cases if case["kind"] == "beam"]
    assert len(cases) == 12
    for case in cases:
        width, end, prompt = case["num_beams"], case["eos_token_id"], case["prompt"]
        beams = options(
            width,
            case["max_new_tokens"],
            width,
            length_penalty=case["length_penalty"],
            early_stopping=case.get("early_stopping", False),
        )
        actual = find(engine_of(GOLDEN / name), prompt, beams, NO_END if end is None else {end})
        for one, sequence in zip(actual, case["sequences"], strict=True):
            rest = sequence[len(prompt) :]
            cut = rest.index(end) + 1 if end in rest else len(rest)
            assert list(one.ids) == rest[:cut]
            assert one.ended == (end in rest)
        scores = [one.score for one in actual]
        np.testing.assert_allclose(scores, case["sequences_scores"], rtol=0, atol=TOLERANCE)


@pytest.mark.parametrize("name", ["hf_gpt2", "hf_llama"])
def test_hugging_face_with_several_ends_and_filters(name):
    cases = json.loads((GOLDEN / "beam" / f"{name}.json").read_text("utf-8"))["cases"]
    for case in cases:
        width, prompt = case["num_beams"], case["prompt"]
        beams = options(
            width,
            case["max_new_tokens"],
            width,
            case.get("min_new_tokens", 0),
            length_penalty=case["length_penalty"],
            early_stopping=case["early_stopping"],
        )
        end = frozenset(case["eos_token_id"])
        actual = find(engine_of(GOLDEN / name), prompt, beams, end, hf_filters(case, prompt))
        assert [list(one.ids) for one in actual] == case["outputs"]
        scores = [one.score for one in actual]
        np.testing.assert_allclose(scores, case["scores"], rtol=1e-5, atol=TOLERANCE)


# --- bert4keras


@pytest.mark.parametrize("name", ["cpm_megatron", "gpt2_ml"])
def test_bert4keras(name):
    """ids, the score of each token and their sum, and the beams that enter each step."""
    path = GOLDEN / name / "bert4keras_beam.json"
    cases = json.loads(path.read_text("utf-8"))["beam_search"]
    assert len(cases) == 11
    engine = engine_of(GOLDEN / name / "hf" if name == "cpm_megatron" else GOLDEN / name)
    for case in cases:
        start = [case["start_id"]] if "start_id" in case else []
        beams = options(
            case["topk"],
            case["maxlen"],
            min_new_tokens=max(0, case.get("minlen", 1) - len(start)),  # minlen counts the start
            rule="bert4keras",
            min_ends=case.get("min_ends", 1),
        )
        heat = case.get("temperature", 1)
        end = frozenset({case["end_id"]} - {-1})
        prefix, logits = engine.prefill(case["prompt"] + start)

        def adjust(scores, prompts, outputs, heat=heat):
            return scores / heat

        after = list(steps(engine, [prefix], logits, beams, end, adjust))
        ((actual,),) = [one.done for one in after[-1]]
        assert start + list(actual.ids) == case["output_ids"]
        assert actual.score == pytest.approx(case["score"], abs=TOLERANCE)
        total = {beam.ids: beam.total for one in after for beam in one[0].live}
        total |= {(): 0.0, actual.ids: actual.score}
        gains = np.diff([total[actual.ids[:t]] for t in range(len(actual.ids) + 1)])
        np.testing.assert_allclose(gains, case["token_logprobs"], rtol=0, atol=TOLERANCE)
        if heat == 1:
            np.testing.assert_allclose(actual.logprobs, gains, rtol=0, atol=1e-9)
        entering = [{tuple(start)}] + [
            {(*start, *beam.ids) for beam in one[0].live} for one in after[:-1]
        ]
        expected = case["beams_entering_each_step"]
        assert entering == [set(map(tuple, each)) for each in expected]


# --- Laws


@cache
def small(n_vocab):
    """A random model of few tokens, and its weights."""
    arch = TINY.model_copy(update={"n_vocab": n_vocab})
    arrays = random_weights(arch, seed=n_vocab)
    for name in arrays:  # flatter, so that many texts compete
        arrays[name] = arrays[name] * (0.2 if "head" in name else 1)
    return arch, arrays, make_engine(arch, arrays)


def exact(n_vocab, ids):
    """log p of the next token [V], by the reference."""
    arch, arrays, _ = small(n_vocab)
    return normalized(numpy_llama.logits(arch, arrays, list(ids))[-1:])[0]


def texts(n_vocab, prompt, length, end, min_new_tokens):
    """Every text of at most `length` tokens that ends by an end token or its length, and its
    log-probability."""
    live, done = {(): 0.0}, {}
    for step in range(length):
        grown = {
            (*ids, token): total + more
            for ids, total in live.items()
            for token, more in enumerate(exact(n_vocab, [*prompt, *ids]))
            if token not in end or step >= min_new_tokens
        }
        ended = {ids: total for ids, total in grown.items() if ids[-1] in end or step + 1 == length}
        done |= ended
        live = {ids: total for ids, total in grown.items() if ids not in ended}
    return done


VOCABULARY = st.sampled_from([4, 6])  # each is an engine that traces every shape for itself
PENALTY = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0])


@st.composite
def tasks(draw, most_ends=2):
    n_vocab = draw(VOCABULARY)
    token = st.integers(0, n_vocab - 1)
    prompt = draw(st.lists(token, min_size=1, max_size=6))
    return n_vocab, prompt, draw(st.frozensets(token, max_size=most_ends))


@settings(max_examples=40)
@given(task=tasks(), penalty=PENALTY, min_new_tokens=st.integers(0, 2))
@example((4, [1, 2], NO_END), 1.0, 0)
@example((6, [3], frozenset({0})), 1.0, 0)
def test_a_beam_as_wide_as_all_texts_is_exhaustive(task, penalty, min_new_tokens):
    n_vocab, prompt, end = task
    everything = texts(n_vocab, prompt, 3, end, min_new_tokens)
    score = {ids: total / len(ids) ** penalty for ids, total in everything.items()}
    width = n_vocab**2
    beams = options(width, 3, width, min_new_tokens, length_penalty=penalty, early_stopping="never")
    actual = find(small(n_vocab)[2], prompt, beams, end)
    assert len({one.ids for one in actual}) == len(actual) == min(width, len(everything))
    best = sorted(score.values(), reverse=True)[:width]
    np.testing.assert_allclose([one.score for one in actual], best, rtol=0, atol=TOLERANCE)
    for one in actual:
        assert one.score == pytest.approx(score[one.ids], abs=TOLERANCE)
        assert one.logprob == pytest.approx(everything[one.ids], abs=TOLERANCE)
        assert one.ended == (one.ids[-1] in end)


@settings(max_examples=20)
@given(task=tasks(), early=st.booleans(), length=st.integers(1, 12))
def test_width_1_is_greedy(task, early, length):
    n_vocab, prompt, end = task
    engine = small(n_vocab)[2]
    ids = []
    while len(ids) < length and not (ids and ids[-1] in end):
        ids.append(int(engine.prefill([*prompt, *ids])[1].argmax()))
    (actual,) = find(engine, prompt, options(1, length, early_stopping=early), end)
    assert list(actual.ids) == ids
    (actual,) = find(engine, prompt, options(1, length, rule="bert4keras"), end)
    if not set(ids) & end:  # this rule drops no beam that was the best
        assert list(actual.ids) == ids


@settings(max_examples=20)
@given(task=tasks(), penalty=PENALTY, early=st.sampled_from([True, False, "never"]))
def test_n_best_are_sorted_by_the_models_scores(task, penalty, early):
    n_vocab, prompt, end = task
    engine = small(n_vocab)[2]
    beams = options(4, 8, 4, 2, length_penalty=penalty, early_stopping=early)
    every = find(engine, prompt, beams, end)
    assert every == find(engine, prompt, beams, end)
    assert find(engine, prompt, beams._replace(n_best=2), end) == every[:2]
    assert [one.score for one in every] == sorted((one.score for one in every), reverse=True)
    for one in every:
        _, logits = engine.prefill([*prompt, *one.ids[:-1]], all_positions=True)
        expected = normalized(logits[len(prompt) - 1 :])[np.arange(len(one.ids)), one.ids]
        np.testing.assert_allclose(one.logprobs, expected, rtol=0, atol=TOLERANCE)
        assert one.score == pytest.approx(sum(expected) / len(one.ids) ** penalty, abs=1e-3)
        assert one.ended or len(one.ids) == 8
        assert not end & set(one.ids[:2]) and not end & set(one.ids[:-1])


@settings(max_examples=20)
@given(task=tasks(), width=st.integers(1, 4))
def test_hypotheses_do_not_change(task, width):
    """A hypothesis is as it was found or gone, and, stopped early, the search does not depend on
    how long it might have gone on."""
    n_vocab, prompt, end = task
    engine = small(n_vocab)[2]
    prefix, logits = engine.prefill(prompt)
    before = set()
    for step, (one,) in enumerate(steps(engine, [prefix], logits, options(width, 8), end), start=1):
        assert {h for h in one.done if len(h.ids) < step} <= before
        assert len(one.live) <= width and not {beam.ids[-1] for beam in one.live} & end
        before = set(one.done)
    short, long = (
        find(engine, prompt, options(width, max_new_tokens, width, early_stopping=True), end)
        for max_new_tokens in (8, 12)
    )
    assume(all(one.ended and len(one.ids) < 8 for one in short))
    assert short == long


@pytest.mark.parametrize("rule", ["hf", "bert4keras"])
def test_prompts_in_a_batch_equal_single_prompts(engine, rule):
    """Of different lengths, and ending at different steps."""
    rng = np.random.default_rng(3)
    prompts = [rng.integers(0, TINY.n_vocab, n) for n in (3, 20, 9, 1, 31)]
    computed = [engine.prefill(ids) for ids in prompts]
    prefixes, logits = [p for p, _ in computed], np.concatenate([x for _, x in computed])
    end = frozenset(range(5, 40))
    beams = options(3, 12, 3 if rule == "hf" else 1, rule=rule)
    together = search(engine, prefixes, logits, beams, end)
    assert len({len(one[0].ids) for one in together}) > 1
    exact = replace(engine, batch_invariant=True)
    computed = [exact.prefill(ids) for ids in prompts]
    prefixes, logits = [p for p, _ in computed], np.concatenate([x for _, x in computed])
    invariant = search(exact, prefixes, logits, beams, end)
    for ids, loose, strict in zip(prompts, together, invariant, strict=True):
        assert find(exact, ids, beams, end) == strict  # bit for bit
        alone = find(engine, ids, beams, end)
        assert [one.ids for one in loose] == [one.ids for one in alone]
        np.testing.assert_allclose([h.score for h in loose], [h.score for h in alone], atol=1e-4)


def test_a_search_ends_with_the_context():
    n_vocab = 5
    prompt = [1] * (TINY.n_ctx - 2)
    actual = find(small(n_vocab)[2], prompt, options(2, 50, 2))
    assert [len(one.ids) for one in actual] == [2, 2]


def test_nothing_is_compiled_anew_when_beams_or_prompts_end(tiny_weights):
    engine = make_engine(TINY, tiny_weights, backend.XLA_LAYER)
    computed = [engine.prefill([n]) for n in range(4)]
    logits = np.concatenate([x for _, x in computed])
    end = frozenset(range(20))
    beams = options(4, 12, rule="bert4keras", min_new_tokens=2)
    after = list(steps(engine, [p for p, _ in computed], logits, beams, end))
    assert len({sum(one.open for one in searches) for searches in after}) > 2
    assert {one.width for searches in after for one in searches} > {4}
    assert traces(engine.runtime.layer) == 2  # prefill, extend


# --- Diverse groups


def diverse(n_vocab, prompt, length, groups, width, strength, end):
    """Vijayakumar et al. 2016 step by step, on the reference: the finished texts of all groups,
    best first, by summed log-probabilities less penalties, a token."""
    live = [{(): 0.0} for _ in range(groups)]
    done = [[] for _ in range(groups)]
    for _ in range(length):
        chosen = Counter()
        for g in range(groups):
            grown = {
                (*ids, token): total + more - strength * chosen[token]
                for ids, total in live[g].items()
                for token, more in enumerate(exact(n_vocab, [*prompt, *ids]))
            }
            best = sorted(grown, key=grown.__getitem__, reverse=True)
            ended = [ids for ids in best[:width] if ids[-1] in end or len(ids) == length]
            done[g] = sorted([*done[g], *((grown[i] / len(i), i) for i in ended)])[-width:]
            live[g] = {ids: grown[ids] for ids in [i for i in best if i[-1] not in end][:width]}
            chosen.update(ids[-1] for ids in live[g])
            hope = max(live[g].values(), default=-math.inf) / length
            if len(done[g]) == width and hope <= done[g][0][0]:
                live[g] = {}
    return sorted(itertools.chain(*done), reverse=True)


@settings(max_examples=20)
@given(task=tasks(1), strength=st.sampled_from([0.3, 1.0, 4.0]), groups=st.integers(2, 3))
def test_groups_pay_the_diversity_penalty(task, strength, groups):
    n_vocab, prompt, end = task
    width = 2 * groups
    beams = options(
        width, 5, width, early_stopping="never", groups=groups, diversity_penalty=strength
    )
    actual = find(small(n_vocab)[2], prompt, beams, end)
    expected = diverse(n_vocab, prompt, 5, groups, 2, strength, end)
    np.testing.assert_allclose([h.score for h in actual], [s for s, _ in expected], atol=TOLERANCE)
    assert Counter(one.ids for one in actual) == Counter(ids for _, ids in expected)
    assert all(one.score <= one.logprob / len(one.ids) + 1e-9 for one in actual)


@settings(max_examples=20)
@given(task=tasks(), groups=st.integers(1, 3))
def test_groups_without_penalty_are_independent(task, groups):
    n_vocab, prompt, end = task
    engine = small(n_vocab)[2]
    alone = find(engine, prompt, options(2, 6, 2), end)
    together = find(engine, prompt, options(2 * groups, 6, 2 * groups, groups=groups), end)
    assert [one.ids for one in together] == [one.ids for one in alone for _ in range(groups)]


# --- Filters and mistakes


def test_banned_tokens_are_never_chosen():
    def adjust(scores, prompts, outputs):
        scores = scores.copy()
        scores[:, [1, 2]] = -np.inf
        return scores

    def nothing(scores, prompts, outputs):
        return np.full_like(scores, -np.inf)

    for beams in (options(4, 4, 4), options(4, 4, rule="bert4keras")):
        for one in find(small(4)[2], [1], beams, adjust=adjust):
            assert set(one.ids) <= {0, 3}
        assert find(small(4)[2], [1], beams, adjust=nothing) == []


def test_fewer_texts_than_n_best():
    actual = find(small(4)[2], [1], options(9, 1, 9))
    assert sorted(one.ids for one in actual) == [(0,), (1,), (2,), (3,)]
    assert math.fsum(math.exp(one.logprob) for one in actual) == pytest.approx(1)


def test_logits_that_are_not_numbers_are_an_error():
    engine = small(4)[2]
    prefix, logits = engine.prefill([1])
    with pytest.raises(GentoolError, match="not numbers"):
        search(engine, [prefix], np.full_like(logits, np.nan), options(2, 4), NO_END)


@pytest.mark.parametrize(
    ("beams", "message"),
    [
        (options(0, 4), "beams is 0"),
        (options(3, 0), "max_tokens is 0"),
        (options(3, 4, n_best=4), "n_best is 4"),
        (options(3, 4, n_best=0), "n_best is 0"),
        (options(3, 4, min_new_tokens=5), "min_tokens is 5"),
        (options(3, 4, length_penalty=float("nan")), "length_penalty is nan"),
        (options(3, 4, early_stopping="always"), "early_stopping is always"),
        (options(3, 4, early_stopping=1), "early_stopping is 1"),
        (options(3, 4, groups=2), "beam_groups is 2"),
        (options(3, 4, groups=0), "beam_groups is 0"),
        (options(3, 4, groups=3, diversity_penalty=-1.0), "diversity_penalty is -1.0"),
        (options(3, 4, diversity_penalty=1.0), "diversity_penalty is 1.0"),
        (options(3, 4, rule="fairseq"), "beam_rule is fairseq"),
        (options(3, 4, min_ends=0), "min_ends is 0"),
        (options(3, 4, min_ends=2), "min_ends is 2"),
        (options(3, 4, n_best=2, rule="bert4keras"), "n_best is 2"),
        (options(3, 4, length_penalty=2.0, rule="bert4keras"), "length_penalty is 2.0"),
        (options(3, 4, early_stopping=True, rule="bert4keras"), "early_stopping is True"),
        (options(3, 4, groups=3, rule="bert4keras"), "groups is 3"),
    ],
)
def test_mistakes_name_the_value(beams, message):
    with pytest.raises(UsageError, match=message) as caught:
        find(small(4)[2], [1], beams)
    assert caught.value.hint
