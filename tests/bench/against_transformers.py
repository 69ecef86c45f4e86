"""gentool against Hugging Face transformers, on random tiny models in every form a folder has.

    PEERS/bin/python tests/bench/against_transformers.py make OUT --seed 1 --count 100
    .venv/bin/python tests/bench/against_transformers.py check OUT

`make` needs torch and transformers 4.57: OUT/<k>/ is a folder of a model, and expected.npz in it
holds ids, transformers' float32 logits of them, the greedy continuation of their first `prompt` ids
and the smallest margin it was chosen by. What is particular about a model is said in about.json; at
most one of its settings is one that gentool may refuse, naming it. `check` needs gentool: exit
status 1 if a logit is off by more than 1e-4, or a greedy token differs that was chosen by more than
1e-3, or a model is refused for anything else than the setting that may be.
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

MOST_ERROR, LEAST_MARGIN, STEPS = 1e-4, 1e-3, 8
FAMILIES = ("gpt2", "llama", "qwen2", "qwen3", "gemma", "gemma2")
DEFAULTS = (  # keys that a config.json can do without; removed where they say nothing new
    *("head_dim", "num_key_value_heads", "tie_word_embeddings", "rope_theta", "rms_norm_eps"),
    *("hidden_act", "hidden_activation", "attention_bias", "mlp_bias", "layer_types"),
    *("use_sliding_window", "sliding_window", "max_window_layers", "rope_scaling"),
    *("query_pre_attn_scalar", "final_logit_softcapping", "attn_logit_softcapping"),
    *("n_inner", "activation_function", "layer_norm_epsilon", "scale_attn_weights"),
    *("scale_attn_by_inverse_layer_idx", "reorder_and_upcast_attn"),
)
# settings that a model has at most one of: (families, keys of config.json)
ODD: tuple[tuple[tuple[str, ...], dict[str, Any]], ...] = (
    (("llama", "qwen3", "gemma", "gemma2"), {"attention_bias": True}),
    (("qwen2",), {"attention_bias": True}),  # which Qwen2 does not read
    (("llama",), {"mlp_bias": True}),
    (("llama", "qwen2", "qwen3"), {"hidden_act": "gelu"}),
    (("llama", "qwen2", "qwen3"), {"hidden_act": "swish"}),
    (("gemma",), {"hidden_act": "gelu"}),
    (("gemma",), {"hidden_act": "gelu", "hidden_activation": "gelu_pytorch_tanh"}),
    (("gemma",), {"hidden_act": "relu"}),
    (("gemma2",), {"hidden_activation": "gelu"}),
    (("gemma2",), {"hidden_activation": "silu"}),
    (("gpt2",), {"activation_function": "relu"}),
    (("gpt2",), {"activation_function": "gelu_python"}),
    (("gpt2",), {"scale_attn_weights": False}),
    (("gpt2",), {"scale_attn_by_inverse_layer_idx": True}),
    (("gpt2",), {"reorder_and_upcast_attn": True}),
    (("gpt2",), {"tie_word_embeddings": False}),
    (FAMILIES[1:], {"rope_scaling": {"rope_type": "longrope", "factor": 2.0}}),
)


def drawn_sizes(r: random.Random, family: str) -> dict[str, Any]:
    """The sizes of config.json."""
    heads = r.choice([1, 2, 3, 4, 6, 8])
    context = r.randint(12, 80)
    if family == "gpt2":
        return {
            "n_layer": r.randint(1, 4),
            "n_head": heads,
            "n_embd": heads * r.choice([2, 5, 7, 8, 11]),
            "n_inner": r.choice([None, r.randint(5, 90)]),
            "n_positions": context,
            "vocab_size": r.randint(17, 301),
        }
    head = r.choice([2, 4, 6, 10, 14, 16, 22])
    own_head = family != "qwen2" or r.random() < 0.3  # Qwen2's is not in its config's class
    if family in ("qwen3", "gemma", "gemma2") and r.random() < 0.15:
        head = 128 if family == "qwen3" else 256  # the class's own
    if family in ("qwen2", "qwen3") and r.random() < 0.1:
        heads, head = 32, 2
    sizes = {
        "num_hidden_layers": r.randint(1, 4),
        "num_attention_heads": heads,
        "num_key_value_heads": r.choice([n for n in range(1, heads + 1) if heads % n == 0]),
        "hidden_size": r.randint(9, 50) if own_head and r.random() < 0.6 else heads * head,
        "intermediate_size": r.randint(5, 90),
        "max_position_embeddings": context,
        "vocab_size": r.randint(17, 301),
    }
    return sizes | ({"head_dim": head} if own_head else {})


def head_size(c: dict[str, Any]) -> int:
    return c.get("head_dim", c["hidden_size"] // c["num_attention_heads"])


def drawn_scaling(r: random.Random, context: int) -> dict[str, Any] | None:
    """A rope_scaling."""
    kind = r.choice([None, None, "default", "linear", "dynamic", "llama3", "yarn", "yarn"])
    if kind is None:
        return None
    factor = r.choice([1.0, 1.7, 2.0, 4.0, 8.0])
    found: dict[str, Any] = {r.choice(["rope_type", "type"]): kind}
    if kind != "default":
        found["factor"] = factor
    if kind == "llama3":
        found["low_freq_factor"] = r.choice([1.0, 0.5, 2.0])
        found["high_freq_factor"] = found["low_freq_factor"] + r.choice([0.5, 3.0])
        found["original_max_position_embeddings"] = r.choice([8, 30, 100, 8192])
    if kind == "yarn":
        optional = {
            "attention_factor": r.choice([0.8, 1.3]),
            "beta_fast": r.choice([32.0, 8.0, 2.5]),
            "beta_slow": r.choice([1.0, 0.3]),
            "truncate": r.choice([True, False]),
            "original_max_position_embeddings": max(1, int(context / factor)),
        }
        found |= {key: value for key, value in optional.items() if r.random() < 0.5}
        if r.random() < 0.4:
            scales = {"mscale": r.choice([1.0, 0.7]), "mscale_all_dim": r.choice([1.0, 0.5])}
            found |= {key: value for key, value in scales.items() if r.random() < 0.9}
    return found


def drawn_config(r: random.Random, family: str) -> dict[str, Any]:
    """A config.json's keys, as its class takes them, without odd ones."""
    c = drawn_sizes(r, family)
    if family == "gpt2":
        gelus = ["gelu_new", "gelu", "gelu_pytorch_tanh", "gelu_fast"]
        c["activation_function"] = r.choice(gelus)
        c["layer_norm_epsilon"] = r.choice([1e-5, 1e-6, 1e-2])
        return c
    layers, window = c["num_hidden_layers"], r.choice([1, 2, 3, 5, 7, 8, 13, 31, 4096])
    kinds = [r.choice(["sliding_attention", "full_attention"]) for _ in range(layers)]
    c["rms_norm_eps"] = r.choice([1e-6, 1e-5, 1e-2])
    c["rope_theta"] = r.choice([10000.0, 10000.0, 1000000.0, 500000, 37.5])
    c["tie_word_embeddings"] = r.random() < 0.5
    if scaling := drawn_scaling(r, c["max_position_embeddings"]):
        if "dynamic" not in scaling.values() or head_size(c) > 2:  # theirs divides by size - 2
            c["rope_scaling"] = scaling
    if family in ("qwen2", "qwen3") and r.random() < 0.6:
        c |= {"use_sliding_window": r.random() < 0.8, "sliding_window": window}
        c["max_window_layers"] = r.choice([0, 1, 2, 28])
        if c["use_sliding_window"] and r.random() < 0.5:
            c["layer_types"] = kinds
    if family == "gemma":
        c["hidden_activation"] = r.choice([None, "gelu_pytorch_tanh"])
    if family == "gemma2":
        c |= {"sliding_window": window, "query_pre_attn_scalar": r.choice([256, 7, 16, 0.5])}
        c["attn_logit_softcapping"] = r.choice([None, 50.0, 2.0])
        c["final_logit_softcapping"] = r.choice([None, 30.0, 3.0])
        c |= {"layer_types": kinds} if r.random() < 0.4 else {}
    return c


def odd_config(r: random.Random, family: str, c: dict[str, Any]) -> dict[str, Any]:
    """One of the settings that are odd for the family."""
    odd = dict(r.choice([keys for families, keys in ODD if family in families]))
    if "rope_scaling" in odd:
        factors = {key: [1.5] * (head_size(c) // 2) for key in ("short_factor", "long_factor")}
        odd = {"rope_scaling": odd["rope_scaling"] | factors}
    return odd


def older_tensors(r: random.Random, family: str, state: dict[str, Any], c: Any) -> dict[str, Any]:
    """What older checkpoints hold besides the weights."""
    import torch

    extra: dict[str, Any] = {}
    prefix = "transformer.h" if family == "gpt2" else "model.layers"
    for layer in range(c.num_hidden_layers):
        at = f"{prefix}.{layer}"
        if family == "gpt2":
            n = c.n_positions
            mask = (
                torch.tril(torch.ones(n, n))
                .to(r.choice([torch.uint8, torch.bool]))
                .view(1, 1, n, n)
            )
            extra |= {f"{at}.attn.bias": mask, f"{at}.attn.masked_bias": torch.tensor(-1e4)}
        else:
            extra[f"{at}.self_attn.rotary_emb.inv_freq"] = torch.rand(4)
    if c.tie_word_embeddings and r.random() < 0.5:
        table = "transformer.wte.weight" if family == "gpt2" else "model.embed_tokens.weight"
        extra["lm_head.weight"] = state[table].clone()
    return extra


def fifth_style(r: random.Random, config: dict[str, Any]) -> None:
    """config.json as transformers 5 writes it, or reads it."""
    config["transformers_version"] = "5.0.0"
    if config["model_type"] == "gpt2":
        return
    theta = config.pop("rope_theta", 10000.0)
    scaling = config.pop("rope_scaling", None) or {"rope_type": "default"}
    scaling["rope_type"] = scaling.pop("type", scaling.get("rope_type"))
    config["rope_parameters"] = scaling
    (config if r.random() < 0.2 else scaling)["rope_theta"] = theta


def make_one(folder: Path, seed: str) -> None:
    """One model in its folder, with what transformers makes of it."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    r = random.Random(seed)
    torch.manual_seed(r.getrandbits(32))
    family = r.choice(FAMILIES)
    keys = drawn_config(r, family)
    odd = odd_config(r, family, keys) if r.random() < 0.2 else {}
    end = {"bos_token_id": 1, "eos_token_id": 2}
    config = AutoConfig.for_model(family, **keys | end | odd)
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    for name, weight in model.named_parameters():
        is_norm = "norm" in name or "ln_" in name
        one = is_norm and name.endswith("weight") and not family.startswith("gemma")
        is_table = "emb" in name or "wte" in name  # and the head, where they are tied
        size = min(0.5, 3 * weight.shape[-1] ** -0.5) if is_table else weight.shape[-1] ** -0.5
        size = 0.5 if weight.ndim == 1 else size
        torch.nn.init.normal_(weight, float(one), (0.2 if is_norm else 1.0) * size)

    dtype = r.choice(["float32", "float16", "bfloat16"])
    model.to(getattr(torch, dtype))
    form = r.choice(["safetensors", "safetensors", "sharded", "bin", "old bin", "sharded bin"])
    base = r.random() < 0.1  # saved without head, and so without prefix
    older = not base and r.random() < 0.25
    state = dict((model.base_model if base else model).state_dict())
    if older:
        state |= older_tensors(r, family, state, config)
    (model.base_model if base else model).save_pretrained(
        folder,
        state_dict=state,
        safe_serialization="bin" not in form,
        max_shard_size=r.randint(2000, 20000) if "sharded" in form else "5GB",
    )
    if form == "old bin":
        path = folder / "pytorch_model.bin"
        torch.save(torch.load(path), path, _use_new_zipfile_serialization=False)

    path = folder / "config.json"
    written = json.loads(path.read_text()) | odd
    removed = []
    if r.random() < 0.5:
        own = type(config)().to_dict()
        own |= (
            {}
            if family != "llama"
            else {
                "head_dim": config.hidden_size // config.num_attention_heads,
                "num_key_value_heads": config.num_attention_heads,
            }
        )
        own["layer_types"] = None if "layer_types" in keys else written.get("layer_types")
        same = [k for k in DEFAULTS if k in written and k in own and written[k] == own[k]]
        removed = [key for key in same if r.random() < 0.6]
        written = {key: value for key, value in written.items() if key not in removed}
    path.write_text(json.dumps(written, indent=1))

    # Gemma was trained with the tanh form, whatever hidden_act of its old files says
    known = (
        {"hidden_act": "gelu_pytorch_tanh"} if family == "gemma" and "gelu" in odd.values() else {}
    )
    model = AutoModelForCausalLM.from_pretrained(
        folder, dtype=torch.float32, attn_implementation="eager", **known
    )
    context = written.get("n_positions", written.get("max_position_embeddings"))
    scaling = keys.get("rope_scaling") or {}
    if "yarn" in scaling.values() and "original_max_position_embeddings" not in scaling:
        context = int(context * scaling["factor"])
    ids = [
        r.randrange(config.vocab_size) for _ in range(r.choice([context, r.randint(1, context)]))
    ]

    def run(tokens: list[int]) -> np.ndarray:
        with torch.no_grad():
            return model(torch.tensor([tokens])).logits[0].numpy()

    said, margin = ids[: r.randint(1, max(1, min(len(ids), context - STEPS)))], np.inf
    prompt = len(said)
    while len(said) < min(prompt + STEPS, context):
        last = run(said)[-1]
        second, first = np.argsort(last)[-2:]
        margin = min(margin, last[first] - last[second])
        said = [*said, int(first)]
    np.savez(
        folder / "expected.npz",
        ids=ids,
        logits=run(ids),
        prompt=prompt,
        greedy=said[prompt:],
        margin=margin,
    )

    fifth = r.random() < 0.3
    if fifth:
        fifth_style(r, written)
    elif "dtype" in written:
        written["torch_dtype"] = written.pop("dtype")
    path.write_text(json.dumps(written, indent=1))
    ends = ""
    if r.random() < 0.3 and len(said) > prompt:
        ends = add_ends(r, folder, said[prompt:], written)
    may_refuse = ["longrope" if "rope_scaling" in odd else key for key in odd]
    if base and not config.tie_word_embeddings:
        may_refuse.append("lm_head.weight")
    about = {
        "family": family,
        "what": [
            *(dtype, form, "without prefix" * base, "older tensors" * older),
            *("transformers 5" * fifth, "removed " + " ".join(removed) if removed else "", ends),
        ],
        "odd": odd,
        "may_refuse": may_refuse,
        "config": keys,
    }
    (folder / "about.json").write_text(json.dumps(about))


def add_ends(r: random.Random, folder: Path, said: list[int], config: dict[str, Any]) -> str:
    """A tokenizer, and the ids that end a text in generation_config.json, or else config.json."""
    vocabulary = {f"w{i}": i for i in range(config["vocab_size"])}
    model = {"type": "BPE", "vocab": vocabulary, "merges": []}
    steps = {part: {"type": "ByteLevel"} for part in ("pre_tokenizer", "decoder")}
    for step in steps.values():
        step |= {"add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    tokenizer = {"version": "1.0", "added_tokens": [], "model": model, **steps}
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer))
    ends = r.choice([said[-1], [r.choice(said)], [r.choice(said), config["vocab_size"] - 1]])
    generation, own = folder / "generation_config.json", {"eos_token_id": ends}
    if r.random() < 0.6:
        generation.write_text(json.dumps(own))
    else:
        generation.unlink(missing_ok=True)
        config |= own
        (folder / "config.json").write_text(json.dumps(config, indent=1))
    (folder / "ends.json").write_text(json.dumps(ends if isinstance(ends, list) else [ends]))
    return f"ends {ends}"


def make(out: Path, seed: int, count: int) -> None:
    from transformers.utils import logging

    logging.set_verbosity_error()
    logging.disable_progress_bar()
    for index in range(count):
        make_one(out / f"{seed}-{index}", f"{seed} {index}")


def check_one(folder: Path, load: Callable[..., Any]) -> tuple[float, bool]:
    """The largest error of a logit, and whether the greedy continuation is right."""
    expected = np.load(folder / "expected.npz")
    model = load(str(folder), precision="fp32")
    error = np.abs(model.logits(expected["ids"].tolist()) - expected["logits"]).max()
    prompt, right = expected["ids"][: expected["prompt"]].tolist(), expected["greedy"].tolist()
    if not right:
        return float(error), True
    law = {"temperature": 0, "max_tokens": len(right)}
    same = list(model.complete(prompt, eos=None, **law)[0].ids) == right
    if (folder / "ends.json").is_file():
        ends = json.loads((folder / "ends.json").read_text())
        until = next((i for i, token in enumerate(right) if token in ends), len(right))
        same &= list(model.complete(prompt, **law)[0].ids) == right[: until + 1]
    return float(error), same or bool(expected["margin"] < LEAST_MARGIN)


def check(out: Path) -> int:
    import gentool
    from gentool.errors import GentoolError

    errors, refused, wrong = [], [], []
    folders = sorted(path.parent for path in out.glob("*/about.json"))
    for folder in folders:
        about = json.loads((folder / "about.json").read_text())
        may_refuse = about["may_refuse"]
        try:
            error, same = check_one(folder, gentool.load)
            errors.append(error)
            good = error <= MOST_ERROR and same
            said = f"{error:.1e} {'' if same else 'greedy differs'}"
        except GentoolError as e:
            refused.append(folder)
            good = any(key in str(e) for key in may_refuse)
            said = f"refused: {e}".replace(f"{folder}/", "")
        except Exception as e:
            good, said = False, f"{type(e).__name__}: {e}"
        what = ", ".join(
            filter(None, [about["family"], *about["what"], *map(str, about["odd"].items())])
        )
        print(folder.name, "ok" if good else "WRONG", said, f"[{what}]", flush=True)
        if not good:
            wrong.append(folder)
            print("   ", json.dumps(about["config"]))
    worst = max(errors, default=0.0)
    print(
        f"{len(folders)} models: {len(errors)} run, largest error {worst:.1e}; {len(refused)} "
        f"refused; {len(wrong)} wrong: {' '.join(folder.name for folder in wrong)}"
    )
    return int(bool(wrong))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    verbs = parser.add_subparsers(required=True, dest="verb")
    making, checking = verbs.add_parser("make"), verbs.add_parser("check")
    for verb in (making, checking):
        verb.add_argument("out", type=Path)
    making.add_argument("--seed", type=int, default=0)
    making.add_argument("--count", type=int, default=50)
    given = parser.parse_args()
    if given.verb == "check":
        return check(given.out)
    make(given.out, given.seed, given.count)
    return 0


if __name__ == "__main__":
    sys.exit(main())
