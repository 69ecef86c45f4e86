"""`gentool chat`: one answer to a message, or a conversation on a terminal."""

from __future__ import annotations

import secrets
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gentool.cli.chat.answering import Answering
from gentool.cli.chat.transcript import Transcript
from gentool.cli.complete import OutputFlags
from gentool.cli.console import Console
from gentool.cli.flags import (
    ChatFlags,
    DrawFlags,
    GrammarFlags,
    ModelFlags,
    PromptFlags,
    SearchFlags,
    sampling_params,
    search,
)
from gentool.cli.inputs import filled, read, whole
from gentool.cli.options import Command, argument, flag, group, sampling_group, switch
from gentool.errors import UsageError

if TYPE_CHECKING:
    from gentool.config.model import ModelConfig
    from gentool.generation.request import Request

ANSWER_TOKENS = 512

EXAMPLES = r"""
gentool chat -m Qwen2.5-0.5B-Instruct/
gentool chat "今天天气怎么样？" --system "用一句话回答。"
cat question.txt | gentool chat --temperature 0 --json
gentool chat --transcript talk.jsonl "那明天呢？"
"""

ONLY_LOOKUP = (
    "stratified beams n_best beam_rule length_penalty early_stopping beam_groups"
    " diversity_penalty penalty_alpha alternatives choice"
).split()


@dataclass(frozen=True)
class ConversationFlags:
    """Where a conversation is kept, and what of an answer is shown."""

    transcript: str | None = flag(
        "--transcript", "FILE", "continue the last conversation of a JSONL file", "off"
    )
    show_thinking: bool | None = switch(
        "--show-thinking", "print the <think> part of an answer, dim on a terminal", "off"
    )


@dataclass(frozen=True)
class Flags:
    """Values of the command line and the environment; None where an option was not given."""

    message: str | None = argument("message", "[MESSAGE|-]", required=False)
    source: PromptFlags = group("Message", PromptFlags, without=("lines", "row"))
    chat: ChatFlags = group("Message", ChatFlags)
    conversation: ConversationFlags = group("Message", ConversationFlags)
    model: ModelFlags = group("Model", ModelFlags)
    draw: DrawFlags = group("Sampling", DrawFlags, without=("n",))
    sampling: Mapping[str, Any] = sampling_group("Sampling", "distribution", "logits")
    search: SearchFlags = group("Search", SearchFlags, without=ONLY_LOOKUP)
    grammar: GrammarFlags = group("Search", GrammarFlags)
    length: Mapping[str, Any] = sampling_group(
        "Length",
        "length",
        changed={"max_tokens": ("end an answer after N tokens", str(ANSWER_TOKENS))},
        without=("include_stop",),  # what ends a turn is no part of a message
    )
    output: OutputFlags = group("Output", OutputFlags, without=("echo", "logprobs", "null"))


def chat(console: Console, flags: Flags) -> None:
    """Answers a message through the model's chat template; on a terminal, a conversation.

    A MESSAGE, a file or standard input gets one answer. Without them, on a terminal, messages are
    typed: Enter sends one; Alt-Enter, a backslash before Enter, or three quotes around a message
    give it more lines. Ctrl-C stops an answer, Ctrl-D leaves, /help lists the commands.

    The <think> part of an answer is hidden unless --show-thinking, and no part of the history.
    Where the context is full, the oldest turns are left out. A transcript has a conversation a
    line: {"messages": [{"role": "user", "content": "…"}, …]}.
    """
    config = flags.model.config()
    request = requested(flags, config)
    flags.grammar.check()
    if flags.output.output not in (None, "-"):
        console.redirect(flags.output.output)
    message = _message(console, flags)
    path = flags.conversation.transcript
    transcript = Transcript(Path(path)) if path is not None else None
    if message is None:
        from gentool.cli.chat import repl

        repl.check()
    from gentool.generation.chat import template_of

    template_of(config, flags.chat.chat_template)  # an error costs no opening of the model
    model = flags.model.open(console, config)
    console.overwrite()
    console.detail(f"{model.describe()}, seed {request.seed}")
    from gentool.generation.conversation import Conversation

    conversation = Conversation(model, request, flags.chat.chat_template)
    if transcript:
        conversation.reset(transcript.messages)
    if flags.chat.system is not None:
        conversation.set_system(flags.chat.system)
    answering = Answering(
        console,
        conversation,
        transcript,
        json=bool(flags.output.json),
        stream=flags.output.stream,
        show_thinking=bool(flags.conversation.show_thinking),
    )
    if message is None:
        repl.run(answering)
        return
    answering.show(conversation.ask(message))
    answering.check(flags.grammar)


def _message(console: Console, flags: Flags) -> str | None:
    """The message to answer, None for a conversation on a terminal."""
    given = flags.message is not None or flags.source.file is not None
    if not given and console.on_terminal and sys.stdin and sys.stdin.isatty():
        return None
    source = read(console, flags.message, flags.source.file, "message", "chat")
    text = whole(source, "message", escape=bool(flags.source.escape))
    return filled(flags.source.var, [text])[0]


def requested(flags: Flags, config: ModelConfig) -> Request:
    """The request that the flags make, without a prompt."""
    from gentool.generation.request import Request

    given = {"max_tokens": ANSWER_TOKENS, **flags.sampling, **flags.length}
    if flags.chat.system == "":
        raise UsageError("--system is empty", "leave it out, or give text")
    return Request(
        prompts=(),
        rows=(),
        n=1,
        sampling=sampling_params(config, given),
        seed=secrets.randbits(32) if flags.draw.seed is None else flags.draw.seed,
        batch_invariant=bool(flags.model.batch_invariant),
        search=search(flags.search, None, flags.grammar, flags.sampling),
        regex=flags.grammar.regex,
        json_schema=flags.grammar.json_schema,
    )


command = Command(chat, Flags, EXAMPLES)
