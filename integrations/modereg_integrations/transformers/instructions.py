"""Instructions: token ids as they are, or text that a tokenizer turns into them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from modereg.errors import ConfigurationError, ShapeError
from modereg_integrations.flows import flat_texts

__all__ = ["Tokenizer", "join_tokens", "read_instructions"]

Tokenizer = Callable[..., Any]
"""A tokenizer of transformers, or a function of N texts that returns their ids ``[N, L]``."""


def read_instructions(
    value: Any, batch: torch.Size, tokenizer: Tokenizer | None, padding: int | None
) -> Tensor:
    """Return the instructions of a batch as token ids, ``[*B, L]`` int64.

    A tokenizer of transformers is given bos + text + newline, as ``PI0Processor`` does. Each text
    is tokenized once, however often it occurs.

    Args:
        value: ids ``[*B, L]``, or text: one for all of the batch, or one for each.
        batch: B.
        tokenizer: makes ids of text; not needed for ids.
        padding: id that fills up instructions; None where there is none.

    Raises:
        ConfigurationError: if there is text and no tokenizer, or it is neither ids nor text.
        ShapeError: if there are ids or texts of another batch.
    """
    if isinstance(value, Tensor):
        return _check_ids(value, batch)
    texts = flat_texts(value, batch.numel(), "instructions as token ids [*B, L] or as text")
    if tokenizer is None:
        raise ConfigurationError(
            f"expected the instruction as token ids [*B, L] of type int64, got text "
            f"({texts[0]!r}); give the policy a tokenizer, PI0Policy(model, tokenizer=...), or the "
            "ids that the model's tokenizer makes of bos + text + newline"
        )
    different = sorted(set(texts))
    ids = _tokenize(tokenizer, different, padding)
    rows = [different.index(text) for text in texts]
    return ids[rows].reshape(*batch, ids.shape[-1])


def _check_ids(ids: Tensor, batch: torch.Size) -> Tensor:
    if ids.is_floating_point():
        raise ConfigurationError(
            f"expected the instruction as token ids [*B, L] of type int64, got {ids.dtype}"
        )
    if ids.ndim != len(batch) + 1 or ids.shape[:-1] != batch:
        raise ShapeError(f"expected token ids of shape {(*batch, 'L')}, got {tuple(ids.shape)}")
    return ids.long()


def _tokenize(tokenizer: Tokenizer, texts: list[str], padding: int | None) -> Tensor:
    """Tokenize different texts, ``[N, L]``, whatever form the tokenizer returns."""
    bos = getattr(tokenizer, "bos_token", None)
    if bos is None:
        result = tokenizer(texts)
    else:
        prompts = [f"{bos}{text}\n" for text in texts]
        result = tokenizer(prompts, add_special_tokens=False)
    if isinstance(result, Mapping):
        result = result["input_ids"]
    ids = result if isinstance(result, Tensor) else _stack(result, padding)
    if ids.ndim != 2 or len(ids) != len(texts) or ids.is_floating_point():
        raise ConfigurationError(
            f"expected a tokenizer that makes ids [{len(texts)}, L] of {len(texts)} texts, got "
            f"{ids.dtype} of shape {tuple(ids.shape)}"
        )
    return ids.long()


def _stack(rows: Sequence[Sequence[int]], padding: int | None) -> Tensor:
    length = max(len(row) for row in rows)
    if padding is None and any(len(row) != length for row in rows):
        raise ConfigurationError(
            "expected instructions of one length, since the model has no padding token; give "
            "text_config.pad_token_id"
        )
    filled = [[*row, *[padding] * (length - len(row))] for row in rows]
    return torch.tensor(filled, dtype=torch.int64)


def join_tokens(
    tokens: Tensor, *, image_token: int, images: int, padding: int | None
) -> tuple[Tensor, Tensor]:
    """Put the places of the images before the tokens of an instruction.

    Args:
        tokens: ``[*B, L]`` int64.
        image_token: id that stands for a place of an image.
        images: number of such places.
        padding: id that fills up instructions; None where there is none.

    Returns:
        The ids and the attention mask (1 where a token counts), ``[N, images + L]`` int64 each.

    Raises:
        ConfigurationError: if the tokens have places of images.
    """
    flat = tokens.reshape(tokens.shape[:-1].numel(), tokens.shape[-1])
    if bool((flat == image_token).any()):
        raise ConfigurationError(
            f"expected an instruction without images, got ids with {image_token}, the place of an "
            "image; leave these out, they are put before the instruction here"
        )
    ids = functional.pad(flat, (images, 0), value=image_token)
    mask = torch.ones_like(ids)
    if padding is not None:
        mask[:, images:] = flat != padding
    return ids, mask
