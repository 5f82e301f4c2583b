"""Number formats of the report and the summary: significant digits only, with the unit, a dash for unknown values."""

from __future__ import annotations

from collections.abc import Callable

_UNKNOWN = "–"
_THIN = "\N{NARROW NO-BREAK SPACE}"


def percent(share: float | None) -> str:
    """0.98765 → 98.8 %, and 0.99987 → 99.99 %: 100 % only if nothing is missing"""
    if share is None:
        return _UNKNOWN
    if share > 1 - 1e-9:
        return f"100{_THIN}%"
    digits = next((digits for digits in (1, 2, 3) if float(f"{100 * share:.{digits}f}") < 100), 4)
    return f"{100 * share:.{digits}f}{_THIN}%"


def signed_percent(share: float | None) -> str:
    """0.0312 → +3.1 %, -0.005 → −0.5 %"""
    return _UNKNOWN if share is None else f"{100 * share:+.1f}{_THIN}%".replace("-", "−")


def pp(difference: float) -> str:
    """A difference of two shares in percentage points: -0.003 → −0.3 pp"""
    return f"{100 * difference:+.1f}{_THIN}pp".replace("-", "−")


def p_value(value: float) -> str:
    """0.0574 → 0.057, 0.00001 → < 0.001"""
    return f"{value:.3f}" if value >= 0.001 else "< 0.001"


def count(number: float | None) -> str:
    """1234567 → 1 234 567"""
    return _UNKNOWN if number is None else f"{number:,.0f}".replace(",", _THIN)


def _digits(value: float) -> str:
    """Three significant digits, trailing zeros too: 0.015 → 0.0150, 351.2 → 351"""
    return f"{value:#.3g}".rstrip(".")


def size(number: float) -> str:
    """Bytes: 12345 → 12.3 kB (1,000 bytes), 98 → 98 bytes"""
    for unit, name in ((1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if number >= unit:
            return (
                f"{_digits(number / unit)}{_THIN}{name}" if number < 999 * unit else f"{number / unit:.0f}{_THIN}{name}"
            )
    return f"{number:.0f} bytes"


def ms(milliseconds: float | None) -> str:
    """0.01234 → 0.0123 ms"""
    if milliseconds is None:
        return _UNKNOWN
    return f"{_digits(milliseconds)}{_THIN}ms" if milliseconds < 999 else f"{count(milliseconds)}{_THIN}ms"


def seconds(number: float) -> str:
    """1.234 → 1.23 s, 754 → 12.6 min, 9000 → 2.5 h"""
    for unit, name in ((3600, "h"), (60, "min")):
        if number >= 2 * unit:
            return f"{number / unit:.3g}{_THIN}{name}"
    return f"{number:.3g}{_THIN}s"


def flops(number: float) -> str:
    """1.33e11 → 133 GFLOP"""
    for unit, name in ((1e15, "PFLOP"), (1e12, "TFLOP"), (1e9, "GFLOP"), (1e6, "MFLOP")):
        if number >= unit:
            return f"{number / unit:.3g}{_THIN}{name}"
    return f"{number:.3g}{_THIN}FLOP"


def times(ratio: float) -> str:
    """3.1416 → 3.1×"""
    return f"{ratio:.0f}×" if ratio >= 20 else f"{ratio:.1f}×" if ratio >= 2 else f"{ratio:.2f}×"


def loss(value: float | None) -> str:
    """A loss or an exponent with four significant digits: 0.12345 → 0.1235"""
    return _UNKNOWN if value is None else f"{value:.4f}" if abs(value) < 1 else f"{value:.4g}"


def between(low: float | None, high: float | None) -> str:
    """An interval of losses: 0.61 to 0.7"""
    return _UNKNOWN if low is None or high is None else f"{loss(low)} to {loss(high)}"


def rounded(value: float | None) -> str:
    """Three significant digits: 1234567 → 1 230 000, 4.5e+12 → 4.5e12"""
    if value is None:
        return _UNKNOWN
    short = f"{value:.3g}"
    if abs(value) >= 1e9:
        return short.replace("e+", "e")
    return count(float(short)) if abs(value) >= 100 else short


def span(bounds: list[float] | None) -> str:
    """An interval of sizes: 1 230 000 to 4 560 000"""
    return _UNKNOWN if bounds is None else f"{rounded(bounds[0])} to {rounded(bounds[1])}"


def yes_no(value: bool | None) -> str:
    return _UNKNOWN if value is None else "yes" if value else "no"


def sentence(text: str) -> str:
    """Capitalize the first letter and add a period."""
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


FILTERS: dict[str, Callable[..., str]] = {
    function.__name__: function
    for function in (
        percent,
        signed_percent,
        pp,
        p_value,
        count,
        size,
        ms,
        seconds,
        flops,
        times,
        loss,
        between,
        rounded,
        span,
        yes_no,
        sentence,
    )
}
