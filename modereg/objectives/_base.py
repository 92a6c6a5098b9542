"""What the losses share: networks held as they are, and entries that follow from them."""

from __future__ import annotations

from typing import Any

from tensordict import NestedKey
from torchrl.objectives.common import LossModule

from modereg.errors import ConfigurationError

__all__ = ["PlainLoss"]


class PlainLoss(LossModule):
    """A loss that holds its networks themselves, no functional copies, and has no value estimator.

    So whoever reads a network sees every optimiser step.
    """

    @property
    def functional(self) -> bool:
        """Whether parameters are held apart from their networks: no."""
        return False

    @property
    def in_keys(self) -> list[NestedKey]:
        """Entries that it reads; the priority weight only where there is one."""
        return self._read_keys()

    @in_keys.setter
    def in_keys(self, values: Any) -> None:
        raise ConfigurationError(
            f"expected set_keys(...), or in_keys at construction, to rename entries, got "
            f"in_keys={values} later"
        )

    @property
    def out_keys(self) -> list[NestedKey]:
        """Scalars that it returns."""
        return self._written_keys()

    @out_keys.setter
    def out_keys(self, values: Any) -> None:
        raise ConfigurationError(f"expected out_keys to stay as they are, got {values}")

    def _read_keys(self) -> list[NestedKey]:
        raise NotImplementedError

    def _written_keys(self) -> list[NestedKey]:
        raise NotImplementedError

    def _forward_value_estimator_keys(self, **kwargs: Any) -> None:
        """Do nothing: the value estimator, if any, belongs to the loop."""
