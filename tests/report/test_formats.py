"""Number formats: significant digits, units, dashes for unknown values."""

from __future__ import annotations

import pytest

from isoflop.report.facts import share_interval
from isoflop.report.formats import count, flops, loss, ms, percent, pp, rounded, seconds, size, times


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (percent(0.98765), "98.8 %"), (percent(0.99987), "99.99 %"), (percent(1), "100 %"), (percent(None), "–"),
        (count(1234567), "1 234 567"), (size(12_345), "12.3 kB"), (size(98), "98 bytes"), (size(999_600), "1000 kB"),
        (ms(0.012345), "0.0123 ms"), (ms(1234.5), "1 234 ms"), (times(3.14), "3.1×"), (times(0.876), "0.88×"),
        (pp(-0.0031), "−0.3 pp"), (loss(0.12345), "0.1235"), (loss(12.3456), "12.35"), (loss(None), "–"),
        (seconds(1.234), "1.23 s"), (seconds(754), "12.6 min"), (seconds(9000), "2.5 h"), (flops(1.33e11), "133 GFLOP"),
        (rounded(1_234_567), "1 230 000"), (rounded(4.5e12), "4.5e12"), (rounded(12.34), "12.3"),
    ],
)  # fmt: skip
def test_numbers_are_formatted_with_units(shown: str, expected: str) -> None:
    assert shown.replace("\u202f", " ") == expected


def test_the_wilson_interval_stays_within_0_and_1() -> None:
    low, high = share_interval(0.5, 100)
    assert (round(low, 3), round(high, 3)) == (0.404, 0.596)
    assert share_interval(1.0, 50)[1] == pytest.approx(1) and 0.9 < share_interval(1.0, 50)[0] < 1
    assert share_interval(0.0, 50)[0] == pytest.approx(0)
