"""What the visual task shows, tells, rewards and calls a mode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torchrl.data.vla import IMAGE_KEY, INSTRUCTION_KEY, STATE_KEY, validate_vla_tensordict

from modereg.errors import ConfigurationError
from modereg.tasks import visual
from modereg.tasks.visual import APPROACH_KEY, INSTRUCTIONS, VOCABULARY, WORDS_KEY, VisualAvoid
from modereg.tasks.visual.geometry import APPROACH_Y, DISC_SPREAD, DISC_X, MODE_NAMES, gaps_of_modes


def follow(env: VisualAvoid, path: list[tuple[float, float]]) -> dict[str, Tensor]:
    """Lead all points along a path at full speed, and return the last entries."""
    root = env.reset()
    for x, y in path:
        target = torch.tensor([x, y]).expand(env.batch_size.numel(), 2)
        for _ in range(20):
            root = env.step(root.empty().set("action", target - root[STATE_KEY]))["next"]
            if bool(((root[STATE_KEY] - target).abs() < 1e-4).all()):
                break
    return root


def test_keys_are_torchrls() -> None:
    names = (visual.IMAGE_KEY, visual.INSTRUCTION_KEY, visual.STATE_KEY)
    assert names == (IMAGE_KEY, INSTRUCTION_KEY, STATE_KEY)
    assert not validate_vla_tensordict(VisualAvoid(2).rollout(2), raise_on_error=False)


@pytest.mark.parametrize("mode", range(6))
def test_a_route_is_a_mode_and_pays(mode: int) -> None:
    first, second = gaps_of_modes(torch.tensor(mode)).tolist()
    lane, gap = (-0.2, 0.2)[first], (-0.33, 0.0, 0.33)[second]
    env = VisualAvoid(16, pay_spread=0.3, start_noise=0.0, max_steps=99, seed=0)
    path = [(lane, 0.06), (lane, 0.45), (gap, 0.45), (gap, 0.7), (0.0, 0.7), (0.0, 0.92)]
    root = follow(env, [*path, (DISC_X + DISC_SPREAD, 0.92)])
    blue = env.target > 0
    assert 0 < blue.sum() < 16
    assert torch.equal(root["success"].squeeze(-1), blue)
    assert bool((root["mode"] == mode).all())
    assert bool(root["terminated"].all())
    assert MODE_NAMES[mode] == f"{'LR'[first]}-{'LMR'[second]}"
    assert float(env.pay[mode]) == pytest.approx(0.7 + 0.3 * second)


def test_a_post_ends_an_episode() -> None:
    root = follow(VisualAvoid(4, start_noise=0.0), [(0.0, 0.4)])
    assert bool(root["terminated"].all())
    assert not bool(root["success"].any())
    assert bool((root["mode"] == -1).all())


def test_walls_hold_the_point() -> None:
    env = VisualAvoid(3, max_steps=99)
    root = follow(env, [(0.9, 0.2), (0.9, 1.5)])
    torch.testing.assert_close(root[STATE_KEY], torch.tensor([[0.5, 1.0]] * 3))


def test_image_and_instruction_together_say_where() -> None:
    """The words name a colour, and the pixels of that colour lie where the disc is."""
    env = VisualAvoid(400, seed=3)
    root = env.reset()
    image = root[IMAGE_KEY][:, :, :9].float()
    reddish = image[:, 0] - image[:, 2]
    tells_red = root[WORDS_KEY][:, VOCABULARY.index("red")] == 1
    excess = torch.where(tells_red[:, None, None], reddish, -reddish) - 20  # more than the floor
    weight = excess.clamp_min(0).sum(1)
    x = (weight * env._canvas.x).sum(-1) / weight.sum(-1)
    assert (x - env.target).abs().max() < 0.02
    assert torch.equal(tells_red, env.target < 0)
    assert env.target[tells_red].std() > 0.05
    assert len(root[INSTRUCTION_KEY].unique(dim=0)) == len(INSTRUCTIONS)


def test_words_are_those_of_the_tokens() -> None:
    root = VisualAvoid(50, seed=1).reset()
    for tokens, words in zip(root[INSTRUCTION_KEY], root[WORDS_KEY], strict=True):
        assert set(words.nonzero().flatten().tolist()) == set(tokens.tolist()) - {0}


def test_the_image_shows_the_point() -> None:
    env = VisualAvoid(3, start_noise=0.0, seed=0)
    before = env.reset()
    after = env.step(before.set("action", torch.tensor([0.04, 0.0]).expand(3, 2)))["next"]
    dark = [image.float().sum(1) < 200 for image in (before[IMAGE_KEY], after[IMAGE_KEY])]
    columns = [mask.float().sum(1).argmax(-1).float().mean() for mask in dark]
    assert columns[1] == columns[0] + 1
    assert bool((dark[0].sum((1, 2)) > 1).all())
    assert before[IMAGE_KEY].float().mean(1)[:, 26].max() < 236  # the floor


def test_the_approach_holds_behind_the_posts() -> None:
    env = VisualAvoid(4, start_noise=0.0, max_steps=99)
    root = follow(env, [(0.33, 0.06), (0.33, 0.7), (0.0, 0.7)])
    assert bool((root[APPROACH_KEY][:, 1] < APPROACH_Y).all())
    assert bool((root[APPROACH_KEY][:, 0] == 0.33).all())
    assert bool((env.reset()[APPROACH_KEY] == env.reset()[STATE_KEY]).all())


def test_a_partial_reset_draws_another_scene() -> None:
    env = VisualAvoid(64, seed=0)
    root = env.reset()
    chosen = torch.arange(64).view(-1, 1) < 32
    after = env.reset(root.clone().set("_reset", chosen))
    assert torch.equal(after[INSTRUCTION_KEY][32:], root[INSTRUCTION_KEY][32:])
    assert torch.equal(after[IMAGE_KEY][32:], root[IMAGE_KEY][32:])
    assert not torch.equal(after[INSTRUCTION_KEY][:32], root[INSTRUCTION_KEY][:32])


def test_impossible_options_are_refused() -> None:
    for option in ({"max_delta": 0.05}, {"image_size": 4}):
        with pytest.raises(ConfigurationError, match="steps shorter than its smallest post"):
            VisualAvoid(2, **option)
