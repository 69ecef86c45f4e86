"""Text of models, files and errors for a terminal, without what a terminal obeys."""

from __future__ import annotations

_CONTROL_CODES = [*range(0x20), *range(0x7F, 0xA0), 0x061C, 0x200E, 0x200F]
_CONTROL_CODES += [
    *range(0x202A, 0x202F),
    *range(0x2066, 0x206A),
]  # bidi embeddings, overrides, isolates
_ESCAPED = {code: f"\\u{code:04x}" for code in _CONTROL_CODES if chr(code) not in "\n\t"}


def neutral(text: str) -> str:
    """`text` with control and bidi characters as visible escapes, which JSON reads back."""
    return text.translate(_ESCAPED)
