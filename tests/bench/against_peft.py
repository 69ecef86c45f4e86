"""gentool's adapters against PEFT's, on random tiny models of every family of transformers.

    PEERS/bin/python tests/bench/against_peft.py make OUT --seed 1 --count 40
    .venv/bin/python tests/bench/against_peft.py check OUT
    PEERS/bin/python tests/bench/against_peft.py back OUT
    .venv/bin/python tests/bench/against_peft.py again OUT

`make` needs torch, transformers and peft: OUT/<k>/base is a model, OUT/<k>/lora a random adapter of
it (rank, alpha, targets, patterns, rsLoRA, DoRA, embeddings, whole modules, biases), expected.npz
PEFT's float32 logits of both together, unmerged. `check` needs gentool: it compares the logits of
`gentool.load(base, adapter=lora)`, then writes a random adapter of all products into OUT/<k>/ours,
and what it computes with it. `back` has PEFT compute with that, and save it as OUT/<k>/saved;
`again` has gentool compute with what PEFT saved. Exit status 1 if a logit is off by more than 3e-4
of the largest, or a model is refused.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

MAX_ERROR = 3e-4  # of the largest logit
FAMILIES = ("gpt2", "llama", "qwen2", "qwen3", "gemma", "gemma2")
MODULES = {
    True: ["c_attn", "attn.c_proj", "mlp.c_proj", "c_fc", "c_proj"],
    False: [*(f"{x}_proj" for x in "qkvo"), "gate_proj", "up_proj", "down_proj"],
}


def drawn_config(r: random.Random, family: str) -> dict[str, Any]:
    """The sizes of a model."""
    heads, head, layers = r.choice([1, 2, 4]), r.choice([4, 8]), r.randint(1, 3)
    if family == "gpt2":
        sizes = {"n_layer": layers, "n_head": heads, "n_embd": heads * head, "n_positions": 16}
        return sizes | {"n_inner": r.randint(5, 90), "vocab_size": r.randint(17, 301)}
    return {
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": r.choice([n for n in (1, 2, 4) if heads % n == 0]),
        "hidden_size": heads * head,
        "head_dim": head,
        "intermediate_size": r.randint(5, 90),
        "max_position_embeddings": 16,
        "vocab_size": r.randint(17, 301),
        "tie_word_embeddings": r.random() < 0.5,
    }


def drawn_lora(r: random.Random, is_gpt2: bool, tied: bool, layers: int) -> dict[str, Any]:
    """The arguments of a LoraConfig."""
    names = MODULES[is_gpt2]
    targets = r.sample(names, r.randint(1, len(names)))
    dora = r.random() < 0.25
    lora: dict[str, Any] = {
        "r": r.randint(1, 8),
        "lora_alpha": r.randint(1, 32),
        "use_rslora": r.random() < 0.3,
        "use_dora": dora,
        "target_modules": targets,
        "bias": r.choice(["none", "none", "all", "lora_only"]),
        "init_lora_weights": False,
    }
    if r.random() < 0.4:
        lora["rank_pattern"] = {r.choice(targets): r.randint(1, 8)}
    if r.random() < 0.4:
        at = f"{r.randrange(layers)}.{'attn' if is_gpt2 else 'mlp'}"
        lora["alpha_pattern"] = {rf".*\.{at}.*" if r.random() < 0.5 else r.choice(targets): 5}
    if r.random() < 0.2:
        lora["layers_to_transform"] = sorted(r.sample(range(layers), r.randint(1, layers)))
    if not is_gpt2:
        if r.random() < 0.3 and not dora:
            targets.append("embed_tokens")
        if r.random() < 0.3:
            (lora.setdefault("modules_to_save", []) if tied or dora else targets).append("lm_head")
        elif r.random() < 0.2:
            lora["modules_to_save"] = ["norm"]
    return lora


def make_one(folder: Path, seed: str) -> None:
    """A model and an adapter, with what PEFT computes."""
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoConfig, AutoModelForCausalLM

    r = random.Random(seed)
    torch.manual_seed(r.getrandbits(32))
    family = r.choice(FAMILIES)
    config = AutoConfig.for_model(family, **drawn_config(r, family), bos_token_id=1, eos_token_id=2)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    _randomize(model)
    model.to(getattr(torch, r.choice(["float32", "float16", "bfloat16"])))
    model.save_pretrained(folder / "base")
    tied, layers = config.tie_word_embeddings, config.num_hidden_layers
    lora = drawn_lora(r, family == "gpt2", tied, layers)
    model = _base(folder)
    adapted = get_peft_model(model, LoraConfig(task_type="CAUSAL_LM", **lora))
    for name, weight in adapted.named_parameters():
        if "magnitude" in name:
            weight.data *= 1 + 0.3 * torch.rand_like(weight)
        elif weight.requires_grad:
            size = 0.3 * weight.shape[-1] ** -0.5 if "lora_" in name else 0.2
            old = 0 if "lora_" in name else weight.data
            weight.data = old + size * torch.randn_like(weight)
    adapted.eval()
    adapted.save_pretrained(folder / "lora", safe_serialization=r.random() < 0.8)
    ids = [r.randrange(config.vocab_size) for _ in range(r.randint(1, 12))]
    np.savez(folder / "expected.npz", ids=ids, logits=_logits(adapted, ids))
    about = {"family": family, "tied": tied, "lora": lora}
    (folder / "about.json").write_text(json.dumps(about))


def _randomize(model: Any) -> None:
    import torch

    for name, weight in model.named_parameters():
        is_norm = "norm" in name or "ln_" in name
        mean = is_norm and name.endswith("weight")
        size = 0.2 if weight.ndim == 1 else weight.shape[-1] ** -0.5
        torch.nn.init.normal_(weight, float(mean), size)


def _base(folder: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(
        folder / "base", dtype=torch.float32, attn_implementation="eager"
    )


def _logits(model: Any, ids: list[int]) -> np.ndarray:
    import torch

    with torch.no_grad():
        return np.asarray(model(torch.tensor([ids])).logits[0].numpy())


def check_one(folder: Path) -> float:
    """The error of gentool with PEFT's adapter; writes an adapter of its own."""
    import gentool
    from gentool.models import load_family
    from gentool.models.adapter import Adapter, LowRank
    from gentool.models.peft import write_adapter

    expected = np.load(folder / "expected.npz")
    ids, logits = expected["ids"].tolist(), expected["logits"]
    model = gentool.load(str(folder / "base"), precision="fp32", adapter=str(folder / "lora"))
    error = relative(model.logits(ids), logits)

    base = gentool.load(str(folder / "base"), precision="fp32")
    rng = np.random.default_rng(len(ids))
    changes = {}
    for name, weight in base.plan.items():
        if len(weight.shape) == 2 and name.startswith("layers.") and rng.random() < 0.8:
            rank, (out, inner) = int(rng.integers(1, 5)), weight.shape
            a, b = rng.normal(0, 0.2, (rank, inner)), rng.normal(0, 0.2, (out, rank))
            change = LowRank(
                a.astype(np.float32), b.astype(np.float32), int(rng.integers(1, 9)) / rank
            )
            changes[name] = (change,)
    if changes:
        family = load_family(base.config.family)
        write_adapter(folder / "ours", Adapter(changes), family, base.config.arch, "base")
        again = gentool.load(str(folder / "base"), precision="fp32", adapter=str(folder / "ours"))
        np.savez(folder / "ours.npz", ids=ids, logits=again.logits(ids))
    return error


def back_one(folder: Path) -> float:
    """The error of PEFT with gentool's adapter, which it saves again."""
    from peft import PeftModel

    if not (folder / "ours").exists():
        return 0.0
    expected = np.load(folder / "ours.npz")
    model = PeftModel.from_pretrained(_base(folder), str(folder / "ours")).eval()
    model.save_pretrained(folder / "saved")
    return relative(_logits(model, expected["ids"].tolist()), expected["logits"])


def again_one(folder: Path) -> float:
    """The error of gentool with its own adapter, as PEFT saved it."""
    import gentool

    if not (folder / "saved").exists():
        return 0.0
    expected = np.load(folder / "ours.npz")
    model = gentool.load(str(folder / "base"), precision="fp32", adapter=str(folder / "saved"))
    return relative(model.logits(expected["ids"].tolist()), expected["logits"])


def relative(got: np.ndarray, expected: np.ndarray) -> float:
    """The largest difference as a share of the largest logit."""
    return float(np.abs(got - expected).max() / np.abs(expected).max())


def each(out: Path, compare: Callable[[Path], float]) -> int:
    """Compares every folder; the exit status."""
    errors, wrong = [], []
    for folder in sorted(path.parent for path in out.glob("*/about.json")):
        try:
            errors.append(compare(folder))
            result = f"{errors[-1]:.1e}"
            good = errors[-1] <= MAX_ERROR
        except Exception as e:
            good, result = False, f"{type(e).__name__}: {e}"
        if not good:
            wrong.append(folder.name)
        about = "" if good else (folder / "about.json").read_text()
        print(folder.name, "ok" if good else "WRONG", result, about, flush=True)
    print(f"{len(errors)} models, largest error {max(errors, default=0):.1e}; wrong: {wrong}")
    return int(bool(wrong))


COMPARISONS = {"check": check_one, "back": back_one, "again": again_one}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("verb", choices=["make", *COMPARISONS])
    parser.add_argument("out", type=Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--count", type=int, default=40)
    args = parser.parse_args()
    if args.verb == "make":
        for index in range(args.count):
            make_one(args.out / f"{args.seed}-{index}", f"{args.seed} {index}")
        return 0
    return each(args.out, COMPARISONS[args.verb])


if __name__ == "__main__":
    sys.exit(main())
