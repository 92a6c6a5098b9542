from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg import keys
from modereg.discovery.chunk_features import ChunkFeatures
from modereg.errors import ConfigurationError
from modereg.learners.config import ResidualConfig
from modereg.residual import ChunkResidual
from tests.learners.made import make_learner, problem, same, turn


def _started(held: bool = False) -> ChunkResidual:
    """Return one that stage 1 might have left, with a code that it does not move if asked."""
    made = problem().make_residual(2, 0.8)
    made.directions.copy_(torch.eye(2, 6))
    torch.nn.init.normal_(made.network.head.network.layers[-1].weight)
    if held:
        made.network.head.steer_only(torch.tensor([True, False]), 1.0)
    return made


def test_the_residual_learns_and_the_steering_policy_stays() -> None:
    made = make_learner(ResidualConfig)
    steering = copy.deepcopy(dict(made.steering.state_dict()))
    start = copy.deepcopy(dict(made.residual.network.state_dict()))
    for _ in range(4):
        figures = turn(made)
    assert {"loss_qvalue", "loss_actor", "residual_length"} <= set(figures)
    assert same(steering, made.steering.state_dict())
    assert not same(start, made.residual.network.state_dict())
    assert made.problem.env.residual is made.residual


def test_its_directions_are_those_of_the_prefill() -> None:
    made = make_learner(ResidualConfig, directions=3)
    turn(made)
    assert not bool(made.residual.directions.any())
    turn(made)
    rows = made.buffer[:]
    observed, chunks = rows[keys.OBSERVATION], rows[("next", keys.EXECUTED)]
    expected = ChunkFeatures(observed, chunks, share=1.0, most=3).directions
    torch.testing.assert_close(made.residual.directions, expected)


def test_a_growing_share_of_the_decisions_is_moved(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the prefill of 16, over 16 decisions, of which a batch has 8."""
    made = make_learner(ResidualConfig, explore=16)
    played = []
    explore = made.loss.explore
    monkeypatch.setattr(
        made.loss, "explore", lambda *given: played.append(made.loss.share) or explore(*given)
    )
    for _ in range(5):
        turn(made)
    assert played[::2] == [0.0, 0.0, 0.0, 0.5, 1.0]


def test_what_is_kept_is_what_was_played_with_the_noise_of_exploring() -> None:
    """Environment and critic agree on the chunk: base, residual, window and bounds."""
    made = make_learner(ResidualConfig, prefill=8, explore=1)
    for _ in range(3):
        turn(made)
    batch = made.collect().reshape(-1)
    loss = made.loss
    base = loss.decoder.decode(batch, batch[keys.ACTION])
    executed = batch["next", keys.EXECUTED]
    assert torch.equal(executed, batch["next", keys.CHUNK][:, :3].clamp(-0.5, 0.5))
    assert float((loss.decoder.executed(base) - executed).abs().max().detach()) > 1e-3
    along = torch.linalg.pinv(made.residual.directions)
    move = (batch["next", keys.CHUNK] - base)[:, :3].flatten(1) @ along
    assert float(move.norm(dim=-1).max().detach()) < made.residual.bound * 1.01


def test_each_transition_is_decoded_once_and_no_gradient_step_decodes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made = make_learner(ResidualConfig)
    rows, decode = [], made.loss.decoder.decode

    def counted(state: TensorDictBase, action: Tensor) -> Tensor:
        rows.append(len(action))
        return decode(state, action)

    monkeypatch.setattr(made.loss.decoder, "decode", counted)
    for _ in range(4):
        turn(made)
    assert made.steps > 0
    assert rows == [8] * 8, "at the state and the next one of each batch's transitions"
    kept = made.buffer[:]
    assert kept["base_chunk"].shape == kept["next", "base_chunk"].shape == (32, 4, 2)


def test_it_goes_on_from_the_residual_of_a_start() -> None:
    start = _started()
    before = copy.deepcopy(dict(start.state_dict()))
    made = make_learner(ResidualConfig, on={"residual": start})
    assert made.residual is start
    turn(made)
    assert same(before, start.state_dict())
    for _ in range(3):
        turn(made)
    assert torch.equal(before["directions"], start.directions)
    assert not same(before, start.state_dict())


def test_codes_that_the_start_did_not_move_are_moved_from_where_they_were() -> None:
    start = _started(held=True)
    state = problem().env.reset()
    before = start.shift(state).detach()
    assert bool((before == 0).all(-1).any())
    made = make_learner(ResidualConfig, on={"residual": start}, learning_rate=1e-30)
    turn(made)
    turn(made)
    assert bool(start.network.head.steered.all())
    assert float((start.shift(state) - before).abs().max().detach()) < 0.3
    assert same(made.loss.start_network.state_dict(), start.network.state_dict())


@pytest.mark.parametrize("option", [{"bound": 0.5}, {"directions": 3}])
def test_options_that_the_start_decides_are_refused(option: dict[str, Any]) -> None:
    (name,) = option
    there = {"bound": 0.8, "directions": 2}[name]
    sentence = f"expected {name} of the residual that the start brings, {{'{name}': {there}}}, got"
    with pytest.raises(ConfigurationError, match=re.escape(sentence)):
        make_learner(ResidualConfig, on={"residual": _started()}, **option)


def test_options_of_the_start_may_be_repeated() -> None:
    make_learner(ResidualConfig, on={"residual": _started()}, bound=0.8, directions=2)
    with pytest.raises(ConfigurationError, match="expected bound above 0 and finite, got -1"):
        ResidualConfig(bound=-1.0)
