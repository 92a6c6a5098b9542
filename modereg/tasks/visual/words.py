"""The instructions of the visual task, and a tokenizer of their few words."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from modereg.errors import ConfigurationError

__all__ = ["COLOURS", "INSTRUCTIONS", "VOCABULARY", "WordTokenizer"]

COLOURS = ("red", "blue")
"""What the discs are called."""

INSTRUCTIONS = tuple(
    pattern.format(colour)
    for colour in COLOURS
    for pattern in ("go to the {} disc", "reach {}", "the {} one please")
)
"""What an episode may be told; three of them name the first colour, three the second."""

VOCABULARY = ("<pad>", "<bos>", "\n", *sorted({w for text in INSTRUCTIONS for w in text.split()}))
"""The words; a word's place is its token."""

LENGTH = 2 + max(len(text.split()) for text in INSTRUCTIONS)
"""Tokens of the longest instruction, with its beginning and its end."""


class WordTokenizer:
    """Token ids of instructions made of known words, as PI0 is told: bos, text, newline, padding.

    Policies take it as their tokenizer, where an environment tells text and not ids.

    Args:
        length: ids of each instruction, padding included.
    """

    def __init__(self, length: int = LENGTH) -> None:
        self.length = length
        self._ids = {word: index for index, word in enumerate(VOCABULARY)}

    def __call__(self, texts: Sequence[str]) -> Tensor:
        """Return the ids of N instructions, ``[N, length]`` int64.

        Raises:
            ConfigurationError: if a word is unknown or an instruction too long.
        """
        return torch.tensor([self._encode(text) for text in texts])

    def _encode(self, text: str) -> list[int]:
        words = ["<bos>", *text.split(), "\n"]
        unknown = [word for word in words if word not in self._ids]
        if unknown or len(words) > self.length:
            raise ConfigurationError(
                f"expected at most {self.length - 2} of the words {', '.join(VOCABULARY[3:])}, got "
                f"{text!r}; instructions are {', '.join(map(repr, INSTRUCTIONS))}"
            )
        return [self._ids[word] for word in words] + [0] * (self.length - len(words))
