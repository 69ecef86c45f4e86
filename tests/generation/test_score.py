"""Scores and choices of text: which tokens they are of, and which numbers belong to what."""

import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import XLA

import gentool
from gentool import tokenizers
from gentool.config.lookup import PACKAGE
from gentool.config.model import TokenizerConfig
from gentool.decoding.sampling import normalized
from gentool.errors import GentoolError, UsageError
from gentool.generation import score as scores
from gentool.generation.score import continuation
from gentool.tokenizers import joined

GOLDEN = Path(__file__).parents[1] / "golden"
TEXT = "今天天气不错，我们去公园玩吧。"
FILES = {
    "cpm": ("cpm", GOLDEN / "tokenizers/cpm/chinese_vocab.model"),
    "bert": ("wordpiece", GOLDEN / "tokenizers/bert/vocab.txt"),
    "gpt2": ("huggingface", GOLDEN / "tokenizers/gpt2/tokenizer.json"),
    "qwen2": ("huggingface", GOLDEN / "tokenizers/qwen2/tokenizer.json"),
    "llama3": ("huggingface", GOLDEN / "tokenizers/llama3/tokenizer.json"),
    "llama": ("huggingface", GOLDEN / "tokenizers/llama/tokenizer.json"),
    "gemma": ("huggingface", GOLDEN / "tokenizers/gemma/tokenizer.json"),
    "tiny-zh": ("sentencepiece", PACKAGE / "data/tiny-zh/tokenizer.model"),
}
BYTES = ["gpt2", "qwen2", "llama3", "llama", "gemma", "tiny-zh"]  # which can write every text
words = st.text("今天气不错Tehaswr .,\n", min_size=1, max_size=8)


@pytest.fixture(scope="module")
def known():
    actual = {}
    for name, (kind, path) in FILES.items():
        extra = {"add_bos": True} if kind == "sentencepiece" else {}
        config = TokenizerConfig(kind=kind, model=path.name, **extra)
        actual[name] = tokenizers.load(config, path.parent)
    return actual


@pytest.fixture(scope="module")
def model():
    """Nothing is compiled: of many shapes, a text each."""
    return gentool.load("tiny-zh", precision="fp32", xla=XLA)


# The tokens of a choice


def after(tokenizer, prompt, choice):
    return continuation(tokenizer, prompt, tokenizer.encode(prompt), choice)


@pytest.mark.parametrize("name", FILES)
@given(prompt=words, choice=words)
def test_a_choice_is_what_encoding_it_behind_the_prompt_adds(known, name, prompt, choice):
    tokenizer = known[name]
    ids, both = tokenizer.encode(prompt), tokenizer.encode(prompt + choice)
    new = after(tokenizer, prompt, choice)
    assert tokenizer.encode("") == [] or tokenizer.encode("")[0] not in new
    if ids and both[: len(ids)] == ids:
        added = both[len(ids) :]
        if added and joined(tokenizer, added, ids[-1]) == choice.encode():
            assert new == added


@pytest.mark.parametrize("name", BYTES)
@given(prompt=words, choice=words)
def test_a_choice_adds_its_own_text_to_that_of_the_prompt(known, name, prompt, choice):
    tokenizer = known[name]
    new = after(tokenizer, prompt, choice)
    assert (
        tokenizer.decode([*tokenizer.encode(prompt), *new])
        == tokenizer.decode(tokenizer.encode(prompt)) + choice
    )


@pytest.mark.parametrize(
    ("name", "prompt", "choice", "same"),
    [
        ("cpm", "今天天气", "不错", "今天天气不错"),  # jieba parts them there
        ("cpm", "a\n", "\nb", "a\n\nb"),
        ("bert", "今天天气", "不错", "今天天气不错"),
        ("bert", "play", "ing", "playing"),  # one more piece of the word
        ("tiny-zh", "1+1=", "2", "1+1=2"),
        ("llama", "今天天气", "不错", "今天天气不错"),
    ],
)
def test_choices_that_go_on_where_the_prompt_ends(known, name, prompt, choice, same):
    tokenizer = known[name]
    both = tokenizer.encode(prompt) + after(tokenizer, prompt, choice)
    assert both == tokenizer.encode(same)


@pytest.mark.parametrize(
    ("name", "prompt", "choice"),
    [
        ("cpm", "北", "京"),  # together they are one word
        ("cpm", "The", "Yes"),
        ("gpt2", "美国的首都", "是华盛顿"),  # bytes merge over the border
        ("llama", "美国的首都", "是华盛顿"),
        ("gemma", "美国的首都", "是华盛顿"),
    ],
)
def test_choices_that_would_change_the_prompt_are_their_own_tokens(known, name, prompt, choice):
    tokenizer = known[name]
    new = after(tokenizer, prompt, choice)
    behind = tokenizer.encode("\n")
    assert behind + new == tokenizer.encode("\n" + choice)
    assert new == continuation(tokenizer, None, tokenizer.encode(prompt), choice)


# Choices


def test_choices_are_ordered_and_normalised(model):
    actual = model.choose("今天天气", ["很不错", "a", "很好"])
    assert sorted(c.text for c in actual) == ["a", "很不错", "很好"]
    assert sum(c.probability for c in actual) == pytest.approx(1)
    assert [c.logprob for c in actual] == sorted((c.logprob for c in actual), reverse=True)
    prompt = model.tokenizer.encode("今天天气")
    for choice in actual:
        logits = model.logits([*prompt, *choice.ids])
        steps = normalized(logits[len(prompt) - 1 : -1])
        expected = steps[np.arange(len(choice.ids)), choice.ids].sum()
        assert choice.logprob == pytest.approx(expected, abs=1e-4)
        assert choice.logprob_per_token == pytest.approx(choice.logprob / len(choice.ids))
        assert choice.logprob_per_character == pytest.approx(choice.logprob / len(choice.text))
    by_ids = model.choose(prompt, [c.ids for c in reversed(actual)])
    assert [(c.ids, c.text) for c in by_ids] == [(c.ids, c.text) for c in actual]


def test_normalisation_decides_by_the_average(model):
    choices = ["好", "非常非常非常非常好", "a"]
    for way, key in (("tokens", "logprob_per_token"), ("characters", "logprob_per_character")):
        actual = model.choose("今天天气", choices, normalize=way)
        averages = np.array([getattr(c, key) for c in actual])
        assert list(averages) == sorted(averages, reverse=True)
        shares = np.exp(averages) / np.exp(averages).sum()
        assert [c.probability for c in actual] == pytest.approx(shares.tolist())
    with pytest.raises(UsageError, match="normalize is 'bytes'"):
        model.choose("今天天气", choices, normalize="bytes")


def test_the_end_is_the_models_or_begins_a_stop(model):
    prompt, end = model.tokenizer.encode("今天天气"), model.tokenizer.end[0]
    stop = model.tokenizer.encode("\n")[-1]
    plain = {c.text: c for c in model.choose("今天天气", ["很好", "不错"])}
    actual = {c.text: c for c in model.choose("今天天气", ["很好", "不错"], end=True, stop="\n")}
    for text, choice in actual.items():
        p = np.exp(normalized(model.logits([*prompt, *choice.ids])[-1]))
        expected = plain[text].logprob + math.log(p[end] + p[stop])
        assert choice.logprob == pytest.approx(expected, abs=1e-4)
        assert choice.logprob_per_token == choice.logprob / (len(choice.ids) + 1)
    own = model.choose("今天天气", ["很好", "不错"], end=True)
    assert own[0].logprob < actual[own[0].text].logprob


def test_the_end_separates_a_choice_from_a_longer_one(model):
    prompt = model.tokenizer.encode("1+1=")
    short, long = model.tokenizer.encode("2")[1:], model.tokenizer.encode("22")[1:]
    long = long if long[: len(short)] == short else [*short, *short]
    free = {c.ids: c.logprob for c in model.choose(prompt, [short, long])}
    assert free[tuple(long)] < free[tuple(short)]
    ended = {c.ids: c.logprob for c in model.choose(prompt, [short, long], end=True)}
    assert math.exp(ended[tuple(short)]) + math.exp(free[tuple(long)]) < math.exp(
        free[tuple(short)]
    )


def test_ties_stay_as_given():
    from gentool.decoding.choices import shares

    assert shares([-1.0, -1.0]).tolist() == [0.5, 0.5]
    made = [scores.Choice(t, (1,), -1.0, 0.5, -1.0, -1.0) for t in "ba"]
    assert [c.text for c in sorted(made, key=lambda c: -c.probability)] == ["b", "a"]


@pytest.mark.parametrize(
    ("choices", "message"),
    [
        ([], "there are no choices"),
        (["好", ""], "the choice '' is empty"),
        (["好", []], r"the choice '\[\]' is empty"),
        (["好", "\ud800"], "is not text"),
        (["好", "坏", "好"], "the choices '好' and '好' are the same tokens"),
        (
            ["今天" * 600],
            "the prompt with the choice '今天.* tokens, the context of tiny-zh is 512",
        ),
        ([[6000]], "token id 6000 is outside"),
    ],
)
def test_invalid_choices_are_named(model, choices, message):
    with pytest.raises(UsageError, match=message):
        model.choose("今天天气", choices)


def test_choices_of_the_same_tokens_are_named(known):
    with pytest.raises(UsageError, match="'Yes' and 'yes' are the same tokens"):
        scores.continuations(known["bert"], "天", known["bert"].encode("天"), ["Yes", "yes"])
    with pytest.raises(UsageError, match="the choice ' ' holds no token"):
        scores.continuations(known["bert"], "天", known["bert"].encode("天"), ["a", " "])


def test_a_model_without_an_end_says_so(model):
    bare = gentool.load("tiny-zh", set={"tokenizer": None}, xla=XLA)
    ids = model.tokenizer.encode("今天")
    assert [c.ids for c in bare.choose(ids, [[5, 6], [7]])]
    with pytest.raises(UsageError, match="no end token"):
        bare.choose(ids, [[5, 6], [7]], end=True)
    with pytest.raises(UsageError, match="no characters"):
        bare.choose(ids, [[5, 6], [7]], normalize="characters")
    with pytest.raises(GentoolError, match="no tokenizer"):
        bare.choose(ids, ["好", "坏"])


# Scores


@pytest.mark.parametrize("name", ["hf_gpt2", "hf_llama"])
def test_goldens_score_as_their_own_logits(name):
    golden = np.load(GOLDEN / name / "golden.npz")
    model = gentool.load(str(GOLDEN / name), xla=XLA)
    cases = [key.removeprefix("ids_") for key in golden if key.startswith("ids_")]
    for case in cases:
        ids, logits = golden[f"ids_{case}"].tolist(), golden[f"logits_{case}"]
        if len(ids) == 1:
            with pytest.raises(UsageError, match="one token"):
                model.score(ids)
            continue
        expected = normalized(logits[:-1])[np.arange(len(ids) - 1), ids[1:]]
        actual = model.score(ids)
        assert actual.logprobs[0] is None and actual.ids == tuple(ids)
        np.testing.assert_allclose(actual.logprobs[1:], expected, atol=1e-4)
        assert actual.total == pytest.approx(expected.sum(), abs=1e-3)


def test_a_start_token_is_what_the_first_is_conditioned_on(model):
    actual = model.score(TEXT)
    assert actual.ids == tuple(model.tokenizer.encode(TEXT)) and actual.ids[0] == 1
    assert actual.logprobs[0] is None and None not in actual.logprobs[1:]
    assert actual.unscored == "" and actual.text == TEXT == "".join(actual.tokens)
    assert (actual.n_tokens, actual.n_characters) == (len(actual.ids) - 1, len(TEXT))
    assert actual.total == pytest.approx(sum(actual.logprobs[1:]))
    assert actual.perplexity == pytest.approx(math.exp(-actual.total / actual.n_tokens))
    assert actual.perplexity_character == pytest.approx(math.exp(-actual.total / len(TEXT)))
    assert 2**actual.bits_per_character == pytest.approx(actual.perplexity_character)
    assert model.score(actual.ids) == actual


def test_without_a_start_token_the_first_is_not_scored():
    model = gentool.load("tiny-zh", set={"tokenizer.add_bos": False}, xla=XLA)
    actual = model.score(TEXT)
    assert actual.logprobs.count(None) == 1 and actual.unscored == "今天"
    assert actual.n_characters == len(TEXT) - 2 and actual.n_tokens == len(actual.ids) - 1
    with pytest.raises(UsageError, match="one token"):
        model.score("今天")


def test_a_text_longer_than_the_context_states_its_stride(model):
    text = TEXT * 60
    actual = model.score(text)
    assert actual.stride == 256 and actual.n_tokens == len(actual.ids) - 1 > 512
    close = model.score(text, stride=64)
    assert close.stride == 64
    assert close.logprobs[:513] == actual.logprobs[:513]
    assert model.score(actual.ids[:513]).stride is None
    assert model.score(actual.ids[:514]).stride == 256
    for wrong in (0, -1, 513):
        with pytest.raises(UsageError, match=f"stride is {wrong}"):
            model.score(TEXT, stride=wrong)


@given(ids=st.lists(st.integers(0, 450), min_size=1))
@pytest.mark.parametrize("name", FILES)
def test_pieces_join_to_the_text(known, name, ids):
    actual = scores.pieces(known[name], ids)
    assert len(actual) == len(ids) and "".join(actual) == known[name].decode(ids)


def test_a_character_of_several_tokens_comes_with_the_last(known):
    ids = known["gpt2"].encode("今")
    assert scores.pieces(known["gpt2"], ids) == ("",) * (len(ids) - 1) + ("今",)


def test_a_perplexity_beyond_all_numbers_is_infinite():
    actual = scores.Score("ab", (1, 2), ("a", "b"), (None, -800.0), None)
    assert actual.perplexity == actual.perplexity_character == math.inf
    assert actual.bits_per_character == pytest.approx(800 / math.log(2))
    assert scores.Score("", (1, 2), ("", ""), (None, -1.0), None).perplexity_character is None


@pytest.mark.parametrize("text", ["", "\ud800", [], [6000]])
def test_invalid_texts_are_refused(model, text):
    with pytest.raises(UsageError, match="the text is|token id 6000"):
        model.score(text)
