"""Reads the rows of a batch: a prompt a line, JSON objects, and OpenAI's batch lines. What is wrong
with a row is said of that row."""

from __future__ import annotations

import functools
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from itertools import islice
from typing import Any, Literal, NamedTuple

from gentool.batch.lines import Line
from gentool.batch.rows import EMPTY_LINE, json_object
from gentool.config.sampling import SamplingParams, parameters
from gentool.errors import GentoolError, UsageError, slip
from gentool.generation.request import Choose, Request

Form = Literal["text", "row", "completion", "chat"]

URLS: dict[str, Form] = {"/v1/completions": "completion", "/v1/chat/completions": "chat"}
# parameters of a row beside those of sampling
ROW_PARAMETERS = ("n", "seed", "logprobs", "regex", "json_schema", "choice")
NO_MESSAGES = '"messages" is no list of messages'
MAX_SAMPLES = 10**6
MAX_LOGPROBS = 64
MAX_FIELDS = 100  # that are compared with the parameters' names
# of OpenAI's body: without a meaning here, and with another name
IGNORED = {"model", "user", "metadata", "store", "service_tier", "stream_options"}
RENAMED: dict[str, str] = {"max_completion_tokens": "max_tokens"}
OFF: dict[str, Any] = {"stream": False, "echo": False, "best_of": 1, "suffix": None}


@dataclass(frozen=True)
class Settings:
    """What holds for all rows, but where a row says otherwise. Can be sent to another process."""

    request: Request  # without prompts and rows
    form: Literal["text", "json"]


class Task(NamedTuple):
    """A row: its prompt (text, ids, or the messages of a chat) and its request, which lacks only
    that; or its problem. `fields` are those that the answer keeps."""

    number: int
    form: Form
    id: object
    fields: Mapping[str, Any]
    prompt: Any
    request: Request
    problem: str = ""

    @property
    def is_chat(self) -> bool:
        return are_messages(self.prompt)


def are_messages(value: object) -> bool:
    """Whether it is what a chat template takes: a list of objects."""
    return isinstance(value, list) and bool(value) and all(isinstance(item, dict) for item in value)


def task(line: Line, settings: Settings) -> Task:
    """The row in a line."""
    number = line.number
    form: Form = "text" if settings.form == "text" else "row"
    unread = Task(number, form, number, {}, None, settings.request)
    if line.problem:
        return unread._replace(problem=line.problem)
    try:
        text = line.data.decode()
    except UnicodeDecodeError as e:
        return unread._replace(problem=f"it is not UTF-8 (byte {e.start})")
    if not text if settings.form == "text" else not text.strip():
        return unread._replace(problem=EMPTY_LINE)
    if settings.form == "text":
        return text_task(number, text, settings)
    fields = json_object(text)
    if isinstance(fields, str):
        return unread._replace(problem=f"it is {fields}")
    if "body" in fields and "url" in fields:
        return _openai(number, fields, settings)
    return _row(number, fields, settings)


def slips(lines: Iterable[Line]) -> dict[str, str]:
    """Fields of rows that are kept, the first MAX_FIELDS of them, with the parameter that each may
    be meant as."""
    names, seen = {*_parameter_names(), "prompt", "messages"}, dict[str, None]()
    for line in lines:
        fields = json_object(line.data.decode("utf-8", "replace"))
        if isinstance(fields, dict) and not ("body" in fields and "url" in fields):
            seen |= dict.fromkeys(fields)
    kept = (name for name in seen if name != "id" and name not in names)
    meant = {name: slip(name, names) for name in islice(kept, MAX_FIELDS)}
    return {name: other for name, other in meant.items() if other}


def _parameter_names() -> set[str]:
    return {parameter.name for parameter in parameters()} | {*ROW_PARAMETERS}


def text_task(number: int, text: str, settings: Settings) -> Task:
    """The row of a prompt without parameters."""
    request = replace(settings.request, prompts=(text,), rows=(number,))
    return Task(number, "text", number, {}, text, request)


def _row(number: int, fields: dict[str, Any], settings: Settings) -> Task:
    """A row of our own form."""
    names = _parameter_names()
    given = {name: fields[name] for name in names & fields.keys() if fields[name] is not None}
    kept = {name: value for name, value in fields.items() if name not in names}
    id = kept.pop("id", None)
    id = number if id is None else id
    prompt = kept.pop("prompt", None)
    messages = kept.pop("messages", None)
    row = Task(number, "row", id, kept, messages if prompt is None else prompt, settings.request)
    if prompt is not None and messages is not None:
        return row._replace(problem='both "prompt" and "messages" are given')
    if messages is not None and not are_messages(messages):  # which is no prompt, either
        return row._replace(prompt=None, problem=NO_MESSAGES)
    return _requested(row, given)


def _openai(number: int, fields: dict[str, Any], settings: Settings) -> Task:
    """A line of OpenAI's batch files."""
    body, url, method = fields["body"], fields["url"], fields.get("method", "POST")
    form = URLS.get(url) if isinstance(url, str) else None
    id: object = fields.get("custom_id")
    row = Task(number, form or "completion", id, {}, None, settings.request)
    if not isinstance(row.id, str):
        return row._replace(problem='"custom_id" is no text')
    if form is None:
        return row._replace(problem=f'"url" is {url!r}; it can be {" or ".join(URLS)}')
    if method != "POST":
        return row._replace(problem=f'"method" is {method!r}, not POST')
    if not isinstance(body, dict):
        return row._replace(problem='"body" is no object')
    given: dict[str, Any] = {
        RENAMED.get(str(name), str(name)): value
        for name, value in body.items()
        if value is not None and name not in IGNORED
    }
    row = row._replace(prompt=given.pop("messages" if form == "chat" else "prompt", None))
    for name, off in OFF.items():
        if given.pop(name, off) != off:
            return row._replace(problem=f'"{name}" is not supported')
    if form == "chat":
        top, wanted = given.pop("top_logprobs", 0), given.pop("logprobs", False)
        given |= {"logprobs": top} if wanted is True else {}
    schema = given.pop("response_format", {"type": "text"})
    kind = schema.get("type") if isinstance(schema, dict) else None
    if kind == "json_schema":
        inner = schema.get("json_schema")
        given["json_schema"] = inner.get("schema") if isinstance(inner, dict) else None
    elif kind == "json_object":
        given["json_schema"] = {"type": "object"}
    elif kind != "text":
        return row._replace(problem=f'"response_format" is {schema!r}')
    names = _parameter_names()
    if unknown := sorted(given.keys() - names):
        return row._replace(problem=f'"{unknown[0]}" is not supported')
    return _requested(row, given)


def _requested(row: Task, given: Mapping[str, Any]) -> Task:
    """The row with the request that its parameters make."""
    problem = _problem_of_prompt(row.prompt, row.form)
    if problem:
        return row._replace(problem=problem)
    prompt = row.prompt if isinstance(row.prompt, str) else ()
    if isinstance(row.prompt, list) and not row.is_chat:
        prompt = tuple(row.prompt)
    try:
        request = _request(row.request, given)
        request = replace(request, prompts=(prompt,), rows=(row.number,))
    except GentoolError as e:
        return row._replace(problem=f"{e.message}; {e.hint}")
    return row._replace(request=request)


def _problem_of_prompt(prompt: object, form: Form) -> str:
    if prompt is None:
        what = {"chat": '"messages"', "completion": '"prompt"'}.get(form, '"prompt" or "messages"')
        return f"it has no {what}"
    if isinstance(prompt, str) and form != "chat":
        return ""
    if are_messages(prompt):
        return "" if form != "completion" else '"prompt" is no text'
    if isinstance(prompt, list) and prompt and form != "chat":
        if all(type(id) is int for id in prompt):
            return ""
    return NO_MESSAGES if form == "chat" else '"prompt" is no text'


def _request(base: Request, given: Mapping[str, Any]) -> Request:
    """The request `base` with the parameters that a row gives."""
    own = {name: given[name] for name in given if name not in ROW_PARAMETERS}
    changed: dict[str, Any] = {}
    for name, high in {"n": MAX_SAMPLES, "seed": 2**63 - 1, "logprobs": MAX_LOGPROBS}.items():
        if name in given:
            low, value = int(name == "n"), given[name]
            if type(value) is not int or not low <= value <= high:
                raise UsageError(f"{name} is {value!r}", f"it can be {low} to {high}")
            changed[name] = value
    for name in ("regex", "json_schema"):
        if name in given:
            value = given[name]
            if name == "json_schema" and isinstance(value, dict):
                value = json.dumps(value)
            if not isinstance(value, str):
                raise UsageError(f"{name} is {value!r}", "give text")
            _check_grammar(name, value)
            changed[name] = value
    if "choice" in given:
        texts = given["choice"]
        if not (isinstance(texts, list) and texts and all(isinstance(t, str) and t for t in texts)):
            raise UsageError(f"choice is {texts!r}", "give a list of texts")
        changed["search"] = Choose(tuple(texts))
    if own:
        text = json.dumps(own, sort_keys=True)
        try:
            changed["sampling"] = _sampling(base.sampling, text)
        except GentoolError as e:
            raise UsageError(e.message.removeprefix("row: "), e.hint) from None
    request = replace(base, **changed)
    if isinstance(request.search, Choose) and (request.regex or request.json_schema):
        raise UsageError("choice and a grammar restrict the same text", "drop one")
    return request


@functools.lru_cache(256)
def _cached_sampling(base: str, own: str) -> SamplingParams:
    """Equal parameters are one object, so that their rows are drawn together."""
    from gentool.config.schema import parse

    values = json.loads(own)
    if isinstance(values.get("logit_bias"), dict):
        values["logit_bias"] = _biases(values["logit_bias"])
    for name in ("ban", "stop"):
        if isinstance(values.get(name), str):
            values[name] = [values[name]]
    return parse(SamplingParams, json.loads(base, object_hook=_with_ids) | values, "row")


def _sampling(base: SamplingParams, own: str) -> SamplingParams:
    return _cached_sampling(json.dumps(asdict(base)), own)


def _with_ids(values: dict[str, Any]) -> dict[str, Any]:
    return (
        values | {"logit_bias": _biases(values["logit_bias"])} if "logit_bias" in values else values
    )


def _biases(values: Mapping[str, Any]) -> dict[int | str, Any]:
    """Biases by id, which JSON writes as text."""
    return {int(id) if id.isdecimal() else id: value for id, value in values.items()}


@functools.lru_cache(256)
def _check_grammar(name: str, text: str) -> None:
    """Raises UsageError for a grammar that cannot be read."""
    from gentool.decoding import constraints

    if name == "regex":
        constraints.regex(text)
        return
    if not text.lstrip().startswith("{"):  # a file is read only for the command line
        raise UsageError(f"json_schema is {text[:40]!r}", "give an object")
    constraints.json_schema(text)
