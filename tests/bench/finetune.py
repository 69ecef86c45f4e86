"""Fine-tuning beside torch: tokens/s and peak memory on the same weights, batches and machine.

    .venv/bin/python tests/bench/finetune.py --shapes tiny 12x768 --rounds 3
    .venv/bin/python tests/bench/finetune.py --estimate

torch runs transformers' own model under autocast to bfloat16, with fused AdamW or its Adafactor,
gradient checkpointing, and PEFT for LoRA, from .venv-peers or the --python that is given. A round
is a process for each; rounds alternate. The losses of the first step must agree.
Memory is the peak while training less what the process had before it opened the model. `--estimate`
prints what gentool estimates for the recipe configs/train/gpt2-ml.yaml and its alternatives.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from peers_process import PEERS_PYTHON, RUNS, environment, last_line
from peers_weights import SHAPES, config

HERE = Path(__file__).parent
Job = dict[str, Any]
VARIANTS: dict[str, Job] = {
    "adamw": {},
    "adamw, recompute": {"recompute": True},
    "adafactor": {"method": "adafactor"},
    "adafactor, recompute": {"method": "adafactor", "recompute": True},
    "LoRA 16": {"rank": 16},
}
WARM = 2  # steps that are not timed
RATE = 1e-4


def batch(job: Job, number: int) -> np.ndarray:
    """Random ids int32 [N, T+1] of a step."""
    shape = job["batch"], job["length"] + 1
    return np.random.default_rng([job["seed"], number]).integers(0, job["n_vocab"], shape, np.int32)


def memory(name: str) -> int:
    """A line of this process's status, in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def timed(job: Job, base: int, step: Any) -> None:
    """Runs the steps of a job and prints their figures."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    losses, times, used = [], [], []
    for number in range(WARM + job["steps"]):
        start, worked = time.perf_counter(), time.process_time()
        losses.append(step(number))
        times.append(time.perf_counter() - start)
        used.append(time.process_time() - worked)
    tokens = job["batch"] * job["length"]
    result = {
        "rate": tokens / statistics.median(times[WARM:]),
        "cpu": statistics.median(used[WARM:]),
        "memory": memory("VmHWM") - base,
        "loss": losses[0],
        "last": losses[-1],
    }
    print(json.dumps(result), flush=True)


def run_gentool(job: Job) -> None:
    from gentool.runtimes.xla import device

    device.setup()
    from gentool.config import lookup
    from gentool.generation import opening
    from gentool.training import finetune, recipe, step
    from gentool.training.packing import Batch

    keys = {
        "optimizer.method": job["method"],
        "optimizer.recompute": job["recompute"],
        "optimizer.batch": job["batch"],
        "optimizer.learning_rate": RATE,
        "data": ["random"],
    }
    if job["rank"]:
        keys["lora.rank"] = job["rank"]
    base = memory("VmRSS")
    files = opening.open_files(lookup.load(job["weights"]))
    chosen = recipe.finetune(None, keys, job["weights"])
    model, state = finetune.start(chosen, files)
    functions = step.make(model, state, chosen.optimizer)
    shape = job["batch"], job["length"]
    positions = np.tile(np.arange(job["length"], dtype=np.int32), (job["batch"], 1))
    tokens = float(job["batch"] * job["length"])

    def one(number: int) -> float:
        ids = batch(job, number)
        ones, zeros = np.ones(shape, np.float32), np.zeros(shape, np.int32)
        rows = Batch(ids[:, :-1], ids[:, 1:], positions, zeros, ones)
        return functions.train([rows], tokens, RATE, number + 1)[0]

    timed(job, base, one)


def run_torch(job: Job) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    if job["rank"]:
        import peft
    torch.set_num_threads(2)
    base = memory("VmRSS")
    dtype = torch.bfloat16 if job["rank"] else torch.float32
    model = AutoModelForCausalLM.from_pretrained(job["weights"], dtype=dtype)
    model.train()
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
    if job["rank"]:
        chosen = peft.LoraConfig(
            r=job["rank"], lora_alpha=2 * job["rank"], target_modules="all-linear"
        )
        model = peft.get_peft_model(model, chosen)
    if job["recompute"]:
        model.gradient_checkpointing_enable({"use_reentrant": False})
        model.enable_input_require_grads()
    weights = [weight for weight in model.parameters() if weight.requires_grad]
    if job["method"] == "adafactor":
        optimizer = torch.optim.Adafactor(weights, lr=RATE)
    else:
        optimizer = torch.optim.AdamW(weights, lr=RATE, weight_decay=0.01, fused=True)

    def one(number: int) -> float:
        ids = torch.from_numpy(batch(job, number).astype(np.int64))
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(ids[:, :-1], use_cache=False).logits
            loss = torch.nn.functional.cross_entropy(
                logits.flatten(0, 1).float(), ids[:, 1:].flatten()
            )
        loss.backward()
        torch.nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss)

    timed(job, base, one)


def measured(python: str, side: str, job: Job) -> dict[str, float]:
    """The figures of a process."""
    command = [python, __file__, "--run", side, json.dumps(job)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    if done.returncode:
        raise SystemExit(f"{side} {job}: {last_line(done.stderr)}")
    return json.loads(last_line(done.stdout))


def estimated(folder: str, job: Job) -> float:
    """Bytes that gentool estimates for a job."""
    from gentool.config import lookup
    from gentool.generation import opening
    from gentool.training import memory as estimate
    from gentool.training.recipe import Lora, Optimizer

    files = opening.open_files(lookup.load(folder))
    lora = Lora(rank=job["rank"]) if job["rank"] else None
    keys = {key: job[key] for key in ("method", "recompute", "batch")}
    o = Optimizer(learning_rate=RATE, **keys)
    shapes = {name: weight.shape for name, weight in files.plan.items()}
    return estimate.estimate(shapes, files.config.arch, o, job["batch"], job["length"], lora).peak


def compare(shape: str, options: argparse.Namespace) -> None:
    """Measures a shape and prints its table."""
    folder = RUNS / "finetune" / shape
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        command = [options.python, str(HERE / "peers_weights.py"), shape, "hf", "fp32", str(folder)]
        subprocess.run([*command, "--seed", "1"], check=True, capture_output=True)
    print(f"\n{shape}, {options.batch} x {options.length} tokens a step, bf16\n")
    print(
        "| | gentool tokens/s | torch | ratio | CPU s a step | torch | gentool GB | torch |"
        " estimate | first loss | torch |\n|---|" + "---|" * 10
    )
    for name in options.variants:
        job = {"method": "adamw", "recompute": False, "rank": 0} | VARIANTS[name]
        job |= {"weights": str(folder), "n_vocab": config(shape)["vocab_size"], "seed": 1}
        job |= {"batch": options.batch, "length": options.length, "steps": options.steps}
        sides: dict[str, list[dict[str, float]]] = {"gentool": [], "torch": []}
        for _ in range(options.rounds):
            sides["gentool"].append(measured(sys.executable, "gentool", job))
            sides["torch"].append(measured(options.python, "torch", job))
        (ours, theirs) = (
            {key: statistics.median(it[key] for it in rounds) for key in rounds[0]}
            for rounds in sides.values()
        )
        cells = [f"{ours['rate']:.0f}", f"{theirs['rate']:.0f}"]
        cells += [f"{ours['rate'] / theirs['rate']:.2f}"]
        cells += [f"{ours['cpu']:.2f}", f"{theirs['cpu']:.2f}"]
        cells += [f"{ours['memory'] / 1e9:.2f}", f"{theirs['memory'] / 1e9:.2f}"]
        cells += [f"{estimated(str(folder), job) / 1e9:.2f}"]
        cells += [f"{ours['loss']:.3f}", f"{theirs['loss']:.3f}"]
        print(f"| {name} | {' | '.join(cells)} |", flush=True)
    if not options.keep:
        shutil.rmtree(folder)


def print_estimates() -> None:
    """What gentool estimates for GPT2_ML by its recipe, and without parts of it."""
    from gentool.config import lookup
    from gentool.config.model import ModelFile
    from gentool.config.schema import parse, read_yaml
    from gentool.models import load_family
    from gentool.training import memory as estimate
    from gentool.training import recipe

    path = lookup.configs() / "train/gpt2-ml.yaml"
    chosen = recipe.finetune(path, {"data": ["any"]}, "")
    yaml = lookup.configs() / f"{chosen.model}.yaml"
    model = parse(ModelFile, read_yaml(yaml), str(yaml))
    family, arch = load_family(model.family), model.arch
    shapes = dict(family.top_tensors(arch))
    for index in range(arch.n_layer):
        layer = family.layer_tensors(arch, index)
        shapes |= {f"layers.{index}.{name}": shape for name, shape in layer.items()}
    print(
        "| GB | weights | gradients | optimizer | activations | peak |\n|---|---|---|---|---|---|"
    )
    for method in ("adamw", "adafactor"):
        for recompute in (False, True):
            changed = {"method": method, "recompute": recompute, "accumulate": 1}
            o = chosen.optimizer.model_copy(update=changed)
            needed = estimate.estimate(shapes, arch, o, o.batch, chosen.length)
            cells = " | ".join(f"{size / 1e9:.1f}" for size in needed)
            print(f"| {method}{', recompute' if recompute else ''} | {cells} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--shapes", nargs="+", choices=SHAPES, default=["tiny", "12x768"])
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--python", default=str(PEERS_PYTHON), help="one with torch")
    parser.add_argument("--keep", action="store_true", help="the weights")
    parser.add_argument("--estimate", action="store_true")
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        side, job = options.run
        {"gentool": run_gentool, "torch": run_torch}[side](json.loads(job))
    elif options.estimate:
        print_estimates()
    else:
        for shape in options.shapes:
            compare(shape, options)


if __name__ == "__main__":
    main()
