"""What a folder's generation_config.json says of sampling, as keys of a model's YAML. What it says
and is not computed here is refused by name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from gentool.config.sampling import SamplingParams
from gentool.config.schema import parse
from gentool.errors import ModelError

NAME = "generation_config.json"
SAMPLED = ("temperature", "top_k", "top_p", "min_p", "typical_p")  # where do_sample is not false
ALWAYS = {
    "repetition_penalty": "repetition_penalty",
    "no_repeat_ngram_size": "no_repeat_ngram_size",
    "max_new_tokens": "max_tokens",
    "min_new_tokens": "min_tokens",
    "stop_strings": "stop",
}
TOP_K = 50  # of transformers, where a file with do_sample true leaves top_k out
# what changes the tokens that are drawn, by the value that changes nothing; null never does
REFUSED: Mapping[str, Any] = {
    "bad_words_ids": None,
    "begin_suppress_tokens": None,
    "encoder_no_repeat_ngram_size": 0,
    "encoder_repetition_penalty": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "exponential_decay_length_penalty": None,
    "force_words_ids": None,
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "guidance_scale": 1.0,
    "num_beam_groups": 1,
    "num_beams": 1,
    "penalty_alpha": 0.0,
    "sequence_bias": None,
    "suppress_tokens": None,
    "top_h": None,
    "watermarking_config": None,
}


def sampling(config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The sampling parameters that `config`, the contents of `path`, gives other values than ours:
    greedy where do_sample is false.

    Raises:
        ModelError: a value is wrong or not supported.
    """
    config = {key: value for key, value in config.items() if value is not None}
    for key, neutral in REFUSED.items():
        if key in config and config[key] != neutral:
            raise ModelError(
                f"{path}: {key} {str(config[key])[:60]} is not supported",
                f"remove {key} from the file, or give the model a YAML with its sampling",
            )
    sampled = config.get("do_sample", True)
    if type(sampled) is not bool:
        raise ModelError(f"{path}: do_sample is {sampled!r:.60}", "it can be true or false")
    params = {ours: config[key] for key, ours in ALWAYS.items() if key in config}
    if isinstance(params.get("stop"), str):
        params["stop"] = [params["stop"]]
    if not sampled:
        params["temperature"] = 0.0
    else:
        params |= {"top_k": TOP_K} if "do_sample" in config else {}
        params |= {key: config[key] for key in SAMPLED if key in config}
    default = SamplingParams()
    most = params.get("max_tokens", default.max_tokens)
    least = params.get("min_tokens", 0)
    if isinstance(least, int) and isinstance(most, int) and "max_tokens" not in params:
        params |= {"max_tokens": least} if least > most else {}
    checked = asdict(parse(SamplingParams, params, str(path), ModelError))
    return {key: checked[key] for key in params if checked[key] != getattr(default, key)}
