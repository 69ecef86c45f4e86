"""Who may import whom, read off the syntax trees, and what must not exist. A new room or library
starts as a row here."""

import ast
import sys
from collections.abc import Iterator
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple

import pytest

import gentool
from gentool.checkpoints import FORMATS
from gentool.cli import COMMANDS
from gentool.config.model import FAMILIES, KINDS

ROOT = Path(gentool.__file__).parent
PATHS = sorted(ROOT.rglob("*.py"))


class Room(NamedTuple):
    rooms: str  # of gentool, that it may import
    libraries: str  # beside the standard library


# A module or folder of gentool -> what it may import, anywhere in its code. Text rooms know no
# TensorFlow, number rooms no text, none but the cli knows click and none but the console rich.
MAY_IMPORT = {
    "errors": Room("", ""),
    "cache": Room("", "platformdirs"),
    "stderr": Room("", ""),
    "config": Room("errors checkpoints", "pydantic yaml platformdirs"),
    "tokenizers": Room("cache config errors stderr", "numpy sentencepiece tokenizers jieba jinja2"),
    "checkpoints": Room("errors", "numpy safetensors ml_dtypes"),
    "models": Room("config errors checkpoints runtimes", "numpy ml_dtypes"),
    "runtimes": Room(
        "cache checkpoints config models stderr",
        "numpy tensorflow ml_dtypes ai_edge_litert flatbuffers",
    ),
    "decoding": Room("config errors runtimes", "numpy llguidance"),
    "training": Room(
        "config errors checkpoints tokenizers models generation registry runtimes",
        "numpy tensorflow pydantic sentencepiece safetensors zstandard matplotlib",
    ),
    "registry": Room("config errors checkpoints tokenizers", ""),
    "convert": Room(
        "config errors registry generation checkpoints tokenizers models runtimes",
        "numpy ml_dtypes",
    ),
    "voting": Room("errors", "matplotlib opencc"),
    "generation": Room(
        "config errors runtimes tokenizers checkpoints models decoding voting",
        "typing_extensions numpy",
    ),
    "batch": Room("cache config decoding errors generation registry runtimes", "ray"),
    "benchmark": Room(
        "config decoding errors generation models runtimes voting", "numpy tensorflow"
    ),
    "inspection": Room(
        "checkpoints config errors models runtimes tokenizers", "numpy scipy matplotlib"
    ),
    "cli": Room(
        "batch benchmark config convert decoding errors generation inspection registry"
        " runtimes training voting",
        "click rich prompt_toolkit platformdirs",
    ),
    "__init__": Room("config generation voting", ""),
    "__main__": Room("cli", ""),
}

# What importing a room must not bring in, however indirectly: `--help` is quick, and a mistake
# in a YAML file or in a text costs no TensorFlow.
NOT_AT_IMPORT = {
    "errors": "tensorflow numpy pydantic yaml click rich",
    "config": "tensorflow numpy click rich",
    "tokenizers": "tensorflow click rich",
    "checkpoints": "tensorflow pydantic click rich",
    "models": "tensorflow click rich",
    "decoding": "tensorflow click rich",
    "generation": "tensorflow click rich",
    "voting": "tensorflow numpy matplotlib click rich",
    "batch": "tensorflow click rich",
    "inspection": "tensorflow scipy matplotlib click rich",
    "cli": "tensorflow numpy pydantic yaml platformdirs sentencepiece rich prompt_toolkit",
    "__init__": "tensorflow numpy pydantic yaml click rich",
}

# What a table names -> its modules, and the names that each of them must have.
CONTRACTS = {
    "family": (
        [f"gentool.models.{name}" for name in FAMILIES],
        "top_tensors layer_tensors DIALECTS positional embed layer final head",
    ),
    "format": ([f"gentool.checkpoints.{row.module}" for row in FORMATS.values()], "load"),
    "tokenizer": ([f"gentool.tokenizers.{name}" for name in KINDS], "load"),
}


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def name_of(path: Path) -> str:
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in PATHS}


@cache
def tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"), str(path))


def at_import(node: ast.AST) -> Iterator[ast.AST]:
    """The nodes below `node` that run when the module is imported."""
    for child in ast.iter_child_nodes(node):
        typing_only = isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test)
        if not isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef) and not typing_only:
            yield child
            yield from at_import(child)


def imported(nodes: Iterator[ast.AST]) -> Iterator[str]:
    """The modules named by the import statements among `nodes`: `gentool.config`, `numpy`."""
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0 and node.module, f"write {ast.unparse(node)} in full"
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in inner)


def brings_in(module: str) -> set[str]:
    """Every module that importing a module of gentool imports, gentool's own followed."""
    found, waiting = set[str](), [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            if name in MODULES:
                waiting += imported(at_import(tree(MODULES[name])))
            if parent := name.rpartition(".")[0]:
                waiting.append(parent)
    return found


@pytest.mark.parametrize("path", PATHS, ids=relative)
def test_imports_only_what_its_room_may(path: Path) -> None:
    allowed = MAY_IMPORT[room(path)]
    libraries = {"gentool", *allowed.libraries.split()}
    for name in imported(ast.walk(tree(path))):
        top, _, rest = name.partition(".")
        assert top in libraries or top in sys.stdlib_module_names, (
            f"{room(path)} may not import {name}"
        )
        if top == "gentool" and rest:
            other = rest.partition(".")[0]
            assert other in {room(path), *allowed.rooms.split()}, f"may not import {name}"


@pytest.mark.parametrize("name", MODULES)
def test_importing_stays_light(name: str) -> None:
    heavy = set(NOT_AT_IMPORT.get(room(MODULES[name]), "").split())
    assert not heavy & {found.partition(".")[0] for found in brings_in(name)}


@pytest.mark.parametrize("path", PATHS, ids=relative)
def test_only_the_console_writes(path: Path) -> None:
    # these set stderr aside while a library is chatty, and need it flushed
    allowed = {
        "cli/console.py": {"sys.stdout", "sys.stderr"},
        "stderr.py": {"sys.stderr"},
        "runtimes/litert/program.py": {"sys.stderr"},
    }
    ways = {"print", "sys.stdout", "sys.stderr", "click.echo", "click.secho", "warnings.warn"}
    used = {
        ast.unparse(node)
        for node in ast.walk(tree(path))
        if isinstance(node, ast.Name | ast.Attribute)
    }
    assert used & ways <= allowed.get(relative(path), set())


@pytest.mark.parametrize("path", PATHS, ids=relative)
def test_has_a_home_and_a_docstring(path: Path) -> None:
    assert path.stem not in {"utils", "util", "common", "helpers", "base", "misc", "types"}
    assert ast.get_docstring(tree(path)) or not tree(path).body, "say first what the module is"


@pytest.mark.parametrize("what", CONTRACTS)
def test_every_row_of_a_table_resolves(what: str) -> None:
    modules, names = CONTRACTS[what]
    for module in modules:
        missing = [n for n in names.split() if not hasattr(import_module(module), n)]
        assert not missing, f"{what} {module} lacks {missing}"


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_resolves(name: str) -> None:
    module, attribute = COMMANDS[name][0].split(":")
    assert getattr(import_module(module), attribute).name == name
