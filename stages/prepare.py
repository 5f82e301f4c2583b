"""Clean the raw images, resize them, split them into train, val and test."""

import json

from isoflop.cleaning import Prepare
from isoflop.params import Section
from isoflop.preparation import prepare
from isoflop.readers import read_raw
from isoflop.stage import In, Out, run


class Params(Section):
    prepare: Prepare


def main(params: Params, raw: In, train: Out, val: Out, test: Out, dropped: Out, dropped_picture: Out,
         metrics: Out) -> None:  # fmt: skip
    folders = {"train": train, "val": val, "test": test}
    facts = prepare(read_raw(raw), params.prepare, folders, dropped, dropped_picture)
    metrics.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    run(main)
