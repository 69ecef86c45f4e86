"""`gentool complete` with each way to search, and what it refuses."""

from __future__ import annotations

import json
import re
from functools import partial

import pytest
from cli.shell import Done, within

pytestmark = pytest.mark.usefixtures("models_stay_open")

PROMPT = "从前有一只小猫，"


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]):
    return partial(within, capfd, "complete")


def samples(done: Done) -> list[dict]:
    assert done.code == 0, done.err
    return json.loads(done.out)["samples"]


def test_beams(run) -> None:
    flags = (PROMPT, "--beams", "4", "--n-best", "3", "--max-tokens", "6")
    lines = run(*flags).out.splitlines()
    found = samples(run(*flags, "--json"))
    assert [s["text"].replace("\n", "\\n") for s in found] == lines and len(lines) == 3
    scores = [s["score"] for s in found]
    assert scores == sorted(scores, reverse=True)
    for s in found:
        assert s["score"] == pytest.approx(s["logprob"] / len(s["ids"]), abs=1e-12)
    plain = samples(run(*flags, "--json", "--length-penalty", "0"))
    assert all("score" not in s or s["score"] == pytest.approx(s["logprob"]) for s in plain)
    (one,) = samples(run(PROMPT, "--beams", "3", "--beam-rule", "bert4keras", "--json"))
    assert len(one["ids"]) <= 64


def test_a_stop_text_ends_a_beam(run) -> None:
    found = samples(run(PROMPT, "--beams", "4", "--n-best", "4", "--stop", "，", "--json"))
    assert all("，" not in s["text"] for s in found)
    assert {s["finish"] for s in found} == {"stop"}


def test_beams_obey_restrictions(run) -> None:
    found = samples(
        run(PROMPT, "--beams", "3", "--n-best", "3", "--ban", "小", "--max-tokens", "8", "--json")
    )
    assert found and all("小" not in s["text"] for s in found)


def test_alternatives(run) -> None:
    done = run("1+1=", "--alternatives", "3", "--max-tokens", "2")
    lines = [line.split("\t") for line in done.out.splitlines()]
    shares = [float(share) for share, _ in lines]
    assert shares == sorted(shares, reverse=True) and len(shares) == 3 and sum(shares) <= 1
    found = samples(run("1+1=", "--alternatives", "3", "--max-tokens", "2", "--json"))
    firsts = [s["steps"][0]["id"] for s in found]
    assert len(set(firsts)) == 3


def test_logprobs(run) -> None:
    (s,) = samples(run(PROMPT, "--temp", "0", "--max-tokens", "4", "--json", "--logprobs", "3"))
    assert [step["id"] for step in s["steps"]] == s["ids"]
    assert "".join(step["text"] for step in s["steps"]) == s["text"]
    assert sum(step["logprob"] for step in s["steps"]) == pytest.approx(s["logprob"])
    for step in s["steps"]:
        assert step["id"] == step["top"][0]["id"] and len(step["top"]) == 3


def test_choices(run) -> None:
    words = ("很好", "不好", "真好")
    flags = [flag for word in words for flag in ("--choice", word)]
    lines = run("今天天气", *flags, "-n", "50", "--seed", "1").out.splitlines()
    assert len(lines) == 50 and set(lines) <= set(words) and len(set(lines)) > 1
    again = run("今天天气", *flags, "-n", "50", "--seed", "1").out.splitlines()
    assert again == lines


def test_regex_and_schema(run) -> None:
    found = run("生日：", "--regex", r"[0-9]{4}年[0-9]{1,2}月", "-n", "5", "--seed", "2").out
    assert all(re.fullmatch(r"\d{4}年\d{1,2}月", line) for line in found.splitlines())
    schema = '{"type":"object","properties":{"年":{"type":"integer","minimum":1,"maximum":99}},'
    schema += '"required":["年"],"additionalProperties":false}'
    text = run("答案：", "--json-schema", schema, "--seed", "1").out
    assert 1 <= json.loads(text)["年"] <= 99


def test_banned_texts_and_biased_tokens(run) -> None:
    plain = run(PROMPT, "--temp", "0", "--max-tokens", "20").out
    word, character = plain[3:5], plain[1]
    flags = ("--temp", "0", "--max-tokens", "20", "--ban", word, "--ban", character)
    banned = run(PROMPT, *flags).out
    assert word not in banned and character not in banned
    (s,) = samples(
        run(PROMPT, "--temp", "0", "--json", "--logit-bias", "300:100", "--max-tokens", "3")
    )
    assert s["ids"] == [300] * 3


@pytest.mark.parametrize("flags", [("--temp", "0"), ("--temp", "0.7", "-n", "4", "--xla")])
def test_lookup_changes_no_text(run, flags: tuple[str, ...]) -> None:
    prompt = "小猫说：你好。小狗说：你好。小猫说：你好。小狗说："
    plain = run(prompt, "--max-tokens", "24", "--seed", "5", *flags)
    assert run(prompt, "--max-tokens", "24", "--seed", "5", "--lookup", "5", *flags) == plain


def test_stratified_samples_differ_from_independent_ones_and_repeat(run) -> None:
    flags = (PROMPT, "-n", "20", "--max-tokens", "3", "--seed", "1", "--temp", "1")
    strata = run(*flags, "--stratified")
    assert strata == run(*flags, "--stratified") != run(*flags)


@pytest.mark.parametrize(
    ("flags", "message", "hint"),
    [
        (("--beams", "0"), "--beams is '0'", "give a whole number 1 to 512"),
        (("--beams", "2", "-n", "3"), "--n is 3, which is for samples", "--n-best"),
        (("--beams", "2", "--n-best", "3"), "3 texts are requested of 2 beams", "as many beams"),
        (("--n-best", "2"), "--n-best is for beams", "--beams N"),
        (("--beam-rule", "hf"), "--beam-rule is for beams", "--beams N"),
        (("--beams", "2", "--beam-rule", "gf"), "--beam-rule is 'gf'", "hf, bert4keras"),
        (("--beams", "3", "--beam-groups", "2"), "beam_groups is 2", "any divisor of 3"),
        (("--beams", "2", "--choice", "a"), "--beams and --choice", "drop one"),
        (("--stratified", "--beams", "2"), "--beams and --stratified", "drop one"),
        (("--beams", "2", "--lookup", "3"), "--lookup is 3, which is for samples", "drop it"),
        (("--choice", "b", "--regex", "c"), "--choice and --regex", "drop one"),
        (("--choice", "b", "--ban", "c"), "--choice and --ban", "drop one"),
        (("--penalty-alpha", "2"), "--penalty-alpha is '2'", "0 to 1"),
        (("--min-p", "1.5"), "--min-p is '1.5'", "0 to 1"),
        (("--typical-p", "0"), "--typical-p is '0'", "> 0 and <= 1"),
        (("--repetition-penalty", "0"), "--repetition-penalty is '0'", "1e-09 to"),
        (("--presence-penalty", "inf"), "--presence-penalty is 'inf'", "give a number"),
        (("--logit-bias", "5"), "--logit-bias is '5'", "write ID:X"),
        (("--logit-bias", "6000:1"), "token id 6000 is outside", "0 to 5999"),
        (("--logprobs", "3"), "--logprobs is 3, without --json", "add --json"),
        (("--regex", "("), "--regex is '('", "without look-around"),
        (("--json-schema", "{"), "--json-schema is '{'", "quotes and commas"),
        (("--early-stopping", "maybe", "--beams", "2"), "--early-stopping is 'maybe'", "never"),
    ],
)
def test_what_is_refused(run, flags: tuple[str, ...], message: str, hint: str) -> None:
    done = run("a", *flags)
    error, told = done.err.splitlines()
    assert (done.code, done.out) == (2, "")
    assert message in error and hint in told


def test_contrastive_search(run) -> None:
    flags = (PROMPT, "--penalty-alpha", "0.6", "--top-k", "4", "--max-tokens", "20")
    text = run(*flags).out
    assert text == run(*flags).out != run(PROMPT, "--temp", "0", "--max-tokens", "20").out
    greedy = run(PROMPT, "--penalty-alpha", "0", "--top-k", "4", "--max-tokens", "20")
    assert greedy == run(PROMPT, "--temp", "0", "--max-tokens", "20")
    assert run(*flags, "-n", "2").code == 2
    assert "，" not in run(*flags, "--stop", "，").out
