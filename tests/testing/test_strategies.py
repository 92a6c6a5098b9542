"""What the strategies draw is what an estimator accepts, and every kind is drawn."""

from __future__ import annotations

import math
import runpy
import sys

import pytest
import torch
from hypothesis import find, given
from hypothesis import strategies as st

from modereg.errors import MissingDependencyError
from modereg.estimators import check_support
from modereg.priors import NormalPrior
from modereg.testing import strategies
from modereg.testing.strategies import batch_shapes, codes, logits, priors, tensordicts


@given(st.data())
def test_codes_have_positive_probability(data: st.DataObject) -> None:
    prior, batch = data.draw(priors(1, 5)), data.draw(batch_shapes())
    latent = data.draw(codes(prior, batch))
    assert latent.shape == batch
    assert latent.dtype == torch.int64
    check_support(prior, latent)
    assert prior.num_codes in range(1, 6)


@given(st.data())
def test_continuous_codes_leave_the_generator_alone(data: st.DataObject) -> None:
    state = torch.random.get_rng_state()
    assert data.draw(codes(NormalPrior(3), (2, 4))).shape == (2, 4, 3)
    assert torch.equal(torch.random.get_rng_state(), state)


@given(st.data())
def test_masked_logits_leave_a_code(data: st.DataObject) -> None:
    drawn = data.draw(logits(4, (3, 2), kinds=("masked",), dtype=torch.float64))
    assert drawn.shape == (3, 2, 4)
    assert drawn.dtype == torch.float64
    assert bool((drawn.amax(-1) > -math.inf).all())


@given(st.data())
def test_tensordicts_have_every_entry(data: st.DataObject) -> None:
    shapes = {("agent", "state"): (3,), "pose": (2, 2)}
    prior = data.draw(priors())
    drawn = data.draw(tensordicts(shapes, prior, latent_key=("agent", "z"), transitions=True))
    names = {"pose", ("agent", "state"), ("agent", "z"), ("next", "pose")}
    assert set(drawn.keys(True, True)) == names | {("next", "agent", "state")}
    assert drawn.get("pose").shape == (*drawn.batch_size, 2, 2)


def test_every_kind_is_drawn() -> None:
    assert find(batch_shapes(), lambda shape: shape == ()) == ()
    assert find(batch_shapes(), lambda shape: shape[1:] == (3,)) == (0, 3)
    find(priors(2, 3), lambda prior: bool((prior.probs == 0).any()))
    find(priors(2, 3), lambda prior: prior.probs.unique().numel() > 1)
    find(logits(3), lambda drawn: float(drawn.min()) == -1e4)
    find(logits(3), lambda drawn: drawn.unique().tolist() == [0.0, 1e4])
    find(tensordicts({"x": (2,)}), lambda td: bool((td["x"].abs() > 1e3).any()))


def test_without_hypothesis_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "hypothesis", None)
    with pytest.raises(MissingDependencyError, match="expected hypothesis .* pip install"):
        runpy.run_path(str(strategies.__file__))
