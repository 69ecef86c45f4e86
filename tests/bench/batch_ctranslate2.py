"""CTranslate2 over the rows of a batch; see batch.py. Its tokens are words: token i is "i"."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from peers_ctranslate2 import CTranslate2

BATCH = 64


def main() -> None:
    weights, precision, path = sys.argv[1:4]
    rows = [json.loads(line) for line in Path(path).read_text().splitlines()]
    generator = CTranslate2(Path(weights), precision).model
    for tokens in sorted({row["max_tokens"] for row in rows}):
        prompts = [list(map(str, row["prompt"])) for row in rows if row["max_tokens"] == tokens]
        results = generator.generate_batch(
            prompts,
            max_batch_size=BATCH,
            max_length=tokens,
            min_length=tokens,
            sampling_topk=0,
            include_prompt_in_result=False,
        )
        assert all(len(result.sequences_ids[0]) == tokens for result in results)


if __name__ == "__main__":
    main()
