"""`gentool finetune`: a model and a user's texts in, a model or a LoRA adapter out. The run is kept
in a folder inside the result's, until the result is complete.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gentool import registry, tokenizers
from gentool.checkpoints.maps import forget
from gentool.config.lookup import FOLDER_FILE
from gentool.config.model import ModelConfig
from gentool.errors import GentoolError, ModelError, UsageError
from gentool.generation.opening import INTEGERS, ModelFiles
from gentool.models import column_blocks, peft, weights
from gentool.models.adapter import Adapter, LowRank
from gentool.runtimes.xla import device
from gentool.runtimes.xla import weights as xla_weights
from gentool.tokenizers import Tokenizer, chat
from gentool.training import chats, export, memory, packing, run_folder, step, texts, trainer
from gentool.training.packing import Batch, Text
from gentool.training.recipe import FinetuneRecipe
from gentool.training.run_folder import BEST, CHECKPOINT
from gentool.training.texts import Conversation, Document
from gentool.training.trainer import Note, Progress

ADAPTER_FILE = "adapter_config.json"
RUN = "training"  # the folder of the run, inside the result's
MAX_HELD_OUT_BATCHES = 32
EVALUATIONS = 10  # of a run, unless the recipe says how often


class Rows(NamedTuple):
    """The texts of a run: rows to learn, rows to evaluate with."""

    train: Batch
    held_out: Batch


def prepare(recipe: FinetuneRecipe, files: ModelFiles) -> Iterator[str | Rows]:
    """Reads and packs the texts; lines that say what they are, then their rows."""
    tokenizer = files.tokenizer
    assert tokenizer
    documents: list[Document] = []
    for path in texts.find(recipe.data):
        documents += texts.read(path, recipe.documents)
    parts = texts.split(documents, recipe.held_out)
    encode = _encoder(files.config, tokenizer, documents)
    rows = Rows(
        *(packing.pack([text for d in p for text in encode(d)], recipe.length) for p in parts)
    )
    tokens = [int(part.learnt.sum()) for part in rows]
    if not tokens[0]:
        raise UsageError(f"{', '.join(recipe.data)} has no text", "give files with text in them")
    yield (
        f"{len(parts.train):,} documents, {tokens[0]:,} tokens in {len(rows.train.ids):,} rows of"
        f" {recipe.length}; {len(parts.held_out):,} documents, {tokens[1]:,} tokens held out"
    )
    if not tokenizer.end:
        yield "the tokenizer has no end token: where a document ends is not learnt"
    yield rows


def _encoder(
    config: ModelConfig, tokenizer: Tokenizer, documents: list[Document]
) -> Callable[[Document], list[Text]]:
    """A function that makes texts of a document. Plain text stands between the tokens that start
    and end a text, and all of it is learnt; of a conversation the answers are."""
    conversations = any(isinstance(document, Conversation) for document in documents)
    encode_conversation = chats.encoder(config, tokenizer) if conversations else None

    def encode(document: Document) -> list[Text]:
        if isinstance(document, Conversation):
            assert encode_conversation
            return encode_conversation(document)
        ids = [*tokenizer.encode(document), *tokenizer.end[:1]]
        return [Text(ids, [True] * len(ids))]

    return encode


def check_target(target: Path) -> None:
    """Refuses a folder that holds something else than a run."""
    try:
        foreign = target.exists() and not (target / RUN / run_folder.RECIPE).is_file()
        if foreign and (not target.is_dir() or any(p.name != RUN for p in target.iterdir())):
            raise UsageError(f"{target} exists, and is no run of finetune", "name a new folder")
    except OSError as e:
        raise GentoolError(f"cannot read {target}: {e.strerror}", "check its permissions") from None


def check_model(recipe: FinetuneRecipe, files: ModelFiles) -> None:
    """Refuses a model that cannot be trained by this recipe."""
    config = files.config
    if files.tokenizer is None:
        raise ModelError(f"{config.name} has no tokenizer", "give one: --set tokenizer.model=FILE")
    if any(weight.dtype in INTEGERS for weight in files.plan.values()):
        raise ModelError(
            f"the weights of {config.name} are quantised, and cannot be trained",
            "give the weights that they were made of",
        )
    if recipe.lora and config.adapter:
        raise UsageError(
            f"{config.name} has an adapter already, and an adapter is of a model without one",
            "merge it first: gentool convert",
        )
    if recipe.length > config.arch.n_ctx:
        raise UsageError(
            f"length is {recipe.length}, the context of {config.name} is {config.arch.n_ctx}",
            f"give --length {config.arch.n_ctx} or less",
        )


def check_memory(recipe: FinetuneRecipe, files: ModelFiles) -> None:
    """Refuses a run that needs more memory than is free."""
    shapes = {name: weight.shape for name, weight in files.plan.items()}
    o = recipe.optimizer
    needed = memory.estimate(shapes, files.config.arch, o, o.batch, recipe.length, recipe.lora)
    memory.check(needed, device.free_memory(), o, recipe.lora)


def finetune(recipe: FinetuneRecipe, files: ModelFiles, target: Path) -> Iterator[Note | Progress]:
    """Trains in target/training, and writes the result to `target`: a model folder, or the folder
    of a LoRA adapter. Both appear when they are complete."""
    run = target / RUN
    check_target(target)
    with run_folder.locked(run):
        rows = None
        for prepared in prepare(recipe, files):
            if isinstance(prepared, Rows):
                rows = prepared
            else:
                yield Note(prepared)
        assert rows
        finished = (target / _last_file(recipe)).exists() and not (run / CHECKPOINT).exists()
        arch = files.config.arch.model_dump(mode="json")
        record = recipe.model_dump(mode="json") | {
            "arch": arch,
            "rows": packing.digest(rows.train),
        }
        if changed := run_folder.claim(run, record, finished):
            yield Note(changed)
        if finished:
            yield Note(f"{target} is finished")
        else:
            yield from _train(recipe, files, rows, target)
        for name in (CHECKPOINT, BEST):  # in this order: what is left is no unfinished run
            with run_folder.writing(run / name):
                (run / name).unlink(missing_ok=True)


def _last_file(recipe: FinetuneRecipe) -> str:
    """The file of a result that is written last."""
    return ADAPTER_FILE if recipe.lora else FOLDER_FILE


def start(recipe: FinetuneRecipe, files: ModelFiles) -> tuple[step.Model, step.State]:
    """A model that can be trained, and what training changes of it: all of its weights, in float32,
    or LoRA's factors beside weights in the precision of products."""
    o, arch = recipe.optimizer, files.config.arch
    if recipe.lora:
        state = step.variables(step.lora_factors(products(files), recipe.lora.rank, recipe.seed), o)
        dtype = step.COMPUTE[o.precision]
        frozen = xla_weights.load(files.source, files.plan, arch.n_layer, dtype)
        params = step.adapted(frozen, state, recipe.lora.scale)
    else:
        state = step.variables(_arrays(files), o)
        params = step.all_weights(state, arch.n_layer)
    return step.Model(files.family, arch, params), state


def _arrays(files: ModelFiles) -> Iterator[tuple[str, np.ndarray]]:
    """All weights [out, in] by name. What is mapped of one leaves the memory before the next."""
    for name, weight in files.plan.items():
        stored = weights.parts(files.source, weight)
        parts = [column_blocks.unblocked(array) for array in stored]
        yield name, np.concatenate(parts) if parts[1:] else parts[0]
        for array in stored:
            forget(array)


def _train(
    recipe: FinetuneRecipe, files: ModelFiles, rows: Rows, target: Path
) -> Iterator[Note | Progress]:
    """The steps that are left, and the result."""
    o = recipe.optimizer
    size = min(o.batch, len(rows.train.ids))
    steps = math.ceil((o.epochs or 1) * len(rows.train.ids) / (size * o.accumulate))
    model, state = start(recipe, files)
    job = trainer.Job(
        model=model,
        state=state,
        optimizer=o,
        steps=steps,
        batches=lambda number: [
            packing.drawn(rows.train, number * o.accumulate + part, size, recipe.seed)
            for part in range(o.accumulate)
        ],
        held_out=packing.in_order(rows.held_out, size, MAX_HELD_OUT_BATCHES),
        evaluate_every=recipe.evaluate_every or max(1, steps // EVALUATIONS),
    )
    yield from trainer.run(target / RUN, job)
    if recipe.lora:
        _write_adapter(recipe, files, state, target)
    else:
        _write_model(files, state, target)


def _write_adapter(
    recipe: FinetuneRecipe, files: ModelFiles, state: step.State, target: Path
) -> None:
    """LoRA's factors as PEFT's adapter of the model, by its name or the path of its folder."""
    assert recipe.lora
    scale, base = recipe.lora.scale, Path(recipe.model)
    changes = {name: (LowRank(a, b, scale),) for name, (a, b) in step.factors(state).items()}
    name = str(base.resolve()) if base.exists() else recipe.model
    peft.write_adapter(target, Adapter(changes), files.family, files.config.arch, name)


def products(files: ModelFiles) -> dict[str, tuple[int, ...]]:
    """The shapes of all products of the layers, by name: what LoRA adapts."""
    plan = files.plan.items()
    return {n: w.shape for n, w in plan if n.startswith("layers.") and len(w.shape) == 2}


def _write_model(files: ModelFiles, state: step.State, target: Path) -> None:
    """The model with the weights of a state, in the dtypes that they had."""
    config, tokenizer = files.config, files.config.tokenizer
    assert tokenizer
    templates = _templates(config)
    named = config.chat_template if not templates else next(iter(templates))
    model = config.model_copy(
        update={
            "name": target.resolve().name,
            "checkpoint": export.WEIGHTS,
            "format": None,
            "adapter": [],
            "chat_template": named if config.chat_template else None,
            "source": None,
            "tokenizer": tokenizer.model_copy(update={"model": Path(tokenizer.model).name}),
            "folder": target,
        }
    )
    tensors = {name: (weight.dtype, weight.shape) for name, weight in files.plan.items()}
    copied = {path.name: path for path in tokenizers.files(tokenizer, config.folder)}
    copied |= templates
    export.write_model(model, tensors, lambda name: state.weights[name].numpy(), copied)


def _templates(config: ModelConfig) -> dict[str, Path]:
    """The files of a model's chat templates, by their paths in its folder."""
    places = {}
    for path in registry.template_files(config):
        more = path.parent.name == chat.MORE_FOLDER and config.chat_template is None
        places[f"{chat.MORE_FOLDER}/{path.name}" if more else path.name] = path
    return places
