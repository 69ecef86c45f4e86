"""The measurement itself: every token scored once, in context, and what is averaged how."""

from types import SimpleNamespace

import heldout
import numpy as np
import pytest

import gentool

N_CTX, N_VOCAB = 8, 5
TABLE = np.random.default_rng(0).normal(size=(N_VOCAB, N_VOCAB)).astype(np.float32)


def bigram_model(*_: object, **__: object) -> SimpleNamespace:
    """Logits that depend on the id before only, so that windows must not matter."""

    def logits(ids: list[int]) -> np.ndarray:
        assert 0 < len(ids) <= N_CTX
        return TABLE[ids]

    return SimpleNamespace(
        config=SimpleNamespace(arch=SimpleNamespace(n_ctx=N_CTX)),
        tokenizer=SimpleNamespace(encode=lambda text: [0, *map(int, text)]),
        logits=logits,
    )


@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 11, 12, 13, 16, 17, 100])
def test_every_token_is_scored_once(monkeypatch: pytest.MonkeyPatch, length: int) -> None:
    monkeypatch.setattr(gentool, "load", bigram_model)
    text = "".join(str(i * i % N_VOCAB) for i in range(length))
    p = np.exp(TABLE) / np.exp(TABLE).sum(axis=1, keepdims=True)
    ids = [0, *map(int, text)]
    wanted = sum(-np.log2(p[a, b]) for a, b in zip(ids, ids[1:], strict=False))
    assert heldout.model_bits("any", "fp32")(text) == pytest.approx(wanted, rel=1e-5)


def test_whole_documents_up_to_the_cap() -> None:
    assert heldout.first(["aaaa", "bb", "c"], 6) == ["aaaa", "bb"]
    assert heldout.first(["aaaa", "bb", "c"], 3) == ["aaaa"]
    assert heldout.first([], 3) == []


def test_averages() -> None:
    sources = {"a": heldout.Source(3, ["十个字"], 3), "b": heldout.Source(1, ["字"], 1)}
    bits = heldout.per_character(lambda text: 2.0 * len(text) ** 2, sources, "x")
    assert bits == {"a": 6.0, "b": 2.0}
    result = heldout.report(sources, {"x": bits})
    assert result["average"] == {"x": 4.0}
    assert result["by share"] == {"x": 5.0}
