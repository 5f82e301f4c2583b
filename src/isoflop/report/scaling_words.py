"""What a scaling study says, in the same words for the report, the summary and the command line; of its metrics."""

from __future__ import annotations

from typing import Any

from isoflop.report.formats import between, loss, rounded, signed_percent

Facts = dict[str, Any]
SYMBOLS = {"alpha": "α", "beta": "β", "gamma": "γ", "kappa": "κ", "bend": "a"}


def law_in_words(law: Facts) -> str:
    """The form and its exponents with their intervals."""
    parts = [
        f"{SYMBOLS.get(name, name)} = {loss(known['value'])} ({between(known['low'], known['high'])})"
        for name, known in law["parameters"].items()
        if name in SYMBOLS or name == "E"
    ]
    return f"{law['form']}; {', '.join(parts)}"


def held_out_in_words(law: Facts) -> str:
    """What the law predicted for the largest size without seeing it, and what came."""
    held_out = law["held_out"]
    if held_out is None:
        return "nothing was held out: too few sizes would have remained to fit a law"
    interval = ""
    if held_out["low"] is not None:
        interval = f" (95 % interval {between(held_out['low'], held_out['high'])})"
    verdict = {True: ", inside the interval", False: ", outside the interval", None: ""}[held_out["covered"]]
    return (
        f"{held_out['name']}: predicted a loss of {loss(held_out['predicted'])}{interval}, "
        f"{loss(held_out['actual'])} came: off by {signed_percent(held_out['relative_error'])}{verdict}"
    )


def forecast_in_words(score: Facts) -> str:
    """What the law expected of the trained width before it was trained, and what came; of metrics/score.json."""
    interval = verdict = ""
    if score["low"] is not None:
        interval = f" (95 % interval {between(score['low'], score['high'])})"
        verdict = ", inside the interval" if score["inside"] else ", outside the interval"
    error = "all" if score["relative_error"] is None else signed_percent(score["relative_error"])
    return (
        f"width {score['width']}: forecast a loss of {loss(score['predicted'])}{interval} after "
        f"{rounded(score['forecast_epochs'])} epochs, {loss(score['actual'])} came after {score['epochs']}: "
        f"off by {error}{verdict}"
    )


def budget_in_words(name: str, best: Facts) -> str:
    """The best size for a budget, or why there is none."""
    spent = f"{name} ({rounded(best['flops'])} FLOPs)"
    if best["parameters"] is None:
        return f"{spent}: no best size"
    width = f"width {best['width']:.0f}, " if best["width"] else ""
    bounds = best["parameters_interval"]
    within = f" ({rounded(bounds[0])} to {rounded(bounds[1])})" if bounds else ""
    flat = best["flat"]
    return (
        f"{spent}: {width}{rounded(best['parameters'])} parameters{within}, {rounded(best['samples'])} samples seen, "
        f"loss {loss(best['loss'])}; within 1 % of it from {rounded(flat[0])} to {rounded(flat[1])} parameters"
        + ("" if best["status"] == "interpolated" else "; beyond the study")
    )


def profile_in_words(profile: Facts) -> str:
    """What the runs of one budget say of its best size, beside the law."""
    if profile["rejected"]:
        return f"{rounded(profile['flops'])} FLOPs: refused: {profile['rejected']}"
    said = f"{rounded(profile['flops'])} FLOPs: N* {rounded(profile['parameters'])} by the runs"
    if profile["parameters_interval"]:
        said += " ({} to {})".format(*map(rounded, profile["parameters_interval"]))
    said += f" on {rounded(profile['samples'])} samples"
    if profile["samples_interval"]:
        said += " ({} to {})".format(*map(rounded, profile["samples_interval"]))
    said += f", within 1 % from {rounded(profile['flat'][0])} to {rounded(profile['flat'][1])}"
    if profile["law_parameters"] is not None:
        said += f"; {rounded(profile['law_parameters'])} by the law"
        if profile["law_parameters_interval"]:
            said += " ({} to {})".format(*map(rounded, profile["law_parameters_interval"]))
    return said


def data_in_words(question: Facts | None) -> str | None:
    """Whether twice the data are worth more than twice the width."""
    if question is None:
        return None
    verdicts = {
        "data": "more data are worth more",
        "width": "more width is worth more",
        "longer": "training longer is worth more than width; new data are not surely better than the same again",
        "undecided": "the study cannot tell which is worth more",
    }
    parts = []
    nouns = (("twice_data", "twice the data"), ("twice_epochs", "twice the epochs"), ("twice_width", "twice the width"))
    for name, noun in nouns:
        change = question[name]
        if change is None:
            continue
        low, high = change["loss_interval"]
        parts.append(
            f"{noun} would give {loss(change['loss'])} ({between(low, high)}) for "
            f"{change['flops_factor']:.2g} times the FLOPs"
        )
    return (
        f"from a loss of {loss(question['loss'])} with {rounded(question['parameters'])} parameters on "
        f"{rounded(question['unique_samples'])} samples, {', '.join(parts)}: {verdicts[question['verdict']]}"
    )


def next_run_in_words(run: Facts | None) -> str | None:
    """The run to add to the study."""
    if run is None:
        return None
    size = f"width {run['width']}" if run["width"] else f"{rounded(run['parameters'])} parameters"
    at = {
        "optimum": "at the best size for ten times the largest budget",
        "extrapolation": "at four times the study's largest",
    }
    return (
        f"{size} on {rounded(run['unique_samples'])} samples for {run['epochs']:.3g} epochs ({rounded(run['flops'])} "
        f"FLOPs) would narrow the law by {100 * run['spread_reduction']:.0f} % {at[run['aim']]}"
    )


def next_size_in_words(law: Facts, forecast: Facts) -> str:
    """What the law says of the next size up: that of scaling.predict, or else of twice the trained width.

    Args:
        law, forecast: what scaling.json and forecast.json hold.
    """
    wider = [block for block in forecast["widths"].values() if block["width"] > forecast["width"]]
    if wider:
        block = min(wider, key=lambda block: block["width"])
        interval = f" ({between(block['low'], block['high'])})" if block["low"] is not None else ""
        return (
            f"width {block['width']} ({rounded(block['parameters'])} parameters) would come to a loss of "
            f"{loss(block['val_nll'])}{interval}, where {loss(forecast['val_nll'])} is expected of width "
            f"{forecast['width']}"
        )
    question = law["data_question"]
    if question is None or question["twice_width"] is None:
        return "the study cannot say: its runs do not tell size from data"
    change = question["twice_width"]
    low, high = change["gain_interval"]
    gain = f"{100 * change['gain']:.0f} % less (95 % interval {100 * low:.0f} to {100 * high:.0f} %)"
    return (
        f"twice the width of the study’s largest model, for {change['flops_factor']:.2g} times the FLOPs, would come "
        f"to a loss of {loss(change['loss'])}, {gain} than {loss(question['loss'])}"
        + ("" if low > 0 else "; whether it would gain at all is open")
    )
