"""What reading and training the categorical estimator cost beside its network alone.

    python benchmarks/estimator_cost.py --json benchmarks/results/estimator_cost.json
    python benchmarks/estimator_cost.py --smoke

Each row is the median over alternating measurements of CPU time on one thread:

- ``reading``: ``CategoricalMI.log_ratio`` over the network's forward pass on the same tensor,
  without gradients.
- ``training``: ``CategoricalMI.loss`` and its backward over the network's forward pass,
  ``torch.nn.functional.cross_entropy`` and backward, both with the same noise on the input.
- ``transform``: a whole ``MIReward`` with ``timing="dense"`` on a batch of transitions, over the
  same forward pass; ``difference`` reads it twice.

The network is the default, an MLP of 2x128 Mish units, on a history of 13 positions, for 16 codes.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from support.results import write_results
from support.timing import measure
from tensordict import TensorDict
from torch import Tensor
from torch.nn import functional as F

from modereg.estimators import CategoricalMI
from modereg.networks import InputNoise
from modereg.transforms import MIReward

FEATURES, CODES, NOISE = 26, 16, 0.1
BATCHES = (1, 16, 64, 256, 1024, 4096, 16384)
LIMIT, LIMIT_FROM = 1.15, 4096


def transitions(batch: int) -> TensorDict:
    """Transitions with the code in the root and features on both sides."""
    data = TensorDict({"latent": torch.randint(CODES, (batch,))}, [batch])
    data["history"] = torch.randn(batch, FEATURES)
    data["next"] = TensorDict(
        {"history": torch.randn(batch, FEATURES), "reward": torch.zeros(batch, 1)}, [batch]
    )
    return data


def reading(estimator: CategoricalMI, data: TensorDict) -> list[Callable[[], Any]]:
    """The network's pass, and what pays by it."""
    network, features = estimator.network.module, data["history"]
    paid = [transform(estimator, timing) for timing in ("dense", "difference")]

    def bare() -> Tensor:
        with torch.no_grad():
            return network(features)

    def ratio() -> Tensor:
        with torch.no_grad():
            return estimator.log_ratio(data)

    return [bare, ratio, *(lambda reward=reward: reward(data) for reward in paid)]


def transform(estimator: CategoricalMI, timing: Literal["dense", "difference"]) -> MIReward:
    """Return the transform as a training loop has it."""
    return MIReward(estimator, timing=timing, gamma=0.99)


def training(estimator: CategoricalMI, data: TensorDict) -> list[Callable[[], Any]]:
    """One gradient, in bare torch and by the estimator."""
    network, features, codes = estimator.network.module, data["history"], data["latent"]
    assert isinstance(network, InputNoise)

    def step(loss: Callable[[], Tensor]) -> None:
        network.zero_grad(set_to_none=True)
        loss().backward()

    def bare() -> None:
        step(lambda: F.cross_entropy(network(features, noisy=True), codes))

    def ours() -> None:
        step(lambda: estimator.loss(data))

    return [bare, ours]


def row(batch: int, rounds: int, minimum: float) -> dict[str, Any]:
    """Measure one batch size."""
    torch.manual_seed(0)
    estimator, data = CategoricalMI(FEATURES, CODES), transitions(batch)
    estimator.network.module.std = NOISE
    read = measure(reading(estimator, data), rounds, minimum)
    trained = measure(training(estimator, data), rounds, minimum)
    over = [float((part / read[0]).median()) for part in read[1:]]
    return {
        "batch": batch,
        "reading": over[0],
        "training": float((trained[1] / trained[0]).median()),
        "transform, dense": over[1],
        "transform, difference": over[2],
        "forward_us": 1e6 * float(read[0].median()),
        "gradient_us": 1e6 * float(trained[0].median()),
    }


def main() -> None:
    """Measure, print and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write the rows here, and a table beside")
    parser.add_argument("--smoke", action="store_true", help="a few seconds, to see that it runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rounds, minimum = (3, 0.002) if options.smoke else (31, 0.05)
    rows = []
    for batch in BATCHES[:2] if options.smoke else BATCHES:
        rows.append(row(batch, rounds, minimum))
        print(rows[-1], flush=True)
    large = [entry for entry in rows if entry["batch"] >= LIMIT_FROM]
    holds = all(max(entry["reading"], entry["training"]) <= LIMIT for entry in large)
    result = {
        "benchmark": "estimator_cost",
        f"reading and training at most {LIMIT} from {LIMIT_FROM} on": holds if large else None,
        "rows": rows,
    }
    write_results(options.json, "Cost of the categorical estimator", result)


if __name__ == "__main__":
    main()
