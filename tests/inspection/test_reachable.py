"""Which tokens can have the largest logit, against brute force: scans of all directions, hulls, the
linear program on all rows at once, and the families' own norm and head."""

from __future__ import annotations

from fractions import Fraction
from typing import Literal

import litert_models
import numpy as np
import pytest

from gentool import models
from gentool.config.model import FAMILIES
from gentool.inspection import proofs, reachable
from gentool.inspection.output_layer import OutputLayer, head_name, read_output_layer
from gentool.inspection.proofs import Combination, Duplicate, Proof, Witness
from gentool.models import transformer, weights
from gentool.runtimes.litert.record import record
from gentool.runtimes.numpy_ops import arrays

scipy_optimize = pytest.importorskip("scipy.optimize")
scipy_spatial = pytest.importorskip("scipy.spatial")

Norm = Literal["rms", "layer", "none"]
ANGLES = 100_000  # of a scan
SECONDS = 120.0


def layer(
    weight: np.ndarray, norm: Norm = "rms", shift: float = 0.0, bias: float = 0.0, seed: int = 0
) -> OutputLayer:
    rng = np.random.default_rng(seed)
    v, d = weight.shape
    gain = rng.uniform(0.5, 2, d).astype(np.float32).astype(np.float64)
    biases = bias * rng.normal(size=v)
    return OutputLayer(weight, biases, gain, shift * rng.normal(size=d), norm, 1e-5)


def cloud(rows: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(rows, width)).astype(np.float32)


def prove(of: OutputLayer, seconds: float = SECONDS) -> dict[int, Proof]:
    found = {}
    for proof in reachable.proofs(of, seconds, lambda *_: None):
        assert proof.token not in found, "a token is decided once"
        found[proof.token] = proof
    return found


def of_kind(found: dict[int, Proof], kind: type) -> set[int]:
    return {token for token, proof in found.items() if isinstance(proof, kind)}


def winners(of: OutputLayer, n: np.ndarray) -> set[int]:
    """The tokens with the largest logit at normalised states n [N, D]; the lowest of equals."""
    scores = (n * of.gain + of.shift) @ of.weight.T.astype(np.float64) + of.bias
    return set(scores.argmax(axis=1).tolist())


def circle(norm: Norm) -> np.ndarray:
    """All normalised states of width 2, or of width 3 after a layer norm, in small steps."""
    angle = np.linspace(0, 2 * np.pi, ANGLES, endpoint=False)
    if norm == "layer":
        plane = np.array([[1, -1, 0], [1, 1, -2]]) / np.sqrt([[2], [6]])
        return 3**0.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1) @ plane
    return 2**0.5 * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def test_rms_norm_agrees_with_a_scan_of_all_directions() -> None:
    of = layer(cloud(60, 2))
    found = prove(of)
    assert len(found) == 60
    assert of_kind(found, Witness) == winners(of, circle("rms"))


def test_rms_norm_agrees_with_the_hull() -> None:
    of = layer(cloud(150, 3))
    found = prove(of)
    assert len(found) == 150
    corners = scipy_spatial.ConvexHull(of.weight * of.gain).vertices
    assert of_kind(found, Witness) == set(corners.tolist())


@pytest.mark.parametrize("shift", [0.0, 0.1, 1.0])
def test_layer_norm_agrees_with_a_scan_of_the_circle(shift: float) -> None:
    """n has mean 0 and one length. What wins only where n is shorter is undecided."""
    of = layer(cloud(150, 3, seed=1), "layer", shift)
    found = prove(of)
    n = circle("layer")
    assert of_kind(found, Witness) >= winners(of, n)
    for token in of_kind(found, Witness):  # between two steps of the scan, too
        x = found[token].x - found[token].x.mean()
        at = x / np.sqrt(np.square(x).mean() + of.eps)
        assert winners(of, at[None]) == {token}
        assert np.linalg.norm(at) == pytest.approx(3**0.5, rel=1e-6)
    within = set().union(*(winners(of, part * n[::50]) for part in np.linspace(0.05, 1, 20)))
    assert not of_kind(found, Combination) & within
    if not shift:
        assert len(found) == 150


def test_the_mean_of_a_layer_normed_state_is_no_direction() -> None:
    """Rows that differ by a multiple of 1 have equal logits, though they are corners of a hull."""
    weight = np.array([[1, -1, 0], [-1, 1, 0], [0, 1, -1], [0, -1, 1]], np.float32)
    added = np.vstack([weight, 0.25 * weight[:1] + 8])
    ones = np.ones(3)
    after_rms = OutputLayer(added, np.zeros(5), ones, 0 * ones, "rms", 1e-5)
    after_layer = after_rms._replace(norm="layer")
    assert isinstance(prove(after_rms)[4], Witness)
    assert isinstance(prove(after_layer)[4], Combination)


def test_a_bias_of_the_head_counts() -> None:
    weight = np.zeros((3, 2), np.float32)
    weight[:2] = [[1, 0], [-1, 0]]
    ones = np.ones(2)
    of = OutputLayer(weight, np.zeros(3), ones, 0 * ones, "rms", 1e-5)
    assert isinstance(prove(of._replace(bias=np.array([0, 0, 0.5])))[2], Witness)  # n = (0, 1)
    assert isinstance(prove(of._replace(bias=np.array([0, 0, -0.5])))[2], Combination)
    # it is least at the right, where token 0 has sqrt(2): with more than that it always wins
    always = prove(of._replace(bias=np.array([0, 0, 1.5])))
    assert isinstance(always[2], Witness)
    assert {type(always[0]), type(always[1])} == {Combination}


@pytest.mark.parametrize(("rows", "width"), [(120, 8), (400, 5)])
def test_agrees_with_the_linear_program_on_all_rows(rows: int, width: int) -> None:
    of = layer(cloud(rows, width, seed=3))
    found = prove(of)
    assert len(found) == rows
    exact = of.weight.astype(np.float64) * of.gain
    for token in range(0, rows, 16):
        leads = exact[token] - np.delete(exact, token, axis=0)
        solved = scipy_optimize.linprog(
            np.append(np.zeros(width), -1),
            A_ub=np.column_stack([-leads, np.ones(rows - 1)]),
            b_ub=np.zeros(rows - 1),
            bounds=[(-1, 1)] * width + [(None, 1)],
        )
        assert isinstance(found[token], Witness) == (solved.x[-1] > 1e-6), token


def exact_shares(of: OutputLayer, proof: Combination) -> list[Fraction]:
    """The weights, in rational numbers, of which the row is the average of its support."""
    gain = [Fraction(value) for value in of.gain.tolist()]

    def row(id: int) -> list[Fraction]:
        values = of.weight[id].astype(np.float64).tolist()
        return [Fraction(w) * g for w, g in zip(values, gain, strict=True)] + [Fraction(1)]

    columns = [row(int(id)) for id in proof.support]
    lines = [list(line) for line in zip(*columns, row(proof.token), strict=True)]
    for i in range(len(columns)):
        pivot = next(k for k in range(i, len(lines)) if lines[k][i])
        lines[i], lines[pivot] = lines[pivot], lines[i]
        lines[i] = [value / lines[i][i] for value in lines[i]]
        for k in range(len(lines)):
            if k != i:
                factor = lines[k][i]
                lines[k] = [a - factor * b for a, b in zip(lines[k], lines[i], strict=True)]
    return [line[-1] for line in lines[: len(columns)]]


@pytest.mark.parametrize("width", [2, 3, 6])
def test_combinations_hold_in_rational_numbers(width: int) -> None:
    of = layer(np.vstack([cloud(80, width, seed=4), 0.1 * cloud(5, width, seed=5)]))
    impossible = [p for p in prove(of).values() if isinstance(p, Combination)]
    assert {80, 81, 82, 83, 84} <= {proof.token for proof in impossible}
    for proof in impossible:
        shares = exact_shares(of, proof)
        assert sum(shares) == 1 and min(shares) > 0
        assert proof.token not in proof.support


@pytest.mark.parametrize(("rows", "width"), [(200, 5), (800, 48)])
def test_combinations_of_a_biased_head_hold_on_the_whole_ball(rows: int, width: int) -> None:
    planted = 0.1 * cloud(3, width, seed=7)
    of = layer(np.vstack([cloud(rows, width, seed=6), planted]), "layer", 0.3, 0.3)
    of.bias[rows:] = 0.0
    impossible = [p for p in prove(of).values() if isinstance(p, Combination)]
    assert {rows, rows + 1, rows + 2} <= {proof.token for proof in impossible}
    weight = of.weight.astype(np.float64)
    constants = weight @ of.shift + of.bias
    for proof in impossible:
        assert proof.shares.min() > 0 and proof.shares.sum() == pytest.approx(1)
        lead = proof.shares @ ((weight[proof.token] - weight[proof.support]) * of.gain)
        lead -= lead.mean()
        constant = proof.shares @ (constants[proof.token] - constants[proof.support])
        assert width**0.5 * np.linalg.norm(lead) + constant < 0


@pytest.mark.parametrize("family", FAMILIES)
def test_witnesses_win_by_the_family_s_own_norm_and_head(family: str) -> None:
    module, arch = models.load_family(family), litert_models.arch_of(family)
    values = litert_models.random_weights(module, arch, seed=0)
    source = litert_models.Arrays(values)
    plan = weights.plan(source, module, arch)
    recording = record(module, arch, source.shapes)
    of = read_output_layer(recording, lambda name: weights.read(source, plan[name]))
    assert head_name(recording) == ("embedding" if arch.tied_head else "head")
    found = prove(of)
    assert of_kind(found, Witness)
    top = {name: value.astype(np.float64) for name, value in values.items()}
    top = transformer.Params(top, ()).top
    for proof in found.values():
        if isinstance(proof, Witness):
            x = proof.x.astype(np.float64)
            if family == "gpt2_ml":  # its last norm is the last layer's
                last = f"layers.{arch.n_layer - 1}.output_norm"
                x = arrays.layer_norm(x, top[last], top[f"{last}_bias"], arch.norm_eps)
            if family == "pangu":
                x = x / np.linalg.norm(x)
            hidden = module.final(arrays, arch, top, x)
            assert int(module.head(arrays, arch, top, hidden).argmax()) == proof.token


def test_of_equal_rows_only_the_lowest_is_possible() -> None:
    weight = cloud(6, 4)
    weight[3] = weight[1]
    weight[5] = weight[1]
    weight[4] = 0.0
    weight[2] = -0.0
    found = prove(layer(weight))
    assert of_kind(found, Duplicate) == {3, 4, 5}
    assert {found[3].of, found[5].of, found[4].of} == {1, 2}
    assert isinstance(found[1], Witness)


def test_rows_that_barely_differ_are_told_apart() -> None:
    """One unit in the last place is beyond float32's rounding, not beyond a proof."""
    weight = cloud(40, 6, seed=8)
    weight[7] = 3 * weight[7] / np.linalg.norm(weight[7])
    weight[8] = weight[7]
    weight[8, 0] = np.nextafter(weight[8, 0], np.float32(np.inf), dtype=np.float32)
    found = prove(layer(weight))
    assert isinstance(found[7], Witness) and isinstance(found[8], Witness)


def test_a_tie_proves_nothing() -> None:
    rows, _ = proofs.distinct_rows(layer(np.eye(3, dtype=np.float32)))
    equal = 1 / rows.layer.gain
    proven, _ = proofs.win(rows, np.array([0]), 1e3 * equal[None])
    assert not proven[0]


def test_a_row_outside_the_simplex_by_a_rounding_is_not_proven_inside() -> None:
    corners = np.array([[0, 0], [1, 0], [0, 1]], np.float32)
    for inside, proven in ((2**-20, True), (-(2**-20), False), (0.0, False)):
        weight = np.vstack([corners, [[0.5, inside]]]).astype(np.float32)
        ones = np.ones(2)
        of = OutputLayer(weight, np.zeros(4), ones, 0 * ones, "rms", 1e-5)
        rows, _ = proofs.distinct_rows(of)
        assert proofs.combination(rows, 3, np.array([0, 1, 2]), np.ones(3) / 3) is proven


def test_what_time_does_not_allow_is_unknown() -> None:
    weight = cloud(6, 4)
    weight[3] = weight[1]
    found = reachable.verdicts(reachable.proofs(layer(weight), 1e-9, lambda *_: None), 6)
    assert found.possible == 0 and found.unknown == (0, 1, 2, 4, 5)
    assert [proof.token for proof in found.impossible] == [3]


def test_without_scipy_the_directions_remain(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reachable, "has_scipy", lambda: False)
    of = layer(cloud(60, 2))
    found = prove(of)
    possible = winners(of, circle("rms"))
    assert of_kind(found, Witness) <= possible and not of_kind(found, Combination)
    assert len(of_kind(found, Witness)) > len(possible) / 2
