"""`gentool chat` as a user runs it: one answer in a pipe, conversations on pseudo-terminals."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import signal
import stat
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cli.shell import CLEAN, COMMAND, within

from gentool.cli.chat import commands, repl
from gentool.cli.signals import Signals
from gentool.errors import UsageError

CHATML = ("chat", "--chat-template", "chatml", "--seed", "3")
THINKING = ("--regex", "<think>a{3}</think>b{4}")
SECONDS = 60  # a busy machine is not a failure

pytestmark = pytest.mark.usefixtures("models_stay_open")


def test_one_answer_of_an_argument_a_pipe_and_a_file(capfd, tmp_path):
    file = tmp_path / "message.txt"
    file.write_text("今天天气\n", "utf-8")
    options = *CHATML, "--max-tokens", "8"
    typed = within(capfd, *options, "今天天气")
    assert typed.code == 0 and typed.out.endswith("\n") and not typed.err
    assert within(capfd, *options, stdin="今天天气\n".encode()) == typed
    assert within(capfd, *options, "-", stdin="今天天气\n".encode()) == typed
    assert within(capfd, *options, "-f", str(file)) == typed
    assert within(capfd, *options, "--system", "短", "今天天气") != typed


def test_json_is_as_that_of_complete(capfd, opened):
    done = within(capfd, *CHATML, "--max-tokens", "8", "--system", "短", "--json", "今天天气")
    record = json.loads(done.out)
    messages = [{"role": "system", "content": "短"}, {"role": "user", "content": "今天天气"}]
    assert record["messages"] == messages
    assert (record["model"], record["seed"], record["row"]) == ("tiny-zh", 3, 0)
    (sample,) = record["samples"]
    from gentool.config import lookup

    model = opened(lookup.load("tiny-zh", {}), None, None, None)
    ids = model.chat_ids(messages, template="chatml")
    (same,) = model.complete(ids, seed=3, **record["law"])
    assert (sample["text"], tuple(sample["ids"])) == (same.text, same.ids)
    assert sample["logprob"] == pytest.approx(same.logprob, abs=1e-4)
    assert sample["finish"] == same.finish


def test_an_answer_has_512_tokens_unless_the_model_or_a_flag_says_otherwise(capfd):
    options = *CHATML, "--json", "--stop", "的", "今天"
    own = "--set", "sampling.max_tokens=7"
    for more, tokens in (((), 512), (own, 7), ((*own, "--max-tokens", "5"), 5)):
        record = json.loads(within(capfd, *options, *more).out)
        assert record["law"]["max_tokens"] == tokens


def test_thinking_is_hidden_unless_it_is_asked_for(capfd, tmp_path):
    path = tmp_path / "talk.jsonl"
    hidden = within(capfd, *CHATML, *THINKING, "--transcript", str(path), "1+1=")
    assert hidden.out == "bbbb\n"
    shown = within(capfd, *CHATML, *THINKING, "--show-thinking", "1+1=")
    assert shown.out == "<think>\naaa\n</think>\n\nbbbb\n"
    record = json.loads(within(capfd, *CHATML, *THINKING, "--json", "1+1=").out)
    assert (record["samples"][0]["text"], record["samples"][0]["thinking"]) == ("bbbb", "aaa")
    assert json.loads(path.read_text("utf-8"))["messages"][-1]["content"] == "bbbb"
    cut = *CHATML, "--regex", "<think>a{40}</think>b", "--max-tokens", "12"
    done = within(capfd, *cut, "--show-thinking", "1+1=")
    assert done.out.startswith("<think>\naa") and done.out.endswith("a\n</think>\n")
    assert done.code == 1 and "cut before it matched --regex" in done.err
    assert "the thinking was cut at --max-tokens 12: there is no answer" in done.err


def test_a_transcript_is_continued(capfd, tmp_path):
    path = tmp_path / "talk.jsonl"
    earlier = {"messages": [{"role": "user", "content": "旧"}]}
    path.write_text(json.dumps(earlier, ensure_ascii=False) + "\n", "utf-8")
    path.chmod(0o640)
    talk = *CHATML, "--max-tokens", "6", "--transcript", str(path)
    first = within(capfd, *talk, "今天天气")
    (line,) = path.read_text("utf-8").splitlines()
    messages = json.loads(line)["messages"]
    assert [m["content"] for m in messages] == ["旧", "今天天气", first.out[:-1]]
    second = within(capfd, *talk, "明天呢", "--system", "短")
    messages = json.loads(path.read_text("utf-8"))["messages"]
    assert [message["role"] for message in messages] == [
        "system",
        "user",
        *["user", "assistant"] * 2,
    ]
    assert messages[-1]["content"] == second.out[:-1]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 of .* is no JSON"),
        ("[1]", "line 2 of .* has no list of messages"),
        ('{"messages": []}', "line 2 of .* has no list of messages"),
        ('{"messages": [{"role": "user"}]}', "message 0 of line 2 of .* has no role and text"),
        ('{"messages": [{"role": "bot", "content": ""}]}', "message 0 of line 2"),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', "message 0 of line 2"),
    ],
)
def test_a_wrong_transcript_is_an_error_and_stays(capfd, tmp_path, line, message):
    path = tmp_path / "talk.jsonl"
    text = '{"messages": []}\n' + line + "\n"
    path.write_text(text, "utf-8")
    done = within(capfd, *CHATML, "--transcript", str(path), "你好")
    assert done.code == 2 and re.search(message, done.err)
    assert path.read_text("utf-8") == text


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("chat", "你好"), 3, "tiny-zh has no chat template"),
        ((*CHATML, ""), 2, "the message is empty"),
        ((*CHATML, "你好", "--system", ""), 2, "--system is empty"),
        ((*CHATML, "你好", "--transcript", "/dev/null"), 2, "/dev/null is no file"),
        ((*CHATML, "你好", "--transcript", "/dev/null/none/a"), 2, "a, in no folder"),
        ((*CHATML, "长" * 600), 2, "the context of tiny-zh is 512"),
        ((*CHATML, "你好", "-f", "x"), 2, "both a message"),
    ],
)
def test_errors(capfd, arguments, code, message):
    done = within(capfd, *arguments)
    assert (done.code, done.out) == (code, "")
    assert message in done.err and "hint: " in done.err


def test_a_full_context_loses_its_oldest_turns_and_says_so(capfd, tmp_path):
    path = tmp_path / "talk.jsonl"
    turn = [{"role": "user", "content": "很长" * 40}, {"role": "assistant", "content": "好"}]
    path.write_text(json.dumps({"messages": turn * 5}) + "\n", "utf-8")
    done = within(capfd, *CHATML, "--max-tokens", "400", "--transcript", str(path), "你好")
    assert done.code == 0
    assert re.search("context of 512 tokens is full: the [2-4] oldest turns are left out", done.err)
    assert len(json.loads(path.read_text("utf-8"))["messages"]) == 12


def test_what_is_typed_becomes_a_message():
    assert repl.message_of("你好\n\n") == "你好"
    assert repl.message_of('"""\n一\n\n二\n"""') == "一\n\n二"
    assert repl.message_of('"""') == '"""'
    assert repl.is_open('"""一\n二') and not repl.is_open('"""一\n二"""') and not repl.is_open("一")
    assert commands.NAME.match("/help me") and not commands.NAME.match("/usr/bin 是什么")


def test_a_conversation_without_prompt_toolkit_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "prompt_toolkit", None)
    with pytest.raises(UsageError, match="needs prompt_toolkit") as error:
        repl.check()
    assert "gentool[chat]" in error.value.hint


def test_a_second_ctrl_c_interrupts_an_answer():
    signals = Signals()
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt), signals.stoppable() as stopped:
        assert not stopped()
        signal.raise_signal(signal.SIGINT)
        assert stopped()
        signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before and not signals.received


class Terminal:
    """A process on a pseudo-terminal of its own, which Ctrl-C and a new size reach as signals."""

    def __init__(self, columns: int, *arguments: str, **environment: str) -> None:
        self.master, slave = pty.openpty()
        self.resize(columns)

        def control() -> None:
            fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            env=CLEAN | environment,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            start_new_session=True,
            preexec_fn=control,
        )
        os.close(slave)
        self.text = ""

    def resize(self, columns: int) -> None:
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))

    def type(self, keys: str) -> None:
        os.write(self.master, keys.encode())

    def until(self, pattern: str) -> str:
        """Reads until a pattern stands in what was written since the last call; returns that,
        without escape sequences."""
        data, end = b"", time.monotonic() + SECONDS
        while True:
            plain = re.sub(
                r"\x1b(\[[?\d;]*[A-Za-z]|\][^\a]*\a|.)", "", data.decode(errors="ignore")
            )
            if re.search(pattern, plain):
                return plain
            ready, _, _ = select.select([self.master], [], [], max(0, end - time.monotonic()))
            assert ready, f"{pattern} is not in {plain!r}"
            try:
                new = os.read(self.master, 65536)
            except OSError:  # the process is over
                new = b""
            assert new or re.search(pattern, plain), f"{pattern} is not in {plain!r}"
            data += new
            if b"\x1b[6n" in new:  # prompt_toolkit asks where the cursor is
                self.type("\x1b[1;1R")

    def send(self, line: str, pattern: str) -> str:
        """Types a line, and reads until a pattern and the next prompt; keys typed before that would
        meet a terminal that is not at the prompt."""
        self.type(f"{line}\r")
        return self.until(pattern + r"[\s\S]*\n\r?>")

    def end(self) -> int:
        """The exit code; what is written last finds a reader."""
        end = time.monotonic() + SECONDS
        while time.monotonic() < end and select.select([self.master], [], [], 1)[0]:
            try:
                os.read(self.master, 65536)
            except OSError:  # the process is over
                break
        return self.process.wait(SECONDS)


@contextmanager
def terminal(tmp_path: Path, columns: int, *arguments: str) -> Iterator[Terminal]:
    made = Terminal(columns, *CHATML, *arguments, XDG_STATE_HOME=str(tmp_path))
    try:
        yield made
    finally:
        made.process.kill()
        made.process.wait()
        os.close(made.master)


def test_a_conversation_on_a_terminal(tmp_path):
    """Commands, several lines, a transcript that is saved and loaded, history."""
    saved = tmp_path / "saved.jsonl"
    with terminal(tmp_path, 80, "--max-tokens", "9") as shown:
        assert "tiny-zh, seed 3" in shown.until(">")
        first = shown.send("今天\x1b\r天气\\\r好吗", "cut at --max-tokens 9")
        assert "> 今天\r\n  天气\r\n  好吗\r\n" in first
        again = shown.send("/retry", "cut at --max-tokens 9")
        shown.send(f"/save {saved}", "saved to")
        messages = json.loads(saved.read_text("utf-8"))["messages"]
        assert messages[0] == {"role": "user", "content": "今天\n天气\n好吗"}
        assert len(messages) == 2
        begin = messages[1]["content"].partition("\n")[0]
        assert begin in again and begin not in first
        shown.send("/nothing", "hint: .*/system")
        shown.send("/reset", "a new conversation")
        shown.send(f"/load {saved}", "2 messages of")
        shown.send("/system 短", "system: 短")
        shown.send("/seed 8", "seed 8, row 0")
        shown.send("/help", "Ctrl-D +leave")
        shown.type("abc")
        shown.until("abc")
        shown.type("\x03")
        shown.until(">")
        shown.type("\x04")
        assert shown.end() == 0
    kept = tmp_path / "gentool/chat_history"
    assert "+今天\n+天气\n+好吗\n" in kept.read_text("utf-8")
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600


def test_ctrl_c_stops_an_answer_and_not_the_program(tmp_path):
    path = tmp_path / "talk.jsonl"
    long = "--max-tokens", "400", "--min-tokens", "400", "--transcript", str(path)
    with terminal(tmp_path, 40, *long) as shown:
        shown.until(">")
        shown.type("从前有一只小猫，\r")
        shown.until(r"小猫，\r\n[^\r\n]")
        shown.type("\x03")
        shown.until(r"stopped[\s\S]*\n\r?>")
        messages = json.loads(path.read_text("utf-8"))["messages"]
        assert messages[0]["content"] == "从前有一只小猫，"
        assert len(messages) == 2 and messages[1]["content"]
        shown.send("/seed 4", "seed 4, row 0")
        shown.process.send_signal(signal.SIGTERM)
        assert shown.end() == 143


def test_a_paste_of_a_hundred_lines_in_a_narrow_terminal_that_is_resized(tmp_path):
    """It is one message, and stands on the screen once, whole. The context is too small for it."""
    pasted = "\r".join(f"第{n}行" for n in range(100))
    with terminal(tmp_path, 40) as shown:
        shown.until(">")
        shown.type(f"\x1b[200~{pasted}\x1b[201~")
        shown.until("第99行")
        shown.resize(60)
        shown.until("第99行")
        text = shown.send("", "hint: shorten")
        assert "> 第0行\r\n  第1行\r\n" in text
        assert text.count("第50行") == 1
        assert "the context of tiny-zh is 512" in text
        shown.send("你好", "> 你好\r\n[^\r\n]")
        shown.type("/exit\r")
        assert shown.end() == 0
