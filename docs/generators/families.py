"""A page for each family of backbones, from its variants and cards, and one of dense models."""

import contextlib
import inspect
import io

import table

import keras_spm
from generators.tables import markdown, starting_with
from keras_spm.cards import read_card
from keras_spm.cards.task_card import read_task_card, task_presets

_EXAMPLE = """\
import keras_spm

backbone = keras_spm.{name}.from_preset("{preset}", load_weights=False, image_shape=(224, 224, 3))
for level, maps in backbone.pyramid_outputs.items():
    print(level, maps.shape)
print(f"{{backbone.count_params():,}} parameters")
"""
_DATA = {"ade20k": "ADE20K", "cityscapes": "Cityscapes", "coco": "COCO"}
_METRICS = {"average_precision": "AP", "mask_average_precision": "mask AP", "mean_iou": "mIoU"}


def pages() -> dict[str, str]:
    """Returns {path: Markdown} of a page for each family."""
    return {
        f"models/{family.preset_prefix.rstrip('_')}.md": _page(family, spm)
        for family, spm in table.families()
    }


def models() -> str:
    """Returns the table of all models, as it is in the README."""
    _, rest = table.README.read_text().split(table.BEGIN)
    return rest.split(table.END)[0].strip()


def dense_models() -> str:
    """Returns the table of trained segmenters and detectors."""
    rows = [["preset", "task and head", "data", "license", "published", "stated by", "weights"]]
    for preset in task_presets():
        card = read_task_card(preset)
        published = (card.published or {}).items()
        figures = [f"{_METRICS.get(key, key)} {value}" for key, value in published]
        place = f"[page]({card.page}); pass the file as `weights`" if card.page else "–"
        rows.append(
            [
                f"`{preset}`",
                f"`{card.task}`, `{card.head}`",
                _DATA.get(card.classes, card.classes),
                _license(card),
                ", ".join(figures) or "–",
                card.published_by or "–",
                _on_the_hub(card) if card.repository else place,
            ]
        )
    return markdown(rows)


def _page(family, spm):
    name, variants = family.__name__, list(family.presets)
    summary = inspect.getdoc(family).split("\n\nArgs:")[0]
    example = _EXAMPLE.format(name=spm.__name__, preset=variants[0])
    return f"""\
# {name}

{summary}

`{name}` has the mergings of its paper, `{spm.__name__}` has Stepwise Patch Merging. The reference
describes the arguments: [`{name}`][{family.__module__}.{name}].

```python
{example}```

```text
{_printed(example)}```

## Variants

{_dimensions(family)}

## Size

{_SIZE}

{starting_with(models(), f"`{name}`")}

## Weights

{_WEIGHTS}

{_weights(family)}

{_spm_weights(family, spm)}

Layouts of PyTorch weights that can be loaded and written: {_layouts(family)}; with Stepwise Patch
Merging {_layouts(spm)}.
"""


_SIZE = """\
Of a classifier of 1,000 classes, for one image of 224×224; [all models](index.md) explains the \
columns."""
_WEIGHTS = """\
`from_preset` downloads these weights, see [weights in and out](../guides/weights.md). Top-1 is \
the accuracy on ImageNet-1K in percent that the publisher states. "Measured" is the accuracy that \
was measured with this package, "–" if it was not."""


def _printed(code):
    with contextlib.redirect_stdout(io.StringIO()) as output:
        exec(code, {})
    return output.getvalue()


def _dimensions(family):
    names = list(dict.fromkeys(name for each in family.presets.values() for name in each))
    rows = [["variant", *(f"`{name}`" for name in names)]]
    for variant, values in family.presets.items():
        rows.append([f"`{variant}`", *(_plain(values.get(name, "")) for name in names)])
    return markdown(rows)


def _plain(value):
    return ", ".join(map(str, value)) if isinstance(value, (tuple, list)) else str(value)


def _weights(family):
    heading = ("variant", "on the hub", "license", "size", "crop", "top-1", "stated by", "measured")
    rows = [heading]
    for variant in family.presets:
        card = read_card(f"{family.preset_prefix}{variant}")
        cells = ["–"] * (len(heading) - 1)
        if card.repository is not None:
            cells = [
                _on_the_hub(card),
                _license(card),
                "×".join(map(str, card.preprocessing["image_size"])),
                card.preprocessing["crop_pct"] or "–",
                card.published_top1 or "–",
                card.published_by or "–",
                card.measured_top1 or "–",
            ]
        rows.append([f"`{variant}`", *cells])
    return markdown(rows)


def _on_the_hub(card):
    return f"[`{card.repository}`](https://huggingface.co/{card.repository})"


def _license(card):
    return f"**{card.license}**" if card.is_non_commercial else card.license or "–"


def _spm_weights(family, spm):
    own = [name for name in spm.presets if read_card(f"{spm.preset_prefix}{name}").repository]
    if own:
        return f"`{spm.__name__}` has weights of its own: {', '.join(own)}."
    return (
        f"There are no published weights of `{spm.__name__}`. It loads everything that it shares "
        f"with `{family.__name__}`, and its mergings are randomly initialized, with a warning. "
        "[SPM in a pretrained network](../guides/spm.md) has better starts."
    )


def _layouts(cls):
    model = cls.from_preset(next(iter(cls.presets)), load_weights=False)
    return ", ".join(f"`{name}`" for name in keras_spm.list_layouts(model))
