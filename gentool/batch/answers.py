"""Writes the answers to rows as lines of JSON, in our own form and in OpenAI's."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, NamedTuple

from gentool import __version__
from gentool.batch.tasks import Task

if TYPE_CHECKING:
    from gentool.generation.request import Sample, Step, TokenLogprob

CREATED = 0  # OpenAI's time of creation: the same row gives the same bytes


class Origin(NamedTuple):
    """Where answers come from: the model's name, the SHA-256 of its files and numbers, its
    precision, and the processor."""

    model: str
    model_sha256: str
    precision: str
    processor: str


class Outcome(NamedTuple):
    """A row that is done: its samples, or its problem; and the tokens of its prompt."""

    task: Task
    samples: Sequence[Sample]
    problem: str
    prompt_tokens: int = 0


def line(outcome: Outcome, origin: Origin) -> bytes:
    """The line of a row that is done."""
    task = outcome.task
    if task.form in ("completion", "chat"):
        return dumped(_openai(outcome, origin)).encode()
    prompt = {"messages" if task.is_chat else "prompt": task.prompt}
    try:
        kept = {key: value for key, value in task.fields.items() if key not in KEYS}
        start = {
            "row": task.number,
            "id": task.id,
            **kept,
            **(prompt if task.prompt is not None else {}),
        }
        if outcome.problem:
            return dumped({**start, "error": outcome.problem}).encode()
        samples = [sample_fields(sample) for sample in outcome.samples]
        return dumped({**start, "samples": samples, **reproduction(task, origin)}).encode()
    except RecursionError:
        problem = "it is not JSON that can be written: too deep"
        return dumped({"row": task.number, "id": task.number, "error": problem}).encode()


def reproduction(task: Task, origin: Origin) -> dict[str, Any]:
    """What is needed to draw the samples of a row again, but for its number."""
    request = task.request
    drawn: dict[str, Any] = {"seed": request.seed, "sampling": asdict(request.sampling)}
    grammar = {"regex": request.regex, "json_schema": request.json_schema}
    drawn |= {name: value for name, value in grammar.items() if value is not None}
    if texts := getattr(request.search, "texts", None):
        drawn["choice"] = texts
    return {**drawn, **origin._asdict(), "version": __version__}


def sample_fields(sample: Sample) -> dict[str, object]:
    """A sample as JSON has it: its score where that is another number, its steps if there are."""
    fields: dict[str, object] = {
        "text": sample.text,
        "ids": sample.ids,
        "logprob": sample.logprob,
        "finish": sample.finish,
    }
    if sample.score != sample.logprob:
        fields["score"] = sample.score
    if sample.steps:
        fields["steps"] = [
            vars(step.chosen) | {"top": [vars(top) for top in step.top_logprobs]}
            for step in sample.steps
        ]
    return fields


def dumped(record: Mapping[str, object]) -> str:
    """A line of JSON, with escapes only where a text is not Unicode."""
    text = json.dumps(record, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        text = json.dumps(record)
    return text + "\n"


def _openai(outcome: Outcome, origin: Origin) -> dict[str, Any]:
    """A line of OpenAI's output files."""
    task = outcome.task
    id = f"batch_req_{task.number}"
    start = {"id": id, "custom_id": task.id}
    if outcome.problem:
        error = {"code": "invalid_request", "message": outcome.problem}
        return {**start, "response": None, "error": error}
    chat = task.form == "chat"
    choices = [
        (_chat_choice if chat else _completion_choice)(index, sample)
        for index, sample in enumerate(outcome.samples)
    ]
    new = sum(len(sample.ids) for sample in outcome.samples)
    usage = {"prompt_tokens": outcome.prompt_tokens, "completion_tokens": new}
    body = {
        "id": f"{'chatcmpl' if chat else 'cmpl'}-{task.number}",
        "object": "chat.completion" if chat else "text_completion",
        "created": CREATED,
        "model": origin.model,
        "choices": choices,
        "usage": {**usage, "total_tokens": outcome.prompt_tokens + new},
        "gentool": {"row": task.number, **reproduction(task, origin)},
    }
    response = {"status_code": 200, "request_id": id, "body": body}
    return {**start, "response": response, "error": None}


def _completion_choice(index: int, sample: Sample) -> dict[str, Any]:
    logprobs = None
    if sample.steps:
        logprobs = {
            "tokens": [step.chosen.text for step in sample.steps],
            "token_logprobs": [step.chosen.logprob for step in sample.steps],
            "top_logprobs": [
                {top.text: top.logprob for top in step.top_logprobs} for step in sample.steps
            ],
        }
    return {"index": index, "text": sample.text, "logprobs": logprobs, **_finish(sample)}


def _chat_choice(index: int, sample: Sample) -> dict[str, Any]:
    message = {"role": "assistant", "content": sample.text}
    content = [_chat_logprob(step) for step in sample.steps]
    logprobs = {"content": content} if content else None
    return {"index": index, "message": message, "logprobs": logprobs, **_finish(sample)}


def _chat_logprob(step: Step) -> dict[str, Any]:
    def fields(token: TokenLogprob) -> dict[str, Any]:
        data = list(token.text.encode("utf-8", "replace"))
        return {"token": token.text, "logprob": token.logprob, "bytes": data}

    return fields(step.chosen) | {"top_logprobs": [fields(top) for top in step.top_logprobs]}


def _finish(sample: Sample) -> dict[str, str]:
    return {"finish_reason": "length" if sample.finish == "length" else "stop"}


# of our own form: what a row brings under these names is not kept
KEYS = frozenset(
    "row id prompt messages samples error seed sampling regex json_schema choice model"
    " model_sha256 precision processor version".split()
)
