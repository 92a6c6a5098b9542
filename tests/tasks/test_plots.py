from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from modereg.tasks import Task, avoid_task, gaussian_mixture_task


@pytest.mark.parametrize(
    ("task", "circles"), [(avoid_task(), 6), (gaussian_mixture_task(), 4)], ids=["avoid", "mixture"]
)
def test_draws_obstacles_and_each_path_in_the_colour_of_its_mode(task: Task, circles: int) -> None:
    shown = task.demonstrate(3 * task.num_modes, 0)
    shown.modes[0] = -1
    ax = Figure().add_subplot()
    task.plot(ax, shown.observations["observation"], shown.modes, lengths=shown.lengths)
    assert sum(isinstance(patch, Circle) for patch in ax.patches) == circles
    (lines,) = (item for item in ax.collections if isinstance(item, LineCollection))
    colours = [tuple(colour) for colour in lines.get_colors()]
    assert len(colours) == len(shown)
    assert len(set(colours)) == task.num_modes + 1
    for index in range(1, len(shown)):
        same = torch.nonzero(shown.modes == shown.modes[index]).flatten().tolist()
        assert len({colours[i] for i in same}) == 1
    path = torch.as_tensor(lines.get_segments()[1])
    length = int(shown.lengths[1]) + 1
    expected = shown.observations["observation"][1, :length, -2:].double()
    torch.testing.assert_close(path.double(), expected)


def test_matplotlib_waits_for_the_first_picture() -> None:
    code = "import modereg.tasks, sys; sys.exit('matplotlib' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
