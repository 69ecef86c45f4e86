"""Accuracy of `gentool fewshot --data` on labelled sets, as a Markdown table: the vote of 300, the
greedy and the exact answer, each with its 95 % interval.

    python tests/bench/labelled.py --data FOLDER [-m MODEL]

FOLDER has the .jsonl files of the table below, with the columns task, input and label; rows whose
input stands in the template's examples are left out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

TEMPLATES = Path(__file__).parent / "labelled"
# Template -> file, task (None: all of it), most rows.
SETS = {
    "sums": ("own_arithmetic.jsonl", "add_1digit", 100),
    "capitals": ("own_country_capital.jsonl", None, 125),
    "antonyms": ("own_antonym.jsonl", None, 118),
    "words": ("own_zh_en_word.jsonl", None, 59),
    "measure_words": ("own_measure_word.jsonl", None, 49),
    "sentiment": ("own_sentiment_short.jsonl", None, 30),
    "eprstmt": ("fewclue_eprstmt_test.jsonl", None, 200),
}
FLAGS = ["--compare", "--seed", "1", "--json", "--max-tokens", "12", "--budget", "100", "-q"]


def rows(data: Path, template: str, task: str | None, max_rows: int) -> list[dict[str, str]]:
    """The rows of a set that its template does not give away."""
    lines = [json.loads(line) for line in data.read_text("utf-8").splitlines()]
    kept = [row for row in lines if task in (None, row["task"])]
    shown = template.splitlines()
    return [row for row in kept if not any(x.startswith(row["input"]) for x in shown)][:max_rows]


def measured(name: str, data: Path, model: str) -> dict[str, dict[str, float]]:
    """The accuracy of each way over one set."""
    file, task, max_rows = SETS[name]
    path = TEMPLATES / f"{'sentiment' if name == 'eprstmt' else name}.txt"
    chosen = rows(data / file, path.read_text("utf-8"), task, max_rows)
    with tempfile.TemporaryDirectory() as folder:
        rows_file, out = Path(folder) / "rows.jsonl", Path(folder) / "out.jsonl"
        rows_file.write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in chosen), "utf-8"
        )
        command = ["fewshot", str(path), "--data", str(rows_file), "-m", model, "-o", str(out)]
        if name in ("sentiment", "eprstmt"):
            command += ["--answer-regex", "^(正面|负面)"]
        subprocess.run([sys.executable, "-m", "gentool", *command, *FLAGS], check=True)
        last = json.loads(out.read_text("utf-8").splitlines()[-1])
    return {way: parts["all"] for way, parts in last["accuracy"].items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("-m", "--model", default="tiny-zh")
    parser.add_argument("sets", nargs="*", default=list(SETS))
    flags = parser.parse_args()
    print("| set | rows | vote of 300 | greedy | exact | seconds |\n|---|---:|---:|---:|---:|---:|")
    for name in flags.sets:
        start = time.monotonic()
        accuracy = measured(name, flags.data, flags.model)
        cells = [
            f"{100 * x['share']:.0f} % [{100 * x['low']:.0f}, {100 * x['high']:.0f}]"
            for x in (accuracy["sampled"], accuracy["greedy"], accuracy["exact"])
        ]
        duration = time.monotonic() - start
        print(f"| {name} | {accuracy['exact']['of']:.0f} | {' | '.join(cells)} | {duration:.0f} |")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
