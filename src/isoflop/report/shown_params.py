"""The sections of params.yaml, all of which the pages print."""

from __future__ import annotations

from isoflop.runtime.params import Section, Shown


class Params(Section):
    data: Shown
    prepare: Shown
    augment: Shown
    model: Shown
    recipe: Shown
    train: Shown
    evaluate: Shown
    sweep: Shown
    scaling: Shown
    distill: Shown
    prune: Shown
    sparsify: Shown
    qat: Shown
    variants: Shown
    export: Shown
    quantize: Shown
    benchmark: Shown
    ship: Shown
    demo: Shown
