"""The main path on any device: each step a function, run in order, that another may build on.

``python -m tests.devices.main_path`` runs it on the fake accelerator, and prints what each step
gave, as JSON.
"""

from __future__ import annotations

import json
import tempfile
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tensordict import TensorDict
from tensordict.nn import TensorDictModule
from torch import Tensor
from torchrl.collectors import Collector
from torchrl.envs import EnvBase
from torchrl.objectives.value import GAE

import modereg
from modereg import keys
from modereg.balances.config import BALANCES
from modereg.checkpoints import Adapter, load_adapter, save_adapter
from modereg.commanding import CommandedPolicy
from modereg.devices import across_devices, forked_generators
from modereg.discovery import GuidedDiscovery, VariationalModeDiscoverer
from modereg.discovery.release import release
from modereg.estimators import CategoricalMI
from modereg.layout import Layout
from modereg.learners.base import Problem
from modereg.learners.config import DSRLConfig, QF3Config, ResidualConfig, SACConfig
from modereg.metrics import behaviour_metrics
from modereg.networks import MLP
from modereg.novelty import RandomNetworkDistillation
from modereg.objectives import ChainPPOLoss, DistillationLoss, LeanPPOLoss
from modereg.policies import ChainRecorder, DenoisingChain, FlowPolicy
from modereg.priors import LearnedPrior, NormalPrior, SphericalPrior
from modereg.recordings import make_recording, save_recording
from modereg.rollouts import collect_episodes
from modereg.storage import load_state, save_state
from modereg.tasks import Avoid, GaussianMixture
from modereg.testing import TinyPolicy
from modereg.transforms import MIReward, NoveltyReward

CODES, DECISIONS, ENVS, HORIZON = 3, 6, 16, 4
OBSERVED = [keys.OBSERVATION]


@dataclass
class Route:
    """What the steps share.

    Attributes:
        learner: device of policy, steering, discoverer and losses.
        simulator: device of the environment.
        made: what earlier steps have left.
    """

    learner: torch.device
    simulator: torch.device
    made: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:
        return self.made[name]


def wrapping(path: Route) -> None:
    made = modereg.wrap(
        _env(path.simulator),
        TinyPolicy(2, scale=0.15).to(path.learner),
        Layout(max_steps=DECISIONS * HORIZON, feature_dims=(0, 1)),
        CODES,
    )
    path.made |= {"env": made.env, "steering": made.steering.to(path.learner)}
    path.made["discoverer"] = made.discoverer.to(path.learner)


def _env(device: torch.device) -> EnvBase:
    return GaussianMixture(ENVS, pay_spread=0.3, max_delta=0.1, device=device, seed=0)


def episodes(path: Route) -> None:
    """Of the base by random actions, and of the steering policy wherever it lives."""
    for policy in (None, path.steering):
        rolled = collect_episodes(
            path.env,
            2 * ENVS - 3,
            policy=policy,
            keep=[*OBSERVED, keys.ACTION],
            final=[keys.SUCCESS, keys.LATENT, keys.HISTORY],
        )
        assert rolled.valid.device == path.simulator
        assert len(rolled.flat()) == len(rolled.flat(torch.ones(len(rolled), dtype=torch.bool)))
    path.made["rolled"] = rolled.to(path.learner)
    assert path.rolled.final.get(keys.HISTORY).device == path.learner


def clusters(path: Route) -> None:
    path.discoverer.steps, path.discoverer.min_successes = 20, 10**6  # all are clustered
    options = {"episodes": 8 * ENVS, "refinements": 2, "refine_episodes": 2 * ENVS}
    steps = {"imitation_steps": 20, "refine_steps": 10, "validation": 0.1}
    figures = modereg.discover_modes(
        path.env, path.steering, path.discoverer, method="imitation", **options, **steps
    )
    assert figures[0]["num_codes"] == CODES
    assert {value.device for value in path.steering.parameters()} == {path.learner}


def guided(path: Route) -> None:
    """Through the decoder, and through a student of one that has no gradient."""
    policy = path.env.transform[1].policy
    decode, steps = policy.decode, {"outcome_steps": 4, "guide_steps": 4, "student_steps": 4}
    for part in (decode, lambda noise, *seen: decode(noise.detach(), *seen)):
        policy.decode = part
        stage = GuidedDiscovery(path.env, path.steering, path.discoverer, **steps)
        base = stage.roll_out(path.env, 4 * ENVS)
        stage.begin(base)
        stage.refine(path.env, 2 * ENVS, std=0.5, next_std=0.3)
        stage.load_state_dict(stage.state_dict())
        figures = stage.judge(base)
        stage.choose(figures)
        stage.settle()
        assert len(stage.verdict(figures).codes) == CODES
        assert stage.model.networks.weights[0].device == path.learner
    del policy.decode
    release(path.steering, base.flat().to(path.learner), steps=4)


def collecting(path: Route) -> None:
    # TorchRL's own moving between devices knows no fake one.
    apart = {"env_device": path.simulator, "policy_device": path.learner}
    fake = path.learner.type == "fakegpu"
    collector = Collector(
        path.env,
        across_devices(path.steering) if fake else path.steering,
        frames_per_batch=ENVS * DECISIONS,
        total_frames=-1,
        trust_policy=True,
        auto_register_policy_transforms=False,
        **({} if fake else apart),
    )
    path.made["batch"] = collector.rollout().to(path.learner)
    assert path.batch.get(("next", keys.HISTORY)).device == path.learner


def variational(path: Route) -> None:
    dim = path.env.observation_spec[keys.HISTORY].shape[-1]
    found = VariationalModeDiscoverer(CategoricalMI(dim, CODES).to(path.learner), steps=2)
    found.fit(path.env.rollout(DECISIONS, break_when_any_done=False))
    found(path.batch)
    assert found.update()["loss"] > 0
    path.made["found"] = found


def rewards(path: Route) -> None:
    reward = MIReward(path.found.estimator, timing="final", gamma=0.999).to(path.learner)
    path.batch.set(("next", keys.EPISODE_REWARD), path.batch.get(("next", keys.REWARD)).clone())
    for config in BALANCES.values():
        balance = config().make(reward, env_steps=100)
        balance.update(path.batch)
        balance.load_state_dict(balance.state_dict())
        assert reward.coef.device == path.learner
    path.made["paid"] = reward(path.batch)
    assert path.paid.get(("next", keys.MI_REWARD)).device == path.learner


def ppo(path: Route) -> None:
    network = MLP(2 + CODES, 1, (16,), octaves=2, plain_features=CODES).to(path.learner)
    critic = TensorDictModule(network, [*OBSERVED, keys.LATENT_FEATURES], ["state_value"])
    advantage = GAE(gamma=0.999, lmbda=0.95, value_network=critic)
    loss = LeanPPOLoss(path.steering, critic, kl_coef=0.1)
    for part in (advantage, loss):
        part.set_keys(reward=keys.REGULARIZED_REWARD)
    parameters = [*path.steering.parameters(), *critic.parameters()]
    optimizer = torch.optim.Adam(parameters, 1e-3)
    losses = loss(advantage(path.paid))
    sum(value for name, value in losses.items() if name.startswith("loss_")).backward()
    optimizer.step()
    path.made["optimizer"] = optimizer


def replaying(path: Route) -> None:
    """SAC and DSRL, and a residual last, which the environment then plays."""
    policy = path.env.transform[1].policy
    reward = MIReward(path.found.estimator, path.env.layout)
    key, small = keys.REGULARIZED_REWARD, {"prefill": 4, "minibatch": 4, "buffer": 64}
    problem = Problem(path.env, path.steering, policy, key, reward.to(path.learner), hidden=(8,))
    step = {"action": torch.zeros(5, 2, device=path.learner), "success": True}
    seen = torch.zeros(6, 2, device=path.simulator)
    recording = make_recording([step | {keys.OBSERVATION: seen}], path.env.base_env)
    with tempfile.TemporaryDirectory() as folder:
        shown = {"demonstrations": Path(folder) / "shown.safetensors"}
        save_recording(shown["demonstrations"], recording)
        for kind in (SACConfig, DSRLConfig, ResidualConfig):
            options = small | ({} if kind is SACConfig else shown)
            learner = kind(**options, updates=0.1).make(problem)
            first, later = (learner.update(reward(path.batch)) for _ in range(2))
            assert "loss_actor" not in first, "the critic learns first"
            assert {"loss_qvalue", "loss_actor"} <= set(later)
            learner.load_state_dict(learner.state_dict())
            assert learner.sample()["next", keys.REWARD].device == path.learner
    path.env.set_residual(learner.loss.explore)
    collect_episodes(path.env, ENVS, policy=path.steering)
    path.env.set_residual(learner.residual)


def weights(path: Route) -> None:
    """PPO, and a critic, on copies of a flow's weights, which the environment plays meanwhile."""
    base = FlowPolicy(
        _Velocity().to(path.learner),
        observation_keys=OBSERVED,
        chunk_shape=path.env.transform[1].policy.chunk_shape,
        time_convention="noise_at_0",
        num_steps=2,
    )
    chain = DenoisingChain(base, noise=0.5)
    recorder = ChainRecorder(chain)
    path.env.set_decoder(recorder)
    rolled = path.env.rollout(2, break_when_any_done=False)
    path.env.set_decoder(None)
    batch = recorder.write(rolled.to(path.learner))
    network = MLP(2 + CODES, 1, (16,), octaves=2, plain_features=CODES).to(path.learner)
    critic = TensorDictModule(network, [*OBSERVED, keys.LATENT_FEATURES], ["state_value"])
    for key in ("advantage", "value_target"):
        batch.set(key, torch.ones_like(batch.get(("next", keys.REWARD))))
    losses = ChainPPOLoss(chain, critic, kl_coef=0.1)(batch)
    sum(value for name, value in losses.items() if name.startswith("loss_")).backward()
    assert all(value.grad is not None for value in chain.tuned.parameters())
    chain.load_weights(chain.weights().weights)
    problem = Problem(path.env, path.steering, base, keys.REWARD, hidden=(8,))
    options = {"prefill": 4, "minibatch": 4, "buffer": 64, "updates": 1.0, "actor_every": 1}
    learner = QF3Config(**options).make(problem)
    _, figures = (learner.update(batch) for _ in range(2))
    assert {"loss_qvalue", "loss_actor"} <= set(figures)
    path.env.set_decoder(None)


class _Velocity(torch.nn.Module):
    """A linear velocity of chunks of 4 steps in the plane."""

    def __init__(self) -> None:
        super().__init__()
        self.net = torch.nn.Linear(2 * HORIZON + 1 + 2, 2 * HORIZON)

    def forward(self, x: Tensor, t: Tensor, observation: Tensor) -> Tensor:
        inputs = torch.cat([x.flatten(-2), t.unsqueeze(-1), observation], -1)
        return self.net(inputs).unflatten(-1, (HORIZON, 2))


def objectives(path: Route) -> None:
    """The loss and the reward of novelty."""
    distillation = RandomNetworkDistillation.mlp(2, 4, (8,)).to(path.learner)
    DistillationLoss(distillation, proportion=0.5)(path.batch)["loss_distillation"].backward()
    NoveltyReward(distillation).to(path.learner)(path.batch)


def priors(path: Route) -> None:
    for prior in (LearnedPrior(CODES), NormalPrior(2), SphericalPrior(3)):
        codes = prior.sample(torch.Size([5]), path.learner)
        features, log_prob = prior.features(codes), prior.log_prob(codes)
        assert codes.device == features.device == log_prob.device == path.learner


def metrics(path: Route) -> None:
    final = path.rolled.final
    behaviour_metrics(
        final.get(keys.SUCCESS).squeeze(-1),
        final.get(keys.LATENT),
        CODES,
        returns=path.rolled.returns,
        predicted_codes=path.found.estimator.log_prob(final).argmax(-1),
    ).to_dict()
    path.found.estimator.figures(final)


def checkpoints(path: Route) -> None:
    """States of what was trained go to a file and back; training goes on from them."""
    state = {
        "steering": dict(path.steering.state_dict()),
        "found": dict(path.found.state_dict()),
        "optimizer": path.optimizer.state_dict(),
    }
    with tempfile.TemporaryDirectory() as folder:
        save_state(Path(folder) / "state.pt", state)
        loaded = load_state(Path(folder) / "state.pt")
    path.steering.load_state_dict(loaded["steering"])
    path.found.load_state_dict(loaded["found"])
    path.optimizer.load_state_dict(loaded["optimizer"])
    path.found.update()
    path.optimizer.step()


def adapters(path: Route) -> None:
    prior = path.found.estimator.prior
    made = Adapter(
        steering=path.steering,
        estimator=path.found.estimator,
        prior=prior,
        layout=path.env.layout,
        base_reference="a base",
        base_fingerprint=path.env.transform[1].policy.fingerprint(),
        extra={},
        residual=path.env.residual,
    )
    with tempfile.TemporaryDirectory() as folder:
        save_adapter(Path(folder), made)
        loaded = load_adapter(Path(folder))
    assert torch.equal(
        loaded.steering.head.log_std.weight.cpu(), path.steering.head.log_std.weight.cpu()
    )
    root = path.env.reset()
    chunk = CommandedPolicy(path.env.transform[1].policy, made, 1).decode(root)
    assert chunk.device == root.device == path.simulator
    path.steering.requires_grad_(True)


def generators(path: Route) -> None:
    with forked_generators(path.learner, path.simulator):
        torch.rand(3, device=path.learner)


def avoid(path: Route) -> None:
    Avoid(8, device=path.simulator, seed=0).rollout(3)


STEPS: dict[str, Callable[[Route], None]] = {
    step.__name__: step
    for step in (
        wrapping,
        episodes,
        clusters,
        guided,
        collecting,
        variational,
        rewards,
        ppo,
        replaying,
        weights,
        objectives,
        priors,
        metrics,
        checkpoints,
        adapters,
        generators,
        avoid,
    )
}

CONTROLS: dict[str, Callable[[torch.device], Any]] = {
    "two devices are added": lambda device: torch.ones(3, device=device) + torch.ones(3),
    "a mask is elsewhere": lambda device: (
        torch.ones(3, dtype=torch.bool, device=device) & torch.ones(3, dtype=torch.bool)
    ),
    "the CPU is indexed by the device": lambda device: torch.ones(9)[
        torch.zeros(3, dtype=torch.int64, device=device)
    ],
    "a gather's index is elsewhere": lambda device: torch.ones(9, device=device).gather(
        0, torch.zeros(3, dtype=torch.int64)
    ),
    "a generator is elsewhere": lambda device: torch.rand(
        3, device=device, generator=torch.Generator()
    ),
    "a tensor becomes an array": lambda device: torch.rand(3, device=device).numpy(),
    "a network reads another device": lambda device: torch.nn.Linear(3, 2).to(device)(
        torch.ones(1, 3)
    ),
    "a tensordict is joined with another": lambda device: torch.cat(
        [TensorDict({"a": torch.ones(2)}, [2]), TensorDict({"a": torch.ones(2)}, [2]).to(device)]
    ),
}
"""What must raise on a device, real or fake: without it a pass would say nothing."""


def attempt(action: Callable[[], Any]) -> str:
    """Return where and how an action failed, nothing if it did not."""
    try:
        action()
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        ours = [frame for frame in frames if "/modereg" in frame.filename] or list(frames)
        places = [f"{frame.filename}:{frame.lineno} {frame.line}" for frame in ours[-3:]]
        return f"{type(error).__name__}: {error}\n" + "\n".join(places)
    return ""


def results(learner: torch.device, simulator: torch.device) -> dict[str, str]:
    """Run the whole path; return what :func:`attempt` says of each step."""
    torch.manual_seed(0)
    path = Route(learner, simulator)
    return {name: attempt(lambda step=step: step(path)) for name, step in STEPS.items()}


def main() -> None:
    from tests.devices.fake_accelerator import install

    torch.set_num_threads(1)
    fake, cpu = install(), torch.device("cpu")
    controls = {name: attempt(lambda run=run: run(fake)) for name, run in CONTROLS.items()}
    apart = results(fake, cpu)
    together = results(fake, fake)
    print(json.dumps({"controls": controls, "together": together, "apart": apart}))


if __name__ == "__main__":
    main()
