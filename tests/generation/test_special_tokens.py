"""A stop, ban or choice text that is a special token means its id; a start token that a prompt
spells, and that the tokenizer adds anyway, gets a warning; a cut text ends with a whole character.
"""

import logging
from pathlib import Path

import pytest

import gentool
from gentool.tokenizers import repeated_start, special_id

PROMPT = "今天天气"
GEMMA = Path(__file__).parents[1] / "golden/hf_gemma"


@pytest.fixture(scope="module")
def model():
    return gentool.load("tiny-zh", precision="fp32")


@pytest.fixture(scope="module")
def end(model):
    return special_id(model.tokenizer, "</s>")


def test_a_stop_text_that_is_a_special_token_ends_a_text(model, end):
    bias = {end: 3.0}
    (sample,) = model.complete(PROMPT, seed=1, max_tokens=60, logit_bias=bias)
    assert sample.finish == "eos" and sample.ids[-1] == end
    keys = {"seed": 1, "max_tokens": 60, "logit_bias": bias, "eos": None, "stop": "</s>"}
    (stopped,) = model.complete(PROMPT, **keys)
    assert (stopped.ids, stopped.text, stopped.finish) == (sample.ids, sample.text, "stop")
    (kept,) = model.complete(PROMPT, include_stop=True, **keys)
    assert kept.text == sample.text + "</s>"


def test_of_beams_too(model, end):
    keys = {"beams": 2, "n_best": 1, "max_tokens": 8, "logit_bias": {end: 20.0}}
    (found,) = model.beam(PROMPT, eos=None, stop="</s>", **keys)
    assert (found.ids, found.text, found.finish) == ((end,), "", "stop")


def test_a_vote_ends_at_it(model, end):
    tally = model.vote(PROMPT, 8, eos=None, stop="</s>", logit_bias={end: 4.0}, seed=1)
    assert tally.winner is not None


def test_a_banned_special_token_is_not_drawn(model, end):
    bias = {end: 100.0}
    assert model.complete(PROMPT, max_tokens=2, logit_bias=bias)[0].ids == (end,)
    (sample,) = model.complete(PROMPT, max_tokens=2, logit_bias=bias, ban="</s>")
    assert len(sample.ids) == 2 and end not in sample.ids


def test_a_choice_that_is_a_special_token_is_its_id(model, end):
    choices = model.choose(PROMPT, ["</s>", "很好"])
    assert {choice.text: choice.ids for choice in choices}["</s>"] == (end,)


@pytest.mark.parametrize("text", ["今天天气不错", "<bos>今天天气不错"])
def test_a_start_token_that_is_there_twice(caplog, text):
    gemma = gentool.load(str(GEMMA))
    twice = repeated_start(gemma.tokenizer, gemma.tokenizer.encode(text))
    assert twice == (gemma.tokenizer.start[0] if text.startswith("<bos>") else None)
    with caplog.at_level(logging.WARNING):
        gemma.score(text)
        gemma.complete(text, max_tokens=1)
    warned = [record.getMessage() for record in caplog.records]
    if twice is None:
        assert warned == []
    else:
        (warning,) = warned
        assert warning.startswith("the text begins with <bos>, which the tokenizer puts")


def test_a_cut_text_ends_with_a_whole_character(model):
    byte = model.tokenizer.encode("\U00010348")[1]  # the first of four bytes
    (sample,) = model.complete(PROMPT, max_tokens=3, logit_bias={byte: 100.0})
    assert sample.ids == (byte,) * 3 and sample.finish == "length"
    assert sample.text == "\ufffd\ufffd"  # bytes that are no character, but not the last
