"""Cards: where a preset's published weights are, and what is known of them.

One JSON file a preset, named by its long name. A figure that nobody has measured is null.
"""

import dataclasses
import json
import pathlib

_FOLDER = pathlib.Path(__file__).parent


@dataclasses.dataclass(frozen=True)
class Card:
    """What is known of a preset.

    Attributes:
        repository: `owner/name` on the hub, or None where nothing is published.
        revision: commit of the hub, or None for the newest.
        licence: of the weights.
        published_top1: ImageNet-1K accuracy in percent as published, or None.
        published_by: who published that figure.
        measured_top1: as measured with this library, or None.
    """

    repository: str | None
    revision: str | None
    licence: str | None
    published_top1: float | None
    published_by: str | None
    measured_top1: float | None

    @property
    def address(self):
        """`hf://owner/name` with the revision, or None."""
        if self.repository is None:
            return None
        revision = f"@{self.revision}" if self.revision else ""
        return f"hf://{self.repository}{revision}"


def read_card(preset):
    """Returns the `Card` of a preset's long name."""
    return Card(**json.loads((_FOLDER / f"{preset}.json").read_text()))
