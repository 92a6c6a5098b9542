from __future__ import annotations

import pytest
import torch
from tensordict import TensorDict

from modereg.errors import ConfigurationError
from modereg_integrations.maniskill import ManiSkillEnv
from modereg_integrations.maniskill.simulation import camera_options
from modereg_integrations.maniskill.tabletop import TASKS

SIZE = (24, 32)
WALL = TASKS["ModeregWall-v1"]


@pytest.fixture(scope="module")
def env() -> ManiSkillEnv:
    return WALL.env(2, seed=0, render_size=SIZE, fast=True)


def test_without_a_reset_there_is_nothing_to_see(env: ManiSkillEnv) -> None:
    with pytest.raises(ConfigurationError, match="reset before"):
        env.render_frames()


def test_every_row_has_a_picture_and_nothing_moves_by_it(env: ManiSkillEnv) -> None:
    paths, films = [], []
    for look in (False, True, False):  # a simulation's first episode is off by its last bits
        env.set_seed(0)
        td = env.reset()
        expert = WALL.expert(0, td[:1])
        path, film = [td["observation"]], []
        for step in range(16):
            action = expert(td).expand(2, -1) * torch.tensor([[1.0], [0.0]])  # row 1 rests
            td = env.step(td.copy().set("action", action))["next"]
            path.append(td["observation"])
            if look and step % 8 == 7:
                film.append(env.render_frames())
        paths.append(torch.stack(path))
        films.append(film)
    assert torch.equal(*paths[1:])
    first, second = films[1]
    assert (first.shape, first.dtype, first.device.type) == ((2, *SIZE, 3), torch.uint8, "cpu")
    change = (second.float() - first.float()).abs().flatten(1).mean(1)
    assert change[0] > 1  # of 255, on average
    assert change[1] < 0.2


def test_frames_are_copies_and_rows_differ(env: ManiSkillEnv) -> None:
    env.reset()
    frames = env.render_frames()
    kept = frames.clone()
    env.reset(TensorDict({"_reset": torch.tensor([[True], [False]])}, [2]))
    after = env.render_frames()
    assert torch.equal(frames, kept)
    assert not torch.equal(after[0], kept[0])
    assert torch.equal(after[1], kept[1])
    assert not torch.equal(kept[0], kept[1])


def test_an_image_task_end_to_end() -> None:
    camera = {"width": 16, "height": 16}
    options = {"obs_mode": "rgb", "sensor_configs": camera, "seed": 0}
    rollouts = []
    for fast in (False, True):
        env = WALL.env(1, fast=fast, **options)
        td, seen = env.reset(), []
        for _ in range(4):
            action = torch.tensor([[0.5, 0.5, -0.2, -1.0]])
            td = env.step(td.copy().set("action", action))["next"]
            seen.append(td)
        rollouts.append(torch.stack(seen, 1))
        env.close()
    stock, fast_one = rollouts
    image = ("observation", "sensor_data", "base_camera", "rgb")
    assert stock[image].shape == (1, 4, 16, 16, 3)
    assert stock[image][:, 0].ne(stock[image][:, -1]).any()
    assert torch.equal(stock[image], fast_one[image])
    tool = ("observation", "extra", "tcp_position")
    assert torch.equal(stock[tool], fast_one[tool])


def test_the_size_of_the_pictures() -> None:
    assert camera_options({"a": 1}, None) == {"a": 1}
    square = camera_options({}, 5)["human_render_camera_configs"]
    assert square == {"height": 5, "width": 5}
    given = {"human_render_camera_configs": {"shader_pack": "minimal"}}
    made = camera_options(given, (3, 4))["human_render_camera_configs"]
    assert made == {"shader_pack": "minimal", "height": 3, "width": 4}
    assert given["human_render_camera_configs"] == {"shader_pack": "minimal"}
    with pytest.raises(ConfigurationError, match=r"got \(0, 4\)"):
        camera_options({}, (0, 4))
