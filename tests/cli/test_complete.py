"""`gentool complete` from the outside: prompts in, text out, exit codes, signals."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from cli.shell import CLEAN, COMMAND, Done, Screen, gentool, seen, started, within
from hypothesis import given
from hypothesis import strategies as st

from gentool.cli.complete import command, in_order, one_sample, sample_lines
from gentool.cli.console import Console
from gentool.cli.flags import PromptFlags, sampling_params
from gentool.cli.inputs import Prompt, escaped, read_prompt
from gentool.cli.values import unescaped
from gentool.config.lookup import load
from gentool.generation.request import Chunk, Sample

WEATHER = "今天天气不错"

Run = Callable[..., Done]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], models_stay_open: None) -> Run:
    """Runs in this process."""
    return partial(within, capfd, "complete")


def told(done: Done, code: int, message: str, hint: str) -> None:
    """The run ended with this code and exactly the two lines of an error, nothing on stdout."""
    lines = done.err.splitlines()
    assert (done.code, done.out, len(lines)) == (code, "", 2), done
    assert lines[0].startswith("error: ") and message in lines[0]
    assert lines[1].startswith("hint: ") and hint in lines[1]


# Prompts


@pytest.mark.parametrize(
    ("data", "prompt"),
    [
        (b"a\n", "a"),
        (b"a\r\n", "a"),
        (b"a\r", "a\r"),
        (b"a\n\n", "a\n"),
        (b" a\r\nb ", " a\nb "),
        (b"a\rb\r\r\n", "a\rb\r"),
        (b"\xef\xbb\xbfa\n\xef\xbb\xbfb", "a\n\ufeffb"),
        (b"\xef\xbb\xbfa\r\n", "a"),
    ],
)
def test_a_file_loses_one_final_newline(tmp_path: Path, data: bytes, prompt: str) -> None:
    path = tmp_path / "prompt"
    path.write_bytes(data)
    assert read_prompt(Console(), None, PromptFlags(file=str(path))) == (0, prompt)


def test_an_argument_is_as_typed_and_has_the_row_that_is_asked_for() -> None:
    assert read_prompt(Console(), "a\n", PromptFlags()) == (0, "a\n")
    assert read_prompt(Console(), "\ufeffa", PromptFlags(row=7)) == (7, "\ufeffa")


@pytest.mark.parametrize(
    ("arguments", "stdin", "message", "hint"),
    [
        ([""], b"", "the prompt is empty", "at least one"),
        (["-"], b"", "the prompt is empty", "at least one"),
        ([], b"\n", "the prompt is empty", "at least one"),
        (
            ["-"],
            "今".encode() + b"\xff",
            "standard input is not UTF-8: byte 0xff at offset 3",
            "iconv",
        ),
        (["a\nb", "--lines", "--row", "2"], b"", "--row is 2, the prompt has 2 lines", "from 0"),
        (["a", "-f", "b"], b"", "both a prompt ('a') and a file (b)", "drop one"),
        (["-f", "gone.txt"], b"", "cannot read gone.txt: No such file", "path"),
        (["-f", ""], b"x", "cannot read : Is a directory", "path"),
        (["a", "b"], b"", "unexpected extra argument (b)", "quotes"),
        (["a", "--tpo-k", "5"], b"", "no option --tpo-k", "did you mean --top-k?"),
        (["a", "--stdin"], b"", "no option --stdin", "put -- before"),  # is no slip of --set
        (["-5 度"], b"", "no option -5", "put -- before"),
        (["a", "--top-k", "-1"], b"", "--top-k is '-1'", "give a whole number 0 to 1e+09"),
        (["a", "--top-k", "2.5"], b"", "--top-k is '2.5'", "give a whole number 0 to 1e+09"),
        (["a", "--temp", "nan"], b"", "--temperature is 'nan'", "give a number 0 to 1e+09"),
        (["a", "--top-p", "0"], b"", "--top-p is '0'", "give a number > 0 and <= 1"),
        (["a", "-n", "0"], b"", "--n is '0'", "whole number 1 to 1000000"),
        (["a", "-n", "1000000000"], b"", "--n is '1000000000'", "whole number 1 to 1000000"),
        ([r"\q", "--escape"], b"", r"--escape: the text is '\q'", r"\q is no escape"),
        (["a", "--beams", "3", "--temperature", "0.5"], b"", "--temperature is 0.5, which", "one"),
        (["a", "--alternatives", "3", "--top-p", "0.5"], b"", "--alternatives does not use", "one"),
        (["a", "--max-tokens", "0"], b"", "--max-tokens is '0'", "whole number 1 to 2^24"),
        (["a", "--seed", "x"], b"", "--seed is 'x'", "0 to 2^63-1"),
        (["a", "--seed"], b"", "--seed needs a value", "--help"),
        (["a", "--precision", "fp8"], b"", "--precision is 'fp8'", "auto, fp32, fp16, bf16"),
        (["a", "--color", "puce"], b"", "--color is 'puce'", "auto, always, never"),
        (["a", "--stop", r"a\q"], b"", r"--stop is 'a\q'", r"\q is no escape"),
        (["a", "--stop", ""], b"", "--stop is ''", "sampling.stop=[]"),
        (["a", "--set", "top"], b"", "--set is 'top'", "KEY=VALUE"),
        (["a", "--set", "arch.n_hed=3"], b"", "unknown key arch.n_hed", "n_head"),
        (["a", "--min-tokens", "99"], b"", "min_tokens 99 is more than max_tokens 64", "change"),
        (["a", "-o", "/nowhere/x"], b"", "cannot write /nowhere/x: No such file", "--output"),
    ],
)
def test_a_wrong_call_is_two_lines_and_exit_2(
    run: Run, arguments: list[str], stdin: bytes, message: str, hint: str
) -> None:
    told(run(*arguments, stdin=stdin), 2, message, hint)


def test_an_unknown_command_and_none() -> None:
    told(gentool("--seed", "1", "complete"), 2, "no option --seed", "after the name of the command")
    told(gentool("compelte"), 2, "no command compelte", "did you mean complete?")
    told(gentool(), 2, "no command", "gentool --help")
    told(gentool(WEATHER), 2, f"no command {WEATHER}", f'gentool complete "{WEATHER}"')
    told(gentool("generate"), 2, "no command generate", "commands: ")


def test_an_unknown_model_is_exit_3(run: Run) -> None:
    told(run("a", "-m", "tiny-hz"), 3, "unknown model tiny-hz", "did you mean tiny-zh?")
    told(run("a", "-m", "weather"), 3, "unknown model weather", "known models: ")


def test_a_broken_model_folder_is_exit_3(run: Run, tmp_path: Path) -> None:
    told(run("a", "-m", str(tmp_path)), 3, "has no gentool.yaml", "folder")


def test_a_run_that_fails_keeps_the_file_that_was_there(tmp_path: Path) -> None:
    output = tmp_path / "overnight.txt"
    output.write_text("a result")
    arguments = ["-o", str(output), "--set", "checkpoint=gentool.yaml"]
    told(gentool("complete", "a", *arguments), 3, "in no known format", "known")
    assert output.read_text() == "a result"


def test_a_bad_variable_is_named_and_a_flag_goes_before_it(run: Run) -> None:
    env = {"GENTOOL_TOP_K": "many"}
    told(run("a", env=env), 2, "GENTOOL_TOP_K is 'many'", "whole number")
    told(run("a", env={"GENTOOL_XLA": "so"}), 2, "GENTOOL_XLA: 'so'", "1 or 0")
    told(run("", "--top-k", "3", env=env), 2, "prompt is empty", "at least")


def test_flags_before_environment_before_yaml(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GENTOOL_TOP_K", "5")
    monkeypatch.setenv("GENTOOL_MAX_TOKENS", "9")
    monkeypatch.setenv("GENTOOL_STOP", "a b\n\\u3002")
    monkeypatch.setenv("GENTOOL_XLA", "0")
    context = command.make_context("complete", ["x", "--max-new-tokens", "7"], obj=Console())
    flags = command.read(context.params)
    assert flags.sampling == {"top_k": 5}
    assert flags.length == {"max_tokens": 7, "stop": ("a b", "。")}
    assert (flags.model.xla, flags.draw.seed) == (False, None)
    config = load("tiny-zh", {"sampling.temperature": 0.5, "sampling.top_k": 40})
    params = sampling_params(config, {**flags.sampling, **flags.length})
    assert (params.temperature, params.top_k, params.top_p, params.max_tokens) == (0.5, 5, 0.9, 7)
    assert params.stop == ("a b", "。")


def test_a_terminal_without_prompt_is_told_not_waited_for() -> None:
    screen = Screen()
    waiting = [*COMMAND, "complete"]
    done = subprocess.run(waiting, stdin=screen.slave, capture_output=True, env=CLEAN, timeout=60)
    told(Done(done.returncode, done.stdout.decode(), done.stderr.decode()), 2, "no prompt", "-f")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_waiting_for_stdin_can_be_ended(number: int) -> None:
    with started("complete", "-", stdin=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        wait_for_read(process)
        process.send_signal(number)
        assert process.wait(60) == 128 + number
        assert process.stderr.read() == b""


def wait_for_read(process: subprocess.Popen[bytes]) -> None:
    """Until the process sleeps in a read of its standard input."""
    path = Path(f"/proc/{process.pid}/syscall")
    until = time.monotonic() + 60
    while not path.read_text().startswith("0 0x0 "):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.01)


def test_an_unforeseen_error_is_two_lines_and_a_traceback_only_with_debug() -> None:
    program = (
        "import sys; from gentool import cli; cli.COMMANDS['pi'] = ('math:pi', '');"
        "sys.argv = ['gentool', 'pi']; sys.exit(cli.main())"
    )
    run = subprocess.run([sys.executable, "-c", program], env=CLEAN, capture_output=True)
    done = Done(run.returncode, run.stdout.decode(), run.stderr.decode())
    told(done, 1, "AttributeError: 'float' object has no attribute", "--debug")
    debugged = gentool("complete", "", "--debug")
    assert debugged.code == 2
    assert "Traceback" in debugged.err and "UsageError" in debugged.err


# Text


@given(st.text())
def test_an_escaped_line_can_be_read_back(text: str) -> None:
    line = escaped(text)
    assert "\n" not in line
    if not any(c in text for c in "\t\r"):
        assert not text or unescaped(line) == text


def test_escapes_of_stop() -> None:
    assert unescaped(r"\n\t\r\\n\u3002。") == "\n\t\r\\n。。"
    for wrong in (r"\q", "\\", r"\u12", r"\ud800"):
        with pytest.raises(ValueError, match="no escape"):
            unescaped(wrong)


def made(text: str) -> Sample:
    return Sample(text, (1,), -1.0, -1.0, "eos")


def test_samples_come_in_order_as_soon_as_they_can() -> None:
    pieces = [Chunk(0, sample, "", made(str(sample))) for sample in (1, 0, 3)]
    read = []

    def watched() -> Iterator[Chunk]:
        for piece in pieces:
            read.append(piece)
            yield piece

    samples = in_order(watched(), 4)
    assert next(samples) == made("0") and len(read) == 2
    assert list(samples) == [made("1"), made("3")]  # there is no third


def test_shapes_of_text() -> None:
    pieces = [Chunk(0, 0, "今\n", None), Chunk(0, 0, "天", made("今\n天"))]
    assert list(one_sample(pieces, "昨", "\n")) == ["昨", "今\n", "天", "\n"]
    assert list(sample_lines(Prompt(0, "昨"), [made("今\n天")], True, False)) == ["昨今\\n天\n"]
    assert list(sample_lines(Prompt(0, "昨"), [made("今\n天")], False, True)) == ["今\n天\0"]


# With the model inside the package


@pytest.fixture(scope="module")
def seeded() -> str:
    """What seed 1 makes of the weather, as a plain pipe gets it."""
    done = gentool("complete", WEATHER, "--seed", "1", "--max-tokens", "24")
    assert (done.code, done.err) == (0, "")
    return done.out


def test_argument_stdin_json_and_file_give_the_same_text(
    run: Run, seeded: str, tmp_path: Path
) -> None:
    path = tmp_path / "result.json"
    options = ("--json", "-v", "--seed", "1", "--max-new-tokens", "24", "-o", str(path))
    done = run("-", *options, stdin=f"{WEATHER}\n".encode())
    assert (done.code, done.out) == (0, "")
    record = json.loads(path.read_text("utf-8"))
    assert list(record) == ["prompt", "row", "model", "seed", "precision", "law", "samples"]
    assert (record["prompt"], record["model"], record["seed"]) == (WEATHER, "tiny-zh", 1)
    assert (record["row"], record["precision"]) == (0, "fp32")
    assert (record["law"]["top_p"], record["law"]["max_tokens"]) == (0.9, 24)
    (sample,) = record["samples"]
    assert list(sample) == ["text", "ids", "logprob", "finish"]
    assert sample["text"] + "\n" == seeded
    assert len(sample["ids"]) <= 24 and sample["logprob"] < 0
    assert "tiny-zh" in done.err and "seed 1" in done.err and "tokens/s" in done.err


def test_a_terminal_gets_the_same_text_while_it_grows(seeded: str) -> None:
    screen = Screen()
    run = ("complete", WEATHER, "--seed", "1", "--max-tokens", "24", "--echo")
    with started(*run, stdout=screen.slave, stdin=subprocess.PIPE) as process:  # nobody writes
        assert screen.read(least=len(WEATHER.encode())) == WEATHER
        assert process.poll() is None
        assert screen.read() == seeded
        assert process.wait(60) == 0


def test_lines_in_order_with_their_own_samples_and_one_row_alone(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text(f"{WEATHER}\n从前有座山，\n1+1=2\n", "utf-8")
    flags = ("--lines", "-n", "2", "--batch-invariant", "--max-tokens", "8")
    flags += ("-f", str(path), "--echo")
    env = {"GENTOOL_SEED": "5"}
    done = run(*flags, env=env)
    assert (done.code, done.err) == (0, "")
    starts = [WEATHER] * 2 + ["从前有座山，"] * 2 + ["1+1=2"] * 2
    lines = done.out.split("\n")
    assert lines.pop() == "" and len(lines) == 6
    assert all(line.startswith(start) for line, start in zip(lines, starts, strict=True))
    assert len(set(lines)) > 3
    row = run(*flags, "--row", "1", "-0", env=env)
    assert [escaped(text) for text in row.out.split("\0")] == [*lines[2:4], ""]


def test_a_line_that_fails_ends_nothing(run: Run) -> None:
    lines = [b"1+1=", b"", b"x" * 3000, b"\xff", b"\xef\xbb\xbf2", b"y" * (1 << 21), b"3\r"]
    flags = ("-", "--lines", "--max-tokens", "2", "--seed", "1")
    done = run(*flags, stdin=b"\n".join(lines))
    assert done.code == 4
    assert [bool(line) for line in done.out.split("\n")] == [1, 0, 0, 0, 1, 0, 1, 0]
    errors = done.err.splitlines()[::2]
    assert [line.partition(" of ")[0] for line in errors] == [
        *(f"error: row {row}" for row in (1, 2, 3, 5)),
        "error: 4",
    ]
    assert "it is not UTF-8 (byte 0)" in errors[2] and "longer than 1 MiB" in errors[3]
    records = run(*flags, "--json", stdin=b"\n".join(lines)).out.splitlines()
    assert [json.loads(line)["row"] for line in records] == list(range(7))
    assert ["error" in json.loads(line) for line in records] == [0, 1, 1, 1, 0, 1, 0]
    assert json.loads(records[6])["samples"][0]["text"] == done.out.split("\n")[6]


def test_an_endless_input_is_answered_as_it_comes_in_little_memory() -> None:
    yes = subprocess.Popen(["yes", WEATHER], stdout=subprocess.PIPE)
    flags = ("--lines", "--max-tokens", "2", "-q")
    with yes, started("complete", "-", *flags, stdin=yes.stdout, stdout=subprocess.PIPE) as process:
        for _ in range(300):
            assert process.stdout.readline().endswith(b"\n")
        status = Path(f"/proc/{process.pid}/status").read_text()
        assert int(status.partition("VmHWM:")[2].split()[0]) < 1 << 20  # KiB
        yes.kill()


def test_a_line_is_answered_before_the_next_one_comes() -> None:
    streams = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with started("complete", "-", "--lines", "--max-tokens", "2", **streams) as process:
        for line in ("今天\n", "我\n"):
            process.stdin.write(line.encode())
            process.stdin.flush()
            assert process.stdout.readline().endswith(b"\n")
        process.stdin.close()
        assert process.wait(60) == 0


def test_greedy_samples_are_all_the_same(run: Run) -> None:
    options = ("--temperature", "0", "-n", "2", "--max-tokens", "6", "--stop", "。")
    done = run(WEATHER, *options, env={"GENTOOL_TEMPERATURE": "9"})
    first, second = done.out.splitlines()
    assert first == second and "。" not in first


def test_no_lines_no_output(run: Run) -> None:
    assert run("--lines") == (0, "", "")


def test_a_reader_that_leaves_ends_the_run_quietly() -> None:
    run = ("complete", WEATHER, "--stream", "--seed", "1", "--min-tokens", "300")
    run += ("--max-tokens", "300")
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started(*run, **streams) as process:
        assert len(process.stdout.read(20)) == 20
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read() == b""


def test_interrupted_on_a_terminal_the_text_so_far_stays() -> None:
    screen = Screen()
    run = ("complete", WEATHER, "--seed", "1", "--min-tokens", "300", "--max-tokens", "300")
    with started(*run, stdout=screen.slave, stderr=subprocess.PIPE) as process:
        text = screen.read(least=30)
        process.send_signal(signal.SIGINT)
        text += screen.read()
        assert process.wait(60) == 130
        assert text.endswith("\n") and text.strip("\n")
        assert process.stderr.read() == b""


def test_a_full_disk_is_an_error() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    with started("--version", stdout=full, stderr=subprocess.PIPE) as process:
        assert process.wait(60) == 1
        assert b"error: cannot write standard output: No space left" in process.stderr.read()
    os.close(full)


def test_escapes_in_a_prompt(run: Run) -> None:
    options = ("--echo", "--temperature", "0", "--max-tokens", "1")
    typed = run("1+1=2\n1+2=", *options)
    assert run(r"1+1=2\n1+2=", "--escape", *options) == typed
    assert run(r"1+1=2\n1+2=", *options) != typed
    line = run("-", "--lines", "--escape", *options, stdin=rb"1+1=2\n1+2=")
    assert line.out == typed.out.replace("2\n1", r"2\n1")


def test_a_byte_order_mark_and_crlf_change_nothing(run: Run, tmp_path: Path) -> None:
    options = ("--seed", "1", "--max-tokens", "6")
    plain = run("-", *options, stdin=f"{WEATHER}\n我".encode())
    marked = "\ufeff" + f"{WEATHER}\r\n我\r\n"
    assert run("-", *options, stdin=marked.encode()) == plain
    path = tmp_path / "prompt.txt"
    path.write_bytes(marked.encode())
    assert run("-f", str(path), *options) == plain


def test_a_text_cut_before_it_matched_is_no_success(run: Run) -> None:
    schema = '{"type": "array", "items": {"type": "integer"}, "minItems": 9}'
    done = run("1", "--json-schema", schema, "--max-tokens", "3", "--seed", "1")
    assert (done.code, done.err.splitlines()) == (
        1,
        ["error: the text was cut before it matched --json-schema", "hint: raise --max-tokens"],
    )
    assert done.out != ""
    cut = ("--regex", "[0-9]{8}", "--max-tokens", "2", "--seed", "1", "-n", "2")
    done = run("1", *cut)
    assert done.code == 4 and "2 of 2 texts were cut before they matched --regex" in done.err
    whole = run("1", "--regex", "[0-9]{1,8}", "--max-tokens", "1", "--seed", "1")
    assert (whole.code, whole.err) == (0, "")  # it matches, though it could go on


def test_a_terminal_is_told_seed_and_cut_after_the_text() -> None:
    screen, errors = Screen(), Screen()
    run = ("complete", WEATHER, "--seed", "7", "--max-tokens", "3", "--no-xla")
    streams = {"stdout": screen.slave, "stderr": errors.slave, "stdin": subprocess.PIPE}
    with started(*run, **streams) as process:
        assert process.wait(120) == 0
        assert screen.read().endswith("\n")
        assert seen(errors.read()) == ["seed 7; cut at --max-tokens 3"]


def test_a_dash_on_a_terminal_says_that_it_waits() -> None:
    screen = Screen()
    with started("complete", "-", stdin=screen.slave, stderr=subprocess.PIPE) as process:
        assert b"type the prompt; Ctrl-D" in process.stderr.readline()
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 130


@pytest.mark.parametrize("module", ["click", "numpy.linalg"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_while_the_program_starts_ends_it_quietly(number: int, module: str) -> None:
    program = (
        "import os, sys, builtins; from gentool import __main__;"
        "really = builtins.__import__\n"
        "def late(name, *rest):\n"
        f"    if name == '{module}': os.kill(os.getpid(), {int(number)})\n"
        "    return really(name, *rest)\n"
        "builtins.__import__ = late; sys.argv = ['gentool', 'complete', '今天'];"
        "sys.exit(__main__.main())"
    )
    run = [sys.executable, "-c", program]
    done = subprocess.run(run, env=CLEAN, capture_output=True, timeout=60)
    assert (done.returncode, done.stderr) == (-number, b"")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_when_the_result_is_done_ends_it_quietly(number: int) -> None:
    program = (
        "import atexit, os, sys; from gentool import __main__;"
        f"atexit.register(lambda: os.kill(os.getpid(), {int(number)}));"
        "sys.argv = ['gentool', '--version']; sys.exit(__main__.main())"
    )
    run = [sys.executable, "-c", program]
    done = subprocess.run(run, env=CLEAN, capture_output=True, timeout=60)
    assert done.stdout.startswith(b"gentool ")
    assert (done.returncode, done.stderr) == (-number, b"")


def test_a_terminal_is_told_what_int8_would_take() -> None:
    """Where `auto` leaves weights in 16 bits: here any, because the limit is 0."""
    program = (
        "import sys; from gentool import cli; from gentool.generation import opening;"
        "opening.MAX_FP32_BYTES = 0;"
        f"sys.argv[1:] = ['complete', '{WEATHER}', '--max-tokens', '1'];"
        "sys.exit(cli.main())"
    )
    screen = Screen()
    run = [sys.executable, "-c", program]
    subprocess.run(run, env=CLEAN, stdout=screen.slave, stderr=screen.slave, check=True, timeout=90)
    assert "tiny-zh takes 0.0 GB in fp16; with --precision int8 0.0 GB" in screen.read()
