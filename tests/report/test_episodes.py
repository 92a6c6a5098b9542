from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tensordict import TensorDict

from modereg import keys
from modereg.recipes.evaluate import evaluate_policy
from modereg.recipes.setup import Setup
from modereg.report import record_paths
from modereg.rollouts import collect_episodes
from modereg.seeding import derived_seed


def test_positions_are_those_of_the_plain_environment(avoid: Setup) -> None:
    """The played actions, repeated one by one in the bare environment, lead along the path."""
    number = avoid.num_envs
    paths = record_paths(avoid, None, 1, num_episodes=number, seed=7)
    seed = derived_seed(7, 0, 1)
    env = avoid.steered(1, 1.0)
    torch.manual_seed(derived_seed(7, 0))
    env.set_seed(seed)
    episodes = collect_episodes(env, number, keep=[("next", keys.EXECUTED)])
    played = episodes.decisions.get(("next", keys.EXECUTED)).flatten(1, 2)
    bare = avoid.task.make_env(number)
    bare.set_seed(seed)
    state = bare.reset()
    positions = [state.get(keys.OBSERVATION)[:, 2:]]
    for action in played.unbind(1):
        state = bare.step(TensorDict({keys.ACTION: action}, [number]))
        positions.append(state.get(("next", keys.OBSERVATION))[:, 2:])
    assert torch.equal(paths.lengths, episodes.env_steps)
    assert paths.lengths.unique().numel() > 3
    for row, length in enumerate(paths.lengths.tolist()):
        expected = torch.stack(positions, 1)[row, : length + 1]
        torch.testing.assert_close(paths.positions[row, : length + 1], expected)
        assert torch.equal(
            paths.positions[row, length:], expected[-1:].expand_as(paths.positions[row, length:])
        )


@pytest.mark.parametrize("name", ["avoid", "pendulum"])
def test_every_eighth_position_is_in_the_history(name: str, request: pytest.FixtureRequest) -> None:
    """Over several batches, whose rows end at different steps, and in a vector environment."""
    setup: Setup = request.getfixturevalue(name)
    number = 2 * setup.num_envs + 1
    paths = record_paths(setup, None, 1, num_episodes=number, seed=3)
    _, episodes = evaluate_policy(
        setup, setup.steered(1, 1.0), None, num_codes=1, episodes=number, seed=3
    )
    history = episodes.final.get(keys.HISTORY).unflatten(-1, (setup.layout.max_decisions + 1, -1))
    slots = setup.layout.played * torch.arange(history.shape[1])
    index = torch.minimum(slots, paths.lengths[:, None])
    torch.testing.assert_close(paths.positions[torch.arange(number)[:, None], index], history)
    assert len(paths) == number


def test_labels(avoid: Setup, pendulum: Setup) -> None:
    paths = record_paths(avoid, None, 4, num_episodes=30, seed=1)
    assert paths.modes is not None
    assert paths.success is not None
    assert bool(paths.success.any())
    assert bool((paths.modes[paths.success] >= 0).all())
    assert set(paths.codes.tolist()) == {0, 1, 2, 3}
    unlabelled = record_paths(pendulum, None, 1, num_episodes=4, seed=1)
    assert unlabelled.modes is None
    assert unlabelled.success is None
    assert unlabelled.positions.shape == (4, 23, 3)


def test_the_same_seed_gives_the_same_paths_and_leaves_the_generator_alone(avoid: Setup) -> None:
    before = torch.random.get_rng_state()
    first, second = (record_paths(avoid, None, 2, num_episodes=5, seed=9) for _ in range(2))
    assert torch.equal(first.positions, second.positions)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_dimensions_of_later_entries_are_left_out(avoid: Setup) -> None:
    """Feature dimensions count over all entries; a path has those of the first."""
    task = avoid.task.with_layout(
        feature_keys=(keys.OBSERVATION, keys.ELAPSED), feature_dims=(2, 3, 4)
    )
    setup = replace(avoid, task=task, layout=task.layout.for_policy(avoid.base))
    paths = record_paths(setup, None, 1, num_episodes=4, seed=1)
    assert paths.positions.shape[-1] == 2
