"""What is tried: a target makes one case of a random generator, in a folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import click
import yaml
from folders_of_models import OWN_YAML, RECIPE
from mutations import NUMBERS, OTHERS, mutated, places, replaced, to_json, with_wrong_keys

NEAR = 4000  # bytes at the ends of a file of weights, where it says what it holds
PROMPTS = ("今天", "hello", "ab", "今天天气 hello 1+1=", "<|endoftext|>x", "é" * 8)
JSON = (".json",)
NUMERIC = ("presence_penalty", "frequency_penalty", "logit_bias")  # options without limits
KNOWN_KEYS = tuple(
    """rope_scaling rope_parameters layer_types sliding_window use_sliding_window head_dim
    num_key_value_heads attention_bias mlp_bias quantization_config max_window_layers
    partial_rotary_factor rope_theta rms_norm_eps hidden_act tie_word_embeddings eos_token_id
    add_bos_token add_prefix_space do_lower_case strip_accents tokenizer_class never_split
    added_tokens_decoder additional_special_tokens bos_token legacy truncation padding normalizer
    pre_tokenizer post_processor decoder added_tokens model""".split()
)


@dataclass(frozen=True)
class Case:
    """A run that is tried: arguments of gentool, and the exit codes that it may have."""

    arguments: tuple[str, ...]
    codes: tuple[int, ...]
    stdin: bytes = b""
    env: Mapping[str, str] = field(default_factory=dict)
    slow: bool = False  # it may take long: it asks for much

    @property
    def debug(self) -> bool:
        """Whether the run may show a traceback."""
        return "--debug" in self.arguments or "GENTOOL_DEBUG" in self.env


Target = Callable[[Random, list[Path], Path], Case]


def changed_bytes(random: Random, bases: list[Path], work: Path) -> Case:
    """Changed bytes in the files of a model's folder, or in a YAML."""
    if random.random() < 0.08:
        return _own_yaml(random, bases, work, mutated(OWN_YAML.encode(), random))
    base = random.choice(bases)
    names = [str(path.relative_to(base)) for path in sorted(base.rglob("*")) if path.is_file()]
    chosen = random.sample(names, min(len(names), random.choice((1, 1, 1, 2))))
    new = {}
    for name in chosen:
        data = (base / name).read_bytes()
        new[name] = _fitted(name, data, mutated(data, random, NEAR), random)
    return _folder_case(random, base, work, new)


def changed_keys(random: Random, bases: list[Path], work: Path) -> Case:
    """Wrong types, missing keys and keys too many in JSON and YAML files, in the header of a
    safetensors file, in a recipe."""
    draw = random.random()
    if draw < 0.15:
        data = with_wrong_keys(yaml.safe_load(OWN_YAML), random)
        return _own_yaml(random, bases, work, _to_yaml(data))
    if draw < 0.25:
        return _recipe(work, _to_yaml(with_wrong_keys(yaml.safe_load(RECIPE), random)))
    base = random.choice(bases)
    names = [
        str(path.relative_to(base))
        for path in sorted(base.rglob("*"))
        if path.suffix in (".json", ".safetensors", ".yaml") and path.is_file()
    ]
    name = random.choice(names)
    return _folder_case(random, base, work, {name: _wrong_keys(base / name, random)})


def changed_numbers(random: Random, bases: list[Path], work: Path) -> Case:
    """A number of any magnitude, or what looks like one, in the place of a number."""
    value = random.choice(NUMBERS)
    draw = random.random()
    if draw < 0.25:
        data = _other_number(yaml.safe_load(OWN_YAML), random, value)
        return _own_yaml(random, bases, work, _to_yaml(data))
    if draw < 0.35:
        return _recipe(work, _to_yaml(_other_number(yaml.safe_load(RECIPE), random, value)))
    if draw < 0.5:
        return _numeric_flag(random, bases[0], value)
    base = random.choice(bases)
    names = [
        str(path.relative_to(base))
        for path in sorted(base.rglob("*"))
        if path.suffix in (".json", ".yaml") and path.is_file()
    ]
    name = random.choice(names)
    read = yaml.safe_load if name.endswith(".yaml") else json.loads
    data = _other_number(read((base / name).read_text("utf-8")), random, value)
    text = _to_yaml(data) if name.endswith(".yaml") else to_json(data, random)
    return _folder_case(random, base, work, {name: text})


def command_lines(random: Random, bases: list[Path], work: Path) -> Case:
    """Random flags and values of every command of the table, and their variables."""
    from gentool.cli import COMMANDS

    name = random.choice([*COMMANDS, "complete", "complete", "score", "choose", "fewshot"])
    command = _command(name)
    arguments, env = [name], {}
    if isinstance(command, click.Group):
        inner = random.choice(list(command.table))  # type: ignore[attr-defined]
        arguments.append(inner)
        command = _command(name, inner)
    models = [str(base) for base in bases] + [str(work / "none"), "tiny-zh", "", "/dev/null"]
    values = [*PROMPTS, *models, "-", "x" * 3000, "--", "{}", '{"type":"integer"}', "[0-9]+", "5:1"]
    values += ["true", "hf", "auto", "int8", "a=b", "arch.n_ctx=32", "arch.n_layer=99999999999"]
    values += map(_digits, NUMBERS)
    options = [param for param in command.params if isinstance(param, click.Option)]
    positional = [param for param in command.params if isinstance(param, click.Argument)]
    arguments += [random.choice(values) for _ in positional if random.random() < 0.9]
    if name == "bench":  # which would measure for minutes
        arguments += ["-m", str(work / "none")]
    elif name in ("complete", "score", "choose", "fewshot") and random.random() < 0.9:
        arguments += ["-m", str(random.choice(bases))]
    for option in random.sample(options, min(len(options), random.choice((0, 1, 1, 2, 3, 5)))):
        long = random.choice([*option.opts, *option.secondary_opts])
        if name == "bench" and option.name == "model":
            continue
        if long in ("--output", "-o", "--out", "--plot") and random.random() < 0.9:
            arguments += [long, str(work / "output")]
        elif long in ("--xla", "--no-xla") or option.name == "threads":
            continue  # TensorFlow takes seconds; threads are the machine's
        elif option.is_flag:
            arguments.append(long)
        elif random.random() < 0.1:
            env[str(option.envvar)] = random.choice(values).replace("\0", "")
        else:
            arguments += [long, _value(option, random, values)]
    if random.random() < 0.1:
        arguments.insert(random.randrange(len(arguments) + 1), random.choice(values))
    if random.random() < 0.5:
        arguments = [a for a in arguments if a not in ("fp16", "bf16")]
    arguments = [argument.replace("\0", "") for argument in arguments]
    stdin = random.choice(
        (b"", b"hello\n", "今天\n\n明天\n".encode(), b"\xff\xfe", b"\0", b"a" * 9000)
    )
    stdin = random.choice((stdin, json.dumps({"prompt": "今天", "text": "a"}).encode() + b"\n"))
    codes = (0, 1, 2, 3, 4, 5)
    large = any(_is_large(word) for word in [*arguments, *env.values()])
    return Case(tuple(arguments), codes, stdin, env, slow=large)


TARGETS: Mapping[str, Target] = {
    "bytes": changed_bytes,
    "keys": changed_keys,
    "numbers": changed_numbers,
    "commands": command_lines,
}


def _folder_case(random: Random, base: Path, work: Path, new: Mapping[str, bytes]) -> Case:
    """A run with a copy of a folder in which some files are new."""
    folder = work / "model"
    shutil.copytree(base, folder, copy_function=os.link)
    for name, data in new.items():
        (folder / name).unlink()
        (folder / name).write_bytes(data)
    prompt = random.choice(PROMPTS)
    draw = random.random()
    arguments: tuple[str, ...] = ("complete", "-m", str(folder), "--seed", "1", "--", prompt)
    if "gentool.yaml" not in new:
        arguments = ("complete", "-m", str(folder), "--seed", "1", "--max-tokens", "2", prompt)
    if draw < 0.1:
        arguments = ("score", "-m", str(folder), prompt)
    elif draw < 0.14:
        arguments = ("models", "show", str(folder))
    elif draw < 0.18:
        arguments = ("convert", str(folder), str(work / "out"))
    elif draw < 0.2:
        arguments = ("convert", str(folder), str(work / "out"), "--precision", "int8")
    codes = (0, 2, 3) if draw < 0.2 and arguments[0] == "convert" else (0, 3)  # quantised already
    return Case(arguments, codes)


def _own_yaml(random: Random, bases: list[Path], work: Path, data: bytes) -> Case:
    path = work / "own.yaml"
    path.write_bytes(data)
    (work / "gpt2").symlink_to(bases[0])
    return Case(("complete", "-m", str(path), "--seed", "1", random.choice(PROMPTS[:3])), (0, 2, 3))


def _recipe(work: Path, data: bytes) -> Case:
    """A recipe without its corpus: it is read, and never trained by."""
    path = work / "recipe.yaml"
    path.write_bytes(data)
    arguments = ("train", str(path), "--data", str(work / "none"), "--out", str(work / "run"))
    return Case(arguments, (2,))


def _numeric_flag(random: Random, base: Path, value: Any) -> Case:
    """One option of a command that takes a number."""
    from gentool.cli.values import Value

    name = random.choice(("complete", "complete", "score", "fewshot"))
    options = [
        param
        for param in _command(name).params
        if isinstance(param, click.Option)
        and isinstance(param.type, Value)
        and (param.type.limits or param.name in NUMERIC)
        and param.name != "threads"
    ]
    option = random.choice(options)
    text = _digits(value)
    text = f"5:{text}" if option.name == "logit_bias" else text
    arguments = [name, "-m", str(base), option.opts[-1], text]
    arguments.append("-" if name == "fewshot" else "hello")
    stdin = b"1+1=2\n1+2=3\n1+3=" if name == "fewshot" else b""
    return Case(tuple(arguments), (0, 1, 2, 4, 5), stdin, slow=True)


def _digits(value: Any) -> str:
    """A number as a person types it."""
    if isinstance(value, int) and abs(value) > 10**300:
        return ("-" if value < 0 else "") + "1" + "0" * 400
    return str(value)


def _wrong_keys(path: Path, random: Random) -> bytes:
    data = path.read_bytes()
    if path.suffix == ".safetensors":
        (length,) = struct.unpack("<Q", data[:8])
        header = to_json(with_wrong_keys(json.loads(data[8 : 8 + length]), random), random)
        return struct.pack("<Q", len(header)) + header + data[8 + length :]
    if path.suffix == ".yaml":
        return _to_yaml(with_wrong_keys(yaml.safe_load(data), random))
    return to_json(with_wrong_keys(json.loads(data), random, KNOWN_KEYS), random)


def _other_number(data: Any, random: Random, value: Any) -> Any:
    """`data` with `value` in the place of one of its numbers."""
    ways = []
    for way in places(data):
        inner = data
        for key in way:
            inner = inner[key]
        if isinstance(inner, int | float) and not isinstance(inner, bool):
            ways.append(way)
    return replaced(data, random.choice(ways), value) if ways else data


def _fitted(name: str, before: bytes, after: bytes, random: Random) -> bytes:
    """Changed bytes whose checksums and lengths are mostly right, so that a reader goes on."""
    if random.random() < 0.3:
        return after
    if name.endswith(".index") and len(after) == len(before):
        return _with_checksums(before, after)
    if name.endswith(".safetensors") and len(after) > 8:
        length = int.from_bytes(before[:8], "little") + len(after) - len(before)
        return struct.pack("<Q", max(0, length)) + after[8:]
    return after


def _with_checksums(before: bytes, after: bytes) -> bytes:
    """The blocks of a TensorFlow index with checksums of what is in them now."""
    from gentool.checkpoints import tf_table

    changed = bytearray(after)
    _, at = tf_table._handle(before[-48:], 0)
    index, _ = tf_table._handle(before[-48:], at)
    blocks = [index]
    for _, value in tf_table._block(before, *index):
        handle, _ = tf_table._handle(value, 0)
        blocks.append(handle)
    for start, size in blocks:
        end = start + size + 1
        changed[end : end + 4] = tf_table.masked_crc(bytes(changed[start:end])).to_bytes(
            4, "little"
        )
    return bytes(changed)


def _to_yaml(data: Any) -> bytes:
    text = yaml.safe_dump(data, allow_unicode=True, sort_keys=False)
    return text.encode("utf-8", "surrogatepass")


def _command(*names: str) -> click.Command:
    from gentool.cli import program

    command: click.Command = program
    for name in names:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    return command


def _value(option: click.Option, random: Random, values: list[str]) -> str:
    """A value of an option: half of them of its own kind and small."""
    from gentool.cli.values import Value

    if isinstance(option.type, Value) and option.type.limits and random.random() < 0.7:
        return random.choice(("0", "1", "2", "3", "0.5", "0.9", "1.5", "8", "-1", "65"))
    return str(random.choice([*values, *(str(value) for value in OTHERS[:20])]))


def _is_large(word: str) -> bool:
    try:
        return abs(float(word)) > 100
    except ValueError:
        return False
