"""What the files beside a vocabulary declare is honoured, or refused by file and key; the ids are
those of transformers 4.57.1 (tests/bench/against_tokenizers.py compares many more)."""

import io
import json

import pytest
import sentencepiece

from gentool import tokenizers
from gentool.config import folder
from gentool.config.model import TokenizerConfig
from gentool.errors import ModelError
from gentool.tokenizers import huggingface, repeated_start, special_id

LETTERS = sorted(huggingface.ALPHABET)
MERGES = [("h", "e"), ("l", "l"), ("'", "L"), ("'L", "L"), ("1", "2"), (".", "Ċ")]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "é", "e", "今", "天", "今天"]


def write(path, **files):
    for name, data in files.items():
        (path / f"{name}.json").write_text(json.dumps(data), "utf-8")


def byte_level(path, family="gpt2", **files):
    """A folder of vocab.json and merges.txt, and its tokenizer."""
    vocab = {text: i for i, text in enumerate([*LETTERS, *map("".join, MERGES)])}
    (path / "merges.txt").write_text("".join(f"{a} {b}\n" for a, b in MERGES), "utf-8")
    write(path, vocab=vocab, **files)
    return opened(path, "vocab.json", family)


def opened(path, name, family):
    keys = folder._tokenizer(path, name, family, {"model_type": family})
    return tokenizers.load(TokenizerConfig(**keys), path)


@pytest.fixture(scope="module")
def pieces():
    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(["hello the world", "今天天气"] * 5),
        model_writer=out,
        model_type="bpe",
        vocab_size=300,
        byte_fallback=True,
        normalization_rule_name="identity",
        minloglevel=2,
        hard_vocab_limit=False,
        remove_extra_whitespaces=False,  # as LLaMA
        unk_id=0,
        bos_id=1,
        eos_id=2,
    )
    return out.getvalue()


def sentence_piece(path, pieces, **config):
    (path / "tokenizer.model").write_bytes(pieces)
    write(path, tokenizer_config=config)
    return opened(path, "tokenizer.model", "llama")


def word_piece(path, **config):
    (path / "vocab.txt").write_text("\n".join(WORDS), "utf-8")
    write(path, tokenizer_config=config)
    return opened(path, "vocab.txt", "gpt2")


def test_added_tokens_of_a_byte_level_folder(tmp_path):
    size = len(LETTERS) + len(MERGES)
    tokenizer = byte_level(tmp_path, added_tokens={"<|x|>": size, "<|y|>": size + 1})
    assert tokenizer.encode("<|y|>a<|x|>") == [size + 1, LETTERS.index("a"), size]
    assert tokenizer.n_vocab == size  # a surplus one needs no row
    assert tokenizer.decode([size]) == "<|x|>"


def test_a_qwen2_folder_of_a_slow_tokenizer_is_split_as_qwen2(tmp_path):
    tokenizer = byte_level(tmp_path, "qwen2")
    ids = [LETTERS.index(c) for c in "I"] + [len(LETTERS) + 3]  # I, 'LL
    assert tokenizer.encode("I'LL") == ids
    assert tokenizer.encode("12") == [LETTERS.index("1"), LETTERS.index("2")]
    assert tokenizer.encode(".\n") == [len(LETTERS) + 5]


def test_add_prefix_space(tmp_path):
    tokenizer = byte_level(tmp_path, tokenizer_config={"add_prefix_space": True})
    assert tokenizer.encode("a") == [LETTERS.index("Ġ"), LETTERS.index("a")]
    assert tokenizer.encode(" a") == [LETTERS.index("Ġ"), LETTERS.index("Ġ"), LETTERS.index("a")]
    assert tokenizer.encode("") == []


def test_a_token_that_is_a_single_word_is_none_in_a_word(tmp_path):
    decoder = {"262": {"content": "ab", "single_word": True}}
    tokenizer = byte_level(tmp_path, tokenizer_config={"added_tokens_decoder": decoder})
    a, b, c, blank = map(LETTERS.index, "abcĠ")
    assert tokenizer.encode("c ab c") == [c, blank, 262, blank, c]
    assert tokenizer.encode("abc") == [a, b, c]
    assert tokenizer.encode("cab") == [c, a, b]
    assert tokenizer.encode("(ab") == [LETTERS.index("("), a, b]


def test_a_qwen2_folder_of_two_files_has_its_end_token(tmp_path):
    tokenizer = byte_level(tmp_path, "qwen2")
    assert tokenizer.encode("<|endoftext|>") == [262]
    assert tokenizer.end == (262,)


def test_a_start_token_is_added_as_the_folder_says(tmp_path, pieces):
    assert sentence_piece(tmp_path, pieces).start == (1,)
    assert sentence_piece(tmp_path, pieces, add_bos_token=False).start == ()


def test_special_and_added_tokens_of_sentencepiece(tmp_path, pieces):
    decoder = {"400": {"content": "<|im|>", "special": True}}
    plain = sentence_piece(tmp_path, pieces, legacy=False)
    hello = plain.encode("hello")
    legacy = sentence_piece(tmp_path, pieces, added_tokens_decoder=decoder)
    assert legacy.encode("hello<|im|>hello") == [*hello, 400, *hello[1:]]
    new = sentence_piece(tmp_path, pieces, added_tokens_decoder=decoder, legacy=False)
    assert new.encode("hello<|im|> hello") == [*hello, 400, *hello[1:]]
    assert new.encode("<s>hello</s>")[:2] == [1, 1]
    assert repeated_start(new, new.encode("<s>hello")) == 1
    assert repeated_start(new, hello) is None
    assert special_id(new, "</s>") == 2
    assert special_id(new, "<|im|>") == 400
    assert special_id(new, "hello") is None
    assert new.decode([400]) == ""


def test_half_a_surrogate_pair_is_no_text(tmp_path, pieces):
    with pytest.raises(ModelError, match="tokenizer_config.json has half a surrogate pair"):
        sentence_piece(tmp_path, pieces, added_tokens_decoder={"400": {"content": "\ud800"}})


def test_the_prefix_space_of_llama_stands_before_an_added_token(tmp_path, pieces):
    decoder = {"400": {"content": "<x>"}, "401": {"content": "<|im|>", "special": True}}
    tokenizer = sentence_piece(tmp_path, pieces, added_tokens_decoder=decoder, legacy=False)
    assert tokenizer.encode("<x>") == [1, 288, 400]  # the piece of a blank
    assert tokenizer.encode("<|im|>") == [1, 401]


def test_without_a_prefix_space_a_first_blank_is_text(tmp_path, pieces):
    tokenizer = sentence_piece(tmp_path, pieces, add_prefix_space=False, legacy=False)
    assert tokenizer.decode(tokenizer.encode(" hello")) == " hello"
    assert tokenizer.decode(tokenizer.encode("hello")) == "hello"


def test_the_unknown_piece_of_a_folder_is_no_text(tmp_path, pieces):
    assert sentence_piece(tmp_path, pieces).decode([0]) == ""


def test_settings_of_bert(tmp_path):
    off = {"tokenize_chinese_chars": False, "strip_accents": False}
    assert word_piece(tmp_path, **off).encode("今天 é") == [9, 5]
    assert word_piece(tmp_path).encode("今天 é") == [7, 8, 6]
    assert word_piece(tmp_path, **off).encode("e\u0301") == [5]  # composed
    assert word_piece(tmp_path).encode("\ue000今\U0001fffe") == [7]  # no characters
    assert word_piece(tmp_path).encode(f"{'e' * 101} e") == [1, 6]
    decoder = {"10": {"content": "[SPEAKER]", "special": True}}
    tokenizer = word_piece(tmp_path, added_tokens_decoder=decoder)
    assert tokenizer.encode("[SPEAKER]今[SEP]") == [10, 7, 3]


@pytest.mark.parametrize(
    ("files", "named"),
    [
        ({"added_tokens": {"x": "5"}}, r"added_tokens\.json: x '5' is no token id"),
        ({"added_tokens": {"x": 1 << 40}}, r"added_tokens\.json: x 1099511627776"),
        ({"added_tokens": {"<x>": 400}}, "leaves a gap"),
        ({"added_tokens": {"<x>": 5}}, "that id is"),
        ({"added_tokens": {"a": 262}}, "added token 262 'a'"),
        ({"tokenizer_config": {"added_tokens_decoder": []}}, None),
        ({"tokenizer_config": {"added_tokens_decoder": [1]}}, "added_tokens_decoder list"),
        ({"tokenizer_config": {"added_tokens_decoder": {"x": {}}}}, "added_tokens_decoder: x"),
        ({"tokenizer_config": {"eos_token": 5}}, "eos_token 5"),
        ({"tokenizer_config": {"add_prefix_space": "yes"}}, "add_prefix_space is 'yes'"),
        ({"tokenizer_config": {"tokenizer_class": "RobertaTokenizer"}}, "RobertaTokenizer"),
        (
            {
                "added_tokens": {"<x>": 262},
                "tokenizer_config": {"added_tokens_decoder": {"262": {"content": "<y>"}}},
            },
            "added_tokens_decoder: 262: '<y>'",
        ),
    ],
)
def test_what_contradicts_or_is_of_a_wrong_type_is_refused(tmp_path, files, named):
    if named is None:
        named = "added_tokens_decoder list"
    with pytest.raises(ModelError, match=named):
        byte_level(tmp_path, **files)


def test_a_vocabulary_of_wrong_types_is_refused(tmp_path):
    byte_level(tmp_path)
    write(tmp_path, vocab={"a": "0"})
    with pytest.raises(ModelError, match="the id of 'a' is 0"):
        opened(tmp_path, "vocab.json", "gpt2")


def test_the_files_beside_a_vocabulary_belong_to_the_tokenizer(tmp_path):
    byte_level(tmp_path, added_tokens={})
    config = TokenizerConfig(kind="huggingface", model="vocab.json")
    names = [path.name for path in tokenizers.files(config, tmp_path)]
    assert names == ["vocab.json", "merges.txt", "added_tokens.json"]
