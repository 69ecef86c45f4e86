"""What a request of text gives, on the packaged model: samples depend on their own keys only."""

import numpy as np
import pytest
from oracle import numpy_llama
from tiny import XLA

import gentool
from gentool.config.sampling import SamplingParams
from gentool.errors import GentoolError, ModelError, UsageError
from gentool.generation.request import Alternatives, Request

PROMPT = "今天天气不错"
LINES = [
    "今天",
    "1+1=2\n1+2=",
    "从前有一只小猫，它住在大森林里，每天早上都要去河边喝水。",
    "你好",
    "a b",
]


@pytest.fixture(scope="module")
def model():
    return gentool.load("tiny-zh", precision="fp32")


def request(prompts, n=1, rows=None, seed=1, batch_invariant=False, **sampling):
    sampling = SamplingParams(**{"max_tokens": 12, "temperature": 0.9, "top_p": 0.9} | sampling)
    rows = tuple(rows or range(len(prompts)))
    return Request(tuple(prompts), rows, n, sampling, seed, batch_invariant=batch_invariant)


def samples(model, *args, **kwargs):
    """{(prompt, sample): Sample}, checking that the chunks join to the text."""
    texts, done = {}, {}
    for chunk in model.stream(request(*args, **kwargs)):
        key = chunk.prompt, chunk.sample
        assert key not in done
        texts[key] = texts.get(key, "") + chunk.text
        if chunk.done:
            done[key] = chunk.done
    assert {key: sample.text for key, sample in done.items()} == texts
    return done


def test_logits_agree_with_an_independent_implementation(model):
    from safetensors.numpy import load_file

    config = model.config
    weights = load_file(config.folder / config.checkpoint)
    ids = model.tokenizer.encode("今天天气不错，我们去公园玩吧。\n小明：1+1=2")
    logits = model.logits(ids)
    expected = numpy_llama.logits(config.arch, weights, ids)
    assert logits.dtype == np.float32 and logits.shape == (len(ids), config.arch.n_vocab)
    assert np.abs(logits - expected).max() < 1e-4


def test_cached_decoding_equals_the_cache_free_run(model):
    ids = model.tokenizer.encode(PROMPT)
    sample = model.complete(PROMPT, temperature=0, max_tokens=20)[0]
    for token in sample.ids:
        assert token == model.logits(ids)[-1].argmax()
        ids.append(token)


def test_logprob_is_the_models_own(model):
    sample = model.complete(PROMPT, temperature=0.7, top_k=3, seed=1, max_tokens=8)[0]
    ids = model.tokenizer.encode(PROMPT)
    logits = model.logits([*ids, *sample.ids]).astype(np.float64)
    steps = logits[len(ids) - 1 : -1]
    exact = steps - np.log(np.exp(steps - steps.max(-1, keepdims=True)).sum(-1, keepdims=True))
    exact -= steps.max(-1, keepdims=True)
    total = exact[np.arange(len(sample.ids)), list(sample.ids)].sum()
    assert sample.logprob == pytest.approx(total, abs=1e-4)


def test_a_sample_does_not_depend_on_how_many_are_drawn(model):
    few = samples(model, [PROMPT], 2, batch_invariant=True)
    many = samples(model, [PROMPT], 19, batch_invariant=True)
    assert all(many[key] == few[key] for key in few)  # ids and, bit for bit, logprobs
    assert len({s.text for s in many.values()}) > 10


def test_a_line_does_not_depend_on_the_other_lines(model):
    together = samples(model, LINES, 2, batch_invariant=True)
    for row, line in enumerate(LINES):
        alone = samples(model, [line], 2, rows=[row], batch_invariant=True)
        assert alone[0, 0] == together[row, 0]
        assert alone[0, 1] == together[row, 1]


def test_a_neighbour_near_the_end_of_the_context_changes_nothing(model):
    """Found in review: the room for new tokens was that of the group, so shapes depended on it."""
    full = "天" * (model.config.arch.n_ctx - 6)
    together = samples(model, [full, PROMPT], max_tokens=60, batch_invariant=True)
    alone = samples(model, [full], max_tokens=60, batch_invariant=True)
    assert alone[0, 0] == together[0, 0]


def test_samples_beyond_the_rows_of_one_run(model, monkeypatch):
    many = samples(model, [PROMPT], 7, max_tokens=3)
    monkeypatch.setattr("gentool.generation.continuous.MAX_ROWS_OF_PROMPT", 3)
    few = samples(model, [PROMPT], 7, max_tokens=3)
    assert {k: s.ids for k, s in few.items()} == {k: s.ids for k, s in many.items()}


def test_without_batch_invariance_only_rounding_differs(model):
    exact = samples(model, LINES, 3, batch_invariant=True)
    fast = samples(model, LINES, 3)
    for key, sample in exact.items():
        assert fast[key].ids == sample.ids
        assert fast[key].logprob == pytest.approx(sample.logprob, abs=1e-3)


def test_many_lines_in_several_groups(model):
    lines = [f"{a}+{b}=" for a in range(10) for b in range(9)]
    together = samples(model, lines, max_tokens=3)
    assert len(together) == 90
    for row in (0, 63, 64, 89):
        assert (
            samples(model, [lines[row]], rows=[row], max_tokens=3)[0, 0].ids == together[row, 0].ids
        )


def test_seed_and_row_choose_the_sample(model):
    texts = {
        (seed, row): samples(model, [PROMPT], rows=[row], seed=seed)[0, 0].ids
        for seed in (1, 2, 2**64 - 1)
        for row in (0, 1)
    }
    assert len(set(texts.values())) == 6


def test_stop_strings_and_min_tokens(model):
    free = samples(model, [PROMPT], max_tokens=60)[0, 0]
    stop = free.text[3]
    cut = samples(model, [PROMPT], max_tokens=60, stop=[stop])[0, 0]
    assert cut.finish == "stop" and cut.text == free.text[: free.text.index(stop)]
    kept = samples(model, [PROMPT], max_tokens=60, stop=[stop], include_stop=True)[0, 0]
    assert kept.text == cut.text + stop
    assert kept.ids == cut.ids == free.ids[: len(cut.ids)]
    late = samples(model, [PROMPT], max_tokens=60, stop=[stop], min_tokens=30)[0, 0]
    assert len(late.ids) >= 30 and late.finish in ("stop", "length")


def test_end_tokens_are_forbidden_before_min_tokens(model):
    prompt = "今天"
    end = model.tokenizer.end[0]
    for sample in model.complete(prompt, n=16, seed=3, max_tokens=40, min_tokens=40):
        assert end not in sample.ids[:40] and sample.finish == "length"


def test_eos_can_be_none_or_an_id(model):
    free = model.complete(PROMPT, seed=5, max_tokens=10, eos=None)[0]
    ended = model.complete(PROMPT, seed=5, max_tokens=10, eos=free.ids[4])[0]
    first = free.ids.index(free.ids[4])
    assert ended.finish == "eos" and ended.ids == free.ids[: first + 1]


def test_max_tokens_is_clipped_to_the_context(model):
    ids = model.tokenizer.encode(PROMPT * 200)[: model.config.arch.n_ctx - 5]
    sample = model.complete(ids, max_tokens=50, seed=1, eos=None)[0]
    assert len(sample.ids) == 5 and sample.finish == "length"


def test_invalid_prompts_are_refused(model):
    context = model.config.arch.n_ctx
    with pytest.raises(UsageError, match="empty"):
        model.complete("")
    with pytest.raises(UsageError, match=f"{context} tokens, the context of tiny-zh is {context}"):
        model.complete([5] * context)
    with pytest.raises(UsageError, match="99999 is outside"):
        model.complete([1, 99999])
    with pytest.raises(UsageError, match="outside"):
        model.logits([-1])
    with pytest.raises(UsageError, match="not text"):
        model.complete("\ud800")


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1},
        {"n": 0},
        {"seed": -1},
        {"seed": 2**64},
        {"row": 2**32},
        {"eos": -1},
        {"max_tokens": 0},
        {"top_p": 0.0},
    ],
)
def test_invalid_numbers_are_named(model, wrong):
    with pytest.raises(UsageError, match=next(iter(wrong)).replace("eos", "token id -1")):
        model.complete(PROMPT, **wrong)


def test_a_stop_may_be_one_string(model):
    free = model.complete(PROMPT, seed=1, max_tokens=30)[0].text
    stop = free[4:6]
    assert (
        model.complete(PROMPT, seed=1, max_tokens=30, stop=stop)[0].text == free[: free.index(stop)]
    )


def test_weights_that_are_no_numbers_are_an_error(tmp_path):
    import shutil

    from safetensors.numpy import load_file, save_file

    folder = shutil.copytree(gentool.load("tiny-zh").config.folder, tmp_path / "broken")
    weights = load_file(folder / "model.safetensors")
    weights["final_norm"][0] = np.nan
    save_file(weights, folder / "model.safetensors")
    model = gentool.load(str(folder))
    for temperature in (0, 1):
        with pytest.raises(GentoolError, match="not numbers"):
            model.complete(PROMPT, temperature=temperature)
    with pytest.raises(GentoolError, match="not numbers"):
        model.complete(PROMPT, 2, search=Alternatives())


def test_more_alternatives_than_tokens_are_refused(model):
    with pytest.raises(UsageError, match="6001 alternatives, the vocabulary has 6000 tokens"):
        model.complete(PROMPT, 6001, search=Alternatives())


def test_a_tokenizer_larger_than_the_model_is_refused():
    with pytest.raises(ModelError, match="has 6000 pieces, tiny-zh has 5999"):
        gentool.load("tiny-zh", set={"arch.n_vocab": 5999})


def test_an_unknown_precision_is_refused():
    with pytest.raises(UsageError, match="fp8"):
        gentool.load("tiny-zh", precision="fp8")


def test_a_model_without_tokenizer_works_on_ids(model):
    whole, model = model, gentool.load("tiny-zh", set={"tokenizer": None}, xla=XLA)
    logits = model.logits([1, 5, 9])
    assert logits.shape[0] == 3 and logits.flags.writeable
    ids = whole.tokenizer.encode(PROMPT)
    sample = model.complete(ids, seed=1, max_tokens=9)[0]
    assert sample.text == ""
    assert sample.ids == whole.complete(ids, seed=1, max_tokens=9, eos=None)[0].ids
    with pytest.raises(ModelError, match="no tokenizer"):
        model.complete(PROMPT)


@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_16_bits_agree_where_the_margin_is_clear(model, precision):
    ids = model.tokenizer.encode("今天天气不错，我们去公园玩吧。")
    exact = model.logits(ids)
    half = gentool.load("tiny-zh", precision=precision).logits(ids)
    error = np.abs(half - exact).max(axis=-1)
    top = np.sort(exact, axis=-1)
    clear = top[:, -1] - top[:, -2] > 2 * error
    assert (half.argmax(-1) == exact.argmax(-1))[clear].all()
    assert (error <= {"fp16": 0.01, "bf16": 0.05}[precision] * np.abs(exact).max()).all()
