"""PanGu-alpha in the form of its TensorFlow port, a SavedModel's variables alone: random weights
against an independent forward pass in float64, and what a folder says about itself."""

from dataclasses import replace

import numpy as np
import pytest
import tensorflow as tf
import yaml
from oracle import numpy_pangu
from safetensors.numpy import save_file

import gentool
from gentool import checkpoints
from gentool.config import folder
from gentool.config.model import Arch
from gentool.errors import ModelError
from gentool.generation.session import Request
from gentool.models import pangu, weights

LAYERS, HEADS, WIDTH, VOCABULARY, POSITIONS = 3, 4, 32, 61, 24
TABLES = ("position_embeddings", "top_query")
TOLERANCE = 1e-4  # the wrong gelu is 9e-3 away
RNG = np.random.default_rng(8)
IDS = RNG.integers(0, VOCABULARY, POSITIONS).tolist()


def variables(layers, width, vocabulary, positions):
    """Full name -> shape, as the port's exporter writes them."""
    d = width
    shapes = {
        "gpt/embedding/embeddings": (vocabulary, d),
        "position_embeddings": (positions, d),
        "top_query": (positions, d),
    }
    products = {f"attention/{x}_layer": (d, d) for x in ("query", "key", "value")}
    products |= {
        "attention/context_projection_layer": (d, d),
        "intermediate": (d, 4 * d),
        "output": (4 * d, d),
    }
    norms = ["gpt/LayerNorm_final_norm"]
    for i in range(layers):
        norms += [f"gpt/layer{i:02d}/LayerNorm_mlp_ln{n}" for n in (0, 1)]
        for name, shape in products.items():
            shapes[f"gpt/layer{i:02d}/{name}/kernel"] = shape
            shapes[f"gpt/layer{i:02d}/{name}/bias"] = shape[1:]
    return shapes | {f"{norm}/{x}": (d,) for norm in norms for x in ("gamma", "beta")}


@pytest.fixture(scope="module")
def random():
    """Large enough that each weight counts: logits of order 10, and a text that varies with its
    positions."""
    arrays = {}
    for name, shape in variables(LAYERS, WIDTH, VOCABULARY, POSITIONS).items():
        deviation = 3 if name in TABLES else 0.3
        array = RNG.normal(0, deviation, shape) + name.endswith("gamma")
        arrays[name] = array.astype(np.float32)
    return arrays


def save(path, arrays):
    """A SavedModel's variables/, whose keys are numbers and whose names are in its graph."""
    held = [tf.Variable(array, name=name) for name, array in arrays.items()]
    (path / "variables").mkdir(parents=True)
    tf.train.Checkpoint(variables=held).write(str(path / "variables/variables"))
    return path


def opened(path, xla=True, **overrides):
    settings = {"arch.n_head": HEADS} | {k.replace("__", "."): v for k, v in overrides.items()}
    return gentool.load(str(path), precision="fp32", xla=xla, set=settings)


@pytest.fixture(scope="module")
def port(tmp_path_factory, random):
    return save(tmp_path_factory.mktemp("pangu") / "port", random)


@pytest.fixture(scope="module", params=[True, False], ids=["xla", "no-xla"])
def model(request, port):
    return opened(port, request.param)


@pytest.fixture(scope="module")
def expected(random):
    return numpy_pangu.logits(random, LAYERS, HEADS, IDS)


def log_probability(random, prompt, ids):
    """Of ids [M] after a prompt, from the whole text anew."""
    actual = numpy_pangu.logits(random, LAYERS, HEADS, [*prompt, *ids])[len(prompt) - 1 : -1]
    actual = actual - np.log(np.exp(actual).sum(-1, keepdims=True))
    return actual[np.arange(len(ids)), ids].sum()


def test_logits_are_those_of_the_equations(model, expected):
    assert model.config.family == "pangu"
    np.testing.assert_allclose(model.logits(IDS), expected, rtol=0, atol=TOLERANCE)


def test_greedy_continuation_is_that_without_a_cache(model, random):
    start = IDS[:5]
    sample = model.complete(start, temperature=0, max_tokens=POSITIONS, eos=None)[0]
    text = [*start, *sample.ids]
    assert len(text) == POSITIONS  # to the last row of both tables
    assert len(set(sample.ids)) > 3  # and not one token again and again
    expected = numpy_pangu.logits(random, LAYERS, HEADS, text).argmax(-1)
    assert text[len(start) :] == expected[len(start) - 1 : -1].tolist()


def test_rows_at_different_positions_have_their_own_queries(model, random):
    prompts = (tuple(IDS[:3]), tuple(IDS[:9]), tuple(IDS[5:18]))
    sampling = replace(model.config.sampling, max_tokens=6)
    request = Request(prompts, (0, 1, 2), n=2, sampling=sampling, seed=3, eos=None)
    done = [chunk for chunk in model.stream(request) if chunk.done]
    assert len(done) == 6
    for chunk in done:
        expected = log_probability(random, prompts[chunk.prompt], chunk.done.ids)
        assert chunk.done.logprob == pytest.approx(expected, abs=TOLERANCE)


def test_more_positions_come_from_both_tables(port, random):
    alpha, n = 0.4, 3 * POSITIONS
    far = dict(random)
    for name in TABLES:
        u = (random[name] - alpha * random[name][0]) / (1 - alpha)
        far[name] = np.array(
            [alpha * u[p // POSITIONS] + (1 - alpha) * u[p % POSITIONS] for p in range(n)]
        )
    model = opened(port, arch__hierarchical_alpha=alpha, arch__n_ctx=n)
    ids = [*IDS, *IDS[::-1], *IDS]
    expected = numpy_pangu.logits(far, LAYERS, HEADS, ids)
    np.testing.assert_allclose(model.logits(ids), expected, rtol=0, atol=TOLERANCE)


def test_weights_under_our_own_names_give_equal_logits(port, tmp_path, expected):
    config = opened(port).config
    source = checkpoints.open_checkpoint(port / "variables")
    plan = weights.plan(source, pangu, config.arch)
    ours = {name: np.ascontiguousarray(weights.read(source, w)) for name, w in plan.items()}
    save_file(ours, tmp_path / "model.safetensors")
    data = {"name": "ours", "family": "pangu", "checkpoint": "model.safetensors"}
    data["arch"] = config.arch.model_dump()
    (tmp_path / "gentool.yaml").write_text(yaml.safe_dump(data), "utf-8")
    np.testing.assert_allclose(opened(tmp_path).logits(IDS), expected, rtol=0, atol=TOLERANCE)


# what a folder says


def test_without_a_table_of_queries_it_is_cpm_lm_tf2(tmp_path, random, expected):
    rest = {name: array for name, array in random.items() if name != "top_query"}
    model = opened(save(tmp_path / "cpm", rest))
    assert (model.config.family, model.config.arch.activation) == ("gpt2", "gelu_erf")
    assert np.abs(model.logits(IDS) - expected).max() > 1


@pytest.mark.parametrize(
    "name",
    [
        "gpt/layer02/attention/query_layer/kernel",
        "gpt/layer02/attention/value_layer/bias",
        "gpt/LayerNorm_final_norm/beta",
        "gpt/layer01/attention/query_layer/bias",
    ],
)
def test_a_missing_tensor_is_named(tmp_path, random, name):
    rest = {other: array for other, array in random.items() if other != name}
    with pytest.raises(ModelError, match=f"tensor {name} is missing"):
        opened(save(tmp_path / "part", rest))


def test_the_wrong_family_is_an_error(port, tmp_path, random):
    with pytest.raises(ModelError, match="tensor top_query is no weight of the family"):
        opened(port, family="gpt2")
    rest = {name: array for name, array in random.items() if name != "top_query"}
    with pytest.raises(ModelError, match="tensor top_query is missing"):
        opened(save(tmp_path / "cpm", rest), family="pangu")


class Published:
    """The tensors of a published model, without their numbers."""

    def __init__(self, layers, width):
        self.shapes = variables(layers, width, 40064, 1024)
        self.dtypes = dict.fromkeys(self.shapes, np.dtype(np.float32))


@pytest.mark.parametrize(("layers", "width", "heads"), [(32, 2560, 32), (40, 5120, 40)])
def test_the_published_models_need_no_settings(tmp_path, monkeypatch, layers, width, heads):
    source = Published(layers, width)
    monkeypatch.setattr(checkpoints, "open_checkpoint", lambda path: source)
    (tmp_path / "variables").mkdir()
    (tmp_path / "vocab.model").touch()
    actual = folder.describe(tmp_path)
    assert (actual["family"], actual["arch"]["n_head"]) == ("pangu", heads)
    assert actual["tokenizer"] == {"kind": "cpm", "model": "vocab.model"}
    plan = weights.plan(source, pangu, Arch(**actual["arch"]))
    used = [name for take in plan.values() for name in take.names]
    assert sorted(used) == sorted(source.shapes)
    assert len(used) == 5 + 16 * layers  # 517 in the smaller
