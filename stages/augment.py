"""Write the augmented views of the training split, and a contact sheet of them."""

from isoflop.data.arrays import read_split, read_views
from isoflop.data.augmentation import Augment, write_augmented
from isoflop.data.contact_sheet import write_contact_sheet
from isoflop.runtime.params import Section
from isoflop.runtime.signature import In, Out
from isoflop.runtime.stage import run


class Params(Section):
    augment: Augment


def main(params: Params, train: In, views: Out, contact_sheet: Out) -> None:
    split = read_split(train)
    augment = params.augment
    write_augmented(split, views, augment.views, augment.policy, augment.seed)
    write_contact_sheet(split, read_views(views), contact_sheet)


if __name__ == "__main__":
    run(main)
