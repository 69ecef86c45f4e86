"""Trains the tokenizer and turns documents into token arrays. SentencePiece unigram with byte
fallback: any text can be written, and decoding gives it back to the letter.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import sentencepiece

from gentool.errors import UsageError
from gentool.training.recipe import Pieces

BOS, EOS = 1, 2  # <s> opens every document, </s> ends it


def train(
    documents: Sequence[str], vocabulary: int, pieces: Pieces, seed: int, target: Path
) -> None:
    """Writes a model of `vocabulary` pieces, learnt from a random sample of `documents`."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=_sample(documents, pieces.sample_characters, seed),
            model_writer=model,
            model_type="unigram",
            vocab_size=vocabulary,
            character_coverage=pieces.character_coverage,
            byte_fallback=True,
            split_digits=True,
            normalization_rule_name="identity",
            add_dummy_prefix=False,
            remove_extra_whitespaces=False,
            user_defined_symbols=["\n"],
            max_sentencepiece_length=8,
            bos_id=BOS,
            eos_id=EOS,
            pad_id=-1,
            minloglevel=2,
        )
    except RuntimeError as e:  # too few or too many pieces for this text
        reason = str(e).rpartition(") ] ")[2] or str(e)
        raise UsageError(
            f"a vocabulary of {vocabulary} pieces cannot be learnt: {reason}",
            "change arch.n_vocab, or give more text",
        ) from None
    target.write_bytes(model.getvalue())


def _sample(documents: Sequence[str], characters: int, seed: int) -> Iterator[str]:
    taken = 0
    for index in np.random.default_rng(seed).permutation(len(documents)):
        for line in documents[index].split("\n"):
            yield line
            taken += len(line)
        if taken >= characters:
            return


def encode(model: Path, documents: Iterable[str]) -> np.ndarray:
    """All documents as one array of uint16 ids, each between <s> and </s>."""
    processor = sentencepiece.SentencePieceProcessor(model_file=str(model))
    rows = processor.Encode(list(documents), add_bos=True, add_eos=True, num_threads=-1)
    return np.concatenate([np.empty(0, np.uint16), *(np.asarray(row, np.uint16) for row in rows)])
