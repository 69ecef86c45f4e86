"""PanGu-alpha in float64 numpy, without a cache, written from its equations and sharing no code
with gentool: what the engine's logits are held against. Weights go by the full names of the
variables of its TensorFlow port."""

import math

import numpy as np

erf = np.vectorize(math.erf)


def norm(x, w, name):
    x = x - x.mean(-1, keepdims=True)
    deviation = np.sqrt((x**2).mean(-1, keepdims=True) + 1e-5)
    return x / deviation * w[f"{name}/gamma"] + w[f"{name}/beta"]


def dense(x, w, name):
    return x @ w[f"{name}/kernel"] + w[f"{name}/bias"]


def attention(q, k, v, n_head):
    """q, k, v [T, D] to what each position gathers from itself and those before it [T, D]."""
    t, width = q.shape
    e = width // n_head
    out = np.zeros((t, width))
    for a in range(0, width, e):
        for i in range(t):
            scores = k[: i + 1, a : a + e] @ q[i, a : a + e] / math.sqrt(e)
            mass = np.exp(scores - scores.max())
            out[i, a : a + e] = mass / mass.sum() @ v[: i + 1, a : a + e]
    return out


def logits(weights, n_layer, n_head, ids):
    """Logits [T, V] of ids [T]."""
    w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    table = w["gpt/embedding/embeddings"]  # [V, D]
    x = table[ids] + w["position_embeddings"][: len(ids)]  # [T, D]
    for index in range(n_layer):
        p = f"gpt/layer{index:02d}"
        last = index == n_layer - 1
        if last:
            x = norm(x, w, "gpt/LayerNorm_final_norm")
        seen = norm(x, w, f"{p}/LayerNorm_mlp_ln0")
        asking = w["top_query"][: len(ids)] if last else seen
        inputs = {"query": asking, "key": seen, "value": seen}
        q, k, v = (dense(y, w, f"{p}/attention/{part}_layer") for part, y in inputs.items())
        x = x + dense(attention(q, k, v, n_head), w, f"{p}/attention/context_projection_layer")
        hidden = dense(norm(x, w, f"{p}/LayerNorm_mlp_ln1"), w, f"{p}/intermediate")
        hidden = hidden * (1 + erf(hidden / math.sqrt(2))) / 2  # [T, 4D]
        x = x + dense(hidden, w, f"{p}/output")
    return x @ table.T
