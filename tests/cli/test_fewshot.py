"""`gentool fewshot` from the outside: a prompt in, the winner out, how the vote went on stderr.

What the model says must not matter here: where answers have to be certain, a grammar allows one;
where they have to differ, it allows ten digits and the temperature makes them about equal.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cli.shell import Done, Screen, gentool, seen, started, within
from cli.test_complete import told

from gentool.cli.fewshot import command
from gentool.cli.fewshot import report as boards

pytestmark = pytest.mark.usefixtures("models_stay_open")

PROMPTS = Path(__file__).parents[2] / "configs/prompts"
SUM = str(PROMPTS / "addition.txt")
OPPOSITE = str(PROMPTS / "opposites.txt")
ONE = ("--regex", "8")
DIGITS = ("--regex", "[0-9]", "--temperature", "5", "--top-p", "1", "--seed", "1")
WILD = ("--temperature", "3", "--top-p", "1", "--max-tokens", "4")
ENDLESS = (*ONE, "-n", "1000000000", "--no-curtail")
TEMPLATE = "3+5=8\n6+1=7\n4+4=8\n9+2=11\n{input}="

Run = Callable[..., Done]


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs in this process."""
    return partial(within, capfd, "fewshot")


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., str]:
    """Writes a file of this name; gives its path."""

    def written(name: str, data: str | bytes) -> str:
        path = tmp_path / name
        path.write_bytes(data if isinstance(data, bytes) else data.encode())
        return str(path)

    return written


@pytest.fixture
def template(write: Callable[..., str]) -> str:
    return write("template.txt", TEMPLATE)


def record(done: Done, code: int = 0) -> dict[str, Any]:
    assert done.code == code, done.err
    return json.loads(done.out)


def records(path: Path | str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text("utf-8").splitlines()]


# What is said


def test_a_pipe_gets_the_answer_and_stderr_the_rest() -> None:
    stdin = Path(SUM).read_bytes()
    done = gentool("fewshot", "-", "-n", "20", "-v", *ONE, stdin=stdin)
    assert (done.code, done.out) == (0, "8\n")
    examples, model, *table, verdict = done.err.splitlines()
    assert examples == r"5 examples, separator '\n'; an answer ends before '\n'"
    assert model.startswith("tiny-zh: ") and re.search(r", seed \d+$", model)
    assert table[0].split() == ["answer", "votes", "share", "of", "all", "20"]
    votes = int(re.search(r"wins with (\d+) of", verdict)[1])
    assert table[1].split() == [
        "8",
        str(votes),
        "100.0%",
        f"{5 * votes:.1f}%-100.0%",
        "█" * 24,
    ] or (votes == 20 and table[1].split() == ["8", "20", "100.0%", "100.0%", "█" * 24])
    assert len(table) == 2 and not any(line != line.rstrip() for line in table)


def test_quiet_and_a_file(run: Run, tmp_path: Path) -> None:
    path = tmp_path / "answer"
    assert run(SUM, *ONE, "-n", "5", "-q") == (0, "8\n", "")
    done = run(SUM, *ONE, "-n", "5", "-o", str(path))
    assert (done.code, done.out) == (0, "") and "8 wins" in done.err
    assert path.read_text() == "8\n"


def test_terminals_get_a_live_table_that_goes_and_no_control_characters() -> None:
    out, err = Screen(), Screen()
    arguments = ("fewshot", SUM, "--regex", r"a\x1bb", "-n", "50", "--seed", "1")
    with started(*arguments, stdout=out.slave, stderr=err.slave) as process:
        shown = err.read()
        assert out.read() == "a\\u001bb\n"
        assert process.wait(60) == 0
    assert " of 50 samples, " in shown and shown.count("answer ") > 1
    lines = seen(shown)
    assert [line.split()[0] for line in lines] == ["answer", "a\\u001bb", "a\\u001bb"]
    assert " wins with " in lines[-1] and "a\x1bb" not in shown
    assert shown.index("\x1b[?25l") < shown.index("\x1b[?25h")  # the cursor is back


def test_control_characters_are_as_they_are_in_a_pipe(run: Run) -> None:
    assert run(SUM, "--regex", r"a\x1bb", "-n", "5").out == "a\x1bb\n"


@pytest.mark.parametrize(
    ("columns", "cells"),
    [
        ("80", " 5 100.0% 47.8%-100.0% +█{14,}"),
        ("40", " 5 100.0% 47.8%-100.0%"),
        ("30", " 5 100.0%"),
    ],
)
def test_a_long_answer_is_cut_and_no_number(
    run: Run, monkeypatch: pytest.MonkeyPatch, columns: str, cells: str
) -> None:
    monkeypatch.setenv("COLUMNS", columns)
    answer = "很长的回答啊" * 4
    done = run(SUM, "--regex", answer, "-n", "5", "--no-curtail", "--max-tokens", "99")
    assert done.out == f"{answer}\n"
    _, row, _ = done.err.splitlines()
    found = re.fullmatch(f"(.+?) ?…{cells.replace(' ', ' +')}( +█+)?", row)
    assert answer.startswith(found[1]) and len(found[1]) >= 3
    assert len(row) + len(found[1]) <= int(columns)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_vote_can_be_ended(number: int) -> None:
    screen = Screen()
    streams = {"stdout": subprocess.PIPE, "stderr": screen.slave}
    with started("fewshot", SUM, *ENDLESS, **streams) as process:
        shown = ""
        while (
            len(set(re.findall(r"(\d+) of 1000000000 samples", shown))) < 3
        ):  # drawn again and again
            shown += screen.until(" samples, ")
        process.send_signal(number)
        shown += screen.read()
        assert process.wait(60) == 128 + number
        assert process.stdout.read() == b""
    lines = seen(shown)
    if number == signal.SIGTERM:
        assert lines == []
        return
    assert lines[0].split()[0] == "answer" and lines[-1].startswith("stopped: ")
    assert sum("answer " in line and "votes" in line for line in lines) == 1
    assert "samples, " not in "".join(lines[:-1])


def test_an_interrupted_vote_as_json(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(boards, "progress", interrupt)
    found = record(run(SUM, *ENDLESS, "--json"), code=130)
    assert found["partial"] and not found["certified"] and found["verdict"] == "running"
    assert 0 < found["drawn"] < found["n"]
    exact = run(SUM, *DIGITS, "--exact", "--json")
    assert record(exact, code=130)["partial"] and "stopped: " in exact.err
    assert run(SUM, *DIGITS, "--exact").out == ""


def interrupt(tally: Any, seconds: float) -> str:
    """Ctrl-C, and what TensorFlow makes of its exception where it was converting a tensor."""
    if tally.drawn or tally.prefixes > 3:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise SystemError("returned a result with an exception set") from None
    return ""


def test_a_reader_that_is_gone() -> None:
    streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    with started("fewshot", SUM, *ONE, "-n", "5", **streams) as process:
        process.stdout.close()
        assert process.wait(60) == 141
        assert process.stderr.read().decode().splitlines()[-1].startswith("8 wins")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # not closed
def test_a_full_disk(run: Run, template: str, write: Callable[..., str]) -> None:
    done = run(SUM, *ONE, "-n", "5", "-o", "/dev/full")
    data = write("d.csv", "input\n1+1\n")
    rows = run(template, *ONE, "-n", "5", "--data", data, "--json", "-o", "/dev/full")
    for one in (done, rows):
        assert (one.code, one.out) == (1, "")
        assert "error: cannot write /dev/full: No space left on device" in one.err
    assert run(SUM, "-o", "/nowhere/x").code == 2


# Numbers


def test_json_is_consistent(run: Run) -> None:
    done = run(SUM, *DIGITS, "-n", "200", "--json", "--no-curtail")
    found = record(done)
    keys = "prompt model precision law answer text certified partial way verdict answers tied n"
    keys += " drawn unfinished invalid invalid_mass invalid_share unseen bounds confidence"
    keys += " certified_at log_e log_threshold seed computed independent"
    assert list(found) == keys.split()
    assert found["prompt"] == Path(SUM).read_text().rstrip("\n")
    assert (found["model"], found["precision"], found["seed"]) == ("tiny-zh", "fp32", 1)
    assert (found["way"], found["verdict"], found["bounds"]) == (
        "sampled",
        "decided",
        "95 % interval",
    )
    assert found["law"]["temperature"] == 5 and found["law"]["stop"] == ["\n"]
    answers = found["answers"]
    assert found["n"] == found["drawn"] == found["independent"]["rows"] == 200
    assert sum(one["votes"] for one in answers) + found["invalid"] == 200
    assert len(answers) > 5 and {one["answer"] for one in answers} <= set("0123456789")
    for one in answers:
        assert list(one) == ["answer", "text", "votes", "share", "low", "high", "mass"]
        assert one["share"] == one["votes"] / 200
        assert one["low"] < one["share"] < one["high"] and 0 < one["mass"] < 1
    votes = [one["votes"] for one in answers]
    assert votes == sorted(votes, reverse=True) and found["answer"] == answers[0]["answer"]
    assert found["tied"] == votes.count(votes[0])
    assert found["computed"]["prefixes"] <= found["computed"]["tokens"]
    assert found["computed"]["tokens"] <= found["independent"]["tokens"]
    assert done == run(SUM, *DIGITS, "-n", "200", "--json", "--no-curtail")


def test_curtailed_bounds_and_the_winner_of_all(run: Run) -> None:
    whole = record(run(SUM, *DIGITS, "-n", "100", "--json", "--no-curtail"))
    some = record(run(SUM, *DIGITS, "-n", "100", "--json"))
    assert some["answer"] == whole["answer"] and some["drawn"] <= 100
    of_all = {one["answer"]: one["share"] for one in whole["answers"]}
    for one in some["answers"]:
        assert one["low"] <= of_all[one["answer"]] <= one["high"]
    sure = record(run(SUM, *ONE, "-n", "99", "--json"))
    (one,) = sure["answers"]
    assert (one["low"], one["high"]) == (sure["drawn"] / 99, 1)


def test_seeds(run: Run) -> None:
    flags = (SUM, *DIGITS[:-2], "-n", "30", "--no-curtail", "--json")
    first, second = (record(run(*flags)) for _ in range(2))
    assert first["seed"] != second["seed"]
    again = record(run(*flags, "--seed", str(first["seed"])))
    assert again == first


def test_stratified_samples(run: Run) -> None:
    flags = (SUM, *DIGITS, "-n", "30", "--no-curtail", "--json", "--stratified")
    assert record(run(*flags))["answers"] == record(run(*flags))["answers"]
    assert "interval" not in run(*flags).err


def test_confidence(run: Run) -> None:
    done = run(SUM, *ONE, "--confidence", "0.95")
    assert (done.code, done.out) == (0, "8\n")
    assert done.err.splitlines()[-1] == (
        "certified: 8 is the most probable answer (after temperature and filters), at confidence"
        " 95 % after 9 samples"
    )
    found = record(run(SUM, *ONE, "--confidence", "0.95", "--require-certificate", "--json"))
    assert found["certified"] and found["certified_at"] == found["drawn"] == 9
    assert found["log_e"] >= found["log_threshold"]


def test_undecided_is_a_result_and_with_require_certificate_exit_5(run: Run) -> None:
    flags = (SUM, *ONE, "--confidence", "0.95", "-n", "8")
    done = run(*flags)
    assert (done.code, done.out) == (0, "8\n")
    assert "undecided at confidence 95 %: 8 leads with 8 of 8 votes" in done.err
    strict = run(*flags, "--require-certificate")
    assert (strict.code, strict.out) == (5, "8\n")
    assert strict.err.splitlines()[-2:] == ["error: the answer is not certain", "hint: raise --n"]
    found = record(run(*flags, "--require-certificate", "--json"), code=5)
    assert not found["certified"] and found["answer"] == "8"


def test_exact_repeats_and_draws_nothing(run: Run) -> None:
    flags = (SUM, *DIGITS[:-2], "--exact")
    first = run(*flags, "--json")
    assert first == run(*flags, "--json") and run(*flags).code == 0
    found = record(first)
    assert found["certified"] and found["verdict"] == "exact"
    assert (found["n"], found["drawn"], found["seed"]) == (0, 0, None)
    masses = [one["mass"] for one in found["answers"]]
    assert sum(masses) + found["unseen"] + found["invalid_mass"] == pytest.approx(1, abs=1e-6)
    assert found["answers"][0]["low"] > found["answers"][1]["high"]
    table = run(*flags).err.splitlines()
    assert table[0].split() == ["answer", "share", "bounds"]
    assert table[-1].startswith(f"exact: {found['text']} has probability 0.")


def test_a_small_budget_is_an_estimate(run: Run) -> None:
    flags = (OPPOSITE, *WILD, "--exact", "--budget", "3", "-n", "20", "--seed", "1")
    done = run(*flags)
    assert done.code == 0 and "estimated: the budget left " in done.err
    assert "by 20 samples of that" in done.err and "(not seen)" in done.err
    strict = run(*flags, "--require-certificate")
    assert strict.code == 5 and strict.err.splitlines()[-1] == "hint: raise --budget"
    found = record(run(*flags, "--json"))
    votes = sum(one["votes"] for one in found["answers"])
    shares = sum(one["share"] for one in found["answers"])
    assert votes + found["invalid"] == 20 and not found["certified"]
    assert shares + found["invalid_share"] == pytest.approx(1, abs=1e-6)


# Prompts


def test_input_fills_the_template(run: Run, template: str) -> None:
    found = record(run(template, "--input", "{input}+", *ONE, "-n", "2", "--json"))
    assert found["prompt"] == TEMPLATE.replace("{input}", "{input}+")
    told(run(template), 2, "template.txt has {input}", "--input TEXT or --data FILE")
    told(run(SUM, "--input", "2"), 2, "--input is '2', ", "write it there")


def test_a_file_loses_one_newline_and_no_blank(run: Run, write: Callable[..., str]) -> None:
    for data in ("水 water\n树 tree\n鸟 \n", "水 water\n树 tree\n鸟 "):
        found = record(run(write("a.txt", data), *ONE, "-n", "2", "--json"))
        assert found["prompt"] == "水 water\n树 tree\n鸟 "


def test_a_file_of_windows_gives_the_same_vote(run: Run, write: Callable[..., str]) -> None:
    text = "大=>小\n高=>矮\n快=>慢\n安静=>"
    flags = ("-n", "40", "--seed", "1", "--json")
    plain = record(run(write("a.txt", text), *flags))
    assert plain["prompt"] == text
    for data in ("\ufeff" + text, text.replace("\n", "\r\n"), "\ufeff" + text + "\r\n"):
        assert record(run(write("b.txt", data), *flags)) == plain
        assert record(run("-", *flags, stdin=data.encode())) == plain


def test_a_template_and_rows_of_windows_give_the_same_votes(
    run: Run, write: Callable[..., str]
) -> None:
    flags = ("-n", "20", "--seed", "1", "--json", "--data")
    template, rows = "大=>小\n高=>矮\n{input}=>", 'input\n快\n"长\n短"\n'
    plain = run(write("a.txt", template), *flags, write("a.csv", rows)).out
    windows = [
        write(f"b.{end}", "\ufeff" + text.replace("\n", "\r\n"))
        for end, text in (("txt", template), ("csv", rows))
    ]
    assert run(windows[0], *flags, windows[1]).out == plain and plain.count("\n") == 2


def test_without_examples_a_stop_is_needed(run: Run, write: Callable[..., str]) -> None:
    plain = write("plain.txt", "今天天气不错")
    told(run(plain), 2, "plain.txt has no examples that end as its last line does", "--stop '\\n'")
    done = run(plain, "--stop", "。", "--stop", "！", *ONE, "-n", "2", "--json")
    assert record(done)["law"]["stop"] == ["。", "！"]


@pytest.mark.parametrize(
    ("data", "message", "hint"),
    [
        (b"", "the prompt is empty", "at least one"),
        (b"\n", "the prompt is empty", "at least one"),
        (b"\xc4\xe3\n", "is not UTF-8: byte 0xc4 at offset 0", "iconv"),
        (None, "cannot read", "check the path"),
    ],
)
def test_what_is_no_prompt(
    run: Run, tmp_path: Path, data: bytes | None, message: str, hint: str
) -> None:
    path = tmp_path / "prompt.txt"
    if data is not None:
        path.write_bytes(data)
    told(run(str(path)), 2, message, hint)


def test_standard_input_is_named(run: Run) -> None:
    done = run("-", stdin="天气\n".encode())
    told(done, 2, "standard input has no examples", "--stop")


def test_no_valid_answer(run: Run) -> None:
    flags = (SUM, *ONE, "-n", "5", "--answer-regex", "x")
    done = run(*flags)
    assert (done.code, done.out) == (1, "")
    table, error, hint = done.err.splitlines()[1:]
    assert table.startswith("(no answer)")
    assert error == "error: no valid answer in 5 samples" and "--answer-regex" in hint
    found = record(run(*flags, "--json"), code=1)
    assert (found["answer"], found["text"], found["invalid"]) == (None, None, 5)
    assert run(*flags, "-q").err.splitlines() == [error, hint]
    exact = run(*flags[:3], *flags[5:], "--exact")
    assert exact.code == 1 and "error: no valid answer in " in exact.err


def test_too_long_is_no_answer(run: Run) -> None:
    done = run(OPPOSITE, "--regex", "一二三四五六七八九十", "-n", "5", "--max-tokens", "2")
    assert done.code == 1 and "raise --max-tokens" in done.err


# Flags


@pytest.mark.parametrize(
    ("flags", "message", "hint"),
    [
        (
            ("--input", "a", "--data", "b.csv"),
            "both --input ('a') and --data are given",
            "drop one",
        ),
        (("--confidence", "0.9", "--exact"), "--confidence and --exact", "drop one"),
        (("--budget", "9"), "--budget is 9, which is for --exact", "add --exact"),
        (("--stratified", "--confidence", "0.9"), "--stratified samples depend", "drop one"),
        (("--require-certificate",), "nothing certifies", "--confidence 0.95 or --exact"),
        (("--plot", "a.svg", "--data", "b.csv"), "--plot is for one vote", "drop one"),
        (("--explain", "--data", "b.csv"), "--explain is for one vote", "drop one"),
        (("--label", "a"), "--label is 'a', without --data", "add --data FILE"),
        (("--compare",), "--compare is for rows with labels", "add --data FILE"),
        (("--n", "1000000000"), "--n is '1000000000'", "1 to 1000000"),
        (("--plot", "a.pdf"), "--plot is 'a.pdf'", ".svg or .png"),
        (("--plot", "/nowhere/a.svg"), "--plot is '/nowhere/a.svg', in no folder", "folder"),
        (("--temperature", "0"), "--temperature is 0, of 300 samples", "--n 1, or --exact"),
        (("--data", "b.csv"), "has no {input} for the rows of b.csv to fill", "{input}"),
        (("--answer-regex", "("), "the answer regex '(' is not valid", "regular expression"),
        (("--confidence", "1"), "--confidence is '1'", "> 0 and <= 0.999999"),
        (("--n", "0"), "--n is '0'", "1 to"),
        (("--regex", "("), "--regex is '('", "look-around"),
        (("-o", "/nowhere/x"), "cannot write /nowhere/x: No such file", "--output"),
    ],
)
def test_what_is_refused(run: Run, flags: tuple[str, ...], message: str, hint: str) -> None:
    told(run(SUM, *flags), 2, message, hint)


def test_no_examples_to_explain_and_no_file(run: Run, write: Callable[..., str]) -> None:
    plain = write("plain.txt", "今天天气不错")
    told(run(plain, "--stop", "。", "--explain"), 2, "plain.txt has no examples", "drop it")
    told(run(), 2, "FILE|- is missing", "see gentool fewshot --help")


def test_temperature_0_has_one_answer(run: Run) -> None:
    one = run(SUM, "--temperature", "0", "-n", "1")
    exact = run(SUM, "--temperature", "0", "--exact")
    assert one.code == exact.code == 0 and one.out == exact.out


def test_a_byte_order_mark_and_crlf_change_no_vote(run: Run, write: Callable[..., str]) -> None:
    plain = Path(OPPOSITE).read_text("utf-8")
    marked = write("windows.txt", "\ufeff" + plain.replace("\n", "\r\n"))
    options = ("-n", "20", "--seed", "1", "--json")
    assert record(run(marked, *options)) == record(run(OPPOSITE, *options))
    schema = write("schema.json", '\ufeff{"type": "integer"}')
    assert run(SUM, "-n", "3", "--json-schema", schema).code == 0


def test_help_names_defaults(run: Run) -> None:
    shown = run("--help").out
    for default in ("300", "32", "1000", "label", "stdout", "tiny-zh"):
        assert f"[default: {default}" in shown
    own = ("Prompt", "Vote", "Output")
    groups = [group for group in command.groups.values() if group.heading in own]
    for group in groups:
        for option in group.options:
            assert any(option.help in line for line in shown.splitlines() if len(line) <= 100)


# A picture, and what the answer hangs on


@pytest.mark.parametrize("name", ["vote.svg", "vote"])
def test_a_picture(run: Run, tmp_path: Path, name: str) -> None:
    done = run(OPPOSITE, "--regex", "短&长", "-n", "5", "--plot", str(tmp_path / name))
    assert (done.code, done.out) == (0, "短&长\n")
    assert "短&amp;长" in (tmp_path / "vote.svg").read_text("utf-8")


def test_a_picture_of_points(run: Run, tmp_path: Path) -> None:
    done = run(SUM, "--regex", "8", "-n", "5", "--plot", str(tmp_path / "vote.png"))
    assert (done.code, done.out) == (0, "8\n")
    assert (tmp_path / "vote.png").read_bytes()[1:4] == b"PNG"


def test_a_picture_that_no_font_here_can_show_is_an_svg(run: Run, tmp_path: Path) -> None:
    answer, path = "短\U0010fffd", tmp_path / "vote.png"  # private: no font has it
    done = run(OPPOSITE, "--regex", answer, "-n", "5", "--plot", str(path))
    assert done.out == f"{answer}\n" and not path.exists()
    assert answer in path.with_suffix(".svg").read_text("utf-8")
    assert done.err.splitlines()[-1].endswith(f"of {path}: drawn as {tmp_path / 'vote.svg'}")
    assert "Warning" not in done.err


def test_explain(run: Run) -> None:
    done = run(SUM, "--explain", "-n", "5", "--seed", "1", "--json")
    changes = {one["prompt"]: one for one in record(done)["explain"]}
    examples = Path(SUM).read_text().splitlines()[:-1]
    without = [f"without {example}" for example in examples]
    first, *names = changes
    assert first == "as it is" and names[: len(without)] == without
    orders = names[len(without) :]
    assert len(orders) == 8 and all(re.fullmatch("in order( [1-5]){5}", name) for name in orders)
    for one in changes.values():
        assert 0 <= one["low"] <= one["high"] <= 1 + 1e-9
    lines = done.err.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("prompt"))
    assert lines[at].split() == ["prompt", "probability", "change"]
    assert sorted(re.split("  +", line)[0] for line in lines[at + 1 : -1]) == sorted(changes)
    assert run(SUM, "--explain", "-n", "5", "--seed", "1").out.count("\n") == 1


# Rows


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("d.csv", "n,input\n1,2+6\n2,3+4\n3,1+1\n"),
        ("d.tsv", "n\tinput\n1\t2+6\n2\t3+4\n3\t1+1\n"),
        ("d.jsonl", '{"input": "2+6"}\n{"input": "3+4", "n": 2}\n{"input": "1+1"}\n'),
    ],
)
def test_a_line_a_row_in_order(
    run: Run, template: str, write: Callable[..., str], tmp_path: Path, name: str, data: str
) -> None:
    path = tmp_path / "out"
    flags = (template, "--data", write(name, data), "-n", "20", "--seed", "1")
    done = run(*flags)
    assert (done.code, done.err, done.out.count("\n")) == (0, "", 3)
    assert run(*flags, "-o", str(path)).out == "" and path.read_text() == done.out
    rows = [json.loads(line) for line in run(*flags, "--json").out.splitlines()]
    assert [row["row"] for row in rows] == [0, 1, 2]
    assert [row["prompt"].splitlines()[-1] for row in rows] == ["2+6=", "3+4=", "1+1="]
    assert [row["text"] for row in rows] == done.out.splitlines()


def test_broken_rows_are_reported_and_the_others_done(
    run: Run, template: str, write: Callable[..., str]
) -> None:
    data = write("d.jsonl", '{"input": "2+6"}\n{"input":\n{"x": 1}\n\n{"input": "1+1"}\n')
    done = run(template, "--data", data, *ONE, "-n", "5")
    assert (done.code, done.out) == (4, "8\n\n\n\n8\n")
    errors = [line for line in done.err.splitlines() if line.startswith("error: ")]
    assert [line.partition(data)[0] for line in errors[:3]] == [
        f"error: row {i} of " for i in (1, 2, 3)
    ]
    assert errors[3] == "error: 3 of 5 rows have no answer"
    rows = [
        json.loads(line)
        for line in run(template, "--data", data, *ONE, "-n", "5", "--json").out.splitlines()
    ]
    assert ["error" in row for row in rows] == [False, True, True, True, False]
    assert rows[2]["error"] == "it has no input"


def test_a_file_whose_rows_cannot_be_used(
    run: Run, template: str, write: Callable[..., str]
) -> None:
    named = write("d.csv", "word,x\na,b\n")
    told(run(template, "--data", named), 2, "d.csv has no column input", "it has word, x")
    good = write("e.csv", "input\na\n")
    told(run(template, "--data", good, "--label", "y"), 2, "e.csv has no column y", "it has input")
    told(run(template, "--data", write("f.csv", "input\n")), 2, "f.csv has no rows", "at least one")
    told(run(template, "--data", "gone.csv"), 2, "cannot read gone.csv", "path")
    told(run(template, "--data", "gone.txt"), 2, "gone.txt is no data file", ".csv")


def test_all_rows_broken(run: Run, template: str, write: Callable[..., str]) -> None:
    done = run(template, "--data", write("d.jsonl", '{"input"\n{"input": null}\n{"x": 1}\n'))
    assert done.code in (2, 4) and done.out.strip("\n") == ""


def test_rows_without_an_answer(run: Run, template: str, write: Callable[..., str]) -> None:
    data = write("d.csv", "input\n2+6\n")
    done = run(template, "--data", data, *ONE, "-n", "5", "--answer-regex", "x")
    assert (done.code, done.out) == (4, "\n")
    assert "error: 1 of 1 rows have no answer" in done.err


def test_rows_can_require_certificates(run: Run, template: str, write: Callable[..., str]) -> None:
    flags = (template, "--data", write("d.csv", "input\n2+6\n1+1\n"), *ONE, "--confidence", "0.95")
    assert run(*flags, "--require-certificate") == (0, "8\n8\n", "")
    done = run(*flags, "--require-certificate", "-n", "8")
    assert (done.code, done.out) == (5, "8\n8\n")
    assert done.err.splitlines() == ["error: 2 of 2 answers are not certain", "hint: raise --n"]


def labelled(write: Callable[..., str]) -> str:
    """Labels of which two of three are 8, as every answer of ONE is."""
    return write("d.csv", 'input,right\n2+6,８\n3+4,7\n1+1,"「八」"\n')


def test_labels_give_an_accuracy(run: Run, template: str, write: Callable[..., str]) -> None:
    flags = (template, "--data", labelled(write), "--label", "right", *ONE, "-n", "5")
    alone = run(*flags)  # only the vote is computed
    assert (alone.code, alone.out) == (0, "8\n8\n8\n")
    assert {line.split(",")[0] for line in alone.err.splitlines() if ", all" in line} == {"sampled"}
    flags = (*flags, "--compare")
    done = run(*flags)
    assert (done.code, done.out) == (0, "8\n8\n8\n")
    header, *ways, footer = done.err.splitlines()
    assert header.split()[:2] == ["accuracy", "right"]
    assert [line.split()[0] for line in ways if ", all" in line] == [
        "sampled,",
        "greedy,",
        "exact,",
    ]
    assert all("2 of 3" in line and "66.7%" in line for line in ways if ", all" in line)
    *rows, last = [json.loads(line) for line in run(*flags, "--json").out.splitlines()]
    assert [row["label"] for row in rows] == ["8", "7", "8"]
    ways = ("sampled", "greedy", "exact")
    assert [row["right"] for row in rows] == [
        dict.fromkeys(ways, right) for right in (True, False, True)
    ]
    assert rows[0]["greedy"]["answer"] == rows[0]["exact"]["answer"] == "8"
    assert list(last) == ["accuracy"] and list(last["accuracy"]) == list(ways)
    for part in last["accuracy"].values():
        every = part["all"]
        assert (every["right"], every["of"], every["share"]) == (2, 3, 2 / 3)
        assert every["low"] == pytest.approx(0.0943, abs=1e-4)
        assert every["high"] == pytest.approx(0.9916, abs=1e-4)


def test_an_interrupted_run_of_rows_goes_on_to_the_same_file(
    run: Run, template: str, write: Callable[..., str], tmp_path: Path
) -> None:
    inputs = [f"{i}+{j}" for i in range(1, 3) for j in range(1, 5)]
    data = write("d.csv", "\n".join(["input,label", *(f"{one},8" for one in inputs)]))
    flags = (template, "--data", data, "--json", *DIGITS[:-2], "--no-curtail")
    path, whole = tmp_path / "out.jsonl", tmp_path / "whole.jsonl"
    with started("fewshot", *flags, "-o", str(path), stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 120
        while not path.exists() or path.read_bytes().count(b"\n") < 3:
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.01)
        process.kill()
    lines = path.read_bytes().splitlines(keepends=True)
    seed = json.loads(lines[0])["run_seed"]
    path.write_bytes(b"".join(lines[:2]) + lines[2][:100])
    done = run(*flags, "-o", str(path))
    assert done.code == 0, done.err
    assert done.err.splitlines()[0] == f"2 of 8 rows are in {path}; going on"
    assert run(*flags, "-o", str(whole), "--seed", str(seed)).code == 0
    assert path.read_bytes() == whole.read_bytes() and len(records(path)) == 9


def test_a_file_of_another_run_is_refused_and_left_alone(
    run: Run, template: str, write: Callable[..., str], tmp_path: Path
) -> None:
    path = tmp_path / "out.jsonl"
    data = write("d.csv", "input\n2+6\n3+4\n")
    flags = (template, "--json", "-o", str(path), *ONE)
    assert run(*flags, "--data", data, "-n", "5", "--seed", "1").code == 0
    mine = path.read_bytes()
    changes = [
        ("--data", data, "-n", "6"),
        ("--data", data, "-n", "5", "--regex", "9"),
        ("--data", data, "-n", "5", "--seed", "2"),
        ("--data", data, "-n", "5", "--set", "sampling.top_k=3"),
        ("--data", write("e.csv", "input\n2+6\n3+5\n"), "-n", "5"),
        ("--data", write("f.csv", "input\n2+6\n"), "-n", "5"),
    ]
    refusal = "out.jsonl holds something else than the first rows of this run"
    for change in changes:
        told(run(*flags, *change), 2, refusal, "remove it, or give another --output")
    more = write("g.csv", "input\n2+6\n3+4\n1+1\n")
    assert path.read_bytes() == mine
    assert run(*flags, "--data", more, "-n", "5").code == 0
    assert path.read_bytes().startswith(mine) and len(records(path)) == 3
    for text in (b"notes", b"notes\n", b'{"row": 0, "run": "x'):
        path.write_bytes(text)
        told(run(*flags, "--data", data, "-n", "5"), 2, refusal, "another --output")
        assert path.read_bytes() == text


def test_a_second_run_on_one_output_is_refused(
    run: Run, template: str, write: Callable[..., str], tmp_path: Path
) -> None:
    path, data = tmp_path / "out.jsonl", write("d.csv", "input\n" + "2+6\n" * 400)
    flags = (template, "--data", data, "--json", *DIGITS, "-n", "100", "-o", str(path))
    with started("fewshot", *flags, stderr=subprocess.DEVNULL) as process:
        until = time.monotonic() + 120
        while not path.exists() or not path.read_bytes():
            assert time.monotonic() < until and process.poll() is None
            time.sleep(0.01)
        told(run(*flags), 2, f"another run of gentool writes to {path}", "another --output")
        process.kill()
    assert run(*flags).code == 0  # a killed run holds no lock
    assert [record["row"] for record in records(path)] == list(range(400))
