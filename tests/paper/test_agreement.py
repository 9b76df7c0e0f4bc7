import pytest

from supsup_jax.paper.agreement import agrees, tolerance
from supsup_jax.paper.published import Point

DRAWN, BAR = Point(93.5), Point(72.2, 1.4)


@pytest.mark.parametrize(
    ("values", "point", "points"),
    [
        ([93.4], DRAWN, 0.1),
        ([93.4], Point(83.5, source="slope"), 1.0),
        # Deviation 1 over 4 seeds: a standard error of 0.5.
        ([92.5, 94.5, 93.5, 93.5], DRAWN, 2 * (2 / 3) ** 0.5 / 2 + 0.05),
        ([93.0, 95.0], Point(93.5, source="text"), 2 * 2**0.5 / 2**0.5 + 0.005),
        # The paper's error bar over 5 seeds, and our deviation of 2**0.5 over two seeds.
        ([71.0, 73.0], BAR, 2 * (2 / 2 + 1.4**2 / 5) ** 0.5 + 0.05),
        # One seed is assumed to vary like the paper's seeds.
        ([73.9], BAR, 2 * 1.4 * (1 + 1 / 5) ** 0.5 + 0.05),
    ],
)
def test_the_tolerance_is_two_standard_errors_of_the_difference(values, point, points):
    assert tolerance(values, point) == pytest.approx(points)


@pytest.mark.parametrize(
    ("values", "point", "verdict"),
    [
        ([93.6], DRAWN, True),
        ([93.61], DRAWN, False),
        ([93.39], DRAWN, False),
        ([93.56, 93.58, 93.54], DRAWN, True),
        ([93.66, 93.68, 93.64], DRAWN, False),
        ([73.9], BAR, True),
        ([75.4], BAR, False),
        ([87.9], Point(88.0, is_limit=True), True),
        ([86.0, 90.5], Point(88.0, is_limit=True), False),
    ],
)
def test_agreement_matches_values_worked_out_by_hand(values, point, verdict):
    assert agrees(values, point) is verdict
