"""Find a model by name, folder or YAML file, and read it as a checked `ModelConfig`."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from platformdirs import user_config_path

from gentool.config import folder
from gentool.config.model import ModelConfig, ModelFile
from gentool.config.schema import NOT_YAML, from_yaml, parse, read_yaml
from gentool.errors import GentoolError, ModelError, UsageError, nearest

PACKAGE = Path(__file__).parents[1]
FOLDER_FILE = "gentool.yaml"  # the YAML file of a model folder
NOTHING: Mapping[str, object] = MappingProxyType({})


def load(
    model: str, overrides: Mapping[str, object] = NOTHING, adapters: Sequence[str] = ()
) -> ModelConfig:
    """The model of this name, in this folder or of this YAML file. `overrides` are values by dotted
    key, read as YAML where they are text; the files it names exist. `adapters` are folders that
    replace those of the YAML."""
    try:
        return _load(model, with_adapters(overrides, adapters))
    except OSError as e:  # a name too long, a folder that may not be looked into
        raise UsageError(f"model {model}: {e.strerror}", "check the path") from None


def with_adapters(overrides: Mapping[str, object], adapters: Sequence[str]) -> Mapping[str, object]:
    """Overrides with the folders of adapters, if there are any, relative to where we are."""
    places = [os.path.abspath(adapter) for adapter in adapters]
    return {**overrides, "adapter": places} if places else overrides


def _load(model: str, overrides: Mapping[str, object]) -> ModelConfig:
    path = locate(model)
    return checked(path, model_fields(path), overrides)


def model_fields(path: Path) -> dict[str, Any]:
    """What a file that `locate` found says, as the keys of a model's YAML."""
    return (
        folder.describe(path.parent) if folder.is_description(path) else read_yaml(path, _to(path))
    )


def checked(path: Path, data: dict[str, Any], overrides: Mapping[str, object]) -> ModelConfig:
    """The model of these keys, which stand in the file `path`."""
    error = _to(path)
    for key, value in overrides.items():
        _override(data, key, value)
    file = parse(ModelFile, data, str(path), error, overrides)
    named = {"checkpoint": file.checkpoint}
    if file.tokenizer:
        named["tokenizer.model"] = file.tokenizer.model
    if file.chat_template and is_template_file(file.chat_template):
        named["chat_template"] = file.chat_template
    for key, value in [*named.items(), *(("adapter", place) for place in file.adapter)]:
        # a model folder may come from anywhere, so what it names stays inside it
        if error is ModelError and key not in overrides and _leaves(Path(value)):
            raise ModelError(f"{path}: {key} {value} leaves the model's folder", "move it inside")
        if not (path.parent / value).exists():
            hint = f"put it there, or give its place with --set {key}=PATH"
            if key == "adapter":
                raise ModelError(
                    f"the adapter {path.parent / value} does not exist", "check the path"
                )
            if path.parent == configs():
                hint = (
                    f"get the model from {_source(path)}, its vocabulary"
                    f" {Path(named.get('tokenizer.model', '')).name} into the same folder,"
                    f" then: gentool models add {file.name} FOLDER"
                )
            raise ModelError(f"{path}: {key} {path.parent / value} does not exist", hint)
    return ModelConfig(folder=path.parent, source=path, **dict(file))


def is_template_file(chat_template: str) -> bool:
    """Whether a chat template is named by its file: a known name has neither dot nor slash."""
    return "." in chat_template or "/" in chat_template


def _to(path: Path) -> type[GentoolError]:
    """Whose mistake it is if this file is wrong: that of a folder, or of a YAML's author."""
    return ModelError if path.name == FOLDER_FILE or folder.is_description(path) else UsageError


def locate(model: str) -> Path:
    """The YAML file of a model, or the file by which a folder describes itself. A bare word is a
    known name first, then a path."""
    path = Path(model)
    names = known() if model == path.name else {}
    if model in names:
        return names[model]
    if path.is_dir():
        if (path / FOLDER_FILE).exists():
            return path / FOLDER_FILE
        if config := folder.describes_itself(path):
            return config
        folder.check_unread(path)
        raise ModelError(
            f"the folder {model} has no {', '.join((FOLDER_FILE, *folder.SELF))}",
            "give a folder with one of them, or write a YAML file and give that",
        )
    if path.suffix in (".yaml", ".yml"):
        return path
    if path.exists():
        raise UsageError(
            f"model {model} is not a YAML file", "give a name, a folder or a file ending in .yaml"
        )
    if names:
        raise ModelError(f"unknown model {model}", nearest(model, names, "known models"))
    raise ModelError(f"model {model} does not exist", "check the path")


def known() -> dict[str, Path]:
    """The YAML files of all models that have a name. One of the user's own stands before one in
    configs/, whose weights nobody has until they say where, but not before a packaged model."""
    named = {path.stem: path for path in (*configs().glob("*.yaml"), *own().glob("*.yaml"))}
    return named | packaged()


def packaged() -> dict[str, Path]:
    """The YAML files of the models inside the package."""
    return {p.parent.name: p for p in (PACKAGE / "data").glob(f"*/{FOLDER_FILE}")}


def own() -> Path:
    """The folder of the user's own YAML files."""
    return user_config_path("gentool") / "models"


def configs() -> Path:
    """The folder configs/: inside the package in a wheel, beside it in a clone."""
    inside = PACKAGE / "configs"
    return inside if inside.is_dir() else PACKAGE.parent / "configs"


def _source(path: Path) -> str:
    """The address in the comment at the head of a YAML file in configs/."""
    address = re.search(r"https://[^\s,]*[^\s,.]", path.read_text("utf-8"))
    return address[0] if address else "its source"


def _leaves(path: Path) -> bool:
    return path.is_absolute() or ".." in path.parts


def _override(data: dict[str, Any], key: str, value: object) -> None:
    """Sets a dotted key, making the mappings on its way."""
    *way, last = key.split(".")
    for depth, part in enumerate(way, 1):
        data = data.setdefault(part, {})
        if not isinstance(data, dict):
            raise UsageError(f"--set {key}: {'.'.join(way[:depth])} has no keys", "shorten the key")
    try:
        data[last] = from_yaml(value) if isinstance(value, str) else value
    except NOT_YAML:
        raise UsageError(f"--set {key}: {value!r} is not YAML", "put it in quotes") from None
