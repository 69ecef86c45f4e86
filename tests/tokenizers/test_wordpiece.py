"""WordPiece gives the ids of GPT2_ML's and of BERT's own code, and text without clean-up."""

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gentool import tokenizers
from gentool.config.model import TokenizerConfig
from gentool.errors import ModelError

GOLDEN = Path(__file__).parent.parent / "golden/tokenizers/bert"
SHARED = Path(__file__).parent.parent.parent.parent / "shared"
CASES = json.loads((GOLDEN / "golden.json").read_text("utf-8"))


def opened(folder=GOLDEN, model="vocab.txt", **keys):
    return tokenizers.load(TokenizerConfig(kind="wordpiece", model=model, **keys), folder)


@pytest.fixture(scope="module")
def small():
    return opened()


def written(folder, *pieces):
    (folder / "vocab.txt").write_text("".join(f"{piece}\n" for piece in pieces), "utf-8")
    return opened(folder)


@pytest.mark.parametrize("case", CASES, ids=lambda case: repr(case["text"]))
def test_ids_of_berts_own_tokenizer(case):
    tokenizer = opened(special_tokens=True)
    assert tokenizer.encode(case["text"]) == case["ids_no_special"]
    # its text has a blank between Chinese characters, and after punctuation: both are left out
    wanted = case["decoded_skip_special"].replace(" ", "")
    assert tokenizer.decode(case["ids"]).replace(" ", "") == wanted


@pytest.mark.parametrize("model", ["clue-vocab.txt", "bert-base-chinese-vocab.txt"])
def test_ids_of_gpt2_ml_with_its_vocabularies(model):
    folder = SHARED / "vocab/gpt2_ml"
    if not folder.is_dir():
        pytest.skip("needs the real vocabularies")
    golden = json.loads((SHARED / "golden/bert_tokenizers/golden.json").read_text("utf-8"))[model]
    tokenizer = opened(folder, model)
    assert (tokenizer.n_vocab, tokenizer.end) == (golden["size_gpt2_ml"], (102,))
    assert tokenizer.encode("。") == [golden["full_stop"]]
    for case in golden["cases"]:
        ids = tokenizer.encode(case["text"])
        assert ids == case["gpt2_ml_ids"]
        # its demo prints no blanks at all
        assert tokenizer.decode(ids).replace(" ", "") == case["gpt2_ml_demo_text"]


@pytest.mark.parametrize(
    ("text", "decoded"),
    [
        ("The Quick foxes, 2019!", "the quick foxes,2019!"),
        ("我 the quick 的 fox", "我the quick的fox"),
        ("[CLS]今天", "[cls]今天"),
        ("多 空格", "多"),  # unknown characters add nothing
        ("", ""),
    ],
)
def test_blanks_are_only_between_words(small, text, decoded):
    assert small.decode(small.encode(text)) == decoded


def test_marks_add_nothing(small):
    ids = [21, *small.encode("quick dog"), 22, 0]
    assert small.decode(ids) == "quick dog"
    assert small.end == (22,)


# the original's order of lower case and accents, and its punctuation
@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        ("ΟΔΟΣ", ["οδος"]),  # a last sigma is another letter
        ("İstanbul", ["istanbul"]),
        ("a\u00adb\u200bc\u0000\ufffd", ["abc"]),  # format and control characters
        ("a\u3000b\tc\u2028d", ["a", "b", "c", "d"]),
        ("$~a^b", ["$", "~", "a", "^", "b"]),
        ("\U0002b820か한", ["\U0002b820", "か한"]),
        ("x" * 200, ["x" * 200]),
        ("x" * 201, ["[UNK]"]),
    ],
)
def test_words_of_the_original(tmp_path, text, pieces):
    pieces = [unicodedata.normalize("NFD", piece) for piece in pieces]
    vocabulary = list(dict.fromkeys(["[UNK]", *pieces]))
    ids = written(tmp_path, *vocabulary).encode(text)
    assert [vocabulary[i] for i in ids] == pieces


def test_case_is_kept_where_the_vocabulary_has_it(tmp_path):
    written(tmp_path, "[UNK]", "É", "é", "e")
    assert opened(tmp_path, lower_case=False).encode("É é") == [1, 2]
    assert opened(tmp_path).encode("É é") == [3, 3]


@given(st.text())
def test_text_of_ids_gives_the_ids(small, text):
    ids = [token for token in small.encode(text) if token != 20]  # [UNK] has no text
    ids = small.encode(small.decode(ids))
    assert small.encode(small.decode(ids)) == ids


@given(st.text("我的the quick. 19!，"))
def test_known_text_gives_its_ids_again(small, text):
    ids = small.encode(text)
    if 20 not in ids:
        assert small.encode(small.decode(ids)) == ids


@pytest.mark.parametrize("content", [b"", b"a\nb\n", b"[UNK]\n\xff\n"])
def test_a_broken_file_is_a_model_error(tmp_path, content):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(ModelError, match=r"vocab\.txt"):
        opened(tmp_path)


def test_a_missing_file_is_a_model_error(tmp_path):
    with pytest.raises(ModelError, match=r"vocab\.txt: No such file"):
        opened(tmp_path)
