"""What the diffusers adapter costs beside the denoiser's own passes and diffusers' own loop.

    python benchmarks/decode.py --json benchmarks/results/decode.json
    python benchmarks/decode.py --quick

Each row is the median over alternating pairs of CPU time on one thread, without gradients:

- ``over_bare``: decode over as many bare calls ``denoiser(sample, timestep, observation)``, with
  nothing between them. Below 1 where the denoiser lets the decode compute once what every call
  repeats.
- ``over_diffusers``: decode over diffusers' loop (``set_timesteps``, then ``scale_model_input``,
  the denoiser and ``step`` for each time step).
- ``max_error``: largest difference to diffusers' loop, float32, relative to its largest entry.

Denoisers: ``mlp`` is modereg's MLPDenoiser 512x3, ``plain_mlp`` the same network as a module
without hooks (everything recomputed at each call), ``unet1d`` a small UNet1DModel without
observations.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import diffusers
import torch
from torch import Tensor, nn

from modereg_integrations.diffusers import DiffusersPolicy, MLPDenoiser
from modereg_integrations.diffusers.denoiser import call_denoiser

HORIZON, ACTION, OBSERVATION, STEPS = 16, 2, 20, 8
BATCHES = (1, 16, 64, 256, 1024, 4096)


class PlainMLP(nn.Module):
    """An MLPDenoiser behind a plain call, without its hooks."""

    def __init__(self, network: MLPDenoiser) -> None:
        super().__init__()
        self.network = network

    def forward(self, sample: Tensor, timestep: Tensor, observation: Tensor) -> Tensor:
        """Denoise ``[B, H, A]``."""
        return self.network(sample, timestep, observation)


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
    network = MLPDenoiser(ACTION, HORIZON, [OBSERVATION], num_train_timesteps=128)
    return (PlainMLP(network) if name == "plain_mlp" else network).eval()


def loops(
    policy: DiffusersPolicy, noise: Tensor, observations: tuple[Tensor, ...]
) -> tuple[Callable[[], Any], Callable[[], Any], Callable[[], Tensor]]:
    """The three computations: decode, bare passes, diffusers' loop."""
    scheduler, timesteps = policy.scheduler, policy.schedule.timesteps

    def bare() -> None:
        for timestep in timesteps:
            call_denoiser(policy.denoiser, noise, timestep, observations)

    def theirs() -> Tensor:
        scheduler.set_timesteps(policy.num_inference_steps)
        sample = noise * getattr(scheduler, "init_noise_sigma", 1.0)
        for timestep in scheduler.timesteps:
            shown = sample
            if hasattr(scheduler, "scale_model_input"):
                shown = scheduler.scale_model_input(sample, timestep)
            output = call_denoiser(policy.denoiser, shown, timestep, observations)
            sample = scheduler.step(output, timestep, sample).prev_sample
        return sample

    return lambda: policy.decode(noise, *observations), bare, theirs


def seconds(function: Callable[[], Any], repeats: int) -> float:
    """CPU seconds of one call, over several in a row."""
    start = time.process_time()
    for _ in range(repeats):
        function()
    return (time.process_time() - start) / repeats


def ratio(
    ours: Callable[[], Any], other: Callable[[], Any], pairs: int, minimum: float
) -> tuple[float, float]:
    """Median of alternating pairs ours / other, and the median seconds of ours."""
    repeats = max(1, round(minimum / max(seconds(ours, 2), 1e-6)))
    measured = []
    for pair in range(pairs):
        first, second = (ours, other) if pair % 2 else (other, ours)
        a, b = seconds(first, repeats), seconds(second, repeats)
        measured.append((a, b) if pair % 2 else (b, a))
    return statistics.median(a / b for a, b in measured), statistics.median(a for a, _ in measured)


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
    decode, bare, theirs = loops(policy, noise, observations)
    expected = theirs()
    error = float((decode() - expected).abs().max() / expected.abs().max())
    over_bare, took = ratio(decode, bare, pairs, minimum)
    over_diffusers, _ = ratio(decode, theirs, pairs, minimum)
    return {
        "scheduler": scheduler,
        "denoiser": network,
        "batch": batch,
        "over_bare": round(over_bare, 3),
        "over_diffusers": round(over_diffusers, 3),
        "milliseconds": round(1e3 * took, 3),
        "max_error": float(f"{error:.1e}"),
    }


def combinations(quick: bool) -> Iterator[tuple[str, str, int]]:
    """Scheduler, denoiser and batch of each row."""
    for batch in (1, 64) if quick else BATCHES:
        yield "DDIM", "mlp", batch
        yield "DDIM", "plain_mlp", batch
    for scheduler in list(schedulers())[1:]:
        for batch in (1,) if quick else (1, 256, 4096):
            yield scheduler, "mlp", batch
    for scheduler in ("DDIM",) if quick else schedulers():
        for batch in (1,) if quick else (1, 64):
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
    parser.add_argument("--quick", action="store_true", help="a few seconds, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    pairs, minimum = (3, 0.002) if options.quick else (15, 0.02)
    rows = []
    with torch.no_grad():
        for scheduler, network, batch in combinations(options.quick):
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
