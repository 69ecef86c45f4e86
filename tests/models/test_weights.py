"""Every parameter is filled, every tensor used, shapes are checked."""

import numpy as np
import pytest
from tiny import TINY, Arrays, load

from gentool.errors import ModelError


def test_a_missing_tensor_is_named(tiny_weights):
    with pytest.raises(ModelError, match=r"layers\.1\.down is missing"):
        load(Arrays({n: a for n, a in tiny_weights.items() if n != "layers.1.down"}), TINY)


def test_a_left_over_tensor_is_named(tiny_weights):
    with pytest.raises(ModelError, match=r"layers\.2\.down belongs nowhere"):
        load(Arrays(tiny_weights | {"layers.2.down": np.zeros(3)}), TINY)


def test_a_wrong_shape_is_named_before_anything_is_read(tiny_weights):
    class Unreadable(Arrays):
        def read(self, name):
            raise AssertionError("read before the shapes were checked")

    wrong = Unreadable(tiny_weights | {"final_norm": np.zeros(31)})
    with pytest.raises(ModelError, match=r"final_norm has shape \[31\], not \[32\]"):
        load(wrong, TINY)
