"""What holds for every kind of tokenizer: streaming is the whole decode, ids that are none add
nothing, and a damaged file is a ModelError or still a tokenizer, never anything else."""

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gentool import tokenizers
from gentool.config.lookup import PACKAGE
from gentool.config.model import TokenizerConfig
from gentool.errors import ModelError
from gentool.tokenizers import joined
from gentool.tokenizers.stream import TextStream

GOLDEN = Path(__file__).parent.parent / "golden/tokenizers"
FILES = {
    "cpm": ("cpm", GOLDEN / "cpm/chinese_vocab.model"),
    "bert": ("wordpiece", GOLDEN / "bert/vocab.txt"),
    "gpt2": ("huggingface", GOLDEN / "gpt2/tokenizer.json"),
    "llama": ("huggingface", GOLDEN / "llama/tokenizer.json"),
    "gemma": ("huggingface", GOLDEN / "gemma/tokenizer.json"),
    "tiny-zh": ("sentencepiece", PACKAGE / "data/tiny-zh/tokenizer.model"),
}
TEXT = "今天 The quick, ＡＢ。\n\t😀 ▂▃ é"


def opened(kind, path):
    return tokenizers.load(TokenizerConfig(kind=kind, model=path.name), path.parent)


@pytest.fixture(scope="module")
def known():
    return {name: opened(kind, path) for name, (kind, path) in FILES.items()}


@pytest.mark.parametrize("name", FILES)
@given(ids=st.lists(st.integers(0, 450)), cut=st.integers(0, 9))
def test_streaming_gives_the_whole_decode(known, name, ids, cut):
    tokenizer = known[name]
    prompt, rest = ids[:cut], ids[cut:]
    stream = TextStream(tokenizer, prompt)
    given_ = "".join([*map(stream.push, rest), stream.finish()])
    try:
        before = joined(tokenizer, prompt).decode()
    except UnicodeDecodeError:  # the prompt ends within a character
        return
    assert before + given_ == tokenizer.decode(ids)


@pytest.mark.parametrize("name", FILES)
def test_ids_beyond_the_vocabulary_add_nothing(known, name):
    tokenizer = known[name]
    ids = tokenizer.encode("今天")
    assert max(ids) < tokenizer.n_vocab
    for token in (tokenizer.n_vocab, 1 << 40, -1):
        assert tokenizer.piece(token, None) == tokenizer.piece(token, 8) == b""
        assert tokenizer.decode([*ids, token]) == tokenizer.decode(ids)


def damaged(kind, path, folder, data):
    other = folder / path.name
    other.write_bytes(data)
    try:
        tokenizer = opened(kind, other)
        ids = tokenizer.encode(TEXT)
    except ModelError as e:
        assert path.name in e.message
    else:
        assert isinstance(tokenizer.decode([*ids, *range(300)]), str)


@pytest.mark.parametrize("name", FILES)
@given(at=st.floats(0, 1, exclude_max=True))
def test_a_truncated_file(tmp_path_factory, name, at):
    kind, path = FILES[name]
    data = path.read_bytes()
    data = data[: int(at * len(data))]
    damaged(kind, path, tmp_path_factory.mktemp("t", numbered=True), data)


@pytest.mark.parametrize("name", FILES)
@given(
    flips=st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(1, 255)), min_size=1)
)
def test_flipped_bytes(tmp_path_factory, name, flips):
    kind, path = FILES[name]
    data = bytearray(path.read_bytes())
    for at, bits in flips:
        data[int(at * len(data))] ^= bits
    damaged(kind, path, tmp_path_factory.mktemp("t", numbered=True), bytes(data))


@pytest.mark.parametrize("name", [name for name, (kind, _) in FILES.items() if kind != "wordpiece"])
def test_every_truncation_near_the_end_is_noticed(tmp_path, name):
    kind, path = FILES[name]
    data = path.read_bytes().rstrip()
    for lost in range(1, 200):
        (tmp_path / path.name).write_bytes(data[:-lost])
        with pytest.raises(ModelError, match=path.name):
            opened(kind, tmp_path / path.name)


def test_a_file_too_large_is_not_read(tmp_path):
    shutil.copy(FILES["bert"][1], tmp_path)
    with (tmp_path / "vocab.txt").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(ModelError, match="too many for a tokenizer"):
        opened("wordpiece", tmp_path / "vocab.txt")
    with pytest.raises(ModelError, match="is no file"):
        opened("wordpiece", tmp_path)
