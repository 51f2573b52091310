"""Small data sets in the layouts that people have, and what an independent reading finds."""

import json
import pathlib
from xml.etree import ElementTree

import numpy as np
from PIL import Image

SIZE = (40, 24)  # Width and height.
# {name of an image: [(class, left, top, right, bottom)]}
OBJECTS = {
    "a": [("heron", 4, 2, 20, 14), ("stork", 10, 6, 30, 22)],
    "b": [("stork", 0, 0, 40, 24)],
    "c": [],
    "d": [("heron", 8, 8, 16, 16)],
}
NAMES = ["heron", "stork"]
TRAIN, VALIDATION = ("a", "b", "c"), ("d",)
PICTURES = {"train": TRAIN, "val": VALIDATION}


def image(path, extension=".jpg"):
    """Writes an image."""
    path = pathlib.Path(f"{path}{extension}")
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", SIZE, (90, 120, 60)).save(path)
    return path


# === Detection ===


def write_coco(path, names, prefix="", first_id=1, phantom=False):
    categories = [
        {"id": first_id + number, "name": name, "supercategory": "birds"}
        for number, name in enumerate(NAMES)
    ]
    if phantom:
        categories.insert(0, {"id": 0, "name": "birds", "supercategory": "none"})
    images, annotations = [], []
    for number, name in enumerate(names):
        file_name = f"{prefix}{name}.jpg"
        images.append({"id": number, "file_name": file_name, "width": SIZE[0], "height": SIZE[1]})
        for label, left, top, right, bottom in OBJECTS[name]:
            annotations.append(
                {
                    "id": len(annotations),
                    "image_id": number,
                    "category_id": first_id + NAMES.index(label),
                    "bbox": [left, top, right - left, bottom - top],
                }
            )
    contents = {"info": {}, "images": images, "categories": categories, "annotations": annotations}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents))


def write_yolo(path, name, polygons=False):
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = []
    for label, left, top, right, bottom in OBJECTS[name]:
        x0, x1, y0, y1 = left / SIZE[0], right / SIZE[0], top / SIZE[1], bottom / SIZE[1]
        box = ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0)
        numbers = (x0, y0, x1, y0, x1, y1, x0, y1) if polygons else box
        lines.append(" ".join(map(str, (NAMES.index(label), *numbers))))
    path.write_text("\n".join(lines) + "\n")


def write_voc(path, name, with_size=True):
    root = ElementTree.Element("annotation")
    size = ElementTree.SubElement(root, "size")
    for field, value in zip(("width", "height"), SIZE, strict=True):
        ElementTree.SubElement(size, field).text = str(value if with_size else 0)
    for label, left, top, right, bottom in OBJECTS[name]:
        element = ElementTree.SubElement(root, "object")
        ElementTree.SubElement(element, "name").text = label
        box = ElementTree.SubElement(element, "bndbox")
        values = {"xmin": left + 1, "ymin": top + 1, "xmax": right, "ymax": bottom}
        for field, value in values.items():
            ElementTree.SubElement(box, field).text = str(value)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(ElementTree.tostring(root))


def write_labelme(path, name, kind="rectangle"):
    shapes = []
    for label, left, top, right, bottom in OBJECTS[name]:
        points = [[left, top], [right, bottom]]
        if kind == "polygon":
            points = [[left, top], [right, top], [right, bottom], [left, bottom]]
        shapes.append({"label": label, "points": points, "shape_type": kind})
    contents = {"version": "5.0", "shapes": shapes, "imagePath": f"..\\photos\\{name}.jpg"}
    contents |= {"imageData": None, "imageHeight": SIZE[1], "imageWidth": SIZE[0]}
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(contents))


def coco_of_the_benchmark(folder):
    for split, names in PICTURES.items():
        write_coco(folder / f"annotations/instances_{split}2017.json", names)
        (folder / f"annotations/captions_{split}2017.json").write_text('{"info": {}}')
        for name in names:
            image(folder / f"{split}2017" / name)


def coco_of_roboflow(folder):
    for split, names in PICTURES.items():
        split = "valid" if split == "val" else split
        write_coco(folder / split / "_annotations.coco.json", names, phantom=True)
        for name in names:
            image(folder / split / name)


def coco_with_one_folder_of_images(folder):
    for split, names in PICTURES.items():
        write_coco(folder / f"{split}.json", names, first_id=0)
        for name in names:
            image(folder / "images" / name)


def coco_with_custom_names(folder):
    for split, names in PICTURES.items():
        write_coco(folder / f"annotations/custom_{split}.json", names)
        for name in names:
            image(folder / f"{split}2017" / name)


def coco_with_the_same_names_in_both_splits(folder):
    """Images of both splits are called a.jpg; they differ in their size."""
    for split in PICTURES:
        write_coco(folder / f"annotations/instances_{split}.json", TRAIN)
        for name in TRAIN:
            image(folder / "images" / split / name)
    Image.new("RGB", (9, 9)).save(folder / "images/val/a.jpg")


def yolo_of_ultralytics(folder):
    text = "path: ../datasets/birds\ntrain: images/train\nval: images/val\ntest:\n"
    (folder / "data.yaml").write_text(text + "names:\n  0: heron\n  1: stork\n")
    _yolo_files(folder, "images/{split}", "labels/{split}")


def yolo_of_roboflow(folder):
    text = "train: ../train/images\nval: ../valid/images\nnc: 2\nnames: ['heron', 'stork']\n"
    (folder / "data.yaml").write_text(text)
    _yolo_files(folder, "{valid}/images", "{valid}/labels")


def yolo_with_polygons(folder):
    text = "train: images/train\nval: images/val\nnames: [heron, stork]\n"
    (folder / "birds.yml").write_text(text)
    _yolo_files(folder, "images/{split}", "labels/{split}", polygons=True)


def yolo_with_lists(folder):
    text = "train: train.txt\nval: val.txt\nnames: [heron, stork]\n"
    (folder / "data.yaml").write_text(text)
    for split, names in PICTURES.items():
        lines = "".join(f"./images/{name}.jpg\n" for name in names)
        (folder / f"{split}.txt").write_text(lines)
    _yolo_files(folder, "images", "labels")


def yolo_with_configurations_inside(folder):
    """Boxes and polygons of the same images, whose folder is beside the YAML files."""
    for kind in ("boxes", "polygons"):
        (folder / kind).mkdir()
        text = "path: .\ntrain: images/train\nval: images/val\nnames: [heron, stork]\n"
        (folder / kind / "config.yaml").write_text(text)
        _yolo_files(folder, "images/{split}", kind + "/labels/{split}", kind == "polygons")


def yolo_without_yaml(folder):
    (folder / "classes.txt").write_text("heron\nstork\n")
    _yolo_files(folder, "images/{split}", "labels/{split}")


def _yolo_files(folder, images, labels, polygons=False):
    for split, names in PICTURES.items():
        words = {"split": split, "valid": "valid" if split == "val" else split}
        for name in names:
            image(folder / images.format(**words) / name)
            if OBJECTS[name]:
                write_yolo(folder / labels.format(**words) / f"{name}.txt", name, polygons)


def voc_of_the_benchmark(folder):
    (folder / "ImageSets/Main").mkdir(parents=True)
    for split, names in PICTURES.items():
        (folder / f"ImageSets/Main/{split}.txt").write_text("\n".join(names))
        for name in names:
            image(folder / "JPEGImages" / name, ".png")
            write_voc(folder / "Annotations" / f"{name}.xml", name)


def voc_with_splits_as_folders(folder):
    for split, names in PICTURES.items():
        for name in names:
            image(folder / split / name)
            write_voc(folder / split / f"{name}.xml", name, with_size=False)


def voc_without_lists(folder):
    for name in OBJECTS:
        image(folder / "images" / name, ".png")
        write_voc(folder / "annotations" / f"{name}.xml", name)


def labelme(folder):
    for name in OBJECTS:
        image(folder / name)
        write_labelme(folder / f"{name}.json", name, "polygon" if name == "a" else "rectangle")


def labelme_with_splits(folder):
    for split, names in PICTURES.items():
        for name in names:
            image(folder / split / name)
            write_labelme(folder / split / f"{name}.json", name)


DETECTION = {
    layout.__name__: layout
    for layout in (
        *(coco_of_the_benchmark, coco_of_roboflow, coco_with_one_folder_of_images),
        *(coco_with_custom_names, yolo_of_ultralytics, yolo_of_roboflow, yolo_with_polygons),
        *(yolo_with_lists, yolo_with_configurations_inside, yolo_without_yaml),
        *(voc_of_the_benchmark, voc_with_splits_as_folders, voc_without_lists, labelme),
        labelme_with_splits,
    )
}

# === Segmentation ===

# Values of a map, 0 to 2 and 255.
MAP = np.random.default_rng(0).choice([0, 1, 2, 255], (SIZE[1], SIZE[0])).astype("uint8")


def write_map(path, values=MAP):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(values).save(path)


def masks_with_splits_above(folder):
    for split, names in PICTURES.items():
        for name in names:
            image(folder / split / "images" / name)
            write_map(folder / split / "masks" / f"{name}.png")
    (folder / "classes.txt").write_text("sky\nroad\ntree\n")


def masks_with_splits_inside(folder):
    for split, names in PICTURES.items():
        for name in names:
            image(folder / "images" / split / name)
            write_map(folder / "annotations" / split / f"{name}.png")


def masks_with_splits_beside(folder):
    for split, names in PICTURES.items():
        for name in names:
            image(folder / split / name, ".png")
            write_map(folder / f"{split}annot" / f"{name}.png")


def masks_without_splits(folder):
    for name in OBJECTS:
        image(folder / "JPEGImages" / name)
        write_map(folder / "SegmentationClass" / f"{name}.png")


def masks_with_an_ending(folder):
    for name in OBJECTS:
        image(folder / "imgs" / name)
        write_map(folder / "masks" / f"{name}_mask.png")


def masks_in_two_folders(folder):
    for name in OBJECTS:
        image(folder / "street" / name)
        write_map(folder / "street masks" / f"{name}.png")


def masks_in_color(folder):
    colors = np.zeros((256, 3), "uint8")
    colors[:3], colors[255] = [(128, 128, 128), (128, 64, 128), (64, 0, 64)], (0, 0, 0)
    (folder / "classes.txt").write_text("128 128 128 sky\n128 64 128 road\n64 0 64 tree\n")
    for name in OBJECTS:
        image(folder / "images" / name)
        write_map(folder / "masks" / f"{name}.png", colors[np.minimum(MAP, 2)])


def cityscapes(folder):
    for split, names in PICTURES.items():
        for name in names:
            image(folder / "leftImg8bit" / split / "bonn" / f"{name}_leftImg8bit", ".png")
            labels = folder / "gtFine" / split / "bonn" / f"{name}_gtFine_labelTrainIds.png"
            write_map(labels)
            write_map(labels.with_name(f"{name}_gtFine_labelIds.png"))


SEGMENTATION = {
    layout.__name__: layout
    for layout in (
        *(masks_with_splits_above, masks_with_splits_inside, masks_with_splits_beside),
        *(masks_without_splits, masks_with_an_ending, masks_in_two_folders, masks_in_color),
        cityscapes,
    )
}
