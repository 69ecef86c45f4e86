"""Splitting an answer into its thinking and the rest, however its text is cut into pieces."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gentool.generation.thinking import ThinkingParser

CASES = [
    ("<think>\n1+1\n</think>\n\n2", False, "1+1", "2"),
    ("\n<think>a < b</b> </thin</think>c", False, "a < b</b> </thin", "c"),
    ("<think>\n\n</think>\n\n2\n", False, "", "2\n"),
    ("so</think>  yes <think>no</think>", True, "so", "yes <think>no</think>"),
    ("<think>cut off </th", False, "cut off </th", ""),
    ("<thinking> is a tag", False, "", "<thinking> is a tag"),
    ("\n <thi", False, "", "\n <thi"),
    ("x <think>y</think>", False, "", "x <think>y</think>"),
    ("  indented", False, "", "  indented"),
    ("", False, "", ""),
]


@pytest.mark.parametrize(("text", "opened", "thinking", "answer"), CASES)
@given(data=st.data())
def test_thinking_is_split_from_the_answer(text, opened, thinking, answer, data):
    cuts = sorted(data.draw(st.lists(st.integers(0, len(text)), max_size=8)))
    parser, parts = ThinkingParser(opened), []
    for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True):
        parts += parser.push(text[start:end])
    parts += parser.finish()
    assert "".join(part.text for part in parts if part.thinking) == thinking
    assert "".join(part.text for part in parts if not part.thinking) == answer
    assert all(part.text for part in parts)


def test_nothing_waits_that_is_certain():
    parser = ThinkingParser()
    assert [part.text for part in parser.push("答案")] == ["答案"]
    assert [part.text for part in parser.push("是 <")] == ["是 <"]
    parser = ThinkingParser()
    assert parser.push("<thi") == []
    assert [part.text for part in parser.push("nk>好 <")] == ["好"]
