"""gentool's tokenizers against those of Hugging Face transformers, on folders that its slow and
fast tokenizers write, with random texts and ids.

    PEERS/bin/python tests/bench/against_tokenizers.py make OUT --seed 1 --count 2000
    .venv/bin/python tests/bench/against_tokenizers.py check OUT

`make` needs transformers 4.57, tokenizers, sentencepiece and protobuf, no torch. The vocabularies
are trained on this project's pages; --vocab FOLDER adds the vocab.txt files in that folder.
OUT/NAME/ is the folder that `save_pretrained` wrote, with config.json, and with texts, ids and
decoded texts in expected.json. `check` needs gentool: it opens each folder as `-m FOLDER` does,
prints a line of numbers for it, and ends with status 1 where an id or a decoded text differs.

What is compared: `encode` with the tokens that transformers puts before a text, but for BERT's
[CLS]; what it puts behind one is left out, because a prompt does not end. `decode` without special
tokens, without clean-up, and without the blanks that slow tokenizers put around added tokens. The
slow class of LLaMA and T5 loses blanks behind added tokens, that of BERT puts blanks between
Chinese characters and leaves "##" after added tokens: of these without blanks and "##". A text
with bytes that are no character is not compared: each program shows them as another number of
U+FFFD. The expected values of a fast BERT folder are those of the slow class, which gives the ids
that its models were trained with.
"""

from __future__ import annotations

import argparse
import io
import json
import random
import re
import shutil
import sys
import tempfile
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
PAGES = ("README.md", "README.zh-CN.md", "gentool/README.md", "configs/README.md")
PIECES = 1500
SHOWN = 3  # differences that are printed of each folder
# fmt: off
PARTS = [
    "今天天气不错", "去公园", "，", "。", "“", "”", "《", "ＡＢｃ", "１２", "㍿", "①", "豈",
    "𠮷", "\u3000", "hello", " the", "The", "I'LL", "don't", "we've", "naïve", "é", "e\u0301",
    "İ", "ı", "ß", "ſ", "ΑΣ", "σς", "Ǆ", "ǅ", "ﬁ", "ﷺ", "Ω", "Å", "\u1e9b\u0323",
    "q\u0307\u0323", "\u0344", "\u0301", "12345", "3.14", "1,000", "²", "½", "٣", "१२", "Ⅷ",
    "0", "-7", "10²", " ", "  ", "   ", "\t", "\n", "\n\n", "\r\n", "\r", " \n", "\u00a0",
    "\u2003", "\u200b", "\u2028", "😀", "👩\u200d💻", "👍🏽", "🇨🇳", "❤\ufe0f", "1\ufe0f\u20e3",
    "カ\u3099", "ガ", "한국", "각", "नमस्ते", "ไทย", "עִבְרִית", "العربية", "Ёж", "й", "\ufeff",
    "\u00ad", "\u061c", "\u202e", "\x00", "\x01", "\x1f", "\x7f", "\x85", "\ufffd", "\ufffe",
    "\ue000", "\U000e0001", "\U0010fffd", "(", ")", ".", ",", "!", "?", "$", "~", "^", "`", "|",
    "_", "##", "▁", "▂", "Ġ", "<0x0A>", "<0xE4>", "<s>", "</s>", "<unk>", "<pad>", "<bos>",
    "<eos>", "<|endoftext|>", "<|im_start|>", "<|im_end|>", "[CLS]", "[SEP]", "[UNK]", "[MASK]",
    "[PAD]", "[cls]", "<start_of_turn>", "<|begin_of_text|>", "a" * 150, "今" * 150, "<tool>",
    " <tool> ", "<Tool>", "word", "words", "<L>", " <L>", "<R>", "<R>  ", "<é>", "<e\u0301>",
]
# fmt: on
RANGES = (
    (0, 0x7F),
    (0x80, 0x24F),
    (0x300, 0x36F),
    (0x370, 0x5FF),
    (0x900, 0xE7F),
    (0x1E00, 0x23FF),
)
RANGES += (
    (0x2E80, 0x33FF),
    (0x4E00, 0x9FFF),
    (0xAC00, 0xD7A3),
    (0xF900, 0xFFFD),
    (0x10000, 0x1FFFF),
)
RANGES += ((0x20000, 0x3FFFF), (0, 0x10FFFF))
ADDED = (  # tokens added to a vocabulary, with flags of AddedToken
    ("<tool>", {}),
    ("<Tool>", {"normalized": False}),
    ("word", {"single_word": True}),
    ("<L>", {"lstrip": True, "normalized": False}),
    ("<R>", {"rstrip": True, "normalized": False}),
    ("<é>", {"normalized": True}),
    ("<special>", {"special": True}),
)
SIZES = {  # of a model that is never run
    **{"n_layer": 1, "n_head": 1, "n_embd": 8, "n_positions": 64, "num_hidden_layers": 1},
    **{"num_attention_heads": 1, "hidden_size": 8, "intermediate_size": 8},
    **{
        "max_position_embeddings": 64,
        "num_key_value_heads": 1,
        "head_dim": 8,
        "rms_norm_eps": 1e-6,
    },
}
LOOSE = ("bert", "llama-slow", "t5")  # folders whose texts are compared without these marks
MARKS = re.compile(r"\[unused\d+\]|##|▁|<special>")
MAY_REFUSE = (
    "bert-slow-bare",
    "bert-slow-never-split",
    "llama-fast-unigram",
)  # settings that are not supported
LLAMA3_SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def drawn_text(r: random.Random) -> str:
    """Parts that are known to be difficult, among random characters."""
    text = ""
    for _ in range(r.choice([1, 2, 3, 5, 8, 20])):
        if r.random() < 0.75:
            text += r.choice(PARTS)
        else:
            low, high = r.choice(RANGES)
            text += "".join(chr(r.randint(low, high)) for _ in range(r.randint(1, 4)))
    return "".join(c for c in text if unicodedata.category(c) != "Cs")


def corpus() -> Iterator[str]:
    for page in PAGES:
        yield from (ROOT / page).read_text("utf-8").splitlines()
    yield from PARTS


def byte_level(folder: Path, special: list[str]) -> None:
    """A vocab.json with its merges.txt."""
    from tokenizers import ByteLevelBPETokenizer

    trained = ByteLevelBPETokenizer()
    trained.train_from_iterator(corpus(), PIECES, special_tokens=special)
    trained.save_model(str(folder))


def sentence_piece(path: Path, **options: Any) -> None:
    import sentencepiece

    out = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=(line for line in corpus() if line and "\0" not in line),
        model_writer=out,
        vocab_size=PIECES,
        hard_vocab_limit=False,
        character_coverage=0.99,
        minloglevel=2,
        num_threads=1,
        **options,
    )
    path.write_bytes(out.getvalue())


def word_pieces(path: Path) -> None:
    from tokenizers import BertWordPieceTokenizer

    trained = BertWordPieceTokenizer(lowercase=False, strip_accents=False)
    trained.train_from_iterator(corpus(), PIECES)
    path.write_text("\n".join(sorted(trained.get_vocab(), key=trained.get_vocab().get)) + "\n")


def gpt2(fast: bool, **options: Any) -> Callable[[Path], Any]:
    def build(folder: Path) -> Any:
        import transformers

        byte_level(folder, ["<|endoftext|>"])
        cls = transformers.GPT2TokenizerFast if fast else transformers.GPT2Tokenizer
        return cls(str(folder / "vocab.json"), str(folder / "merges.txt"), **options)

    return build


def qwen2(fast: bool, **options: Any) -> Callable[[Path], Any]:
    def build(folder: Path) -> Any:
        import transformers

        byte_level(folder, [])
        cls = transformers.Qwen2TokenizerFast if fast else transformers.Qwen2Tokenizer
        made = cls(str(folder / "vocab.json"), str(folder / "merges.txt"), **options)
        marks = ["<|im_start|>", "<|im_end|>"]
        made.add_special_tokens({"additional_special_tokens": marks})
        return made

    return build


LLAMA = {"model_type": "bpe", "byte_fallback": True, "normalization_rule_name": "identity"}
LLAMA |= {
    "remove_extra_whitespaces": False,
    "split_digits": True,
    "allow_whitespace_only_pieces": True,
}


def llama(fast: bool, defaults: bool = False, **options: Any) -> Callable[[Path], Any]:
    """With `defaults` a model that SentencePiece trained as it does unless told otherwise: unigram,
    texts normalized, blanks merged."""

    def build(folder: Path) -> Any:
        import transformers

        sentence_piece(folder / "m", **({"byte_fallback": True} if defaults else LLAMA))
        cls = transformers.LlamaTokenizerFast if fast else transformers.LlamaTokenizer
        return cls(vocab_file=str(folder / "m"), **options)

    return build


def gemma(fast: bool, **options: Any) -> Callable[[Path], Any]:
    def build(folder: Path) -> Any:
        import transformers

        ids = {"pad_id": 0, "eos_id": 1, "bos_id": 2, "unk_id": 3}
        names = {"pad_piece": "<pad>", "eos_piece": "<eos>", "bos_piece": "<bos>"}
        turns = ["<start_of_turn>", "<end_of_turn>", "\n\n", "  ", "   "]
        spec = LLAMA | ids | names | {"add_dummy_prefix": False, "user_defined_symbols": turns}
        sentence_piece(folder / "m", **spec)
        cls = transformers.GemmaTokenizerFast if fast else transformers.GemmaTokenizer
        return cls(vocab_file=str(folder / "m"), **options)

    return build


def t5(**options: Any) -> Callable[[Path], Any]:
    def build(folder: Path) -> Any:
        import transformers

        ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1, "pad_piece": "<pad>"}
        sentence_piece(folder / "m", model_type="unigram", **ids)
        return transformers.T5Tokenizer(str(folder / "m"), extra_ids=5, **options)

    return build


def bert(fast: bool, vocabulary: Path | None = None, **options: Any) -> Callable[[Path], Any]:
    def build(folder: Path) -> Any:
        import transformers

        path = folder / "vocab.txt"
        if vocabulary:
            shutil.copy(vocabulary, path)
        else:
            word_pieces(path)
        cls = transformers.BertTokenizerFast if fast else transformers.BertTokenizer
        return cls(str(path), **options)

    return build


def llama3(folder: Path) -> Any:
    """A tokenizer.json as that of Llama 3."""
    import tokenizers
    import transformers
    from tokenizers import decoders, models, pre_tokenizers, processors, trainers

    start, end = "<|begin_of_text|>", "<|end_of_text|>"
    made = tokenizers.Tokenizer(models.BPE(ignore_merges=True))
    made.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(LLAMA3_SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=PIECES,
        initial_alphabet=alphabet,
        special_tokens=[start, end],
        show_progress=False,
    )
    made.train_from_iterator(corpus(), trainer)
    made.post_processor = processors.TemplateProcessing(
        single=f"{start} $A", special_tokens=[(start, made.token_to_id(start))]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token=start, eos_token=end, clean_up_tokenization_spaces=True
    )


def with_added(
    build: Callable[[Path], Any], tokens: tuple[Any, ...] = ADDED
) -> Callable[[Path], Any]:
    """The tokenizer that `build` makes, with added tokens."""

    def built(folder: Path) -> Any:
        from tokenizers import AddedToken

        made = build(folder)
        for text, flags in tokens:
            special = {k: v for k, v in flags.items() if k == "special"}
            token = AddedToken(text, **flags)
            made.add_tokens([token], special_tokens=bool(special))
        return made

    return built


KINDS: dict[str, tuple[str, Callable[[Path], Any]]] = {  # name -> model_type, what makes it
    "gpt2-slow": ("gpt2", gpt2(False)),
    "gpt2-slow-bos": ("gpt2", gpt2(False, add_bos_token=True)),
    "gpt2-slow-prefix": ("gpt2", gpt2(False, add_prefix_space=True)),
    "gpt2-slow-added": ("gpt2", with_added(gpt2(False))),
    "gpt2-fast": ("gpt2", gpt2(True)),
    "gpt2-fast-bos": ("gpt2", gpt2(True, add_bos_token=True)),
    "gpt2-fast-prefix": ("gpt2", gpt2(True, add_prefix_space=True)),
    "gpt2-fast-added": ("gpt2", with_added(gpt2(True))),
    "qwen2-slow": ("qwen2", qwen2(False)),
    "qwen2-slow-added": ("qwen2", with_added(qwen2(False))),
    "qwen2-fast": ("qwen2", qwen2(True)),
    "qwen2-fast-added": ("qwen2", with_added(qwen2(True))),
    "llama-slow": ("llama", llama(False, legacy=True)),
    "llama-slow-legacy-false": ("llama", llama(False, legacy=False)),
    "llama-slow-bare": ("llama", llama(False, legacy=False, add_bos_token=False)),
    "llama-slow-prefix-false": ("llama", llama(False, legacy=False, add_prefix_space=False)),
    "llama-slow-added": ("llama", with_added(llama(False, legacy=False))),
    "llama-slow-legacy-added": ("llama", with_added(llama(False, legacy=True))),
    "llama-slow-unigram": ("llama", with_added(llama(False, True, legacy=False))),
    "llama-slow-unigram-legacy": ("llama", with_added(llama(False, True, legacy=True))),
    "llama-fast-unigram": ("llama", llama(True, True, legacy=False)),
    "llama-fast": ("llama", llama(True, legacy=True)),
    "llama-fast-legacy-false": ("llama", llama(True, legacy=False)),
    "llama-fast-bare": ("llama", llama(True, legacy=False, add_bos_token=False)),
    "llama-fast-eos": ("llama", llama(True, legacy=False, add_eos_token=True)),
    "llama-fast-prefix-false": ("llama", llama(True, legacy=False, add_prefix_space=False)),
    "llama-fast-added": ("llama", with_added(llama(True, legacy=False))),
    "gemma-slow": ("gemma", gemma(False)),
    "gemma-slow-added": ("gemma", with_added(gemma(False))),
    "gemma-fast": ("gemma", gemma(True)),
    "gemma-fast-bare": ("gemma", gemma(True, add_bos_token=False)),
    "gemma-fast-added": ("gemma", with_added(gemma(True))),
    "t5-slow": ("llama", t5(legacy=False)),
    "t5-slow-legacy": ("llama", t5(legacy=True)),
    "bert-slow": ("gpt2", bert(False)),
    "bert-slow-cased": ("gpt2", bert(False, do_lower_case=False)),
    "bert-slow-accents": ("gpt2", bert(False, strip_accents=False)),
    "bert-slow-no-accents": ("gpt2", bert(False, do_lower_case=False, strip_accents=True)),
    "bert-slow-chinese-words": ("gpt2", bert(False, tokenize_chinese_chars=False)),
    "bert-slow-added": ("gpt2", with_added(bert(False))),
    "bert-slow-added-cased": ("gpt2", with_added(bert(False, do_lower_case=False))),
    "bert-slow-never-split": ("gpt2", bert(False, never_split=["hello"])),
    "bert-slow-bare": ("gpt2", bert(False, do_basic_tokenize=False)),
    "bert-fast": ("gpt2", bert(True)),
    "bert-fast-cased": ("gpt2", bert(True, do_lower_case=False)),
    "bert-fast-added": ("gpt2", with_added(bert(True))),
    "gpt2-slow-older": ("gpt2", with_added(gpt2(False))),
    "gpt2-slow-bare-files": ("gpt2", gpt2(False)),
    "qwen2-slow-older": ("qwen2", with_added(qwen2(False))),
    "qwen2-slow-bare-files": ("qwen2", qwen2(False)),
    "llama-slow-older": ("llama", with_added(llama(False, legacy=False))),
    "llama-slow-bare-files": ("llama", llama(False)),
    "gemma-slow-bare-files": ("gemma", gemma(False)),
    "bert-slow-older": ("gpt2", with_added(bert(False))),
    "llama3": ("llama", llama3),
    "llama3-added": ("llama", with_added(llama3)),
}


def make_one(
    out: Path,
    name: str,
    model_type: str,
    build: Callable[[Path], Any],
    r: random.Random,
    count: int,
) -> None:
    """A folder with what its tokenizer, read again from the folder, makes of texts and ids."""
    import transformers

    with tempfile.TemporaryDirectory() as scratch:
        made = build(Path(scratch))
        made.save_pretrained(out)
    if name.endswith("-older"):  # as before transformers 4.34: added_tokens.json has them alone
        path = out / "tokenizer_config.json"
        kept = {
            k: v for k, v in json.loads(path.read_text()).items() if k != "added_tokens_decoder"
        }
        path.write_text(json.dumps(kept))
    if name.endswith("-bare-files"):
        for path in out.glob("*_*.json"):
            path.unlink()
    theirs = type(made).from_pretrained(out)
    if name.startswith("bert-fast"):  # what their vocab.txt was made for
        theirs = transformers.BertTokenizer.from_pretrained(out)
    config = SIZES | {"model_type": model_type, "vocab_size": len(theirs)}
    (out / "config.json").write_text(json.dumps(config))
    full, bare = theirs("a")["input_ids"], theirs("a", add_special_tokens=False)["input_ids"]
    before = next((k for k in range(len(full)) if full[k : k + len(bare)] == bare), 0)
    start = [] if "bert" in name else full[:before]
    texts = [drawn_text(r) for _ in range(count)]
    ids = [start + theirs.encode(text, add_special_tokens=False) for text in texts]
    plain = {"skip_special_tokens": True, "clean_up_tokenization_spaces": False}
    plain |= {} if theirs.is_fast else {"spaces_between_special_tokens": False}
    drawn = [[r.randrange(len(theirs)) for _ in range(r.randint(1, 12))] for _ in range(count)]
    decoded = [[row, theirs.decode(row, **plain)] for row in [*ids, *drawn] if row]
    expected = {"texts": texts, "ids": ids, "decoded": decoded}
    (out / "expected.json").write_text(json.dumps(expected))


def make(out: Path, seed: int, count: int, vocab: Path | None, only: list[str]) -> None:
    kinds = dict(KINDS)
    for path in sorted(vocab.rglob("*vocab.txt")) if vocab else ():
        kinds[f"bert-slow-{path.stem}"] = ("gpt2", bert(False, path))
        kinds[f"bert-fast-{path.stem}"] = ("gpt2", bert(True, path))
    for name, (model_type, build) in kinds.items():
        if not only or name in only:
            print(name, flush=True)
            make_one(out / name, name, model_type, build, random.Random(f"{seed} {name}"), count)


def unmarked(text: str) -> str:
    """A text without what transformers and gentool show differently of a LOOSE folder."""
    return MARKS.sub("", "".join(text.split()))


def check_one(folder: Path) -> tuple[str, bool]:
    """A line of numbers, and whether nothing differs."""
    from gentool import tokenizers
    from gentool.config.folder import describe
    from gentool.config.model import TokenizerConfig

    (folder / "model.safetensors").touch()
    keys = describe(folder)["tokenizer"]
    if folder.name.startswith("t5"):  # T5 is no family yet, so that its folder is not understood
        legacy = json.loads((folder / "tokenizer_config.json").read_text())["legacy"]
        keys = {"kind": "sentencepiece", "model": "spiece.model", "special_tokens": True}
        keys["legacy"] = legacy
    ours = tokenizers.load(TokenizerConfig.model_validate(keys), folder)
    expected = json.loads((folder / "expected.json").read_text())
    pairs = zip(expected["texts"], expected["ids"], strict=True)
    texts = [(t, ids, ours.encode(t)) for t, ids in pairs]
    decoded = [(ids, t, ours.decode(ids)) for ids, t in expected["decoded"]]
    decoded = [triple for triple in decoded if "\ufffd" not in triple[1]]
    if folder.name.startswith(LOOSE):
        decoded = [(ids, unmarked(t), unmarked(o)) for ids, t, o in decoded]
    other_ids = [triple for triple in texts if triple[1] != triple[2]]
    other_texts = [triple for triple in decoded if triple[1] != triple[2]]
    counts = [len(texts), len(other_ids), len(decoded), len(other_texts)]
    lines = [f"| {folder.name} | {keys['kind']} | {' | '.join(map(str, counts))} |"]
    for given, right, wrong in [
        *sorted(other_ids, key=lambda d: len(d[0]))[:SHOWN],
        *sorted(other_texts, key=lambda d: len(d[0]))[:SHOWN],
    ]:
        lines += [f"    {given!r}", f"      theirs {right!r}", f"      ours   {wrong!r}"]
    return "\n".join(lines), not other_ids and not other_texts


def check(out: Path, only: list[str]) -> int:
    from gentool.errors import GentoolError

    wrong = []
    for folder in sorted(path.parent for path in out.glob("*/expected.json")):
        if only and folder.name not in only:
            continue
        try:
            line, good = check_one(folder)
        except GentoolError as e:
            line = f"| {folder.name} | refused: {e} |".replace(f"{folder}/", "")
            good = folder.name in MAY_REFUSE
        print(line, flush=True)
        wrong += [] if good else [folder.name]
    print(f"{len(wrong)} folders differ: {' '.join(wrong)}")
    return int(bool(wrong))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True, dest="verb")
    making, checking = verbs.add_parser("make"), verbs.add_parser("check")
    for verb in (making, checking):
        verb.add_argument("out", type=Path)
        verb.add_argument("--only", nargs="*", default=[])
    making.add_argument("--seed", type=int, default=0)
    making.add_argument("--count", type=int, default=500)
    making.add_argument("--vocab", type=Path)
    given = parser.parse_args()
    if given.verb == "check":
        return check(given.out, given.only)
    make(given.out, given.seed, given.count, given.vocab, given.only)
    return 0


if __name__ == "__main__":
    sys.exit(main())
