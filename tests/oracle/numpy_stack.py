"""Any family in float64 numpy, without a cache: its functions over a table of operations that is
written here, with attention over the whole text. Products may quantise their inputs row by row, as
XNNPACK does: what is left of a difference is rounding."""

import math

import numpy as np

from gentool.runtimes.ops import Ops

erf = np.vectorize(math.erf, otypes=[np.float64])


def norm(x, scale, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale


def gelu(x, kind):
    if kind == "gelu_erf":
        return x * (1 + erf(x / math.sqrt(2))) / 2
    return x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))) / 2


def gated(function):
    def apply(x):
        gate, up = np.split(x, 2, -1)
        return function(gate) * up

    return apply


def rows_in_8_bits(x):
    """x with each row rounded to 256 steps between its smallest and largest, 0 among them."""
    low, high = np.minimum(x.min(-1, keepdims=True), 0), np.maximum(x.max(-1, keepdims=True), 0)
    step = (high - low) / 255
    step[step == 0] = 1
    zero = np.rint(-128 - low / step)
    return (np.clip(np.rint(x / step) + zero, -128, 127) - zero) * step


def rope(x, rotation):
    cos, sin = (part[..., None, :] for part in rotation)
    turned = (x[..., : x.shape[-1] // 2] + 1j * x[..., x.shape[-1] // 2 :]) * (cos + 1j * sin)
    return np.concatenate([turned.real, turned.imag], -1)


def table(quantized):
    def linear(x, weight, bias=None):
        y = (rows_in_8_bits(x) if quantized else x) @ weight.T
        return y if bias is None else y + bias

    def rotation(positions, frequency, length):
        angle = np.asarray(positions)[..., None] * frequency.astype(np.float64)
        return np.cos(angle) * length, np.sin(angle) * length

    return Ops(
        gather=lambda rows, ids: rows[ids],
        rotation=rotation,
        linear=linear,
        rms_norm=lambda x, scale, eps, offset=0.0: norm(x, scale + offset, eps),
        layer_norm=lambda x, s, b, eps: norm(x - x.mean(-1, keepdims=True), s, eps) + b,
        gelu=gelu,
        swiglu=gated(lambda gate: gate / (1 + np.exp(-gate))),
        geglu=gated(lambda gate: gelu(gate, "gelu_tanh")),
        split=lambda x, sizes: np.split(x, np.cumsum(sizes)[:-1], -1),
        heads=lambda x, size: x.reshape(*x.shape[:-1], -1, size),
        rope=rope,
        softcap=lambda x, cap: x if cap is None else cap * np.tanh(x / cap),
    )


def logits(family, arch, weights, ids, quantized=False):
    """Logits [T, V] of ids [T] for weights by flat name, the head's apart from the embedding where
    `head of embedding` is among them."""
    w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    top = {name: value for name, value in w.items() if not name.startswith("layers.")}
    ops = table(quantized)
    positional = family.positional(ops, arch, top, np.arange(len(ids)))
    x = family.embed(ops, arch, top, np.asarray(ids), positional)
    for index in range(arch.n_layer):
        start = f"layers.{index}."
        layer = {name[len(start) :]: value for name, value in w.items() if name.startswith(start)}
        window = arch.window if index in arch.window_layers else None

        def attend(q, k, v, window=window):
            return attention(arch, window, q, k, v)

        x = family.layer(ops, arch, layer, x, positional, attend)
    x = family.final(ops, arch, top, x)
    if "head of embedding" in top:
        top["embedding"] = top["head of embedding"]
    return family.head(ops, arch, top, x)


def attention(arch, window, q, k, v):
    """q [T, H, E], k and v [T, G, E] to [T, H*E], a query and a head at a time."""
    t, h, e = q.shape
    out = np.zeros((t, h, v.shape[-1]))
    for i in range(t):
        first = 0 if window is None else max(0, i + 1 - window)
        for head in range(h):
            group = head // (h // k.shape[1])
            scores = k[first : i + 1, group] @ q[i, head] / math.sqrt(arch.query_scale or e)
            if arch.log_n:
                scores = scores * math.log(max(i + 1 - first, 16)) / math.log(arch.log_n)
            if arch.score_cap:
                scores = arch.score_cap * np.tanh(scores / arch.score_cap)
            mass = np.exp(scores - scores.max())
            out[i, head] = mass / mass.sum() @ v[first : i + 1, group]
    return out.reshape(t, -1)
