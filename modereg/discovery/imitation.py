"""Noise imitation: from a partition of episodes to a policy that commands it, without RL.

A frozen generative policy turns noise into behaviour, so the noises of the episodes in a cluster
are what brings that cluster about. The steering policy is fitted to them by maximum likelihood,
then rolls out itself, keeps what reached its code, and is fitted again (filtered self-imitation,
or the cross-entropy method over noises). Nothing is asked of the base but samples.
"""

from __future__ import annotations

import copy

import torch
from tensordict import NestedKey, TensorDict, TensorDictBase
from torch import Tensor

from modereg import keys
from modereg.errors import ConfigurationError, KeyMismatchError
from modereg.estimators import check_support
from modereg.priors import CategoricalPrior
from modereg.reading import require_finite
from modereg.steering import SteeringPolicy
from modereg.suggestions import with_suggestion

__all__ = ["NoiseImitation"]


class NoiseImitation:
    r"""Fits a steering policy to (observation, noise, code) triples by maximum likelihood.

    Maximises the mean over codes of :math:`E[\log \psi(w \mid s, z)]`: rare codes weigh as much as
    frequent ones.

    Args:
        steering: the policy to fit; only its own parameters change.
        learning_rate: of Adam, which starts afresh with every :meth:`fit`.
        batch_size: triples in a step.
        validation: share of the triples that is held out of every :meth:`fit`; the policy is left
            as it was when these were most likely (early stopping). With few episodes, or with
            observations that tell one episode from another, noises are soon learned by heart.
        latent_key: entry of the code.

    Raises:
        ConfigurationError: if an option is not positive, or ``validation`` not in [0, 1).
    """

    def __init__(
        self,
        steering: SteeringPolicy,
        *,
        learning_rate: float = 2e-3,
        batch_size: int = 2048,
        validation: float = 0.0,
        latent_key: NestedKey = keys.LATENT,
    ) -> None:
        if not 0.0 <= validation < 1.0:
            raise ConfigurationError(
                f"expected a validation share of at least 0 and below 1, got {validation}"
            )
        if not 0 < learning_rate < float("inf") or batch_size < 1:
            raise ConfigurationError(
                f"expected a positive learning_rate and batch_size, got {learning_rate}, "
                f"{batch_size}"
            )
        self.steering, self.latent_key = steering, latent_key
        self.learning_rate, self.batch_size = learning_rate, batch_size
        self.validation = validation

    @property
    def entries(self) -> list[NestedKey]:
        """Entries that the data must have: what the steering policy reads, the code, the noise."""
        return [*self.steering.observation_keys, self.latent_key, self.steering.action_key]

    def fit(self, data: TensorDictBase, num_codes: int, steps: int) -> float:
        """Fit for a number of steps, drawing every code equally often.

        Args:
            data: triples ``[N]`` with the entries of :attr:`entries`.
            num_codes: K; a code without data is left out.
            steps: Adam steps; the learning rate falls to a tenth along a cosine.

        Returns:
            The mean negative log-likelihood, nats per noise: of the last tenth of the steps, or of
            what was held out.

        Raises:
            KeyMismatchError: if an entry is missing.
            NonFiniteError: if an observation or a noise is not finite.
            ConfigurationError: if there is no triple at all, or a code is outside of [0, K).
        """
        data = self._select(data, num_codes)
        if not len(data):
            raise ConfigurationError(
                "expected triples of observation, noise and code to imitate, got none; no episode "
                "reached its code, so collect more episodes or fit the base's first"
            )
        data, judge = self._hold_out(data, num_codes)
        draw = BalancedSampler(data.get(self.latent_key), num_codes)
        optimizer = torch.optim.Adam(self.steering.parameters(), self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(
            optimizer, max(steps, 1), self.learning_rate / 10
        )
        tail: list[float] = []
        for step in range(steps):
            batch = data[draw(self.batch_size)]
            loss = self._negative_log_likelihood(batch, num_codes)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            if step >= 0.9 * steps - 1:
                tail.append(float(loss.detach()))
            if judge is not None and ((step + 1) % _every(steps) == 0 or step + 1 == steps):
                judge.look()
        if judge is not None:
            return judge.take_best()
        return sum(tail) / max(len(tail), 1)

    def _hold_out(self, data: TensorDict, num_codes: int) -> tuple[TensorDict, _Judge | None]:
        """Return what is fitted, and what judges it: nobody, if too few could be held out."""
        held = int(self.validation * len(data))
        if not held:
            return data, None
        order = torch.randperm(len(data), device=data.get(self.latent_key).device)
        fitted, apart = data[order[held:]], data[order[:held]]
        draw = BalancedSampler(apart.get(self.latent_key), num_codes)
        rows = apart[draw(min(4 * held, self.batch_size))]
        return fitted, _Judge(self, rows, num_codes)

    def _negative_log_likelihood(self, batch: TensorDictBase, num_codes: int) -> Tensor:
        features = torch.nn.functional.one_hot(batch.get(self.latent_key), num_codes)
        batch.set(self.steering.latent_key, features.float())
        distribution = self.steering.distribution(batch)
        return -distribution.log_prob(batch.get(self.steering.action_key)).mean()

    def _select(self, data: TensorDictBase, num_codes: int) -> TensorDict:
        present = set(data.keys(True, True))
        missing = [key for key in self.entries if key not in present]
        if missing:
            sentence = (
                f"noise imitation needs the entries {self.entries}, the data lacks {missing}; keep "
                "them when collecting the episodes"
            )
            raise KeyMismatchError(with_suggestion(sentence, missing, present))
        data = data.select(*self.entries).to(self.steering.head.log_std.weight.device)
        require_finite(data, self.entries, "the noises to imitate")
        check_support(CategoricalPrior(num_codes), data.get(self.latent_key), self.latent_key)
        return data


class _Judge:
    """Keeps the weights under which held-out triples were most likely.

    Args:
        imitation: whose policy is judged.
        rows: held-out triples, every code equally often.
        num_codes: K.
    """

    def __init__(self, imitation: NoiseImitation, rows: TensorDictBase, num_codes: int) -> None:
        self.imitation, self.rows, self.num_codes = imitation, rows, num_codes
        self.loss = float("inf")
        self.look()

    @torch.no_grad()
    def look(self) -> None:
        """Judge the weights as they are."""
        rows = self.rows.copy()
        loss = float(self.imitation._negative_log_likelihood(rows, self.num_codes))
        if loss < self.loss:
            self.loss = loss
            self.best = copy.deepcopy(self.imitation.steering.state_dict())

    def take_best(self) -> float:
        """Return to the best weights, and return their loss."""
        self.imitation.steering.load_state_dict(self.best)
        return self.loss


def _every(steps: int) -> int:
    """Return after how many steps the held-out triples are looked at."""
    return max(steps // 25, 1)


class BalancedSampler:
    """Draws indices such that every code that occurs comes equally often.

    Args:
        codes: ``[N]`` int64.
        num_codes: K.
    """

    def __init__(self, codes: Tensor, num_codes: int) -> None:
        self.order = torch.argsort(codes, stable=True)
        counts = torch.bincount(codes, minlength=num_codes)
        starts = counts.cumsum(0) - counts
        present = counts > 0
        self.counts, self.starts = counts[present], starts[present]

    def __call__(self, size: int) -> Tensor:
        """Return ``[size]`` indices into the data."""
        device = self.counts.device
        code = torch.randint(len(self.counts), (size,), device=device)
        place = (torch.rand(size, device=device) * self.counts[code]).long()
        return self.order[self.starts[code] + place]
