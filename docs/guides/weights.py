# %% [markdown]
# # Weights in and out
#
# ## By name
#
# ```python
# backbone = keras_spm.PVTv2.from_preset("b1")
# model = keras_spm.ImageClassifier.from_preset("pvt_v2_b1")
# segmenter = keras_spm.SemanticSegmenter.from_preset("upernet_swin_tiny_ade20k")
# ```
#
# `from_preset` downloads weights that timm and others publish on the Hugging Face hub, verifies
# their checksum, converts them and caches the result; `load_report` lists what was loaded. A preset
# of a classifier includes the class names of ImageNet and its preprocessing: image size, crop,
# interpolation, mean and standard deviation. `model.preprocessing` applies it to lists of files,
# arrays and `tf.data` data sets; for your own model, pass
# `preprocessing=keras_spm.data.ImagePreprocessing((224, 224), crop_pct=0.875)` to `ImageClassifier`.
# `keras_spm.list_presets()` lists all names. A name can
# also be a folder or an address on the hub, in the format of this package, transformers or timm:
# `keras_spm.Swin.from_preset("hf://microsoft/swin-tiny-patch4-window7-224")`, with
# `"hf://owner/name@revision"` for a revision. `load_weights=False` initializes randomly.
#
# Without a network, files in the hub's cache still load (`HF_HUB_OFFLINE=1`); for other files, the
# error lists the alternatives.
#
# This page uses random weights in place of downloaded ones.

# %% tags=["parameters"] smoke={"variant": "mini"}
variant = "b0"

# %%
import numpy as np

import keras_spm

backbone = keras_spm.PVTv2.from_preset(variant, load_weights=False)
model = keras_spm.ImageClassifier(backbone, num_classes=3, class_names=["heron", "stork", "crane"])

# %% [markdown]
# ## Your own presets
#
# A folder has the configuration, the class names, the preprocessing and the weights, as JSON and
# safetensors.

# %%
model.save_to_preset("birds")
again = keras_spm.ImageClassifier.from_preset("birds")
image = np.random.default_rng(0).integers(0, 256, (96, 96, 3), "uint8")
print(again.classify(image) == model.classify(image))

# %% [markdown]
# `keras_spm.upload_preset("birds", "hf://owner/birds")` uploads it. `model.save("birds.keras")`
# writes one file for all three backends, with the state of the optimizer.
#
# ## From PyTorch
#
# The source is a `.safetensors`, `.pth`, `.pt` or `.bin` file, sharded files with their index, a
# folder written by `save_pretrained`, or a state dict in memory. No code is run from a file.

# %%
state = keras_spm.to_torch_state_dict(backbone, "timm")  # As if timm had written it.
other = keras_spm.PVTv2.from_preset(variant, load_weights=False)
report = keras_spm.load_torch_weights(other, state)
print(report)

# %% [markdown]
# The layout is detected from the names of the tensors. A source is validated as a whole before
# anything is assigned: missing, unexpected, misshapen and non-finite tensors are errors that leave
# the model unchanged.

# %%
name, array = next(iter(state.items()))
try:
    keras_spm.load_torch_weights(other, {**state, name: array[:1]})
except keras_spm.weights.MismatchError as error:
    print(error)

# %% [markdown]
# Only the head of a classifier may have another number of classes; it is then randomly initialized
# and listed in `missing_keys`. Position embeddings and bias tables for another resolution are
# resized.
#
# | backbone | code bases whose weights can be loaded and written |
# | --- | --- |
# | `MiT` | transformers (`Segformer…`) |
# | `PVT`, `PVTSPM` | [official](https://github.com/whai362/PVT) and [Stepwise Patch Merging](https://github.com/Yonghao-Yu/StepwisePatchMerging), transformers (`Pvt…`) and mmdetection, both without SPM |
# | `PVTv2`, `PVTv2SPM` | official, timm (`pvt_v2_…`), transformers (`PvtV2…`) and mmdetection, both without SPM |
# | `Swin`, `SwinSPM` | [official](https://github.com/microsoft/Swin-Transformer), timm (`swin_…`), transformers (`Swin…`) and mmdetection, both without SPM |
#
# Whole dense models load as well: RetinaNet, Faster R-CNN and Mask R-CNN of mmdetection, Semantic
# FPN and UPerNet of mmsegmentation, each on the names of the official backbones (layout `official`)
# or of their own (`mmdet`, `mmseg`), and transformers' UPerNet on Swin and SegFormer. transformers'
# PVT and PVT v2 use another epsilon in their normalizations, so the backbone needs
# `embedding_norm_epsilon=1e-6`; a mismatch is an error.
#
# `weights=` gives a downloaded file of a preset whose weights are not on the hub:
#
# ```python
# detector = keras_spm.ObjectDetector.from_preset(
#     "retinanet_pvt_v2_b1_coco",
#     weights="retinanet_pvtv2-b1_fpn_1x_coco_20210831_103318-7e169a7d.pth",
# )
# ```
#
# ## To PyTorch
#
# `to_torch_state_dict` returns {name: NumPy array} for `load_state_dict(strict=True)`. In a
# terminal: `keras-spm export birds.keras model.safetensors --layout transformers`.

# %%
print(keras_spm.list_layouts(model))
for name, array in list(keras_spm.to_torch_state_dict(model, "official").items())[:4]:
    print(name, array.shape)

# %% [markdown]
# `python zoo/port.py pvt_v2_b1 FOLDER --source pvt_v2_b1.pth` converts a checkpoint to a preset
# folder with its card, and `python zoo/verify.py FOLDER --reference outputs.safetensors` compares
# its outputs with those of the original code. [Port a model](port.md) shows how to find a
# difference.
