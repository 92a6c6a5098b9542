from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from modereg import keys
from modereg.ddiffpg.replanning import Replanning, usual_progress
from modereg.errors import ConfigurationError
from tests.ddiffpg.made import learner


def _at(*places: float) -> TensorDict:
    history = torch.tensor(places)[:, None].expand(-1, 6).clone()
    return TensorDict({keys.HISTORY: history}, [len(places)])


def test_usual_progress_is_the_median() -> None:
    path = torch.tensor([[0.0, 0.0], [1.0, 0.0], [2.0, 0.0], [3.0, 0.0]])
    assert usual_progress([path, 2 * path], 2) == pytest.approx(2.0)
    with pytest.raises(ConfigurationError, match="more than 4 decisions"):
        usual_progress([path], 4)


def test_only_a_row_that_is_stuck_changes_its_mode_and_tries_each_once() -> None:
    actor, told = learner(batches=1).actor, torch.eye(4)[:3]
    policy = Replanning(actor, told, torch.tensor([0, 1]), usual=1.0, patience=2)
    seen = []
    for step in range(6):
        seen.append(policy.command(_at(0.0, float(step))))
    assert policy.changes.tolist() == [2, 0]
    assert torch.equal(torch.stack([row[1] for row in seen]), told[1].expand(6, -1))
    modes = [int(row[0].argmax()) for row in seen]
    assert modes[:2] == [0, 0]
    assert sorted(set(modes)) == [0, 1, 2], "each is tried before one comes again"


def test_bad_numbers_are_refused() -> None:
    actor = learner(batches=1).actor
    with pytest.raises(ConfigurationError, match="two modes"):
        Replanning(actor, torch.eye(4)[:1], torch.tensor([0]), 1.0)
