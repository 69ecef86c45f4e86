"""`gentool inspect`: what a model is, from its files."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from gentool.cli.console import Console
from gentool.cli.flags import ADAPTER, DEFAULT_MODEL, OUTPUT_FILE, POSITIVE, SET
from gentool.cli.options import Command, flag, group, repeated, switch
from gentool.cli.values import one_of
from gentool.errors import UsageError

if TYPE_CHECKING:
    from gentool.inspection.quantisation import ProductError
    from gentool.inspection.reachable import Reachable
    from gentool.inspection.sizes import Sizes, Vocabulary
    from gentool.inspection.subject import Subject
    from gentool.inspection.untrained import Untrained

EXAMPLES = """
gentool inspect
gentool inspect -m cpm-lm --only size
gentool inspect -m FOLDER --only reachable --seconds 600 --json
gentool inspect --plot tiny-zh.svg
"""

PARTS = ("size", "reachable", "untrained", "quantisation")
SECONDS = 60.0
PATIENCE = 10.0  # seconds before progress is shown
SHOWN = 8  # tokens and products of a list; --json has all


@dataclass(frozen=True)
class ModelFlags:
    """Which model."""

    model: str | None = flag(
        "-m --model", "MODEL", "a name, a folder or a YAML file", DEFAULT_MODEL
    )
    set: tuple[tuple[str, str], ...] = repeated(*SET)
    adapter: tuple[str, ...] = repeated(*ADAPTER)


@dataclass(frozen=True)
class PartFlags:
    """What is looked at."""

    only: tuple[str, ...] = repeated(
        "--only", "PART", "size, reachable, untrained or quantisation", one_of(*PARTS)
    )
    seconds: float | None = flag(
        "--seconds",
        "N",
        "for reachable, and again for quantisation; the rest stays unknown",
        f"{SECONDS:g}",
        POSITIVE,
    )


@dataclass(frozen=True)
class OutputFlags:
    """What is printed, and where."""

    json: bool | None = switch("--json", "print one object with every field")
    plot: str | None = flag("--plot", "FILE", "draw it, as .svg, or as .png where FILE ends so")
    output: str | None = flag(*OUTPUT_FILE)


@dataclass(frozen=True)
class Flags:
    """Values of the command line and the environment; None where an option was not given."""

    model: ModelFlags = group("Model", ModelFlags)
    parts: PartFlags = group("Parts", PartFlags)
    output: OutputFlags = group("Output", OutputFlags)


class Findings(NamedTuple):
    """What each part found; None for a part that was not asked for."""

    sizes: Sizes | None
    vocabulary: Vocabulary
    reachable: Reachable | None
    untrained: Untrained | None
    products: tuple[ProductError, ...] | None
    unmeasured: tuple[str, ...]  # products


def inspect(console: Console, flags: Flags) -> None:
    """Prints what a model is, from its files; nothing is run, and no TensorFlow is loaded.

    size: parameters, memory in each precision, KV cache, context, vocabulary; no weight is read.

    reachable: the tokens that greedy decoding can never produce, because another one always has a
    larger logit. A token is possible or impossible only by a proof, else unknown. Extra inspect.

    untrained: the tokens whose embedding looks as if it was never trained.

    quantisation: how far int8 and int4 are from the weights of each product.
    """
    parts = flags.parts.only or PARTS
    check_plot(flags.output.plot)
    subject = opened(flags.model)
    if flags.output.output not in (None, "-"):
        console.redirect(str(flags.output.output))
    console.overwrite()
    as_json = bool(flags.output.json)
    findings = examine(console, subject, parts, flags.parts.seconds or SECONDS, not as_json)
    if as_json:
        console.write(json.dumps(record(subject, findings), ensure_ascii=False) + "\n")
    if flags.output.plot:
        from gentool.inspection import plot

        sizes, _, _, untrained, products, _ = findings
        plot.save(flags.output.plot, subject.config.name, sizes, untrained, products or ())


def check_plot(path: str | None) -> None:
    """Raises UsageError for a plot that cannot be drawn, before anything is computed."""
    if path is None:
        return
    from gentool.voting import plot

    plot.check()
    if Path(path).suffix not in ("", ".png", ".svg"):
        raise UsageError(f"--plot is '{path}'", "end its name in .svg or .png")
    if not Path(path).parent.is_dir():
        raise UsageError(f"--plot is '{path}', in no folder", "make the folder")


def opened(flags: ModelFlags) -> Subject:
    """The model's files, checked against each other; no weight is read."""
    from gentool.config import lookup
    from gentool.generation import opening
    from gentool.inspection.subject import subject

    config = lookup.load(flags.model or DEFAULT_MODEL, dict(flags.set), flags.adapter)
    return subject(*opening.open_files(config))


def examine(
    console: Console, subject: Subject, parts: Sequence[str], seconds: float, shown: bool
) -> Findings:
    """Looks at each part, and prints it at once where it is `shown`."""
    from gentool.inspection import sizes as size_room

    arch = subject.config.arch
    vocabulary = size_room.vocabulary(arch, subject.tokenizer)
    sizes = reachable = untrained = products = None
    unmeasured: tuple[str, ...] = ()
    if "size" in parts:
        sizes = size_room.measure(arch, subject.plan, subject.recording)
        if shown:
            show_sizes(console, subject, sizes, vocabulary)
    if "reachable" in parts:
        reachable = decided(console, subject, seconds)
        if shown:
            show_reachable(console, subject, reachable)
    if "untrained" in parts:
        untrained = compared(subject, vocabulary)
        if shown:
            show_untrained(console, subject, untrained)
    if "quantisation" in parts:
        products, unmeasured = measured(subject, seconds)
        if shown:
            show_products(console, products, unmeasured)
    return Findings(sizes, vocabulary, reachable, untrained, products, unmeasured)


def decided(console: Console, subject: Subject, seconds: float) -> Reachable:
    """What is proven of each token; progress is shown where it takes long."""
    from gentool.inspection import output_layer, reachable

    start = time.monotonic()

    def show(done: int, total: int, left: float, phase: str) -> None:
        if time.monotonic() - start > PATIENCE:
            report(done, total, left, phase)

    layer = output_layer.read_output_layer(subject.recording, subject.read)
    with console.progress("token") as report:
        proofs = reachable.proofs(layer, seconds, show)
        result = reachable.verdicts(proofs, len(layer.weight))
    console.detail(f"reachable: {time.monotonic() - start:.1f} s, norm {layer.norm}")
    if result.unknown and not reachable.has_scipy():
        console.note(
            "scipy is missing, so undecided tokens stay unknown: pip install 'gentool[inspect]'"
        )
    return result


def compared(subject: Subject, vocabulary: Vocabulary) -> Untrained:
    """The embedding's rows, compared with each other."""
    from gentool.inspection import output_layer, untrained

    embedding = output_layer.floats("embedding", subject.read)
    tied = output_layer.head_name(subject.recording) == "embedding"
    return untrained.untrained(embedding, tied, vocabulary.unused)


def measured(subject: Subject, seconds: float) -> tuple[tuple[ProductError, ...], tuple[str, ...]]:
    """The errors of products, and the products that were not measured."""
    from gentool.inspection import quantisation, sizes

    names, plan = sizes.product_names(subject.recording), subject.plan
    products = tuple(quantisation.errors(names, plan, subject.read, seconds))
    done = {product.name for product in products}
    return products, tuple(name for name in names if name not in done)


def show_sizes(console: Console, subject: Subject, sizes: Sizes, vocabulary: Vocabulary) -> None:
    config, arch = subject.config, subject.config.arch
    heads = f"{arch.n_head} heads of {arch.d_head}"
    if arch.n_kv_head != arch.n_head:
        heads += f", {arch.n_kv_head} of keys and values"
    layers = "1 layer" if arch.n_layer == 1 else f"{arch.n_layer} layers"
    console.write(
        f"{config.name}: {config.family}, {layers} of width {arch.d_model}, {heads},"
        f" context {arch.n_ctx}\n\n"
    )
    total = sum(sizes.parameters.values())
    rows = [
        (name, f"{count:,}", f"{count / total:.1%}") for name, count in sizes.parameters.items()
    ]
    console.table(("parameters", "", ""), [*rows, ("all", f"{total:,}", "")])
    console.write("\n")
    memory = [
        (
            row.precision,
            row.runtime,
            size_text(row.weights),
            size_text(row.weights + sizes.kv_cache),
        )
        for row in sizes.memory
    ]
    console.table(("memory", "runtime", "weights", f"with {arch.n_ctx} tokens"), memory)
    console.write(
        f"KV cache: {size_text(sizes.kv_cache_per_token)} a token,"
        f" {size_text(sizes.kv_cache)} at the full context\n"
    )
    if subject.tokenizer is None:
        console.write(f"vocabulary: {vocabulary.rows} rows, no tokenizer\n")
        return
    console.write(
        f"vocabulary: {vocabulary.rows} rows, {vocabulary.pieces} pieces, of them"
        f" {vocabulary.special} special; {len(vocabulary.unused)} rows have no piece\n"
    )


def show_reachable(console: Console, subject: Subject, result: Reachable) -> None:
    unknown = f"{len(result.unknown)} unknown" if result.unknown else "none unknown"
    console.write(
        f"\ntokens that greedy decoding can never produce: {len(result.impossible)}"
        f" ({result.possible} possible, {unknown})\n"
    )
    for proof in result.impossible[:SHOWN]:
        console.write(f"  {proof.token} {subject.text(proof.token)!r}: {proof.reason()}\n")
    rest(console, len(result.impossible))


def show_untrained(console: Console, subject: Subject, result: Untrained) -> None:
    console.write(
        f"\ntokens that look untrained: {len(result.low)}\n"
        f"below {result.limit:.4f}: {result.criterion}\n"
    )
    for token in result.low[:SHOWN]:
        console.write(f"  {token} {subject.text(token)!r}: {result.scores[token]:.4f}\n")
    rest(console, len(result.low))
    if result.equal:
        console.write(f"tokens whose embedding equals another one: {len(result.equal)}\n")


def show_products(
    console: Console, products: Sequence[ProductError], unmeasured: Sequence[str]
) -> None:
    if products:
        ordered = sorted(products, key=lambda row: row.int4 or row.int8, reverse=True)
        console.write(f"\nrelative errors of {len(products)} products, the worst first\n")
        rows = [
            (row.name, f"{row.int8:.2%}", "" if row.int4 is None else f"{row.int4:.2%}")
            for row in ordered[:SHOWN]
        ]
        console.table(("product", "int8", "int4"), rows)
        rest(console, len(products))
    if unmeasured:
        console.write(f"not measured: {len(unmeasured)} products (quantised already, or no time)\n")


def rest(console: Console, count: int) -> None:
    if count > SHOWN:
        console.write(f"  and {count - SHOWN} more: --json has all\n")


def size_text(size: float) -> str:
    """Bytes in decimal units: 24.9 MB."""
    for unit in ("B", "kB", "MB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} GB"


def record(subject: Subject, findings: Findings) -> dict[str, object]:
    """The fields of --json; a part that was not asked for has none."""
    config = subject.config
    fields: dict[str, object] = {"model": config.name, "family": config.family}
    sizes, vocabulary, reachable, untrained, products, unmeasured = findings
    if sizes:
        fields |= {
            "n_parameters": sum(sizes.parameters.values()),
            "parameters": dict(sizes.parameters),
            "memory": [row._asdict() for row in sizes.memory],
            "kv_cache_per_token": sizes.kv_cache_per_token,
            "kv_cache": sizes.kv_cache,
            "n_ctx": sizes.n_ctx,
            "vocabulary": vocabulary._asdict(),
        }
    if reachable:
        fields["reachable"] = {
            "possible": reachable.possible,
            "impossible": [
                {"id": proof.token, "text": subject.text(proof.token), "reason": proof.reason()}
                for proof in reachable.impossible
            ],
            "unknown": list(reachable.unknown),
        }
    if untrained:
        fields["untrained"] = {
            "criterion": untrained.criterion,
            "limit": untrained.limit,
            "tokens": [
                {"id": token, "text": subject.text(token), "score": float(untrained.scores[token])}
                for token in untrained.low
            ],
            "equal": list(untrained.equal),
        }
    if products is not None:
        fields["quantisation"] = {
            "products": [product._asdict() for product in products],
            "unmeasured": list(unmeasured),
        }
    return fields


command = Command(inspect, Flags, EXAMPLES)
