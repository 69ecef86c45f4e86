"""Conversations: what is computed anew, and that answers are those of the same messages at once."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import gentool
from gentool.config.sampling import SamplingParams
from gentool.errors import UsageError
from gentool.generation.conversation import Conversation
from gentool.generation.request import Request, Sampled

QUESTIONS = ["从前有一只小猫，", "1+1=", "今天天气", "小狗去哪里了？", "再见"]
SAMPLING = SamplingParams(temperature=0.8, max_tokens=20)


class CountingRuntime:
    """A runtime that keeps how many tokens each prefill was given."""

    def __init__(self, runtime):
        self._runtime, self.counts = runtime, []

    def __getattr__(self, name):
        return getattr(self._runtime, name)

    def prefill(self, ids, *arguments):
        self.counts.append(len(ids))
        return self._runtime.prefill(ids, *arguments)


@pytest.fixture(scope="module", params=[None, False], ids=["litert", "tensorflow"])
def any_model(request):
    return gentool.load("tiny-zh", xla=request.param)


@pytest.fixture(scope="module")
def model():
    return gentool.load("tiny-zh")


def conversation(model, **changes):
    options = {"sampling": SAMPLING, "seed": 3} | changes
    return Conversation(model, Request((), (), 1, **options), "chatml")


def said(answer):
    return "".join(part.text for part in answer)


def rendered(model, messages):
    return model.chat_ids(messages, template="chatml")


@pytest.mark.parametrize("lookup", [0, 4])
def test_five_turns_are_the_same_messages_at_once(any_model, lookup):
    """Ids and texts; log-probabilities up to rounding, because products of one token and of many
    sum in another order."""
    talk = conversation(any_model, search=Sampled(lookup=lookup))
    talk.set_system("你是一个会讲故事的老师。")
    for question in QUESTIONS:
        assert said(talk.ask(question)) == talk.messages[-1]["content"]
        answer, ids = talk.last, rendered(any_model, talk.messages[:-1])
        assert answer.prompt_tokens == len(ids)
        options = dataclasses.asdict(talk.request.sampling)
        at_once = any_model.complete(ids, seed=3, row=answer.row, eos=talk.request.eos, **options)
        assert at_once[0].ids == answer.sample.ids
        assert at_once[0].text == answer.text
        assert at_once[0].logprob == pytest.approx(answer.sample.logprob, abs=1e-4)
    assert [message["role"] for message in talk.messages] == ["system", *["user", "assistant"] * 5]


def test_batch_invariant_turns_have_the_bits_of_the_same_messages_at_once(model):
    talk = conversation(model, batch_invariant=True)
    for question in QUESTIONS:
        said(talk.ask(question))
        ids = rendered(model, talk.messages[:-1])
        options = dataclasses.asdict(talk.request.sampling)
        (at_once,) = model.complete(
            ids, seed=3, row=talk.last.row, eos=talk.request.eos, batch_invariant=True, **options
        )
        assert at_once == talk.last.sample
        assert talk.last.cached_tokens == 0


def test_a_turn_computes_its_own_tokens_only(any_model, monkeypatch):
    """All of the first prompt and answer is in the KV cache but the answer's last token."""
    runtime = CountingRuntime(any_model.engine.runtime)
    monkeypatch.setattr(any_model, "engine", dataclasses.replace(any_model.engine, runtime=runtime))
    talk = conversation(any_model)
    before = 0
    for question in QUESTIONS:
        said(talk.ask(question))
        new = talk.last.prompt_tokens - before
        assert runtime.counts.pop() == new and not runtime.counts
        assert talk.last.cached_tokens == before
        before = talk.last.prompt_tokens + len(talk.last.sample.ids) - 1


def test_a_closed_answer_is_kept_as_far_as_it_was_yielded(model):
    talk = conversation(model)
    first = talk.ask(QUESTIONS[0])
    shown = [next(first).text for _ in range(3)]
    first.close()
    assert talk.messages[-1] == {"role": "assistant", "content": "".join(shown)}
    assert talk.last.sample is None
    said(talk.ask(QUESTIONS[1]))
    assert talk.last.cached_tokens >= len(rendered(model, talk.messages[:1]))
    same = conversation(model)
    same.reset(talk.messages[:2])
    same.row = 1
    said(same.ask(QUESTIONS[1]))
    assert same.messages == talk.messages


def test_retry_replaces_the_answer_with_other_random_numbers(model):
    talk = conversation(model)
    with pytest.raises(UsageError, match="no message to answer"):
        talk.retry()
    first, second = said(talk.ask("今天")), said(talk.retry())
    assert first != second and len(talk.messages) == 2
    assert talk.last.cached_tokens == talk.last.prompt_tokens - 1
    talk.seed(3)
    talk.reset()
    assert said(talk.ask("今天")) == first


def test_the_oldest_turns_leave_a_full_context(model):
    """The system message and the last turn stay; a quarter of the context is for the answer."""
    sampling = dataclasses.replace(SAMPLING, max_tokens=300)
    talk = conversation(model, sampling=sampling)
    talk.set_system("短")
    turns = [(f"第{n}个问题：{'很长' * 20}", "好" * 30) for n in range(6)]
    history = [
        {"role": role, "content": text}
        for turn in turns
        for role, text in zip(("user", "assistant"), turn, strict=True)
    ]
    talk.reset([*talk.messages, *history])
    said(talk.ask("最后"))
    assert talk.last.dropped > 1
    assert len(talk.messages) == 1 + 12 + 2  # a transcript has all of them
    shown = [talk.messages[0], *talk.messages[1 + 2 * talk.last.dropped : -1]]
    assert talk.last.prompt_tokens == len(rendered(model, shown)) <= 512 - 128
    one_more = [talk.messages[0], *talk.messages[1 + 2 * talk.last.dropped - 2 : -1]]
    assert len(rendered(model, one_more)) > 512 - 128
    messages = talk.messages
    with pytest.raises(UsageError, match="the context of tiny-zh is 512"):
        said(talk.ask("很长" * 600))
    assert talk.messages == messages


def test_a_message_that_the_template_refuses_is_not_kept(model):
    talk = Conversation(model, Request((), (), 1, SAMPLING, 3), "gemma")
    talk.set_system("gemma has no place for it")
    with pytest.raises(UsageError):
        said(talk.ask("你好"))
    talk.set_system(None)
    assert said(talk.ask("你好")) and np.isfinite(talk.last.sample.logprob)
