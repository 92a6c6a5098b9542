"""Stage 1 in one call, on what ``wrap`` returned."""

from __future__ import annotations

import warnings
from typing import Any, Literal, cast

import torch
from tensordict import NestedKey
from torchrl.envs import TransformedEnv

from modereg import keys
from modereg.discovery.cluster import ClusterModeDiscoverer
from modereg.discovery.guided import GuidedDiscovery, decision_entries
from modereg.discovery.judge import CodeJudge
from modereg.discovery.relevance import left_out, undecided_dims
from modereg.discovery.self_imitation import SelfImitation
from modereg.errors import ConfigurationError
from modereg.rollouts import Episodes, collect_episodes
from modereg.steering import SteeringPolicy
from modereg.transforms import LatentConditioner

__all__ = [
    "AGAIN",
    "Progress",
    "Rounds",
    "annealed",
    "choose_again",
    "choose_codes",
    "discover_modes",
    "episodes_of_a_round",
    "find_modes",
    "shows_too_few",
]

A_BEHAVIOUR, RARE, MOST_TIMES = 80, 20, 4
"""Episodes that a behaviour should have on average, and the rarest of them, for which more are
collected; and how many times as many as asked for."""

EPISODES_A_CODE, A_ROUND, A_CHOICE = 40, 256, 512
"""Episodes of each code, of a round and of the choice of codes, at least, where nobody asked."""

NAME_THEM = "leave them out (feature_keys and feature_dims of the layout), or codes tell them apart"

AGAIN = 2
"""How often codes are chosen again at most, where what is kept is worse than the base."""


def annealed(std: tuple[float, float], number: int, total: int) -> float:
    """Return the standard deviation of a refinement, geometric between the first and the last."""
    first, last = std
    return first * (last / first) ** min(number / max(total - 1, 1), 1.0)


def episodes_of_a_round(
    num_codes: int, num_envs: int, asked: int | None = None, least: int = A_ROUND
) -> int:
    """Return the episodes of a round: as many as were asked for, or enough of each code.

    Environments side by side play as many each: those without an episode to play would step all the
    same.
    """
    if asked is not None:
        return asked
    wanted = max(least, EPISODES_A_CODE * num_codes)
    return -(-wanted // num_envs) * num_envs


def shows_too_few(figures: dict[str, float], episodes: int, asked: int) -> bool:
    """Whether more episodes of the base are due.

    Rare behaviours may hide in those that were found; or failures were clustered too, which look
    alike whatever was meant, since there were too few successes, and further episodes would bring
    enough.

    Args:
        figures: of the clustering.
        episodes: how many were clustered.
        asked: how many were asked for.
    """
    found = figures.get("suggested_modes", 0)
    few = figures["clustered_episodes"] < A_BEHAVIOUR * found
    few |= found > 1 and figures["rarest"] < RARE
    left = MOST_TIMES * asked / episodes
    few |= 0.0 < figures.get("successes_short", 0.0) <= 1.0 - 1.0 / left
    return few and episodes < MOST_TIMES * asked


def find_modes(env: TransformedEnv, episodes: int = 2048, **options: Any) -> ClusterModeDiscoverer:
    """Roll the base out, and return a discoverer of the behaviours that it shows.

    It is fitted, and keeps the episodes as ``base`` for :func:`discover_modes`.

    Args:
        env: steered environment, with codes of any number, which the base does not see.
        episodes: how many; twice or four times as many where they show so many behaviours that
            each would have fewer than 80, or the rarest fewer than 20, or where there are too few
            successes to cluster these alone and that would be enough.
        options: of :meth:`~modereg.discovery.ClusterModeDiscoverer.from_episodes`.

    Raises:
        ConfigurationError: if the environment lacks the feature.

    Warns:
        UserWarning: where there is one behaviour alone, or the feature has dimensions that do not
            depend on what is played.
    """
    there = env.observation_spec.keys(True, True)
    feature_key = options.get("feature_key", keys.HISTORY)
    success_key = options.get("success_key", keys.SUCCESS)
    if feature_key not in there:
        raise ConfigurationError(
            f"expected the feature {feature_key!r} in the steered environment, got one with "
            f"{sorted(map(str, there))}"
        )
    final = [feature_key, options.get("latent_key", keys.LATENT)]
    final += [success_key] if success_key is not None and success_key in there else []

    def more(number: int) -> Episodes:
        return collect_episodes(env, number, keep=decision_entries(env), final=final)

    base = more(episodes)
    if feature_key == keys.HISTORY and (others := undecided_dims(base, env.layout)):
        warnings.warn(f"{left_out(others, env.layout)}; {NAME_THEM}", stacklevel=2)
    while True:
        solved = base.final.get(success_key).squeeze(-1) if len(final) > 2 else None
        features = base.final.get(feature_key)
        found, figures = ClusterModeDiscoverer.from_episodes(features, solved, **options)
        if not shows_too_few(figures, len(base), episodes):
            break
        base = Episodes.cat([base, more(len(base))])
    found.base = base, figures
    return found


def _has(episodes: Episodes, entries: list[NestedKey], final: list[NestedKey]) -> bool:
    """Whether episodes have these entries of their decisions and of their ends."""
    kept = set(episodes.decisions.keys(True, True))
    return set(entries) <= kept and set(final) <= set(episodes.final.keys(True, True))


def choose_codes(
    stage: CodeJudge, env: TransformedEnv, std: float, asked: int | None = None
) -> int:
    """Keep the best round, and choose which codes are steered and how often each is drawn.

    Args:
        stage: a method after its refinements, changed in place, with the prior of its discoverer.
        env: steered environment, whose codes are drawn from that prior afterwards.
        std: standard deviation of the steered codes.
        asked: number of episodes to judge by; None is 512, and 40 of each code at least. Twice as
            many where an earlier round is best.

    Returns:
        The environment steps that it took.
    """
    codes = torch.ones_like(stage.code_hits)
    episodes = episodes_of_a_round(len(codes), env.batch_size.numel(), asked, A_CHOICE)
    stage.discoverer.estimator.prior.weigh(codes / len(codes))
    share_prior(env, stage)
    stage.steering.set_std(std)
    rolled = stage.roll_out(env, episodes)
    spent = rolled.spent
    if not stage.choose(stage.judge(rolled)):
        stage.steering.set_std(std)
        rolled = stage.roll_out(env, episodes)
        spent += rolled.spent
        stage.judge(rolled)
    stage.settle(std)
    return spent


def choose_again(stage: CodeJudge, std: float) -> bool:
    """Choose codes again where what was judged last is worse than the base, by all that is known.

    The few episodes of :func:`choose_codes` do not show every loss; more of them are seen when the
    result is judged. A code that was given up stays so, and not all are given up for a loss.

    Args:
        stage: a method after :func:`choose_codes`, changed in place.
        std: standard deviation of the steered codes.

    Returns:
        Whether anything changed, so that it must be judged again.
    """
    if not stage.losses():
        return False
    steered, shares = stage.weigh_up()
    probs = stage.discoverer.estimator.prior.probs
    same = torch.equal(steered, stage.steering.head.steered > 0)
    same = same and torch.allclose(shares.to(probs), probs, atol=1e-6)
    if same or not bool(steered.any()):
        return False
    stage.settle(std, (steered, shares))
    return True


def share_prior(env: TransformedEnv, stage: CodeJudge) -> None:
    """Let an environment draw its codes as often as a stage says, from the next reset on."""
    for transform in env.transform:
        if isinstance(transform, LatentConditioner):
            transform.share(stage.discoverer.prior)


NOTHING_COMMANDS = (
    "stage 1: no code commands, and a fine-tuning that starts here keeps little; look at the reach "
    "that modereg inspect predicts, collect more episodes, or name features that tell behaviours "
    "apart"
)


class Progress:
    """Whether another round is worth it: hits still rise, and not every code commands.

    Args:
        target: share of the codes that is enough.
        patience: rounds without a rise of the hits that end it. One of a standard error counts, be
            it of a single round or of several together.
    """

    def __init__(self, target: float = 0.95, patience: int = 3) -> None:
        self.target, self.patience = target, patience
        self.hits, self.stalled, self.commanded = 0.0, 0, 0.0

    def see(self, figures: dict[str, float], episodes: int) -> None:
        """Take in the figures of a round, and how many episodes they are of."""
        error = (0.25 / max(episodes, 1)) ** 0.5
        if figures["hits"] > self.hits + error:
            self.hits, self.stalled = figures["hits"], 0
        else:
            self.stalled += 1
        self.commanded = figures["commanded"]

    @property
    def over(self) -> bool:
        """Whether to stop."""
        return self.commanded >= self.target or self.stalled >= self.patience


class Rounds:
    """Which round comes next: until :class:`Progress` is over, or there were enough.

    Where a residual is asked for and not every code commands then, as many rounds follow with it.

    Args:
        most: rounds at most, without a residual and with it.
        std: standard deviation of the noise in the first and the last of them.
        target: see :class:`Progress`.
        residual: whether one is asked for.

    Attributes:
        number: rounds so far, of those with a residual once it is ``moved``.
        moved: whether the next round is one with a residual.
        over: whether none is next.
    """

    def __init__(
        self, most: int, std: tuple[float, float], target: float, *, residual: bool = False
    ) -> None:
        self.most, self.std, self.residual = most, std, residual
        self.progress, self.number, self.moved = Progress(target), 0, False
        self.over = most < 1 or self.progress.over

    @property
    def spread(self) -> tuple[float, float]:
        """Standard deviation in the next round, and in the one after it."""
        return (
            annealed(self.std, self.number, self.most),
            annealed(self.std, self.number + 1, self.most),
        )

    def see(self, figures: dict[str, float], episodes: int) -> None:
        """Take in the figures of a round, and how many episodes they are of."""
        self.progress.see(figures, episodes)
        self.number += 1
        if not self.progress.over and self.number < self.most:
            return
        target = self.progress.target
        if self.moved or not self.residual or self.progress.commanded >= target:
            self.over = True
        else:
            self.moved, self.number, self.progress = True, 0, Progress(target)


def discover_modes(
    env: TransformedEnv,
    steering: SteeringPolicy,
    discoverer: ClusterModeDiscoverer,
    *,
    method: Literal["guided", "imitation"] = "guided",
    max_decisions: int | None = None,
    episodes: int = 2048,
    refine_episodes: int | None = None,
    refinements: int = 6,
    std: tuple[float, float] = (0.7, 0.3),
    target: float = 0.95,
    residual: float = 0.0,
    **options: Any,
) -> list[dict[str, Any]]:
    """Run stage 1 on what :func:`~modereg.wrapping.wrap` returned, in place.

    Afterwards ``discoverer`` is fitted and frozen, and ``steering`` commands its codes.

    Args:
        env: steered environment.
        steering: the steering policy.
        discoverer: it is fitted to the base's episodes unless it is already.
        method: ``guided`` (:class:`GuidedDiscovery`), or ``imitation`` of the noises of clusters
            (:class:`SelfImitation`), for policies of few noise dimensions without chance.
        max_decisions: decisions of the longest episode; None reads ``env.layout``.
        episodes: episodes of the base; those that the discoverer found its codes in are used
            instead, where they have all that the method reads.
        refine_episodes: episodes of a refinement, and of the choice of codes after them; None is
            256, 512 for the choice, and 40 of each code at least.
        refinements: at most so many rounds of rolling out and fitting again; none follows three
            that hit no more than before.
        std: standard deviation of the noise in the first and the last refinement.
        target: stop once this share of the codes is commanded.
        residual: how far codes that do not command after that move the chunk itself
            (:meth:`GuidedDiscovery.add_residual`), in at most as many further rounds; 0 not at all.
        options: of the method.

    Returns:
        The figures of each step: clustering first, then the refinements, and at last
        :meth:`CodeJudge.judge` of what is kept; ``code_hits`` has each code's.

    Raises:
        ConfigurationError: for another method, or a residual of ``imitation``.

    Warns:
        UserWarning: if no code commands, and on each thing that is worse than the base.
    """
    if method not in ("guided", "imitation"):
        raise ConfigurationError(f"expected method 'guided' or 'imitation', got {method!r}")
    guided = method == "guided"
    if residual and not guided:
        raise ConfigurationError("expected method='guided' for a residual, got 'imitation'")
    options["max_decisions"] = max_decisions
    stage: CodeJudge
    if guided:
        stage = GuidedDiscovery(env, steering, discoverer, **options)
    else:
        stage = SelfImitation(steering, discoverer, **options)
    final = stage.final_entries(env)
    base, found = discoverer.base or (None, {})
    discoverer.base = None
    if base is None or not _has(base, stage.entries, final):
        base = collect_episodes(
            env, episodes, max_decisions=max_decisions, keep=stage.entries, final=final
        )
    if not discoverer.fitted:
        found = discoverer.fit_episodes(base)
    figures: list[dict[str, Any]] = [found | stage.begin(base)]
    share_prior(env, stage)
    num_codes, num_envs = discoverer.num_codes, env.batch_size.numel()
    rolled = episodes_of_a_round(num_codes, num_envs, refine_episodes)
    rounds = Rounds(refinements, std, target, residual=residual > 0)
    while not rounds.over:
        if rounds.moved and stage.residual is None:
            figures.append(cast(GuidedDiscovery, stage).add_residual(residual))
        now, later = rounds.spread
        row, _ = stage.refine(env, rolled, std=now, next_std=later)
        figures.append(row | {"code_hits": stage.code_hits.tolist()})
        rounds.see(row, rolled)
    row = _conclude(stage, env, std[1], refine_episodes)
    if not row["commanded"]:
        warnings.warn(NOTHING_COMMANDS, stacklevel=2)
    for loss in stage.losses():
        warnings.warn(f"stage 1: {loss}", stacklevel=2)
    return [*figures, row | {"code_hits": stage.code_hits.tolist()}]


def _conclude(
    stage: CodeJudge, env: TransformedEnv, std: float, asked: int | None
) -> dict[str, float]:
    """Choose which codes are steered, and return the figures of what is kept."""
    choose_codes(stage, env, std, asked)
    num_codes, num_envs = stage.discoverer.num_codes, env.batch_size.numel()
    episodes = episodes_of_a_round(num_codes, num_envs, asked, A_CHOICE)
    for again in range(AGAIN, -1, -1):
        row = stage.judge(stage.roll_out(env, episodes))
        if not again or not choose_again(stage, std):
            break
    return row
