"""Guided discovery: a steering policy pushed through the frozen decoder to where its codes lead."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from typing import Any, cast

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor
from torchrl.envs import TransformedEnv

from modereg import keys
from modereg.discovery.cluster import ClusterModeDiscoverer
from modereg.discovery.decoders import OBSERVED, DecoderStudent, ExactDecoder
from modereg.discovery.guidance import CodeStates, guide
from modereg.discovery.judge import CodeJudge
from modereg.discovery.outcome import OutcomeData, OutcomeModel, observe
from modereg.networks import MLP
from modereg.rollouts import Episodes
from modereg.steering import SteeringPolicy
from modereg.transforms import NoiseAction

__all__ = ["GuidedDiscovery"]

KEPT_ROUNDS = 3
"""Refinements whose episodes are fitted together with the base's."""

KL_COEF = 0.1, 0.02, 0.3
"""Weight of the KL to N(0, I): at first, at least and at most."""

FRESH_DECODES = 12_000
"""Noises at visited states that are decoded for the student, at no environment step."""

FEATURES, OUTCOME, PLAYER, EPISODE = "features", "outcome", "player", "episode"


class GuidedDiscovery(CodeJudge):
    def __init__(
        self,
        env: TransformedEnv,
        steering: SteeringPolicy,
        discoverer: ClusterModeDiscoverer,
        *,
        outcome_steps: int = 600,
        guide_steps: int = 600,
        student_steps: int = 1500,
        kl: float = KL_COEF[0],
        **options: Any,
    ) -> None:
        super().__init__(steering, discoverer, **options)
        self.noise_action = noise_action_of(env)
        self.policy, self.layout = self.noise_action.policy, env.layout
        self.outcome_steps, self.guide_steps = outcome_steps, guide_steps
        self.student_steps = student_steps
        num_codes = discoverer.num_codes
        self.kl_coef = torch.full((num_codes,), kl, device=self.device)
        self.players = torch.full((num_codes,), num_codes, device=self.device)
        self.rounds: list[TensorDict] = []
        self.episodes_seen = 0
        self.student: DecoderStudent | None = None

    @property
    def entries(self) -> list[NestedKey]:
        own = [*self.steering.observation_keys, self.steering.action_key]
        read = self.policy.observation_keys
        if self.policy.observation_steps > 1:
            read = [keys.stacked(key) for key in read]
        return list(dict.fromkeys([*own, *read, ("next", keys.CHUNK)]))

    @property
    def observed(self) -> list[NestedKey]:
        """What outcome model and student read."""
        return [
            k for k in self.entries if k not in (self.steering.action_key, ("next", keys.CHUNK))
        ]

    def observe_base(self, base: Episodes) -> None:
        base = base.to(self.device)
        self.compare_with(base)
        rows, chunks = self._rows(base, self._everyone(base, self.discoverer.num_codes))
        self.model = OutcomeModel(self.discoverer.num_codes, self.observed, rows[OBSERVED], chunks)
        rows.set(FEATURES, self.model.chunk_features(rows[OBSERVED], chunks))
        self.rounds = [rows]
        network = self.steering.head.network
        if isinstance(network, MLP):
            flat = [rows.get(key).flatten(1) for key in self.steering.observation_keys]
            network.features.fit(torch.cat(flat, -1))

    def _everyone(self, episodes: Episodes, code: int) -> Tensor:
        return torch.full((len(episodes),), code, device=self.device)

    def _rows(self, episodes: Episodes, players: Tensor) -> tuple[TensorDict, Tensor]:
        valid = episodes.valid
        predicted, solved = self._reached(episodes)
        outcomes = torch.where(solved, predicted, self.discoverer.num_codes)
        names = torch.arange(len(episodes), device=self.device) + self.episodes_seen
        self.episodes_seen += len(episodes)
        rows = cast(TensorDict, episodes.decisions.select(*self.entries)[valid])
        for key, value in ((OUTCOME, outcomes), (PLAYER, players), (EPISODE, names)):
            rows.set(key, value[:, None].expand(valid.shape)[valid])
        rows.set(OBSERVED, observe(rows, self.observed))
        start = self.layout.offset
        chunks = rows.get(("next", keys.CHUNK))[:, start : start + self.layout.played].float()
        return rows.exclude("next"), chunks

    def fit(self) -> dict[str, float]:
        later = len(self.rounds) > 1
        data = cast(TensorDict, torch.cat(self.rounds))
        share = 0.5 if later else 1.0
        clock = time.perf_counter()
        figures = self.model.fit(
            OutcomeData(*(data[k] for k in (OBSERVED, FEATURES, PLAYER, OUTCOME, EPISODE))),
            int(share * self.outcome_steps),
        )
        figures["outcome_seconds"] = time.perf_counter() - clock
        clock = time.perf_counter()
        decode = self._decoder(data, figures)
        figures["student_seconds"] = time.perf_counter() - clock
        clock = time.perf_counter()
        states = CodeStates(data[OUTCOME], data[PLAYER], self.discoverer.num_codes)
        figures |= guide(
            self.steering,
            self.model,
            decode,
            data,
            states,
            self.players,
            self.kl_coef,
            int(share * self.guide_steps),
        )
        figures["guide_seconds"] = time.perf_counter() - clock
        return figures

    def _decoder(self, data: TensorDict, figures: dict[str, float]) -> Callable[..., Tensor]:
        exact = ExactDecoder(
            self.policy, self.layout, self.model.chunk_features, self.noise_action.lift
        )
        if getattr(self, "force", None) == "exact":
            return exact
        if self.student is None:
            self.student = DecoderStudent(
                data[OBSERVED],
                self.steering.noise_shape.numel(),
                self.model.chunk_features.out_features,
            )
            self.fresh = self._decode_fresh(exact, data)
            steps = self.student_steps
        else:
            steps = self.student_steps // 2
        pairs = torch.cat([self.fresh, data.select(OBSERVED, FEATURES, self.steering.action_key)])
        figures["student_r2"] = self.student.fit(
            pairs[OBSERVED], pairs[self.steering.action_key], pairs[FEATURES], steps
        )
        return self.student

    @torch.no_grad()
    def _decode_fresh(self, exact: ExactDecoder, data: TensorDict) -> TensorDict:
        parts = []
        for _ in range(0, FRESH_DECODES, 1000):
            rows = data[torch.randint(len(data), (1000,), device=self.device)]
            noise = torch.randn_like(rows[self.steering.action_key])
            part = rows.select(OBSERVED).set(FEATURES, exact(rows, noise))
            parts.append(part.set(self.steering.action_key, noise))
        return cast(TensorDict, torch.cat(parts))

    def refine(self, env: TransformedEnv, episodes: int, *, std: float, next_std: float):
        self.steering.head.set_std(std)
        weights = copy.deepcopy(self.steering.state_dict())
        rolled = self.roll_out(env, episodes)
        before = self.code_hits.clone()
        figures = self.judge(rolled)
        if figures["accepted"]:
            self._accepted = weights
        self.adapt(before)
        rows, chunks = self._rows(rolled, self._codes(rolled))
        rows.set(FEATURES, self.model.chunk_features(rows[OBSERVED], chunks))
        self.rounds = [self.rounds[0], *[*self.rounds[1:], rows][-KEPT_ROUNDS:]]
        figures |= self.fit()
        self.steering.head.set_std(next_std)
        return figures, rolled

    def adapt(self, before: Tensor) -> None:
        first, least, most = KL_COEF
        better = self.code_hits > torch.maximum(before, self.chance)
        factor = torch.where(better, 0.6, 1.5)
        self.kl_coef = (self.kl_coef * factor).clamp(least, first)
        num = self.discoverer.num_codes
        own = torch.arange(num, device=self.device)
        self.players = torch.where(self.code_hits > self.chance, own, num)


def noise_action_of(env: TransformedEnv) -> NoiseAction:
    for transform in env.transform:
        if isinstance(transform, NoiseAction):
            return transform
    raise ValueError
