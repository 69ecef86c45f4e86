"""CPM's tokenizer gives the ids of its original code, quietly, and keeps jieba's cache safe."""

import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st

from gentool import cache, tokenizers
from gentool.config.model import TokenizerConfig
from gentool.errors import ModelError
from gentool.tokenizers import cpm

GOLDEN = Path(__file__).parent.parent / "golden/tokenizers/cpm"
SHARED = Path(__file__).parent.parent.parent.parent / "shared"
CONFIG = TokenizerConfig(kind="cpm", model="chinese_vocab.model")

CASES = json.loads((GOLDEN / "golden.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def tiny():
    return tokenizers.load(CONFIG, GOLDEN)


@pytest.mark.parametrize("case", CASES["cases"], ids=lambda case: repr(case["text"]))
def test_ids_and_text_of_the_original(tiny, case):
    assert tiny.encode(case["text"]) == case["ids"]
    assert tiny.decode(case["ids"]) == case["decoded"]


@pytest.mark.parametrize("case", CASES["decode"], ids=lambda case: str(case["ids"]))
def test_text_of_single_ids(tiny, case):
    assert tiny.decode(case["ids"]) == case["decoded"]


@pytest.mark.parametrize(("folder", "release"), [("cpm", "new"), ("cpm-old", "old")])
def test_both_releases_of_the_real_vocabulary(folder, release):
    if not (SHARED / "vocab" / folder).is_dir():
        pytest.skip("needs the real vocabulary")
    tokenizer = tokenizers.load(CONFIG, SHARED / "vocab" / folder)
    golden = json.loads((SHARED / "golden/cpm_tokenizer/real_vocab_golden.json").read_text("utf-8"))
    assert (tokenizer.n_vocab, tokenizer.end) == (30000, (7,))
    for case in golden["cases"]:
        assert tokenizer.encode(case["text"]) == case[f"ids_{release}"]
        assert tokenizer.decode(case[f"ids_{release}"]) == case[f"decode_{release}"]
    for case in golden["decode_ids"]:
        # in the older release <eod> is a control piece, which adds no text
        text = case["new"] if release == "new" else case["new"].replace("<eod>", "")
        assert tokenizer.decode(case["ids"]) == text


def test_ends_and_newline(tiny):
    assert tiny.end == (7,)
    assert tiny.piece(3, None) == b"\n"
    assert tiny.encode("") == []


# of the tiny vocabulary; other white space is lost and full-width forms are changed
@given(st.text("中国的首都是北京天气abc12 \n。"))
def test_text_comes_back(tiny, text):
    assert tiny.decode(tiny.encode(text)) == text


def test_another_vocabulary_is_refused():
    config = TokenizerConfig(kind="cpm", model="tokenizer.model")
    folder = Path(tokenizers.__file__).parent.parent / "data/tiny-zh"
    with pytest.raises(ModelError, match="newlines"):
        tokenizers.load(config, folder)


@pytest.fixture(scope="module")
def pangu(tmp_path_factory):
    """A small vocabulary with the first ten pieces of PanGu-alpha's, none of them control but <s>
    and </s>: in what its port printed, <eot> is text."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["今天 天气 不错 , 北京 abc", "12 问题 : 答案 ! ?"] * 9),
        model_writer=model,
        vocab_size=60,
        hard_vocab_limit=False,
        user_defined_symbols=["\u2583", "\u2582", "<sep>", "<pad>", "<mask>", "<eod>", "<eot>"],
        minloglevel=2,
    )
    folder = tmp_path_factory.mktemp("pangu")
    (folder / "vocab.model").write_bytes(model.getvalue())
    return tokenizers.load(TokenizerConfig(kind="cpm", model="vocab.model"), folder)


def test_pangu_has_its_own_ids_for_blanks_newlines_and_ends(pangu):
    assert pangu.end == (8, 9)
    assert (pangu.piece(3, None), pangu.piece(4, None)) == (b"\n", b" ")
    ids = pangu.encode("问题: 北京\n<eot>")
    assert ids.count(3) == ids.count(4) == 1  # U+2583 and U+2582
    assert not {8, 9} & set(ids)  # typed, an end is no end


@given(st.text("今天气不错北京abc12,:!? \n"))
def test_pangu_reads_and_writes_as_its_port_does(pangu, text):
    processor = pangu._processor
    words = [w.replace(" ", "\u2582").replace("\n", "\u2583") for w in cpm.segmenter()(text)]
    ids = processor.Encode(" ".join(words))
    assert pangu.encode(text) == ids
    written = processor.Decode(ids).replace(" ", "")
    assert pangu.decode(ids) == written.replace("\u2582", " ").replace("\u2583", "\n")
    assert pangu.decode(ids) == text


PROGRAM = """
import sys
from pathlib import Path
from gentool import tokenizers
from gentool.config.model import TokenizerConfig
config = TokenizerConfig(kind="cpm", model="chinese_vocab.model")
tokenizer = tokenizers.load(config, Path(sys.argv[1]))
assert "jieba" not in sys.modules
tokenizer.decode([8, 43])
assert "jieba" not in sys.modules
print(tokenizer.encode("今天天气不错"))
"""


def run(cache: Path, flags: tuple[str, ...] = ()) -> str:
    environment = os.environ | {"XDG_CACHE_HOME": str(cache), "TMPDIR": str(cache)}
    command = [sys.executable, *flags, "-c", PROGRAM, str(GOLDEN)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_jieba_is_imported_late_and_silent_and_its_cache_is_the_users_own(tmp_path):
    first = run(tmp_path)
    folder = tmp_path / "gentool"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert [path.name for path in folder.iterdir()] == ["jieba-0.42.1.cache"]
    assert first == run(tmp_path, ("-W", "error")) == f"{CASES['cases'][0]['ids']}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["gentool"]


def test_jieba_works_without_a_cache_folder(tmp_path):
    (tmp_path / "gentool").write_text("a file is in the way")
    assert run(tmp_path) == f"{CASES['cases'][0]['ids']}\n"
    assert [path.name for path in tmp_path.iterdir()] == ["gentool"]


def test_a_folder_others_can_write_is_not_used(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache.folder() == tmp_path / "gentool"
    (tmp_path / "gentool").chmod(0o777)
    assert cache.folder() is None
