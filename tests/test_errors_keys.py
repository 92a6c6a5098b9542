"""The exception tree and the default keys."""

from __future__ import annotations

import pytest

from modereg import errors, keys

BUILTINS = {
    "CheckpointError": RuntimeError,
    "ConfigurationError": ValueError,
    "KeyMismatchError": KeyError,
    "MissingDependencyError": ImportError,
    "MissingDeviceError": RuntimeError,
    "NonFiniteError": ArithmeticError,
    "ShapeError": ValueError,
    "StochasticSamplerError": ValueError,
    "TerminalObservationError": ValueError,
    "WorkerError": RuntimeError,
}


@pytest.mark.parametrize(("name", "builtin"), BUILTINS.items())
def test_each_error_is_ours_and_the_expected_builtin(name: str, builtin: type) -> None:
    error = getattr(errors, name)
    assert issubclass(error, errors.ModeregError)
    assert issubclass(error, builtin)
    with pytest.raises(builtin, match="a sentence"):
        raise error("a sentence")


def test_every_error_is_listed() -> None:
    defined = {n for n, v in vars(errors).items() if isinstance(v, type) and n.endswith("Error")}
    assert defined == set(errors.__all__) == {*BUILTINS, "ModeregError"}


def test_a_missing_key_prints_as_a_sentence() -> None:
    assert str(errors.KeyMismatchError("the policy reads 'x'")) == "the policy reads 'x'"
    assert str(errors.KeyMismatchError()) == ""


def test_keys_are_distinct_strings() -> None:
    values = [getattr(keys, name) for name in keys.__all__ if name.isupper()]
    assert keys.__all__ == sorted(keys.__all__)
    assert len(set(values)) == len(values)
    assert all(isinstance(value, str) for value in values)
    assert keys.STEPS == "steps_to_next_obs", "TorchRL's value estimators look for this name"
