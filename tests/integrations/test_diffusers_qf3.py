"""A critic's gradient on diffusions: that of the flow that they are by a change of variables."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, FlowMatchEulerDiscreteScheduler
from tensordict.nn import TensorDictModule
from torch import Tensor, nn

from modereg import keys
from modereg.decoding import ChunkDecoder
from modereg.layout import Layout
from modereg.objectives import QF3Loss
from modereg.policies import DenoisingChain, freeze
from modereg.steering import SteeringPolicy
from modereg.testing import CountingEnv
from modereg.wrapping import steer_env
from modereg_integrations.diffusers import DiffusersPolicy
from modereg_integrations.diffusers.normalizer import Normalizer
from tests.objectives.made import CODES, chunk_critic, transitions

SHAPE, SIZE = (4, 2), 30


def scheduler(kind: str, spacing: str = "leading") -> DDIMScheduler:
    return DDIMScheduler(
        num_train_timesteps=100,
        beta_schedule="squaredcos_cap_v2",
        prediction_type=kind,
        clip_sample=False,
        timestep_spacing=spacing,
        steps_offset=10,
    )


class Told(nn.Module):
    """Returns, of a velocity slope x + shift on the straight path, what a sampler asks for."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind, alphas = kind, scheduler("epsilon").alphas_cumprod.double()
        self.register_buffer("signal", alphas.sqrt())
        self.register_buffer("noise", (1 - alphas).sqrt())
        self.slope = nn.Parameter(torch.tensor(-0.4))
        self.shift = nn.Parameter(torch.tensor(0.1))

    def forward(self, x: Tensor, timestep: Tensor, observation: Tensor) -> Tensor:
        if self.kind == "flow":  # a velocity to the noise
            return -(self.slope * x + self.shift)
        signal, noise = (
            table[timestep.long()].reshape(-1, 1, 1) for table in (self.signal, self.noise)
        )
        both = signal + noise
        time, straight = signal / both, x / both
        velocity = self.slope * straight + self.shift
        sample, epsilon = straight + (1 - time) * velocity, straight - time * velocity
        wanted = {"sample": sample, "epsilon": epsilon}
        return wanted.get(self.kind, signal * epsilon - noise * sample)


def loss_of(kind: str, sampler: DDIMScheduler | None = None) -> tuple[QF3Loss, Told]:
    torch.manual_seed(0)
    normalizer = Normalizer([(3,)], 2)
    normalizer.fit([torch.randn(50, 3)], 0.5 * torch.randn(50, *SHAPE), None)
    steps = {"num_inference_steps": 6}
    if kind == "flow":
        own = scheduler("epsilon")
        own.set_timesteps(6)
        share = own.alphas_cumprod[own.timesteps].double()
        times = share.sqrt() / (share.sqrt() + (1 - share).sqrt())
        steps = {"sigmas": (1 - times).tolist()}
        sampler = FlowMatchEulerDiscreteScheduler()
    base = DiffusersPolicy(
        Told(kind),
        sampler or scheduler(kind),
        chunk_shape=SHAPE,
        normalizer=normalizer,
        **steps,
    )
    chain = DenoisingChain(freeze(base.double()), noise=0.0)
    env = steer_env(CountingEnv([3, 7], bound=9.0), base, CODES, Layout(12, execute=3))
    env.set_decoder(chain)
    actor = SteeringPolicy(["observation"], 3, CODES, SHAPE, hidden=(8,))
    critic: TensorDictModule = chunk_critic()
    with torch.no_grad():
        chain.tuned.denoiser.slope.add_(0.2)
        chain.tuned.denoiser.shift.sub_(0.3)
    loss = QF3Loss(chain, actor, critic, ChunkDecoder(env), gamma=0.9, clip=0.3, kl_coef=0.7)
    return loss, chain.tuned.denoiser


def losses(loss: QF3Loss) -> dict[str, Tensor]:
    torch.manual_seed(1)
    data = transitions(SIZE).double()
    data.set(keys.ACTION, torch.randn(SIZE, *SHAPE).double())
    data.get("next").set(keys.CHUNK, 0.3 * torch.randn(SIZE, *SHAPE).double())
    torch.manual_seed(2)
    return loss.actor_loss(data)


@pytest.mark.parametrize("kind", ["epsilon", "sample", "v_prediction"])
def test_a_diffusion_has_the_loss_and_the_gradient_of_its_flow(kind: str) -> None:
    (loss, told), (flow, expected) = loss_of(kind), loss_of("flow")
    torch.testing.assert_close(loss.chain.path.times, flow.chain.path.times, rtol=0.0, atol=1e-5)
    out, by_flow = losses(loss), losses(flow)
    assert 0.1 < float(out["clipped"]) < 0.9
    for name, value in by_flow.items():
        torch.testing.assert_close(out[name], value, rtol=1e-3, atol=1e-4)
    out["loss_actor"].backward()
    by_flow["loss_actor"].backward()
    for name in ("slope", "shift"):
        found, wanted = getattr(told, name).grad, getattr(expected, name).grad
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)


def test_near_pure_noise_an_error_of_the_predicted_noise_stays_of_its_size() -> None:
    loss, told = loss_of("epsilon", scheduler("epsilon", "trailing"))
    path = loss.chain.path
    assert float(1 / path.times[0]) > 1000.0
    torch.testing.assert_close(path.rates[0] * path.output[0].abs(), torch.tensor(20.0).double())
    out = losses(loss)
    assert float(out["loss_cfm"]) < 1000.0
    out["loss_actor"].backward()
    assert torch.isfinite(told.slope.grad)
