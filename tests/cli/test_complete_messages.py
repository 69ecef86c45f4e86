"""`gentool complete` with --chat: each prompt is a message; and with --var."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli.shell import within
from folders import copied

from gentool.config import lookup

CHATML = ("complete", "--chat", "--chat-template", "chatml", "--seed", "3", "--max-tokens", "6")

pytestmark = pytest.mark.usefixtures("models_stay_open")


def test_a_message_is_answered_as_its_ids_are_continued(capfd, opened):
    done = within(capfd, *CHATML, "--system", "短", "--json", "今天天气")
    record = json.loads(done.out)
    model = opened(lookup.load("tiny-zh", {}), None, None, None)
    messages = [{"role": "system", "content": "短"}, {"role": "user", "content": "今天天气"}]
    (same,) = model.complete(
        model.chat_ids(messages, template="chatml"), seed=3, max_tokens=6, stop="<|im_end|>"
    )
    assert record["prompt"] == "今天天气"
    assert tuple(record["samples"][0]["ids"]) == same.ids


def test_every_line_is_a_message(capfd):
    lines = within(capfd, *CHATML, "--lines", stdin="今天天气\n你好\n".encode())
    assert lines.code == 0 and lines.out.count("\n") == 2
    second = within(capfd, *CHATML, "--row", "1", "你好")
    assert lines.out.splitlines()[1].replace("\\n", "\n") == second.out.removesuffix("\n")


@pytest.mark.parametrize(
    ("flags", "error", "hint"),
    [
        (("--system", "x"), "--system is for messages", "add --chat"),
        (("--chat-template", "chatml"), "--chat-template is for messages", "add --chat"),
        (("--chat",), "tiny-zh has no chat template", "--chat-template FILE|NAME"),
        (("--chat", "--chat-template", "chatmal"), "chatmal does not exist", "mean chatml?"),
        (("--chat", "--chat-template", "chatml", "--system", ""), "--system is empty", "leave"),
    ],
)
def test_mistakes(capfd, flags, error, hint):
    done = within(capfd, "complete", "你好", *flags)
    first, second = done.err.splitlines()
    assert error in first and hint in second
    assert done.code in (2, 3)


def test_an_unusual_template_that_refuses(capfd, tmp_path):
    path = tmp_path / "no.jinja"
    path.write_text("{{ raise_exception('不行') }}", "utf-8")
    done = within(capfd, "complete", "--chat", "--chat-template", str(path), "你好")
    assert done.code == 2 and "refuses these messages: 不行" in done.err


def greedy(capfd, *arguments, **more):
    return within(capfd, "complete", *arguments, "--temperature", "0", "--max-tokens", "6", **more)


def test_variables_fill_prompts(capfd, tmp_path):
    file = tmp_path / "prompt.txt"
    file.write_text("{谁}在{place}，{place}很大，{other}\n", "utf-8")
    filled = greedy(capfd, "小明在{x}，{x}很大，{other}")
    variables = ("--var", "谁=小明", "--var", "place={x}")  # braces of a text stay
    assert greedy(capfd, "-f", str(file), *variables) == filled
    assert greedy(capfd, "--var", "a=b=c", "1{a}") == greedy(capfd, "1b=c")
    assert greedy(capfd, "--escape", r"\n{a}", "--var", r"a=\n") == greedy(capfd, "\n\\n")
    lines = greedy(capfd, "--lines", "--var", "a=好", stdin="{a}人\n坏人\n".encode())
    assert lines == greedy(capfd, "--lines", stdin="好人\n坏人\n".encode())


@pytest.mark.parametrize(
    ("flags", "error"),
    [
        (("--var", "nam=x"), "--var nam: no prompt has {nam}"),
        (("--var", "name=x", "--var", "name=y"), "--var name is given twice"),
        (("--var", "name"), "--var is 'name'"),
        (("--var", "1=x"), "--var is '1=x'"),
    ],
)
def test_wrong_variables(capfd, flags, error):
    done = within(capfd, "complete", "你好{name}", *flags)
    assert done.code == 2 and error in done.err


def test_sampling_of_generation_config_is_said_with_v(capfd, tmp_path):
    folder: Path = copied("hf_qwen3", tmp_path / "qwen3")
    said = {"eos_token_id": 339, "do_sample": True, "temperature": 0.7, "top_k": 20, "top_p": 0.8}
    (folder / "generation_config.json").write_text(json.dumps(said))
    done = within(capfd, "complete", "-m", str(folder), "你好", "-v", "--json", "--top-k", "5")
    assert "generation_config.json of qwen3: temperature 0.7, top_k 20, top_p 0.8" in done.err
    law = json.loads(done.out)["law"]
    assert (law["temperature"], law["top_k"], law["top_p"]) == (0.7, 5, 0.8)
