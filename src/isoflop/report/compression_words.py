"""What distillation, pruning and training under rounding came to beside their controls; of their metrics."""

from __future__ import annotations

from isoflop.report.facts import Facts
from isoflop.report.formats import percent


def distilled_in_words(facts: Facts) -> str:
    """Whether the student was better for its teacher."""
    alone = percent(facts["control_val_accuracy"])
    if "taught_val_accuracy" not in facts:
        return (
            f"the student is at {alone} of the validation images without a teacher, which at "
            f"{percent(facts['teacher_val_accuracy'])} has nothing to teach it"
        )
    kept = {"taught": "the taught one is kept", "control": "so the untaught one is kept"}[facts["kept"]]
    taught = percent(facts["taught_val_accuracy"])
    return f"the student is at {taught} of the validation images taught and at {alone} untaught: {kept}"


def pruned_in_words(facts: Facts) -> str:
    """Whether the base's weights were worth keeping."""
    return (
        f"{percent(facts['macs_ratio'])} of the base's multiply-accumulates are left; of the validation images "
        f"{percent(facts['val_accuracy_untuned'])} were right before the last fine-tuning and "
        f"{percent(facts['val_accuracy'])} after it; the same shape trained as long from random weights is at "
        f"{percent(facts['control_val_accuracy'])}"
    )


def qat_in_words(facts: Facts) -> str:
    """What training under the rounding ended with."""
    return f"with all layers but the last rounded it ends at {percent(facts['val_accuracy'])} of the validation images"
