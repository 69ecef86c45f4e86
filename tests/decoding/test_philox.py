"""The published known answers of Philox4x32-10 (Random123's kat_vectors), and what u promises."""

import numpy as np
import pytest

from gentool.decoding.philox import philox, uniform

KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_known_answers(counter, key, answer):
    assert philox(np.array([counter]).T, key).ravel().tolist() == list(answer)


def test_u_depends_on_its_own_keys_only():
    alone = uniform(7, np.array([3]), np.array([5]), np.array([11]))
    many = uniform(7, np.arange(6), np.full(6, 5), np.full(6, 11))
    assert many[3] == alone[0]
    assert len(set(many)) == 6


def test_u_is_uniform_and_never_one():
    u = uniform(2**64 - 1, np.zeros(20000, int), np.arange(20000), np.zeros(20000, int))
    assert 0 <= u.min() and u.max() < 1
    assert np.all(u * 2.0**53 == np.floor(u * 2.0**53))
    counts = np.histogram(u, 20, (0, 1))[0]
    assert ((counts - 1000) ** 2 / 1000).sum() < 52  # chi-square, 19 degrees, p = 1e-4
