"""The packaged vocabulary writes any text and reads it back."""

import io

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from gentool import tokenizers
from gentool.config import lookup
from gentool.config.model import TokenizerConfig
from gentool.errors import ModelError
from gentool.tokenizers.sentencepiece import surface


@pytest.fixture(scope="module")
def tokenizer():
    model = lookup.load("tiny-zh")
    return tokenizers.load(model.tokenizer, model.folder)


# U+2581 is SentencePiece's own way to write a blank
texts = st.text(st.characters(exclude_characters="\u2581", exclude_categories=["Cs"]))


@given(texts)
def test_any_text_comes_back(tokenizer, text):
    ids = tokenizer.encode(text)
    assert ids[0] == 1  # <s>
    assert tokenizer.decode(ids) == text


@given(texts)
def test_decode_is_that_of_the_library_where_bytes_are_whole(tokenizer, text):
    ids = tokenizer.encode(text)
    assert tokenizer._processor.Decode(ids) == tokenizer.decode(ids)


def test_digits_are_single_and_newlines_are_kept(tokenizer):
    ids = tokenizer.encode("1234\n\n今天 好")
    pieces = [tokenizer.piece(i, None).decode() for i in ids]
    assert pieces[1:7] == ["1", "2", "3", "4", "\n", "\n"]


@pytest.fixture(scope="module")
def llama(tmp_path_factory):
    """A small model of LLaMA's kind: a blank before every text, and bytes for what it lacks."""
    folder = tmp_path_factory.mktemp("llama")
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["今天天气不错 the quick brown fox"] * 9),
        model_writer=model,
        vocab_size=300,
        model_type="bpe",
        byte_fallback=True,
        remove_extra_whitespaces=False,
        normalization_rule_name="identity",
        minloglevel=2,
    )
    (folder / "t.model").write_bytes(model.getvalue())
    return folder


def of(folder, **keys):
    return tokenizers.load(TokenizerConfig(kind="sentencepiece", model="t.model", **keys), folder)


@given(texts)
def test_any_text_comes_back_without_its_dummy_prefix(llama, text):
    tokenizer = of(llama, add_bos=True)
    ids = tokenizer.encode(text)
    assert ids[0] == 1 and of(llama).encode(text) == ids[1:]
    assert tokenizer.decode(ids) == tokenizer.decode(ids[1:]) == text


def test_the_leading_blank_is_dropped_at_the_start_of_a_text_only(llama):
    tokenizer = of(llama)
    ids = tokenizer.encode("the")
    assert tokenizer.decode([1, *ids, *ids]) == "the the"


def test_an_unknown_piece_has_the_librarys_mark():
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["a b c"]), model_writer=model, vocab_size=7, minloglevel=2
    )
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    assert surface(processor, processor.unk_id()) == " \u2047 ".encode()
    assert surface(processor, processor.eos_id()) == b""


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x0a" * 100])
def test_a_broken_file_is_a_model_error(tmp_path, content):
    (tmp_path / "t.model").write_bytes(content)
    with pytest.raises(ModelError, match=r"t\.model"):
        tokenizers.load(TokenizerConfig(kind="sentencepiece", model="t.model"), tmp_path)
