"""Small data sets on disk, written by TensorFlow Datasets' own builders."""

import io

import numpy as np
from PIL import Image


def prepared(builder_class, splits, folder, **options):
    """Lets a builder write its files from local examples, without a download."""
    builder = builder_class(data_dir=folder, **options)
    builder._split_generators = lambda manager: splits(builder)
    builder.download_and_prepare()
    return builder


def imagenet(images, folder, file_format="array_record", splits=("validation",)):
    """Equal splits of ImageNet from {file name: (bytes, synset)}."""
    import tensorflow_datasets as tfds

    def arguments():
        # An iterator, as for archives.
        files = iter([(name, io.BytesIO(content)) for name, (content, _) in images.items()])
        labels = {name: synset for name, (_, synset) in images.items()}
        return {"archive": files, "validation_labels": labels}

    def generators(builder):
        return [tfds.core.SplitGenerator(name=split, gen_kwargs=arguments()) for split in splits]

    builder_class = tfds.builder_cls("imagenet2012")
    return prepared(builder_class, generators, folder, file_format=file_format).data_dir


def jpegs(synsets):
    """JPEG files of noise, one per synset, as `imagenet` takes them."""
    images = {}
    for index, synset in enumerate(synsets):
        file = io.BytesIO()
        pixels = np.random.default_rng(index).integers(0, 256, (20 + index, 30, 3), dtype="uint8")
        Image.fromarray(pixels).save(file, "JPEG")
        images[f"ILSVRC2012_val_{index:08}.JPEG"] = file.getvalue(), synset
    return images
