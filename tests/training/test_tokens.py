"""What is prepared from a corpus, what is said about it, and files that are damaged."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest

from gentool.errors import GentoolError, UsageError
from gentool.training import tokens
from gentool.training.recipe import Recipe


@pytest.fixture
def recipe() -> Recipe:
    return Recipe.model_validate(
        {
            "name": "toy",
            "family": "llama",
            "arch": dict(n_layer=1, n_head=2, d_model=32, d_ff=64, n_vocab=280, n_ctx=32),
            "pieces": {"character_coverage": 0.98},
            "data": {"sources": {"made": 1}},
            "optimizer": {"tokens": 64000, "batch": 8, "learning_rate": 2e-3},
        }
    )


def prepare(recipe: Recipe, folder: Path, text: str) -> list[str]:
    (folder / "made.txt").write_text(text, "utf-8")
    return list(tokens.prepare(recipe, folder, folder / "run"))


def sentence(i: int) -> str:
    choose = random.Random(i).choice
    return "".join(choose("天地人山水火风云日月") for _ in range(39)) + "。"


def test_what_is_done_with_a_text_is_said(recipe: Recipe, tmp_path: Path) -> None:
    text = "".join(map(sentence, range(3000))) + "龘▁"
    lines = prepare(recipe, tmp_path, text)
    assert lines[:2] == [
        "reading the corpus",
        "made has no blank lines: it is cut into 60 documents",
    ]
    assert any(line.startswith("training a vocabulary of 280 pieces on 1") for line in lines)
    assert any("lines are cut at sentence ends" in line for line in lines)
    assert "▁ (U+2581), 1 times in the text, is read as a space" in lines
    assert any("characters are pieces" in line and "written as bytes" in line for line in lines)
    files = sorted(path.name for path in (tmp_path / "run/tokens").iterdir())
    assert files == ["made-held-out.npy", "made.npy"]
    assert prepare(recipe, tmp_path, text) == []


def test_a_corpus_without_a_held_out_part_is_said(recipe: Recipe, tmp_path: Path) -> None:
    lines = prepare(recipe, tmp_path, "\n\n".join(map(sentence, range(20, 29))))
    assert "made: no document is held out, of 9" in lines


def test_a_damaged_token_file_is_named_and_made_again(recipe: Recipe, tmp_path: Path) -> None:
    text = "\n\n".join(map(sentence, range(500)))
    prepare(recipe, tmp_path, text)
    path = tmp_path / "run/tokens/made.npy"
    whole = path.read_bytes()
    for content in (b"", whole[:50], whole[:-1], b"PK\3\4" + whole, whole.replace(b"<u2", b"<i2")):
        path.write_bytes(content)
        with pytest.raises(GentoolError, match=f"cannot read {path}"):
            tokens.windows(recipe, tmp_path / "run", "", 8, 0)
    path.unlink()
    prepare(recipe, tmp_path, text)
    assert path.read_bytes() == whole
    assert len(tokens.windows(recipe, tmp_path / "run", "", 8, 0).plan) == 8


def test_a_source_too_small_for_two_windows_is_named(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "tokens").mkdir()
    np.save(tmp_path / "tokens/made.npy", np.zeros(64, np.uint16))
    with pytest.raises(UsageError, match="made has 64 tokens, fewer than two windows of 32"):
        tokens.windows(recipe, tmp_path, "", 8, 0)
