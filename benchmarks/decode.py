"""What the diffusers adapter costs beside the denoiser's own passes and diffusers' own loop.

    python benchmarks/decode.py --json benchmarks/results/decode.json
    python benchmarks/decode.py --smoke

Each row is the median over alternating pairs of CPU time on one thread, without gradients:

- ``over_bare``: decode over as many bare calls ``denoiser(sample, timestep, observation)``, with
  nothing between them. Below 1 where the denoiser lets the decode compute once what every call
  repeats.
- ``over_diffusers``: decode over diffusers' loop (``set_timesteps``, then ``scale_model_input``,
  the denoiser and ``step`` for each time step).
- ``max_error``: largest difference to diffusers' loop, float32, relative to its largest entry.

Denoisers: ``mlp`` is modereg's MLPDenoiser 512x3; ``plain_mlp`` a bare ReLU network of the same
width without hooks, so that everything beside its passes shows; ``unet1d`` a small UNet1DModel
without observations.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch
from support.timing import measure
from torch import Tensor, nn

from modereg_integrations.diffusers import DiffusersPolicy, MLPDenoiser
from modereg_integrations.diffusers.calling import call_denoiser

HORIZON, ACTION, OBSERVATION, STEPS = 16, 2, 20, 8
BATCHES = (1, 16, 64, 256, 1024, 4096)


class PlainMLP(nn.Module):
    """The cheapest 512x3 denoiser with observations and time, without hooks."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(HORIZON * ACTION + OBSERVATION + 1, 512),
            nn.ReLU(),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Linear(512, 512),
            nn.ReLU(),
            nn.Linear(512, HORIZON * ACTION),
        )

    def forward(self, sample: Tensor, timestep: Tensor, observation: Tensor) -> Tensor:
        """Denoise ``[B, H, A]``."""
        time = (timestep / 128).expand(len(sample), 1)
        return self.layers(torch.cat([sample.flatten(1), observation, time], 1)).view_as(sample)


def schedulers() -> dict[str, Any]:
    """One scheduler a name, each predicting the sample where it can."""
    cosine = {"beta_schedule": "squaredcos_cap_v2", "num_train_timesteps": 128}
    sample = {**cosine, "prediction_type": "sample"}
    made = {
        "DDIM": diffusers.DDIMScheduler(**sample, clip_sample=False, timestep_spacing="trailing"),
        "DDIM, clipped": diffusers.DDIMScheduler(**sample, timestep_spacing="trailing"),
        "DDIM, thresholded": diffusers.DDIMScheduler(
            **sample, thresholding=True, timestep_spacing="trailing"
        ),
    }
    linear = {"num_train_timesteps": 128, "prediction_type": "v_prediction"}
    names = "DPMSolverMultistep DPMSolverSinglestep EulerDiscrete HeunDiscrete UniPCMultistep"
    for name in [*names.split(), "PNDM", "DEISMultistep", "LMSDiscrete"]:
        made[name] = getattr(diffusers, f"{name}Scheduler")(**linear)
    for name in ("FlowMatchEulerDiscrete", "FlowMatchHeunDiscrete"):
        made[name] = getattr(diffusers, f"{name}Scheduler")(num_train_timesteps=128)
    return made


def denoiser(name: str) -> nn.Module:
    """Make a denoiser by its name."""
    torch.manual_seed(0)
    if name == "unet1d":
        return diffusers.UNet1DModel(
            in_channels=ACTION,
            out_channels=ACTION,
            down_block_types=("DownResnetBlock1D", "DownResnetBlock1D"),
            up_block_types=("UpResnetBlock1D",),
            mid_block_type="MidResTemporalBlock1D",
            out_block_type="OutConv1DBlock",
            block_out_channels=(32, 64),
            time_embedding_type="positional",
            use_timestep_embedding=True,
            act_fn="mish",
        ).eval()
    if name == "plain_mlp":
        return PlainMLP().eval()
    return MLPDenoiser(ACTION, HORIZON, [OBSERVATION], num_train_timesteps=128).eval()


def loops(
    policy: DiffusersPolicy, noise: Tensor, observations: tuple[Tensor, ...]
) -> tuple[Callable[[], Any], Callable[[], Any], Callable[[], Tensor]]:
    """Make the three computations: decode, bare passes, diffusers' loop."""
    scheduler, timesteps = policy.scheduler, policy.schedule.timesteps

    def bare() -> None:
        for timestep in timesteps:
            call_denoiser(policy.denoiser, noise, timestep, observations)

    def theirs() -> Tensor:
        scheduler.set_timesteps(policy.num_inference_steps)
        sample = noise * float(getattr(scheduler, "init_noise_sigma", 1.0))
        for timestep in scheduler.timesteps:
            shown = sample
            if hasattr(scheduler, "scale_model_input"):
                shown = scheduler.scale_model_input(sample, timestep)
            output = call_denoiser(policy.denoiser, shown, timestep, observations)
            sample = scheduler.step(output, timestep, sample).prev_sample
        return sample

    return lambda: policy.decode(noise, *observations), bare, theirs


def row(scheduler: str, network: str, batch: int, pairs: int, minimum: float) -> dict[str, Any]:
    """Measure one combination."""
    observed = network != "unet1d"
    policy = DiffusersPolicy(
        denoiser(network),
        schedulers()[scheduler],
        chunk_shape=(HORIZON, ACTION),
        observation_keys=["observation"] if observed else [],
        num_inference_steps=STEPS,
    ).requires_grad_(False)
    noise = torch.randn(batch, HORIZON, ACTION)
    observations = (torch.randn(batch, OBSERVATION),) if observed else ()
    functions = loops(policy, noise, observations)
    expected = functions[2]()
    error = float((functions[0]() - expected).abs().max() / expected.abs().max())
    decode, bare, theirs = measure(functions, pairs, minimum)
    return {
        "scheduler": scheduler,
        "denoiser": network,
        "batch": batch,
        "over_bare": round(float((decode / bare).median()), 3),
        "over_diffusers": round(float((decode / theirs).median()), 3),
        "milliseconds": round(1e3 * float(decode.median()), 3),
        "max_error": float(f"{error:.1e}"),
    }


def combinations(smoke: bool) -> Iterator[tuple[str, str, int]]:
    """Scheduler, denoiser and batch of each row."""
    for batch in (1, 64) if smoke else BATCHES:
        yield "DDIM", "mlp", batch
        yield "DDIM", "plain_mlp", batch
    for scheduler in list(schedulers())[1:]:
        for batch in (1,) if smoke else (1, 256):
            yield scheduler, "mlp", batch
    for scheduler in ("DDIM",) if smoke else schedulers():
        for batch in (1,) if smoke else (1, 64):
            yield scheduler, "unet1d", batch


def table(rows: list[dict[str, Any]]) -> str:
    """Markdown table of the rows."""
    columns = list(rows[0])
    lines = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    lines += ["| " + " | ".join(str(entry[c]) for c in columns) + " |" for entry in rows]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write one object with rows here")
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pairs, minimum = (3, 0.002) if options.smoke else (15, 0.02)
    rows = []
    with torch.no_grad():
        for scheduler, network, batch in combinations(options.smoke):
            rows.append(row(scheduler, network, batch, pairs, minimum))
            print(rows[-1], flush=True)
    if options.json is not None:
        versions = {"torch": torch.__version__, "diffusers": diffusers.__version__}
        content = {"benchmark": "decode", "versions": versions, "pairs": pairs, "rows": rows}
        options.json.write_text(json.dumps(content, indent=1) + "\n")
        command = "python benchmarks/decode.py --json benchmarks/results/decode.json"
        options.json.with_suffix(".md").write_text(f"`{command}`\n\n{table(rows)}")


if __name__ == "__main__":
    main()
