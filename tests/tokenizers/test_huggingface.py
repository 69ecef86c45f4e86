"""tokenizer.json and vocab.json give the ids of transformers; a file that asks for more than a
tokenizer needs is refused before the library sees it."""

import json
import unicodedata
from pathlib import Path

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from gentool import tokenizers
from gentool.config.model import TokenizerConfig
from gentool.errors import ModelError
from gentool.tokenizers import huggingface

GOLDEN = Path(__file__).parent.parent / "golden/tokenizers"
NAMES = ["gpt2", "llama", "llama3", "qwen2", "gemma"]
SPECIAL = ["<unk>", "<s>", "<pad>", "<bos>", "<|begin_of_text|>", "<|im_start|>", *huggingface.ENDS]
ENDS = {"gpt2": (0,), "llama": (2,), "llama3": (334, 335), "qwen2": (337, 339), "gemma": (1,)}


def opened(folder, model="tokenizer.json", **keys):
    return tokenizers.load(TokenizerConfig(kind="huggingface", model=model, **keys), folder)


def written(folder, data):
    (folder / "tokenizer.json").write_text(json.dumps(data), "utf-8")
    return opened(folder)


def data_of(name):
    return json.loads((GOLDEN / name / "tokenizer.json").read_text("utf-8"))


@pytest.fixture(scope="module")
def known():
    return {name: opened(GOLDEN / name) for name in NAMES}


def check(folder, cases):
    tokenizer, bare = opened(folder), opened(folder, add_bos=False)
    for case in cases:
        assert tokenizer.encode(case["text"]) == case["ids"]
        assert bare.encode(case["text"]) == case["ids_no_special"]
        for ids in (case["ids"], case["ids_no_special"]):
            assert tokenizer.decode(ids) == case["decoded"]


@pytest.mark.parametrize("name", NAMES)
def test_ids_and_text_of_transformers(name):
    check(GOLDEN / name, json.loads((GOLDEN / name / "golden.json").read_text("utf-8")))


@pytest.mark.parametrize("name", ["qwen3", "gemma2"])
def test_ids_and_text_of_families_with_the_same_file(name):
    folder = GOLDEN.parent / f"hf_{name}"
    check(folder, json.loads((folder / "golden.json").read_text("utf-8"))["tokenizer"])


@pytest.mark.parametrize("name", NAMES)
def test_ends(known, name):
    assert known[name].end == ENDS[name]


# U+2581 is how LLaMA's and Gemma's tokens write a blank
@pytest.mark.parametrize("name", NAMES)
@given(text=st.text(st.characters(exclude_characters="\u2581", exclude_categories=["Cs"])))
def test_any_text_comes_back(known, name, text):
    assume(not any(token in text for token in SPECIAL))
    text = unicodedata.normalize("NFC", text) if name == "qwen2" else text
    assert known[name].decode(known[name].encode(text)) == text


def test_the_leading_blank_is_dropped_at_the_start_of_a_text_only(known):
    llama = known["llama"]
    ids = opened(GOLDEN / "llama", add_bos=False).encode("is")
    assert llama.decode(ids) == llama.decode([1, *ids]) == "is"
    assert llama.decode([*ids, *ids]) == "is is"


def test_special_tokens_in_a_text_are_those_tokens_and_add_no_text(known):
    assert known["gpt2"].encode("<|endoftext|>") == [0]
    assert known["gpt2"].decode([0, *known["gpt2"].encode("a"), 0]) == "a"


@given(st.text())
def test_vocabulary_and_merges_give_the_same_ids(known, split, text):
    assert split.encode(text) == known["gpt2"].encode(text)
    assert split.decode(split.encode(text)) == known["gpt2"].decode(split.encode(text))


def write_split(folder, names=("vocab.json", "merges.txt")):
    model = data_of("gpt2")["model"]
    (folder / names[0]).write_text(json.dumps(model["vocab"]), "utf-8")
    merges = [" ".join(pair) for pair in model["merges"]]
    (folder / names[1]).write_text("\n".join(["#version: 0.2", *merges, ""]), "utf-8")
    return merges


@pytest.fixture(scope="module", params=huggingface.MERGES.items())
def split(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("split")
    write_split(folder, request.param)
    return opened(folder, request.param[0])


def test_merges_that_lost_their_end_are_noticed(tmp_path):
    merges = write_split(tmp_path)
    (tmp_path / "merges.txt").write_text("\n".join(merges[:-1]), "utf-8")
    with pytest.raises(ModelError, match=r"merges\.txt does not make the tokens of vocab\.json"):
        opened(tmp_path, "vocab.json")
    (tmp_path / "merges.txt").unlink()
    with pytest.raises(ModelError, match=r"merges\.txt: No such file"):
        opened(tmp_path, "vocab.json")


def test_what_a_post_processor_puts_behind_a_text_is_left_out(tmp_path):
    data = data_of("llama")
    end = {"id": "</s>", "ids": [2], "tokens": ["</s>"]}
    data["post_processor"]["single"].append({"SpecialToken": {"id": "</s>", "type_id": 0}})
    data["post_processor"]["special_tokens"]["</s>"] = end
    assert written(tmp_path, data).encode("is") == opened(GOLDEN / "llama").encode("is")


def test_truncation_and_padding_are_ignored(tmp_path):
    data = data_of("gpt2")
    short = {"max_length": 2, "strategy": "LongestFirst", "stride": 0}
    long = {"strategy": {"Fixed": 10**12}, "pad_to_multiple_of": None}
    pad = {"pad_id": 0, "pad_type_id": 0, "pad_token": "<|endoftext|>"}
    data |= {"truncation": {"direction": "Right"} | short}
    data |= {"padding": {"direction": "Right"} | long | pad}
    text = "The quick brown fox"
    assert written(tmp_path, data).encode(text) == opened(GOLDEN / "gpt2").encode(text)


def test_a_start_token_that_is_not_there_cannot_be_added():
    with pytest.raises(ModelError, match="adds no start token"):
        opened(GOLDEN / "gpt2", add_bos=True)


SPLIT = {"type": "Split", "behavior": "Isolated", "invert": False}
REPLACE = {"type": "Replace", "pattern": {"String": "a"}, "content": "aa"}


@pytest.mark.parametrize(
    ("part", "value", "named"),
    [
        ("model", {"type": "Unigram", "vocab": [], "unk_id": 0}, "Unigram"),
        ("normalizer", {"type": "Precompiled", "precompiled_charsmap": "AAAA"}, "Precompiled"),
        ("normalizer", {"type": "Sequence", "normalizers": [REPLACE] * 10}, "1024 times"),
        ("normalizer", {"type": "Sequence", "normalizers": [{"type": "NFC"}] * 99}, "99 steps"),
        ("pre_tokenizer", SPLIT | {"pattern": {"Regex": "(a+)+$"}}, "regular expression"),
        ("pre_tokenizer", SPLIT | {"pattern": {"Regex": "(?:a|a)*$"}}, "regular expression"),
        ("pre_tokenizer", SPLIT | {"pattern": {"Regex": r"(a)\1"}}, "regular expression"),
        ("pre_tokenizer", SPLIT | {"pattern": {"Regex": "(?x)a"}}, "regular expression"),
        ("pre_tokenizer", SPLIT | {"pattern": {"Regex": ".*.*.*(?=.)(?!.)"}}, "regular expression"),
        (
            "pre_tokenizer",
            SPLIT | {"pattern": {"Regex": "a?" * 30 + "a" * 30}},
            "regular expression",
        ),
        ("pre_tokenizer", SPLIT | {"pattern": {"Regex": "a*b"}}, "regular expression"),
        ("pre_tokenizer", SPLIT | {"pattern": {"Regex": "x|a{0,900}b"}}, "regular expression"),
        ("pre_tokenizer", SPLIT | {"pattern": {"Regex": "(?:x|a*)b"}}, "regular expression"),
        ("pre_tokenizer", SPLIT | {"pattern": {"String": ""}}, "empty pattern"),
        ("decoder", None, "0 steps"),
        ("decoder", {"type": "Strip", "content": "a", "start": 0, "stop": 9}, "Strip"),
        ("added_tokens", [{"id": 1 << 40, "content": "x"}], "token id"),
    ],
)
def test_what_would_take_endless_time_or_memory_is_refused(tmp_path, part, value, named):
    with pytest.raises(ModelError, match=rf"tokenizer\.json.*{named}"):
        written(tmp_path, data_of("gpt2") | {part: value})


@pytest.mark.parametrize(
    "pattern",
    [
        huggingface.QWEN2_SPLIT,
        r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+",
        r"(?i:'s|'t|'re)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s+",
        r"[\r\n]",
        r"\s+$",
        r"\s?[A-Za-z]+",
    ],
)
def test_the_patterns_of_published_tokenizers_are_read(tmp_path, pattern):
    split = SPLIT | {"pattern": {"Regex": pattern}}
    steps = [
        split,
        {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False, "trim_offsets": True},
    ]
    pre_tokenizer = {"type": "Sequence", "pretokenizers": steps}
    assert written(tmp_path, data_of("gpt2") | {"pre_tokenizer": pre_tokenizer}).encode("ab 12")


@pytest.mark.parametrize(
    ("key", "value"),
    # the library can abort the process where a prefix is not that of the vocabulary
    [("dropout", 0.5), ("continuing_subword_prefix", "\0"), ("end_of_word_suffix", "</w>")],
)
def test_a_model_with_more_than_merges_is_refused(tmp_path, key, value):
    data = data_of("gpt2")
    data["model"][key] = value
    with pytest.raises(ModelError, match=key):
        written(tmp_path, data)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "[]",
        "{}",
        "[" * 100_000,
        '{"model": {}, "model": {}}',
        '{"model": 5}',
        '{"a": "\\ud800"}',
    ],
)
def test_a_broken_file_is_a_model_error(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ModelError, match=r"tokenizer\.json"):
        opened(tmp_path)
