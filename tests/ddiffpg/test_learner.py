from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torchrl.envs import ExcludeTransform, TransformedEnv

from modereg import keys, plugins
from modereg.ddiffpg.collecting import EpisodeCollector, random_chunks
from modereg.ddiffpg.learner import DDiffPG
from modereg.ddiffpg.making import make_clusters, make_learner
from modereg.errors import ConfigurationError
from modereg.tasks import gaussian_mixture_task
from tests.ddiffpg.made import learner, taught


def _learn(made: DDiffPG, rounds: int) -> None:
    for _ in range(rounds):
        made.collect()
        made.find_modes()
        for _ in range(3):
            made.learn()


def _same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(_same, a, b))
    return bool(torch.equal(a, b)) if isinstance(a, torch.Tensor) else a == b


def test_what_is_kept_of_episodes_is_what_happened() -> None:
    collector = learner(batches=1).collector
    kept = collector.play(random_chunks(collector.box))
    place, length = kept["observed", keys.OBSERVATION], kept["length"]
    moved = collector.box.chunk(kept["actions"]).sum(-2)
    for row in range(len(kept)):
        steps = int(length[row])
        whole = kept["steps"][row, :steps] == 4
        went = place[row, 1 : steps + 1] - place[row, :steps]
        torch.testing.assert_close(went[whole], moved[row, :steps][whole], atol=1e-4, rtol=0)
        assert bool(kept["terminated"][row, steps - 1])
        assert int(kept["terminated"][row].sum()) == 1
        torch.testing.assert_close(kept["path"][row, : steps + 1], place[row, : steps + 1])
    assert torch.equal(kept["rewards"].sum(1) > 0, kept["success"])
    assert float(kept["actions"].abs().max()) <= 1.0


def test_modes_are_found_commanded_alike_and_learned() -> None:
    made = taught()
    number = made.modes.number
    assert number == 4
    assert made.critics.slots == number + 1
    first, later, when = made._commands(16)
    assert torch.bincount(first, minlength=number + 1)[0] == 8
    assert int(torch.bincount(first)[1:].max() - torch.bincount(first)[1:].min()) <= 1
    assert bool(((first == 0) <= (later == 0)).all()), "who explores does so to the end"
    assert bool(((when >= 1) & (when <= 3)).all())
    before = made.replay.episodes["targets"].clone()
    losses = made.learn()
    assert set(losses) == {"critic_loss", "actor_loss"}
    assert bool((made.replay.episodes["targets"] != before).any()), "target actions are kept"


def test_supports_cover_what_was_earned() -> None:
    made = taught()
    made.replay.episodes["rewards"] *= 10.0
    made.find_modes()
    for slot in range(made.critics.slots):
        assert made.critics.covers(slot, made._returns(slot))
    highest = float(made.replay.episodes["rewards"].max())
    assert float(made.critics.atoms[1:, -1].max()) > highest >= 7.0


def test_exploration_learns_from_novelty_alone() -> None:
    made = taught(intrinsic=0.0)
    groups = torch.arange(made.modes.number + 1)
    places, steps = made.replay.sample(groups.tolist(), 32)
    data = made._transitions(groups, places, steps)
    novelty = made._intrinsic(data["states"], data["next_states"])
    torch.testing.assert_close(data["rewards"][0], novelty[0])
    torch.testing.assert_close(
        data["rewards"][1:], made.replay.episodes["rewards"][places, steps][1:]
    )
    ended = made.replay.episodes["terminated"][places, steps]
    assert torch.equal(data["discounts"] == 0.0, ended)


def test_a_run_goes_on_to_the_same_numbers() -> None:
    made, again = taught(seed=1), learner(seed=1)
    _learn(made, 2)
    torch.manual_seed(9)
    _learn(again, 1)
    state = deepcopy(made.state_dict())
    again.load_state_dict(state)
    for each in (made, again):
        torch.manual_seed(5)
        _learn(each, 2)
    assert _same(made.state_dict(), again.state_dict())


def test_an_environment_without_success_is_refused() -> None:
    made = learner(batches=1)
    env = TransformedEnv(made.collector.env.base_env, ExcludeTransform(keys.SUCCESS))
    with pytest.raises(ConfigurationError, match="success_key"):
        EpisodeCollector(env, made.actor.box, [], 3)


@pytest.mark.parametrize(("share", "mean"), [(0.1, 1.6), (0.5, 8.0)])
def test_a_share_of_few_rows_explores_in_the_mean(share: float, mean: float) -> None:
    made = taught(explore=share)
    explorers = [int((made._commands(16)[0] == 0).sum()) for _ in range(200)]
    assert set(explorers) <= {int(mean), -int(-mean // 1)}
    assert sum(explorers) / 200 == pytest.approx(mean, abs=0.15)


def test_chunks_that_skip_actions_are_refused() -> None:
    task = gaussian_mixture_task().with_layout(offset=1, execute=3)
    env, loader = task.make_env(4), plugins.policy_loader("diffusers")
    with pytest.raises(ConfigurationError, match="from their first action, got offset=1"):
        make_learner(env, task.layout, task.observation_keys, loader, make_clusters("one"))
