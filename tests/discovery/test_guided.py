"""Guided discovery on four roads: one round is enough there, whatever the decoder and the noise."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torchrl.envs import TransformedEnv

from modereg import keys
from modereg.discovery import GuidedDiscovery, decision_entries, decoder_choice, guided
from modereg.discovery.stage1 import choose_codes
from modereg.errors import ConfigurationError
from modereg.storage import load_state, save_state
from modereg.transforms import NoiseAction
from modereg.wrapping import Wrapped
from tests.discovery.roads import (
    CODES,
    LAYOUT,
    NESTED,
    SHAPE,
    Roads,
    clustered,
    deaf,
    going,
    wrapped,
)

STEPS = dict(outcome_steps=100, guide_steps=100, student_steps=250)
ROUND = dict(std=0.5, next_std=0.3)


@pytest.fixture(autouse=True)
def few_fresh_noises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_choice, "FRESH", 2000)


def started(made: Wrapped, **changes: int) -> tuple[GuidedDiscovery, dict[str, float]]:
    """Return guided discovery after its first fit, and the figures of that."""
    base, discoverer = clustered(made, decision_entries(made.env))
    stage = GuidedDiscovery(made.env, made.steering, discoverer, **STEPS | changes)
    return stage, stage.begin(base)


def without_gradient(noise: Tensor, *observed: Tensor) -> Tensor:
    return going(noise.detach(), *observed)


def slow_gradient(noise: Tensor, *observed: Tensor) -> Tensor:
    if noise.requires_grad:
        time.sleep(0.2)
    return going(noise, *observed)


WORLDS: dict[str, Callable[[], Wrapped]] = {
    "as it is": wrapped,
    "two nested observations": lambda: wrapped(entries=NESTED),
    "no gradient, steered by one of two observations": lambda: wrapped(
        without_gradient, replace(LAYOUT, steering_keys=(NESTED[0],)), entries=NESTED
    ),
    "double precision": lambda: wrapped(dtype=torch.float64),
    "a subspace": lambda: wrapped(layout=replace(LAYOUT, noise_basis=of_means())),
    "a subspace, no gradient, double precision": lambda: wrapped(
        without_gradient, replace(LAYOUT, noise_basis=of_means()), dtype=torch.float64
    ),
}


def of_means() -> Tensor:
    """The two directions of the noise that the roads' policy listens to."""
    return torch.eye(2).repeat(2, 1) / 2**0.5


@pytest.mark.parametrize("world", WORLDS)
def test_after_one_round_codes_command(world: str) -> None:
    made = WORLDS[world]()
    stage, fitted = started(made)
    assert stage.decoder.exact is ("no gradient" not in world)
    assert fitted["outcome_nll"] < 0.7 * fitted["class_share_nll"]
    assert ("student_r2" in fitted) is not stage.decoder.exact
    assert fitted.get("student_r2", 1.0) > 0.8
    row, rolled = stage.refine(made.env, 256, **ROUND)
    assert len(rolled) == 256
    assert stage.base["entropy"] > 0.9
    assert row["hits"] > 0.7, "of four codes, where chance is a quarter"
    assert row["success"] == 1.0
    assert {"outcome_nll", "log_outcome", "kl"} <= set(row)
    assert choose_codes(stage, made.env, 0.3, 256) > 0
    assert stage.learned.tolist() == [True] * CODES
    assert stage.best["hits"] >= row["hits"]


def test_what_is_read_of_a_decision() -> None:
    for made, read in (
        (wrapped(), [keys.OBSERVATION]),
        (wrapped(entries=NESTED), [*NESTED]),
        (
            wrapped(layout=replace(LAYOUT, time_limit="terminates")),
            [keys.OBSERVATION, keys.ELAPSED],
        ),
    ):
        found = decision_entries(made.env)
        assert found == [*read, keys.ACTION, ("next", keys.CHUNK)]


@pytest.mark.parametrize(("function", "exact"), [(going, True), (slow_gradient, False)])
def test_the_gradient_is_of_the_decoder_where_it_is_cheap(
    function: Callable[..., Tensor], exact: bool
) -> None:
    """By the time that it takes, not by what it is."""
    stage, figures = started(wrapped(function), student_steps=100)
    assert stage.decoder.exact is exact
    assert (stage.decoder.student is None) is exact
    assert ("student_r2" in figures) is not exact


def test_measuring_what_is_cheap_changes_nothing() -> None:
    found = []
    for known in (None, True):
        made = wrapped()
        base, discoverer = clustered(made, decision_entries(made.env), 128)
        stage = GuidedDiscovery(made.env, made.steering, discoverer, outcome_steps=3, guide_steps=3)
        stage.decoder.exact = known
        found.append(stage.begin(base))
    assert found[0] == found[1]


def test_codes_that_learned_play_on_themselves_and_are_held_less() -> None:
    made = wrapped()
    stage, _ = started(made)
    assert stage.kl_coef.tolist() == pytest.approx([0.1] * CODES)
    assert stage.players.tolist() == [CODES] * CODES
    stage.refine(made.env, 256, **ROUND)
    assert bool((stage.code_hits > 0.5).all())
    assert stage.kl_coef.tolist() == pytest.approx([0.06] * CODES)
    assert stage.players.tolist() == list(range(CODES))

    first = made.steering.head.network.layers[0].weight
    with torch.no_grad():  # each code leads where another one did
        first[:, -CODES:] = first[:, -CODES:].roll(1, 1)
    stage.refine(made.env, 256, **ROUND)
    assert bool((stage.code_hits < 0.25).all())
    assert stage.kl_coef.tolist() == pytest.approx([0.09] * CODES)
    assert stage.players.tolist() == [CODES] * CODES
    assert stage.best["hits"] > 0.5  # of the round before


def test_codes_are_never_held_more_than_at_first_or_less_than_the_least() -> None:
    stage, _ = started(wrapped(), outcome_steps=2, guide_steps=2)
    for hits, limit in ((0.0, 0.1), (1.0, 0.02)):
        for _ in range(9):
            stage.code_hits = torch.full((CODES,), hits)
            stage._adapt(torch.zeros(CODES))
        assert stage.kl_coef.tolist() == pytest.approx([limit] * CODES)


def test_the_base_and_the_last_three_rounds_are_learned_from() -> None:
    made = wrapped()
    stage, _ = started(made, outcome_steps=2, guide_steps=2)
    for size in (64, 65, 66, 67):
        stage.refine(made.env, size, **ROUND)
    sizes = [len(part[guided.EPISODE].unique()) for part in stage.rounds]
    assert sizes == [512, 65, 66, 67]
    names = torch.cat([part[guided.EPISODE] for part in stage.rounds])
    assert len(names.unique()) == sum(sizes), "episodes of different rounds share a number"
    players = [part[guided.PLAYER].unique().tolist() for part in stage.rounds]
    assert players == [[CODES], *[list(range(CODES))] * 3]


def test_a_code_that_did_not_learn_is_exactly_the_base_in_the_end() -> None:
    """All are hit as often as by the base's own noise."""
    made = wrapped()
    stage, _ = started(made, outcome_steps=1, guide_steps=1)
    rolled = stage.roll_out(made.env, 256)
    stage.judge(rolled)
    stage.evidence = 64 * stage.base_outcomes.repeat(CODES, 1)
    stage.settle()
    assert stage.learned.tolist() == [False] * CODES
    rows = rolled.flat()
    rows.set(keys.LATENT_FEATURES, torch.eye(CODES)[torch.arange(len(rows)) % CODES])
    psi = made.steering.distribution(rows)
    assert torch.equal(psi.mean, torch.zeros(len(rows), *SHAPE))
    assert torch.equal(psi.stddev, torch.ones(len(rows), *SHAPE))
    torch.manual_seed(3)
    drawn = made.steering(rows)[keys.ACTION]
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.randn(len(rows), *SHAPE))


def _again(
    made: Wrapped,
    stage: GuidedDiscovery,
    folder: Path,
    function: Callable[..., Tensor] | None = None,
) -> tuple[GuidedDiscovery, Wrapped]:
    """Return what goes on from the stage's state in a file, and from the policy's."""
    whole = {"stage": stage.state_dict(), "steering": dict(made.steering.state_dict())}
    whole["discoverer"] = dict(made.discoverer.state_dict())
    save_state(folder / "state.pt", whole)
    loaded = load_state(folder / "state.pt")
    usual = without_gradient if stage.decoder.exact is False else going
    other = wrapped(function or usual)
    torch.manual_seed(99)  # what is drawn while loading must not matter
    other.discoverer.load_state_dict(loaded["discoverer"])
    made_again = GuidedDiscovery(other.env, other.steering, other.discoverer, **STEPS)
    made_again.load_state_dict(loaded["stage"])
    other.steering.load_state_dict(loaded["steering"])
    return made_again, other


@pytest.mark.parametrize(("function", "rounds"), [(without_gradient, 0), (going, 1)])
def test_a_state_goes_on_to_the_same_figures(
    function: Callable[..., Tensor], rounds: int, tmp_path: Path
) -> None:
    """Bit for bit, after the first fit and after a round."""
    made = wrapped(function)
    stage, _ = started(made)
    for _ in range(rounds):
        stage.refine(made.env, 128, **ROUND)
    again, other = _again(made, stage, tmp_path)
    found: list[Any] = []
    for each, env, steering in (
        (stage, made.env, made.steering),
        (again, other.env, other.steering),
    ):
        torch.manual_seed(5)
        row, _ = each.refine(env, 128, **ROUND)
        choose_codes(each, env, 0.3, 128)
        found.append((row, each.kl_coef, each.players, each.learned, dict(steering.state_dict())))
    (first, *ours, weights), (second, *theirs, others) = found
    assert first == second
    for one, two in zip(ours, theirs, strict=True):
        assert torch.equal(one, two)
    assert set(weights) == set(others)
    assert all(torch.equal(value, others[name]) for name, value in weights.items())


def test_what_chance_decides_is_little_on_roads_that_noise_chooses() -> None:
    stage, _ = started(wrapped())
    shares = stage.chance_shares()
    assert shares.shape == (CODES,)
    assert float(shares.max()) < 0.5


def test_an_environment_that_is_not_steered_is_refused() -> None:
    made = wrapped()
    plain = TransformedEnv(Roads())
    with pytest.raises(ConfigurationError, match="a steered environment, got TransformedEnv"):
        GuidedDiscovery(plain, made.steering, made.discoverer)
    with pytest.raises(ConfigurationError, match="without NoiseAction; make it by steer_env"):
        decision_entries(plain)
    assert any(isinstance(part, NoiseAction) for part in made.env.transform)


def deaf_without_gradient(noise: Tensor, *observed: Tensor) -> Tensor:
    return deaf(noise.detach(), *observed)


def test_a_residual_commands_what_no_noise_does(tmp_path: Path) -> None:
    """With a decoder of which no gradient is known, too."""
    made = wrapped(deaf_without_gradient)
    stage, _ = started(made)
    for _ in range(2):
        row, _ = stage.refine(made.env, 256, **ROUND)
    assert row["hits"] < 0.45
    stage.remember(row)
    stage.add_residual(6.0)
    for _ in range(3):
        row, rolled = stage.refine(made.env, 256, std=0.3, next_std=0.3)
    assert row["hits"] > 0.7
    assert row["success"] == 1.0
    again, other = _again(made, stage, tmp_path, deaf_without_gradient)
    for each, env in ((stage, made.env), (again, other.env)):
        torch.manual_seed(4)
        choose_codes(each, env, 0.3, 256)
        assert each.learned.tolist() == [True] * CODES
        assert float(each.code_hits.min()) > 0.6
    assert torch.equal(stage.table, again.table)
    moved = rolled.decisions.get(("next", keys.CHUNK))
    assert float(moved[rolled.valid].abs().max()) > 1.2, "beyond what the policy decodes"


def test_codes_that_command_are_not_moved_and_what_is_not_worth_it_moves_no_more() -> None:
    made = wrapped()
    stage, _ = started(made)
    stage.refine(made.env, 256, **ROUND)
    stage.code_hits = torch.tensor([1.0, 0.1, 0.9, 0.2])
    stage.add_residual()
    assert stage.residual is not None
    head = stage.residual.network.head
    assert head.steered.tolist() == [0.0, 1.0, 0.0, 1.0]
    probs = made.discoverer.prior.probs
    torch.testing.assert_close(probs, torch.tensor([0.1, 0.4, 0.1, 0.4]), check_dtype=False)
    stage.evidence = 64 * stage.base_outcomes.repeat(CODES, 1)
    stage.evidence[1] = 32 * (stage.base_outcomes + torch.eye(CODES + 1)[1])
    stage.settle()
    assert head.steered.tolist() == [0.0, 1.0, 0.0, 0.0]
    first = stage.best["weights"]["residual"]
    assert all(float(value.abs().max()) == 0 for name, value in first.items() if "6.bias" in name)
