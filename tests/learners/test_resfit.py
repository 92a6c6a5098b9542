from __future__ import annotations

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from modereg import keys
from modereg.errors import ConfigurationError
from modereg.learners.config import ResFiTConfig
from modereg.learners.resfit import ResFiT
from modereg.recordings import Recording, save_recording
from tests.learners.made import check_goes_on, make_learner, problem, same, turn, weights

LENGTHS, PAY = [2, 6, 4], 100.0


def _learner(coef: float | None = None, **options: Any) -> ResFiT:
    given = {"explore": 20, "nstep": 1, "prefill": 16, "buffer": 64} | options
    return make_learner(ResFiTConfig, on={"coef": coef}, **given)


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    """Return the file of three episodes of the tests' problem."""
    number, draws = sum(LENGTHS), torch.Generator().manual_seed(3)
    observed = torch.randn(number + len(LENGTHS), 3, generator=draws)
    recording = Recording(
        observations={keys.OBSERVATION: observed},
        actions=0.2 * torch.randn(number, 2, generator=draws).clamp(-1, 1),
        rewards=torch.full((number,), PAY),
        lengths=torch.tensor(LENGTHS),
        terminated=torch.tensor([True, True, False]),
    )
    save_recording(tmp_path / "shown.safetensors", recording)
    return tmp_path / "shown.safetensors"


@pytest.mark.parametrize("coef", [None, 1.0])
def test_the_residual_learns_after_the_critic_and_everything_else_stays(
    coef: float | None,
) -> None:
    made = _learner(coef, prefill=30)
    parts = (made.steering, made.problem.base)
    stays = copy.deepcopy([dict(part.state_dict()) for part in parts])
    assert turn(made) == {"prefilled": pytest.approx(made.kept / 30)}
    before = copy.deepcopy(dict(made.residual.network.head.network.layers.state_dict()))
    assert set(turn(made)) == {"loss_qvalue", "qvalue"}
    assert same(before, made.residual.network.head.network.layers.state_dict())
    actions = made.kept_rows()[keys.BASE_ACTION].flatten(1)
    torch.testing.assert_close(made.residual.directions, torch.diag(actions.std(0)))
    networks = (made.loss.start_network, made.loss.target_actor_network)
    features = made.residual.network.head.network.features.state_dict()
    assert all(same(features, each.head.network.features.state_dict()) for each in networks)
    figures = turn(made)
    assert {"loss_actor", "kl", "residual_length"} <= set(figures)
    assert not same(before, made.residual.network.head.network.layers.state_dict())
    assert all(same(one, two.state_dict()) for one, two in zip(stays, parts, strict=True))


def test_the_base_is_played_at_first_and_a_growing_share_of_draws_then() -> None:
    made = _learner()
    window = made.collect()["next"]
    played = window[keys.CHUNK][..., :3, :].clamp(-0.5, 0.5)
    assert torch.equal(window[keys.EXECUTED], played)
    shares = []
    made = _learner()
    for _ in range(5):
        turn(made)
        shares.append(made.loss.share)
    assert shares[0] == 0.0
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    assert made.problem.env.step_residual is made.residual


def test_single_steps_are_kept_and_none_that_was_not_played() -> None:
    made = _learner(buffer=200)
    batch = made.collect()
    made.update(batch)
    rows = made.buffer[:]
    assert len(rows) == made.kept == int(batch["next", keys.STEPS].sum())
    played = [
        batch["next", keys.EXECUTED][row, time, : int(batch["next", keys.STEPS][row, time])]
        for row in range(4)
        for time in range(2)
    ]
    assert torch.equal(rows["next", keys.PLAYED].squeeze(-2), torch.cat(played))


def test_returns_of_several_steps_end_with_their_episode() -> None:
    made = _learner(nstep=3, buffer=200, prefill=200)
    for _ in range(4):
        turn(made)
    windows = made.buffer[:]
    assert windows.shape[1] == 3
    assert len(windows) == made.kept
    count, done = windows[keys.OBSERVATION][..., 0], windows["next", "done"].squeeze(-1)
    for row in range(len(windows)):
        for step in range(2):
            if done[row, step]:
                break
            assert count[row, step + 1] == count[row, step] + 1
    ended = done[:, 0]
    assert bool(ended.any())
    lengths = torch.tensor([3.0, 7.0, 5.0, 12.0])
    assert bool(torch.isin(windows["next", keys.OBSERVATION][:, 0, 0][ended], lengths).all())


@pytest.mark.parametrize("nstep", [1, 3])
def test_a_state_taken_up_goes_on_bit_for_bit(nstep: int) -> None:
    found = check_goes_on(lambda: _learner(1.0, nstep=nstep, buffer=40), weights, 3)
    assert "loss_actor" in found[-1]


def test_half_of_a_minibatch_is_demonstrated_step_by_step(shown: Path) -> None:
    made = _learner(1.0, demonstrations=shown, nstep=2)
    learned: list[Any] = []
    step = made.step
    made.step = lambda sample, actor: learned.append(sample.clone()) or step(sample, actor)
    for _ in range(3):
        turn(made)
    from_file = [(sample["next", keys.REWARD].flatten() > PAY / 2).sum() for sample in learned]
    assert [int(each) for each in from_file] == [4] * len(learned)
    assert len(learned) > 0
    first = made.shown[:, 0]
    assert len(first) == sum(LENGTHS)
    ends = torch.tensor(LENGTHS).cumsum(0) - 1
    done = first["next", "done"].squeeze(-1)
    assert done.nonzero().squeeze(-1).tolist() == ends.tolist()
    for begin, end in zip([0, 2, 8], ends.tolist(), strict=True):
        codes = first[keys.LATENT][begin : end + 1]
        assert len(codes.unique()) == 1
        states = first[begin : end + 1]
        after = states["next", keys.OBSERVATION][:-1]
        assert torch.equal(after, states[keys.OBSERVATION][1:])
    played = first["next", keys.PLAYED]
    assert float((first[keys.BASE_ACTION] - played).abs().max()) > 0.1, "not the base's"


def test_a_critic_learned_by_differences_of_code_pays_as_decisions_do() -> None:
    made = _learner(1.0, prefill=1000, buffer=1000)
    batch = made.problem.mi_reward(made.collect())
    steps = made.single.write(batch)
    total = (steps["next", keys.MI_REWARD].reshape(4, 2, 3) * 0.9 ** torch.arange(3)).sum(-1)
    expected = batch["next", keys.MI_REWARD].squeeze(-1)
    torch.testing.assert_close(total, expected, rtol=1e-4, atol=1e-5)


def test_it_goes_on_from_the_residual_of_a_start() -> None:
    first = _learner()
    for _ in range(3):
        turn(first)
    on = problem()
    on.env.set_step_residual(copy.deepcopy(first.residual))
    made = ResFiTConfig(minibatch=8, prefill=8, buffer=64, decisions=2).make(on)
    assert made.residual is on.env.step_residual
    directions = made.residual.directions.clone()
    turn(made)
    assert torch.equal(made.residual.directions, directions)
    sentence = "the bound of the step residual that the start brings, 0.5, got 0.2; leave it out"
    with pytest.raises(ConfigurationError, match=re.escape(sentence)):
        ResFiTConfig(bound=0.2).make(on)


@pytest.mark.parametrize(
    ("option", "sentence"),
    [
        ({"bound": 0.0}, "expected bound above 0 and finite, got 0.0"),
        ({"smoothing": -1.0}, "expected smoothing of at least 0 and finite, got -1.0"),
        ({"subset": 3}, "expected a subset of the 2 critics, got 3"),
        ({"explore": 0}, "expected explore of at least 1, got 0"),
    ],
)
def test_options_out_of_range_are_refused(option: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(sentence)):
        ResFiTConfig(**option)


def test_returns_are_of_as_many_steps_as_an_episode_has() -> None:
    made = _learner(nstep=100)
    layout = made.problem.layout
    assert made.windows is not None
    assert made.windows.length == layout.max_steps > layout.max_decisions
