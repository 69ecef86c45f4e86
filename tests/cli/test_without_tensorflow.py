"""Every command that neither trains nor asks for XLA runs where TensorFlow cannot be imported: each
in a process of its own, with every decoder."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BLOCKER = """
import sys

class Blocker:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("tensorflow", "keras"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Blocker())
"""
PROGRAM = BLOCKER + "from gentool import cli; sys.exit(cli.main())"
PROMPT = "从前有一只小猫，"
SHORT = ("--max-tokens", "4", "--seed", "1")
RUNS = {
    "greedy": ("complete", PROMPT, *SHORT, "--temperature", "0"),
    "samples": ("complete", PROMPT, *SHORT, "-n", "3", "--json", "--logprobs", "2"),
    "stratified": ("complete", PROMPT, *SHORT, "-n", "3", "--stratified", "--batch-invariant"),
    "beams": ("complete", PROMPT, *SHORT, "--beams", "3", "--n-best", "2"),
    "groups": ("complete", PROMPT, *SHORT, "--beams", "4", "--beam-groups", "2"),
    "contrastive": ("complete", PROMPT, *SHORT, "--penalty-alpha", "0.6", "--top-k", "4"),
    "alternatives": ("complete", PROMPT, *SHORT, "--alternatives", "3"),
    "lookup": ("complete", "一二三一二三一二", *SHORT, "--lookup", "4"),
    "choice": ("complete", PROMPT, "--choice", "它", "--choice", "他", "--seed", "1"),
    "regex": ("complete", PROMPT, "--regex", "[它他]们?", "--seed", "1"),
    "ban": ("complete", PROMPT, *SHORT, "--ban", "它"),
    "int8": ("complete", PROMPT, *SHORT, "--precision", "int8"),
    "int4": ("complete", PROMPT, *SHORT, "--precision", "int4"),
    "score": ("score", "今天天气不错"),
    "choose": ("choose", "法国的首都是", "--choice", "巴黎", "--choice", "北京"),
    "fewshot": ("fewshot", "prompt.txt", "--n", "8", "--seed", "1"),
    "certified": ("fewshot", "prompt.txt", "--confidence", "0.9", "--n", "32", "--seed", "1"),
    "exact": ("fewshot", "prompt.txt", "--exact"),
    "convert": ("convert", "tiny-zh", "copy", "--precision", "int8"),
    "list": ("models", "list"),
    "show": ("models", "show", "tiny-zh"),
    "verify": ("models", "verify", "tiny-zh"),
}


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = os.environ | {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(folder)}
    command = [sys.executable, "-c", PROGRAM, *arguments]
    return subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, timeout=120)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    (folder / "prompt.txt").write_text("1+1=2\n2+1=3\n3+1=", "utf-8")
    return folder


@pytest.mark.parametrize("name", RUNS)
def test_runs(name: str, folder: Path) -> None:
    done = run(folder, *RUNS[name])
    assert done.returncode == 0, done.stderr
    assert done.stdout


@pytest.mark.parametrize("flags", [("--xla",), ("--no-xla",), ("--precision", "bf16")])
def test_what_needs_tensorflow_asks_for_it(flags: tuple[str, ...], folder: Path) -> None:
    done = run(folder, "complete", PROMPT, *SHORT, *flags)
    assert done.returncode == 1
    assert "is blocked" in done.stderr
