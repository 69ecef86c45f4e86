"""`gentool models`: the models that have a name."""

from __future__ import annotations

import json
from dataclasses import dataclass

from gentool.cli.console import Console
from gentool.cli.flags import ADAPTER, SET
from gentool.cli.options import HELP, Command, Group, argument, group, repeated, switch
from gentool.errors import GentoolError, ModelError

EXAMPLES = """
gentool models list
gentool models add cpm-lm CPM/
gentool complete -m cpm-lm "今天天气不错"
gentool models verify cpm-lm
"""

COMMANDS = {
    "list": ("gentool.cli.models:list_command", "the models that have a name"),
    "show": ("gentool.cli.models:show_command", "the YAML of a model"),
    "add": ("gentool.cli.models:add_command", "give a folder of weights a name"),
    "remove": ("gentool.cli.models:remove_command", "forget a name; the weights stay"),
    "verify": ("gentool.cli.models:verify_command", "compare a model's files with their sums"),
    "cache": ("gentool.cli.models:cache_command", "what LiteRT keeps of models; --clear"),
}


@dataclass(frozen=True)
class OutputFlags:
    """What is printed."""

    json: bool | None = switch("--json", "print one object a model")


@dataclass(frozen=True)
class SetFlags:
    """What is changed of a model's YAML."""

    set: tuple[tuple[str, str], ...] = repeated(*SET)
    adapter: tuple[str, ...] = repeated(*ADAPTER)


@dataclass(frozen=True)
class ListFlags:
    output: OutputFlags = group("Output", OutputFlags)


@dataclass(frozen=True)
class ModelFlags:
    model: str = argument("model", "MODEL")
    changes: SetFlags = group("Model", SetFlags)


@dataclass(frozen=True)
class AddFlags:
    name: str = argument("name", "NAME")
    place: str = argument("place", "PATH")
    changes: SetFlags = group("Model", SetFlags)


@dataclass(frozen=True)
class ClearFlags:
    """What is removed."""

    clear: bool | None = switch("--clear", "remove all of it; it is made again when needed")


@dataclass(frozen=True)
class CacheFlags:
    cache: ClearFlags = group("Cache", ClearFlags)
    output: OutputFlags = group("Output", OutputFlags)


@dataclass(frozen=True)
class NameFlags:
    name: str = argument("name", "NAME")


def list(console: Console, flags: ListFlags) -> None:
    """Prints one line a model: name, family, layers x width, where its YAML is, its state.

    The weights of the models in configs/ are their publishers': see gentool models show NAME.
    """
    from gentool import registry

    rows = []
    for entry in registry.entries():
        arch = entry.file and entry.file.arch
        record = {
            "name": entry.name,
            "family": entry.file and entry.file.family,
            "n_layer": arch and arch.n_layer,
            "d_model": arch and arch.d_model,
            "origin": entry.origin,
            "state": entry.state,
            "path": str(entry.path),
        }
        if flags.output.json:
            console.write(json.dumps(record, ensure_ascii=False) + "\n")
        size = f"{arch.n_layer} x {arch.d_model}" if arch else "?"
        rows.append((entry.name, str(record["family"] or "?"), size, entry.origin, entry.state))
    if not flags.output.json:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        for row in rows:
            cells = (f"{cell:{width}}" for cell, width in zip(row, widths, strict=True))
            console.write("  ".join(cells).rstrip() + "\n")


def show(console: Console, flags: ModelFlags) -> None:
    """Prints the YAML of a model: the file of a name, or what a folder says of itself."""
    from gentool import registry
    from gentool.config import folder, lookup, schema

    path = lookup.locate(flags.model)
    console.detail(str(path))
    changes = flags.changes
    if changes.set or changes.adapter or folder.is_description(path):
        found = lookup.load(flags.model, dict(changes.set), changes.adapter)
        console.write(registry.text(found))
    else:
        schema.read_yaml(path)
        console.write(path.read_text("utf-8"))


def add(console: Console, flags: AddFlags) -> None:
    """Writes a YAML file that names the weights in PATH, and prints where it is.

    PATH is a folder or a YAML file, as for --model; nothing is copied. Where configs/ has a model
    of that name, the folder must be of that model, and what configs/ says of its tokenizer and
    sampling is taken over. The SHA-256 of all files is recorded.
    """
    from gentool import registry

    registry.new_place(flags.name)  # a wrong name is found before any work
    changes = flags.changes
    described = registry.describe(flags.name, flags.place, dict(changes.set), changes.adapter)

    from gentool.generation import opening

    opening.open_files(described)
    if described.tokenizer is None:
        console.note(f"{flags.place} has no tokenizer: only ids will work, from Python")
    console.write(f"{registry.add(registry.with_sums(described))}\n")


def remove(console: Console, flags: NameFlags) -> None:
    """Deletes the YAML file of a model of your own, and nothing else; prints where it was."""
    from gentool import registry

    console.write(f"{registry.remove(flags.name)}\n")


def verify(console: Console, flags: ModelFlags) -> None:
    """Reads all files of a model and prints for each whether it is as it was recorded."""
    from gentool import registry
    from gentool.config import lookup

    model = lookup.load(flags.model, dict(flags.changes.set), flags.changes.adapter)
    if not model.sha256:
        raise GentoolError(
            f"{model.name} has no recorded sums", "gentool models add and convert record them"
        )
    wrong = []
    for name, state in registry.verify(model):
        console.write(f"{state}  {name}\n")
        if state in ("changed", "missing"):
            wrong.append(f"{name} is {state}")
    if wrong:
        raise ModelError(wrong[0], "restore it from its source, or remove and add the model again")


def cache(console: Console, flags: CacheFlags) -> None:
    """Prints one line a graph with packed weights: megabytes, day of last use, what it was made of.

    They are in the user's cache folder, so that a model opens at once the second time.
    """
    import datetime

    from gentool.runtimes.litert import store

    for graph in store.cached_graphs():
        day = datetime.date.fromtimestamp(graph.used).isoformat()
        if flags.output.json:
            fields = {"path": str(graph.path), "title": graph.title, "bytes": graph.nbytes}
            console.write(json.dumps(fields | {"used": day}, ensure_ascii=False) + "\n")
        else:
            console.write(f"{graph.nbytes / 1e6:8.1f} MB  {day}  {graph.title}\n")
        if flags.cache.clear:
            store.remove(graph.path)


list_command = Command(list, ListFlags, "gentool models list --json")
show_command = Command(show, ModelFlags, "gentool models show cpm-lm")
add_command = Command(
    add,
    AddFlags,
    "gentool models add cpm-lm CPM/\n"
    "gentool models add mine FOLDER --set arch.n_head=12\n"
    "gentool models add adapted BASE/ --adapter LORA/",
)
remove_command = Command(remove, NameFlags, "gentool models remove cpm-lm")
verify_command = Command(verify, ModelFlags, "gentool models verify cpm-lm")
cache_command = Command(cache, CacheFlags, "gentool models cache --clear")

command = Group(
    "models",
    "The models that have a name: YAML files in configs/ and in your own folder.",
    EXAMPLES,
    COMMANDS,
    [HELP],
    default="list",
)
