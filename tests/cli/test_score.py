"""`gentool score` and `gentool choose` from the outside."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
from cli.shell import gentool, within
from cli.test_complete import told
from pytest import CaptureFixture

pytestmark = pytest.mark.usefixtures("models_stay_open")

WEATHER = "今天天气不错"


def score(capfd: CaptureFixture[str], *arguments: str) -> dict[str, object]:
    done = within(capfd, "score", *arguments, "--json")
    assert (done.code, done.err) == (0, "")
    record = json.loads(done.out)
    assert isinstance(record, dict)
    return record


# score


def test_a_text_from_stdin_and_as_an_argument(capfd: CaptureFixture[str]) -> None:
    done = gentool("score", "-", stdin=f"{WEATHER}\n".encode())
    assert (done.code, done.err) == (0, "")
    rows = dict(line.rsplit("  ", 1) for line in done.out.splitlines())
    found = {name.strip(): float(value) for name, value in rows.items()}
    assert list(found) == [
        "log-probability",
        "tokens",
        "characters",
        "perplexity per token",
        "perplexity per character",
        "bits per character",
    ]
    assert found["characters"] == 6
    record = score(capfd, WEATHER)
    assert (record["text"], record["row"], record["model"]) == (WEATHER, 0, "tiny-zh")
    assert record["unscored"] == "" and record["stride"] is None and "ids" not in record
    assert record["logprob"] == pytest.approx(found["log-probability"], rel=1e-4)
    assert record["n_tokens"] == found["tokens"]
    assert record["perplexity"] == pytest.approx(found["perplexity per token"], rel=1e-4)
    assert record["bits_per_character"] == pytest.approx(found["bits per character"], rel=1e-4)


def test_tokens_in_a_table_and_as_json(capfd: CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "text"
    path.write_text(f"{WEATHER}\n明天\\\r\n", "utf-8")
    done = within(capfd, "score", "-f", str(path), "--tokens")
    assert (done.code, done.err) == (0, "")
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert "".join(text for _, _, text in rows) == f"{WEATHER}\\n明天\\\\"
    record = score(capfd, "-f", str(path), "--tokens")
    assert [int(id) for id, _, _ in rows] == record["ids"]
    assert record["logprobs"][0] is None and rows[0][1] == ""
    logprobs = [float(p) for _, p, _ in rows[1:]]
    assert logprobs == pytest.approx(record["logprobs"][1:], rel=1e-4)
    assert record["logprob"] == pytest.approx(math.fsum(record["logprobs"][1:]))


def test_what_is_not_scored_and_the_stride_are_said(capfd: CaptureFixture[str]) -> None:
    long = WEATHER * 200
    options = ("--set", "tokenizer.add_bos=false", "--stride", "100")
    done = within(capfd, "score", long, *options)
    assert (done.code, done.err) == (0, "")
    assert "stride of the windows       100\n" in done.out
    assert "not scored, as it is first  今天\n" in done.out
    record = score(capfd, long, *options)
    assert (record["unscored"], record["stride"], record["n_characters"]) == ("今天", 100, 1198)


def test_lines_and_a_line_that_fails(capfd: CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "lines"
    path.write_text(f"{WEATHER}\n\n明天\\\n", "utf-8")
    done = within(capfd, "score", "--lines", "-f", str(path))
    assert done.code == 4
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert [row[-1] for row in rows] == [WEATHER, "", "明天\\\\"]
    assert rows[1] == [""] * 7
    assert float(rows[0][0]) == pytest.approx(score(capfd, WEATHER)["logprob"], rel=1e-4)
    assert float(rows[2][0]) == pytest.approx(score(capfd, "明天\\")["logprob"], rel=1e-4)
    assert done.err.splitlines() == [
        f"error: row 1 of {path}: the text is empty",
        "hint: give at least one character; rows count from 0",
        "error: 1 of 3 lines failed",
        "hint: see above what is wrong with each",
    ]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # not closed
def test_jsonl_keeps_other_keys_and_reports_broken_rows(
    capfd: CaptureFixture[str], tmp_path: Path
) -> None:
    rows = [
        json.dumps({"id": 7, "text": WEATHER, "note": ["a"]}).encode(),
        b"",
        b'{"text": ',
        b'{"text": "\xff"}',
        b'["text"]',
        b'{"id": 8}',
        b'{"id": 9, "text": 5}',
        b'{"id": 10, "text": "\\ud800"}',
        b'{"text": "' + b"[" * 3 + b'"}\r',
    ]
    path = tmp_path / "out.jsonl"
    stdin = b"\n".join(rows) + b"\n"
    done = within(capfd, "score", "--jsonl", "-o", str(path), stdin=stdin)
    assert (done.code, done.out) == (4, "")
    made = [json.loads(line) for line in path.read_text("utf-8").splitlines()]
    assert [record["row"] for record in made] == list(range(9))
    assert (made[0]["id"], made[0]["note"], made[0]["text"]) == (7, ["a"], WEATHER)
    assert made[0]["logprob"] < 0 and "error" not in made[0] and "error" not in made[8]
    wrong = ["not JSON", "not JSON", "not UTF-8 (byte 10)", "not a JSON object", 'no "text"']
    wrong += ['the "text" is no text', "the text is not text"]
    for record, problem in zip(made[1:8], wrong, strict=True):
        assert record["error"].startswith(problem) and "logprob" not in record
        line = f"error: row {record['row']} of standard input: {problem}"
        assert line in done.err
    assert [made[i]["id"] for i in (5, 6, 7)] == [8, 9, 10]
    assert "error: 7 of 9 lines failed" in done.err


def test_jsonl_is_json_and_keeps_no_score_of_an_earlier_run(capfd: CaptureFixture[str]) -> None:
    old = {"id": 1, "error": "no luck", "ids": [7], "perplexity": 2.5, "x": [1e300, True]}
    lines = [
        "\ufeff" + json.dumps(old | {"text": WEATHER}),
        json.dumps(old | {"text": 5, "logprob": -1.5}),
        '{"text": "今天", "x": 1e999}',
        '{"text": "今天", "x": [{"y": -1E400}]}',
        '{"text": "今天", "x": NaN}',
        '{"text": "今天", "x": -Infinity}',
        '{"text": "今天", "x": "1e999"}',
    ]
    done = within(capfd, "score", "--jsonl", stdin="\r\n".join(lines).encode())
    assert done.code == 4
    made = [json.loads(line, parse_constant=pytest.fail) for line in done.out.splitlines()]
    assert (made[0]["id"], made[0]["x"], made[0]["text"]) == (1, [1e300, True], WEATHER)
    assert made[0]["logprob"] < 0 and "error" not in made[0] and "ids" not in made[0]
    assert made[0]["perplexity"] != 2.5 and made[6]["x"] == "1e999" and "error" not in made[6]
    assert made[1]["error"] == 'the "text" is no text'
    assert "logprob" not in made[1] and "perplexity" not in made[1]
    assert [record["error"] for record in made[2:6]] == [
        "not JSON: 1e999 is too large a number",
        "not JSON: -1E400 is too large a number",
        "not JSON: NaN is not a number",
        "not JSON: -Infinity is not a number",
    ]


def test_no_texts_no_output(capfd: CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_text("old")
    assert within(capfd, "score", "--jsonl", "-o", str(path)) == (0, "", "")
    assert path.read_text() == ""


@pytest.mark.parametrize(
    ("arguments", "stdin", "message", "hint"),
    [
        ([""], b"", "the text is empty", "at least one"),
        (["-"], b"\n", "the text is empty", "at least one"),
        (["-"], b"\xff", "standard input is not UTF-8: byte 0xff at offset 0", "iconv"),
        (["a", "-f", "b"], b"", "both a text ('a') and a file (b)", "drop one"),
        (["-f", "gone.txt"], b"", "cannot read gone.txt: No such file", "path"),
        (["a", "--lines", "--jsonl"], b"", "both --lines and --jsonl", "drop one"),
        (["a", "--lines", "--tokens"], b"", "--tokens with --lines", "add --json"),
        (["a", "--stride", "0"], b"", "--stride is '0'", "whole number 1 to"),
        (["a", "--stride", "513"], b"", "stride is 513", "1 to 512"),
        (["a", "--jsonl", "--escape"], b"", "--escape is for text", "drop it"),
    ],
)
def test_a_wrong_score_is_two_lines_and_exit_2(
    capfd: CaptureFixture[str], arguments: list[str], stdin: bytes, message: str, hint: str
) -> None:
    told(within(capfd, "score", *arguments, stdin=stdin), 2, message, hint)


def test_an_unknown_model_is_exit_3(capfd: CaptureFixture[str]) -> None:
    done = within(capfd, "score", "a", "-m", "tiny-hz")
    told(done, 3, "unknown model tiny-hz", "did you mean tiny-zh?")


def test_a_byte_order_mark_and_crlf_change_no_score(capfd: CaptureFixture[str]) -> None:
    plain, marked = f"{WEATHER}\n明天\n", f"\ufeff{WEATHER}\r\n明天\r\n"
    for options in (["-"], ["-", "--lines"]):
        wanted = within(capfd, "score", *options, stdin=plain.encode())
        assert wanted.code == 0
        assert within(capfd, "score", *options, stdin=marked.encode()) == wanted
    rows = "\ufeff" + "".join(json.dumps({"text": text}) + "\r\n" for text in (WEATHER, "明天"))
    done = within(capfd, "score", "--jsonl", stdin=rows.encode())
    assert (done.code, len(done.out.splitlines())) == (0, 2)


def test_what_a_row_had_does_not_pass_for_a_result(capfd: CaptureFixture[str]) -> None:
    rows = [f'{{"text": "{WEATHER}", "error": "old"}}', f'{{"text": "{WEATHER}", "x": 1e999}}']
    rows += [f'{{"text": "{WEATHER}", "x": NaN}}']
    done = within(capfd, "score", "--jsonl", stdin="\n".join(rows).encode())
    assert done.code == 4

    def refuse(constant: str) -> None:
        raise ValueError(constant)

    first, *others = (json.loads(row, parse_constant=refuse) for row in done.out.splitlines())
    assert "logprob" in first and "error" not in first
    assert [other["error"] for other in others] == [
        "not JSON: 1e999 is too large a number",
        "not JSON: NaN is not a number",
    ]


@pytest.mark.parametrize("flags", [(), ("--batch-invariant",)])
def test_a_score_is_bitwise_the_same_alone_and_among_others(
    capfd: CaptureFixture[str], flags: tuple[str, ...]
) -> None:
    texts = [WEATHER, "明天", "从前有座山，山里有座庙" * 3]
    done = within(capfd, "score", "-", "--lines", "--json", *flags, stdin="\n".join(texts).encode())
    for text, line in zip(texts, done.out.splitlines(), strict=True):
        assert json.loads(line)["logprob"] == score(capfd, text, *flags)["logprob"]


def test_a_text_of_one_token_has_no_score(capfd: CaptureFixture[str]) -> None:
    done = within(capfd, "score", "今天", "--set", "tokenizer.add_bos=false")
    told(done, 2, "the text has one token, and nothing before it", "longer")


# choose

CHOICES = ("--choice", "很不错", "--choice", "a\\\n", "--choice", "很好")


def test_choices_best_first(capfd: CaptureFixture[str]) -> None:
    done = gentool("choose", "-", *CHOICES, stdin="今天天气\n".encode())
    assert (done.code, done.err) == (0, "")
    rows = [line.split("\t") for line in done.out.splitlines()]
    assert sorted(text for _, text in rows) == ["a\\\\\\n", "很不错", "很好"]
    shares = [float(share) for share, _ in rows]
    assert sum(shares) == pytest.approx(1, abs=1e-4) and shares == sorted(shares)[::-1]
    told_json = within(capfd, "choose", "今天天气", *CHOICES, "--json")
    record = json.loads(told_json.out)
    assert (record["prompt"], record["end"], record["normalize"]) == ("今天天气", False, "none")
    assert [c["probability"] for c in record["choices"]] == pytest.approx(shares, abs=1e-5)
    assert list(record["choices"][0]) == [
        "text",
        "ids",
        "logprob",
        "probability",
        "logprob_per_token",
        "logprob_per_character",
    ]


def test_flags_of_choose(capfd: CaptureFixture[str]) -> None:
    def logprobs(*arguments: str) -> dict[str, float]:
        done = within(capfd, "choose", "今天天气", *CHOICES, "--json", *arguments)
        assert (done.code, done.err) == (0, "")
        return {c["text"]: c["logprob"] for c in json.loads(done.out)["choices"]}

    free, ended = logprobs(), logprobs("--end")
    stopped = logprobs("--end", "--stop", r"。", "--batch-invariant")
    asked = logprobs("--stop", "。")  # nothing without --end
    assert asked == free
    assert all(ended[text] < stopped[text] < free[text] for text in free)
    assert stopped == pytest.approx(
        logprobs("--end", "--set", 'sampling.stop=["。"]', "--normalize", "tokens"), abs=1e-4
    )


def test_a_choice_that_begins_another_is_noted(capfd: CaptureFixture[str]) -> None:
    choices = ("--choice", "，", "--choice", "，今天")
    done = within(capfd, "choose", WEATHER, *choices)
    assert done.code == 0 and done.err == "'，' begins '，今天': --end tells them apart\n"
    assert within(capfd, "choose", WEATHER, *choices, "-q").err == ""
    assert within(capfd, "choose", WEATHER, *choices, "--end").err == ""


@pytest.mark.parametrize(
    ("arguments", "message", "hint"),
    [
        (["今天"], "no choice", "--choice"),
        (["今天", "--choice", ""], "--choice is ''", "at least one"),
        (["", "--choice", "a"], "the prompt is empty", "at least one"),
        (["a", "-f", "b", "--choice", "a"], "both a prompt ('a') and a file (b)", "drop one"),
        (["a", "--choice", "b", "--normalize", "bytes"], "--normalize is 'bytes'", "characters"),
        (["a", "--choice", "b", "-o", "/nowhere/x"], "cannot write /nowhere/x", "--output"),
    ],
)
def test_a_wrong_choose_is_two_lines_and_exit_2(
    capfd: CaptureFixture[str], arguments: list[str], message: str, hint: str
) -> None:
    told(within(capfd, "choose", *arguments), 2, message, hint)


def test_equal_choices_are_named(capfd: CaptureFixture[str]) -> None:
    done = within(capfd, "choose", "今天", "--choice", "好", "--choice", "好")
    told(done, 2, "the choices '好' and '好' are the same tokens", "leave one out")
