"""Runs a plan: every measurement of a model and of the machine, in one report."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import asdict

from gentool.benchmark import machine, process
from gentool.benchmark import model as timings
from gentool.benchmark import xla as xla_runtime
from gentool.benchmark.measure import Measurement, Plan, Report, Result
from gentool.config.model import ModelConfig

DECODE_PROMPT = 16  # tokens


def run(
    config: ModelConfig,
    precision: str | None,
    xla: bool | None,
    threads: int | None,
    options: Sequence[str],
    plan: Plan,
) -> Measurement[Report]:
    """Measures a model. `options` make a fresh `gentool complete` open it in the same way."""
    load_average = os.getloadavg()[0]
    results: list[Result] = []
    if plan.cold_start:
        results += yield from process.cold_start(config, options, plan.repeat)
    if xla_runtime.runs(config, precision, xla):
        results += xla_runtime.start()
    model, loads = yield from timings.load(config, precision, xla, threads, plan.repeat)
    results += loads
    engine = model.engine
    size = timings.model_size(model.plan, model.precision)
    context = config.arch.n_ctx
    prompt = min(DECODE_PROMPT, max(1, context // 2))
    fitting = plan._replace(
        prompt_tokens=min(plan.prompt_tokens, context),
        generate=min(plan.generate, context - prompt),
    )
    ids = timings.random_ids(config.arch.n_vocab, max(fitting.prompt_tokens, prompt))
    prefill_ids = ids[: fitting.prompt_tokens]
    sampling = timings.stochastic(config.sampling)
    results += yield from timings.prefill(engine, prefill_ids, size, plan.repeat)
    for rows in plan.batch:
        results += yield from timings.decode(
            engine, ids[:prompt], sampling, rows, fitting.generate, size, plan.repeat
        )
    results += yield from timings.vote(model, sampling, plan.repeat)
    results.append(machine.peak_memory("memory_peak"))  # before graphs are built again
    results += yield from xla_runtime.compile_times(
        engine, prefill_ids, fitting.generate, plan.repeat
    )
    rates = yield from xla_runtime.machine_rates(engine, plan.repeat)
    results += machine.shares(results, rates, model.precision)
    about_machine = machine.facts() | xla_runtime.versions(engine)
    about_model = {
        "name": config.name,
        "family": config.family,
        "precision": model.precision,
        "runtime": engine.runtime.describe(),
        "context": context,
        "parameters": size.parameters,
        "bytes": size.bytes,
        "bytes_read_per_step": size.bytes_read,
        "parameters_in_products": size.layer_parameters + size.head_parameters,
    }
    settings = fitting._asdict() | {"decode_prompt_tokens": prompt, "law": asdict(sampling)}
    return Report(
        about_machine | {"load_average": round(load_average, 2)},
        about_model,
        settings,
        (*results, *rates),
        (*_cut_notes(plan, fitting, context), *_cautions(load_average, size)),
    )


def _cut_notes(plan: Plan, fitting: Plan, context: int) -> list[str]:
    """What did not fit the context."""
    lengths = (
        ("prefill", plan.prompt_tokens, fitting.prompt_tokens),
        ("decoding", plan.generate, fitting.generate),
    )
    return [
        f"{name} is of {fits} tokens, not {asked}: the context is {context}"
        for name, asked, fits in lengths
        if fits < asked
    ]


def _cautions(load_average: float, size: timings.ModelSize) -> list[str]:
    """Why the numbers may mislead."""
    cores, cache = machine.core_count(), machine.cache_bytes()
    notes = []
    if load_average > 0.5 * cores:
        notes.append(
            f"the machine was busy: {load_average:.1f} processes were running on {cores} cores"
        )
    if size.bytes_read < cache:
        notes.append(
            f"the weights ({size.bytes_read / 1e6:.1f} MB a step) may stay in the cache"
            f" ({cache / 1e6:.0f} MB), which is read faster than memory"
        )
    return notes
