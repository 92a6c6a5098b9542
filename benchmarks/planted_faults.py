"""Planted faults: wrong estimators, rewards and chunks, and what the public checks say of each.

    python benchmarks/planted_faults.py --json benchmarks/results/planted_faults.json
    python benchmarks/planted_faults.py --smoke

Each row: fault (a class in ``tests/testing/*_faults.py`` that is right but for one thing), check
(the function of ``modereg.testing`` that has to notice it), seconds (CPU time of that check) and
sentence (what it raised; "not caught" where it raised nothing). ``faults``, ``caught`` and
``originals`` (right ones that pass the same checks) count them.
"""

from __future__ import annotations

import argparse
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from support.results import write_results

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from modereg.testing import check_transform
from modereg.testing.chunks import check_chunk
from modereg.testing.rewards import check_reward
from modereg.testing.starts import check_starts
from modereg.transforms import ActionChunk, MIReward
from tests.testing.faults import SKEWED, Fault, check, classifier, gaussian
from tests.testing.loss_faults import LOSS_FAULTS
from tests.testing.ratio_faults import RATIO_FAULTS
from tests.testing.transform_faults import TRANSFORM_FAULTS, chain

FAULTS = [*RATIO_FAULTS, *LOSS_FAULTS, *TRANSFORM_FAULTS]
ORIGINALS = {
    "CategoricalMI": partial(check, classifier, posterior=True),
    "CategoricalMI, skewed prior": partial(check, partial(classifier, prior=SKEWED)),
    "GaussianMI": partial(check, gaussian),
    "MIReward": partial(check_reward, MIReward),
    "ActionChunk": partial(check_chunk, ActionChunk),
    "the chain, started again": partial(check_starts, chain),
    "the chain": partial(check_transform, chain, contexts=["batched"]),
}


def caught(fault: Fault) -> dict[str, Any]:
    """Run the check of a fault and return its row."""
    start = time.process_time()
    try:
        fault.run()
        sentence = "not caught"
    except AssertionError as error:
        sentence = " ".join(str(error).split())
    spent = time.process_time() - start
    return {
        "fault": fault.name,
        "check": fault.check,
        "seconds": round(spent, 3),
        "sentence": sentence.replace("|", "/"),
    }


def main() -> None:
    """Plant, print and write the table; fail if anything was missed."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--json", type=Path, help="write one object with rows here")
    parser.add_argument("--smoke", action="store_true", help="every tenth fault")
    options = parser.parse_args()
    torch.set_num_threads(1)
    faults = FAULTS[::10] if options.smoke else FAULTS
    originals = list(ORIGINALS)[-1:] if options.smoke else list(ORIGINALS)
    for name in originals:
        ORIGINALS[name]()
    rows = [caught(fault) for fault in faults]
    missed = [row["fault"] for row in rows if row["sentence"] == "not caught"]
    for row in rows:
        print(f"{row['fault']}: {row['sentence']}", flush=True)
    result = {
        "faults": len(rows),
        "caught": len(rows) - len(missed),
        "originals": len(originals),
        "rows": rows,
    }
    write_results(options.json, "Planted faults and what notices them", result)
    if missed:
        raise SystemExit(f"not caught: {missed}")


if __name__ == "__main__":
    main()
