"""Of a conversation the answers are learnt, each with what ends it, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from gentool.config import lookup
from gentool.errors import GentoolError, ModelError
from gentool.generation.opening import open_files
from gentool.training import chats, texts
from gentool.training.packing import Text
from gentool.training.texts import Conversation

MESSAGES = [
    {"role": "system", "content": "简短。"},
    {"role": "user", "content": "你好"},
    {"role": "assistant", "content": "你好！"},
    {"role": "user", "content": "一加一？"},
    {"role": "assistant", "content": "二。"},
]


def encoded(template: str) -> tuple[list[str], list[str]]:
    """The texts of MESSAGES for tiny-zh by a template, and what of them is learnt."""
    files = open_files(lookup.load("tiny-zh", {"chat_template": template}))
    assert files.tokenizer
    made = chats.encoder(files.config, files.tokenizer)(Conversation(MESSAGES))

    def learnt(text: Text) -> list[int]:
        return [i for i, wanted in zip(text.ids, text.learnt, strict=True) if wanted]

    decode = files.tokenizer.decode
    return [decode(text.ids) for text in made], [decode(learnt(text)) for text in made]


def test_the_answers_and_their_ends_are_learnt() -> None:
    whole, learnt = encoded("chatml")
    assert learnt == ["你好！<|im_end|>\n二。<|im_end|>\n"]
    assert len(whole) == 1 and whole[0].count("<|im_start|>") == 5


def test_answers_that_a_template_writes_otherwise_later_are_texts_of_their_own(
    tmp_path: Path,
) -> None:
    """As Qwen3's leaves out the thinking of earlier answers."""
    path = tmp_path / "last.jinja"
    path.write_text(
        "{% for m in messages %}{{ '<' + m.role + '>' }}"
        "{% if m.role == 'assistant' and loop.last %}{{ '(' + m.content + ')' }}"
        "{% else %}{{ m.content }}{% endif %}{{ '|' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<assistant>' }}{% endif %}"
    )
    whole, learnt = encoded(str(path))
    assert learnt == ["(你好！)|", "(二。)|"]
    assert [text.count("<user>") for text in whole] == [1, 2]
    assert "<assistant>你好！|" in whole[1]


def test_a_model_without_a_template_is_refused() -> None:
    files = open_files(lookup.load("tiny-zh"))
    assert files.tokenizer
    with pytest.raises(ModelError, match="tiny-zh has no chat template"):
        chats.encoder(files.config, files.tokenizer)


def test_rows_of_messages(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    row = '{"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]}'
    path.write_text(row + "\n" + row.replace("assistant", "user") + "\n")
    with pytest.raises(GentoolError, match="line 2: its messages are no list of role and content"):
        texts.read(path, "lines")
    path.write_text(row + "\n")
    (document,) = texts.read(path, "lines")
    assert isinstance(document, Conversation) and document.messages[1]["content"] == "b"
    many = [Conversation([{"role": "assistant", "content": str(i)}]) for i in range(20)]
    assert len(texts.split(many, 5).held_out) == 1
