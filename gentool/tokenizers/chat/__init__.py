"""Chat templates: find the one of a model's folder, and render messages with it as transformers'
`apply_chat_template` does."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gentool.config.model import ModelConfig
from gentool.errors import GentoolError, ModelError, UsageError, nearest
from gentool.tokenizers.added_tokens import CONFIG, SPECIAL_KEYS, SPECIAL_MAP, read_json
from gentool.tokenizers.chat.input_text import InputText, plain
from gentool.tokenizers.chat.named import NAMED

JINJA_FILE = "chat_template.jinja"
JSON_FILE = "chat_template.json"  # of processors
MORE_FOLDER = "additional_chat_templates"  # one NAME.jinja each
KEY = "chat_template"
DEFAULT, TOOL_USE = "default", "tool_use"
ROLES = ("system", "user", "assistant", "tool")
MAX_CHARACTERS = 1 << 17  # of a template; published ones have up to 2^15

Message = Mapping[str, Any]


class ChatTemplate(NamedTuple):
    """A template's text, and the file or the name that it came from."""

    text: str
    source: str


def folder_of(model: ModelConfig) -> Path:
    """Where a model's own chat templates lie: beside its tokenizer."""
    return (model.folder / model.tokenizer.model).parent if model.tokenizer else model.folder


def files(folder: Path) -> list[Path]:
    """The files of a folder that hold nothing but chat templates."""
    more = sorted((folder / MORE_FOLDER).glob("*.jinja"))
    return [path for path in (folder / JINJA_FILE, *more, folder / JSON_FILE) if path.is_file()]


def folder_templates(folder: Path) -> dict[str, ChatTemplate]:
    """The templates of a folder by their names; a single one is the default. As in transformers
    chat_template.jinja comes first, then tokenizer_config.json; last chat_template.json."""
    paths = [path for path in files(folder) if path.suffix == ".jinja"]
    read = {DEFAULT if p.name == JINJA_FILE else p.stem: _template(p) for p in paths}
    if read:
        return read
    for path in (folder / CONFIG, folder / JSON_FILE):
        value = read_json(path).get(KEY)
        if value is not None:
            named = _by_name(path, value)
            return {name: _checked(text, str(path)) for name, text in named.items()}
    return {}


def _by_name(path: Path, value: object) -> dict[str, str]:
    """The texts of a `chat_template` key: a string, or a list of {name, template}."""
    entries = [{"name": DEFAULT, "template": value}] if isinstance(value, str) else value
    named = {}
    for entry in entries if isinstance(entries, list) else [None]:
        name, text = (
            entry.get("name") if isinstance(entry, dict) else None,
            entry.get("template") if isinstance(entry, dict) else None,
        )
        if not isinstance(name, str) or not isinstance(text, str):
            raise ModelError(
                f"{path}: {KEY} is neither a text nor a list of {{name, template}}",
                "restore the file from its source, or give --chat-template FILE|NAME",
            )
        named[name] = text
    return named


def chosen(templates: Mapping[str, ChatTemplate], tools: bool) -> ChatTemplate | None:
    """The template of a folder that renders a conversation, with or without tools."""
    name = TOOL_USE if tools and TOOL_USE in templates else DEFAULT
    return templates.get(name)


def template_named(value: str, folder: Path) -> ChatTemplate:
    """The template that `--chat-template` and the key `chat_template` name: a known name, else a
    file, whose path starts at `folder`."""
    path = folder / value
    if value in NAMED:
        return ChatTemplate(NAMED[value], value)
    if not os.path.isfile(path):  # no error for a name that is too long
        hint = nearest(value, NAMED, "give a file, or one of the names")
        raise UsageError(f"chat template {value} does not exist", hint)
    if path.suffix == ".json":
        template = _by_name(path, read_json(path).get(KEY)).get(DEFAULT)
        if template is None:
            raise UsageError(f"{path} has no default chat template", "give a .jinja file")
        return _checked(template, str(path))
    return _template(path)


def _template(path: Path) -> ChatTemplate:
    """The template that is all of a file, byte for byte."""
    try:
        if path.stat().st_size > 4 * MAX_CHARACTERS:
            return _checked(" " * (MAX_CHARACTERS + 1), str(path))
        return _checked(path.read_bytes().decode("utf-8"), str(path))
    except UnicodeDecodeError as e:
        raise ModelError(f"{path} is not UTF-8 (byte {e.start})", "save it as UTF-8") from None
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror}", "restore the file") from None


def _checked(text: str, source: str) -> ChatTemplate:
    if len(text) > MAX_CHARACTERS:
        raise ModelError(
            f"{source}: a chat template of more than {MAX_CHARACTERS} characters",
            "give another with --chat-template FILE|NAME",
        )
    return ChatTemplate(text, source)


def special_texts(folder: Path) -> dict[str, str]:
    """The special tokens that the files of a folder name, as a template knows them: bos_token, …"""
    config = read_json(folder / CONFIG)
    texts = _special(config)
    more = _special(read_json(folder / SPECIAL_MAP))
    # transformers reads the map only beside files that do not declare their added tokens
    return texts | more if "added_tokens_decoder" not in config else more | texts


def _special(data: Mapping[str, Any]) -> dict[str, str]:
    values = {key: data.get(key) for key in SPECIAL_KEYS}
    texts = {k: v.get("content") if isinstance(v, dict) else v for k, v in values.items()}
    return {key: text for key, text in texts.items() if isinstance(text, str)}


def render(
    template: str,
    messages: Sequence[Message],
    *,
    add_generation_prompt: bool,
    special: Mapping[str, str],
    tools: Sequence[Mapping[str, Any]] | None = None,
    continue_final_message: bool = False,
    **extra: object,
) -> str:
    """The text that a template makes of messages. `special` are the special tokens by name
    (bos_token, …), `extra` more variables of the template (enable_thinking, date_string, …).

    Raises:
        UsageError: there are no messages, or the template refuses them or fails on them.
        ModelError: the template is wrong, or reaches a limit.
        GentoolError: jinja2 is not installed.
    """
    conversation = {
        "messages": messages,
        "tools": tools,
        "documents": None,
        "add_generation_prompt": add_generation_prompt,
        **extra,
    }
    return plain(marked(template, conversation, special, continue_final_message))


def marked(
    template: str,
    conversation: Mapping[str, Any],
    special: Mapping[str, str],
    continue_final_message: bool = False,
) -> InputText:
    """What `render` gives, with a mark at each character that comes from `conversation`."""
    try:
        from gentool.tokenizers.chat.sandbox import run
    except ImportError:
        raise GentoolError(
            "chat templates need jinja2, which is not installed", "pip install 'gentool[chat]'"
        ) from None
    messages = conversation["messages"]
    if not messages:
        raise UsageError("there are no messages", "give one at least")
    if continue_final_message and conversation["add_generation_prompt"]:
        raise UsageError(
            "add_generation_prompt and continue_final_message are both set",
            "a message is continued, or a new one begun",
        )
    text = run(template, conversation, special)
    return _continued(text, messages[-1]) if continue_final_message else text


def _continued(text: InputText, message: Message) -> InputText:
    """A rendered text up to the end of its last message's own text."""
    content = message.get("content")
    if isinstance(content, list | tuple):
        texts = [part["text"] for part in content if "text" in part]
        content = texts[-1] if texts else None
    stripped = content.strip() if isinstance(content, str) else None
    at = -1 if stripped is None else text.rfind(stripped)
    if content is None or stripped is None or at < 0:
        raise UsageError(
            "the template does not keep the text of the last message, which is to be continued",
            "leave continue_final_message out, or give another template",
        )
    kept = content.lstrip()  # with the white space at its end, unless the template took it away
    return text[: at + len(kept if text.startswith(kept, at) else stripped)]
