"""Sampling parameters: one field says the flag, the YAML key and the Python argument."""

from __future__ import annotations

import math
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import gentool
from gentool.cli.complete import command
from gentool.cli.console import Console
from gentool.cli.flags import sampling_params
from gentool.config import lookup, schema
from gentool.config.sampling import SamplingArguments, SamplingParams, parameters
from gentool.errors import UsageError
from gentool.generation.session import Model

# A value of each parameter that is not its default: as text of a flag, as YAML and as Python.
OTHER: dict[str, tuple[str, str, Any]] = {
    "temperature": ("0.5", "0.5", 0.5),
    "top_k": ("7", "7", 7),
    "top_p": ("0.5", "0.5", 0.5),
    "min_p": ("0.1", "0.1", 0.1),
    "typical_p": ("0.9", "0.9", 0.9),
    "repetition_penalty": ("1.5", "1.5", 1.5),
    "presence_penalty": ("-0.5", "-0.5", -0.5),
    "frequency_penalty": ("0.5", "0.5", 0.5),
    "no_repeat_ngram_size": ("3", "3", 3),
    "logit_bias": ("42:-5", "{42: -5}", {42: -5.0}),
    "ban": (r"a\n", r'["a\n"]', ("a\n",)),
    "max_tokens": ("9", "9", 9),
    "min_tokens": ("2", "2", 2),
    "stop": ("。", '["。"]', ("。",)),
    "include_stop": ("", "true", True),
}


@pytest.mark.parametrize("name", [parameter.name for parameter in parameters()])
def test_flag_yaml_and_python_say_the_same(name: str) -> None:
    flag, yaml, value = OTHER[name]
    wanted = SamplingParams(**{name: value})
    data = schema.from_yaml(f"{{{name}: {yaml}}}")
    assert schema.parse(SamplingParams, data, "") == wanted
    option = f"--{name.replace('_', '-')}"
    given = ["x", f"{option}={flag}" if flag else option]
    flags = command.read(command.make_context("complete", given, obj=Console()).params)
    config = lookup.load("tiny-zh", {"sampling": {}})
    assert sampling_params(config, {**flags.sampling, **flags.length}) == wanted


def test_python_arguments_are_the_fields() -> None:
    fields = get_type_hints(SamplingParams)
    arguments = get_type_hints(SamplingArguments)
    assert list(arguments) == [parameter.name for parameter in parameters()]
    for parameter in parameters():
        accepted = get_args(arguments[parameter.name])
        assert type(None) in accepted  # as the model's YAML says
        if parameter.type in (int, float, bool):
            assert fields[parameter.name] in accepted


@pytest.mark.parametrize(
    ("given", "message", "hint"),
    [
        ({"temprature": 1.0}, "complete: unknown key temprature", "did you mean temperature?"),
        ({"temperature": -1.0}, "complete: temperature is -1.0", "greater than or equal to 0"),
        ({"top_k": 1.5}, "complete: top_k is 1.5", "integer"),
        ({"logit_bias": {-1: 1.0}}, "-1", "greater than or equal to 0"),
        ({"max_tokens": 1 << 25}, f"max_tokens is {1 << 25}", "less than or equal to"),
        ({"min_tokens": 65}, "min_tokens 65 is more than max_tokens 64", "change one"),
    ],
)
def test_a_wrong_argument_names_itself(given: dict[str, Any], message: str, hint: str) -> None:
    model = Model.__new__(Model)
    model.config = lookup.load("tiny-zh")
    with pytest.raises(UsageError) as failure:
        model.complete("今", **given)
    assert message in failure.value.message and hint in failure.value.hint


@pytest.mark.parametrize(
    ("yaml", "message", "hint"),
    [
        ("{temprature: 1}", "unknown key temprature", "did you mean temperature?"),
        ("{stop: abc}", "stop is 'abc'", "it should be a list"),
        ("{stop: [3]}", "stop.0 is 3", "string"),
        ("{top_k: '3'}", "top_k is '3'", "integer"),
        ("{temperature: .nan}", "temperature is nan", "finite"),
        ("{include_stop: 1}", "include_stop is 1", "boolean"),
        ("{max_tokens: true}", "max_tokens is True", "integer"),
        (f"{{ban: [{'ab' * 30000}]}}", "ban has 1 texts of 60000 characters", "change"),
        (f"{{ban: [{'ab,' * 10001}]}}", "ban has 10001 texts", "change"),
    ],
)
def test_yaml_is_strict(yaml: str, message: str, hint: str) -> None:
    with pytest.raises(UsageError) as failure:
        schema.parse(SamplingParams, schema.from_yaml(yaml), "FILE")
    assert message in failure.value.message and hint in failure.value.hint


def test_a_filter_is_added_by_a_field_and_a_function(tmp_path: Path) -> None:
    """The steps that `gentool.config.sampling` documents, on a copy: they give the flag, the line
    of help, the YAML key and the Python argument, and the filter filters."""
    package = tmp_path / "gentool"
    shutil.copytree(Path(gentool.__file__).parent, package, ignore=lambda *_: ["__pycache__"])

    def insert(path: str, before: str, text: str) -> None:
        source = (package / path).read_text("utf-8")
        assert source.count(before) == 1
        (package / path).write_text(source.replace(before, text + before), "utf-8")

    flag = 'Flag("--top-a", "A", "then those of at least A times the square of the largest")'
    insert(
        "config/sampling.py",
        "    repetition_penalty: Annotated[",
        f"    top_a: Annotated[Fraction, {flag}] = 0.0\n",
    )
    insert(
        "config/sampling.py",
        "    repetition_penalty: float | None",
        "    top_a: float | None\n",
    )
    insert(
        "decoding/filters.py",
        "def typical_p(",
        "def top_a(w: np.ndarray, a: float) -> np.ndarray:\n"
        "    p = w / w.sum()\n"
        "    return np.where(p < a * p.max() ** 2, 0.0, w)\n\n\n",
    )
    program = """
import numpy as np
from gentool.cli.complete import command
from gentool.cli.console import Console
from gentool.cli.flags import sampling_params
from gentool.config import lookup
from gentool.decoding.filters import weights

context = command.make_context("complete", ["x", "--top-a", "0.5"], obj=Console())
flags = command.read(context.params)
params = sampling_params(lookup.load("tiny-zh", {"sampling": {}}), flags.sampling)
print(weights(np.log([0.6, 0.25, 0.15]), params).round(3).tolist())
print(lookup.load("tiny-zh", {"sampling.top_a": "0.25"}).sampling.top_a)
print(next(line for line in command.get_help(context).splitlines() if "--top-a" in line))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env={"PYTHONPATH": str(tmp_path), "PATH": ""},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    kept, key, line = done.stdout.splitlines()
    assert kept == "[1.0, 0.417, 0.0]"  # 0.15 is less than 0.5 * 0.36
    assert key == "0.25"
    assert re.fullmatch(
        r" +--top-a A +then those .* +\[default: the model's, else 0; 0 to 1\]", line
    )


def test_defaults_keep_every_token() -> None:
    import numpy as np

    from gentool.decoding.filters import adjusted, weights

    logits = np.log([[0.5, 0.25, 0.25]])
    assert adjusted(logits, SamplingParams(), [[0]], [[1]]) is logits
    assert weights(logits, SamplingParams()).tolist() == [[1.0, 0.5, 0.5]]
    assert not any(math.isnan(p.range.low) for p in parameters())
