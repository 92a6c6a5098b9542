"""Stage 1 in one call, and when its rounds end."""

from __future__ import annotations

import warnings

import pytest
import torch

from modereg import functional, keys
from modereg.discovery import (
    ClusterModeDiscoverer,
    annealed,
    clustering,
    decoder_choice,
    discover_modes,
    stage1,
)
from modereg.discovery.judge import CodeJudge
from modereg.discovery.stage1 import (
    Progress,
    Rounds,
    episodes_of_a_round,
    find_modes,
    shows_too_few,
)
from modereg.errors import ConfigurationError
from modereg.residual import ChunkResidual
from modereg.rollouts import collect_episodes
from modereg.wrapping import Wrapped
from tests.discovery.roads import CODES, deaf, wrapped

STEPS = {
    "guided": dict(outcome_steps=100, guide_steps=100, student_steps=100),
    "imitation": dict(imitation_steps=300, refine_steps=100),
}


def see(progress: Progress, hits: float, commanded: float = 0.0, episodes: int = 400) -> Progress:
    progress.see({"hits": hits, "commanded": commanded}, episodes)
    return progress


def test_rounds_end_once_enough_codes_command() -> None:
    progress = Progress(target=0.75)
    assert not progress.over
    assert not see(progress, 0.5, 0.5).over
    assert see(progress, 0.7, 0.75).over
    assert not see(progress, 0.9, 0.5).over, "what commands now counts, not what once did"


def test_rounds_end_once_hits_have_stalled() -> None:
    """One standard error of 400 episodes is .025."""
    progress = Progress(patience=2)
    assert not see(progress, 0.5).over
    assert not see(progress, 0.52).over
    assert not see(progress, 0.55).over, "a rise begins the count anew"
    assert not see(progress, 0.4).over
    assert see(progress, 0.56).over, "above the best by less than the error"


def test_a_rise_may_take_several_rounds() -> None:
    progress = Progress(patience=2)
    for hits in (0.5, 0.52, 0.53, 0.55, 0.56):
        assert not see(progress, hits).over
    assert not see(progress, 0.56).over
    assert see(progress, 0.57).over


def test_how_much_counts_as_a_rise_depends_on_the_episodes() -> None:
    for episodes, over in ((25, True), (2500, False)):
        progress = see(see(Progress(patience=1), 0.5), 0.55, episodes=episodes)
        assert progress.over is over


def test_rounds_without_a_hit_end_too() -> None:
    progress = see(see(Progress(), 0.0), 0.0)
    assert not progress.over
    assert see(progress, 0.0).over


def rounds_of(commanded: list[float], *, residual: bool, most: int = 2) -> list[tuple[bool, int]]:
    """Return which rounds are made where so many codes command after each, and hits rise."""
    rounds, made = Rounds(most, (0.8, 0.2), 0.9, residual=residual), []
    for place, share in enumerate(commanded):
        if rounds.over:
            break
        made.append((rounds.moved, rounds.number))
        rounds.see({"hits": 0.1 * place, "commanded": share}, 10_000)
    return made


def test_rounds_with_a_residual_follow_where_not_every_code_commands() -> None:
    assert rounds_of([0.1] * 9, residual=False) == [(False, 0), (False, 1)]
    four = [(False, 0), (False, 1), (True, 0), (True, 1)]
    assert rounds_of([0.1] * 9, residual=True) == four
    assert rounds_of([0.1, 0.1, 1.0], residual=True) == four[:3]
    assert rounds_of([1.0] * 9, residual=True) == four[:1]
    assert rounds_of([0.1] * 9, residual=True, most=0) == []


def test_the_deviation_falls_again_with_a_residual() -> None:
    rounds = Rounds(2, (0.8, 0.2), 0.9, residual=True)
    found = []
    for _ in range(4):
        found.append(rounds.spread)
        rounds.see({"hits": 0.5, "commanded": 0.1}, 100)
    assert found == [pytest.approx(pair) for pair in [(0.8, 0.2), (0.2, 0.2)] * 2]
    assert rounds.over


def test_the_deviation_falls_geometrically_geometrically() -> None:
    found = [annealed((0.8, 0.2), number, 3) for number in range(4)]
    assert found == pytest.approx([0.8, 0.4, 0.2, 0.2])
    assert annealed((0.8, 0.2), 0, 1) == pytest.approx(0.8)
    assert annealed((0.8, 0.2), 1, 1) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("num_codes", "num_envs", "least", "episodes"),
    [
        (4, 1, 256, 256),
        (4, 1, 512, 512),
        (48, 1, 512, 48 * 40),
        (4, 100, 256, 300),  # no environment idles
        (4, 1000, 256, 1000),
    ],
)
def test_each_code_gets_its_episodes(
    num_codes: int, num_envs: int, least: int, episodes: int
) -> None:
    assert episodes_of_a_round(num_codes, num_envs, least=least) == episodes
    assert episodes_of_a_round(num_codes, num_envs, 77, least) == 77  # what was asked for


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> Wrapped:
    monkeypatch.setattr(decoder_choice, "FRESH", 1000)
    return wrapped()


@pytest.mark.parametrize("method", STEPS)
def test_each_method_finds_four_roads_and_commands_them(method: str, made: Wrapped) -> None:
    env, steering, discoverer = made
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        figures = discover_modes(
            env, steering, discoverer, method=method, episodes=512, refinements=3, **STEPS[method]
        )
    assert isinstance(discoverer, ClusterModeDiscoverer)
    assert discoverer.fitted
    fitted = "outcome_nll" if method == "guided" else "nll"
    assert {"silhouette", fitted} <= set(figures[0])
    assert 3 <= len(figures) <= 5  # clustering, one to three rounds, what is kept
    for row in figures[1:]:
        assert len(row["code_hits"]) == CODES
        assert {"hits", "commanded", "success", "entropy", "accepted"} <= set(row)
    assert figures[-1]["hits"] > 0.8
    assert figures[-1]["commanded"] >= 0.75
    rolled = collect_episodes(env, 256, policy=steering, final=[keys.HISTORY, keys.LATENT])
    reached = discoverer.log_prob(rolled.final).argmax(-1)
    assert float((reached == rolled.final[keys.LATENT]).float().mean()) > 0.8


@pytest.mark.filterwarnings("ignore:stage 1")
def test_the_number_of_codes_is_found_and_its_episodes_are_used(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Several codes may share a road; each road has one that leads there."""
    monkeypatch.setattr(decoder_choice, "FRESH", 1000)
    monkeypatch.setattr(stage1, "MOST_TIMES", 2)
    monkeypatch.setattr(clustering, "RUNS", 1)  # a third of the time
    env, steering, discoverer = made = wrapped(codes=None)
    assert isinstance(discoverer, ClusterModeDiscoverer)
    assert discoverer.fitted
    found = discoverer.num_codes
    assert found >= CODES
    assert steering.head.log_std.in_features == found
    assert env.reset()[keys.LATENT_FEATURES].shape == (64, found)
    assert discoverer.base is not None
    assert len(discoverer.base[0]) >= 1024  # 512 were too few for so many
    rolled: list[int] = []
    monkeypatch.setattr(stage1, "collect_episodes", lambda *_, **__: rolled.append(1))
    figures = discover_modes(*made, refinements=1, **STEPS["guided"])
    assert not rolled
    assert figures[0]["suggested_modes"] == found
    assert discoverer.base is None
    last = collect_episodes(env, 64 * found, policy=steering, final=[keys.HISTORY, keys.LATENT])
    ends = last.final[keys.HISTORY][:, -2:] > 0
    roads = 2 * ends[:, 0].long() + ends[:, 1].long()
    shares = functional.contingency(last.final[keys.LATENT], roads, found, CODES).double()
    assert float((shares / shares.sum(1, keepdim=True)).amax(0).min()) > 0.8


@pytest.mark.filterwarnings("ignore:stage 1")
def test_episodes_that_lack_what_is_read_are_rolled_out_again(made: Wrapped) -> None:
    env, _, discoverer = made
    assert isinstance(discoverer, ClusterModeDiscoverer)
    base = collect_episodes(env, 256, final=[keys.HISTORY, keys.LATENT])
    discoverer.fit_episodes(base)
    discoverer.base = base, {}
    discover_modes(*made, episodes=256, refinements=0, **STEPS["guided"])
    assert discoverer.base is None


def test_a_feature_that_is_not_there_is_refused_before_anything_is_rolled_out(
    made: Wrapped,
) -> None:
    with pytest.raises(ConfigurationError, match="expected the feature 'path' in the steered"):
        find_modes(made.env, 64, feature_key="path")


@pytest.mark.filterwarnings("ignore:stage 1")
def test_a_fitted_discoverer_stays_as_it_is(made: Wrapped) -> None:
    env, _, discoverer = made
    assert isinstance(discoverer, ClusterModeDiscoverer)
    final = [keys.HISTORY, keys.LATENT]
    discoverer.fit_episodes(collect_episodes(env, 256, final=final))
    centroids = discoverer.centroids.clone()
    discover_modes(*made, episodes=256, refinements=0, **STEPS["guided"])
    assert torch.equal(discoverer.centroids, centroids)


@pytest.mark.parametrize(
    ("clustered", "rarest", "episodes", "few"),
    [
        (480, 20, 2048, False),
        (479, 20, 2048, True),
        (480, 19, 2048, True),
        (479, 19, 8192, False),
    ],
)
def test_more_episodes_are_due_where_behaviours_have_few(
    clustered: int, rarest: int, episodes: int, few: bool
) -> None:
    figures = {"clustered_episodes": clustered, "suggested_modes": 6, "rarest": rarest}
    assert shows_too_few(figures, episodes, 2048) == few
    one = figures | {"suggested_modes": 1, "clustered_episodes": 80}
    assert not shows_too_few(one, episodes, 2048)


@pytest.mark.parametrize(
    ("short", "episodes", "few"),
    [(0.3, 512, True), (0.7, 512, True), (0.8, 512, False), (0.3, 1024, True), (0.6, 1024, False),
     (0.3, 2048, False), (0.0, 512, False)],
)  # fmt: skip
def test_more_episodes_where_they_bring_enough_successes(
    short: float, episodes: int, few: bool
) -> None:
    """Of at most four times 512; where failures are clustered, one behaviour means nothing."""
    figures = {"clustered_episodes": episodes, "suggested_modes": 1, "rarest": 100}
    assert shows_too_few(figures | {"successes_short": short}, episodes, 512) == few


@pytest.mark.parametrize(("target", "steps"), [(0.0, 2), (0.25, 3)])
def test_rounds_end_at_the_target(made: Wrapped, target: float, steps: int) -> None:
    """A target of nothing takes no round, and one that the first round reaches takes one."""
    found = discover_modes(*made, episodes=256, refinements=5, target=target, **STEPS["guided"])
    assert len(found) == steps


def test_without_a_round_the_first_fit_is_judged(made: Wrapped) -> None:
    found = discover_modes(*made, episodes=256, refinements=0, **STEPS["guided"])
    assert len(found) == 2
    assert found[-1]["hits"] > 0.4


def test_what_commands_nothing_is_warned_of_and_is_the_base(made: Wrapped) -> None:
    few = dict(outcome_steps=1, guide_steps=1)
    with pytest.warns(UserWarning, match="no code commands, and a fine-tuning that starts here"):
        figures = discover_modes(*made, episodes=256, refinements=1, **few)
    assert figures[-1]["commanded"] == 0.0
    assert float(made.steering.head.steered.sum()) <= 1  # by luck


def test_each_loss_beside_the_base_is_warned_of(
    made: Wrapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(CodeJudge, "losses", lambda _: ("Worse in one.", "Worse in another."))
    with pytest.warns(UserWarning, match="stage 1: Worse in") as caught:
        discover_modes(*made, episodes=256, refinements=0, **STEPS["guided"])
    said = [str(warning.message) for warning in caught]
    assert [text for text in said if "Worse" in text] == [
        "stage 1: Worse in one.",
        "stage 1: Worse in another.",
    ]


@pytest.mark.filterwarnings("ignore:stage 1")
def test_what_noise_does_not_command_a_residual_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoder_choice, "FRESH", 1000)
    env, steering, discoverer = made = wrapped(deaf)
    assert env.residual is None
    figures = discover_modes(*made, episodes=512, refinements=3, residual=6.0, **STEPS["guided"])
    assert figures[1]["hits"] < 0.5
    assert figures[-1]["hits"] > 0.7
    rolled = collect_episodes(env, 256, policy=steering, final=[keys.HISTORY, keys.LATENT])
    reached = discoverer.log_prob(rolled.final).argmax(-1)
    assert float((reached == rolled.final[keys.LATENT]).float().mean()) > 0.7
    counts = torch.bincount(rolled.final[keys.LATENT], minlength=CODES)
    assert int(counts.min()) > 32, "codes are drawn equally often again"
    assert isinstance(env.residual, ChunkResidual)
    assert env.residual.bound == 6.0


def test_a_residual_of_imitation_is_refused(made: Wrapped) -> None:
    with pytest.raises(ConfigurationError, match="'guided' for a residual, got 'imitation'"):
        discover_modes(*made, method="imitation", residual=0.5)


def test_another_method_is_refused(made: Wrapped) -> None:
    with pytest.raises(ConfigurationError, match="'guided' or 'imitation', got 'cluster'"):
        discover_modes(*made, method="cluster")  # type: ignore[arg-type]
