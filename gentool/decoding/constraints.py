"""Constrained decoding: masks of the next token of a row, from a grammar that the complete
continuation must match and from texts that it must not contain. It knows the bytes of tokens, no
tokenizer.
"""

from __future__ import annotations

import codecs
import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache, reduce
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, NamedTuple, Protocol
from weakref import WeakValueDictionary

import numpy as np

from gentool.errors import GentoolError, UsageError

# white space between JSON tokens: a blank, or a new line and its indentation; if any number of them
# were allowed, a small model might write nothing else
JSON_WHITESPACE = r" |\n {0,12}"
INVALID_BYTE = b"\xff"  # in no UTF-8 text; llguidance marks special tokens with it


class Vocabulary:
    """The bytes of every id of a model: `texts[context][id]`, where `contexts[id]` is the context
    after an id and `contexts[-1]` the context at the start of a text. Special ids have no bytes,
    and neither have end tokens, as they end a row."""

    def __init__(
        self, texts: Sequence[Sequence[bytes]], contexts: Sequence[int], ends: Iterable[int]
    ) -> None:
        self.contexts = contexts
        self.ends = np.array(sorted(ends), int)
        self.texts = [list(of_context) for of_context in texts]  # [C][V]
        for of_context in self.texts:
            for end in self.ends:
                of_context[end] = b""
        self.size = len(self.texts[0])

    def context(self, ids: Sequence[int]) -> int:
        """The context of the next token after `ids`."""
        return self.contexts[ids[-1] if ids else -1]

    def unfinished(self, ids: Sequence[int]) -> bytes:
        """The bytes of an incomplete character at the end of the text of `ids`."""
        last = range(max(0, len(ids) - 4), len(ids))
        texts = (self.texts[self.context(ids[:at])][ids[at]] for at in last)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        decoder.decode(b"".join(texts))
        return decoder.getstate()[0]


class Restriction(Protocol):
    """A rule for continuations. The state of a continuation never changes: `after` returns the next
    state."""

    name: str  # as the user gave it: --ban '今天'

    def start(self, unfinished: bytes) -> Any:
        """The state of a row after its prompt; `unfinished` are the bytes of an incomplete
        character at its end."""
        ...

    def allowed(self, state: Any, context: int) -> np.ndarray | None:
        """The mask of tokens that can follow, end tokens included where the text can end: a new
        bool [V]; None if all can."""
        ...

    def after(self, state: Any, context: int, token: int) -> Any: ...

    def can_end(self, state: Any) -> bool: ...


class ConstraintState(NamedTuple):
    """The states of a row's restrictions. It never changes."""

    states: tuple[Any, ...]  # of each restriction
    context: int
    text: bytes  # of the row's new tokens


class Constraint:
    """All `restrictions` together."""

    def __init__(self, restrictions: Sequence[Restriction], vocabulary: Vocabulary) -> None:
        self._restrictions, self._vocabulary = restrictions, vocabulary

    def start(self, prompt: Sequence[int]) -> ConstraintState:
        """The state of a row after its prompt."""
        unfinished = self._vocabulary.unfinished(prompt)
        states = tuple(r.start(unfinished) for r in self._restrictions)
        return ConstraintState(states, self._vocabulary.context(prompt), b"")

    def after(self, state: ConstraintState, token: int) -> ConstraintState:
        """The state after one more token."""
        if token in self._vocabulary.ends:
            return state
        pairs = zip(self._restrictions, state.states, strict=True)
        return ConstraintState(
            tuple(r.after(s, state.context, token) for r, s in pairs),
            self._vocabulary.contexts[token],
            state.text + self._vocabulary.texts[state.context][token],
        )

    def mask(self, state: ConstraintState) -> np.ndarray | None:
        """The mask of tokens that can follow, a new bool [V]; None if all can."""
        return _intersection(self._masks(state))

    def allowed(self, state: ConstraintState) -> np.ndarray | None:
        """As `mask`; GentoolError where no token can follow."""
        mask = self.mask(state)
        if mask is None or mask.any():
            return mask
        names = [r.name for r in self._restrictions]
        masks = zip(names, self._masks(state), strict=True)
        blocked = [name for name, m in masks if m is not None and not m.any()]
        text = state.text.decode("utf-8", "replace")
        raise GentoolError(
            f"{blocked[0] if blocked else ' with '.join(names)} allows no token after '{text}'",
            "the model has no token for the required text; relax the constraint",
        )

    def only_ends(self, state: ConstraintState) -> bool:
        """Whether the text is complete and only an end token can follow."""
        pairs = zip(self._restrictions, state.states, strict=True)
        if not all(r.can_end(s) for r, s in pairs):
            return False
        mask = self.mask(state)
        if mask is None:
            return False
        mask[self._vocabulary.ends] = False
        return not mask.any()

    def _masks(self, state: ConstraintState) -> Iterator[np.ndarray | None]:
        for restriction, own in zip(self._restrictions, state.states, strict=True):
            yield restriction.allowed(own, state.context)


def _intersection(masks: Iterable[np.ndarray | None]) -> np.ndarray | None:
    """The tokens that all masks allow; None allows all."""
    given = [mask for mask in masks if mask is not None]
    return reduce(np.logical_and, given) if given else None


class Following(NamedTuple):
    """A constraint after a prompt as functions of the new ids, for searches whose rows come and go:
    the mask of the next token, a bool [V] or None for all; and whether the text is complete and
    only an end token can follow."""

    mask: Callable[[tuple[int, ...]], np.ndarray | None]
    complete: Callable[[tuple[int, ...]], bool]


def following(constraint: Constraint, prompt: Sequence[int]) -> Following:
    """The constraint after a prompt; states are cached by ids."""

    @cache
    def state(ids: tuple[int, ...]) -> ConstraintState:
        return constraint.after(state(ids[:-1]), ids[-1]) if ids else constraint.start(prompt)

    return Following(
        lambda ids: constraint.mask(state(ids)), lambda ids: constraint.only_ends(state(ids))
    )


class GrammarText(NamedTuple):
    """A grammar in llguidance's syntax, and the flag it comes from, for messages."""

    name: str
    grammar: str


def regex(pattern: str) -> GrammarText:
    """The rule that the complete continuation matches `pattern`. Syntax and meaning are those of
    Rust's regexes, but \\d is 0 to 9; there is no look-around, no \\b and no \\1."""
    _check_text("--regex", pattern)
    library = _library("--regex")
    # no_forcing: a required text may be drawn in any tokens, not only in those of its encoding
    grammar = f'%llguidance {{"no_forcing": true}}\nstart: /{library.regex_to_lark(pattern, "d")}/'
    if problem := library.LLMatcher.validate_grammar(grammar):
        reason = re.search(r"^error: (.*)", problem, re.M) or re.search(r"regex\): (.*)", problem)
        cause = reason[1] if reason else problem
        raise UsageError(
            f"--regex is '{_short(pattern)}': {cause}",
            r"use the syntax of Rust's regexes, without look-around, \b and \1",
        )
    return GrammarText(f"--regex '{_short(pattern)}'", grammar)


def json_schema(given: str) -> GrammarText:
    """The rule that the continuation is a JSON text of a schema. `given` is the schema itself,
    which begins with {, or a file of it. Properties come in the schema's order."""
    _check_text("--json-schema", given)
    text, flag = given, f"--json-schema is '{_short(given)}'"
    try:
        if not given.lstrip().startswith("{"):
            text = Path(given).read_text("utf-8-sig")
        schema = json.loads(text)
    except OSError as e:
        raise UsageError(
            f"{flag}: {e.strerror}", "give a schema that begins with {, or the file of one"
        ) from None
    except (ValueError, RecursionError) as e:
        raise UsageError(f"{flag}, no JSON: {e}", "check its quotes and commas") from None
    library = _library("--json-schema")
    if isinstance(schema, dict):
        schema = {"x-guidance": {"whitespace_pattern": JSON_WHITESPACE}, **schema}
    schema_json = json.dumps(schema)
    matcher = library.LLMatcher
    if problem := matcher.validate_grammar(matcher.grammar_from_json_schema(schema_json)):
        raise UsageError(
            f"{flag}: {' '.join(problem.split())}", "change the schema; not all keywords are known"
        )
    grammar = f'%llguidance {{"no_forcing": true}}\nstart: %json {schema_json}'
    return GrammarText(f"--json-schema '{_short(given)}'", grammar)


class GrammarState:
    """A text, the matcher after it and its mask. Rows with equal texts share a state."""

    __slots__ = ("__weakref__", "bits", "matcher", "text")

    def __init__(self, text: bytes, matcher: Any) -> None:
        self.text, self.matcher = text, matcher
        self.bits: np.ndarray | None = None  # of the tokens that can follow, 8 to a byte


class TokenizerTable(NamedTuple):
    """The attributes that llguidance reads from a tokenizer. It never encodes."""

    tokens: list[bytes]
    special_token_ids: list[int]
    eos_token_id: int
    bos_token_id: None = None
    is_tokenizer_wrapper: bool = True


class Grammar:
    """The restriction to continuations that match a rule completely. A text can end only where it
    matches; a row that is cut off at its maximum number of tokens is the beginning of a match."""

    def __init__(self, rule: GrammarText, vocabulary: Vocabulary) -> None:
        self.name, self._vocabulary = rule.name, vocabulary
        # for llguidance an id with other bytes in another context is another token
        tokens = list(vocabulary.texts[0])
        # by context: the ids whose bytes differ there, and the first of their llguidance tokens
        self._extra: list[tuple[np.ndarray, int]] = []
        for texts in vocabulary.texts:
            pairs = enumerate(zip(vocabulary.texts[0], texts, strict=True))
            ids = [id for id, (default, in_context) in pairs if default != in_context]
            self._extra.append((np.array(ids, int), len(tokens)))
            tokens += [texts[id] for id in ids]
        tokens.append(b"")  # llguidance's own end token
        special = [i for i, text in enumerate(tokens) if not text or text.startswith(INVALID_BYTE)]
        self._size = len(tokens)
        library = _library(rule.name)
        tokenizer = library.LLTokenizer(TokenizerTable(tokens, special, self._size - 1))
        matcher = library.LLMatcher(tokenizer, rule.grammar, log_level=0)
        if matcher.is_error():
            reason = matcher.get_error().split("\n")[0]
            raise UsageError(f"{rule.name}: {reason}", "simplify the grammar")
        self._start = GrammarState(b"", matcher)
        self._states: WeakValueDictionary[bytes, GrammarState] = WeakValueDictionary()

    def start(self, unfinished: bytes) -> GrammarState:
        return self._start  # the match does not include an incomplete character of the prompt

    def allowed(self, state: GrammarState, context: int) -> np.ndarray:
        if state.bits is None:
            bits = state.matcher.compute_bitmask()
            problem = state.matcher.get_error().split("\n")[0]
            if problem and not problem.startswith("NoExtension"):  # then no bit is set
                raise GentoolError(f"{self.name}: {problem}", "simplify the grammar")
            state.bits = np.frombuffer(bits, np.uint8)
        allowed = np.unpackbits(state.bits, count=self._size, bitorder="little").view(bool)
        mask = allowed[: self._vocabulary.size]
        ids, first = self._extra[context]
        mask[ids] = allowed[first : first + len(ids)]
        mask[self._vocabulary.ends] = self.can_end(state)
        return mask

    def after(self, state: GrammarState, context: int, token: int) -> GrammarState:
        text = state.text + self._vocabulary.texts[context][token]
        if (known := self._states.get(text)) is not None:
            return known
        ids, first = self._extra[context]
        index = int(np.searchsorted(ids, token))
        is_extra = index < len(ids) and ids[index] == token
        matcher = state.matcher.deep_copy()
        if not matcher.consume_token(first + index if is_extra else token):
            raise ValueError(f"{self.name} does not allow token {token} after {state.text!r}")
        self._states[text] = new_state = GrammarState(text, matcher)
        return new_state

    def can_end(self, state: GrammarState) -> bool:
        return state.matcher.is_accepting()


class Banned:
    """The restriction to continuations without any of these texts, however they are split into
    tokens, and without these special tokens (text -> id). The state of a row is the longest suffix
    of its text that is a prefix of a banned one."""

    def __init__(
        self,
        texts: Sequence[str],
        vocabulary: Vocabulary,
        special: Mapping[str, int] = MappingProxyType({}),
    ) -> None:
        for text in texts:
            _check_text("--ban", text)
            if not text:
                raise UsageError("--ban is ''", "give text")
        self.name = " ".join(f"--ban '{_short(text)}'" for text in (*texts, *special))
        self._vocabulary, self._special = vocabulary, set(special.values())
        banned = [text.encode() for text in texts]
        self._prefixes = {text[:size] for text in banned for size in range(1, len(text))}
        self._max_size = max(map(len, self._prefixes), default=0)
        self._completing = [_completing_tokens(banned, pieces) for pieces in vocabulary.texts]
        self._forbidden: dict[tuple[bytes, int], np.ndarray] = {}

    def start(self, unfinished: bytes) -> bytes:
        return self._matched_suffix(unfinished)

    def allowed(self, state: bytes, context: int) -> np.ndarray | None:
        if (ids := self._forbidden.get((state, context))) is None:
            completing = self._completing[context]
            suffixes = (state[start:] for start in range(len(state) + 1))
            tokens = self._special.union(*(completing.get(suffix, ()) for suffix in suffixes))
            ids = np.array(sorted(tokens), int)
            self._forbidden[state, context] = ids
        if not len(ids):
            return None
        mask = np.ones(self._vocabulary.size, bool)
        mask[ids] = False
        return mask

    def after(self, state: bytes, context: int, token: int) -> bytes:
        return self._matched_suffix(state + self._vocabulary.texts[context][token])

    def can_end(self, state: bytes) -> bool:
        return True

    def _matched_suffix(self, text: bytes) -> bytes:
        """The longest suffix of a text that is a prefix of a banned one."""
        sizes = range(min(len(text), self._max_size), 0, -1)
        return next((text[-size:] for size in sizes if text[-size:] in self._prefixes), b"")


def _completing_tokens(banned: Sequence[bytes], pieces: Sequence[bytes]) -> dict[bytes, set[int]]:
    """For each prefix of a banned text the tokens that complete it, given the bytes of each id; for
    b"" the tokens that contain a banned text."""
    order = sorted(range(len(pieces)), key=pieces.__getitem__)
    keys = [pieces[token] for token in order]
    joined = INVALID_BYTE.join(pieces)
    starts = np.cumsum([0, *(len(piece) + 1 for piece in pieces)])
    completing: dict[bytes, set[int]] = {}
    for text in banned:
        positions = [match.start() for match in re.finditer(re.escape(text), joined)]
        containing = np.searchsorted(starts, positions, side="right") - 1
        completing.setdefault(b"", set()).update(containing.tolist())
        for size in range(1, len(text)):
            rest = text[size:]
            beyond = rest[:-1] + bytes([rest[-1] + 1])  # a byte of UTF-8 is below 255
            ids = order[bisect_left(keys, rest) : bisect_left(keys, beyond)]
            completing.setdefault(text[:size], set()).update(ids)
    return completing


def _library(flag: str) -> ModuleType:
    try:
        import llguidance
    except ImportError:
        raise GentoolError(
            f"{flag} needs llguidance, which is not installed",
            "pip install 'gentool[constrain]'",
        ) from None
    module: ModuleType = llguidance
    return module


def _check_text(flag: str, text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError as e:
        raise UsageError(f"{flag} is not text (character {e.start})", "write it as UTF-8") from None


def _short(text: str) -> str:
    return text if len(text) <= 60 else text[:59] + "…"
