"""The tokenizer of the visual task."""

from __future__ import annotations

import pytest

from modereg.errors import ConfigurationError
from modereg.tasks.visual import INSTRUCTIONS, VOCABULARY, WordTokenizer


def test_an_instruction_and_back() -> None:
    ids = WordTokenizer()(INSTRUCTIONS)
    assert ids.shape == (len(INSTRUCTIONS), WordTokenizer().length)
    for row, text in zip(ids.tolist(), INSTRUCTIONS, strict=True):
        words = [VOCABULARY[index] for index in row if index]
        assert words == ["<bos>", *text.split(), "\n"]


def test_halves_name_the_colours() -> None:
    half = len(INSTRUCTIONS) // 2
    assert all("red" in text for text in INSTRUCTIONS[:half])
    assert all("blue" in text for text in INSTRUCTIONS[half:])


def test_what_it_does_not_know_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="of the words"):
        WordTokenizer()(["go to the green disc"])
    with pytest.raises(ConfigurationError, match="at most 1 of the words"):
        WordTokenizer(3)(["reach red"])
