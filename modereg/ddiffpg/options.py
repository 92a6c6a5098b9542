"""Numbers of the learner, without torch."""

from __future__ import annotations

from dataclasses import dataclass

from modereg.errors import ConfigurationError
from modereg.numbers import check_numbers

__all__ = ["DDiffPGOptions"]


@dataclass(frozen=True)
class DDiffPGOptions:
    """Numbers of :class:`~modereg.ddiffpg.learner.DDiffPG`.

    Attributes:
        gamma: discount of an environment step.
        batch: decisions of a gradient step, shared equally by the modes and exploration.
        tau: of the target critics.
        climb_steps: of Adam that a target action takes each time it is drawn.
        climb_rate: of each, in units of half the actions' range.
        explore: share of the episodes that explore, once there are modes; the others are commanded,
            each mode alike, which keeps what is hardly found any more from being forgotten.
        explore_noise: standard deviation of what is added to chunks that explore, in units of half
            the actions' range.
        command_noise: the same of commanded ones.
        switch: share of the commanded episodes in which another mode is commanded on the way, so
            that a mode is known from the others' places too.
        intrinsic: weight of the novelty beside the reward in the critics of modes.
        dropout: how often the actor learns without the embedding, as it acts where no mode is
            commanded.
        actor_rate: learning rate of the actor.
        critic_rate: of the critics and the novelty's predictor.
        ema: decay of the actor's averaged weights, which act and are saved.
        max_grad_norm: to which gradients are clipped.
        novelty_steps: gradient steps of the predictor on each batch of episodes.
    """

    gamma: float = 0.99
    batch: int = 256
    tau: float = 0.01
    climb_steps: int = 5
    climb_rate: float = 0.05
    explore: float = 0.5
    explore_noise: float = 0.5
    command_noise: float = 0.1
    switch: float = 0.25
    intrinsic: float = 0.01
    dropout: float = 0.3
    actor_rate: float = 1e-3
    critic_rate: float = 1e-3
    ema: float = 0.99
    max_grad_norm: float = 10.0
    novelty_steps: int = 5

    def __post_init__(self) -> None:
        check_numbers(
            self,
            count=("batch",),
            natural=("climb_steps", "novelty_steps"),
            positive=("climb_rate", "actor_rate", "critic_rate", "max_grad_norm"),
            nonnegative=("explore_noise", "command_noise", "intrinsic"),
            share=("gamma", "tau", "explore", "switch", "dropout", "ema"),
        )
        if self.dropout == 1.0 or self.ema == 1.0:
            raise ConfigurationError(
                f"expected dropout and ema below 1, got {self.dropout} and {self.ema}: an actor "
                "without embeddings cannot be commanded, and an average of that decay never moves"
            )
