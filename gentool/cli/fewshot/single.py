"""One vote of `gentool fewshot`: held, shown while it grows, told."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

from gentool.cli import signals
from gentool.cli.console import Console
from gentool.cli.fewshot import report as boards
from gentool.errors import Exit, GentoolError

if TYPE_CHECKING:
    from gentool.cli.fewshot import Flags
    from gentool.config.model import ModelConfig, Sampling
    from gentool.generation.request import Request
    from gentool.generation.session import Model
    from gentool.voting.examples import FewShotPrompt
    from gentool.voting.tally import Answer, Ballot, Tally

BUDGET = 200  # prefixes that --explain computes of each prompt
WITHIN = 0.01  # and how much of the probability it may leave unseen before
NO_ANSWER = "raise --max-tokens, or give the --stop that ends an answer"
LOOK = "; gentool complete shows what is said"


class Setting(NamedTuple):
    """What a vote is held with."""

    model: ModelConfig
    law: Sampling
    ballot: Ballot


class UndecidedError(GentoolError):
    """A vote that has to be certain is not."""

    exit_code = Exit.UNDECIDED


def single(
    console: Console, flags: Flags, setting: Setting, prompt: str, found: FewShotPrompt | None
) -> None:
    """One vote."""
    from gentool.generation import opening
    from gentool.voting import plot

    chosen, law, ballot = setting
    if flags.plot:
        plot.check()
    model = opening.open_model(chosen, flags.precision, flags.xla)
    console.overwrite()
    request = asked(flags, {0: prompt}, setting)
    console.detail(f"{model.describe()}, seed {request.seed}")
    tally, stopped = watched(console, model.votes(request, [ballot]))
    if tally is None:
        raise KeyboardInterrupt
    verdict = boards.verdict(tally)
    failed = tally.winner is None and not stopped  # what the error below says once
    console.board(boards.board(tally, "" if failed else verdict))
    moved: dict[str, object] = {}
    if flags.explain and found and tally.winner and not stopped:
        changes = explain(model, request, found, ballot, tally.winner)
        console.board(boards.explained(changes, tally.winner.text))
        moved = {"explain": [change._asdict() for change in changes]}
    if flags.json:
        keys = {"prompt": prompt, "model": chosen.name, "precision": model.precision}
        record = {**keys, "law": law.model_dump(), **boards.record(tally), **moved}
        console.write(json.dumps(record, ensure_ascii=False) + "\n")
    if stopped:
        raise KeyboardInterrupt
    if tally.winner and not flags.json:
        console.write(tally.winner.text + "\n")
    if flags.plot and not plot.save(tally, verdict, flags.plot):
        console.note(f"no font here has every character of {flags.plot}; an .svg keeps them")
    if tally.winner is None:
        other = ", or change --answer-regex" if flags.answer_regex else ""
        raise GentoolError(verdict, NO_ANSWER + other + LOOK)
    if flags.require_certificate and not tally.certain:
        raise UndecidedError("the answer is not certain", f"raise {more(ballot)}")


def more(ballot: Ballot) -> str:
    """The flag that lets an open vote go on."""
    return "--budget" if ballot.exact else "--n"


def asked(flags: Flags, prompts: Mapping[int, str], setting: Setting) -> Request:
    """The prompts of rows, and how each is continued."""
    from gentool.generation import request as ask

    return ask.Request(
        prompts=tuple(prompts.values()),
        rows=tuple(prompts),
        n=setting.ballot.n,
        sampling=setting.law,
        seed=secrets.randbits(32) if flags.seed is None else flags.seed,
        batch_invariant=bool(flags.batch_invariant),
        search=ask.Sampled(bool(flags.stratified)),
        regex=flags.regex,
        json_schema=flags.json_schema,
    )


def explain(
    model: Model, request: Request, found: FewShotPrompt, ballot: Ballot, winner: Answer
) -> list[boards.Change]:
    """How probable the winner is, without each example and in other orders, all in one run."""
    from gentool.voting.variants import variants

    changed = variants(found, request.seed)
    prompts = (request.prompts[0], *(variant.prompt for variant in changed))
    request = replace(request, prompts=prompts, rows=tuple(range(len(prompts))))
    ballot = replace(ballot, exact=True, confidence=None, budget=BUDGET, within=WITHIN)
    last = {tally.prompt: tally for tally in model.votes(request, [ballot])}
    names = ["as it is", *(variant.name for variant in changed)]
    return [
        boards.Change(name, *last[index].mass(winner.answer)) for index, name in enumerate(names)
    ]


def watched(console: Console, tallies: Iterator[Tally]) -> tuple[Tally | None, bool]:
    """The last tally of a vote, shown while it grows; and whether Ctrl-C ended it."""
    tally, began = None, time.monotonic()
    try:
        with console.live() as show:
            for tally in tallies:
                footer = boards.progress(tally, time.monotonic() - began)
                show(boards.board(tally, footer))
    except BaseException as failure:
        if not signals.interrupted(failure):
            raise
        return tally, True
    return tally, False
