"""Streaming gives the whole decode for any split, never breaks a character, and cuts at stops."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gentool.tokenizers import joined
from gentool.tokenizers.stream import TextStream


class Bytes:
    """One id a byte: the finest split of every text."""

    n_vocab, end = 256, ()

    def encode(self, text):
        return list(text.encode())

    def decode(self, ids):
        return joined(self, ids).decode("utf-8", "replace")

    def piece(self, token, previous):
        return bytes([token])


def run(ids, **options):
    stream = TextStream(Bytes(), **options)
    parts = [stream.push(i) for i in ids] + [stream.finish()]
    assert "".join(parts) == stream.text
    return parts


@given(st.lists(st.integers(0, 255)))
def test_parts_join_to_the_whole_decode(ids):
    assert "".join(run(ids)) == Bytes().decode(ids)


@given(st.text())
def test_whole_characters_are_given_at_once(text):
    parts = run(text.encode())
    assert [p for p in parts if p] == list(text)


def test_a_character_split_between_prompt_and_continuation():
    first, rest = "天".encode()[:1], "天".encode()[1:]
    stream = TextStream(Bytes(), prompt=list(first))
    assert "".join(stream.push(i) for i in rest) == "天"


def test_an_unfinished_character_is_replaced_at_the_end():
    assert "".join(run("天".encode()[:2])) == "\ufffd"


@given(st.text("ab", max_size=30), st.text("ab", min_size=1, max_size=4), st.booleans())
def test_text_ends_at_the_first_stop(text, stop, include):
    at = text.find(stop)
    wanted = text if at < 0 else text[: at + len(stop) * include]
    assert "".join(run(text.encode(), stops=[stop], include_stop=include)) == wanted


@given(st.text("ab", max_size=30), st.text("ab", min_size=1, max_size=4))
def test_only_a_possible_stop_is_held_back(text, stop):
    stream = TextStream(Bytes(), stops=[stop])
    for i, byte in enumerate(text.encode()):
        stream.push(byte)
        if stream.stopped:
            return
        held = text[len(stream.text) : i + 1]
        assert stop.startswith(held) and len(held) < len(stop)


@pytest.mark.parametrize(
    ("least", "text"), [(0, "我"), (2, "我。你"), (4, "我。你"), (5, "我。你。他")]
)
def test_stops_are_ignored_before_min_tokens(least, text):
    stream = TextStream(Characters(), stops=["。"], least=least)
    for character in "我。你。他":
        stream.push(ord(character))
    stream.finish()
    if least == 2:  # the second token is the stop, complete with min_tokens tokens
        text = "我"
    assert stream.text == text


class Characters(Bytes):
    """One id a character."""

    def piece(self, token, previous):
        return chr(token).encode()


class Whole(Bytes):
    """The whole text as one id."""

    def __init__(self, text):
        self.text = text

    def piece(self, token, previous):
        return self.text.encode()


def test_the_earliest_of_several_stops_wins():
    assert "".join(run(b"abcdef", stops=["ef", "cd", "d"])) == "ab"


STOPS = st.lists(st.text("abc", min_size=1, max_size=3), min_size=1, max_size=3)


@given(st.text("abc", min_size=1, max_size=12), STOPS)
def test_the_text_does_not_depend_on_its_split_into_tokens(text, stops):
    stream = TextStream(Whole(text), stops=stops)
    assert stream.push(0) + stream.finish() == "".join(run(text.encode(), stops=stops))


@given(st.text("abc", max_size=12), STOPS, st.integers(0, 8))
def test_text_before_a_stop_that_is_complete_after_min_tokens(text, stops, least):
    """The definition: the first stop, by its end, then by its start, that ends late enough."""
    places = [
        (end, end - len(stop))
        for end in range(max(least, 1), len(text) + 1)
        for stop in stops
        if text[:end].endswith(stop)
    ]
    wanted = text[: min(places)[1]] if places else text
    stream = TextStream(Characters(), stops=stops, least=least)
    parts = [stream.push(ord(character)) for character in text] + [stream.finish()]
    assert "".join(parts) == stream.text == wanted


def test_what_replaces_the_prompts_unfinished_character_is_not_given_again():
    stream = TextStream(Bytes(), prompt=[0xE5])
    assert stream.push(ord("a")) == "a"
