"""Sentences that compare the results of distillation, pruning, sparsification and QAT with their controls."""

from __future__ import annotations

from collections.abc import Mapping

from isoflop.report.facts import Facts
from isoflop.report.formats import percent

_MOST_LAYERS = 8  # listed by name


def controls_in_words(trained: Mapping[str, Facts], variants: Facts) -> dict[str, str]:
    """Return name → sentence, for each model that a compression stage trained.

    Args:
        trained: name → content of its metrics file, ``STAGE-NAME.json``.
        variants: content of variants.json.
    """
    words = {"distill": distilled_in_words, "prune": pruned_in_words, "sparsify": sparse_in_words, "qat": qat_in_words}
    made = {block["network"]: block["made_by"] for block in variants.values() if block["made_by"] in words}
    return {name: words[stage](trained[name]) for name, stage in made.items()}


def distilled_in_words(facts: Facts) -> str:
    """The distilled student and the control, which was trained without a teacher."""
    control, teacher = percent(facts["control_val_accuracy"]), percent(facts["teacher_val_accuracy"])
    if "distilled_val_accuracy" not in facts:
        return (
            f"validation accuracy {control} without a teacher; distillation was skipped because the teacher is no "
            f"better ({teacher})"
        )
    distilled = percent(facts["distilled_val_accuracy"])
    kept = {"distilled": "the distilled model", "control": "the control"}[facts["kept"]]
    return f"validation accuracy {distilled} with distillation, {control} for the control (no teacher); {kept} is kept"


def pruned_in_words(facts: Facts) -> str:
    """The pruned network before and after fine-tuning, and the control, which started from random weights."""
    changed = [f"{name} {before} → {left}" for name, (before, left) in facts["channels"].items() if left < before]
    more = f" and {len(changed) - _MOST_LAYERS} more layers" if len(changed) > _MOST_LAYERS else ""
    kept = {"tuned": "the fine-tuned model", "control": "the control"}[facts["kept"]]
    return (
        f"{percent(facts['macs_ratio'])} of the MACs remain; validation accuracy "
        f"{percent(facts['val_accuracy_untuned'])} before the last fine-tuning, {percent(facts['tuned_val_accuracy'])} "
        f"after it, {percent(facts['control_val_accuracy'])} for the control (same shape, random initialization, same "
        f"number of epochs); {kept} is kept. Channels: {', '.join(changed[:_MOST_LAYERS])}{more}"
    )


def sparse_in_words(facts: Facts) -> str:
    """The sparse network before and after fine-tuning."""
    return (
        f"{percent(facts['zeros_ratio'])} of the weights in its layers are zero; validation accuracy "
        f"{percent(facts['val_accuracy_untuned'])} before fine-tuning, {percent(facts['val_accuracy'])} after it. "
        "Dense kernels do not skip zeros: latency is unchanged, only the compressed file is smaller"
    )


def qat_in_words(facts: Facts) -> str:
    """The network after quantization-aware training."""
    return (
        f"validation accuracy {percent(facts['val_accuracy'])} after quantization-aware training, with fake "
        "quantization in all layers but the last"
    )
