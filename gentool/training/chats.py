"""Conversations as texts to train on, by the model's chat template: only answers are learnt."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from gentool.config.model import ModelConfig
from gentool.generation import chat
from gentool.tokenizers import Tokenizer
from gentool.tokenizers.chat.encoding import marked_encoder
from gentool.training.packing import Text
from gentool.training.texts import ASSISTANT, Conversation

Messages = Sequence[dict[str, Any]]
Encode = Callable[[Messages, bool], list[int]]
"""encode(messages, add_generation_prompt) -> ids"""


def encoder(config: ModelConfig, tokenizer: Tokenizer) -> Callable[[Conversation], list[Text]]:
    """A function that makes texts of a conversation by the model's chat template. Raises ModelError
    where it has none."""
    template, encode_marked = chat.template_of(config, None), marked_encoder(tokenizer)

    def texts(conversation: Conversation) -> list[Text]:
        def encode(messages: Messages, prompt: bool) -> list[int]:
            variables = {"add_generation_prompt": prompt, "tools": conversation.tools}
            text = chat.rendered(config, tokenizer, template, messages, variables, False)
            return encode_marked(text)

        return list(answers(encode, conversation.messages))

    return texts


def answers(encode: Encode, messages: Messages) -> Iterator[Text]:
    """A conversation as one text in which the assistant's messages are learnt, each with what ends
    it. Some templates write earlier messages otherwise once later ones follow, such as without
    their thinking: then every answer is a text of its own, with the messages before it."""
    turns = [i for i, message in enumerate(messages) if message["role"] == ASSISTANT]
    ends = [encode(messages[: turn + 1], False) for turn in turns]
    starts = [
        len(os.path.commonprefix([encode(messages[:turn], True), end]))
        for turn, end in zip(turns, ends, strict=True)
    ]
    whole = ends[-1]
    if all(whole[: len(end)] == end for end in ends):
        spans = [range(start, len(end)) for start, end in zip(starts, ends, strict=True)]
        yield Text(whole, [any(i in span for span in spans) for i in range(len(whole))])
        return
    for start, end in zip(starts, ends, strict=True):
        yield Text(end, [i >= start for i in range(len(end))])
