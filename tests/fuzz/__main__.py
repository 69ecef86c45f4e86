"""Tries gentool on damaged files, wrong keys, numbers of every magnitude and random command lines:
`make fuzz`, or `python tests/fuzz bytes --seconds 60`. A finding is kept with how to repeat it.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(Path(__file__).parent)]
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):  # a process with threads is not forked
    os.environ.setdefault(name, "1")
os.environ |= {"PYTHONWARNINGS": "", "TF_CPP_MIN_LOG_LEVEL": "3", "TOKENIZERS_PARALLELISM": "false"}

import folders_of_models  # noqa: E402
import sandbox  # noqa: E402
from targets import TARGETS, Case  # noqa: E402

FINDINGS = ROOT / ".runs/fuzz"
CACHE_CASES = 100  # after which the cache of graphs is emptied
LINE_SECONDS = 60.0
SAME_KIND = 2  # findings that read alike, of which no more are kept


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("targets", nargs="*", choices=[[], *TARGETS], default=[])
    parser.add_argument("--seconds", type=float, default=600.0, help="of each target")
    parser.add_argument("--cases", type=int, default=0, help="of each target, instead of seconds")
    parser.add_argument("--seed", type=int, default=None, help="default: the time")
    parser.add_argument("--only", type=int, default=None, help="one case, shown")
    options = parser.parse_args()
    seed = int(time.time()) if options.seed is None else options.seed
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    with tempfile.TemporaryDirectory(prefix="gentool-fuzz-", dir=memory) as scratch:
        for name, place in (("XDG_CACHE_HOME", "cache"), ("XDG_CONFIG_HOME", "config")):
            (Path(scratch) / place).mkdir(mode=0o700)
            os.environ[name] = f"{scratch}/{place}"
        bases = folders_of_models.make(Path(scratch))
        sandbox.warm()
        bases += [_converted(bases[0], Path(scratch) / f"own_{p}", p) for p in ("fp32", "int8")]
        bases.append(_converted(bases[3], Path(scratch) / "own_int4", "int4"))
        found = 0
        for target in options.targets or TARGETS:
            found += _fuzz(target, seed, options, bases, Path(scratch))
    return 1 if found else 0


def _fuzz(
    target: str, seed: int, options: argparse.Namespace, bases: list[Path], scratch: Path
) -> int:
    """The number of findings."""
    begin = said = time.monotonic()
    kinds: dict[str, int] = {}
    number, findings = options.only or 0, 0
    print(f"{target}: seed {seed}", flush=True)
    while True:
        work = scratch / "work"
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir()
        case = TARGETS[target](random.Random(f"{target} {seed} {number}"), bases, work)
        body = sandbox.gentool(*case.arguments)
        outcome = sandbox.run(body, case.stdin, case.env, folder=work)
        wrong = sandbox.problem(outcome, case.codes, case.slow, case.debug)
        if wrong:
            findings += 1
            lines = [line for line in outcome.err.splitlines() if not line.startswith("hint:")]
            last = lines[-1][-160:] if lines else ""
            kind = wrong + re.sub(r"[\d./'-]+|/\S+", "", last)
            kinds[kind] = kinds.get(kind, 0) + 1
            if kinds[kind] <= SAME_KIND:
                place = _keep(target, seed, number, case, outcome, wrong, work, scratch)
                print(f"{target} {number}: {wrong}: {last}\n  {place}", flush=True)
        if options.only is not None:
            print(
                " ".join(case.arguments), sandbox.shown(outcome), wrong or "as it should", sep="\n"
            )
            return findings
        number += 1
        now = time.monotonic()
        if number % CACHE_CASES == 0:
            shutil.rmtree(scratch / "cache/gentool", ignore_errors=True)
        if now - said > LINE_SECONDS:
            said = now
            print(f"{target}: {number} cases, {findings} findings", flush=True)
        if number >= options.cases > 0 or (not options.cases and now - begin > options.seconds):
            rate = number / (now - begin)
            print(f"{target}: {number} cases in {now - begin:.0f} s ({rate:.0f}/s)", end="")
            print(f", {findings} findings")
            return findings


def _converted(base: Path, to: Path, precision: str) -> Path:
    arguments = ("convert", str(base), str(to), "--precision", precision)
    outcome = sandbox.run(sandbox.gentool(*arguments))
    assert outcome.code == 0, sandbox.shown(outcome)
    return to


def _keep(
    target: str,
    seed: int,
    number: int,
    case: Case,
    outcome: sandbox.Outcome,
    wrong: str,
    work: Path,
    scratch: Path,
) -> Path:
    """Writes a finding into a folder of its own: its files, what was seen, how to repeat it."""
    place = FINDINGS / f"{target}-{seed}-{number}"
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir(parents=True)
    for path in sorted(work.iterdir()):
        if path.is_dir() and not path.is_symlink():
            shutil.copytree(path, place / path.name, ignore_dangling_symlinks=True)
        elif path.is_file() and not path.is_symlink() and path.stat().st_size < 1 << 24:
            shutil.copyfile(path, place / path.name)
    (place / "stdin").write_bytes(case.stdin)
    arguments = [word.replace(str(work), str(place)) for word in case.arguments]
    report = {"arguments": arguments, "environment": dict(case.env), "problem": wrong}
    repeat = f"python tests/fuzz {target} --seed {seed} --only {number}"
    (place / "report.txt").write_text(
        f"{json.dumps(report, ensure_ascii=False, indent=1)}\n{repeat}\n{sandbox.shown(outcome)}",
        "utf-8",
        errors="backslashreplace",
    )
    return place


if __name__ == "__main__":
    sys.exit(main())
