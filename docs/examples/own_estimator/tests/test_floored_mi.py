import pytest
from floored_mi import FlooredMI


@pytest.mark.parametrize("floor", [0.01, 0.2])
def test_floored_mi(modereg_check_estimator, floor):
    modereg_check_estimator(lambda: FlooredMI(6, 4, floor=floor), 6, posterior=True)


def test_a_floor_of_one_is_refused():
    with pytest.raises(ValueError, match="a floor in"):
        FlooredMI(6, 4, floor=1.0)
