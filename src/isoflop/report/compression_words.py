"""What distillation, pruning, sparsity and training under rounding came to beside their controls."""

from __future__ import annotations

from collections.abc import Mapping

from isoflop.report.facts import Facts
from isoflop.report.formats import percent

_MOST_LAYERS = 8  # named


def controls_in_words(trained: Mapping[str, Facts], variants: Facts) -> dict[str, str]:
    """What each model that a stage of compression made came to.

    Args:
        trained: name → its metrics, of file ``STAGE-NAME.json``.
        variants: what variants.json holds.
    """
    says = {"distill": distilled_in_words, "prune": pruned_in_words, "sparsify": sparse_in_words, "qat": qat_in_words}
    made = {block["network"]: block["made_by"] for block in variants.values() if block["made_by"] in says}
    return {name: says[stage](trained[name]) for name, stage in made.items()}


def distilled_in_words(facts: Facts) -> str:
    """Whether the student was better for its teacher."""
    alone = percent(facts["control_val_accuracy"])
    if "distilled_val_accuracy" not in facts:
        return (
            f"the student is at {alone} of the validation images without a teacher, which at "
            f"{percent(facts['teacher_val_accuracy'])} has nothing to teach it"
        )
    kept = {"distilled": "the taught one is kept", "control": "so the untaught one is kept"}[facts["kept"]]
    taught = percent(facts["distilled_val_accuracy"])
    return f"the student is at {taught} of the validation images taught and at {alone} untaught: {kept}"


def pruned_in_words(facts: Facts) -> str:
    """Whether the weights of what was pruned were worth keeping."""
    kept = {"tuned": "the tuned one is kept", "control": "so the control is kept"}[facts["kept"]]
    changed = [f"{name} {before} → {left}" for name, (before, left) in facts["channels"].items() if left < before]
    more = f" and {len(changed) - _MOST_LAYERS} more" if len(changed) > _MOST_LAYERS else ""
    return (
        f"channels of {', '.join(changed[:_MOST_LAYERS])}{more}; {percent(facts['macs_ratio'])} of the "
        "multiply-accumulates are left; of the validation images "
        f"{percent(facts['val_accuracy_untuned'])} were right before the last fine-tuning and "
        f"{percent(facts['tuned_val_accuracy'])} after it; the control, of the same shape and trained as long from "
        f"random weights, is at {percent(facts['control_val_accuracy'])}: {kept}"
    )


def sparse_in_words(facts: Facts) -> str:
    """What zeros cost."""
    return (
        f"{percent(facts['zeros_ratio'])} of its layers' weights are zero; of the validation images "
        f"{percent(facts['val_accuracy_untuned'])} were right before the fine-tuning and "
        f"{percent(facts['val_accuracy'])} after it; dense kernels take as long as before, so only the compressed file "
        "is smaller"
    )


def qat_in_words(facts: Facts) -> str:
    """What training under the rounding ended with."""
    return f"with all layers but the last rounded it ends at {percent(facts['val_accuracy'])} of the validation images"
