"""The tokenizer of CPM-LM: jieba's words, each a word of its own for SentencePiece, with blanks and
newlines written as block characters. Both releases of its vocabulary give the same ids.
"""

from __future__ import annotations

import functools
import logging
import os
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import sentencepiece

from gentool import cache
from gentool.config.model import TokenizerConfig
from gentool.errors import ModelError
from gentool.tokenizers import joined
from gentool.tokenizers.added_tokens import AddedToken, Splitter
from gentool.tokenizers.sentencepiece import read, surface

SPACE, NEWLINE = "\u2582", "\u2583"
OLD_NEWLINE = "<cls>"  # what the older release calls the piece of NEWLINE
ENDS = ("<eod>", "<eot>")  # CPM has the first, PanGu-alpha both


class CPM:
    """Ids of the words of a text, without a token for its start or end."""

    def __init__(
        self, processor: sentencepiece.SentencePieceProcessor, newline: int, end: tuple[int, ...]
    ) -> None:
        self._processor = processor
        self.n_vocab: int = processor.GetPieceSize()
        self.start: tuple[int, ...] = ()
        self.end = end
        self.special: Mapping[str, int] = {processor.IdToPiece(token): token for token in end}
        self._newline = newline

    def encode(self, text: str) -> list[int]:
        if not text:
            return []
        marked = (w.replace(" ", SPACE).replace("\n", NEWLINE) for w in segmenter()(text))
        # by piece and not by id: to the older release NEWLINE is an unknown character
        pieces = self._processor.EncodeAsPieces(" ".join(marked))
        return [self._newline if p == NEWLINE else self._processor.PieceToId(p) for p in pieces]

    def encoder(self, names: Mapping[str, str]) -> Callable[[str], list[int]]:
        tokens = {
            names[text]: AddedToken(token, names[text]) for text, token in self.special.items()
        }
        splitter = Splitter(tokens)

        def encode(text: str) -> list[int]:
            ids: list[int] = []
            for part in splitter.split(text):
                ids += [part] if isinstance(part, int) else self.encode(part)
            return ids

        return encode

    def decode(self, ids: Sequence[int]) -> str:
        return joined(self, ids).decode("utf-8", "replace")

    def piece(self, token: int, previous: int | None) -> bytes:
        if token == self._newline:
            return b"\n"
        text = surface(self._processor, token)
        # true blanks are SPACE; those of SentencePiece only part words
        text = text.replace(b" ", b"").replace(SPACE.encode(), b" ")
        return text.replace(NEWLINE.encode(), b"\n")


def load(config: TokenizerConfig, folder: Path) -> CPM:
    path = folder / config.model
    processor = read(path)
    ids = {piece: processor.PieceToId(piece) for piece in (NEWLINE, OLD_NEWLINE, *ENDS)}
    ids = {piece: token for piece, token in ids.items() if not processor.IsUnknown(token)}
    newline = ids.get(NEWLINE, ids.get(OLD_NEWLINE))
    if newline is None:
        raise ModelError(
            f"{path} has no piece for newlines, so it is not CPM's",
            "name CPM's chinese_vocab.model, or use kind: sentencepiece",
        )
    return CPM(processor, newline, tuple(ids[piece] for piece in ENDS if piece in ids))


@functools.cache
def segmenter() -> Callable[[str], Iterator[str]]:
    """jieba with its own dictionary, imported only here: a program's changes to `jieba.dt` do not
    change ids."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of pkg_resources, and of old escapes in its source
        import jieba
    tokenizer = jieba.Tokenizer()
    # where there is no folder, a place no file can be in: the dictionary is built anew
    tokenizer.tmp_dir = str(cache.folder() or os.devnull)
    tokenizer.cache_file = f"jieba-{jieba.__version__}.cache"
    level = jieba.default_logger.level
    jieba.setLogLevel(logging.CRITICAL + 1)
    try:
        tokenizer.initialize()
    finally:
        jieba.setLogLevel(level)
    cut: Callable[[str], Iterator[str]] = tokenizer.cut
    return cut
