"""Numbers of every magnitude at every key of a config.json, a YAML and a recipe, and at every flag:
each is bounded before it sizes anything, so it is refused in two lines or is of a sensible size."""

from __future__ import annotations

import copy
import json
import math
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from gentool.cli import COMMANDS, program
from gentool.cli.console import Console
from gentool.cli.options import Command
from gentool.config import lookup, schema
from gentool.config.model import ModelFile
from gentool.errors import Exit, GentoolError, ModelError, UsageError
from gentool.training.recipe import FinetuneRecipe, Recipe

ROOT = Path(__file__).parents[2]
GOLDEN = ROOT / "tests/golden"
LARGEST = 1 << 24  # that a number may be which sizes anything
SECONDS, BYTES = 2.0, 30 << 20  # that reading one may take
NUMBERS = (
    *(0, -1, 2, 10**9, 2**24 + 1, 2**31, 2**63, 10**400),
    *(0.5, 1e-320, 1e9, 1e30, -1e308, math.nan, math.inf),
    *("1e3", None, [2**31]),
)
# numbers that size nothing: seeds, ids, what is counted by the clock
UNBOUNDED = ("seed", "tokens", "sample_characters", "row", "budget", "stride", "hours")
FOLDERS = (
    "hf_gpt2",
    *(pytest.param(name, marks=pytest.mark.slow) for name in ("hf_llama3", "hf_gemma2")),
)
OWN = ("configs/cpm-lm.yaml", "gentool/data/tiny-zh/gentool.yaml")


def places(data: Any, way: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The ways to all values."""
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, value in items:
        if isinstance(value, dict | list) and value:
            yield from places(value, (*way, key))
        yield (*way, key)


def changed(data: Any, way: tuple[Any, ...], value: Any) -> Any:
    new = copy.deepcopy(data)
    inner = new
    for key in way[:-1]:
        inner = inner[key]
    inner[way[-1]] = value
    return new


def check_bounded(data: Any, way: tuple[Any, ...] = ()) -> None:
    """Every number is finite, and small where it may size something."""
    if isinstance(data, dict | list | tuple):
        items = data.items() if isinstance(data, dict) else enumerate(data)
        for key, value in items:
            check_bounded(value, (*way, key))
    elif isinstance(data, float):
        assert math.isfinite(data) and abs(data) <= 1e12, (way, data)
    elif isinstance(data, int) and not {*way} & {*UNBOUNDED}:
        limit = 10**9 if "sampling" in way else LARGEST
        assert abs(data) <= limit, (way, data)


def try_all(
    data: dict[str, Any], read: Callable[[dict[str, Any]], Any], code: Exit
) -> tuple[int, int]:
    """Reads `data` with every number at every place; how many are taken and how many refused."""
    taken, refused = 0, 0
    tracemalloc.start()
    try:
        for way in places(data):
            for value in NUMBERS:
                begin = time.process_time()
                tracemalloc.reset_peak()
                try:
                    found = read(changed(data, way, value))
                except GentoolError as error:
                    assert error.exit_code == code, (way, value, error)
                    assert error.message and error.hint and len(error.message) < 2000
                    refused += 1
                else:
                    check_bounded(found)
                    taken += 1
                assert time.process_time() - begin < SECONDS, (way, value)
                assert tracemalloc.get_traced_memory()[1] < BYTES, (way, value)
    finally:
        tracemalloc.stop()
    return taken, refused


@pytest.mark.parametrize("name", FOLDERS)
def test_at_every_key_of_a_config_json(name: str, tmp_path: Path) -> None:
    config = json.loads((GOLDEN / name / "config.json").read_text("utf-8"))
    for path in (GOLDEN / name).iterdir():
        if path.is_file() and path.name != "config.json":
            (tmp_path / path.name).symlink_to(path)

    def read(data: dict[str, Any]) -> Any:
        (tmp_path / "config.json").write_text(json.dumps(data), "utf-8")
        return lookup.load(str(tmp_path)).model_dump(exclude={"folder"})

    taken, refused = try_all(config, read, ModelError.exit_code)
    assert taken and refused


@pytest.mark.parametrize("name", OWN)
def test_at_every_key_of_a_yaml(name: str) -> None:
    data = yaml.safe_load((ROOT / name).read_text("utf-8"))
    data.setdefault("sampling", {}).update(temperature=1.0, top_k=5, logit_bias={3: 0.5})

    def read(new: dict[str, Any]) -> Any:
        return schema.parse(ModelFile, new, "m.yaml").model_dump()

    taken, refused = try_all(data, read, UsageError.exit_code)
    assert taken and refused


RECIPES = {"train/tiny-zh.yaml": Recipe, "train/gpt2-ml.yaml": FinetuneRecipe}


@pytest.mark.parametrize("name", RECIPES)
def test_at_every_key_of_a_recipe(name: str) -> None:
    data = {"data": ["texts.txt"]} | yaml.safe_load((ROOT / "configs" / name).read_text("utf-8"))

    def read(new: dict[str, Any]) -> Any:
        return schema.parse(RECIPES[name], new, "recipe.yaml").model_dump()

    taken, refused = try_all(data, read, UsageError.exit_code)
    assert taken and refused


def numeric_options(command: click.Command) -> Iterator[click.Option]:
    """The options whose value is a number: those that take a 1 and refuse a letter."""
    for option in command.params:
        if isinstance(option, click.Option) and not option.is_flag:
            try:
                option.type.convert("1", option, None)
            except UsageError:
                continue
            try:
                option.type.convert("x", option, None)
            except UsageError:
                yield option


@pytest.mark.parametrize("name", [*COMMANDS])
def test_at_every_flag(name: str) -> None:
    command = program.get_command(click.Context(program), name)
    if not isinstance(command, Command):
        pytest.skip("has subcommands, whose flags are no numbers")
    for option in numeric_options(command):
        for value in NUMBERS:
            text = "1" + "0" * 5000 if value == 10**400 else str(value)
            given = [*(["x"] * len(command.arguments)), f"{option.opts[-1]}={text}"]
            for needed in command.params:
                if isinstance(needed, click.Option) and needed.required:
                    given.append(f"{needed.opts[-1]}=x")
            begin = time.process_time()
            try:
                context = command.make_context(name, given, obj=Console())
            except UsageError as error:
                assert any(name in error.message for name in option.opts)
                continue
            check_bounded(context.params, ("sampling",))
            assert time.process_time() - begin < SECONDS
