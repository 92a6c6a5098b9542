"""Episodes as pictures: rolled out once more with chosen codes, and photographed on the way."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.envs import EnvBase, Transform

from modereg import keys
from modereg.errors import ConfigurationError
from modereg.priors import CategoricalPrior
from modereg.recipes.evaluate import evaluate_policy
from modereg.recipes.setup import Setup
from modereg.rollouts import Episodes
from modereg.seeding import isolated_generators
from modereg.tasks import Task
from modereg.wrapping import SteeredEnv

__all__ = ["Camera", "Film", "chosen_codes", "record_films", "to_frames"]

CODES = 12
"""Codes, at most, of which a film is shown where modes have no label."""

LEADS = 0.5
"""Probability of success in a mode from which a code is shown for it."""

PICTURES, RENDERED = 24, 12
"""Pictures of the longest episode: where they are observations, and where they are rendered."""

Policy = Callable[[TensorDictBase], TensorDictBase]


@dataclass(frozen=True)
class Film:
    """One episode.

    Attributes:
        frames: ``[F, H, W, 3]`` uint8, from the reset to the end.
        steps: environment steps at which they were taken, ``F`` of them.
        code: the code of the episode, None where the policy has one alone.
        mode: its label, -1 while undecided; None without a label.
        success: None where the environment does not say.
        times: how many of the episodes that were rolled out came to the same.
        episodes: how many were rolled out alike.
    """

    frames: np.ndarray
    steps: tuple[int, ...]
    code: int | None = None
    mode: int | None = None
    success: bool | None = None
    times: int = 1
    episodes: int = 1


class Camera(Transform):
    """Takes a picture of every row now and then; put it inside of the action chunks.

    Changes nothing. Each full reset begins a new film. A picture is taken at the reset, at every
    ``every``-th environment step, and whenever a row ends.

    Args:
        take: called with the tensordict that the environment wrote, returns ``[B, H, W, 3]`` uint8.
        every: environment steps between pictures.
    """

    def __init__(self, take: Callable[[TensorDictBase], np.ndarray], every: int) -> None:
        super().__init__()
        # Shared by clones: inserting into a TransformedEnv may clone the transforms it has.
        self._take, self._every = take, every
        self._films: list[dict[int, np.ndarray]] = []
        self._state: dict[str, Any] = {}

    @property
    def pictures(self) -> dict[int, np.ndarray]:
        """The pictures ``[B, H, W, 3]`` since the newest full reset, by environment step."""
        return self._films[-1]

    def _reset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        if tensordict.get("_reset", None) is None:
            self._films.append({0: self._take(tensordict_reset)})
            self._state.update(step=0, ended=None)
        return tensordict_reset

    def _reset_on_native_autoreset(
        self, tensordict: TensorDictBase, tensordict_reset: TensorDictBase
    ) -> TensorDictBase:
        return tensordict_reset

    def _step(self, tensordict: TensorDictBase, next_tensordict: TensorDictBase) -> TensorDictBase:
        done, ended = next_tensordict.get("done"), self._state["ended"]
        self._state["ended"] = done if ended is None else ended | done
        self._state["step"] += 1
        news = done.any() if ended is None else (done & ~ended).any()
        if self._state["step"] % self._every == 0 or bool(news):
            self._films[-1][self._state["step"]] = self._take(next_tensordict)
        return next_tensordict

    def forward(self, tensordict: TensorDictBase) -> TensorDictBase:
        """Return the tensordict as it is."""
        return tensordict


def to_frames(pictures: Tensor) -> np.ndarray:
    """Return pictures ``[B, C, H, W]`` or ``[B, H, W, C]`` as ``[B, H, W, 3]`` uint8.

    Args:
        pictures: one or three channels, uint8, or float in [0, 1].

    Raises:
        ConfigurationError: if they have another shape.
    """
    if pictures.ndim == 4 and pictures.shape[-1] not in (1, 3):
        pictures = pictures.movedim(-3, -1)
    if pictures.ndim != 4 or pictures.shape[-1] not in (1, 3):
        raise ConfigurationError(
            "expected pictures [B, C, H, W] or [B, H, W, C] of one or three channels, got "
            f"{tuple(pictures.shape)}; name another entry as the task's filmstrip_key"
        )
    if pictures.is_floating_point():
        pictures = (255 * pictures.clamp(0, 1)).round()
    whole = pictures.to("cpu", torch.uint8).expand(*pictures.shape[:-1], 3)
    return whole.numpy().copy()


def record_films(
    setup: Setup,
    steering: Policy | None,
    prior: CategoricalPrior | int,
    figures: Mapping[str, Any],
    *,
    longest: int,
    seed: int,
) -> list[Film]:
    """Roll out an episode of each mode, or of each code, and take pictures on the way.

    A policy of several codes steers by its mean noise, and the code of an episode is forced: for
    each mode the code that commands it most often, without a label each of the most frequent
    codes. A policy of one code samples its noise; what its episodes come to is shown once each,
    with how many came to it. How often to take a picture depends on how long episodes are.

    Args:
        setup: task and base policy; the task names an image or says that it renders.
        steering: writes the noise; None is the base policy.
        prior: p(z), or the number of codes.
        figures: of an evaluation of that policy: what its codes command.
        longest: environment steps of its longest episodes.
        seed: of the episodes.

    Raises:
        ConfigurationError: if the environment lacks the image, or cannot render.
    """
    prior = CategoricalPrior(prior) if isinstance(prior, int) else prior
    codes = chosen_codes(figures) if prior.num_codes > 1 else None
    rows = _episodes_of_one_code(setup.task) if codes is None else len(codes)
    stage = replace(setup, num_envs=max(rows, 2))
    with isolated_generators():
        env = stage.steered(prior, 1.0)
    try:
        camera = _camera(stage.task, env, longest)
        env.insert_transform(0, camera)
        episodes = _roll_out(stage, env, steering, prior, codes, seed)
    finally:
        env.close(raise_if_closed=False)
    labelled = setup.task.num_modes is not None
    found = [_film(camera.pictures, episodes, row, codes, labelled) for row in range(rows)]
    return _once_each(found) if labelled and codes is None else found


def chosen_codes(figures: Mapping[str, Any]) -> list[int]:
    """Return for each mode the code that commands it most; without modes the most frequent codes.

    A mode to which no code leads in at least half of its episodes has none; where that is so of
    all modes, the most frequent codes are returned.
    """
    shares = np.array(figures["code_shares"], float)
    frequent = sorted(np.argsort(-shares, kind="stable")[:CODES].tolist())
    if figures.get("code_mode_table") is None:
        return frequent
    episodes = np.maximum(shares * figures["episodes"], 1)
    table = np.array(figures["code_mode_table"], float) / episodes[:, None]
    led = [int(table[:, mode].argmax()) for mode in np.flatnonzero(table.max(0) >= LEADS)]
    return led or frequent


def _episodes_of_one_code(task: Task) -> int:
    if task.num_modes is None:
        return 4
    often = 2 if task.filmstrip_key is None else 4  # to render every row takes its time
    return often * min(task.num_modes, CODES)


def _camera(task: Task, env: EnvBase, longest: int) -> Camera:
    """Return a camera for the image of the task, else one that asks the environment to render."""
    key = task.filmstrip_key
    if key is not None:
        _check_image(key, env)
        return Camera(lambda written: to_frames(written.get(key)), -(-longest // PICTURES))
    render = getattr(env, "render_frames", None)
    if render is None:
        raise ConfigurationError(
            f"task {task.name!r} says that it renders, but its environment has no render_frames; "
            "add the method, or set renders=False"
        )
    return Camera(lambda _: to_frames(render()), -(-longest // RENDERED))


def _check_image(key: NestedKey, env: EnvBase) -> None:
    there = env.observation_spec.keys(True, True)
    if key not in there:
        raise ConfigurationError(
            f"expected the image {key!r} among the observations, got {sorted(map(str, there))}; "
            "change the task's filmstrip_key"
        )


def _roll_out(
    setup: Setup,
    env: SteeredEnv,
    steering: Policy | None,
    prior: CategoricalPrior,
    codes: Sequence[int] | None,
    seed: int,
) -> Episodes:
    """Return an episode of every row, with the codes that are forced, if any."""
    options: dict[str, Any] = {"episodes": setup.num_envs, "seed": seed}
    if codes is None:
        return evaluate_policy(setup, env, steering, num_codes=1, **options)[1]
    forced = torch.tensor([*codes, *codes[:1]][: setup.num_envs])
    options |= {"num_codes": prior.num_codes, "deterministic": True}
    conditioner: Any = env.transform[-1]
    with conditioner.force(forced):
        return evaluate_policy(setup, env, steering, **options)[1]


def _film(
    pictures: Mapping[int, np.ndarray],
    episodes: Episodes,
    row: int,
    codes: Sequence[int] | None,
    labelled: bool,
) -> Film:
    length = int(episodes.env_steps[row])
    steps = tuple(step for step in sorted(pictures) if step <= length)
    mode, success = (episodes.final.get(key, None) for key in (keys.MODE, keys.SUCCESS))
    return Film(
        frames=np.stack([pictures[step][row] for step in steps]),
        steps=steps,
        code=None if codes is None else codes[row],
        mode=int(mode[row]) if labelled and mode is not None else None,
        success=None if success is None else bool(success[row]),
    )


def _once_each(films: Sequence[Film]) -> list[Film]:
    """Return one film of each outcome, those that succeed first, in the order of the modes."""
    outcomes: dict[tuple[bool, int], list[Film]] = {}
    for film in films:
        failed = film.success is False
        outcomes.setdefault((failed, -1 if failed or film.mode is None else film.mode), []).append(
            film
        )
    return [
        replace(alike[0], times=len(alike), episodes=len(films))
        for _, alike in sorted(outcomes.items(), key=lambda outcome: outcome[0])
    ]
