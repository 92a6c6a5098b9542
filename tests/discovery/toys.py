"""What the tests of guided discovery share: a world of one decision, whose outcomes are known.

The first component of the noise decides between the codes 0 and 1, the rest does nothing, and in a
share of the episodes chance makes the outcome none of them.
"""

from __future__ import annotations

import torch
from tensordict import TensorDict
from torch import Tensor

from modereg.discovery.outcome import OutcomeData, OutcomeModel
from modereg.layout import Layout
from modereg.policies import GenerativePolicy, as_generative_policy

OBS, SHAPE = 2, (4, 2)
LAYOUT = Layout(8, horizon=4, execute=3, offset=1)
LUCK = 0.8
"""Share of the episodes that chance leaves alone."""


def policy() -> GenerativePolicy:
    """Return a policy whose played actions are smooth functions of noise and observation."""
    return as_generative_policy(
        lambda noise, observation: (noise + 0.3 * observation[..., None, :]).tanh(),
        in_keys=["observation"], noise_shape=SHAPE, chunk_shape=SHAPE,
    )  # fmt: skip


def chance(chunks: Tensor) -> Tensor:
    """Return the true probabilities of the outcomes of played chunks, ``[n, 3]``."""
    first = LUCK * torch.sigmoid(4 * chunks[:, 0, 0])
    return torch.stack([LUCK - first, first, torch.full_like(first, 1 - LUCK)], -1)


def episodes(num: int) -> tuple[TensorDict, Tensor, OutcomeData, OutcomeModel]:
    """Return observations, noises, what came of them, and an outcome model to fit."""
    rows = TensorDict({"observation": torch.randn(num, OBS)}, [num])
    noise = torch.randn(num, *SHAPE)
    chunks = policy().decode_from(rows, noise)[:, 1:4]
    model = OutcomeModel(2, ["observation"], rows["observation"], chunks, hidden=(32, 32))
    outcomes = torch.multinomial(chance(chunks), 1)[:, 0]
    observed = model.observe(rows)
    features = model.chunk_features(observed, chunks)
    data = OutcomeData(observed, features, torch.full((num,), 2), outcomes, torch.arange(num))
    return rows, noise, data, model
