"""Messages to token ids: the model's chat template, and what ends an answer."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

from gentool.config.model import ModelConfig
from gentool.errors import ModelError
from gentool.generation.request import Request
from gentool.tokenizers import Tokenizer, chat
from gentool.tokenizers.chat import ChatTemplate, Message
from gentool.tokenizers.chat.input_text import InputText
from gentool.tokenizers.chat.named import ENDS_OF_TURN, NAMED

LOG = logging.getLogger(__name__)


class AnswerEnds(NamedTuple):
    """What ends an answer: end tokens, and stop texts where the tokenizer has no such token."""

    ids: frozenset[int]
    stops: tuple[str, ...]

    def of(self, request: Request) -> Request:
        """The request, whose texts end so, unless it says by which tokens."""
        stops = tuple(dict.fromkeys((*request.sampling.stop, *self.stops)))
        return replace(
            request,
            sampling=replace(request.sampling, stop=stops),
            eos=sorted(self.ids) if request.eos == "default" else request.eos,
        )


def template_of(config: ModelConfig, given: str | None, tools: bool = False) -> ChatTemplate:
    """The chat template `given` by name or file, else that of the model's YAML, else that of its
    folder, the one beside its tokenizer."""
    if given is not None:
        return chat.template_named(given, Path())
    if config.chat_template is not None:
        return chat.template_named(config.chat_template, config.folder)
    template = chat.chosen(chat.folder_templates(chat.folder_of(config)), tools)
    if template is None:
        raise ModelError(
            f"{config.name} has no chat template",
            f"give one: --chat-template FILE|NAME, with NAME one of {', '.join(NAMED)}",
        )
    return template


def with_template(config: ModelConfig, given: str) -> ModelConfig:
    """The configuration with the chat template `given` by name or file: so it is part of the
    model's checksum, and goes to other processes with it."""
    template_of(config, given)  # raises UsageError where there is none
    named = given if given in NAMED else str(Path(given).resolve())
    return config.model_copy(update={"chat_template": named})


def rendered(
    config: ModelConfig,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    messages: Sequence[Message],
    conversation: Mapping[str, object],
    continue_final_message: bool,
) -> InputText:
    """Rendered messages, with marks at what is input; `conversation` has the template's other
    variables."""
    for number, message in enumerate(messages):
        if (role := message.get("role")) not in chat.ROLES:
            LOG.warning(
                "message %d has the role %r; chat templates know %s",
                number,
                role,
                ", ".join(chat.ROLES),
            )
    variables = {"documents": None, **conversation, "messages": messages}
    special = _special(config, tokenizer)
    return chat.marked(template.text, variables, special, continue_final_message)


def answer_ends(
    config: ModelConfig, tokenizer: Tokenizer, template: ChatTemplate, own: frozenset[int]
) -> AnswerEnds:
    """What ends an answer: the model's own end tokens, the eos_token of its folder, and the ends of
    a turn that the template writes."""
    texts = [text for text in ENDS_OF_TURN if text in template.text]
    eos = chat.special_texts(chat.folder_of(config)).get("eos_token")
    known = [tokenizer.special.get(text) for text in (*texts, eos or "")]
    stops = tuple(text for text in texts if text not in tokenizer.special)
    drawn = (token for token in known if token is not None and token < config.arch.n_vocab)
    return AnswerEnds(own.union(drawn), stops)


def _special(config: ModelConfig, tokenizer: Tokenizer) -> dict[str, str]:
    """The special tokens by name: those that the folder's files name, else the tokenizer's own."""
    texts = {token: text for text, token in tokenizer.special.items()}
    own = {"bos_token": tokenizer.start[:1], "eos_token": tokenizer.end[:1]}
    named = {name: texts[ids[0]] for name, ids in own.items() if ids and ids[0] in texts}
    return named | chat.special_texts(chat.folder_of(config))
