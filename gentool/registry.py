"""The models that have a name: YAML files in configs/, in the user's own folder and beside packaged
weights. What they say is read by `config`; here they are listed, written, removed and compared with
the files they name.
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from gentool import checkpoints, tokenizers
from gentool.config import folder, lookup, schema
from gentool.config.adapter import read_adapter_config
from gentool.config.model import LEARNED_POSITIONS, ModelConfig, ModelFile
from gentool.config.sampling import SamplingParams
from gentool.errors import GentoolError, ModelError, UsageError, nearest
from gentool.tokenizers import chat

NAME = re.compile(r"[^\W_][\w.-]*")  # Chinese ones, too
MAX_NAME = 200  # bytes of a name, which is that of a file

Origin = Literal["packaged", "configs", "own"]
State = Literal["ready", "no weights here", "wrong"]
Sum = Literal["as recorded", "no sum recorded", "changed", "missing"]


Report = Callable[[int], None]  # of bytes that were read


def silent(count: int) -> None:
    """Reports nothing."""


class Entry(NamedTuple):
    """A known model; `file` is None where its YAML is wrong."""

    name: str
    path: Path
    origin: Origin
    state: State
    file: ModelFile | None


def entries() -> list[Entry]:
    """All models that have a name, by name."""
    return [_entry(name, path) for name, path in sorted(lookup.known().items())]


def _entry(name: str, path: Path) -> Entry:
    places: dict[Path, Origin] = {lookup.own(): "own", lookup.configs(): "configs"}
    origin = places.get(path.parent, "packaged")
    try:
        file = schema.parse(ModelFile, schema.read_yaml(path), str(path))
        lookup.load(name)
    except ModelError:
        return Entry(name, path, origin, "no weights here", file)
    except GentoolError:
        return Entry(name, path, origin, "wrong", None)
    return Entry(name, path, origin, "ready", file)


def describe(
    name: str, place: str, overrides: Mapping[str, object], adapters: Sequence[str] = ()
) -> ModelConfig:
    """The model in a folder or of a YAML file as one called `name`, its files by absolute paths;
    `adapters` replace those that it names. Where configs/ has that name, its sampling and tokenizer
    settings are taken over, and its numbers must be those of the folder."""
    path = lookup.locate(place)
    data = lookup.model_fields(path)
    shipped = lookup.configs() / f"{name}.yaml"
    if shipped.is_file():
        known = schema.read_yaml(shipped)
        # a YAML's sampling comes before that of generation_config.json
        if folder.is_description(path) and "sampling" in known:
            data |= {"sampling": known["sampling"]}
        data = _completed(data, known, place, name)
    model = lookup.checked(path, data | {"name": name}, lookup.with_adapters(overrides, adapters))
    tokenizer = model.tokenizer
    if tokenizer:
        vocabulary = _path_for_yaml(model.folder / tokenizer.model)
        tokenizer = tokenizer.model_copy(update={"model": vocabulary})
    template = model.chat_template
    if template and lookup.is_template_file(template):
        template = _path_for_yaml(model.folder / template)
    return model.model_copy(
        update={
            "checkpoint": _path_for_yaml(model.folder / model.checkpoint),
            "tokenizer": tokenizer,
            "chat_template": template,
            "adapter": [_path_for_yaml(model.folder / adapter) for adapter in model.adapter],
            "folder": lookup.own(),
        }
    )


def _path_for_yaml(path: Path) -> str:
    """Absolute path with its folder resolved but a final symlink kept: its name gives the format,
    and Hugging Face's cache links to files named by hash."""
    whole = path.resolve() if path.name in ("", "..") else path.parent.resolve() / path.name
    try:
        str(whole).encode()
    except UnicodeEncodeError:
        raise UsageError(f"{whole} is not UTF-8, as YAML is", "rename the folder") from None
    return str(whole)


def _completed(
    data: dict[str, Any], shipped: Mapping[str, Any], place: str, name: str
) -> dict[str, Any]:
    """What a folder says of itself, with what configs/ says of this model beside it."""
    arch, known = data.get("arch") or {}, shipped["arch"]
    tokenizer = data.get("tokenizer") or {}
    if not isinstance(arch, dict) or not isinstance(tokenizer, dict):
        return data  # in which `config` names what is wrong
    pairs = {"family": (data.get("family", shipped["family"]), shipped["family"])}
    pairs |= {f"arch.{key}": (arch[key], known[key]) for key in arch.keys() & known.keys()}
    for key, (here, there) in sorted(pairs.items()):
        if here != there:
            raise UsageError(
                f"{place} is not {name}: its {key} is {here}, not {there}", "give another name"
            )
    if tokenizer.get("kind") == shipped["tokenizer"]["kind"]:
        tokenizer = shipped["tokenizer"] | tokenizer
    return {**shipped, **data, "arch": known | arch, "tokenizer": tokenizer or None}


def add(described: ModelConfig) -> Path:
    """Writes the YAML of a model that `describe` gave into the user's folder."""
    path = new_place(described.name)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text(described))
    except OSError as e:
        if not isinstance(e, FileExistsError):  # then it is another's
            with contextlib.suppress(OSError):
                path.unlink()
        raise GentoolError(f"cannot write {path}: {e.strerror}", "check the folder") from None
    return path


def place_of(name: str) -> Path:
    """Where the YAML of the user's model `name` stands, be it there or not."""
    if not NAME.fullmatch(name) or len(name.encode()) > MAX_NAME:
        raise UsageError(
            f"{name!r} is no name of a model",
            f"letters, digits, . _ and -, a letter or digit first, at most {MAX_NAME} bytes",
        )
    if name in lookup.packaged():
        raise UsageError(f"{name} is the model inside gentool", "give another name")
    return lookup.own() / f"{name}.yaml"


def new_place(name: str) -> Path:
    """The same of a name that the user has not given yet."""
    path = place_of(name)
    if os.path.lexists(path):
        raise UsageError(
            f"there is a model {name} already, {path}",
            f"remove it first: gentool models remove {name}",
        )
    return path


def remove(name: str) -> Path:
    """Deletes the YAML of one of the user's models, and nothing else."""
    path = place_of(name)
    if not path.is_file():
        own = [known.stem for known in lookup.own().glob("*.yaml")]
        hint = nearest(name, own, "your models") if own else "you have added none"
        raise UsageError(f"there is no model {name} of your own", hint)
    try:
        path.unlink()
    except OSError as e:
        raise GentoolError(f"cannot remove {path}: {e.strerror}", "check the folder") from None
    return path


def text(model: ModelFile) -> str:
    """A model as the YAML file `config` reads, every number in it."""
    lines = []
    for key in ModelFile.model_fields:
        value = getattr(model, key)
        if isinstance(value, SamplingParams):
            default = vars(SamplingParams())
            value = {k: v for k, v in vars(value).items() if v != default[k]}
        if isinstance(value, schema.Strict):
            only_set = key != "arch"  # whose every number is written
            value = value.model_dump(exclude_none=True, exclude_unset=only_set)
            rotary = model.family not in LEARNED_POSITIONS
            unused = ("n_position",) if rotary else ()
            value = {k: v for k, v in value.items() if (only_set or v != []) and k not in unused}
        if value not in (None, {}, []):
            # numbers stand on one line, as a person writes them; sums one a line
            flow = None if isinstance(value, dict) and key != "sha256" else False
            lines.append(schema.to_yaml({key: value}, flow))
    return "".join(lines)


def model_files(model: ModelConfig) -> list[Path]:
    """The files of a model's weights, tokenizer and adapters."""
    weights = checkpoints.open_checkpoint(model.folder / model.checkpoint, model.format).files
    adapters = (read_adapter_config(model.folder / adapter) for adapter in model.adapter)
    return [
        *weights,
        *(path for adapter in adapters for path in (adapter.config_path, adapter.weights)),
        *(tokenizers.files(model.tokenizer, model.folder) if model.tokenizer else []),
        *template_files(model),
    ]


def template_files(model: ModelConfig) -> list[Path]:
    """The files of a model's chat templates: the one that it names, else those beside its
    tokenizer, where tokenizer_config.json does not hold them."""
    if model.chat_template is not None:
        is_file = lookup.is_template_file(model.chat_template)
        return [model.folder / model.chat_template] if is_file else []
    return chat.files(chat.folder_of(model))


def with_sums(model: ModelConfig, report: Report = silent) -> ModelConfig:
    """The model with the SHA-256 of all its files, read for it."""
    sums = {_key(model, path): digest(path, report) for path in model_files(model)}
    return model.model_copy(update={"sha256": sums})


def verify(model: ModelConfig, report: Report = silent) -> Iterator[tuple[str, Sum]]:
    """Each file of a model, and whether it is the one that was recorded."""
    present = {_key(model, path): path for path in model_files(model)}
    for key in {**model.sha256, **present}:
        path = present.get(key, model.folder / key)
        if not path.is_file():
            yield key, "missing"
        elif key not in model.sha256:
            yield key, "no sum recorded"
        else:
            yield key, "as recorded" if digest(path, report) == model.sha256[key] else "changed"


def _key(model: ModelConfig, path: Path) -> str:
    """A file's path as a model's YAML has it: relative to its folder where it is inside."""
    inside = path.is_relative_to(model.folder)
    return str(path.relative_to(model.folder) if inside else path)


def digest(path: Path, report: Report = silent) -> str:
    """The SHA-256 of a file, all of which is read: `report` gets the bytes of each part."""
    sha = hashlib.sha256()
    try:
        with path.open("rb") as file:
            for chunk in iter(functools.partial(file.read, 1 << 20), b""):
                sha.update(chunk)
                report(len(chunk))
    except OSError as e:
        raise ModelError(f"cannot read {path}: {e.strerror}", "check its permissions") from None
    return sha.hexdigest()
