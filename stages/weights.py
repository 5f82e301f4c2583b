"""Fetch the pretrained weights that model.pretrained names, as safetensors; an empty folder for none."""

from isoflop.download.pretrained import parsed_source
from isoflop.models.architecture import PretrainedSource
from isoflop.runtime.params import Section, key
from isoflop.runtime.signature import Out
from isoflop.runtime.stage import run


class Params(Section):
    pretrained: PretrainedSource = key("model.pretrained")


def main(params: Params, description: Out, weights: Out) -> None:
    from isoflop.models.pretrained import write_checkpoint

    write_checkpoint(parsed_source(params.pretrained), description, weights)


if __name__ == "__main__":
    run(main)
