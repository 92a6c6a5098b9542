"""Guided discovery: a steering policy pushed through the frozen decoder to where its codes lead.

Imitating the noises of clusters fails where a policy has many noise dimensions: the posterior of a
noise, given where its episode ended, is hardly narrower than N(0, I), and where there is chance
what was hit was hit by luck. In *action space* the question is well posed: which outcome does a
played chunk lead to? :class:`~modereg.discovery.outcome.OutcomeModel` learns that from whole
episodes, and the steering policy is pushed uphill on it through the decoder. Rolling out and
fitting both again is policy iteration, with a Monte-Carlo critic of all outcomes at once.
"""

from __future__ import annotations

import copy
from typing import Any, cast

import torch
from tensordict import NestedKey, TensorDict
from torch import Tensor, nn
from torchrl.envs import EnvBase, TransformedEnv

from modereg import keys
from modereg.decoding import find_transform
from modereg.discovery.chance import chance_shares
from modereg.discovery.chunk_features import ChunkFeatures
from modereg.discovery.cluster import ClusterModeDiscoverer
from modereg.discovery.decoder_choice import FEATURES, MOVED, DecoderChoice
from modereg.discovery.decoders import OBSERVED, ExactDecoder
from modereg.discovery.guidance import CodeStates, guide
from modereg.discovery.judge import REACHED, CodeJudge, as_rows
from modereg.discovery.outcome import OutcomeData, OutcomeModel, observe
from modereg.residual import ChunkResidual
from modereg.rollouts import Episodes
from modereg.steering import SteeringPolicy
from modereg.transforms import NoiseAction

__all__ = ["GuidedDiscovery", "decision_entries"]

KEPT_ROUNDS = 3
"""Refinements whose episodes are fitted together with the base's."""

FIRST_KL, LEAST_KL = 0.1, 0.02
"""Weight of the KL to N(0, I): of every code at first and at most, and of any at least."""

KL_FALLS, KL_RISES = 0.6, 1.5
"""Its factors after a round in which the code was hit more often than before, and any other."""

JUDGED = 4096
"""Decisions of the base by which it is told what chance decides."""

OFTEN = 4.0
"""How many times as often codes are drawn that are moved by a residual, while it is fitted."""

CHUNKS, OUTCOME, PLAYER, EPISODE = "chunks", "outcome", "player", "episode"
KEPT = (OBSERVED, CHUNKS, MOVED, OUTCOME, PLAYER, EPISODE)


def decision_entries(env: TransformedEnv) -> list[NestedKey]:
    """Return the entries of decisions that guided discovery reads of a steered environment's."""
    read = find_transform(env, NoiseAction).policy.steered_entries
    return list(dict.fromkeys([*env.layout.steered_by, keys.ACTION, *read, ("next", keys.CHUNK)]))


class GuidedDiscovery(CodeJudge):
    """Makes a steering policy command what a fitted discoverer tells apart.

    :meth:`begin` learns the outcome model from the base's episodes and pushes the steering policy
    uphill on it, and each :meth:`refine` rolls out and does both again on all
    that was seen. :meth:`settle` keeps the best round, and gives those codes back to the base whose
    steering did not pay.

    The gradient goes through the decoder itself, or through a student of it where that costs less
    by measured time; a decoder without gradients always has one.

    Args:
        env: steered environment.
        steering: the policy to fit.
        discoverer: tells which code an episode belongs to; fitted.
        outcome_steps: gradient steps of the outcome model; later rounds take half.
        guide_steps: gradient steps of the steering policy; later rounds take half.
        student_steps: gradient steps of the student; later rounds take a quarter.
        options: of :class:`CodeJudge`.

    Raises:
        ConfigurationError: if the environment has no :class:`~modereg.transforms.NoiseAction`.
    """

    model: OutcomeModel

    def __init__(
        self,
        env: TransformedEnv,
        steering: SteeringPolicy,
        discoverer: ClusterModeDiscoverer,
        *,
        outcome_steps: int = 600,
        guide_steps: int = 600,
        student_steps: int = 1500,
        **options: Any,
    ) -> None:
        super().__init__(steering, discoverer, **options)
        self.noise_action, self.layout = find_transform(env, NoiseAction), env.layout
        self.read = decision_entries(env)
        self.outcome_steps, self.guide_steps = outcome_steps, guide_steps
        self.decoder = DecoderChoice(self._exact, student_steps, 2 * guide_steps)
        num_codes = discoverer.num_codes
        self.kl_coef = torch.full((num_codes,), FIRST_KL, device=self.device)
        self.players = torch.full((num_codes,), num_codes, device=self.device)
        self.rounds: list[TensorDict] = []
        self.seen = 0

    @property
    def trained(self) -> dict[str, nn.Module]:
        """What is learned and kept of the best round."""
        residual = {} if self.residual is None else {"residual": self.residual}
        return super().trained | residual

    @property
    def entries(self) -> list[NestedKey]:
        """Entries of each decision that episodes must have."""
        return self.read

    @property
    def _observation_keys(self) -> list[NestedKey]:
        """What outcome model and student read."""
        return [key for key in self.read if key not in (keys.ACTION, ("next", keys.CHUNK))]

    def observe_base(self, base: Episodes) -> None:
        """Take in episodes of the base: what is learned from first, and compared with for good."""
        base = base.to(self.device)
        self.compare_with(base)
        self.rounds = [self._rows(base, torch.full_like(base.env_steps, self._num_codes))]
        self._make_model()

    @property
    def _num_codes(self) -> int:
        return self.discoverer.num_codes

    def begin(self, base: Episodes) -> dict[str, float]:
        """Observe the base's episodes and fit to them."""
        self.observe_base(base)
        return self.fit()

    def _make_model(self) -> None:
        """Make the outcome model for the base's decisions, and standardise psi by them."""
        rows = self.rounds[0]
        self.model = OutcomeModel(
            self._num_codes, self._observation_keys, rows[OBSERVED], rows[CHUNKS]
        ).to(self.device)
        self.steering.fit_inputs(rows)

    def _rows(self, episodes: Episodes, players: Tensor) -> TensorDict:
        """Return the decisions of episodes, ``[n]``, with what was played and what came of it."""
        valid, outcomes = episodes.valid, self._outcomes(episodes)
        names = torch.arange(len(episodes), device=self.device) + self.seen
        self.seen += len(episodes)
        rows = cast(TensorDict, episodes.decisions.select(*self.read)[valid])
        for key, value in ((OUTCOME, outcomes), (PLAYER, players), (EPISODE, names)):
            rows.set(key, value[:, None].expand(valid.shape)[valid])
        first = self.layout.offset
        chunks = rows.get(("next", keys.CHUNK))[:, first : first + self.layout.played].float()
        rows.set(OBSERVED, observe(rows, self._observation_keys)).set(CHUNKS, chunks)
        if self.residual is not None:
            one_hot = nn.functional.one_hot(rows[PLAYER], self._num_codes).float()
            with torch.no_grad():
                rows.set(
                    MOVED, self.residual.shift(rows.copy().set(self.steering.latent_key, one_hot))
                )
        return cast(TensorDict, rows.exclude("next"))

    # --- fitting

    def fit_outcomes(self) -> tuple[TensorDict, dict[str, float]]:
        """Fit the outcome model alone, and return the decisions ``[n]`` and its figures."""
        data = cast(TensorDict, torch.cat(self.rounds))
        with torch.no_grad():
            data.set(FEATURES, self.model.chunk_features(data[OBSERVED], data[CHUNKS]))
        entries = (OBSERVED, FEATURES, PLAYER, OUTCOME, EPISODE)
        outcomes = OutcomeData(*(data[key] for key in entries))
        return data, self.model.fit(outcomes, int(self._share * self.outcome_steps))

    @property
    def _share(self) -> float:
        """Share of the gradient steps that a fit takes: later ones begin where others ended."""
        return 0.5 if len(self.rounds) > 1 else 1.0

    def fit(self) -> dict[str, float]:
        """Fit the outcome model, the student if there is one, and the steering policy, in turn.

        Returns:
            Figures of :meth:`OutcomeModel.fit` and :func:`guide`, and ``student_r2``.
        """
        data, figures = self.fit_outcomes()
        decode, learned = self.decoder.fit(data, self.model.chunk_features)
        states = CodeStates(data[OUTCOME], data[PLAYER], self._num_codes)
        guided = guide(
            self.steering,
            self.model,
            decode,
            data,
            states,
            self.players,
            self.kl_coef,
            int(self._share * self.guide_steps),
            residual=self.residual,
        )
        # What the decoder alone reads, such as images, a student does not need again.
        if not self.decoder.exact:
            needed = {*self.steering.observation_keys, keys.ACTION, *KEPT}
            self.rounds = [part.select(*needed, strict=False) for part in self.rounds]
        return figures | learned | guided

    def _exact(self, features: ChunkFeatures) -> ExactDecoder:
        return ExactDecoder(self.noise_action.policy, self.layout, features, self.noise_action.lift)

    # --- the residual

    def add_residual(self, bound: float = 0.5) -> dict[str, float]:
        """Move the chunks of the codes that do not command from now on, and fit.

        It reaches beyond what noise does: u is pushed uphill on the same outcome model, for which
        no gradient of the decoder is needed. Codes that command play what is decoded, and are drawn
        a quarter as often until :meth:`settle`.

        Args:
            bound: of :class:`~modereg.residual.ChunkResidual`. A long way moves chunks to where the
                outcome model has seen nothing.

        Returns:
            As :meth:`fit`.
        """
        residual = self._make_residual(bound)
        residual.network.head.steer_only(self.code_hits < REACHED, 1.0)
        self._draw_moved(residual)
        return self.fit()

    def _draw_moved(self, residual: ChunkResidual) -> None:
        weights = 1.0 + (OFTEN - 1.0) * residual.network.head.steered
        self.discoverer.estimator.prior.weigh(weights / weights.sum())

    def _make_residual(self, bound: float) -> ChunkResidual:
        """Make a residual that changes nothing, and let the environment play it."""
        rows, read = self.rounds[0], self.steering.observation_keys
        residual = ChunkResidual.at_zero(
            read,
            sum(rows[key][0].numel() for key in read),
            self._num_codes,
            self.model.chunk_features.directions.clone(),
            bound=bound,
            offset=self.layout.offset,
            latent_key=self.steering.latent_key,
        ).to(self.device)
        residual.network.fit_inputs(rows)
        size = self.model.chunk_features.out_features
        for part in self.rounds:
            if part.get(MOVED, None) is None:
                part.set(MOVED, part[OBSERVED].new_zeros(len(part), size))
        if self.best:
            weights = copy.deepcopy(dict(residual.state_dict()))
            self.best["weights"].setdefault("residual", weights)
        self.residual = residual
        self.noise_action.set_residual(residual)
        return residual

    def settle(self, std: float = 0.3, chosen: tuple[Tensor, Tensor] | None = None) -> None:
        """Steer and move the codes that are worth it; see :meth:`CodeJudge.settle`."""
        super().settle(std, chosen)
        if self.residual is not None:
            head = self.residual.network.head
            head.steer_only((head.steered > 0) & self.learned, 1.0)

    # --- rounds

    def refine(
        self, env: EnvBase, episodes: int, *, std: float, next_std: float
    ) -> tuple[dict[str, float], Episodes]:
        """Roll out, learn from it which codes are hit, and fit all three again."""
        self.steering.head.set_std(std)
        rolled = self.roll_out(env, episodes)
        before = self.code_hits
        figures = self.judge(rolled)
        self.remember(figures)
        self._adapt(before)
        rows = self._rows(rolled, self._codes(rolled))
        self.rounds.append(rows.select(*self.rounds[0].keys(True, True)))
        del self.rounds[1:-KEPT_ROUNDS]
        figures |= self.fit()
        self.steering.head.set_std(next_std)
        return figures, rolled

    def _adapt(self, before: Tensor) -> None:
        """Loosen codes that are hit more often than before; those that learned play on themselves.

        A code that is not hit is tied to the base again and guided as if the base played on, so
        that it goes on exploring.
        """
        chance = torch.zeros_like(before) if self.chance is None else self.chance
        better = self.code_hits > torch.maximum(before, chance)
        factor = torch.where(better, KL_FALLS, KL_RISES)
        self.kl_coef = (self.kl_coef * factor).clamp(LEAST_KL, FIRST_KL)
        own = torch.arange(self._num_codes, device=self.device)
        self.players = torch.where(self.code_hits > chance, own, self._num_codes)

    def chance_shares(self) -> Tensor:
        """Return the share of each code's outcome that chance decides, of the base's episodes."""
        rows = self.rounds[0][:JUDGED]
        decode = self.decoder.without_gradient(self.model.chunk_features)
        features = self.model.chunk_features(rows[OBSERVED], rows[CHUNKS])
        return chance_shares(
            self.model,
            rows[OBSERVED],
            features,
            lambda: decode(rows, torch.randn_like(rows[keys.ACTION])),
            rows[OUTCOME],
            rows[EPISODE],
        )

    # --- state

    def state_dict(self) -> dict[str, Any]:
        """Return what later refinements read, as plain dictionaries of tensors and numbers."""
        own = super().state_dict() | self.decoder.state_dict()
        return own | {
            "rounds": [part.to_dict() for part in self.rounds],
            "model": dict(self.model.state_dict()),
            "kl_coef": self.kl_coef,
            "players": self.players,
            "seen": self.seen,
            "residual": None if self.residual is None else dict(self.residual.state_dict()),
            "bound": None if self.residual is None else self.residual.bound,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up a state of :meth:`state_dict`."""
        super().load_state_dict(state)
        self.rounds = [as_rows(part).to(self.device) for part in state["rounds"]]
        self._make_model()
        self.model.load_state_dict(state["model"])
        for name in ("kl_coef", "players"):
            setattr(self, name, state[name].to(self.device))
        self.seen = state["seen"]
        self.decoder.load_state_dict(state, self.rounds[0], self.model.chunk_features)
        if state["residual"] is not None:
            residual = self._make_residual(state["bound"])
            residual.load_state_dict(state["residual"])
            self._draw_moved(residual)
