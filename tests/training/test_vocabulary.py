"""The vocabulary is trained on all of its text, and says what it does not cover."""

from __future__ import annotations

import random

import pytest
import sentencepiece
from hypothesis import given, settings
from hypothesis import strategies as st

from gentool.errors import GentoolError, UsageError
from gentool.training import vocabulary
from gentool.training.recipe import VocabularyOptions

WHOLE = VocabularyOptions(character_coverage=1)
CHOOSE = random.Random(1).choice
SHORT = ["".join(CHOOSE("天地人山水火风云日月") for _ in range(30)) + "。" for _ in range(300)]
LONG = "".join(
    "".join(CHOOSE("甲乙丙丁戊己庚辛壬癸") for _ in range(30)) + "！" for _ in range(300)
)


def processor(model: bytes) -> sentencepiece.SentencePieceProcessor:
    return sentencepiece.SentencePieceProcessor(model_proto=model)


def pieces(lines: list[str], text: str) -> list[str]:
    return processor(vocabulary.train(lines, 300, WHOLE)).Encode(text, out_type=str)


def test_the_characters_of_a_long_line_become_pieces() -> None:
    lines, cut = vocabulary.sample_lines([*SHORT, LONG], 10**9, 1)
    assert cut == 1 and sorted("".join(lines)) == sorted("".join(SHORT) + LONG)
    assert not any("<0x" in piece for piece in pieces(lines, "甲乙丙癸天"))
    # the library's own way with it, which is why
    assert any("<0x" in piece for piece in pieces([*SHORT, LONG], "甲乙丙癸天"))


def test_a_line_with_a_reserved_character_is_not_dropped() -> None:
    marked = [f"{line}春{vocabulary.RESERVED}夏{line}" for line in SHORT]
    lines, cut = vocabulary.sample_lines(marked, 10**9, 1)
    assert cut == len(SHORT)
    assert not any("<0x" in piece for piece in pieces(lines, "春夏"))


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.sampled_from(["天。", "a", "é", "😀", "句子！”", vocabulary.RESERVED, "x. "]))
    .map("".join)
    .map(lambda text: text * 700)
)
def test_lines_are_cut_between_characters_and_keep_their_text(text: str) -> None:
    lines, _ = vocabulary.sample_lines([text], 10**9, 0)
    assert "".join(lines) == text.replace(vocabulary.RESERVED, "")
    assert all(len(line.encode()) <= vocabulary.MAX_LINE_BYTES for line in lines)


def test_cuts_are_at_sentence_ends_where_there_are_some() -> None:
    lines, _ = vocabulary.sample_lines([LONG], 10**9, 0)
    assert len(lines) > 1 and all(line.endswith("！") for line in lines)
    lines, _ = vocabulary.sample_lines(["天" * 3000], 10**9, 0)
    assert [len(line) for line in lines] == [1397, 1397, 206]


def test_a_sample_ends_with_its_characters() -> None:
    lines, _ = vocabulary.sample_lines(SHORT, 310, 0)
    assert len(lines) == 10 and set(lines) < set(SHORT)


@pytest.mark.parametrize(
    ("size", "message", "hint"),
    [
        (20_000, "give a vocabulary of at most", "or less, or add text"),
        (265, "has 11 characters to be pieces", "set arch.n_vocab to 271 or more"),
    ],
)
def test_a_size_that_does_not_fit_the_text_is_refused(size: int, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as failure:
        vocabulary.train(SHORT, size, WHOLE)
    assert failure.value.message.startswith(f"arch.n_vocab is {size}: ")
    assert message in failure.value.message and hint in failure.value.hint
    assert "INTERNAL" not in failure.value.message


def test_the_size_that_is_named_works() -> None:
    assert processor(vocabulary.train(SHORT, 271, WHOLE)).GetPieceSize() == 271
    with pytest.raises(UsageError) as failure:
        vocabulary.train(SHORT, 20_000, WHOLE)
    largest = int(failure.value.hint.split()[3])
    assert processor(vocabulary.train(SHORT, largest, WHOLE)).GetPieceSize() == largest


@pytest.mark.parametrize("lines", [[], [""]])
def test_no_text_is_said(lines: list[str]) -> None:
    with pytest.raises(UsageError, match="the corpus has no text"):
        vocabulary.train(lines, 300, WHOLE)


def test_coverage_counts_characters_without_pieces() -> None:
    rare = "龘" * 20
    lines = [*SHORT, rare]
    model = vocabulary.train(lines, 300, VocabularyOptions(character_coverage=0.99))
    total = sum(map(len, lines))
    assert vocabulary.coverage(model, lines) == (12, 11, (total - len(rare)) / total)
    whole = vocabulary.train(lines, 300, WHOLE)
    assert vocabulary.coverage(whole, lines) == (12, 12, 1.0)


def test_a_damaged_vocabulary_is_named(tmp_path) -> None:
    path = tmp_path / "tokenizer.model"
    path.write_bytes(b"\x0a\xff\xff")
    with pytest.raises(GentoolError, match="is not a SentencePiece model"):
        vocabulary.encode(path, ["天"])
