"""The cache of a growing text: what is kept, what is computed, and that nothing else changes."""

import numpy as np
import pytest

from gentool.config.sampling import SamplingParams
from gentool.decoding import loop
from gentool.decoding.prompt_cache import PromptCache

IDS = np.random.default_rng(7).integers(0, 96, 60).tolist()


@pytest.mark.parametrize(
    ("ids", "reused"),
    [
        (IDS[:30], 20),  # longer
        (IDS[:20], 19),  # the same: the last token is computed for its logits
        (IDS[:8], 7),  # shorter
        ([*IDS[:12], 1, 2, 3], 12),  # another end
        ([5, *IDS], 0),  # another text
    ],
)
def test_only_what_is_new_is_computed(plain, ids, reused):
    assert ids[reused] != IDS[reused] or reused in (20, len(ids) - 1)
    cache = PromptCache()
    cache.prefill(plain, IDS[:20])
    assert (cache.reused, cache.computed) == (0, 20)
    prefix, logits = cache.prefill(plain, ids)
    assert (cache.reused, cache.computed) == (reused, len(ids) - reused)
    assert prefix.length == len(ids)
    np.testing.assert_allclose(logits, plain.prefill(ids)[1], atol=1e-4)
    cache.clear()
    cache.prefill(plain, ids)
    assert cache.reused == 0


@pytest.mark.parametrize("lookup", [0, 3])
def test_a_finished_row_is_kept(plain, lookup):
    """All tokens of a row but the last, of drafts only those that came true."""
    ids = [7, 8, 9] * 6
    options = loop.DecodeOptions(SamplingParams(temperature=0.0), 1, 12, lookup=lookup)
    decoding = loop.DecodeLoop(plain, options)
    prefix, logits = plain.prefill(ids)
    decoding.add(loop.Prompt(np.array(ids), prefix, logits[0], 12), [loop.Sample(0, 0)])
    drawn = [token.id for token in decoding.step()]
    assert decoding.computed(0) == ([], prefix)
    while not decoding.done:
        drawn += [token.id for token in decoding.step()]
        output, grown = decoding.computed(0)
        assert output == drawn[:-1] and grown.length == len(ids) + len(output)
        _, logits = plain.prefill(drawn[-1:], grown)
        np.testing.assert_allclose(logits, plain.prefill([*ids, *drawn])[1], atol=1e-3)
