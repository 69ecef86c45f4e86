"""What restricts the next token of a row, step by step: a grammar the whole continuation has to
match, and texts it must not hold. It knows the bytes of tokens, no tokenizer.
"""

from __future__ import annotations

import codecs
import json
import re
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cache, reduce
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol
from weakref import WeakValueDictionary

import numpy as np

from gentool.errors import GentoolError, UsageError

# between the parts of JSON: a blank, or a new line and its indentation; were any number of them
# allowed, a small model might never go on
BLANKS = r" |\n {0,12}"
NEVER = b"\xff"  # begins no text; llguidance marks with it what is no text


class Vocabulary:
    """The bytes of every id of a model: `texts[context][id]`, where `contexts[id]` is the context
    that follows an id and `contexts[-1]` that at the start of a text. Ids without bytes add none;
    an `end` ends a row, so it adds none either."""

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
        """That of what comes after `ids`."""
        return self.contexts[ids[-1] if ids else -1]

    def unfinished(self, ids: Sequence[int]) -> bytes:
        """The bytes of a character that the text of `ids` ends within."""
        last = range(max(0, len(ids) - 4), len(ids))
        texts = (self.texts[self.context(ids[:at])][ids[at]] for at in last)
        decoder = codecs.getincrementaldecoder("utf-8")("replace")
        decoder.decode(b"".join(texts))
        return decoder.getstate()[0]


class Restriction(Protocol):
    """One thing asked of continuations. What it has to know of one is a state, which never
    changes: `after` gives the next one."""

    name: str  # as the user gave it: --ban '今天'

    def start(self, unfinished: bytes) -> Any:
        """The state of a row whose prompt ends within a character, of which it has these bytes."""
        ...

    def allowed(self, state: Any, context: int) -> np.ndarray | None:
        """The tokens that can follow, ends too where the text can end: a new bool [V], None for
        all."""
        ...

    def after(self, state: Any, context: int, token: int) -> Any: ...

    def can_end(self, state: Any) -> bool: ...


class ConstraintState(NamedTuple):
    """A row as its restrictions know it. It never changes."""

    states: tuple[Any, ...]  # of each restriction
    context: int
    text: bytes  # what the row has added


class Constraint:
    """What all `restrictions` together allow."""

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
        """The tokens that can follow, as a new bool [V]; None for all."""
        return _both(self._masks(state))

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
            "the model has no token for what has to follow; ask for something less strict",
        )

    def only_ends(self, state: ConstraintState) -> bool:
        """Whether the text is complete, and no token can be added to it."""
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


def _both(masks: Iterable[np.ndarray | None]) -> np.ndarray | None:
    """The tokens that all masks allow; None is everything."""
    some = [mask for mask in masks if mask is not None]
    return reduce(np.logical_and, some) if some else None


class Following(NamedTuple):
    """What can follow new ids after a prompt, as functions of those ids, for searches whose rows
    come and go: a bool [V], None for all; and whether their text is complete and can only end."""

    mask: Callable[[tuple[int, ...]], np.ndarray | None]
    complete: Callable[[tuple[int, ...]], bool]


def following(constraint: Constraint, prompt: Sequence[int]) -> Following:
    """The constraint after a prompt; states are kept by ids."""

    @cache
    def state(ids: tuple[int, ...]) -> ConstraintState:
        return constraint.after(state(ids[:-1]), ids[-1]) if ids else constraint.start(prompt)

    return Following(
        lambda ids: constraint.mask(state(ids)), lambda ids: constraint.only_ends(state(ids))
    )


class Rule(NamedTuple):
    """A grammar as llguidance takes it, and what the user calls it."""

    name: str
    grammar: str


def regex(pattern: str) -> Rule:
    """The whole continuation has to match. Syntax and meaning are those of Rust's regexes, but
    \\d is 0 to 9; there is no look-around, no \\b and no \\1."""
    _check_text("--regex", pattern)
    library = _library("--regex")
    # no_forcing: what must follow may be drawn in any tokens, not only in those it is encoded as
    grammar = f'%llguidance {{"no_forcing": true}}\nstart: /{library.regex_to_lark(pattern, "d")}/'
    if problem := library.LLMatcher.validate_grammar(grammar):
        reason = re.search(r"^error: (.*)", problem, re.M) or re.search(r"regex\): (.*)", problem)
        given = reason[1] if reason else problem
        raise UsageError(
            f"--regex is '{_short(pattern)}': {given}",
            r"it is a regex as Rust has them, without look-around, \b and \1",
        )
    return Rule(f"--regex '{_short(pattern)}'", grammar)


def json_schema(given: str) -> Rule:
    """The continuation is a JSON text of this schema: the schema itself, which begins with {, or a
    file of it. Properties come in the schema's order."""
    _check_text("--json-schema", given)
    text, what = given, f"--json-schema is '{_short(given)}'"
    try:
        if not given.lstrip().startswith("{"):
            text = Path(given).read_text("utf-8")
        schema = json.loads(text)
    except OSError as e:
        raise UsageError(
            f"{what}: {e.strerror}", "give a schema that begins with {, or the file of one"
        ) from None
    except (ValueError, RecursionError) as e:
        raise UsageError(f"{what}, no JSON: {e}", "check its quotes and commas") from None
    library = _library("--json-schema")
    if isinstance(schema, dict):
        schema = {"x-guidance": {"whitespace_pattern": BLANKS}, **schema}
    plain = json.dumps(schema)
    matcher = library.LLMatcher
    if problem := matcher.validate_grammar(matcher.grammar_from_json_schema(plain)):
        raise UsageError(
            f"{what}: {' '.join(problem.split())}", "change the schema; not all keywords are known"
        )
    grammar = f'%llguidance {{"no_forcing": true}}\nstart: %json {plain}'
    return Rule(f"--json-schema '{_short(given)}'", grammar)


class Reached:
    """A text that a grammar has come to. Rows with the same text share it and its mask."""

    __slots__ = ("__weakref__", "bits", "matcher", "text")

    def __init__(self, text: bytes, matcher: Any) -> None:
        self.text, self.matcher = text, matcher
        self.bits: np.ndarray | None = None  # of the tokens that can follow, 8 to a byte


class Tokens(NamedTuple):
    """A tokenizer as llguidance asks for one. It never encodes."""

    tokens: list[bytes]
    special_token_ids: list[int]
    eos_token_id: int
    bos_token_id: None = None
    is_tokenizer_wrapper: bool = True


class Grammar:
    """Continuations that match a rule as a whole. They can end where they match, and a row that is
    cut off, by the most tokens it may have, is only the beginning of a match."""

    def __init__(self, rule: Rule, vocabulary: Vocabulary) -> None:
        self.name, self._vocabulary = rule.name, vocabulary
        # to llguidance an id in another context is another token, if it has other bytes there
        tokens = list(vocabulary.texts[0])
        self._others: list[tuple[np.ndarray, int]] = []  # ids, and where their tokens begin
        for texts in vocabulary.texts:
            pairs = enumerate(zip(vocabulary.texts[0], texts, strict=True))
            ids = [token for token, (usual, here) in pairs if usual != here]
            self._others.append((np.array(ids, int), len(tokens)))
            tokens += [texts[token] for token in ids]
        tokens.append(b"")  # llguidance's own end
        marks = [i for i, text in enumerate(tokens) if not text or text.startswith(NEVER)]
        self._size = len(tokens)
        library = _library(rule.name)
        tokenizer = library.LLTokenizer(Tokens(tokens, marks, self._size - 1))
        matcher = library.LLMatcher(tokenizer, rule.grammar, log_level=0)
        if matcher.is_error():
            reason = matcher.get_error().split("\n")[0]
            raise UsageError(f"{rule.name}: {reason}", "ask for something simpler")
        self._start = Reached(b"", matcher)
        self._reached: WeakValueDictionary[bytes, Reached] = WeakValueDictionary()

    def start(self, unfinished: bytes) -> Reached:
        return self._start  # a character the prompt left unfinished is not part of the match

    def allowed(self, state: Reached, context: int) -> np.ndarray:
        if state.bits is None:
            bits = state.matcher.compute_bitmask()
            problem = state.matcher.get_error().split("\n")[0]
            if problem and not problem.startswith("NoExtension"):  # of those, no bit is set
                raise GentoolError(f"{self.name}: {problem}", "ask for something simpler")
            state.bits = np.frombuffer(bits, np.uint8)
        every = np.unpackbits(state.bits, count=self._size, bitorder="little").view(bool)
        mask = every[: self._vocabulary.size]
        ids, first = self._others[context]
        mask[ids] = every[first : first + len(ids)]
        mask[self._vocabulary.ends] = self.can_end(state)
        return mask

    def after(self, state: Reached, context: int, token: int) -> Reached:
        text = state.text + self._vocabulary.texts[context][token]
        if (known := self._reached.get(text)) is not None:
            return known
        ids, first = self._others[context]
        at = int(np.searchsorted(ids, token))
        other = at < len(ids) and ids[at] == token
        matcher = state.matcher.deep_copy()
        if not matcher.consume_token(first + at if other else token):
            raise ValueError(f"{self.name} does not allow token {token} after {state.text!r}")
        self._reached[text] = reached = Reached(text, matcher)
        return reached

    def can_end(self, state: Reached) -> bool:
        return state.matcher.is_accepting()


class Banned:
    """Continuations in which none of these texts appears, however it is split into tokens. The
    state of a row is the longest end of its text that begins a banned one."""

    def __init__(self, texts: Sequence[str], vocabulary: Vocabulary) -> None:
        for text in texts:
            _check_text("--ban", text)
            if not text:
                raise UsageError("--ban is ''", "give text")
        self.name = " ".join(f"--ban '{_short(text)}'" for text in texts)
        self._vocabulary = vocabulary
        banned = [text.encode() for text in texts]
        self._begins = {whole[:size] for whole in banned for size in range(1, len(whole))}
        self._longest = max(map(len, self._begins), default=0)
        # for each context: beginning -> the tokens that complete it, b"" -> those that hold all
        self._complete: list[dict[bytes, set[int]]] = []
        for pieces in vocabulary.texts:
            order = sorted(range(vocabulary.size), key=pieces.__getitem__)
            keys = [pieces[token] for token in order]
            complete: dict[bytes, set[int]] = {}
            joined = NEVER.join(pieces)
            begins = np.cumsum([0, *(len(piece) + 1 for piece in pieces)])
            for whole in banned:
                places = [match.start() for match in re.finditer(re.escape(whole), joined)]
                holding = np.searchsorted(begins, places, side="right") - 1
                complete.setdefault(b"", set()).update(holding.tolist())
                for size in range(1, len(whole)):
                    rest = whole[size:]
                    beyond = rest[:-1] + bytes([rest[-1] + 1])  # of UTF-8, so never 256
                    ids = order[bisect_left(keys, rest) : bisect_left(keys, beyond)]
                    complete.setdefault(whole[:size], set()).update(ids)
            self._complete.append(complete)
        self._forbidden: dict[tuple[bytes, int], np.ndarray] = {}

    def start(self, unfinished: bytes) -> bytes:
        return self._end(unfinished)

    def allowed(self, state: bytes, context: int) -> np.ndarray | None:
        if (ids := self._forbidden.get((state, context))) is None:
            complete = self._complete[context]
            ends = (state[at:] for at in range(len(state) + 1))
            ids = np.array(sorted(set[int]().union(*(complete.get(end, ()) for end in ends))), int)
            self._forbidden[state, context] = ids
        if not len(ids):
            return None
        mask = np.ones(self._vocabulary.size, bool)
        mask[ids] = False
        return mask

    def after(self, state: bytes, context: int, token: int) -> bytes:
        return self._end(state + self._vocabulary.texts[context][token])

    def can_end(self, state: bytes) -> bool:
        return True

    def _end(self, text: bytes) -> bytes:
        """The longest end of a text that begins a banned one."""
        sizes = range(min(len(text), self._longest), 0, -1)
        return next((text[-size:] for size in sizes if text[-size:] in self._begins), b"")


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
