"""Every planted fault is noticed, by its own sentence; the right originals pass the same checks."""

from __future__ import annotations

from functools import partial

import pytest

from modereg.priors import LearnedPrior, Prior
from modereg.testing import check_transform
from modereg.testing.starts import check_starts
from modereg.transforms import ActionChunk, MIReward
from tests.testing.chunks import check_chunk
from tests.testing.faults import CODES, SKEWED, Fault, check, classifier, gaussian
from tests.testing.loss_faults import LOSS_FAULTS
from tests.testing.ratio_faults import RATIO_FAULTS
from tests.testing.rewards import check_reward
from tests.testing.transform_faults import TRANSFORM_FAULTS, chain

FAULTS = [*RATIO_FAULTS, *LOSS_FAULTS, *TRANSFORM_FAULTS]


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_a_planted_fault_is_noticed(fault: Fault) -> None:
    with pytest.raises(AssertionError, match=fault.sentence):
        fault.run()


def test_there_are_enough_and_each_has_its_name() -> None:
    assert len({fault.name for fault in FAULTS}) == len(FAULTS) >= 25


@pytest.mark.parametrize("prior", [CODES, SKEWED, partial(LearnedPrior, CODES)])
def test_the_right_classifier_passes(prior: int | Prior) -> None:
    check(partial(classifier, prior=prior), posterior=True)


def test_the_right_density_passes() -> None:
    check(gaussian)


def test_the_right_transforms_pass() -> None:
    check_reward(MIReward)
    check_chunk(ActionChunk)
    check_starts(chain)
    check_transform(chain, contexts=["batched"])
