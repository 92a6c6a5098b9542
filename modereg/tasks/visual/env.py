"""Reach the disc that an instruction names, past posts, by one of six routes (ours)."""

from __future__ import annotations

from typing import Any

import torch
from tensordict import NestedKey, TensorDictBase
from torch import Tensor
from torchrl.data import Bounded, Composite, Unbounded

from modereg.errors import ConfigurationError
from modereg.keys import ACTION, ELAPSED, MODE, SUCCESS
from modereg.tasks.planar import PlanarEnv
from modereg.tasks.visual.geometry import (
    APPROACH_Y,
    DISC_RADIUS,
    DISC_SPREAD,
    DISC_X,
    DISC_Y,
    HIGH,
    LOW,
    NUM_MODES,
    POSTS,
    START,
    gaps_of_modes,
)
from modereg.tasks.visual.raster import Canvas, paint, paint_discs, paint_posts
from modereg.tasks.visual.words import INSTRUCTIONS, VOCABULARY, WordTokenizer

__all__ = [
    "APPROACH_KEY",
    "IMAGE_KEY",
    "INSTRUCTION_KEY",
    "STATE_KEY",
    "WORDS_KEY",
    "VisualAvoid",
    "route_pay",
]

IMAGE_KEY: NestedKey = ("observation", "image")
"""The camera, as in ``torchrl.data.vla``."""
STATE_KEY: NestedKey = ("observation", "state")
"""The point's position, as in ``torchrl.data.vla``."""
INSTRUCTION_KEY: NestedKey = "language_instruction"
"""The instruction's token ids, as in ``torchrl.data.vla``."""
WORDS_KEY: NestedKey = "instruction_words"
"""Which words the instruction has, for networks that read no text."""
APPROACH_KEY: NestedKey = ("observation", "approach")
"""The position up to the point from which only the instruction counts: what discoverers see."""

POINT = (20.0, 20.0, 20.0)
POINT_RADIUS = 0.04


def route_pay(spread: float) -> Tensor:
    """Pay of each route by its gap in the last row, ``1 + spread * (gap_2 - 1)``, ``[6]``."""
    return 1 + spread * (gaps_of_modes(torch.arange(NUM_MODES))[:, 1] - 1)


class VisualAvoid(PlanarEnv):
    """A point passes three posts in two rows and reaches the disc that the instruction names.

    The instruction names the red disc, on the left, or the blue one, on the right; the image shows
    where exactly they are in this episode. Six routes lead past the posts, and each leads to both
    discs: the mode, decided behind the second row, is independent of the instruction. Touching a
    post or the other disc ends the episode in failure, and so does running out of steps; walls
    around the plane hold the point.

    Entries besides ``elapsed``, ``success``, ``mode`` and ``reward`` of
    :class:`~modereg.tasks.planar.PlanarEnv`, of TorchRL's schema of VLA data:

    - ``("observation", "image")``: ``[N, 3, S, S]`` uint8 in [0, 255].
    - ``("observation", "state")``: ``[N, 2]``, x and y of the point, in metres.
    - ``"language_instruction"``: ``[N, L]`` int64, token ids of one of
      :data:`~modereg.tasks.visual.words.INSTRUCTIONS`.

    and for steering policies, which read vectors, and for discoverers:

    - ``"instruction_words"``: ``[N, V]``, 1 for each word that the instruction has, else 0.
    - ``("observation", "approach")``: ``[N, 2]``, the position, held once it is behind the posts:
      a discoverer that saw the end of an episode would find the two discs, which are the
      instruction's to choose, not the policy's.

    Args:
        num_envs: batch size ``N``.
        pay_spread: how unequally the routes pay, see
            :func:`~modereg.tasks.visual.env.route_pay`.
        max_delta: largest step per axis, in metres.
        image_size: pixels along a side, S.
        **options: further ones of :class:`~modereg.tasks.planar.PlanarEnv`: ``start_noise`` (.03),
            ``max_steps`` (54), ``seed``, ``device`` and ``dtype``.

    Raises:
        ConfigurationError: if an option is out of its range, or steps could jump over a post.
    """

    def __init__(
        self,
        num_envs: int,
        *,
        pay_spread: float = 0.0,
        max_delta: float = 0.04,
        image_size: int = 28,
        **options: Any,
    ) -> None:
        smallest = min(radius for _, _, radius in POSTS)
        if max_delta * 2**0.5 > smallest or image_size < 8:
            raise ConfigurationError(
                f"VisualAvoid needs steps shorter than its smallest post, max_delta <= "
                f"{smallest / 2**0.5:.4f}, and images of at least 8 pixels, got {max_delta} and "
                f"{image_size}."
            )
        self.image_size = image_size
        usual: dict[str, Any] = {
            "start": START,
            "start_noise": 0.03,
            "max_steps": 54,
            "tracking": 1.0,
        }
        super().__init__(
            num_envs, max_delta=max_delta, pay=route_pay(pay_spread), **(usual | options)
        )

    def _make_specs(self) -> None:
        super()._make_specs()
        batch, device, spec = self.batch_size, self.device, self.observation_spec
        plane = {"shape": (*batch, 2), "device": device, "dtype": self._dtype}
        words = (*batch, len(VOCABULARY))
        image = (*batch, 3, self.image_size, self.image_size)
        tokens = (*batch, WordTokenizer().length)
        self.observation_spec = Composite(
            {
                "observation": Composite(
                    image=Bounded(0, 255, image, device=device, dtype=torch.uint8),
                    state=Unbounded(**plane),
                    approach=Unbounded(**plane),
                    shape=batch,
                ),
                INSTRUCTION_KEY: Bounded(
                    0, len(VOCABULARY) - 1, tokens, device=device, dtype=torch.int64
                ),
                WORDS_KEY: Bounded(0.0, 1.0, words, device=device, dtype=self._dtype),
                **{key: spec[key] for key in (ELAPSED, SUCCESS, MODE)},
            },
            shape=batch,
        )

    def _allocate(self) -> None:
        super()._allocate()
        options = {"device": self.device, "dtype": self._dtype}
        posts = torch.tensor(POSTS, **options)
        self._centres, self._radii = posts[:, :2].unsqueeze(1), posts[:, 2:]  # [3, 1, 2], [3, 1]
        self._low, self._high = torch.tensor(LOW, **options), torch.tensor(HIGH, **options)
        shape = (len(POSTS), *self.batch_size)
        self._crossed = torch.zeros(shape, device=self.device, dtype=torch.bool)
        self._on_right = torch.zeros_like(self._crossed)
        self._approach = self._current
        self._told = torch.zeros(self.batch_size, device=self.device, dtype=torch.int64)
        self._discs = torch.zeros(*self.batch_size, 2, **options)  # x of the red and the blue one
        self._tokens = WordTokenizer()(INSTRUCTIONS).to(self.device)
        words = torch.zeros(len(INSTRUCTIONS), len(VOCABULARY), **options)
        self._words = words.scatter(1, self._tokens, 1.0)
        self._words[:, 0] = 0.0  # padding is no word
        self._canvas = Canvas(self.image_size, self.device)
        self._posts = paint_posts(self._canvas)
        self._scene = self._posts.expand(*self.batch_size, *self._posts.shape)

    def _forget(self, mask: Tensor) -> None:
        rows = mask.squeeze(-1)
        self._crossed = self._crossed & ~rows
        self._approach = torch.where(mask, self._current, self._approach)
        self._told = torch.where(rows, self._draw_instructions(), self._told)
        self._discs = torch.where(mask, self._draw_discs(), self._discs)
        self._scene = paint_discs(self._canvas, self._posts, self._discs.float())

    def _draw_instructions(self) -> Tensor:
        return torch.randint(
            len(INSTRUCTIONS), self.batch_size, generator=self._generator, device=self.device
        )

    def _draw_discs(self) -> Tensor:
        uniform = torch.rand(
            (*self.batch_size, 2), generator=self._generator, device=self.device, dtype=self._dtype
        )
        return uniform.new_tensor([-DISC_X, DISC_X]) + DISC_SPREAD * (2 * uniform - 1)

    @property
    def target(self) -> Tensor:
        """x of the disc that the instruction names, ``[N]``: the scripted expert knows it."""
        return self._named(0)

    def _named(self, other: int) -> Tensor:
        """Return x of the disc that is named (0) or of the other one (1), ``[N]``."""
        blue = (self._told >= len(INSTRUCTIONS) // 2).long()
        return self._discs.gather(1, (blue ^ other).unsqueeze(1)).squeeze(1)

    def judge(self, position: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Success at the named disc, failure at the other one or a post, and the mode."""
        away = position - self._centres  # [3, N, 2]
        hit = (away.square().sum(-1) < self._radii.square()).any(0)
        self._on_right = torch.where(self._crossed, self._on_right, away[..., 0] > 0)
        self._crossed = self._crossed | (away[..., 1] > 0)
        first, left, right = self._on_right.long()
        mode = torch.where(self._crossed[-1], 3 * first + left + right, -1)
        from_x = position[:, 0] - torch.stack([self._named(0), self._named(1)])
        from_y = position[:, 1] - DISC_Y
        there, wrong = from_x.square() + from_y.square() < DISC_RADIUS**2
        self._approach = torch.where(position[:, 1:] < APPROACH_Y, position, self._approach)
        return there & ~hit, wrong | hit, mode

    def _step(self, tensordict: TensorDictBase) -> TensorDictBase:
        action = tensordict.get(ACTION).clamp(-self.max_delta, self.max_delta)
        held = torch.clamp(self._current + action, self._low, self._high) - self._current
        return super()._step(tensordict.empty().set(ACTION, held))

    def _observe(self) -> dict[NestedKey, Tensor]:
        entries = super()._observe()
        covered = self._canvas.coverage(self._current.float(), POINT_RADIUS)
        image = paint(self._scene, covered, POINT)
        return {
            IMAGE_KEY: image.to(torch.uint8),
            STATE_KEY: entries.pop("observation"),
            APPROACH_KEY: self._approach,
            INSTRUCTION_KEY: self._tokens[self._told],
            WORDS_KEY: self._words[self._told],
            **entries,
        }
