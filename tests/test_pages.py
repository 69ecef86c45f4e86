"""The pages are true: every transcript is what the commands print, links and files exist, both
READMEs say the same, lines are short. `make pages` writes the transcripts anew.
"""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import unicodedata
from functools import cache
from importlib import import_module
from pathlib import Path

import click
import pytest
from test_architecture import MAY_IMPORT

from gentool.cli import COMMANDS
from gentool.config import lookup
from gentool.config.model import ModelFile
from gentool.config.schema import parse, read_yaml
from gentool.models import load_family
from gentool.runtimes.xla import device

ROOT = Path(__file__).parents[1]
READMES = ("README.md", "README.zh-CN.md")
PAGES = (
    *READMES,
    "configs/README.md",
    "gentool/README.md",
    "gentool/batch/README.md",
    "gentool/cli/chat/README.md",
    "gentool/inspection/README.md",
    "gentool/runtimes/README.md",
    "gentool/tokenizers/README.md",
    "gentool/training/README.md",
    "gentool/voting/README.md",
    "tests/bench/README.md",
)
README_BYTES = 9_000
LINE = 120  # characters, outside tables and transcripts

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
TRANSCRIPT = re.compile(r"(?<=^```console\n).*?(?=^```$)", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^(#+) (.+)$", re.MULTILINE)
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
FLAG = re.compile(r"(?<![\w-])--[a-z][a-z0-9-]+")
FILE = re.compile(r"(?:[\w.-]+/)*[\w.-]+\.(?:py|ya?ml|md|toml)|(?:gentool|tests|configs)/[\w/.-]*")
WRITTEN = re.compile(r"> ([\w.-]+)$")


@cache
def text(page: str) -> str:
    return (ROOT / page).read_text("utf-8")


def prose(page: str) -> str:
    """A page without its fenced blocks."""
    return FENCE.sub("", text(page))


def blocks(language: str, *pages: str) -> list[str]:
    """The fenced blocks of a language, each once."""
    found = [m[2] for page in pages for m in FENCE.finditer(text(page)) if m[1] == language]
    return list(dict.fromkeys(found))


def commands(block: str) -> list[str]:
    return [line[2:] for line in block.splitlines() if line.startswith("$ ")]


class Shell:
    """Runs commands in one folder, each once, however many pages show it. What XLA compiles for a
    command is kept for the next."""

    def __init__(self, folder: Path, programs: Path) -> None:
        names = {name for name in os.environ if not name.startswith("GENTOOL_")}
        self._env = {name: os.environ[name] for name in names}
        self._env["TF_XLA_FLAGS"] = f"{device.CACHE_FLAG}={programs}"
        self._env["XDG_CONFIG_HOME"] = str(folder / ".config")
        self._env["XDG_CACHE_HOME"] = str(folder / ".cache")
        self._env["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self._folder = folder
        (folder / "configs").symlink_to(ROOT / "configs")
        self._printed: dict[str, str] = {}

    def run(self, command: str) -> str:
        """What `command` prints to a pipe, stdout and stderr as they come."""
        if command not in self._printed:
            done = subprocess.run(
                ["bash", "-c", command],
                cwd=self._folder,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                timeout=240,  # of a busy machine
            )
            output = done.stdout.decode()
            assert done.returncode == 0, f"{command}\n{output}"
            self._printed[command] = output
        return self._printed[command]

    def rerun(self, block: str) -> str:
        """A transcript with the output of each of its commands as it is now."""
        return "".join(f"$ {command}\n{self.run(command)}" for command in commands(block))


@pytest.fixture(scope="module")
def shell(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    return Shell(tmp_path_factory.mktemp("pages"), tmp_path_factory.mktemp("programs"))


@pytest.mark.parametrize("block", blocks("console", *PAGES), ids=lambda b: commands(b)[0][:60])
def test_transcript(block: str, shell: Shell) -> None:
    assert rounded(shell.rerun(block)) == rounded(block)


def rounded(output: str) -> str:
    """Log-probabilities differ by rounding from one processor to another."""
    return re.sub(r"-?\d+\.\d{5,}", lambda number: f"{float(number[0]):.3f}", output)


def test_a_file_of_the_transcripts_has_one_content() -> None:
    """They share a folder, so that a command means the same on every page."""
    writers: dict[str, set[str]] = {}
    for block in blocks("console", *PAGES):
        for command in commands(block):
            if match := WRITTEN.search(command):
                writers.setdefault(match[1], set()).add(command)
    assert all(len(written) == 1 for written in writers.values()), writers


@pytest.mark.parametrize("code", blocks("python", *PAGES))
def test_python_example(code: str, tmp_path: Path) -> None:
    env = {name: value for name, value in os.environ.items() if not name.startswith("GENTOOL_")}
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120, cwd=tmp_path, env=env)


@pytest.mark.parametrize("block", blocks("yaml", *PAGES))
def test_yaml_example_is_a_model(block: str, tmp_path: Path) -> None:
    (tmp_path / "model.yaml").write_text(block, "utf-8")
    parse(ModelFile, read_yaml(tmp_path / "model.yaml"), "model.yaml")


@pytest.mark.parametrize("page", PAGES)
def test_lines_are_short(page: str) -> None:
    lines = TRANSCRIPT.sub("", text(page)).splitlines()
    assert not [line for line in lines if len(line) > LINE and not line.startswith("|")]
    assert not [line for line in prose(page).splitlines() if line.count("`") % 2]  # spans are whole


def anchor(heading: str) -> str:
    """The fragment that GitHub gives a heading."""
    kept = "".join(c for c in heading.lower() if c in " -_" or unicodedata.category(c)[0] in "LN")
    return kept.replace(" ", "-")


@pytest.mark.parametrize("page", PAGES)
def test_links_resolve(page: str) -> None:
    for target in LINK.findall(prose(page)):
        if not target.startswith(("https://", "http://")):
            path, _, fragment = target.partition("#")
            place = (ROOT / page).parent / path if path else ROOT / page
            assert place.exists(), target
            if fragment:
                headings = HEADING.findall(FENCE.sub("", place.read_text("utf-8")))
                assert fragment in {anchor(title) for _, title in headings}, target


@pytest.mark.parametrize("page", PAGES)
def test_named_files_exist(page: str) -> None:
    """Files of the project in code spans, from one of these folders on."""
    here = (ROOT / page).parent
    places = (ROOT, ROOT / "gentool", here, *here.iterdir())
    for span in CODE.findall(prose(page)):
        for name in FILE.findall(span):
            if "*" not in span and "NAME" not in name and name != "gentool.yaml":
                assert any((place / name).exists() for place in places), name


def parameters(place: str) -> list[click.Parameter]:
    """The parameters of the command at module:attribute, and of the commands in it."""
    module, attribute = place.split(":")
    command = getattr(import_module(module), attribute)
    inner = (parameters(place) for place, _ in getattr(command, "table", {}).values())
    return [*command.params, *itertools.chain.from_iterable(inner)]


def test_named_flags_exist() -> None:
    """Flags in code spans are gentool's; those of other programs stand in whole commands."""
    known = {"--version"}
    for place, _ in COMMANDS.values():
        known |= {flag for param in parameters(place) for flag in param.opts + param.secondary_opts}
    for page in PAGES:
        for span in CODE.findall(prose(page)):
            if span.startswith(("-", "gentool ")):
                assert set(FLAG.findall(span)) <= known, (page, span)


def test_named_targets_of_make_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):.*## ", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"`make ([a-z-]+)", prose(page))) <= targets, page


def test_readme_is_read_in_five_minutes() -> None:
    assert (ROOT / "README.md").stat().st_size <= README_BYTES


def outline(page: str) -> list[tuple[str, int, list[str]]]:
    """Level, rows of tables and shown commands of each section."""
    parts = HEADING.split(FENCE.sub(lambda m: m[0].replace("\n#", "\n"), text(page)))[1:]
    sections = []
    for level, body in zip(parts[::3], parts[2::3], strict=True):
        shown = [c for m in TRANSCRIPT.finditer(body) for c in commands(m[0])]
        sections.append((level, len(re.findall(r"^\|", body, re.MULTILINE)), shown))
    return sections


def test_both_readmes_have_the_same_sections() -> None:
    english, chinese = map(outline, READMES)
    assert english == chinese
    assert blocks("python", *READMES) == blocks("python", READMES[0])


def size(file: ModelFile) -> int:
    """How many parameters a model has."""
    family, arch = load_family(file.family), file.arch
    tables = [family.top_tensors(arch)]
    tables += [family.layer_tensors(arch, index) for index in range(arch.n_layer)]
    return sum(math.prod(shape) for table in tables for shape in table.values())


def count(parameters: int) -> str:
    return f"{parameters / 1e9:.1f} G" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"


def memory(size: float) -> str:
    return f"{size / 1e9:.1f} GB" if size >= 1e9 else f"{size / 1e6:.0f} MB"


def computed(row: str) -> str:
    """A row of a table with what follows from the code: of a published model from its YAML, of a
    room from what it may import."""
    first, *cells = (cell.strip() for cell in row.strip().strip("|").split("|"))
    name = first.strip("`")
    path = lookup.configs() / f"{name}.yaml"
    if name.endswith("/") and name.strip("/") in MAY_IMPORT:
        cells[-1] = MAY_IMPORT[name.strip("/")].rooms.replace(" ", ", ") or "nothing"
    elif path.is_file():
        file = parse(ModelFile, read_yaml(path), str(path))
        arch, parameters = file.arch, size(file)
        kv_cache = 1000 * 2 * 4 * arch.n_layer * arch.n_kv_head * arch.d_head  # float32
        numbers = [count(parameters), memory(2 * parameters), memory(4 * parameters)]
        if len(cells) > len(numbers):
            shape = f"{arch.n_layer} × {arch.d_model}"
            numbers = [file.family, shape, *numbers, memory(kv_cache), str(arch.n_ctx)]
        cells = numbers
    return f"| {' | '.join([first, *cells])} |"


ROW = re.compile(r"^\| `[\w./-]+` \|.*$", re.MULTILINE)


@pytest.mark.parametrize("page", PAGES)
def test_tables_are_computed(page: str) -> None:
    for row in ROW.findall(text(page)):
        assert computed(row) == row


def test_every_published_model_has_its_row() -> None:
    rows = {row.split("`")[1] for row in ROW.findall(text("configs/README.md"))}
    assert {path.stem for path in lookup.configs().glob("*.yaml")} <= rows


def test_every_room_has_its_row() -> None:
    rows = {row.split("`")[1] for row in ROW.findall(text("gentool/README.md"))}
    rooms = {f"{name}/" for name in MAY_IMPORT if (ROOT / "gentool" / name).is_dir()}
    assert rooms <= rows


PROGRAM = """
import json, sys, traceback
from gentool import cli
from gentool.models import llama

real, paths = llama.layer, set()

def layer(*args):
    frames = traceback.extract_stack()
    paths.add(tuple((f.filename, f.name) for f in frames if "/gentool/" in f.filename))
    return real(*args)

llama.layer = layer
for runtime in ([], ["--no-xla"]):
    sys.argv[1:] = ["complete", "今天", "--max-tokens", "2", "-o", "text", *runtime]
    cli.main()
print(json.dumps(sorted(paths)))
"""


def test_path_from_complete_to_a_layer(tmp_path: Path) -> None:
    """The page lists the calls from file to file, on both runtimes."""
    command = [sys.executable, "-c", PROGRAM]
    env = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, check=True, cwd=tmp_path, env=env)
    paths = set()
    for frames in json.loads(done.stdout):
        calls: list[tuple[str, str]] = []
        for file, name in frames:
            file = file.rpartition("/gentool/")[2]
            if (calls or name == "complete") and [file] != [call[0] for call in calls[-1:]]:
                calls.append((file, name))
        paths.add((*calls, ("models/llama.py", "layer")))
    shown = {
        tuple(tuple(line.split()) for line in block.splitlines())
        for block in blocks("path", "gentool/README.md")
    }
    assert shown == paths
    assert max(len({file for file, _ in path}) for path in paths) <= 8
    assert max(len(path) for path in paths) <= 10


def test_nothing_uses_the_network() -> None:
    """What README.md says; the processes of pip and make are not gentool, and a Ray cluster is the
    user's own."""
    networks = r"^\s*(?:import|from) (?:urllib|http|socket|ssl|ftplib|requests|httpx|aiohttp)\b"
    for path in {*(ROOT / "gentool").rglob("*.py")} - {ROOT / "gentool/batch/ray.py"}:
        assert not re.search(networks, path.read_text("utf-8"), re.MULTILINE), path


def keys_of(schema: object) -> set[str]:
    """The names of all fields in a JSON schema."""
    if isinstance(schema, list):
        return set().union(*map(keys_of, schema))
    if not isinstance(schema, dict):
        return set()
    fields = schema.get("properties", {})
    return set(fields).union(*map(keys_of, schema.values()))


def test_every_yaml_key_is_described() -> None:
    described = {span for span in CODE.findall(text("configs/README.md"))}
    assert keys_of(ModelFile.model_json_schema()) - {"arch", "tokenizer", "sampling"} <= described


def rewrite() -> None:
    """Puts today's output and numbers into the pages."""
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as programs:
        shell = Shell(Path(folder), Path(programs))
        for page in PAGES:
            written = TRANSCRIPT.sub(lambda match: shell.rerun(match[0]), text(page))
            written = ROW.sub(lambda match: computed(match[0]), written)
            (ROOT / page).write_text(written, "utf-8")


if __name__ == "__main__":
    rewrite()
