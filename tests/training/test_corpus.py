"""Documents, the held-out hundredth, and a plan of windows that follows from its arguments."""

from pathlib import Path

import numpy as np
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from gentool.errors import GentoolError, UsageError
from gentool.training import corpus

TEXT = "\n\n一段\n二段\n\n\n三段\n"


@pytest.mark.parametrize("packed", [False, True])
def test_documents_are_separated_by_blank_lines(tmp_path, packed):
    if packed:
        (tmp_path / "a.txt.zst").write_bytes(zstandard.compress(TEXT.encode()))
    else:
        (tmp_path / "a.txt").write_text(TEXT, "utf-8")
    assert corpus.read(tmp_path, "a") == (["一段\n二段", "三段"], False)


def test_a_missing_source_is_named(tmp_path):
    with pytest.raises(UsageError, match=r"no b\.txt"):
        corpus.read(tmp_path, "b")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_and_a_byte_order_mark_are_not_text(tmp_path, end):
    (tmp_path / "a.txt").write_bytes(("\ufeff" + TEXT.lstrip().replace("\n", end)).encode())
    assert corpus.read(tmp_path, "a").documents == ["一段\n二段", "三段"]


def refusal(path: Path, content: bytes) -> GentoolError:
    path.write_bytes(content)
    with pytest.raises(GentoolError) as failure:
        corpus.read(path.parent, path.name.partition(".")[0])
    return failure.value


@pytest.mark.parametrize("chunk", [3, 1 << 14])
def test_a_wrong_byte_is_named_by_its_line_and_place(monkeypatch, tmp_path, chunk):
    monkeypatch.setattr(corpus, "CHUNK", chunk)  # positions do not count from the last read
    text = "天气\n".encode() * 3000 + b"ab\xff\n"
    failure = refusal(tmp_path / "a.txt", text)
    place = f"line 3001, byte {7 * 3000 + 2} of the text is 0xff"
    assert failure.message == f"{tmp_path / 'a.txt'} is not UTF-8: {place}"
    packed = refusal(tmp_path / "b.txt.zst", zstandard.compress(text))
    assert place in packed.message
    cut = refusal(tmp_path / "c.txt", "天".encode()[:2])
    assert "line 1, byte 0 of the text is 0xe5" in cut.message


def test_a_compressed_file_is_read_to_its_end_or_refused(tmp_path):
    frames = [zstandard.compress(part.encode()) for part in ("一段\n二", "段\n\n\n三段\n")]
    (tmp_path / "a.txt.zst").write_bytes(b"".join(frames))
    assert corpus.read(tmp_path, "a").documents == ["一段\n二段", "三段"]
    short = refusal(tmp_path / "b.txt.zst", b"".join(frames)[:-3])
    assert "ends in the middle" in short.message
    assert "cannot decompress" in refusal(tmp_path / "c.txt.zst", b"no such thing").message


SENTENCES = ["他说：“走吧。”", "好！", "第2.5条；", "Yes. ", "没有句号"]


def test_sentences_end_after_their_marks_and_quotes():
    assert list(corpus.sentences("".join(SENTENCES))) == SENTENCES


@settings(max_examples=50)
@given(st.text("天地。！.” \n"))
def test_sentences_joined_are_the_text(text):
    assert "".join(corpus.sentences(text)) == text


@pytest.mark.parametrize("separator", ["", "\n"])
def test_a_file_without_blank_lines_is_cut_into_documents(tmp_path, separator):
    text = separator.join(f"这是第{i}个很长很长的句子，后面还有别的句子。" for i in range(30_000))
    (tmp_path / "a.txt").write_text(text, "utf-8")
    documents, cut = corpus.read(tmp_path, "a")
    assert cut and separator.join(documents) == text
    assert all(corpus.CUT_CHARACTERS - 1 <= len(d) < 2100 for d in documents[:-1])
    assert len(documents[-1]) > corpus.CUT_CHARACTERS
    assert all(document.endswith("。") for document in documents)
    parts = corpus.split(documents)
    assert 0.002 < len(parts.held_out) / len(documents) < 0.03
    (tmp_path / "d.txt").write_text("无句号" * 2000, "utf-8")
    assert [len(d) for d in corpus.read(tmp_path, "d").documents] == [2000] * 3
    # a short text, or one blank line, is left as it is
    (tmp_path / "b.txt").write_text(text[:1999], "utf-8")
    assert corpus.read(tmp_path, "b") == ([text[:1999].strip("\n")], False)
    (tmp_path / "c.txt").write_text(f"{text}\n\n好。", "utf-8")
    assert corpus.read(tmp_path, "c") == ([text, "好。"], False)


def test_one_document_in_a_hundred_is_held_out_by_its_text_alone():
    texts = [f"文档{i}" for i in range(20000)]
    parts = corpus.split(texts)
    assert 150 < len(parts.held_out) < 250
    assert sorted(parts.train + parts.held_out) == sorted(texts)
    assert corpus.split(reversed(texts)).held_out == parts.held_out[::-1]


@settings(max_examples=30)
@given(st.integers(2, 9), st.integers(1, 300), st.integers(0, 5))
def test_a_plan_walks_through_every_source_in_epochs(length, count, seed):
    sizes = [2 * length + 1, 7 * length + 3]
    plan = corpus.plan(sizes, [1.0, 3.0], length, count, seed)
    assert plan == corpus.plan(sizes, [1.0, 3.0], length, count, seed)
    assert len(plan) == count
    for source, size in enumerate(sizes):
        starts = np.array([w.start for w in plan if w.source == source])
        assert ((starts >= 0) & (starts + length + 1 <= size)).all()
        epoch = (size - 1 - length + 1) // length  # at least so many windows before one comes again
        for first in range(0, len(starts) - epoch + 1, epoch):
            if first == 0:
                assert len(set(starts[:epoch])) == min(epoch, len(starts))


def test_shares_are_those_of_the_tokens_drawn():
    plan = corpus.plan([10**6, 10**6], [1.0, 3.0], 100, 4000, 0)
    assert 900 < sum(w.source == 0 for w in plan) < 1100


def test_a_source_too_small_to_cut_is_refused():
    with pytest.raises(UsageError, match="fewer than two windows"):
        corpus.plan([15, 10**6], [1.0, 1.0], 10, 50, 0)


def test_a_dialogue_loses_who_speaks():
    text = "问：你好：再见\n答：好。\nAbby Chi： 是\n他说：“来。”\n“对：”"
    assert corpus.without_speakers(text) == "你好：再见\n好。\n是\n“来。”\n“对：”"
