"""PI0 of transformers as a policy that noise steers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tensordict import NestedKey
from torch import Tensor
from torchrl.data.vla import IMAGE_KEY, INSTRUCTION_KEY, STATE_KEY

from modereg import keys
from modereg.errors import ConfigurationError, ShapeError
from modereg.policies import GenerativePolicy
from modereg_integrations.folders import LARGEST
from modereg_integrations.transformers.cloning import fit_statistics, flow_matching_loss
from modereg_integrations.transformers.fresh import check_shapes, fresh_model
from modereg_integrations.transformers.inputs import model_inputs
from modereg_integrations.transformers.instructions import Tokenizer
from modereg_integrations.transformers.library import library
from modereg_integrations.transformers.prefix import Prefix, denoise, encode_prefix
from modereg_integrations.transformers.saving import model_options, read_folder, write_folder
from modereg_integrations.transformers.statistics import Statistics

__all__ = ["PI0Policy"]


class PI0Policy(GenerativePolicy):
    """A ``PI0ForConditionalGeneration`` of transformers, decoded deterministically from its noise.

    The decode gives, to float precision, what the model's own ``sample_actions`` gives for the
    same noise, and is differentiable in it. Images and instruction are encoded once for an
    observation, and every denoising step, of every noise of that observation, attends to the
    result. The noise is padded to the model's ``max_action_dim``, the chunk has the true action
    dimensions: ``noise_shape`` is not ``chunk_shape``.

    The default keys are those of TorchRL's schema of VLA data (``torchrl.data.vla``); its chunks
    are under ``chunk_key=("vla_action", "chunk")``. Observations are in the order images,
    instruction, state:

    - an image of a camera, ``[*B, 3, H, W]``: ``uint8`` in [0, 255], or floats in [-1, 1]; other
      sizes than the model's are resized as ``PI0ImageProcessor`` does;
    - the instruction as token ids, ``[*B, L]`` int64: bos, text and newline, filled up with the
      tokenizer's padding; the places of the images are put before it here. With a tokenizer it may
      be text too: a ``NonTensorStack``, or a (nested) list of strings;
    - the state, ``[*B, S]`` with S up to ``max_state_dim``.

    Args:
        model: the model; it is not copied.
        action_dim: true action dimensions A; None takes all that the model has.
        image_keys: one entry for each camera.
        instruction_key: entry of the token ids.
        state_key: entry of the state.
        tokenizer: makes token ids of instructions that are text: a tokenizer of transformers, which
            is given bos + text + newline, or a function of N texts that returns ids ``[N, L]``. It
            is not saved with the policy.
        num_inference_steps: Euler steps; None takes the number of the model's configuration.
        state_dim: true numbers of a state S, which :meth:`decode` then insists on; None takes those
            of the statistics, and without them any up to ``max_state_dim``, filled up with zeros.
        statistics: between physical units and those of the model; None where states and actions
            are in the units of the model.
        noise_key: entry of the noise.
        chunk_key: entry of the chunk.

    Raises:
        MissingDependencyError: if transformers is not installed.
        ConfigurationError: if the model is of another class, there is no camera or no step, or the
            statistics are of another number of actions.
        ShapeError: if ``action_dim`` is not in [1, max_action_dim].
    """

    def __init__(
        self,
        model: Any,
        *,
        action_dim: int | None = None,
        image_keys: Sequence[NestedKey] = (IMAGE_KEY,),
        instruction_key: NestedKey = INSTRUCTION_KEY,
        state_key: NestedKey = STATE_KEY,
        tokenizer: Tokenizer | None = None,
        num_inference_steps: int | None = None,
        state_dim: int | None = None,
        statistics: Statistics | None = None,
        noise_key: NestedKey = keys.NOISE,
        chunk_key: NestedKey = keys.CHUNK,
    ) -> None:
        _check_model(model)
        config = model.config
        dims = config.max_action_dim if action_dim is None else action_dim
        steps = config.num_inference_steps if num_inference_steps is None else num_inference_steps
        _check_options(config, dims, state_dim, len(image_keys), steps)
        _check_statistics(statistics, dims, state_dim)
        super().__init__(
            observation_keys=[*image_keys, instruction_key, state_key],
            noise_shape=(config.chunk_size, config.max_action_dim),
            chunk_shape=(config.chunk_size, dims),
            noise_key=noise_key,
            chunk_key=chunk_key,
        )
        self.model, self.statistics = model, statistics
        self.num_inference_steps, self.state_dim = steps, state_dim
        self.__dict__["tokenizer"] = tokenizer  # none of the policy's submodules

    def decode(self, noise: Tensor, *observations: Any) -> Tensor:
        """Decode noise into chunks.

        Args:
            noise: ``[*B, *R, H, max_action_dim]``: R noises (none: one) for each observation.
            observations: images, instruction and state of batch B, in the order of
                ``observation_keys``.

        Returns:
            The chunks in physical units, ``[*B, *R, H, A]``; they have a graph only if the noise,
            an observation or a parameter requires one. An empty batch gives an empty chunk.

        Raises:
            ShapeError: if noise or observations have other shapes.
            ConfigurationError: if an observation is of another type.
        """
        if not noise.shape[:-2].numel() and noise.shape[-2:] == self.noise_shape:
            return noise.new_zeros((*noise.shape[:-2], *self.chunk_shape))
        return self.denoise(noise, self.encode(*observations))

    def encode(self, *observations: Any) -> Prefix:
        """Encode observations of batch B for :meth:`denoise`; the arguments are :meth:`decode`'s.

        Raises:
            ShapeError: if an observation has another shape.
            ConfigurationError: if an observation is of another type.
        """
        batch = self._batch(observations)
        return encode_prefix(self.model, batch, self.model_inputs(*observations))

    def model_inputs(self, *observations: Any) -> dict[str, Tensor]:
        """Return what the model's ``forward`` and ``sample_actions`` take of observations.

        Args:
            observations: images, instruction and state of batch B, as for :meth:`decode`.

        Returns:
            ``pixel_values`` ``[N, cameras, 3, size, size]`` in [-1, 1], ``pixel_attention_mask``
            ``[N, cameras]``, ``input_ids`` and ``attention_mask`` ``[N, P]``, and ``state``
            ``[N, max_state_dim]`` in the units of the model; N is the size of B.

        Raises:
            ShapeError: if an observation has another shape.
            ConfigurationError: if an observation is of another type.
        """
        return model_inputs(
            self.model,
            self._batch(observations),
            observations,
            tokenizer=self.tokenizer,
            statistics=self.statistics,
        )

    def _batch(self, observations: Sequence[Any]) -> torch.Size:
        if len(observations) != len(self.observation_keys):
            raise ShapeError(
                f"expected {len(self.observation_keys)} observations {self.observation_keys}, got "
                f"{len(observations)}"
            )
        state = observations[-1]
        if self.state_dim not in (None, state.shape[-1]):
            raise ShapeError(
                f"expected states [*B, {self.state_dim}] under {self.observation_keys[-1]!r}, got "
                f"{list(state.shape)}"
            )
        return torch.Size(state.shape[:-1])

    def denoise(self, noise: Tensor, prefix: Prefix) -> Tensor:
        """Decode noise given what :meth:`encode` returned, which may be used again.

        Args:
            noise: ``[*B, *R, H, max_action_dim]``, B the batch of the prefix.
            prefix: the encoded observations.

        Returns:
            The chunks in physical units, ``[*B, *R, H, A]``.

        Raises:
            ShapeError: if the noise has another shape.
        """
        batch, known = noise.shape[:-2], len(prefix.batch)
        if noise.shape[-2:] != self.noise_shape or batch[:known] != prefix.batch:
            raise ShapeError(
                f"expected noise of shape [*{tuple(prefix.batch)}, ..., {self.noise_shape[0]}, "
                f"{self.noise_shape[1]}], got {tuple(noise.shape)}"
            )
        flat = noise.reshape(batch.numel(), *self.noise_shape)
        rows = prefix.repeat(batch[known:].numel())
        chunk = denoise(self.model, rows, flat, self.num_inference_steps)
        chunk = chunk[..., : self.chunk_shape[1]]
        if self.statistics is not None:
            chunk = self.statistics.denormalize_actions(chunk)
        return chunk.reshape(*batch, *self.chunk_shape)

    def cloning_loss(self, chunk: Tensor, *observations: Any, mask: Tensor | None = None) -> Tensor:
        """The model's flow-matching loss; see :func:`flow_matching_loss`."""
        return flow_matching_loss(self, chunk, *observations, mask=mask)

    def fit_normalizer(self, chunk: Tensor, *observations: Any, mask: Tensor | None = None) -> None:
        """Take statistics of demonstrated chunks ``[n, H, A]`` and of the states beside them.

        Args:
            chunk: actions in physical units.
            observations: images, instructions and states, ``[n, ...]`` each.
            mask: ``[n, H]`` bool, False where a chunk is padded; None counts every action.

        Raises:
            ConfigurationError: if they are of other widths than the policy's.
        """
        statistics = fit_statistics(chunk, observations[-1], mask)
        _check_statistics(statistics, self.chunk_shape[1], self.state_dim)
        self.statistics = statistics

    def configuration(self) -> dict[str, Any]:
        """Return the options of policy and model, JSON-able."""
        own = {
            "num_inference_steps": self.num_inference_steps,
            "standardised": self.statistics is not None,
            "model": model_options(self.model.config.to_dict()),
        }
        return super().configuration() | own

    def save_pretrained(self, folder: str | Path) -> None:
        """Save the model as transformers does, and the policy's options beside it.

        It happens at once or not at all; a policy that was saved there is replaced.

        Raises:
            CheckpointError: if the folder holds something else.
        """
        *images, instruction, state = self.observation_keys
        options = {
            "action_dim": self.chunk_shape[1],
            "image_keys": images,
            "instruction_key": instruction,
            "state_key": state,
            "num_inference_steps": self.num_inference_steps,
            "state_dim": self.state_dim,
            "noise_key": self.noise_key,
            "chunk_key": self.chunk_key,
            "statistics": self.statistics,
        }
        write_folder(Path(folder), self.model, options)

    @classmethod
    def untrained(
        cls,
        *,
        observation_shapes: Mapping[NestedKey, Sequence[int]],
        chunk_shape: Sequence[int],
        method: Literal["flow"] = "flow",
        hidden: Sequence[int] = (32, 32),
        num_inference_steps: int = 5,
        **sizes: int,
    ) -> PI0Policy:
        """Make a policy with a small random PI0, to be cloned from demonstrations.

        Args:
            observation_shapes: key -> shape without batch, in the order images, instruction,
                state.
            chunk_shape: ``(H, A)``.
            method: PI0 is a flow.
            hidden: width of each layer; all are equal.
            num_inference_steps: Euler steps of a decode.
            **sizes: ``patches`` and ``vocabulary`` of :func:`fresh_model`.

        Raises:
            MissingDependencyError: if transformers is not installed.
            ConfigurationError: if the method is another, there are not at least an image, an
                instruction and a state, or a size does not fit.
        """
        *images, instruction, state = check_shapes(observation_shapes, method)
        model = fresh_model(
            image_size=max(observation_shapes[images[0]][-2:]),
            state_dim=observation_shapes[state][-1],
            chunk_shape=chunk_shape,
            hidden=hidden,
            num_inference_steps=num_inference_steps,
            **sizes,
        )
        state_dim = observation_shapes[state][-1]
        keys_of = {"image_keys": images, "instruction_key": instruction, "state_key": state}
        return cls(model, state_dim=state_dim, **keys_of)

    @classmethod
    def from_pretrained(cls, folder: str | Path, **options: Any) -> PI0Policy:
        """Load a policy from a folder, in ``eval`` mode; nothing is fetched from a network.

        Args:
            folder: what :meth:`save_pretrained` wrote, or a PI0 model that transformers saved.
            **options: arguments of :class:`PI0Policy`, in place of the saved ones.

        Raises:
            MissingDependencyError: if transformers is not installed.
            CheckpointError: if the folder is damaged, foreign, or not what was saved there.
        """
        model, saved = read_folder(Path(folder))
        return cls(model, **saved | options).eval()


def _check_model(model: Any) -> None:
    if not isinstance(model, library().PI0ForConditionalGeneration):
        raise ConfigurationError(
            f"expected a PI0ForConditionalGeneration of transformers, got {type(model).__name__}; "
            "as_generative_policy takes any function of noise and observations"
        )


def _check_options(
    config: Any, action_dim: int, state_dim: int | None, cameras: int, steps: int
) -> None:
    if not 1 <= action_dim <= config.max_action_dim:
        raise ShapeError(
            f"expected action_dim in [1, {config.max_action_dim}], the model's max_action_dim, got "
            f"{action_dim}"
        )
    if state_dim is not None and not 1 <= state_dim <= config.max_state_dim:
        raise ShapeError(
            f"expected state_dim in [1, {config.max_state_dim}], the model's max_state_dim, got "
            f"{state_dim}"
        )
    if cameras < 1 or not 1 <= steps <= LARGEST:
        raise ConfigurationError(
            f"expected at least one camera and Euler steps in [1, {LARGEST}], got {cameras} and "
            f"{steps}"
        )


def _check_statistics(
    statistics: Statistics | None, action_dim: int, state_dim: int | None
) -> None:
    if statistics is None:
        return
    if len(statistics.actions_mean) != action_dim:
        raise ConfigurationError(
            f"expected statistics of {action_dim} action dimensions, as the policy has, got "
            f"{len(statistics.actions_mean)}; give action_dim or other statistics"
        )
    if state_dim not in (None, len(statistics.state_mean)):
        raise ConfigurationError(
            f"expected statistics of {state_dim} numbers of a state, as the policy has, got "
            f"{len(statistics.state_mean)}; leave state_dim out or give other statistics"
        )
