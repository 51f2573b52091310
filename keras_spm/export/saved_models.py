"""TensorFlow's SavedModel, as TensorFlow Serving loads it."""

import pathlib

import keras

from keras_spm.export.files import METADATA, write_metadata
from keras_spm.export.request import Request
from keras_spm.export.served import INPUT

FILES = "image_bytes"  # TensorFlow Serving decodes Base64 for names that end in `_bytes`.
_CHANNELS = (1, 3)  # Of images that TensorFlow decodes.


def write_saved_model(request: Request, path: pathlib.Path) -> None:
    """Writes the folder of a SavedModel.

    Its signature `serve`, also `serving_default`, takes `images`. With preprocessing included,
    `serve_bytes` takes `image_bytes`, the contents of JPEG and PNG files.
    """
    import tensorflow as tf

    archive, served = keras.export.ExportArchive(), request.served
    images = tf.TensorSpec(request.spec.shape, request.spec.dtype, name=INPUT)
    archive.track_and_add_endpoint("serve", served, [images], **request.options)
    channels = request.spec.shape[-1]
    if served.includes_preprocessing and channels in _CHANNELS and not request.is_channels_first:
        files = tf.TensorSpec((None,), "string", name=FILES)
        archive.add_endpoint("serve_bytes", _serve_files(served, channels), [files])
    archive.write_out(path, verbose=False)
    write_metadata(path / METADATA, request.metadata)


def _serve_files(served, channels):
    import tensorflow as tf

    preprocessed = tf.TensorSpec((*served.preprocessing.image_size, channels), "float32")

    def read(file):
        # Decodes a JPEG file to the pixels that Pillow decodes it to.
        image = tf.io.decode_jpeg(file, channels=channels, dct_method="INTEGER_ACCURATE")
        return served.preprocess(image[None])[0]

    def serve(image_bytes):
        return served.serve(tf.map_fn(read, image_bytes, fn_output_signature=preprocessed))

    return serve
