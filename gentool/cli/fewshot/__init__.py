"""`gentool fewshot`: a few-shot prompt in, the answer that most samples give out."""

from __future__ import annotations

import secrets
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gentool.cli.console import Console
from gentool.cli.flags import (
    COUNT,
    FORCE,
    OUTPUT_FILE,
    SAMPLE_COUNT,
    SEED,
    STRATIFIED,
    GrammarFlags,
    ModelFlags,
    sampling_params,
)
from gentool.cli.inputs import read, whole
from gentool.cli.options import Command, argument, flag, group, sampling_group, switch
from gentool.cli.values import number
from gentool.errors import UsageError

if TYPE_CHECKING:
    from gentool.cli.fewshot.config import Output, VoteConfig
    from gentool.voting.examples import FewShotPrompt
    from gentool.voting.tally import Ballot

EXAMPLES = r"""
gentool fewshot prompt.txt
gentool fewshot prompt.txt --confidence 0.95 --require-certificate
gentool fewshot template.txt --input 大 --exact
gentool fewshot template.txt --data questions.csv --json -o answers.jsonl
"""

SAMPLES = 300
MAX_TOKENS = 32
CONFIDENCE = number(float, 0, 0.999999, above=True)

# of sampling parameters that mean something else here: help, default
CHANGED = {
    "max_tokens": ("longer answers are invalid", str(MAX_TOKENS)),
    "stop": (r"ends an answer, instead of the example separator; \n \t … work", ""),
}


@dataclass(frozen=True)
class PromptFlags:
    """What fills a template."""

    input: str | None = flag("--input", "TEXT", "put TEXT where the file has {input}")
    data: str | None = flag("--data", "FILE", "a vote for each row of a .jsonl, .csv or .tsv")
    label: str | None = flag(
        "--label", "COLUMN", "with --data: the right answers, if there are any", "label"
    )
    compare: bool | None = switch(
        "--compare", "with --data and labels: count the greedy and the exact answer, too"
    )


@dataclass(frozen=True)
class VoteFlags:
    """How a vote is held."""

    n: int | None = flag("-n --n", "N", "samples of each prompt", str(SAMPLES), SAMPLE_COUNT)
    curtail: bool | None = switch(
        "--curtail/--no-curtail", "stop when no sample left can change the winner", "on"
    )
    confidence: float | None = flag(
        "--confidence", "P", "certify it with at most N samples", "off", CONFIDENCE
    )
    exact: bool | None = switch("--exact", "sum probabilities instead of drawing samples")
    budget: int | None = flag("--budget", "N", "with --exact: prefixes to compute", "1000", COUNT)
    require_certificate: bool | None = switch(
        "--require-certificate", "exit with 5 if the answer is not certain"
    )
    stratified: bool | None = switch(*STRATIFIED)
    seed: int | None = flag(*SEED)
    answer_regex: str | None = flag(
        "--answer-regex", "REGEX", "an answer is its first group, or its match"
    )
    simplified: bool | None = switch("--simplified", "compare answers in simplified characters")
    explain: bool | None = switch(
        "--explain", "how examples, left out or reordered, change the answer"
    )


@dataclass(frozen=True)
class OutputFlags:
    """What is printed, and where."""

    json: bool | None = switch(
        "--json", "print one object with every field; with --data, one a row"
    )
    plot: str | None = flag("--plot", "FILE", "draw the vote, as .svg or .png", "an .svg")
    output: str | None = flag(*OUTPUT_FILE)
    force: bool | None = switch(*FORCE)


@dataclass(frozen=True)
class Flags:
    """Values of the command line and the environment; None where an option was not given."""

    file: str = argument("file", "FILE|-")
    prompt: PromptFlags = group("Prompt", PromptFlags)
    vote: VoteFlags = group("Vote", VoteFlags)
    model: ModelFlags = group("Model", ModelFlags)
    sampling: Mapping[str, Any] = sampling_group("Sampling", "distribution", "logits")
    grammar: GrammarFlags = group("Sampling", GrammarFlags)
    length: Mapping[str, Any] = sampling_group(
        "Length", "length", changed=CHANGED, without=["include_stop"]
    )
    output: OutputFlags = group("Output", OutputFlags)

    @property
    def file_name(self) -> str:
        """The prompt file, for messages."""
        return "standard input" if self.file == "-" else self.file


def fewshot(console: Console, flags: Flags) -> None:
    """Answers a few-shot prompt: what does the model say most often?

    FILE, or - for standard input, is the prompt: examples, then the open question. The separator
    of the examples is the stop sequence of an answer; --stop replaces it, -v shows it. Answers that
    differ only in width, outer punctuation, or Chinese and Arabic numerals are one; the most
    frequent spelling is printed. Answers that do not end, or do not match, are counted but never
    win.

    A vote draws N samples, and stops when the rest cannot change the winner. --confidence stops as
    soon as the answer is certified to be the most probable one: the chance to certify a wrong one
    is at most 1 - P. --exact draws nothing: it sums the probability of every text until no other
    answer can have more. All probabilities are those after temperature and filters. Ties: higher
    summed probability, then the lower sample.

    --data answers each row, filling {column} from its columns. Where there is a column of labels,
    the answers are compared with it; --compare computes the greedy and the exact answer, too. With
    --json -o FILE, a run that was interrupted goes on where it stopped; FILE.journal says how far
    it came.
    """
    from gentool.cli.fewshot import rows, single

    template = whole(read(console, None, flags.file, to="fewshot"))
    check(flags)
    prompt = filled(template, flags)
    table = None
    if flags.prompt.data:
        table = rows.read(template, flags.prompt.data, flags.prompt.label)
        prompt = next((row.prompt for row in table.rows if not row.problem), prompt)
    few_shot = parsed(prompt, flags)
    config = vote_config(flags, prompt, few_shot)
    if few_shot:
        count = len(few_shot.examples)
        ends = " or ".join(map(repr, config.request.sampling.stop))
        console.detail(
            f"{count} example{'s' if count > 1 else ''}, separator {few_shot.separator!r};"
            f" an answer ends before {ends}"
        )
    if table:
        if flags.prompt.compare and not table.labelled:
            raise UsageError(
                f"--compare, and {flags.prompt.data} has no column label", "name it with --label"
            )
        rows.vote_on_rows(console, config, output_of(flags), table, flags.vote.seed)
        return
    if flags.output.output not in (None, "-"):
        console.redirect(flags.output.output)
    single.vote(console, config, output_of(flags), few_shot)


def vote_config(flags: Flags, prompt: str, few_shot: FewShotPrompt | None) -> VoteConfig:
    """What the vote on a prompt is held with."""
    from gentool.cli.fewshot.config import VoteConfig
    from gentool.generation.request import Request, Sampled

    model = flags.model.config()
    ballot = ballot_of(flags.vote)
    given: dict[str, Any] = {"max_tokens": MAX_TOKENS, **flags.sampling}
    given |= {"stop": (few_shot.stop,)} if few_shot else {}
    sampling = replace(sampling_params(model, {**given, **flags.length}), include_stop=False)
    flags.grammar.check()
    if sampling.temperature == 0 and ballot.n > 1 and not ballot.exact:
        raise UsageError(
            f"--temperature is 0, of {ballot.n} samples: every vote would be the same",
            "give a higher temperature, --n 1, or --exact",
        )
    seed = flags.vote.seed
    request = Request(
        prompts=(prompt,),
        rows=(0,),
        n=ballot.n,
        sampling=sampling,
        seed=secrets.randbits(32) if seed is None else seed,
        batch_invariant=bool(flags.model.batch_invariant),
        search=Sampled(bool(flags.vote.stratified)),
        regex=flags.grammar.regex,
        json_schema=flags.grammar.json_schema,
    )
    how = flags.model
    return VoteConfig(model, how.precision, how.xla, how.threads, request, ballot)


def ballot_of(flags: VoteFlags) -> Ballot:
    """How many samples are drawn, and how they are counted."""
    from gentool.voting import answers, tally

    rule = answers.AnswerRule(flags.answer_regex or "", bool(flags.simplified))
    answers.answer("1", rule)  # a wrong regex is an error before a model is opened
    return tally.Ballot(
        n=flags.n or SAMPLES,
        curtail=flags.curtail is not False,
        confidence=flags.confidence,
        exact=bool(flags.exact),
        budget=flags.budget or tally.BUDGET,
        rule=rule,
    )


def output_of(flags: Flags) -> Output:
    from gentool.cli.fewshot.config import Output

    output = flags.output
    return Output(
        json=bool(output.json),
        path=None if output.output in (None, "-") else output.output,
        force=bool(output.force),
        plot=plot_path(output.plot),
        explain=bool(flags.vote.explain),
        require_certificate=bool(flags.vote.require_certificate),
        compare=bool(flags.prompt.compare),
    )


def check(flags: Flags) -> None:
    """Raises UsageError for flags that do not go together."""
    vote, data, plot = flags.vote, flags.prompt.data, flags.output.plot
    if flags.prompt.input is not None and data:
        raise UsageError(f"both --input ('{flags.prompt.input}') and --data are given", "drop one")
    if vote.confidence is not None and vote.exact:
        raise UsageError("--confidence and --exact are two kinds of vote", "drop one")
    if vote.budget is not None and not (vote.exact or flags.prompt.compare):
        raise UsageError(f"--budget is {vote.budget}, which is for --exact", "add --exact")
    if vote.stratified and vote.confidence is not None:
        raise UsageError(
            "--stratified samples depend on each other, so --confidence cannot be kept", "drop one"
        )
    if vote.require_certificate and vote.confidence is None and not vote.exact:
        raise UsageError(
            "--require-certificate, and nothing certifies", "add --confidence 0.95 or --exact"
        )
    for name, given in {"plot": plot, "explain": vote.explain}.items():
        if data and given:
            raise UsageError(f"--{name} is for one vote, --data holds many", "drop one")
    if flags.prompt.compare and not data:
        raise UsageError("--compare is for rows with labels", "add --data FILE")
    if flags.prompt.label is not None and not data:
        raise UsageError(f"--label is '{flags.prompt.label}', without --data", "add --data FILE")
    if plot and Path(plot).suffix not in ("", ".png", ".svg"):
        raise UsageError(f"--plot is '{plot}'", "end its name in .svg or .png")
    if plot and not Path(plot).parent.is_dir():  # an error before a long vote, not after
        raise UsageError(f"--plot is '{plot}', in no folder", "make the folder")


def plot_path(name: str | None) -> Path | None:
    """The file of a plot: an .svg where its name does not say."""
    return Path(name if Path(name).suffix else f"{name}.svg") if name else None


def filled(template: str, flags: Flags) -> str:
    """The prompt of one vote; of --data, the template."""
    from gentool.voting import examples

    names = examples.placeholders(template)
    if flags.prompt.data and not names:
        raise UsageError(
            f"{flags.file_name} has no {{input}} for the rows of {flags.prompt.data} to fill",
            "write {input}, or the name of another column, where a row's text goes",
        )
    if flags.prompt.data:
        return template
    if flags.prompt.input is not None:
        if "input" not in names:
            raise UsageError(
                f"--input is '{flags.prompt.input}', {flags.file_name} has no {{input}}",
                "write it there",
            )
        return examples.fill(template, {"input": flags.prompt.input})
    if "input" in names:
        raise UsageError(
            f"{flags.file_name} has {{input}}", "fill it with --input TEXT or --data FILE"
        )
    return template


def parsed(prompt: str, flags: Flags) -> FewShotPrompt | None:
    """The examples of a prompt. Without any, nothing says what ends an answer."""
    from gentool.voting import examples

    few_shot = examples.parse_few_shot(prompt)
    if few_shot is None and not flags.length.get("stop"):
        raise UsageError(
            f"{flags.file_name} has no examples that end as its last line does",
            r"give an example a line, then the open question; or --stop '\n'",
        )
    if few_shot is None and flags.vote.explain:
        raise UsageError(f"--explain, and {flags.file_name} has no examples", "drop it")
    return few_shot


command = Command(fewshot, Flags, EXAMPLES)
