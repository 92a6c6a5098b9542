"""Which of two ways to a decoder's gradient costs less: through the decoder, or a student of it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, cast

import torch
from tensordict import TensorDict
from torch import Tensor

from modereg import keys
from modereg.discovery.chunk_features import ChunkFeatures
from modereg.discovery.decoders import OBSERVED, DecoderStudent, ExactDecoder
from modereg.discovery.guidance import BATCH
from modereg.discovery.judge import as_rows
from modereg.seeding import isolated_generators

__all__ = ["FEATURES", "MOVED", "DecoderChoice"]

FRESH, FRESH_PART = 12_000, 1000
"""Noises at visited states that are decoded for the student, at no environment step."""

TIMED = 64
"""Rows on which the cost of a gradient is measured."""

FEATURES, MOVED = "features", "moved"
"""Entries of the features of what was played, and of what a residual added to them."""


class DecoderChoice:
    """Gives the features of a noise's played chunk with a gradient, at the least cost.

    Args:
        make: makes the exact decoder for features.
        student_steps: gradient steps of a student; later fits take a quarter.
        gradients: how many of the decoder's are asked for in all, of a batch each, about.

    Attributes:
        exact: whether the decoder itself is taken; None before it was measured.
        student: the network that is taken in its place, if it is.
    """

    def __init__(
        self, make: Callable[[ChunkFeatures], ExactDecoder], student_steps: int, gradients: int
    ) -> None:
        self.make, self.student_steps, self.gradients = make, student_steps, gradients
        self.exact: bool | None = None
        self.student: DecoderStudent | None = None
        self._fresh: TensorDict | None = None

    def fit(
        self, data: TensorDict, features: ChunkFeatures
    ) -> tuple[Callable[..., Tensor], dict[str, float]]:
        """Return ``decode(rows, noise) -> [n, k]``, and the student's figures if there is one.

        Args:
            data: decisions ``[n]`` with what the policy reads, the flat observation, the noise, and
                the features of what was played.
            features: of played chunks.
        """
        exact, first = self.make(features), self.exact is None
        if self.exact is None:
            self.exact = self._exact_is_cheap(exact, data)
        if self.exact:
            return exact, {}
        if self.student is None or self._fresh is None:
            self.student = _new_student(data, features)
            self._fresh = _decode_fresh(exact, data)
        decoded = data.select(*self._fresh.keys())
        if data.get(MOVED, None) is not None:
            decoded.set(FEATURES, data[FEATURES] - data[MOVED])
        pairs = cast(TensorDict, torch.cat([self._fresh, decoded]))
        steps = self.student_steps if first else self.student_steps // 4
        noise = pairs[keys.ACTION].float()
        r2 = self.student.fit(pairs[OBSERVED], noise, pairs[FEATURES], steps)
        return self.student, {"student_r2": r2}

    def without_gradient(self, features: ChunkFeatures) -> Callable[..., Tensor]:
        """Return ``decode(rows, noise) -> [n, k]`` as it is, for whom no gradient is needed."""
        return self.make(features) if self.student is None else self.student

    def _exact_is_cheap(self, exact: ExactDecoder, data: TensorDict) -> bool:
        """Whether gradients of the decoder cost less than those of a student and its training."""
        rows = data[:TIMED]
        noise = rows[keys.ACTION]
        if not exact.differentiable(rows, noise):
            return False
        decode = min(exact.seconds(rows, noise) for _ in range(2)) / len(rows)
        gradient = min(exact.gradient_seconds(rows, noise) for _ in range(2)) / len(rows)
        with isolated_generators():
            student = _new_student(data, exact.features)
            start = time.perf_counter()
            student.fit(rows[OBSERVED], noise.float(), rows[FEATURES], 4)
        step = (time.perf_counter() - start) / 4
        with_student = FRESH * decode + (2 * self.student_steps + self.gradients / 2) * step
        return self.gradients * BATCH * gradient < with_student

    def state_dict(self) -> dict[str, Any]:
        """Return what later fits read, as plain dictionaries of tensors."""
        return {
            "exact": self.exact,
            "fresh": None if self._fresh is None else self._fresh.to_dict(),
            "student": {} if self.student is None else dict(self.student.state_dict()),
        }

    def load_state_dict(
        self, state: dict[str, Any], data: TensorDict, features: ChunkFeatures
    ) -> None:
        """Take up a state of :meth:`state_dict`, made with the same decisions and features."""
        self.exact = state["exact"]
        if state["fresh"] is None:
            return
        self._fresh = as_rows(state["fresh"]).to(data[OBSERVED].device)
        self.student = _new_student(data, features)
        self.student.load_state_dict(state["student"])
        self.student.requires_grad_(False)


def _new_student(data: TensorDict, features: ChunkFeatures) -> DecoderStudent:
    observed, size = data[OBSERVED], data[keys.ACTION][0].numel()
    return DecoderStudent(observed, size, features.out_features).to(observed.device)


@torch.no_grad()
def _decode_fresh(exact: ExactDecoder, data: TensorDict) -> TensorDict:
    """Decode noises of N(0, I) at states that were visited."""
    parts = []
    for _ in range(0, FRESH, FRESH_PART):
        rows = data[torch.randint(len(data), (FRESH_PART,), device=data[OBSERVED].device)]
        noise = torch.randn_like(rows[keys.ACTION])
        part = rows.select(OBSERVED).set(FEATURES, exact(rows, noise))
        parts.append(part.set(keys.ACTION, noise))
    return cast(TensorDict, torch.cat(parts))
