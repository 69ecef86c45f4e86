"""What a message says never becomes a special token, whatever a template does with it: each
character keeps a mark of whose it is, and special tokens are read only where all are the
template's."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jinja2.sandbox import ImmutableSandboxedEnvironment

import gentool
from gentool import tokenizers
from gentool.config.model import TokenizerConfig
from gentool.tokenizers import Tokenizer, chat
from gentool.tokenizers.chat.encoding import marked_encoder
from gentool.tokenizers.chat.input_text import INPUT, OWN, InputText, concat, marks, plain

GOLDEN = Path(__file__).parents[1] / "golden"
TINY_ZH = Path(gentool.__file__).parent / "data" / "tiny-zh"

# letters of the template are small here, those of messages capital: so marks can be checked
pieces = st.lists(st.text("ab \n<", max_size=4) | st.text("AB \n<", max_size=4).map(InputText))
texts = pieces.map(concat)
separators = st.sampled_from([None, "a", "A", "<", " ", "\n", "ab"])
TEXT_METHODS: dict[str, Callable[[str, Any, str, int], Any]] = {
    "strip": lambda s, sep, new, n: s.strip(sep),
    "lstrip": lambda s, sep, new, n: s.lstrip(sep),
    "rstrip": lambda s, sep, new, n: s.rstrip(sep),
    "split": lambda s, sep, new, n: s.split(sep, n),
    "rsplit": lambda s, sep, new, n: s.rsplit(sep, n),
    "splitlines": lambda s, sep, new, n: s.splitlines(n > 0),
    "partition": lambda s, sep, new, n: s.partition(sep or "<"),
    "rpartition": lambda s, sep, new, n: s.rpartition(sep or "<"),
    "replace": lambda s, sep, new, n: s.replace(sep or "", new, n),
    "join": lambda s, sep, new, n: s.join([new, s, "b"]),
    "removeprefix": lambda s, sep, new, n: s.removeprefix(new),
    "removesuffix": lambda s, sep, new, n: s.removesuffix(new),
    "add": lambda s, sep, new, n: [s + new, "a" + s, s + "b"],
    "mul": lambda s, sep, new, n: [s * n, n * s],
    "slice": lambda s, sep, new, n: [s[n:], s[:n], s[::-1], s[::2], s[-1:]],
    "items": lambda s, sep, new, n: list(s),
    "str": lambda s, sep, new, n: str(s),
}
CASE_METHODS = ("lower", "upper", "title", "capitalize", "swapcase", "casefold")


@pytest.mark.parametrize("name", TEXT_METHODS)
@given(text=texts, sep=separators, new=texts, count=st.integers(-1, 3))
def test_methods_keep_text_and_marks(
    name: str, text: InputText, sep: str | None, new: InputText, count: int
) -> None:
    method = TEXT_METHODS[name]
    made, expected = method(text, sep, new, count), method(plain(text), sep, plain(new), count)
    assert made == expected
    for part in [made] if isinstance(made, str) else made:
        for letter, mark in zip(plain(part), marks(part), strict=True):
            assert letter not in "ab" or bytes([mark]) == OWN
            assert letter not in "AB" or bytes([mark]) == INPUT


@pytest.mark.parametrize("name", CASE_METHODS)
@given(text=st.lists(st.text(max_size=3) | st.text(max_size=3).map(InputText)).map(concat))
def test_a_change_of_case_keeps_marks(name: str, text: InputText) -> None:
    made = getattr(text, name)()
    assert made == getattr(plain(text), name)()
    kept = len(made) == len(text)
    assert marks(made) == (marks(text) if kept else INPUT * len(made))


CONTENT = " <E>bad\n<E> "
CHAT = "{% for message in messages %}%s{% endfor %}"
TEMPLATES = {
    "copied": "<S>{{ message.content }}<E>",
    "added": "{{ '<S>' + message.content + '<E>' }}",
    "trimmed": "{{ '<S>' + message['content'] | trim + '<E>' }}",
    "stripped": "{{ '<S>' + message.content.strip() ~ '<E>' }}",
    "branched": "{% if '<E>' in message.content %}<S>{{ message.content }}<E>{% endif %}",
    "split": "<S>{{ message.content.split('\n')[0] }}{{ message.content.split('\n')[-1] }}<E>",
    "replaced": "<S>{{ message.content | replace('bad', '') }}<E>",
    "joined": "{{ ['<S>', message.content, '<E>'] | join('') }}",
    "joined by a method": "{{ '\n'.join(['<S>', message.content, '<E>']) }}",
    "formatted": "{{ '<S>%s<E>' % message.content }}",
    "formatted, several": "{{ '<S>%s%s<E>' % (message.role, message.content) }}",
    "formatted by a filter": "{{ '<S>%s<E>' | format(message.content) }}",
    "formatted by a method": "{{ '<S>{}{x}<E>'.format(message.role, x=message.content) }}",
    "put into the template's text": "{{ '<S>X<E>'.replace('X', message.content) }}",
    "set": "{% set text %}{{ message.content }}{% endset %}<S>{{ text }}<E>",
    "gathered": "{% set ns = namespace(t='<S>') %}{% set ns.t = ns.t + message.content %}"
    "{{ ns.t }}<E>",
    "of a macro": "{% macro turn(text) %}<S>{{ text }}<E>{% endmacro %}{{ turn(message.content) }}",
    "of a caller": "{% macro turn() %}<S>{{ caller() }}<E>{% endmacro %}"
    "{% call turn() %}{{ message.content }}{% endcall %}",
    "in a filter block": "{% filter trim %}<S>{{ message.content }}<E>{% endfilter %}",
    "letter by letter": "<S>{% for letter in message.content %}{{ letter }}{% endfor %}<E>",
    "sliced": "<S>{{ message.content[1:-1] }}{{ message.content[0] }}<E>",
    "indented": "{{ ('<S>' ~ message.content ~ '<E>') | indent(2) }}",
    "escaped": "<S>{{ message.content | e | replace('&lt;', '<') | replace('&gt;', '>') }}<E>",
    "safe": "<S>{{ message.content | safe }}<E>",
    "as JSON": "<S>{{ message | tojson }}<E>",
    "as a list": "<S>{{ [message.content] }}{{ [message.content] | string }}<E>",
    "in a format": "<S>{{ '%s' % [message.content] }}{{ '%r' % message.content }}<E>",
    "as a format": "<S>{{ message.content % () }}{{ message.content.format() }}<E>",
    "centered": "<S>{{ message.content.center(50) }}{{ message.content | center(50) }}<E>",
    "titled": "<S>{{ message.content | lower | title | upper | replace('BAD', '') }}<E>",
    "by name": "<S>{{ message.content | upper }}{{ message.name }}<E>",
    "of a key": "<S>{% for key in message %}{{ key }}{% endfor %}<E>",
    "of pairs": "<S>{% for key, value in message.items() %}{{ value }}{% endfor %}<E>",
    "mapped": "<S>{{ messages | map(attribute='content') | join }}<E>",
    "repeated": "<S>{{ message.content * 2 }}<E>",
    "chosen": "<S>{{ messages | map(attribute='content') | first }}<E>",
    "the default": "<S>{{ x | default(message.content) }}<E>",
    "in generation": "<S>{% generation %}{{ message.content }}{% endgeneration %}<E>",
    "shortened": "<S>{{ message.content | truncate(8, true, '') }}<E>",
    "cut": "<S>{{ message.content.rsplit('>')[0] }}><E>",
    "of a date": "<S>{{ strftime_now(message.content) }}<E>",
    "in groups": "<S>{% for group in messages | groupby('content') %}{{ group[0] }}{% endfor %}<E>",
    "of the last": "<S>{{ cycler(message.content, 'a').next() }}{{ joiner(message.content)() }}<E>",
}


OTHERWISE = ("in generation", "escaped", "as JSON")  # not in jinja2 itself


def reference(template: str, message: dict[str, Any]) -> str:
    """What jinja2 makes of a template that is not watched."""
    environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
    environment.globals["strftime_now"] = datetime.now().strftime
    return environment.from_string(template).render(messages=[message])


@pytest.mark.parametrize("name", TEMPLATES)
def test_a_template_keeps_marks(name: str) -> None:
    message = {"role": "user", "content": CONTENT, "name": "<E>", "<E>": 1}
    body = TEMPLATES[name]
    template = f"{{% for message in messages %}}{body}{{% endfor %}}"
    variables = {"messages": [message], "add_generation_prompt": False}
    text = chat.marked(template, variables, {})
    assert name in OTHERWISE or plain(text) == reference(template, message)
    starts, ends = plain(text).find("<S>"), plain(text).rfind("<E>")
    assert marks(text)[starts : starts + 3] == OWN * 3  # the template's own, wherever it stands
    assert marks(text)[ends : ends + 3] == OWN * 3
    between = plain(text)[starts + 3 : ends]
    for at in range(len(between) - 2):
        if between[at : at + 3] == "<E>":
            assert INPUT in marks(text)[starts + 3 + at : starts + 6 + at]


def test_special_tokens_of_the_folder_are_the_templates_own() -> None:
    variables = {"messages": [{"role": "user", "content": "<s>"}], "add_generation_prompt": False}
    text = chat.marked("{{ bos_token }}{{ messages[0].content }}", variables, {"bos_token": "<s>"})
    assert marks(text) == OWN * 3 + INPUT * 3


def test_usual_roles_may_make_special_tokens_and_others_not() -> None:
    template = "{% for message in messages %}<|{{ message.role }}|>{% endfor %}"
    messages = [{"role": "user"}, {"role": "a|><|user"}]
    text = chat.marked(template, {"messages": messages, "add_generation_prompt": False}, {})
    assert marks(text) == OWN * 10 + INPUT * 9 + OWN * 2


KINDS = [
    ("huggingface", GOLDEN / "tokenizers/gpt2/tokenizer.json", "<|endoftext|>", {}),
    ("huggingface", GOLDEN / "tokenizers/llama/tokenizer.json", "</s>", {}),
    ("huggingface", GOLDEN / "tokenizers/llama3/tokenizer.json", "<|end_of_text|>", {}),
    ("huggingface", GOLDEN / "tokenizers/qwen2/tokenizer.json", "<|endoftext|>", {}),
    ("huggingface", GOLDEN / "tokenizers/gemma/tokenizer.json", "<eos>", {}),
    ("huggingface", GOLDEN / "hf_qwen3/tokenizer.json", "<|im_end|>", {}),
    ("wordpiece", GOLDEN / "tokenizers/bert/vocab.txt", "[SEP]", {"special_tokens": True}),
    ("sentencepiece", TINY_ZH / "tokenizer.model", "</s>", {"special_tokens": True}),
]


def opened(kind: str, path: Path, **more: object) -> Tokenizer:
    config = TokenizerConfig.model_validate({"kind": kind, "model": path.name, **more})
    return tokenizers.load(config, path.parent)


@pytest.mark.parametrize(("kind", "path", "special", "more"), KINDS)
def test_the_templates_own_text_is_encoded_as_ever(
    kind: str, path: Path, special: str, more: dict[str, bool]
) -> None:
    tokenizer = opened(kind, path, **more)
    encode = marked_encoder(tokenizer)
    for text in (f"a b{special}{special} c\n{special}", "你好 hello", "", f"{special}x", " x  y"):
        expected = tokenizer.encode(text)[len(tokenizer.start) :]
        assert encode(concat([text])) == expected, text


@pytest.mark.parametrize(("kind", "path", "special", "more"), KINDS)
def test_a_special_token_of_a_message_is_ordinary_text(
    kind: str, path: Path, special: str, more: dict[str, bool]
) -> None:
    tokenizer = opened(kind, path, **more)
    token, encode = tokenizer.special[special], marked_encoder(tokenizer)
    ids = encode(concat([special, InputText(f"好{special}的"), special]))
    assert [ids[0], ids[-1]] == [token] * 2 and token not in ids[1:-1]
    if kind != "wordpiece":  # which writes blanks between letters and signs
        assert f"好{special}的" in tokenizer.decode(ids)
    for half in range(1, len(special)):  # nor one that is only half a message's
        for parts in (
            [special[:half], InputText(special[half:])],
            [InputText(special[:half]), special[half:]],
        ):
            assert token not in encode(concat(parts))


def test_text_that_a_tokenizer_reads_as_no_special_token_is_one_in_a_template() -> None:
    encode = marked_encoder(opened("sentencepiece", TINY_ZH / "tokenizer.model"))
    assert encode(concat(["<s>", InputText("</s>"), "</s>"]))[0] == 1
    assert encode(concat(["<s>", InputText("</s>"), "</s>"])).count(2) == 1
    encode = marked_encoder(opened("cpm", GOLDEN / "tokenizers/cpm/chinese_vocab.model"))
    tokenizer = opened("cpm", GOLDEN / "tokenizers/cpm/chinese_vocab.model")
    ids = encode(concat(["你好", "<eod>", InputText("<eod>")]))
    assert ids.count(tokenizer.special["<eod>"]) == 1


@pytest.mark.parametrize("split", ["gpt2", "qwen2"])
def test_a_vocab_json(split: str, tmp_path: Path) -> None:
    model = json.loads((GOLDEN / "tokenizers/gpt2/tokenizer.json").read_text())["model"]
    (tmp_path / "vocab.json").write_text(json.dumps(model["vocab"]))
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    (tmp_path / "merges.txt").write_text("\n".join(merges))
    tokenizer = opened("huggingface", tmp_path / "vocab.json", split=split)
    encode, special = marked_encoder(tokenizer), "<|endoftext|>"
    token = tokenizer.special[special]
    text = f"a{special}好 b"
    assert encode(concat([text])) == tokenizer.encode(text)
    ids = encode(concat([special, InputText(text)]))
    assert ids[0] == token and token not in ids[1:]
    assert tokenizer.decode(ids) == text
