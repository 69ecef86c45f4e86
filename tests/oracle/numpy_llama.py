"""LLaMA in float64 numpy, without a cache, written from the paper alone and sharing no code with
gentool: what the engine's logits are held against."""

import numpy as np


def rms(x, scale, eps):
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + eps) * scale


def rotate(x, theta):
    """x [T, heads, E], position t at row t: pairs (i, i + E/2) turn by t * theta^(-2i/E)."""
    t, _, e = x.shape
    angle = np.arange(t)[:, None] * theta ** (-np.arange(0, e, 2) / e)  # [T, E/2]
    turn = np.exp(1j * angle)[:, None]
    pairs = (x[..., : e // 2] + 1j * x[..., e // 2 :]) * turn
    return np.concatenate([pairs.real, pairs.imag], axis=-1)


def logits(arch, weights, ids):
    """Logits [T, V] of ids [T] for weights by name."""
    head = weights["embedding" if arch.tied_head else "head"]
    return hidden_states(arch, weights, ids) @ np.asarray(head, np.float64).T


def hidden_states(arch, weights, ids):
    """What the head is multiplied with, [T, D]: the last layer's output after the final norm."""
    w = {name: np.asarray(value, np.float64) for name, value in weights.items()}
    h, g, e, t = arch.n_head, arch.n_kv_head, arch.d_head, len(ids)
    x = w["embedding"][ids]  # [T, D]
    hidden = np.triu(np.ones((t, t), bool), 1)
    for layer in range(arch.n_layer):
        p = f"layers.{layer}."
        joint = rms(x, w[p + "attention_norm"], arch.norm_eps) @ w[p + "qkv"].T
        q, k, v = np.split(joint.reshape(t, -1, e), [h, h + g], axis=1)
        q, k = rotate(q, arch.rope_theta), rotate(k, arch.rope_theta)
        heads = []
        for head in range(h):
            group = head // (h // g)
            scores = q[:, head] @ k[:, group].T / np.sqrt(e)
            if arch.log_n:  # more keys, sharper attention
                seen = np.arange(1, t + 1)[:, None]
                scores *= np.log(np.maximum(seen, 16)) / np.log(arch.log_n)
            scores[hidden] = -np.inf
            mass = np.exp(scores - scores.max(-1, keepdims=True))
            heads.append(mass / mass.sum(-1, keepdims=True) @ v[:, group])
        x = x + np.concatenate(heads, axis=-1) @ w[p + "attention_out"].T
        gate, up = np.split(rms(x, w[p + "mlp_norm"], arch.norm_eps) @ w[p + "gate_up"].T, 2, -1)
        x = x + (gate / (1 + np.exp(-gate)) * up) @ w[p + "down"].T
    return rms(x, w["final_norm"], arch.norm_eps)
