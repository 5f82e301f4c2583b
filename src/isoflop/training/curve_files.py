"""Training curves by DVCLive: a file a metric, a row an epoch, written while the training runs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from isoflop.runtime.errors import UserError

if TYPE_CHECKING:
    from dvclive import Live


class Curves:
    """The curves of one training, in ``folder``."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._logged = 0
        self._live: Live | None = None

    def write(self, history: list[dict[str, float]]) -> None:
        """Log the rows of ``history`` that are new; of a training that was taken up again, those before it too."""
        from dvclive import Live
        from scmrepo.exceptions import SCMError

        if self._live is None:
            # without its own dvc.yaml and experiment: this stage's dvc.yaml has both
            try:
                self._live = Live(str(self._folder), dvcyaml=None, save_dvc_exp=False)
            except SCMError as error:
                cure = "DVCLive takes a commit: `git add -A && git commit -m start`"
                raise UserError(f"git: {' '.join(str(error).split())}; {cure}") from None
        for row in history[self._logged :]:
            for name, value in row.items():
                self._live.log_metric(name, value)
            self._live.next_step()
        self._logged = len(history)

    def end(self) -> None:
        if self._live is not None:
            self._live.end()
