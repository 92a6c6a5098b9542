"""Features that the policy decides are told from goals, clocks and what moves by itself."""

from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict
from torch import Tensor

from modereg import keys
from modereg.discovery.relevance import decided_shares, undecided_dims
from modereg.errors import ShapeError
from modereg.layout import Layout
from modereg.rollouts import Episodes

EPISODES, DECISIONS = 600, 6
LAYOUT = Layout(2 * DECISIONS, execute=2, offset=1, horizon=4, feature_keys=("state",))


def episodes(seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """A pushed point, the square of what pushes, a goal, a clock, a walk by itself, a constant."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    intent = normal(EPISODES, 1, 1)
    played = intent + 0.3 * normal(EPISODES, DECISIONS, 1)
    lengths = torch.randint(3, DECISIONS + 1, (EPISODES,), generator=generator)
    valid = torch.arange(DECISIONS) < lengths[:, None]
    pushed = normal(EPISODES, 1, 1) + (played + normal(EPISODES, DECISIONS, 1)).cumsum(1)
    gust = 3 * normal(EPISODES, DECISIONS, 1).cumsum(1)
    clock = torch.arange(1.0, DECISIONS + 1)[None, :, None].expand(EPISODES, -1, 1)
    goal = normal(EPISODES, 1, 1).expand(-1, DECISIONS, 1)
    course = torch.cat([pushed, 0.5 * played.cumsum(1), goal, clock, gust, 0 * goal + 7], -1)
    start = course[:, :1].clone()
    start[..., [0, 1, 3, 4]] = 0.0
    history = torch.cat([start, course], 1)
    last = torch.minimum(torch.arange(DECISIONS + 1), lengths[:, None])  # repeated after the end
    history = history.gather(1, last[..., None].expand_as(history))
    return history, played[..., :1].clone(), valid


def rolled(history: Tensor, played: Tensor, valid: Tensor) -> Episodes:
    """The same as episodes; what is decoded and not played is another thing."""
    chunks = played[:, :, None].expand(-1, -1, 4, -1).clone()
    chunks[:, :, [0, 3]] = 1e3 * torch.randn_like(chunks[:, :, [0, 3]])
    decisions = TensorDict({"next": {keys.CHUNK: chunks}}, valid.shape)
    final = TensorDict({keys.HISTORY: history.flatten(1)}, valid.shape[:1])
    nothing = torch.zeros(len(valid))
    return Episodes(decisions, valid, final, nothing, nothing.long(), 0, 0.0)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_what_is_pushed_is_kept_and_nothing_else(seed: int) -> None:
    shares = decided_shares(*episodes(seed))
    assert float(shares[0]) > 0.3
    assert float(shares[1]) > 0.8
    assert float(shares[2:].max()) < 0.05  # below 0 only by chance
    assert undecided_dims(rolled(*episodes(seed)), LAYOUT) == [2, 3, 4, 5]


def test_actions_on_padding_do_not_count() -> None:
    history, played, valid = episodes()
    spoilt = torch.where(valid[..., None], played, 1e6)
    torch.testing.assert_close(
        decided_shares(history, spoilt, valid), decided_shares(history, played, valid)
    )


def test_a_course_that_only_the_size_of_actions_decides_is_kept() -> None:
    """Such as a pendulum's height: no line shows it."""
    history, played, valid = episodes()
    swung = history[..., 1:2].square()
    both = torch.cat([history, swung], -1)
    assert float(decided_shares(both, played, valid)[-1]) > 0.3
    assert undecided_dims(rolled(both, played, valid), LAYOUT) == [2, 3, 4, 5]


def test_units_do_not_matter() -> None:
    history, played, valid = episodes()
    scale = torch.tensor([100.0, 0.01, 3.0, 10.0, 0.1, 1.0])
    torch.testing.assert_close(
        decided_shares(history * scale, 50 * played, valid),
        decided_shares(history, played, valid),
        atol=1e-4,
        rtol=1e-4,
    )


def test_where_nothing_is_decided_or_seen_all_is_kept() -> None:
    history, played, valid = episodes()
    still = history[:, :1].expand_as(history)
    assert undecided_dims(rolled(still, played, valid), LAYOUT) == []
    assert undecided_dims(rolled(history, played, valid)[:100], LAYOUT) == []
    broken = history.clone()
    broken[3, 2, 0] = torch.nan  # clustering says so
    assert undecided_dims(rolled(broken, played, valid), LAYOUT) == []
    assert undecided_dims(rolled(history.repeat(1, 1, 50), played, valid), LAYOUT) == []


def test_other_shapes_are_refused() -> None:
    history, played, valid = episodes()
    with pytest.raises(ShapeError, match="expected a history"):
        decided_shares(history[:, 1:], played, valid)
