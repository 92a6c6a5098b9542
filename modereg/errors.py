"""The exceptions of modereg: each is also the built-in that a caller would expect."""

from __future__ import annotations

__all__ = [
    "CheckpointError",
    "ConfigurationError",
    "KeyMismatchError",
    "MissingDependencyError",
    "MissingDeviceError",
    "ModeregError",
    "NonFiniteError",
    "ShapeError",
    "StochasticSamplerError",
    "TerminalObservationError",
    "WorkerError",
]


class ModeregError(Exception):
    """Base class of every error that modereg raises on purpose."""


class ConfigurationError(ModeregError, ValueError):
    """Options that cannot work, or cannot work together."""


class ShapeError(ConfigurationError):
    """A tensor's shape is not the one that the contract asks for."""


class StochasticSamplerError(ConfigurationError):
    """A sampler that is not a deterministic function of its noise, so that it cannot be steered."""


class TerminalObservationError(ConfigurationError):
    """An environment that does not report the true observation at the end of an episode."""


class KeyMismatchError(ModeregError, KeyError):
    """A tensordict lacks an entry that is needed."""

    def __str__(self) -> str:
        """Return the sentence itself; ``KeyError`` would return its ``repr``."""
        return str(self.args[0]) if self.args else ""


class NonFiniteError(ModeregError, ArithmeticError):
    """A NaN or an infinity where a finite number is needed."""


class CheckpointError(ModeregError, RuntimeError):
    """A saved file that is damaged, foreign, or belongs to something else."""


class MissingDependencyError(ModeregError, ImportError):
    """An optional library that is not installed."""


class MissingDeviceError(ModeregError, RuntimeError):
    """A device (such as a Vulkan driver) that a simulator needs and this machine lacks."""


class WorkerError(ModeregError, RuntimeError):
    """A process with environments has ended."""
