"""The models in configs/: short files that leave no number to a default, and have as many
parameters as was published."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pytest

from gentool.config.lookup import configs
from gentool.config.model import LEARNED_POSITIONS, ModelFile
from gentool.config.schema import parse, read_yaml
from gentool.models import load_family

PATHS = sorted(configs().glob("*.yaml"))

# parameters and to how many digits they were published: 0 is the very number
PUBLISHED = {
    "cpm-lm": (2_597_073_920, 0),  # printed by the original: issue 77 of TsinghuaAI/CPM-1-Generate
    "cpm-lm-hf": (2_597_073_920, 0),  # copies of it
    "cpm-lm-bert4keras": (2_597_073_920, 0),
    "cpm-lm-tf2": (2_597_073_920, 0),
    "cpm-distill": (109_000_000, -6),  # README of TsinghuaAI/CPM-1-Distill
    "gpt2-ml-15g": (1_394_000_000, -6),  # the shapes in the checkpoints' indexes
    "gpt2-ml-30g": (1_374_000_000, -6),
    "gpt2": (124_439_808, 0),  # these and the next as transformers, keras-hub, llama.cpp count them
    "gpt2-xl": (1_557_611_200, 0),
    "gpt2-chinese-cluecorpussmall": (102_068_736, 0),
    "llama-2-7b": (6_738_415_616, 0),
    "llama-3-8b": (8_030_261_248, 0),
    "llama-3.2-1b": (1_235_814_400, 0),
    "qwen2-0.5b": (494_032_768, 0),
    "qwen2.5-0.5b": (494_032_768, 0),
    "qwen2.5-7b": (7_615_616_512, 0),
    "qwen3-0.6b": (596_049_920, 0),  # its file has lm_head, 155_582_464, besides
    "gemma-2b": (2_506_172_416, 0),
    "gemma-2-2b": (2_614_341_888, 0),
    "pangu-alpha-2.6b": (2_625_459_200, 0),  # shapes in the port's convert_from_pytorch_2.6.ipynb
}

EVERYWHERE = {"n_layer", "n_head", "d_model", "d_ff", "n_vocab", "n_ctx", "norm_eps"}
ROTARY = {"n_kv_head", "d_head", "rope_theta", "tied_head"}
GEMMA2 = {"window", "window_layers", "query_scale", "score_cap", "logit_cap"}


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request: pytest.FixtureRequest) -> Path:
    return request.param


def model(path: Path) -> ModelFile:
    return parse(ModelFile, read_yaml(path), str(path))


def test_every_model_is_counted() -> None:
    assert {path.stem for path in PATHS} == PUBLISHED.keys()


def test_a_file_is_short_and_says_where_it_is_from(path: Path) -> None:
    lines = path.read_text("utf-8").splitlines()
    assert len(lines) <= 30
    assert max(map(len, lines)) <= 100
    comments = [line for line in lines if line.startswith("# ")]
    assert lines[: len(comments)] == comments  # all of them before the first key
    for word in ("Source: .*https://", "Licence of the weights: ", "Numbers: "):
        assert re.search(f"^# {word}", "\n".join(comments), re.MULTILINE), word


def test_names_are_the_name_of_the_file(path: Path) -> None:
    file = model(path)
    assert file.name == path.stem
    assert file.tokenizer
    for inside in (file.checkpoint, file.tokenizer.model):
        assert inside.startswith(f"{path.stem}/")


def test_no_number_is_left_to_a_default(path: Path) -> None:
    file = model(path)
    learned = file.family in LEARNED_POSITIONS
    needed = EVERYWHERE | ({"activation"} if learned else ROTARY)
    needed |= GEMMA2 if file.family == "gemma2" else set()
    assert needed <= read_yaml(path)["arch"].keys()
    assert file.tokenizer and file.tokenizer.end
    assert max(file.tokenizer.end) < file.arch.n_vocab
    assert {"tokenizer", "precision"} <= read_yaml(path).keys()


def test_the_parameters_are_as_many_as_published(path: Path) -> None:
    file = model(path)
    family = load_family(file.family)
    tables = [family.top_tensors(file.arch)]
    tables += [family.layer_tensors(file.arch, index) for index in range(file.arch.n_layer)]
    count = sum(math.prod(shape) for table in tables for shape in table.values())
    published, digits = PUBLISHED[path.stem]
    assert round(count, digits) == published
