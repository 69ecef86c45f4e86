"""`gentool train`: a recipe and a corpus in, a run folder with vocabulary, tokens, checkpoint and
the finished model out.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from gentool.config.model import ModelConfig, TokenizerConfig
from gentool.models import load_family
from gentool.training import export, run_folder, step, tokens, trainer
from gentool.training.recipe import Recipe
from gentool.training.run_folder import VOCABULARY
from gentool.training.trainer import Note, Progress


def train(recipe: Recipe, data: Path, run: Path, hours: float | None) -> Iterator[Note | Progress]:
    """Trains in folder `run` until the recipe's tokens are used or, if sooner, `hours` of steps
    have passed (the cosine decay then ends there). The finished model is in run/model."""
    with run_folder.locked(run):
        if changed := run_folder.claim(run, recipe.model_dump(mode="json")):
            yield Note(changed)
        yield from map(Note, tokens.prepare(recipe, data, run))
        o = recipe.optimizer
        rows = o.batch * o.accumulate
        steps = max(1, (o.tokens or 0) // (rows * recipe.arch.n_ctx))
        windows = tokens.windows(recipe, run, "", steps * rows, recipe.seed)
        held_out = tokens.held_out_batches(recipe, run, o.batch)
        if not held_out:
            yield Note("too little text is held out to measure a held-out loss")
        family = load_family(recipe.family)
        state = step.variables(step.random_weights(family, recipe.arch, recipe.seed), o)
        job = trainer.Job(
            model=step.Model(family, recipe.arch, step.all_weights(state, recipe.arch.n_layer)),
            state=state,
            optimizer=o,
            steps=steps,
            batches=lambda number: [
                tokens.batch(windows, number * o.accumulate + part, o.batch)
                for part in range(o.accumulate)
            ],
            held_out=held_out,
            evaluate_every=None,
            hours=hours,
        )
        yield from trainer.run(run, job)
        _export(recipe, run, state)


def _export(recipe: Recipe, run: Path, state: step.State) -> None:
    """run/model: float16 weights, tokenizer and YAML, as `gentool complete -m` opens them."""
    folder = run / "model"
    model = ModelConfig(
        name=recipe.name,
        family=recipe.family,
        checkpoint=export.WEIGHTS,
        arch=recipe.arch,
        tokenizer=TokenizerConfig(kind="sentencepiece", model=VOCABULARY, add_bos=True),
        sampling=recipe.sampling,
        folder=folder,
    )
    files = {VOCABULARY: run / VOCABULARY}
    half, weights = np.dtype(np.float16), state.weights
    tensors = {name: (half, tuple(variable.shape)) for name, variable in weights.items()}
    export.write_model(model, tensors, lambda name: weights[name].numpy(), files)
