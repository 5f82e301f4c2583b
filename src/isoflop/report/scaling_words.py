"""Sentences about a scaling study, from its metrics: the report, the summary and the command line share them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from isoflop.report.formats import between, count, loss, ms, percent, rounded, signed_percent, span
from isoflop.report.glossary import DIAGNOSTICS
from isoflop.scaling.formats import BASE_FILES, Format
from isoflop.scaling.forms import AXIS_NAMES
from isoflop.scaling.without_law import Lack

Facts = dict[str, Any]
FORMAT_NAMES: dict[Format, str] = {"float": "float", "int8": "INT8"}
QUANTITIES = {
    "bytes": "bytes",
    "latency_ms": "latency",
    "val_nll": "validation loss",
    "val_accuracy": "validation accuracy",
}
_MAX_RATIO = 2.0  # of the ends of an interval that tests a prediction
SYMBOLS = {"alpha": "α", "beta": "β", "gamma": "γ", "kappa": "κ", "bend": "a"}


def law_in_words(law: Facts) -> str:
    """The form of the law, with its floor and exponents and their 95 % CIs."""
    parts = [
        f"{SYMBOLS.get(name, name)} = {loss(known['value'])} ({between(known['low'], known['high'])})"
        for name, known in law["parameters"].items()
        if name in SYMBOLS or name == "E"
    ]
    return f"{law['form']}; {', '.join(parts)}"


def lack_in_words(law: Facts) -> str:
    """What the study lacks for a law, and the command that changes it (scaling.json without a law)."""
    return str(Lack(**law["lacks"]))


def held_out_in_words(law: Facts) -> str:
    """Predicted and measured loss of the largest size, from a law fitted without it."""
    held_out = law["held_out"]
    if held_out is None:
        return "nothing was held out: too few sizes would remain to fit the law"
    bounds = held_out["low"], held_out["high"]
    return (
        f"{held_out['name']}: predicted loss {loss(held_out['predicted'])}{_in_parentheses(*bounds)}, "
        f"measured {loss(held_out['actual'])}, error {signed_percent(held_out['relative_error'])}"
        f"{_coverage(held_out['covered'], *bounds)}"
    )


def trust_in_words(law: Facts) -> str:
    """The factor beyond the runs to which the law is trusted, by axis."""
    beyond = [
        f"{factor:.2g} times the largest number of {AXIS_NAMES[axis]}"
        for axis, factor in law["trusted_to"].items()
        if factor > 1
    ]
    within = "within the range of the runs only: no backtest beyond it passed, or none was possible"
    return f"to {' and '.join(beyond)}, by backtests at that distance" if beyond else within


def forecast_in_words(score: Facts) -> str:
    """Predicted and measured loss of the trained width (scaling/score.json)."""
    error = "undefined" if score["relative_error"] is None else signed_percent(score["relative_error"])
    return (
        f"width {score['width']}: predicted loss {loss(score['predicted'])}"
        f"{_in_parentheses(score['low'], score['high'])} after {rounded(score['forecast_epochs'])} epochs, "
        f"measured {loss(score['actual'])} after {score['epochs']}, error {error}"
        + _coverage(score["inside"], score["low"], score["high"])
    )


def format_rows(score: Facts) -> list[Facts]:
    """Predicted and measured bytes, latency, loss and accuracy of both files of the base, as rows of text."""
    say = {"bytes": count, "latency_ms": ms, "val_nll": loss, "val_accuracy": percent}
    return [
        {
            "file": FORMAT_NAMES[form],
            "quantity": QUANTITIES[name],
            "predicted": say[name](band["predicted"]),
            "interval": "–" if band["low"] is None else f"{say[name](band['low'])} to {say[name](band['high'])}",
            "measured": say[name](band["actual"]),
            "inside": band["inside"],
        }
        for form, bands in score.get("formats", {}).items()
        for name, band in bands.items()
        if band["predicted"] is not None
    ]


def shipped_in_words(score: Facts) -> str | None:
    """Whether bytes, latency and accuracy of ship/ were inside their intervals; None without a prediction for it."""
    shipped = score.get("shipped")
    if shipped is None or shipped["held"] is None:
        return None
    bands = next(bands for form, bands in score["formats"].items() if shipped["variant"] == BASE_FILES[form])
    outside = [QUANTITIES[name] for name, band in bands.items() if name != "val_nll" and not band["inside"]]
    verdict = f"outside: {', '.join(outside)}" if outside else "all inside"
    return f"{shipped['variant']}: bytes, latency and validation accuracy against their 95 % intervals: {verdict}"


def _in_parentheses(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f" (95 % PI {between(low, high)})"


def _coverage(inside: bool | None, low: float | None, high: float | None) -> str:
    if inside and low is not None and high is not None and high > _MAX_RATIO * low:
        return "; the interval is too wide to conclude anything: more seeds or sizes would narrow it"
    return {True: ", inside the interval", False: ", outside the interval", None: ""}[inside]


def diagnostics_in_words(kinds: Iterable[str]) -> str:
    """Short texts for kinds of diagnostics, each once: what limits the use of the law."""
    return "; ".join(dict.fromkeys(DIAGNOSTICS.get(kind, kind.replace("_", " ")) for kind in kinds))


def budget_in_words(name: str, best: Facts, unit: str = "images") -> str:
    """The compute-optimal size for a budget, or that there is none."""
    budget = f"{name} budget ({rounded(best['flops'])} FLOPs)"
    if best["parameters"] is None:
        return f"{budget}: no compute-optimal size"
    width = f"width {best['width']:.0f}, " if best["width"] else ""
    bounds = best["parameters_interval"]
    interval = f" (95 % CI {span(bounds)})" if bounds else ""
    return (
        f"{budget}: {width}{rounded(best['parameters'])} parameters{interval}, {rounded(best['samples'])} {unit} seen, "
        f"loss {loss(best['loss'])}; loss within 1 % of it from {span(best['flat'])} parameters"
        + ("" if best["status"] == "interpolated" else "; extrapolated beyond the study")
    )


def profile_in_words(profile: Facts, unit: str = "images") -> str:
    """The compute-optimal size of one budget: measured on its IsoFLOP curve, and predicted by the law."""
    budget = f"{rounded(profile['flops'])} FLOPs"
    if profile["rejected"]:
        return f"{budget}: no optimum: {profile['rejected']}"
    parts = [
        f"{budget}: IsoFLOP optimum {_estimate(profile, 'parameters')} parameters, "
        f"{_estimate(profile, 'samples')} {unit} seen; loss within 1 % of it from {span(profile['flat'])} parameters"
    ]
    if profile["law_parameters"] is not None:
        parts.append(f"the law predicts {_estimate(profile, 'law_parameters')} parameters")
    return "; ".join(parts)


def _estimate(profile: Facts, name: str) -> str:
    bounds = profile[f"{name}_interval"]
    return rounded(profile[name]) + (f" (95 % CI {span(bounds)})" if bounds else "")


def data_in_words(question: Facts | None, unit: str = "images") -> str | None:
    """Whether doubling the data, the epochs or the width would lower the loss most."""
    if question is None:
        return None
    size, larger = ("more width", "twice the width")
    if not question["has_width"]:
        size, larger = ("a larger model", "4 times the parameters")
    verdicts = {
        "data": f"more data lowers the loss more than {size}",
        "width": f"{size} lowers the loss more than more data",
        "longer": f"longer training lowers the loss more than {size}; whether new {unit} would do better is unclear",
        "undecided": "the study cannot tell which lowers the loss most",
    }
    parts = []
    nouns = (("twice_data", "twice the data"), ("twice_epochs", "twice the epochs"), ("twice_width", larger))
    for name, noun in nouns:
        change = question[name]
        if change is None:
            continue
        low, high = change["loss_interval"]
        parts.append(
            f"{noun} would give {loss(change['loss'])} (95 % CI {between(low, high)}) at {change['flops_factor']:.2g} "
            "times the FLOPs"
        )
    return (
        f"predicted loss {loss(question['loss'])} with {rounded(question['parameters'])} parameters and "
        f"{rounded(question['unique_samples'])} {unit}; {', '.join(parts)}: {verdicts[question['verdict']]}"
    )


def next_run_in_words(run: Facts | None, unit: str = "images") -> str | None:
    """The run to add to the study, by the sizes that the study states."""
    if run is None:
        return None
    sizes = [f"width {run['width']}"] if run["width"] else []
    if run["parameters"] is not None and not sizes:
        sizes.append(f"{rounded(run['parameters'])} parameters")
    if run["unique_samples"] is not None:
        sizes.append(f"{rounded(run['unique_samples'])} {unit}")
    if run["epochs"] is not None and (run["width"] or abs(run["epochs"] - 1) > 1e-6):
        sizes.append(f"{run['epochs']:.3g} epochs")
    flops = "" if run["flops"] is None else f" ({rounded(run['flops'])} FLOPs)"
    target = {
        "optimum": "at the compute-optimal size for 10 times the largest budget",
        "extrapolation": "at 4 times the largest size of the study",
    }
    narrows = f"would narrow the law’s interval by {100 * run['spread_reduction']:.0f} %"
    return f"{', '.join(sizes)}{flops} {narrows} {target[run['aim']]}"


def next_size_in_words(law: Facts, forecast: Facts) -> str:
    """The predicted loss of the next size up: from scaling.predict, or else of twice the study's largest width.

    Args:
        law: content of scaling.json.
        forecast: content of forecast.json.
    """
    wider = [block for block in forecast["widths"].values() if block["width"] > forecast["width"]]
    if wider:
        block = min(wider, key=lambda block: block["width"])
        return (
            f"width {block['width']} ({rounded(block['parameters'])} parameters): predicted loss "
            f"{loss(block['val_nll'])}{_in_parentheses(block['low'], block['high'])}; for width {forecast['width']} "
            f"the law predicts {loss(forecast['val_nll'])}"
        )
    question = law["data_question"]
    if question is None or question["twice_width"] is None:
        return "no prediction: the runs do not separate the effect of size from that of data"
    change = question["twice_width"]
    low, high = change["gain_interval"]
    larger = "twice the width" if question["has_width"] else "4 times the parameters"
    gain = f"{100 * change['gain']:.0f} % lower (95 % CI {100 * low:.0f} to {100 * high:.0f} %)"
    return (
        f"{larger} of the study’s largest model, at {change['flops_factor']:.2g} times the FLOPs: predicted "
        f"loss {loss(change['loss'])}, {gain} than {loss(question['loss'])}"
        + ("" if low > 0 else "; the sign of the change is uncertain")
    )
