"""Clean the raw images, resize them, and split them into train, val and test."""

from isoflop.data.cleaning import Prepare
from isoflop.data.normalization import checkpoint_normalization
from isoflop.data.preparation import prepare
from isoflop.data.readers import read_raw
from isoflop.runtime.files import write_json
from isoflop.runtime.params import Section
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run


class Params(Section):
    prepare: Prepare


def main(params: Params, raw: In, pretrained: In, train: Out, val: Out, test: Out, names: Out, dropped: Out,
         dropped_picture: Out, metrics: Out) -> None:  # fmt: skip
    folders, fixed = {"train": train, "val": val, "test": test}, checkpoint_normalization(pretrained)
    facts = prepare(read_raw(raw), params.prepare, folders, names, dropped, dropped_picture, fixed)
    write_json(metrics, facts)


if __name__ == "__main__":
    run(main)
