"""`gentool bench` from the outside."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from cli.shell import gentool, within
from cli.test_complete import told
from folders import arch, random_gpt2
from pytest import CaptureFixture

from gentool.benchmark import machine
from gentool.benchmark.measure import Plan, Report, Result
from gentool.cli.bench import (
    PlanFlags,
    aligned,
    batches,
    model_options,
    plan_of,
    result_lines,
    text,
)
from gentool.cli.flags import ModelFlags

QUICK = ("-p", "8", "-g", "4", "-b", "2,1", "-r", "1")


@pytest.fixture
def folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> str:
    """A random model, on a machine that is measured in no time."""
    monkeypatch.setattr(machine, "READ_BYTES", 1 << 22)
    monkeypatch.setattr(machine, "MATRIX_SIDE", 64)
    return str(random_gpt2(tmp_path / "random", arch(), np.float32))


@pytest.mark.parametrize(
    ("flag", "value", "hint"),
    [
        ("--batch", "0", "give a whole number 1 to 4096, or several separated by commas"),
        ("--batch", "x", "give a whole number 1 to 4096, or several separated by commas"),
        ("--batch", "1,,2", "as in 1,8,64"),
        ("--prompt-tokens", "0", "give a whole number 1 to"),
        ("--generate", "1", "give a whole number 2 to"),
        ("--repeat", "0.5", "give a whole number 1 to"),
        ("--precision", "fp8", "it can be auto, fp32, fp16, bf16"),
    ],
)
def test_a_bad_flag_is_named_with_its_value(
    capfd: CaptureFixture[str], flag: str, value: str, hint: str
) -> None:
    told(within(capfd, "bench", flag, value), 2, f"{flag} is '{value}'", hint)


def test_mistakes_are_found_before_anything_is_measured(
    capfd: CaptureFixture[str], tmp_path: Path
) -> None:
    told(within(capfd, "bench", "--json", "--jsonl"), 2, "both --json and --jsonl", "drop one")
    told(within(capfd, "bench", "-m", "nobody"), 3, "unknown model nobody", "")
    lost = str(tmp_path / "gone" / "file")
    told(within(capfd, "bench", "-o", lost), 2, f"cannot write {lost}", "")


def test_flags_become_a_plan_and_the_options_of_a_fresh_process() -> None:
    assert plan_of(PlanFlags()) == Plan()
    assert PlanFlags.__dataclass_fields__.keys() == set(Plan._fields)
    given = PlanFlags(prompt_tokens=7, batch=(2, 4), repeat=3, cold_start=False)
    assert plan_of(given) == Plan(7, 64, (2, 4), 3, False)
    assert batches("8,1,8") == (8, 1)
    assert model_options(ModelFlags()) == ["--model", "tiny-zh"]
    changes = {"set": (("a.b", "1"),), "adapter": ("l",)}
    given = ModelFlags(model="m", precision="bf16", xla=False, **changes)
    assert model_options(given) == [
        *("--model", "m", "--set", "a.b=1", "--adapter", "l", "--precision", "bf16", "--no-xla")
    ]


def test_json_and_jsonl(capfd: CaptureFixture[str], folder: str, tmp_path: Path) -> None:
    done = within(capfd, "bench", "-m", folder, *QUICK, "--json", "-q", "--no-xla")
    assert (done.code, done.err) == (0, "")
    found = json.loads(done.out)
    assert list(found) == ["machine", "model", "settings", "results", "notes"]
    assert {"cpu", "cores", "memory_bytes", "python", "tensorflow"} <= set(found["machine"])
    assert (found["model"]["name"], found["model"]["precision"]) == ("random", "fp32")
    assert (found["settings"]["batch"], found["settings"]["repeat"]) == ([2, 1], 1)
    by_name = {(it["name"], it.get("batch")): it for it in found["results"]}
    step = by_name["decode_step", 2]
    assert list(step) == ["name", "unit", "batch", "median", "low", "high", "repeat", "values"]
    assert step["low"] <= step["median"] <= step["high"] and step["repeat"] == 1
    assert by_name["vote", None] == {
        "name": "vote",
        "unit": "s",
        "skipped": "random has no tokenizer",
    }
    out = tmp_path / "out.jsonl"
    done = within(capfd, "bench", "-m", folder, *QUICK, "--jsonl", "-q", "--no-xla", "-o", str(out))
    assert (done.code, done.out, done.err) == (0, "", "")
    lines = [json.loads(line) for line in out.read_text("utf-8").splitlines()]
    assert [(it["name"], it.get("batch")) for it in lines] == list(by_name)
    assert {(it["model"], it["precision"]) for it in lines} == {("random", "fp32")}
    assert all(it["runtime"].endswith("nothing compiled") for it in lines)


def test_the_table(capfd: CaptureFixture[str], folder: str) -> None:
    options = ("--precision", "bf16", "--no-cold-start", "-q")
    done = within(capfd, "bench", "-m", folder, *QUICK, *options)
    assert (done.code, done.err) == (0, "")
    about, quantities, decoding, *_ = (part.splitlines() for part in done.out.split("\n\n"))
    assert "cores" in about[0] and "TensorFlow 2." in about[0]
    assert about[1].startswith("random: 0.0 M parameters in 0.0 MB, bf16, CPU")
    assert quantities[0].split() == ["everything", "once", "median", "lowest", "highest"]
    assert any(line.startswith("prefill of 8 tokens ") for line in quantities)
    assert any(line.endswith("  skipped: random has no tokenizer") for line in quantities)
    assert not any(line.startswith("cold start") for line in quantities)
    assert [line.split("  ")[0] for line in decoding] == ["decoding", "2 rows", "1 row"]
    assert len({len(line) for line in decoding}) == 1  # numbers are aligned


def test_nothing_decoded_is_no_table() -> None:
    about = {"cpu": "C", "cores": 1, "gpus": 1, "memory_bytes": None}
    about |= {"python": "3", "tensorflow": "2", "gentool": "0"}
    model = {
        "name": "m",
        "parameters": 5e6,
        "bytes": 1e7,
        "precision": "fp16",
        "runtime": "nothing compiled",
    }
    results = (Result("load", "s", (0.25,)), Result("decode_step", "ms", (), skipped="no room"))
    settings = {"repeat": 1, "prompt_tokens": 1}
    assert text(Report(about, model, settings, results, ("note",))) == (
        "C, 1 cores, 1 GPU; Python 3, TensorFlow 2, gentool 0\n"
        "m: 5.0 M parameters in 10.0 MB, fp16, nothing compiled\n"
        "\n"
        "everything once                   median  lowest  highest\n"
        "load, libraries already imported   0.250   0.250    0.250  s\n"
        "decoding: a step                  skipped: no room\n"
        "\n"
        "note\n"
    )


def test_what_a_runtime_does_not_have_is_left_out() -> None:
    about = {"cpu": "C", "cores": 2, "memory_bytes": None, "python": "3", "gentool": "0"}
    model = {"name": "m", "parameters": 5e6, "bytes": 5e6, "precision": "int8"}
    results = (
        Result("prefill_time", "s", (0.5,)),
        Result("decode_step", "ms", (2.0,), 1),
        Result("decode_speed", "tokens/s", (500.0,), 1),
    )
    report = Report(about, model, {"repeat": 1, "prompt_tokens": 9}, results, ())
    assert text(report) == (
        "C, 2 cores; Python 3, gentool 0\n"
        "m: 5.0 M parameters in 5.0 MB, int8\n"
        "\n"
        "everything once      median  lowest  highest\n"
        "prefill of 9 tokens   0.500   0.500    0.500  s\n"
        "\n"
        "decoding  tokens/s  lowest  highest  ms a step\n"
        "1 row          500     500      500       2.00\n"
    )
    line, *_ = result_lines(report)
    assert list(line)[:3] == ["model", "precision", "name"]


def test_columns() -> None:
    rows = [["", "a", "bb"], ["long name", "10", "2"], ["no numbers", "and a reason"]]
    assert aligned(rows) == [
        "             a  bb",
        "long name   10   2",
        "no numbers  and a reason",
    ]
    assert aligned([]) == []


@pytest.mark.slow
def test_a_whole_run_of_the_shipped_model() -> None:
    done = gentool("bench", *QUICK, "--json", "-q")
    assert (done.code, done.err) == (0, "")
    found = {it["name"]: it for it in json.loads(done.out)["results"]}
    assert not any("skipped" in it for it in found.values())
    ratio = found["cold_start"]["median"] / found["import_tensorflow"]["median"]
    assert found["cold_start_ratio"]["median"] == pytest.approx(ratio)
