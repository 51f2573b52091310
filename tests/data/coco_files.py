"""A small data set in COCO's format, written to disk."""

import json

import numpy as np
from PIL import Image

# Not sorted by id, and with gaps.
CATEGORIES = [{"id": 7, "name": "heron"}, {"id": 2, "name": "boat"}, {"id": 4, "name": "buoy"}]
SIZES = {11: (40, 60), 5: (50, 30), 9: (32, 32)}  # (height, width) by image id.


def annotation(annotation_id, image_id, box, **changes):
    left, top, width, height = box
    right, bottom = left + width, top + height
    return {
        "id": annotation_id,
        "image_id": image_id,
        "category_id": 2,
        "bbox": list(box),
        "area": 0.7 * width * height,
        "iscrowd": 0,
        "segmentation": [[left, top, right, top, right, bottom]],
        **changes,
    }


def contents():
    """Returns the contents of a file whose annotations are not sorted by image."""
    images = [
        {"id": image_id, "file_name": f"{image_id:06}.png", "height": height, "width": width}
        for image_id, (height, width) in SIZES.items()
    ]
    mask = {"size": [40, 60], "counts": [2, 38, 2360]}
    annotations = [
        annotation(100, 5, (1.5, 2.25, 10, 20.75)),
        annotation(101, 11, (0, 0, 60, 40), category_id=7, iscrowd=1, segmentation=mask),
        annotation(90, 5, (20, 30, 10, 20), category_id=4),
        annotation(102, 11, (12.34, 5.67, 8.9, 10.11)),
    ]
    return {"images": images, "categories": CATEGORIES, "annotations": annotations}


def write(folder, written, options=()):
    """Writes `annotations.json` and the images of `SIZES`; returns both paths."""
    folder.mkdir(exist_ok=True)
    generator = np.random.default_rng(0)
    for image_id, size in SIZES.items():
        pixels = generator.integers(0, 256, (*size, 3), dtype="uint8")
        Image.fromarray(pixels).save(folder / f"{image_id:06}.png", **dict(options))
    (folder / "annotations.json").write_text(json.dumps(written))
    return folder / "annotations.json", folder
