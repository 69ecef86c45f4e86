"""What a chat template can do with texts: methods, filters, formats. Results that would be large
are refused before they are made, and marks of input are kept.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import filters, pass_context, pass_environment, tests
from jinja2.exceptions import SecurityError
from jinja2.runtime import Context, Undefined

from gentool.tokenizers.chat import input_text
from gentool.tokenizers.chat.input_text import INPUT, InputText, marks
from gentool.tokenizers.chat.limits import (
    CONTAINERS,
    MAX_WIDTH,
    LimitReached,
    check_product,
    elements,
)

# methods and filters with a number that says how long a text becomes
FILLING = ("center", "expandtabs", "ljust", "rjust", "zfill", "batch", "slice", "round", "truncate")
# filters that give one of the values that they are given
CHOOSING = ("attr", "d", "default", "first", "last", "max", "min", "safe")
BUILT_IN = (
    "abs attr batch capitalize center count d default dictsort first float groupby int items last"
    " length list lower map max min reject rejectattr replace reverse round select selectattr slice"
    " sort string sum title trim truncate unique upper urlencode wordcount"
).split()
# a width of four digits, or one that an argument gives
WIDE = {
    "%": re.compile(r"%(\([^)]*\))?[-+ #0]*(\d*\.)?(\*|\d{4})"),
    "{": re.compile(r"\{[^{}]*:[^{}]*(\{|\d{4})"),
}
MAX_DATE_FORMAT = 200  # characters


class Refused(Exception):
    """A template called raise_exception."""


def printed(value: Any) -> str:
    """A value as `{{ }}` prints it."""
    if isinstance(value, str):
        return value
    if isinstance(value, Undefined) and value._undefined_exception is SecurityError:
        value._fail_with_undefined_error()
    if value is None or isinstance(value, bool | int | float | Undefined):
        return str(value)
    if isinstance(value, CONTAINERS):
        return InputText(str(value))
    raise TypeError(f"a {type(value).__name__} cannot be printed")


def call_method(text: str, name: str, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
    """The result of a text's method."""
    if name == "join":
        return joined(args[0], text)
    if any(map(_is_input, args)):
        text = input_text.own(text)
    _check_growth(text, name, args)
    result = getattr(text, name)(*args, **kwargs)
    return InputText(result) if type(result) is str and isinstance(text, InputText) else result


def counted_filter(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter of jinja2 that counts its work, and keeps the marks of its values."""
    passed = getattr(function, "jinja_pass_arg", None)

    @pass_context
    def counted(context: Context, value: Any, *args: Any, **kwargs: Any) -> Any:
        environment: Any = context.environment
        environment.budget.step()
        given = (value, *args, *kwargs.values())
        environment.budget.size(*given)
        _check_growth(value, name, given[1:])
        if isinstance(value, str) and any(map(_is_input, given[1:])):
            value = input_text.own(value)
        first = {"context": context, "environment": environment, "eval_context": context.eval_ctx}
        before = [first[passed.name]] if passed else []
        result = function(*before, value, *args, **kwargs)
        is_new = name not in CHOOSING and not any(result is other for other in given)
        if isinstance(result, str) and not isinstance(result, InputText):
            if is_new and any(map(_is_input, given)):
                result = InputText(result)
        return environment.budget.make(result)

    return counted


def counted_test(function: Callable[..., Any]) -> Callable[..., Any]:
    """A test of jinja2 that counts its work."""
    passed = getattr(function, "jinja_pass_arg", None)

    @pass_context
    def counted(context: Context, *args: Any) -> Any:
        environment: Any = context.environment
        environment.budget.step()
        return function(*([environment] if passed else []), *args)

    return counted


def _is_input(value: Any) -> bool:
    """Whether a value is input, or may hold some."""
    return isinstance(value, InputText) or bool(elements(value))


def _check_growth(text: Any, name: str, args: tuple[Any, ...]) -> None:
    """Refuses what would make a text of a few characters a large one."""
    numbers = [value for value in args if isinstance(value, int)]
    if name in FILLING and any(abs(number) > MAX_WIDTH for number in numbers):
        raise LimitReached(f"{name} fills up to more than {MAX_WIDTH}")
    if name == "expandtabs":
        check_product(len(text), *numbers[:1])
    if name == "replace" and len(args) > 1:
        old, new = str(args[0]), str(args[1])
        check_product(str(text).count(old), len(new))
    if name == "sum" and any(isinstance(value, CONTAINERS) for value in args):
        raise LimitReached("a sum of lists")


def _check_format(form: str, mark: str, values: Iterable[Any]) -> None:
    """Refuses widths that make a format large, and large values that it may copy often."""
    if WIDE[mark].search(form):
        raise LimitReached(f"a format fills up to more than {MAX_WIDTH}")
    longest = max((len(str(value)) for value in values), default=0)
    check_product(form.count(mark), MAX_WIDTH + longest)


def _formatted(
    form: str, make: Callable[..., str], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> InputText:
    """A format with the marks of its values; all of it is input where the format itself is, or a
    value holds others."""
    if INPUT in marks(form) or any(map(elements, [*args, *kwargs.values()])):
        return InputText(make(*args, **kwargs))
    return input_text.formatted(make, args, kwargs)


def percent(form: str, right: Any) -> InputText:
    """`form % right`."""
    text = input_text.plain(form)
    if isinstance(right, Mapping):
        _check_format(text, "%", right.values())
        return _formatted(form, lambda **values: text % values, (), dict(right))
    values = right if isinstance(right, tuple) else (right,)
    _check_format(text, "%", values)
    return _formatted(form, lambda *values: text % values, values, {})


class Format:
    """The method `format` of a text; `make` is the sandbox's."""

    def __init__(self, text: str, make: Callable[..., str]) -> None:
        self._text, self._make = text, make

    def __call__(self, *args: Any, **kwargs: Any) -> InputText:
        _check_format(input_text.plain(self._text), "{", [*args, *kwargs.values()])
        return _formatted(self._text, self._make, args, kwargs)


def joined(values: Iterable[Any], separator: Any = "") -> InputText:
    """Printed values with a separator between them."""
    texts = [printed(value) for value in values]
    check_product(len(texts), len(separator))
    check_product(sum(map(len, texts)))
    return input_text.join(separator, texts)


@pass_environment
def _join(
    environment: jinja2.Environment,
    value: Iterable[Any],
    d: Any = "",
    attribute: str | int | None = None,
) -> InputText:
    if attribute is not None:
        value = map(filters.make_attrgetter(environment, attribute), value)
    return joined(value, printed(d))


def _format(value: Any, *args: Any, **kwargs: Any) -> InputText:
    if args and kwargs:
        raise TypeError("format takes values by place or by name, not both")
    return percent(printed(value), kwargs or args)


def _indent(
    value: Any, width: int | str = 4, first: bool = False, blank: bool = False
) -> InputText:
    indent = width if isinstance(width, str) else " " * min(max(width, 0), MAX_WIDTH)
    lines = input_text.own(printed(value) + "\n").splitlines()
    check_product(len(lines), len(indent))
    texts = [
        line if number == 0 and not first or not (line or blank) and number else indent + line
        for number, line in enumerate(lines)
    ]
    return input_text.join("\n", texts)


def _to_json(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """JSON without HTML's escapes, as transformers has it."""
    width = indent if isinstance(indent, int) else len(indent or "")
    longest = max(map(len, separators or ("",)))
    if max(width, longest) > 16:
        raise LimitReached("JSON is indented by more than 16")
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _escape(value: Any) -> str:
    return str(filters.FILTERS["escape"](printed(value)))


FILTERS: dict[str, Callable[..., Any]] = {
    **{name: filters.FILTERS[name] for name in BUILT_IN},
    "e": _escape,
    "escape": _escape,
    "forceescape": _escape,
    "format": _format,
    "indent": _indent,
    "join": _join,
    "safe": printed,
    "tojson": _to_json,
}

TESTS: dict[str, Any] = dict(tests.TESTS)


def raise_exception(message: Any) -> None:
    """What a template calls to refuse its messages."""
    raise Refused(message)


def strftime_now(form: str) -> str:
    """The local date and time in the form of `datetime.strftime`."""
    if len(form) > MAX_DATE_FORMAT:
        raise LimitReached(f"a date has more than {MAX_DATE_FORMAT} characters")
    date = datetime.now().strftime(form)
    return InputText(date) if isinstance(form, InputText) else date
