"""Instructions as ids and as text, with tokenizers of transformers and with functions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tensordict import NonTensorData, NonTensorStack, TensorDict
from torch import Tensor

from modereg.errors import ConfigurationError, ShapeError
from modereg_integrations.transformers import PI0Policy
from modereg_integrations.transformers.instructions import read_instructions

TOKENS = "language_instruction"
WORDS = ["<pad>", "<bos>", "\n", "pick", "place", "the", "cube"]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    """A word-level tokenizer of transformers, made here."""
    import transformers
    from tokenizers import Tokenizer, models, pre_tokenizers

    made = Tokenizer(models.WordLevel({word: i for i, word in enumerate(WORDS)}, "<pad>"))
    splits = [pre_tokenizers.Split(" ", "removed"), pre_tokenizers.Split("\n", "isolated")]
    made.pre_tokenizer = pre_tokenizers.Sequence(splits)
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, bos_token="<bos>", pad_token="<pad>"
    )


def letters(texts: list[str]) -> Tensor:
    """A function of texts: one id a letter."""
    length = max(map(len, texts))
    return torch.tensor([[*map(ord, text), *[0] * (length - len(text))] for text in texts])


def test_a_tokenizer_is_given_what_pi0_was_trained_with(tokenizer: Any) -> None:
    text = NonTensorStack("pick the cube", "place", "pick the cube")
    ids = read_instructions(text, torch.Size([3]), tokenizer, 0)
    pick, place = [1, 3, 5, 6, 2], [1, 4, 2, 0, 0]
    assert ids.tolist() == [pick, place, pick]


@pytest.mark.parametrize(
    "value",
    ["ab", ["ab", "ab"], [["ab"], ["ab"]], NonTensorData("ab", batch_size=[2])],
    ids=["one", "list", "nested", "tensordict"],
)
def test_text_in_any_form(value: Any) -> None:
    ids = read_instructions(value, torch.Size([2]), letters, 0)
    assert ids.tolist() == [[97, 98], [97, 98]]


def test_a_batch_of_two_dimensions() -> None:
    text = NonTensorStack(NonTensorStack("a", "bc"), NonTensorStack("bc", "d"))
    ids = read_instructions(text, torch.Size([2, 2]), letters, 0)
    assert ids.tolist() == [[[97, 0], [98, 99]], [[98, 99], [100, 0]]]


def test_text_decodes_as_its_ids_do(model: Any, observations: TensorDict, tokenizer: Any) -> None:
    policy = PI0Policy(model, action_dim=3, tokenizer=tokenizer)
    noise = policy.draw_noise([3])
    told = observations.clone().set(TOKENS, NonTensorStack("pick the cube", "place", "pick"))
    ids = read_instructions(told.get(TOKENS), torch.Size([3]), tokenizer, 0)
    chunk = policy.decode_from(told, noise)
    expected = policy.decode_from(observations.clone().set(TOKENS, ids), noise)
    assert torch.equal(chunk, expected)
    assert policy.fingerprint() == PI0Policy(model, action_dim=3).fingerprint()


def test_what_cannot_be_read_is_refused(tokenizer: Any) -> None:
    two = torch.Size([2])
    with pytest.raises(ConfigurationError, match="give the policy a tokenizer"):
        read_instructions(["pick", "place"], two, None, 0)
    with pytest.raises(ShapeError, match="each of 2 rows, got 3"):
        read_instructions(["a", "b", "c"], two, letters, 0)
    with pytest.raises(ConfigurationError, match="as text, got list"):
        read_instructions([1, 2], two, letters, 0)
    with pytest.raises(ConfigurationError, match=r"that makes ids \[1, L\]"):
        read_instructions(["a", "a"], two, lambda texts: torch.zeros(3, 4), 0)
    with pytest.raises(ConfigurationError, match="no padding token"):
        read_instructions(["pick the cube", "place"], two, tokenizer, None)
    with pytest.raises(ShapeError, match="expected token ids of shape"):
        read_instructions(torch.zeros(3, 4, dtype=torch.int64), two, None, 0)
