"""Rows drawn under a constraint: what they say always matches, all that matches can be said, banned
texts never appear and nothing else is lost, for every kind of tokenizer."""

import json
import re
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gentool import tokenizers
from gentool.config.lookup import PACKAGE
from gentool.config.model import TokenizerConfig
from gentool.decoding.constraints import (
    Banned,
    Constraint,
    Grammar,
    Vocabulary,
    following,
    json_schema,
    regex,
)
from gentool.errors import GentoolError, UsageError
from gentool.tokenizers import joined
from gentool.tokenizers.stream import TextStream
from gentool.tokenizers.token_bytes import pieces

GOLDEN = Path(__file__).parent.parent / "golden/tokenizers"
FILES = {
    "cpm": ("cpm", GOLDEN / "cpm/chinese_vocab.model"),
    "bert": ("wordpiece", GOLDEN / "bert/vocab.txt"),
    "gpt2": ("huggingface", GOLDEN / "gpt2/tokenizer.json"),
    "llama": ("huggingface", GOLDEN / "llama/tokenizer.json"),
    "llama3": ("huggingface", GOLDEN / "llama3/tokenizer.json"),
    "gemma": ("huggingface", GOLDEN / "gemma/tokenizer.json"),
    "qwen2": ("huggingface", GOLDEN / "qwen2/tokenizer.json"),
    "tiny-zh": ("sentencepiece", PACKAGE / "data/tiny-zh/tokenizer.model"),
}
PADDING = 5  # rows of a model beyond its tokenizer
PROMPTS = ["今天", "a dog", "1", "。"]

# in the characters of all the vocabularies
EVERYWHERE = [
    "[12]{1,3}",
    "[12]{4}-[12]{2}-[12]{2}",
    "北京|天气|首都|ab",
    "[北京天日明月]{2,6}",
    "[a-d]{1,4}[a-d12:]{0,5}",
    "(今天)*。",
]
ANYTHING = [  # where every byte is a token
    r"\d{4}-(0[1-9]|1[0-2])-[0-3]\d",
    "正面|负面",
    "[0-9]{1,3}",
    "[\u4e00-\u9fff]{2,5}",
    r"\p{Han}{1,2}的首都是\p{Han}{2}。",
    ".{3,9}",
    "(😀|é|\n)+",
    "^[^a-z]{2}$",
]
BYTES = [name for name in FILES if name not in ("cpm", "bert")]
SCHEMA = {
    "type": "object",
    "properties": {
        "a": {"enum": ["天气", "北京", 12, None]},
        "b": {"type": "integer", "minimum": -5, "maximum": 120},
        "c": {"type": "array", "items": {"type": "string", "maxLength": 3}, "maxItems": 3},
        "d": {"type": "object", "properties": {"e": {"type": "boolean"}}, "required": ["e"]},
    },
    "required": ["a", "c"],
    "additionalProperties": False,
}
SCHEMA["properties"]["d"]["additionalProperties"] = False


@cache
def opened(name):
    kind, path = FILES[name]
    return tokenizers.load(TokenizerConfig(kind=kind, model=path.name), path.parent)


@cache
def vocabulary(name, ends=True):
    tokenizer = opened(name)
    return Vocabulary(
        *pieces(tokenizer, tokenizer.n_vocab + PADDING), tokenizer.end if ends else ()
    )


class Rows:
    """Rows after prompts under one constraint, whose states are kept by row."""

    def __init__(self, restrictions, vocabulary, prompts):
        self.constraint = Constraint(restrictions, vocabulary)
        self.states = [self.constraint.start(prompt) for prompt in prompts]

    def allowed(self, row):
        return self.constraint.allowed(self.states[row])

    def accept(self, row, token):
        self.states[row] = self.constraint.after(self.states[row], token)

    def ended(self, row):
        return self.constraint.only_ends(self.states[row])


def drawn(constraint, row, known, random, max_new_tokens=400):
    """Ids drawn by random logits from what is allowed, and whether the row has ended; ends are
    likely, so that it does."""
    ids = []
    while len(ids) < max_new_tokens:
        if constraint.ended(row) and not len(known.ends):
            return ids, True
        logits = random.normal(size=known.size)
        logits[known.ends] += 2
        if (mask := constraint.allowed(row)) is not None:
            assert mask.shape == (known.size,) and mask.dtype == bool
            logits[~mask] = -np.inf
        token = int(logits.argmax())
        constraint.accept(row, token)
        if token in known.ends:
            return ids, True
        ids.append(token)
    return ids, False


def text_of(name, prompt, ids):
    """What a user gets to read."""
    stream = TextStream(opened(name), prompt)
    return "".join([*map(stream.push, ids), stream.finish()])


def texts(name, rule, ends=True):
    """Texts drawn under a rule after different prompts."""
    known = vocabulary(name, ends)
    prompts = [opened(name).encode(text) for text in PROMPTS for _ in range(6)]
    if name == "bert":  # after a word, it puts a blank before the next one
        prompts = [ids for ids in prompts if known.context(ids) == known.context(prompts[0])]
    constraint = Rows([Grammar(rule, known)], known, prompts)
    random = np.random.default_rng(7)
    for row, prompt in enumerate(prompts):
        ids, ended = drawn(constraint, row, known, random)
        assert ended
        yield text_of(name, prompt, ids)


@pytest.mark.parametrize("name", FILES)
def test_pieces_are_those_of_the_tokenizer(name):
    tokenizer = opened(name)
    size = tokenizer.n_vocab + PADDING
    of_context, contexts = pieces(tokenizer, size)
    assert len(contexts) == size + 1 and max(map(len, of_context)) == size
    random = np.random.default_rng(1)
    for token, before in random.integers(0, size, (20_000, 2)).tolist():
        assert of_context[contexts[before]][token] == tokenizer.piece(token, before)
    for token in range(size):
        assert of_context[contexts[-1]][token] == tokenizer.piece(token, None)


@pytest.mark.parametrize("pattern", EVERYWHERE)
@pytest.mark.parametrize("name", FILES)
def test_the_complete_text_matches_a_regex(name, pattern):
    actual = set(texts(name, regex(pattern)))
    assert all(re.fullmatch(pattern, text) for text in actual)
    assert len(actual) > 1


@pytest.mark.parametrize("pattern", ANYTHING)
@pytest.mark.parametrize("name", BYTES)
def test_the_complete_text_matches_a_regex_of_any_characters(name, pattern):
    python = pattern.replace(
        r"\p{Han}", "[\u2e80-\u2fff\u3005-\u303b\u3400-\u9fff\uf900-\U0003ffff]"
    )
    actual = set(texts(name, regex(pattern)))
    assert all(re.fullmatch(python, text) for text in actual), actual
    assert len(actual) > 1


@pytest.mark.parametrize("name", BYTES)
def test_texts_are_of_a_json_schema(name):
    actual = [json.loads(text) for text in texts(name, json_schema(json.dumps(SCHEMA)))]
    for value in actual:
        assert set("ac") <= set(value) <= set("abcd")
        assert value["a"] in ["天气", "北京", 12, None]
        assert isinstance(value.get("b", 0), int) and -5 <= value.get("b", 0) <= 120
        assert len(value["c"]) <= 3 and all(len(text) <= 3 for text in value["c"])
        assert isinstance(value.get("d", {"e": True})["e"], bool)
    assert len({json.dumps(value) for value in actual}) > 3


def test_json_of_pieces_separated_by_blanks():
    schema = {"type": "array", "items": {"enum": ["cd ab", 12, True, [0]]}, "minItems": 1}
    actual = set(texts("bert", json_schema(json.dumps(schema))))
    assert all(item in ["cd ab", 12, True, [0]] for text in actual for item in json.loads(text))
    assert len(actual) > 3


def test_tokens_of_several_characters_can_be_drawn():
    known = vocabulary("llama")
    constraint = Rows([Grammar(regex("中国的首都是北京"), known)], known, [[9]])
    for text in ("中", "国的首都是"):
        token = known.texts[0].index(text.encode())
        assert constraint.allowed(0)[token]
        constraint.accept(0, token)


def spelled(name, matches, prompt):
    """Every way to write a text that `matches` in tokens after a prompt: plain search."""
    tokenizer, actual = opened(name), set()
    whole = [text.encode() for text in matches]
    waiting = [(b"", ())]
    while waiting:
        text, ids = waiting.pop()
        if text in whole:
            actual.add(ids)
        previous = ids[-1] if ids else prompt[-1]
        for token in range(tokenizer.n_vocab):
            if token not in tokenizer.end and (piece := tokenizer.piece(token, previous)):
                longer = text + piece
                if any(one.startswith(longer) for one in whole):
                    waiting.append((longer, (*ids, token)))
    return actual


@pytest.mark.parametrize("prompt", PROMPTS)
@pytest.mark.parametrize("name", FILES)
def test_all_that_matches_can_be_drawn_in_every_spelling(name, prompt):
    if name == "tiny-zh":  # too slow for plain search
        return
    matches = ["天气", "天", "ab a", "a", "b1", "的首都是", " a", "", " 12"]
    known, prompt = vocabulary(name), opened(name).encode(prompt)
    rule = regex("|".join(map(re.escape, matches)))
    grammar, actual, waiting = Grammar(rule, known), set(), [()]
    while waiting:
        ids = waiting.pop()
        constraint = Rows([grammar], known, [prompt])
        for token in ids:
            constraint.accept(0, token)
        if constraint.ended(0):
            actual.add(ids)
            continue
        try:
            allowed = constraint.allowed(0)
        except GentoolError:  # a beginning for which there is no rest
            continue
        if allowed[known.ends].all():
            actual.add(ids)
        allowed[known.ends] = False
        waiting += [(*ids, int(token)) for token in np.flatnonzero(allowed)]
    assert actual == spelled(name, matches, prompt)
    assert actual - {()}


def test_a_text_can_end_exactly_where_it_matches():
    known = vocabulary("gpt2")
    one = known.texts[0].index(b"1")
    constraint = Rows([Grammar(regex("[0-9]{2,3}"), known)], known, [[50]])
    can_end = []
    for _ in range(3):
        can_end.append(constraint.allowed(0)[known.ends].tolist())
        assert not constraint.ended(0)
        constraint.accept(0, one)
    assert can_end == [[False], [False], [True]]
    assert constraint.ended(0)
    assert np.flatnonzero(constraint.allowed(0)).tolist() == known.ends.tolist()
    constraint.accept(0, int(known.ends[0]))
    assert constraint.ended(0)


@pytest.mark.parametrize("name", FILES)
def test_without_end_tokens_a_complete_text_ends(name):
    for text in texts(name, regex("[12]{2}|天气"), ends=False):
        assert re.fullmatch("[12]{2}|天气", text)


def test_ids_that_are_no_text_are_never_allowed():
    for name in FILES:
        known = vocabulary(name)
        constraint = Rows([Grammar(regex("(?s:.{1,9})"), known)], known, [[9]])
        allowed = np.flatnonzero(constraint.allowed(0))
        assert len(allowed) and all(known.texts[known.context([9])][token] for token in allowed)
        assert allowed.max() < known.size - PADDING


def test_rows_with_equal_texts_share_a_state():
    known = vocabulary("tiny-zh")
    grammar = Grammar(regex(".{5}"), known)
    constraint = Rows([grammar], known, [[9]] * 100)
    token = int(np.flatnonzero(constraint.allowed(0))[-1])
    for row in range(100):
        constraint.accept(row, token)
    assert len(grammar._states) == 1
    for row in range(100):
        constraint.accept(row, token)
    assert len(grammar._states) == 1  # states without rows are dropped
    assert constraint.allowed(49).tolist() == constraint.allowed(0).tolist()


def test_a_mask_is_a_function_of_the_new_ids():
    known = vocabulary("gpt2")
    a, b, x = (known.texts[0].index(c) for c in (b"a", b"b", b"x"))
    allowed, complete = following(Constraint([Grammar(regex("ax|b"), known)], known), [50])
    assert {a, b} <= set(np.flatnonzero(allowed(())).tolist())
    assert np.flatnonzero(allowed((a,))).tolist() == [x]
    assert set(np.flatnonzero(allowed((b,))).tolist()) == set(known.ends.tolist())
    assert [complete(ids) for ids in ((), (a,), (a, x), (b,))] == [False, False, True, True]


@pytest.mark.parametrize("name", FILES)
@settings(max_examples=40)
@given(data=st.data())
def test_banned_texts_never_appear_and_nothing_else_is_lost(name, data):
    known, tokenizer = vocabulary(name), opened(name)
    ids = st.integers(0, min(450, tokenizer.n_vocab) - 1)
    prompt = data.draw(st.lists(ids, min_size=1, max_size=5), "prompt")
    likely = data.draw(st.lists(ids, min_size=1, max_size=6), "likely")
    text = joined(tokenizer, likely).decode("utf-8", "ignore") or "天"
    cuts = st.tuples(st.integers(0, len(text) - 1), st.integers(1, 4))
    banned = [text[at : at + size] for at, size in data.draw(st.lists(cuts, min_size=1), "cuts")]
    banned += data.draw(st.lists(st.text("ab 1天气\n", min_size=1, max_size=3), max_size=2), "more")
    constraint = Rows([Banned(banned, known)], known, [prompt])
    whole, drawn_ids, previous = known.unfinished(prompt), [], prompt[-1]
    everything = np.array([t for t in range(known.size) if t not in known.ends])
    for token in [*likely, *data.draw(st.lists(ids, max_size=8), "ids")]:
        allowed = constraint.allowed(0)
        if allowed is None:
            allowed = np.ones(known.size, bool)
        if known.size < 500:  # else too slow
            free = [
                not any(b.encode() in whole + tokenizer.piece(int(t), previous) for b in banned)
                for t in everything
            ]
            assert allowed[everything].tolist() == free
        assert allowed[known.ends].all()
        if allowed[token] and token not in known.ends:
            constraint.accept(0, token)
            whole += tokenizer.piece(token, previous)
            drawn_ids.append(token)
            previous = token
        assert not constraint.ended(0)
    continuation = text_of(name, prompt, drawn_ids)
    assert not any(b in continuation for b in banned)


def test_a_ban_holds_for_a_character_that_the_prompt_begins():
    known = vocabulary("gpt2")
    first, second, third = (known.texts[0].index(bytes([byte])) for byte in "今".encode())
    constraint = Rows([Banned(["今"], known)], known, [[first], [9], [9, first, second]])
    for row in (0, 1):
        constraint.accept(row, second)
    assert not constraint.allowed(0)[third]
    assert constraint.allowed(1) is None  # there is only its end
    assert not constraint.allowed(2)[third]


def test_all_restrictions_hold_together():
    known, prompt = vocabulary("llama"), opened("llama").encode("a")
    both = [Grammar(regex("[ab]{3}"), known), Banned(["ab", "bb"], known)]
    constraint = Rows(both, known, [prompt] * 40)
    random = np.random.default_rng(3)
    actual = {
        text_of("llama", prompt, ids)
        for ids, ended in (drawn(constraint, row, known, random) for row in range(30))
        if ended
    }
    assert actual == {"aaa", "baa"}


def test_a_dead_end_names_the_restriction_and_the_text():
    known = vocabulary("cpm")
    constraint = Rows([Grammar(regex("天猴"), known)], known, [[9]])
    constraint.accept(0, known.texts[0].index("天".encode()))
    assert not constraint.ended(0)
    with pytest.raises(GentoolError, match="^--regex '天猴' allows no token after '天'$"):
        constraint.allowed(0)
    both = [Grammar(regex("天"), known), Banned(["天"], known)]
    with pytest.raises(GentoolError, match="--regex '天' with --ban '天' allows no token after ''"):
        Rows(both, known, [[9]]).allowed(0)


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("(", r"^--regex is '\(': unclosed group$"),
        (r"(a)\1", "backreferences are not supported"),
        ("(?=a)", "look-around"),
        (r"a\b", "lookarounds"),
        ("[z-a]", "invalid character class range"),
        ("\ud800", r"^--regex is not text \(character 0\)$"),
        ("(" * 99, r"^--regex is '\({59}…': unclosed group$"),
    ],
)
def test_a_wrong_regex(pattern, message):
    with pytest.raises(UsageError, match=message):
        regex(pattern)


@pytest.mark.parametrize(
    ("schema", "message"),
    [
        ("{", "^--json-schema is '{', no JSON: Expecting property name"),
        ("missing.json", "^--json-schema is 'missing.json': No such file"),
        ('{"type": "foo"}', "Invalid type: foo$"),
        ('{"not": {}}', r'Unimplemented keys: \["not"\]$'),
        ('{"minLength": "x"}', "Expected positive integer for 'minLength'"),
        ('{"enum": []}', "Unsatisfiable"),
        ('{"$ref": "http://localhost/x"}', "is not present"),
        ('{"a":' * 9000, "no JSON"),
    ],
)
def test_a_wrong_schema(schema, message):
    with pytest.raises(UsageError, match=message):
        json_schema(schema)


def test_a_schema_in_a_file(tmp_path):
    path = tmp_path / "schema.json"
    path.write_text('{"const": "天气"}', "utf-8")
    assert set(texts("llama", json_schema(str(path)))) == {'"天气"'}
    path.write_text("[1]", "utf-8")
    with pytest.raises(UsageError, match="schema must be an object or boolean"):
        json_schema(str(path))


@pytest.mark.parametrize(
    ("more", "blanks"),
    [({}, {"", " ", *("\n" + " " * n for n in range(13))}), ({"whitespace_flexible": False}, {""})],
)
def test_white_space_in_json_is_limited_and_configurable(more, blanks):
    known = vocabulary("gpt2")
    schema = {"type": "array"} | ({"x-guidance": more} if more else {})
    grammar = Grammar(json_schema(json.dumps(schema)), known)
    bytes_ = [known.texts[0].index(byte) for byte in (b" ", b"\n", b"]")]
    actual, waiting = set(), [""]
    while waiting:
        text = waiting.pop()
        constraint = Rows([grammar], known, [[50]])
        for character in f"[{text}":
            constraint.accept(0, known.texts[0].index(character.encode()))
        allowed = constraint.allowed(0)[bytes_]
        waiting += [text + c for c, can in zip(" \n", allowed[:2], strict=True) if can]
        if allowed[2]:
            actual.add(text)
    assert actual == blanks


def test_a_wrong_ban():
    for text, message in [("", "^--ban is ''$"), ("\udcff", "--ban is not text")]:
        with pytest.raises(UsageError, match=message):
            Banned([text], vocabulary("gpt2"))


def test_llguidance_is_named_where_it_is_missing(monkeypatch):
    monkeypatch.setitem(sys.modules, "llguidance", None)
    for rule, flag in [(regex, "--regex"), (json_schema, "--json-schema")]:
        with pytest.raises(GentoolError, match=f"^{flag} needs llguidance") as caught:
            rule("{}")
        assert caught.value.hint == "pip install 'gentool[constrain]'"
