"""The packaged vocabulary writes any text and reads it back."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gentool import config, tokenizers
from gentool.config import TokenizerConfig
from gentool.errors import ModelError


@pytest.fixture(scope="module")
def tokenizer():
    model = config.load("tiny-zh")
    return tokenizers.load(model.tokenizer, model.folder)


# U+2581 is SentencePiece's own way to write a blank; U+0000 ends its strings
texts = st.text(st.characters(exclude_characters="\u2581\0", exclude_categories=["Cs"]))


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


@pytest.mark.parametrize("content", [b"", b"not a model", b"\x0a" * 100])
def test_a_broken_file_is_a_model_error(tmp_path, content):
    (tmp_path / "t.model").write_bytes(content)
    with pytest.raises(ModelError, match=r"t\.model"):
        tokenizers.load(TokenizerConfig(kind="sentencepiece", model="t.model"), tmp_path)
