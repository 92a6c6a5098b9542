from __future__ import annotations

import copy
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from tensordict import TensorDictBase
from torch import Tensor

from modereg import keys
from modereg.decoding import find_transform
from modereg.errors import CheckpointError, ConfigurationError, KeyMismatchError
from modereg.learners.config import DSRLConfig, ResidualConfig, SACConfig
from modereg.learners.demonstrated import DemonstratedLearner
from modereg.priors import CategoricalPrior
from modereg.recipes.config import FinetuneConfig, from_yaml, to_yaml
from modereg.recordings import Recording, save_recording
from modereg.transforms import LatentConditioner
from tests.learners.made import check_goes_on, make_learner, turn, weights

KINDS = [DSRLConfig, ResidualConfig]
PAY = 100.0
"""Of each recorded step: an environment step of the tests' own pays less than 2."""

LENGTHS = [2, 6, 4]
DECISIONS = [1, 2, 2]
"""Of three actions each at most."""


@pytest.fixture
def shown(tmp_path: Path) -> Path:
    """Return the file of three episodes of the tests' problem."""
    steps, number = sum(LENGTHS), len(LENGTHS)
    draws = torch.Generator().manual_seed(3)
    recording = Recording(
        observations={keys.OBSERVATION: torch.randn(steps + number, 3, generator=draws)},
        actions=0.2 * torch.randn(steps, 2, generator=draws).clamp(-1, 1),
        rewards=torch.full((steps,), PAY),
        lengths=torch.tensor(LENGTHS),
        terminated=torch.tensor([True, True, False]),
    )
    save_recording(tmp_path / "shown.safetensors", recording)
    return tmp_path / "shown.safetensors"


def _make(
    kind: type[Any], shown: Path, coef: float | None = 1.0, **options: Any
) -> DemonstratedLearner:
    given = {"prefill": 8, "demonstrations": shown} | options
    return make_learner(kind, on={"coef": coef}, **given)


def _from_file(sample: TensorDictBase) -> Tensor:
    return sample["next", keys.REWARD].flatten() > PAY / 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("share", "number"), [(0.5, 4), (0.25, 2), (0.8, 6)])
def test_their_share_of_each_minibatch_is_kept(
    kind: type[Any], shown: Path, share: float, number: int
) -> None:
    learner = _make(kind, shown, demonstrated=share)
    learned: list[TensorDictBase] = []
    step = learner.step
    learner.step = lambda sample, actor: learned.append(sample.clone()) or step(sample, actor)
    for _ in range(3):
        turn(learner)
    assert len(learned) == 12
    assert {len(sample) for sample in learned} == {8}
    assert [int(_from_file(sample).sum()) for sample in learned] == [number] * 12


def test_they_count_neither_as_collected_nor_as_prefill(shown: Path) -> None:
    learner = _make(DSRLConfig, shown, prefill=16)
    assert turn(learner) == {"prefilled": 0.5}
    turn(learner)
    assert (learner.kept, len(learner.buffer)) == (16, 16)
    assert not bool(_from_file(learner.buffer[:]).any())


def test_an_episode_has_the_code_that_q_gives_all_of_it(shown: Path) -> None:
    learner = _make(DSRLConfig, shown)
    turn(learner)
    rows, q = learner.shown, learner.problem.mi_reward.estimator
    last = torch.tensor(DECISIONS).cumsum(0) - 1
    codes = q.log_prob(rows[last]["next"]).argmax(-1)
    expected = codes.repeat_interleave(torch.tensor(DECISIONS))
    assert torch.equal(rows[keys.LATENT], expected)
    for state in (rows, rows["next"]):
        assert torch.equal(state[keys.LATENT_FEATURES].argmax(-1), expected)


def test_a_code_that_is_never_drawn_is_never_told(shown: Path) -> None:
    for kept in (0, 1):
        learner = _make(DSRLConfig, shown)
        find_transform(learner.problem.env, LatentConditioner).share(
            CategoricalPrior(torch.eye(2)[kept])
        )
        turn(learner)
        assert learner.shown[keys.LATENT].tolist() == [kept] * 5


def test_the_newest_discoverer_pays_for_them(shown: Path) -> None:
    learner = _make(DSRLConfig, shown)
    turn(learner)
    pays = learner.problem.mi_reward
    with torch.no_grad():
        for parameter in pays.estimator.parameters():
            parameter.add_(torch.randn_like(parameter))
    learned: list[TensorDictBase] = []
    learner.step = lambda sample, _: learned.append(sample.clone()) or {}
    learner.owed = 1.0
    learner._learn(critic_only=True)
    rows = learned[0][_from_file(learned[0])]
    expected = pays(rows.clone())["next", keys.REGULARIZED_REWARD]
    assert torch.equal(rows["next", keys.REGULARIZED_REWARD], expected)


def test_returns_of_several_decisions_end_with_their_episode(shown: Path) -> None:
    learner = _make(DSRLConfig, shown, nstep=3)
    for _ in range(3):
        turn(learner)
    assert learner.shown.shape == (5, 3)
    assert learner.shown["next", "done"][..., 0].any(1).tolist() == [True] * 5


def test_the_base_chunk_of_a_demonstration_is_decoded_once(
    shown: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = _make(ResidualConfig, shown)
    rows, decode = [], learner.loss.decoder.decode
    monkeypatch.setattr(
        learner.loss.decoder,
        "decode",
        lambda state, action: rows.append(len(action)) or decode(state, action),
    )
    for _ in range(3):
        turn(learner)
    assert rows == [8, 8, 5, 5, 8, 8, 8, 8]
    assert learner.shown["base_chunk"].shape == learner.shown["next", "base_chunk"].shape


def test_without_a_file_nothing_changes(shown: Path) -> None:
    found = [_make(DSRLConfig, path) for path in (shown, None)]
    plain = make_learner(DSRLConfig, on={"coef": 1.0}, prefill=8)
    figures = [[turn(learner) for _ in range(3)] for learner in (*found, plain)]
    assert figures[1] == figures[2]
    assert figures[0] != figures[2]


@pytest.mark.parametrize("nstep", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_state_taken_up_goes_on_bit_for_bit(kind: type[Any], shown: Path, nstep: int) -> None:
    found = check_goes_on(lambda: _make(kind, shown, buffer=20, nstep=nstep), weights, 4)
    assert "loss_qvalue" in found[-1]


def test_a_state_before_the_first_gradient_step_has_none_of_them(shown: Path) -> None:
    learner = _make(DSRLConfig, shown, prefill=16)
    turn(learner)
    state = copy.deepcopy(learner.state_dict())
    for _ in range(3):
        turn(learner)
    learner.load_state_dict(state)
    assert learner.shown is None
    assert "shown" not in state


def test_a_file_that_is_none_of_the_problem_is_refused_at_once(shown: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"nothing.safetensors, got none"):
        _make(DSRLConfig, tmp_path / "nothing.safetensors")
    other = Recording(
        {}, torch.zeros(1, 2), torch.zeros(1), torch.tensor([1]), torch.tensor([True])
    )
    save_recording(shown, other)
    with pytest.raises(KeyMismatchError, match=r"also the observations \['observation'\]"):
        _make(DSRLConfig, shown)


def test_options_that_cannot_work_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="demonstrated only with demonstrations"):
        DSRLConfig(demonstrated=0.2)
    for share in (0.0, 1.0):
        with pytest.raises(ConfigurationError, match=f"some of both, got {share} of 256"):
            DSRLConfig(demonstrations=Path("shown"), demonstrated=share)
    assert "demonstrations" not in {field.name for field in fields(SACConfig)}


@pytest.mark.parametrize("kind", KINDS)
def test_a_configuration_is_read_as_it_was_written(kind: type[Any]) -> None:
    config = FinetuneConfig(learner=kind(demonstrations=Path("a/b"), demonstrated=0.3))
    assert from_yaml(FinetuneConfig, to_yaml(config)) == config
