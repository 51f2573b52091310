# %% [markdown]
# # Export and serve
#
# An exported model takes raw pixels and runs without this package. `keras-spm export` opens the
# file that it wrote in its own runtime, compares it with the model at several sizes, and keeps it
# only if the outputs agree.

# %% tags=["parameters"] smoke={"count": 16, "epochs": 1, "writes_onnx": false}
import keras

count = 1257  # images to train on
epochs = 8
writes_onnx = keras.config.backend() in ("tensorflow", "torch")

# %%
import numpy as np
from PIL import Image

import keras_spm
from keras_spm import cli

keras.utils.set_random_seed(0)
(images, labels), _, (test_images, _), names = keras_spm.data.load_digits()
backbone = keras_spm.PVTv2SPM.from_preset("mini", load_weights=False)
preprocessing = keras_spm.data.ImagePreprocessing((32, 32))
model = keras_spm.ImageClassifier(backbone, 10, class_names=names, preprocessing=preprocessing)
model.optimizer.learning_rate = 1e-3
model.fit(images[:count], labels[:count], batch_size=32, epochs=epochs, verbose=0)
model.save("digits.keras")
Image.fromarray(test_images[0]).save("digit.png")
print(model.classify("digit.png", top=2))

# %% [markdown]
# ## ONNX
#
# In a terminal: `keras-spm export digits.keras digits.onnx`. `--fuse` folds batch normalizations
# first, `--dtype uint8` takes bytes, `--include-preprocessing` puts resizing and cropping into the
# file, and `--int8 --calibration FOLDER` writes a file that computes in int8
# ([more](../serving.md)). [Verified exports](../exports.md) lists formats, tasks and backends; ONNX
# is written on TensorFlow and PyTorch. A saved `.keras` file can be loaded on any of them, so a
# model that was trained on JAX is exported with `KERAS_BACKEND=torch keras-spm export …`.

# %%
if writes_onnx:
    cli.main(["export", "digits.keras", "digits.onnx", "--fuse"])

# %% [markdown]
# ## Run it without Keras
#
# The input is `images`, (batch, height, width, 3) with pixels in [0, 255], of any size. The output
# of a classifier is `logits`. Class names and preprocessing are in the metadata.

# %%
if writes_onnx:
    import onnxruntime

    session = onnxruntime.InferenceSession("digits.onnx")
    pixels = np.asarray(Image.open("digit.png"), "float32")[None]
    (logits,) = session.run(["logits"], {"images": pixels})
    print(names[logits.argmax()], sorted(session.get_modelmeta().custom_metadata_map))

# %% [markdown]
# Segmenters have the output `logits`; detectors `boxes`, `scores`, `labels` and, for instances,
# `masks`, after non-maximum suppression (before it with `--raw-outputs`); backbones `P2` to `P5` and
# `pooled_output`. In Python: `model.export("digits.onnx", format="onnx")`.
#
# `docs/serving/onnx_runtime.py` in the repository classifies JPEG files with an exported model. It
# needs onnxruntime, NumPy and Pillow only.
#
# ## Serve
#
# `docs/serving/fastapi_app.py` serves a classifier over HTTP. Requests that arrive while a batch is
# computed become the next batch:
#
# ```
# pip install ".[torch,data,serve]"
# MODEL=digits.keras uvicorn --app-dir docs/serving fastapi_app:app
# curl --data-binary @digit.png localhost:8000/classify
# ```
#
# To look at a model in a browser, see the [demo](../demo.md).
