"""A folder of images: one folder for each class."""

import pathlib

from keras_spm.data.image_dataset import ImageDataset
from keras_spm.data.image_dataset import has_image_extension
from keras_spm.data.image_dataset import is_passed_over


class ImageFolder(ImageDataset):
    """Images sorted into a folder for each class, such as `photos/heron/0001.jpg`.

    A sequence of `ClassificationExample`s whose images are paths, in the order of the
    classes' and files' names. Of what format a file is, its contents say, not its name. All
    that Pillow reads is taken: gray, CMYK, with a palette or transparency, 16 bits a
    channel; `read_image` makes 8-bit RGB of it. Hidden files are passed over, and those in
    which Windows keeps a folder's looks.

    These break rules: a class without images, a file beside the class folders or without
    the name of an image, a folder inside a class, and, where images are verified, a file
    that is empty, no image, cut off or not to be read, an image of fewer than 8 pixels a
    side, or of more pixels than Pillow holds safe (178 million). Class names that differ in
    upper and lower case alone are an error.

    Args:
        folder: path.
        class_names: sequence of str, the classes and their order, or `None` for the names of
            the folders, sorted. A folder of another name then breaks a rule.
        invalid: `"raise"`, or `"drop"` to leave out what breaks a rule. A class without
            images is then left out as well, unless it is in `class_names`.
        verify: bool, whether every image is decoded once to see that it can be. This takes
            1 to 30 ms an image and core.

    Attributes:
        class_names: list of str; labels are places in it.
        invalid_annotations: {rule: [names]}, what was left out.

    Raises:
        FileNotFoundError: where there is no such folder.
        ValueError: for what breaks rules, counting it; for a folder without class folders;
            when an example is asked for and not verified, for what cannot be read.

    Example:

    >>> photos = keras_spm.data.ImageFolder("photos", invalid="drop")
    >>> photos.class_names, len(photos), photos.invalid_annotations
    (['heron', 'stork'], 412, {'empty file': ['heron/0003.jpg']})
    """

    def __init__(self, folder, class_names=None, invalid="raise", verify=True):
        folder = pathlib.Path(folder)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is no folder.")
        classes, invalid_annotations = [], {}
        for entry in _listed(folder):
            if entry.is_dir():
                classes.append(entry)
            else:
                invalid_annotations.setdefault("file beside the class folders", []).append(
                    entry.name
                )
        if not classes:
            raise ValueError(f"{folder} must hold a folder for each class. Received: none")
        found = [entry.name for entry in classes]
        names = found if class_names is None else list(class_names)
        unknown = [name for name in found if name not in names]
        if unknown:
            invalid_annotations["folder of an unknown class"] = unknown
        files = []
        for entry in classes:
            if entry.name in names:
                files += _images(entry, invalid_annotations)
        super().__init__(
            folder,
            files,
            names,
            required=found,
            invalid_annotations=invalid_annotations,
            prune=class_names is None,
            invalid=invalid,
            verify=verify,
        )


def _images(folder, invalid_annotations):
    """Returns [(name, path, class name)] of a class's folder."""
    files = []
    for path in _listed(folder):
        name = f"{folder.name}/{path.name}"
        if path.is_dir():
            invalid_annotations.setdefault("folder inside a class", []).append(name)
        elif not has_image_extension(path):
            invalid_annotations.setdefault("file without the name of an image", []).append(name)
        else:
            files.append((name, path, folder.name))
    return files


def _listed(folder):
    return sorted(path for path in folder.iterdir() if not is_passed_over(path.name))
