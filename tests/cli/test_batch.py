"""`gentool batch` from the outside: rows in, rows out, whatever happens on the way."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cli.shell import CLEAN, COMMAND, Done, Screen, gentool, seen, started, within
from folders import copied

WEATHER = "今天天气不错"
ROWS: list[Any] = [
    {"prompt": f"{WEATHER}，{number}", "max_tokens": 2 + number % 9, "id": f"r{number}"}
    | ({"temperature": 0} if number % 3 else {"seed": number, "n": 2})
    for number in range(60)
]
ROWS[7] = {"prompt": ""}
ROWS[9] = {"question": 3}

Run = Callable[..., Done]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str], models_stay_open: None) -> Run:
    """Runs in this process."""
    return partial(within, capfd, "batch")


def written(path: Path, rows: Sequence[Any]) -> Path:
    """A file of rows; text stands as it is."""
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    path.write_text("".join(f"{line}\n" for line in lines), "utf-8", "surrogatepass")
    return path


def records(text: str | bytes) -> list[Any]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, bytes]:
    """The input of an uninterrupted run, and its output."""
    folder = tmp_path_factory.mktemp("whole")
    source, target = written(folder / "in.jsonl", ROWS), folder / "out.jsonl"
    done = gentool("batch", str(source), "-o", str(target), "--seed", "5")
    assert done.code == 4 and done.err.startswith("error: 2 of 60 rows failed\n")
    return source, target.read_bytes()


# Rows


def test_rows_come_in_order_with_what_draws_them_again(whole: tuple[Path, bytes]) -> None:
    answers = records(whole[1])
    assert [answer["row"] for answer in answers] == list(range(60))
    assert [answer["id"] for answer in answers[10:]] == [f"r{n}" for n in range(10, 60)]
    assert answers[7]["error"].startswith("the prompt is empty")
    assert answers[9] == {
        "row": 9,
        "id": 9,
        "question": 3,
        "error": 'it has no "prompt" or "messages"',
    }
    for number in (12, 13):
        answer = answers[number]
        assert (answer["prompt"], answer["model"]) == (ROWS[number]["prompt"], "tiny-zh")
        assert answer["seed"] == ROWS[number].get("seed", 5)
        assert answer["sampling"]["max_tokens"] == ROWS[number]["max_tokens"]
        assert len(answer["samples"]) == ROWS[number].get("n", 1)
        assert len(answer["model_sha256"]) == 64 and answer["version"] and answer["processor"]
        drawn = answer["sampling"]
        again = gentool(
            *("complete", answer["prompt"], "--json", "-n", str(len(answer["samples"]))),
            "--batch-invariant",
            *("--seed", str(answer["seed"]), "--row", str(answer["row"])),
            *("--max-tokens", str(drawn["max_tokens"])),
            *("--temperature", str(drawn["temperature"])),
        )
        assert json.loads(again.out)["samples"] == answer["samples"]


def test_each_row_has_its_own_parameters(run: Run, tmp_path: Path) -> None:
    rows = [
        {"prompt": "1+1=", "regex": "[0-9]{3}", "max_tokens": 9, "note": {"kept": [1, None]}},
        {"prompt": "1+1=", "choice": ["2", "3"], "n": 3},
        {"prompt": WEATHER, "stop": "。", "max_tokens": 40, "logprobs": 2, "top_k": None},
        {"prompt": [5, 6, 7], "max_tokens": 1, "logit_bias": {"9": 100}},
        {"prompt": "{", "json_schema": {"type": "integer"}, "max_tokens": 4, "seed": 2},
        {"prompt": WEATHER, "min_tokens": 3, "max_tokens": 3, "samples": 1, "error": "old"},
    ]
    done = run(str(written(tmp_path / "in.jsonl", rows)), "--seed", "1")
    assert (done.code, done.err) == (0, "")
    grammar, choice, stop, biased, number, short = records(done.out)
    assert grammar["samples"][0]["text"].isdecimal() and grammar["note"] == {"kept": [1, None]}
    assert {sample["text"] for sample in choice["samples"]} <= {"2", "3"}
    assert choice["choice"] == ["2", "3"] and len(choice["samples"]) == 3
    assert "。" not in stop["samples"][0]["text"]
    assert len(stop["samples"][0]["steps"][0]["top"]) == 2
    assert biased["samples"][0]["ids"] == [9] and biased["prompt"] == [5, 6, 7]
    assert json.loads(number["samples"][0]["text"]) is not None
    assert len(short["samples"][0]["ids"]) == 3 and "error" not in short


BAD = {
    "": "it is empty",
    "   ": "it is empty",
    "{": "it is not JSON",
    '{"prompt": NaN}': "it is not JSON: NaN is not a number",
    "[1]": "it is not a JSON object",
    '{"prompt": 3}': '"prompt" is no text',
    '{"prompt": "x", "messages": []}': "both",
    '{"messages": "x"}': '"messages" is no list of messages',
    '{"messages": [5, 6]}': '"messages" is no list of messages',
    '{"messages": [], "id": null}': '"messages" is no list of messages',
    '{"prompt": "x", "temperature": "hot"}': "temperature is 'hot'",
    '{"prompt": "x", "top_p": 0}': "top_p is 0",
    '{"prompt": "x", "n": true}': "n is True; it can be 1 to",
    '{"prompt": "x", "seed": -1}': "seed is -1",
    '{"prompt": "x", "regex": "("}': "regex is '('",
    '{"prompt": "x", "json_schema": "/etc/passwd"}': "json_schema is '/etc/passwd'",
    '{"prompt": "x", "choice": []}': "choice is []",
    '{"prompt": "x", "min_tokens": 99}': "min_tokens 99 is more than max_tokens 64",
    '{"prompt": "\\ud800"}': "the prompt is not text (character 0)",
    "\ufeff" + '{"prompt": "x"}': "it is not JSON: Unexpected UTF-8 BOM",
    json.dumps({"prompt": "x" * 2000}): "the context of tiny-zh is",
    json.dumps({"prompt": [10**6]}): "token id 1000000 is outside the vocabulary",
    json.dumps({"prompt": "x" * (1 << 20)}): "it is longer than 1 MiB",
    '{"messages": [{"role": "user", "content": "x"}]}': "has no chat template",
    '{"prompt": "x", "y": ' + "[" * 800 + "]" * 800 + "}": "",
    '{"custom_id": 3, "url": "/v1/completions", "body": {}}': '"custom_id" is no text',
    '{"custom_id": "a", "url": "/v1/images", "body": {}}': "\"url\" is '/v1/images'",
    '{"custom_id": "a", "url": "/v1/completions", "body": {"prompt": "x", "tools": []}}': "tools",
}


def test_a_row_that_is_wrong_has_an_error_and_ends_nothing(run: Run, tmp_path: Path) -> None:
    good = {"prompt": WEATHER, "max_tokens": 1}
    source = written(tmp_path / "in.jsonl", [good, *BAD, good])
    with source.open("ab") as file:
        file.write(b'{"prompt": "\xff"}')
    done = run(str(source), "--seed", "1")
    answers = records(done.out)
    assert len(answers) == len(BAD) + 3 and done.code == 4
    assert "samples" in answers[0] and "samples" in answers[-2]
    for answer, (line, problem) in zip(answers[1:], BAD.items(), strict=False):
        error = answer.get("error", "")
        assert problem in (error if isinstance(error, str) else error["message"]), line[:80]
    assert answers[-1]["error"] == "it is not UTF-8 (byte 12)"


def test_a_slip_in_the_name_of_a_parameter_is_noted_once(run: Run, tmp_path: Path) -> None:
    row = {"prompt": WEATHER, "max_tokens": 1, "temprature": 0.5, "source": "a"}
    source = written(tmp_path / "in.jsonl", [row, row, "no row", {**row, "max_token": 3}])
    done = run(str(source))
    assert done.code == 4 and records(done.out)[0]["temprature"] == 0.5  # kept all the same
    notes = [line for line in done.err.splitlines() if "no parameter" in line]
    assert sorted(notes) == [
        '"max_token" of a row is no parameter, did you mean max_tokens?',
        '"temprature" of a row is no parameter, did you mean temperature?',
    ]


def test_rows_whose_constraint_fails_do_not_fail_others(run: Run, tmp_path: Path) -> None:
    rows = [{"prompt": WEATHER, "max_tokens": 9, "temperature": 0} for _ in range(3)]
    rows[1] |= {"regex": "\U0001f9ff", "ban": ["\U0001f9ff"]}
    done = run(str(written(tmp_path / "in.jsonl", rows)))
    first, failed, last = records(done.out)
    assert done.code == 4 and "allow" in failed["error"]
    assert first["samples"] == last["samples"]


def test_text_and_pipes(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "in.txt"
    path.write_text(f"\ufeff{WEATHER}\r\n" + '{"prompt": "x"}\n', "utf-8")
    flags = ("--seed", "1", "--max-tokens", "2")
    done = run(str(path), *flags)
    assert [row["prompt"] for row in records(done.out)] == [WEATHER, '{"prompt": "x"}']
    assert run("-", "--lines", *flags, stdin=path.read_bytes()) == done
    assert [row["prompt"] for row in records(run("-", *flags, stdin=b'{"prompt": "x"}').out)] == [
        "x"
    ]
    assert run("-", *flags) == (0, "", "")


def openai(number: int, url: str, **body: Any) -> dict[str, Any]:
    return {"custom_id": f"c{number}", "method": "POST", "url": url, "body": body}


def test_a_chat_template_is_part_of_the_run(run: Run, tmp_path: Path) -> None:
    """With it messages are the text that it makes of them; with another one the run is another."""
    template = tmp_path / "copy.jinja"
    template.write_text("{{ bos_token }}{{ messages[0].content }}")
    rows = [{"messages": [{"role": "user", "content": WEATHER}], "max_tokens": 5}]
    same = written(tmp_path / "same.jsonl", [{"prompt": WEATHER, "max_tokens": 5}])
    source, out = written(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    flags = str(source), "--seed", "1", "--chat-template", str(template), "-o", str(out)
    assert run(*flags).code == 0
    (answer,) = records(out.read_bytes())
    (expected,) = records(run(str(same), "--seed", "1").out)
    assert answer["samples"] == expected["samples"]
    assert run(*flags).err == f"1 of 1 rows are in {out}; going on\n"
    template.write_text("{{ bos_token }}{{ messages[0].content }}。")
    assert "its model_sha256 is" in run(*flags).err
    done = run(str(source), "--chat-template", "chatm")
    assert (done.code, done.out) == (2, "") and "did you mean chatml?" in done.err


def test_lines_of_openai_are_answered_as_openai_does(run: Run, tmp_path: Path) -> None:
    model = copied("hf_qwen2", tmp_path / "qwen")
    (model / "chat_template.jinja").write_text("{% for m in messages %}{{ m.content }}{% endfor %}")
    text, chat = "/v1/completions", "/v1/chat/completions"
    hello = [{"role": "user", "content": "hello"}]
    rows = [
        openai(0, text, model="any", prompt="hello", max_tokens=3, logprobs=2, n=2, seed=4),
        openai(1, chat, messages=hello, max_completion_tokens=2, logprobs=True, top_logprobs=1),
        openai(2, text, prompt="", max_tokens=3),
        {"messages": hello, "max_tokens": 2, "temperature": 0},
    ]
    done = run(str(written(tmp_path / "in.jsonl", rows)), "-m", str(model), "--seed", "1")
    first, second, third, own = records(done.out)
    assert done.code == 4, done.err
    assert [row["custom_id"] for row in (first, second, third)] == ["c0", "c1", "c2"]
    body = first["response"]["body"]
    assert (first["response"]["status_code"], first["error"]) == (200, None)
    assert (body["object"], len(body["choices"])) == ("text_completion", 2)
    assert body["usage"]["completion_tokens"] == 6 and body["gentool"]["seed"] == 4
    assert body["choices"][0]["finish_reason"] == "length"
    assert len(body["choices"][1]["logprobs"]["token_logprobs"]) == 3
    body = second["response"]["body"]
    assert body["object"] == "chat.completion"
    assert body["choices"][0]["message"]["role"] == "assistant"
    assert len(body["choices"][0]["logprobs"]["content"]) == 2
    assert third["response"] is None and "empty" in third["error"]["message"]
    assert own["messages"] == hello and len(own["samples"][0]["ids"]) == 2


# Interrupted runs


def resumed(source: Path, target: Path, *flags: str) -> Done:
    return gentool("batch", str(source), "-o", str(target), *flags)


def killed(source: Path, target: Path, number: int, seconds: float) -> int:
    """The exit code of a run that got a signal after it had written something, and so long."""
    size = target.stat().st_size if target.exists() else 0
    journal = target.with_name(target.name + ".journal")
    arguments = ("batch", str(source), "-o", str(target), "--seed", "5", "-q")
    with started(*arguments) as process:
        while process.poll() is None and not (journal.exists() and target.stat().st_size > size):
            time.sleep(0.01)
        time.sleep(seconds)
        if process.poll() is None:
            process.send_signal(number)
        return process.wait(60)


def test_a_run_that_is_killed_goes_on_and_loses_and_repeats_nothing(
    whole: tuple[Path, bytes], tmp_path: Path
) -> None:
    source, output = whole
    target = tmp_path / "out.jsonl"
    chance = random.Random(0)
    kills = sum(
        killed(source, target, signal.SIGKILL, 0.1 * chance.random()) == -9 for _ in range(3)
    )
    assert kills
    assert output.startswith(target.read_bytes())
    assert resumed(source, target).code == 4
    assert target.read_bytes() == output


@pytest.mark.slow
def test_a_run_that_is_killed_fifty_times(tmp_path: Path) -> None:
    source = written(tmp_path / "in.jsonl", ROWS * 12)
    whole, target = tmp_path / "whole.jsonl", tmp_path / "out.jsonl"
    assert resumed(source, whole, "--seed", "5").code == 4
    chance, kills = random.Random(1), 0
    for _ in range(50):
        kills += killed(source, target, signal.SIGKILL, 0.1 * chance.random()) == -9
    assert kills
    assert resumed(source, target).code == 4
    assert target.read_bytes() == whole.read_bytes()


@pytest.mark.parametrize("cut", [1, 2, 700, 10**9])
def test_a_torn_last_line_is_cut(
    run: Run, whole: tuple[Path, bytes], tmp_path: Path, cut: int
) -> None:
    """As a machine without power leaves it: the journal knows more than the output."""
    source, output = whole
    target = tmp_path / "out.jsonl"
    assert run(str(source), "-o", str(target), "--seed", "5").code == 4
    os.truncate(target, max(1, len(output) - cut))
    again = run(str(source), "-o", str(target))
    assert again.code == 4 and target.read_bytes() == output


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_finishes_the_rows_in_flight(
    whole: tuple[Path, bytes], tmp_path: Path, number: int, code: int
) -> None:
    source, output = whole
    more = written(tmp_path / "in.jsonl", ROWS * 20)
    target = tmp_path / "out.jsonl"
    arguments = ("batch", str(more), "-o", str(target), "--seed", "5")
    with started(*arguments, stderr=subprocess.PIPE) as process:
        while not target.exists() or not target.stat().st_size:
            time.sleep(0.01)
        process.send_signal(number)
        begun = time.monotonic()
        assert process.wait(60) == code
        assert time.monotonic() - begun < 10  # two seconds on a machine that is not busy
        rows = target.read_bytes().count(b"\n")
        assert process.stderr.read().decode() == (
            f"{rows} of 1200 rows written; the same command goes on\n"
        )
    assert 0 < rows < 1200
    first = [json.loads(line) for line in target.read_bytes().splitlines()[:60]]
    assert first == records(output)[: len(first)]


DIFFERENT = {
    "seed": (("--seed", "6"), "its seed is 5, not 6"),
    "temperature": (("--temperature", "0.5"), "its temperature is 0.6, not 0.5"),
    "n": (("-n", "3"), "its n is 1, not 3"),
    "form": (("--lines",), 'its form is "json", not "text"'),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_the_output_of_another_run_is_refused(run: Run, tmp_path: Path, what: str) -> None:
    source, target = written(tmp_path / "in.jsonl", ROWS[:3]), tmp_path / "out.jsonl"
    flags, difference = DIFFERENT[what]
    assert run(str(source), "-o", str(target), "--seed", "5").code == 0
    output = target.read_bytes()
    done = run(str(source), "-o", str(target), *flags)
    assert done.code == 2 and difference in done.err and "--force" in done.err
    assert target.read_bytes() == output
    assert run(str(source), "-o", str(target), *flags, "--force").code == 0
    assert target.read_bytes() != output


def test_another_input_or_file_is_refused(run: Run, tmp_path: Path) -> None:
    source, target = written(tmp_path / "in.jsonl", ROWS[:6]), tmp_path / "out.jsonl"
    assert run(str(source), "-o", str(target)).code == 0
    output = target.read_bytes()
    written(source, [*ROWS[:2], {"prompt": "x"}, *ROWS[3:6]])
    done = run(str(source), "-o", str(target))
    assert done.code == 2 and "the first 6 rows of the input are not those" in done.err
    written(source, ROWS[:4])
    done = run(str(source), "-o", str(target))
    assert done.code == 2 and "the input has 4 rows, the output 6" in done.err
    written(source, ROWS[:7])  # more rows at the end are no other input
    assert run(str(source), "-o", str(target)).code == 0
    assert target.read_bytes().startswith(output) and target.read_bytes().count(b"\n") == 7
    notes = tmp_path / "notes"
    notes.write_text("mine")
    done = run(str(source), "-o", str(notes))
    assert done.code == 2 and "has no journal" in done.err and notes.read_text() == "mine"
    done = run(str(source), "-o", str(source), "--force")
    assert done.code == 2 and "is the input, too" in done.err


def test_a_full_disk_ends_it_and_loses_nothing(whole: tuple[Path, bytes], tmp_path: Path) -> None:
    source, output = whole
    target = tmp_path / "out.jsonl"
    line = " ".join([*COMMAND, "batch", str(source), "-o", str(target), "--seed", "5"])
    limited = ["bash", "-c", f"trap '' XFSZ; ulimit -f 24; {line}"]
    done = subprocess.run(limited, env=CLEAN, capture_output=True)
    error, hint = done.stderr.decode().splitlines()
    assert done.returncode == 1 and error.startswith("error: cannot write ")
    assert "File too large" in error and "free some space" in hint
    assert resumed(source, target).code == 4
    assert target.read_bytes() == output


# On a terminal


def test_a_terminal_sees_a_bar_below_the_rows(whole: tuple[Path, bytes]) -> None:
    source, output = whole
    screen = Screen()
    arguments = ("batch", str(source), "--seed", "5")
    with started(*arguments, stdout=screen.slave, stderr=screen.slave) as process:
        text = screen.read()
        assert process.wait(60) == 4
    lines = seen(text)
    assert "━" in text and "tokens/s" in text and "left" in text and " of 60" in text
    assert [line for line in lines if line.startswith("{")] == output.decode().splitlines()
    assert [line for line in lines if not line.startswith("{")] == [
        "error: 2 of 60 rows failed",
        'hint: see "error" in each of them',
    ]
    quiet = Screen()
    with started(*arguments, "-q", stdout=subprocess.DEVNULL, stderr=quiet.slave) as process:
        assert "━" not in quiet.read()
