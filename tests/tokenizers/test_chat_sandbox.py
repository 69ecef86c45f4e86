"""A hostile chat template ends soon, stays small, and reaches nothing outside its sandbox."""

from __future__ import annotations

import resource
import threading
import time
from collections.abc import Callable

import pytest

from gentool.errors import ModelError, UsageError
from gentool.tokenizers.chat import limits, render

MESSAGES = [{"role": "user", "content": "你好", "extra": ["a", {"b": "c"}]}]
MEGABYTES = 100
SECONDS = 0.5


def run(template: str) -> str:
    return render(template, MESSAGES, add_generation_prompt=True, special={"bos_token": "<s>"})


def growing(step: str, start: str = "'ab'") -> str:
    """A template that applies `step` to ns.x sixty times."""
    loop = f"{{% for i in range(60) %}}{step}{{% endfor %}}"
    return f"{{% set ns = namespace(x={start}, y={start}) %}}{loop}{{{{ ns.x }}}}"


def chained(count: int) -> str:
    """A template of namespaces each of which holds the one before twice."""
    pairs = "".join(
        f"{{% set a{i} = namespace() %}}{{% set a{i}.x = a{i - 1} %}}{{% set a{i}.y = a{i}.x %}}"
        for i in range(1, count)
    )
    return f"{{% set a0 = namespace() %}}{pairs}{{{{ [a{count - 1}] }}}}"


BIG = "{% set r = range(99999) | list %}"

ENDLESS = {
    "loops": "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "range": "{% for a in range(10**12) %}{% endfor %}",
    "a loop of loops": "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "a macro": "{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}",
    "two macros": "{% macro f(n) %}{% if n < 60 %}{{ f(n + 1) ~ f(n + 1) }}{% endif %}"
    "{% endmacro %}{{ f(0) }}",
    "a block": "{% block a %}{{ self.a() }}{% endblock %}",
    "searches": BIG + "{% for i in range(99999) %}{{ -1 in r }}{% endfor %}",
    "conditions": BIG + "{% for i in range(99999) if -1 in r %}{% endfor %}",
    "tests": BIG + "{{ range(99999) | map('abs') | select('in', r[::-1]) | list }}",
}
LARGE = {
    "text times": "{{ 'x' * 10**9 }}",
    "list times": "{{ [1] * 10**9 }}",
    "power": "{{ 9 ** 9 ** 9 }}{{ 9 ** 9**9 }}{{ (9 ** 999) ** 999 }}",
    "squares": growing("{% set ns.x = ns.x * ns.x %}", "3"),
    "~": growing("{% set ns.x = ns.x ~ ns.x %}"),
    "+": growing("{% set ns.x = ns.x + ns.x %}"),
    "blocks": growing("{% set y %}{{ ns.x }}{{ ns.x }}{% endset %}{% set ns.x = y %}"),
    "join": "{{ range(99999) | join('x' * 99999) }}",
    "join a text": "{{ ('x' * 9999).join(range(9999) | map('string')) }}",
    "replace": "{{ ('x' * 99999).replace('x', 'y' * 99999) }}",
    "replace nothing": "{{ ('x' * 99999) | replace('', 'y' * 99999) }}",
    "center": "{{ 'x' | center(10**9) }}",
    "ljust": "{{ 'x'.ljust(10**9) }}",
    "zfill": "{{ 'x'.zfill(10**9) }}",
    "tabs": "{{ ('\\t' * 99999).expandtabs(1000) }}",
    "indent": "{{ ('\\n' * 99999) | indent(1000) }}",
    "%": "{{ '%1000000000d' % 1 }}",
    "% by a value": "{{ '%*d' % (10**9, 1) }}",
    "% often": "{{ ('%(a)s' * 9999) % {'a': 'x' * 9999} }}",
    "%.": "{{ '%.1000000000f' % 1 }}",
    "format": "{{ '{:1000000000}'.format(1) }}",
    "format by a value": "{{ '{:{}}'.format(1, 10**9) }}",
    "format often": "{{ ('{0}' * 9999).format('x' * 9999) }}",
    "format of a filter": "{{ '%1000000000d' | format(1) }}",
    "date": "{{ strftime_now('%100000Y' * 99999) }}",
    "JSON": "{{ messages | tojson(indent=10**9) }}",
    "round": "{{ 1 | round(10**9, 'ceil') }}",
    "pairs": growing("{% set ns.x = [ns.x, ns.x] %}"),
    "pairs of pairs": growing("{% set ns.x = {'a': ns.x, 'b': ns.x} %}"),
    "equal pairs": growing("{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}")
    + "{{ ns.x == ns.y }}",
    "namespaces": chained(60),
    "varargs": "{% set ns = namespace(x=(1,)) %}"
    "{% macro m() %}{% set ns.x = varargs %}{% endmacro %}"
    "{% for i in range(60) %}{{ m(ns.x, ns.x) }}{% endfor %}",
    "nested": "{% set ns = namespace(x=(1,)) %}{% for i in range(99999) %}{% set ns.x = (ns.x,) %}"
    "{% endfor %}{{ {ns.x: 1} }}",
    "itself": "{% set ns = namespace() %}{% set ns.a = ns %}{{ [ns] }}",
    "own text": "{% for i in range(99999) %}" + "x" * 9999 + "{% endfor %}",
    "characters": "{% set x = messages[0].content * 999999 %}{{ x | list | length }}",
    "variables": "{% set x = 'x' * 2000000 %}"
    + "".join(f"{{% set a{i} = x ~ {i} %}}" for i in range(200)),
    "sums": "{{ range(99999) | batch(1) | list | sum(start=[]) }}",
}
OUTSIDE = {
    "class": "{{ ''.__class__.__mro__ }}",
    "class of a message": "{{ messages.__class__.__base__.__subclasses__() }}",
    "item": "{{ messages[0]['__class__'] }}",
    "attr": "{{ '' | attr('__class__') }}",
    "attribute": "{{ [''] | map(attribute='__class__') | first }}",
    "format": "{{ '{0.__class__.__mro__}'.format('').x.y }}",
    "globals": "{{ raise_exception.__globals__ }}",
    "globals of a class": "{{ cycler.__init__.__globals__.os.popen('id').read() }}",
    "macro": "{% macro m() %}{% endmacro %}{{ m._func.__globals__ }}",
    "self": "{{ self._TemplateReference__context }}",
    "context": "{{ context.environment }}",
    "environment": "{{ environment.budget }}",
    "append": "{{ messages.append(1) }}",
    "update": "{{ messages[0].update({'a': 1}) }}",
    "bytes": "{{ 'x'.encode() }}",
    "a number's": "{{ (1).to_bytes(10**9, 'big') }}",
    "of a class": "{{ dict.mro() }}",
    "marks": "{{ messages[0].content._marks }}",
    "include": "{% include '/etc/passwd' %}",
    "import": "{% import 'os' as x %}",
    "from": "{% from 'os' import path %}",
    "extends": "{% extends '/etc/passwd' %}",
    "lipsum": "{{ lipsum(n=10**9) }}",
    "random": "{{ [1, 2] | random }}",
}
UNREADABLE = {
    "parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "conditions": "{% if 1 %}" * 3000 + "{% endif %}" * 3000,
    "loops": "{% for a in [1] %}" * 60 + "{% endfor %}" * 60,
    "attributes": "{{ x" + ".a" * 20000 + " }}",
    "filters": "{{ x" + "|upper" * 10000 + " }}",
    "a number": "{{ " + "9" * 9999 + " }}",
    "a constant": "{% autoescape 'x' * 10**9 %}{% endautoescape %}",
}


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "MAX_SECONDS", SECONDS)


def stopped(template: str) -> None:
    """Runs a template that must end in an error, soon and without much memory."""
    start, before = time.thread_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises((ModelError, UsageError)):
        run(template)
    assert time.thread_time() - start < SECONDS + 3  # the last step of a slow machine
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < MEGABYTES * 1024


@pytest.mark.parametrize("name", ENDLESS)
def test_an_endless_template_ends(name: str) -> None:
    stopped(ENDLESS[name])


@pytest.mark.parametrize("name", LARGE)
def test_nothing_becomes_large(name: str) -> None:
    stopped(LARGE[name])


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_template_that_cannot_be_compiled(name: str) -> None:
    with pytest.raises(ModelError, match="template is wrong"):
        run(UNREADABLE[name])


@pytest.mark.parametrize("name", OUTSIDE)
def test_nothing_outside_is_reached(name: str) -> None:
    with pytest.raises((ModelError, UsageError)):
        run(OUTSIDE[name])


def test_messages_are_copied_and_must_be_plain_data() -> None:
    class Data:
        secret = "x"

    for value in (Data(), {1, 2}, len, b"x", "\ud800"):
        with pytest.raises(UsageError, match="cannot be rendered"):
            run_on = [{"role": "user", "content": value}]
            render("{{ messages }}", run_on, add_generation_prompt=True, special={})


@pytest.mark.parametrize("template", [ENDLESS["loops"], LARGE["~"], ENDLESS["a macro"]])
def test_limits_hold_in_any_thread(template: str) -> None:
    failures: list[Exception] = []

    def target(run: Callable[[str], str] = run) -> None:
        try:
            run(template)
        except ModelError as e:
            failures.append(e)

    thread = threading.Thread(target=target)
    thread.start()
    thread.join(60)
    assert len(failures) == 1 and "stopped" in str(failures[0])


def test_a_long_conversation_is_well_within_the_limits() -> None:
    turns = [
        {"role": role, "content": "你好。" * 100}
        for _ in range(500)
        for role in ("user", "assistant")
    ]
    template = (
        "{% for message in messages %}{% if loop.index0 < messages | length - 1 %}"
        "{{ '<|im_start|>' + message['role'] + '\n' + message['content'] | trim + '<|im_end|>' }}"
        "{% endif %}{% endfor %}"
    )
    assert len(render(template, turns, add_generation_prompt=True, special={})) > 300_000
