# %% [markdown]
# # Gray and multispectral images
#
# A network for any number of channels, from published RGB weights, is one argument:
#
# ```python
# backbone = keras_spm.PVTv2SPM.from_preset("b1", image_shape=(None, None, 4))
# ```
#
# The kernel of the first convolution is summed over its channels for gray images, and repeated and
# rescaled for others, as timm does. Everything else loads as it is, and `load_report` says what was
# adapted. This page trains on gray and on four-channel digits, from random weights.

# %% tags=["parameters"] smoke={"count": 16, "epochs": 1}
count = 1257
epochs = 10

# %%
import keras
import numpy as np

import keras_spm

(images, labels), _, (test_images, test_labels), names = keras_spm.data.load_digits()
images, labels = images[:count], labels[:count]
print(images.shape)


def train(images, test_images):
    keras.utils.set_random_seed(0)
    shape = (None, None, images.shape[-1])
    backbone = keras_spm.PVTv2SPM.from_preset("mini", load_weights=False, image_shape=shape)
    model = keras_spm.ImageClassifier(backbone, num_classes=10, class_names=names)
    model.optimizer.learning_rate = 1e-3
    model.fit(images, labels, batch_size=32, epochs=epochs, verbose=0)
    accuracy = np.mean(model.predict(test_images, verbose=0).argmax(1) == test_labels)
    print(f"{images.shape[-1]} channels: test accuracy {accuracy:.1%}")
    return model


# %% [markdown]
# ## Gray images

# %%
gray = train(images[..., :1], test_images[..., :1])

# %% [markdown]
# Image files are converted to the channels of the model: `gray.classify("scan.png")` reads an RGB
# file as gray. Models of 4 channels read files as RGBA.
#
# ## Four bands
#
# Here the four bands are shifted copies of the digits, as those of a camera that is not aligned.


# %%
def bands(images):
    return np.stack([np.roll(images[..., 0], shift, axis=1) for shift in range(4)], axis=-1)


multispectral = train(bands(images), bands(test_images))

# %% [markdown]
# Models of more channels take arrays (height, width, channels), in memory or as `.npy` files, and
# TIFF files with a gray page per channel. Pixels are in [0, 255] for every number of channels;
# integers of 16 bits are divided by 257.

# %%
np.save("bands.npy", bands(test_images[:1])[0])
print(multispectral.classify("bands.npy", top=2))

# %% [markdown]
# ## Published weights in four channels
#
# `from_preset(name, image_shape=…)` and `load_torch_weights` adapt the first convolution. This is what
# they do, on random weights instead of downloaded ones:

# %%
rgb = keras_spm.PVTv2.from_preset("mini", load_weights=False)
four = keras_spm.PVTv2.from_preset("mini", load_weights=False, image_shape=(None, None, 4))
print(keras_spm.load_torch_weights(four, keras_spm.to_torch_state_dict(rgb)))

# %% [markdown]
# In recipes, `--set channels=1` reads images as gray, 4 as RGBA, and more from `.npy` and TIFF
# files. `ImageClassifier(mean=…, std=…)` takes statistics per channel. The default is
# ImageNet's: their average for gray images, and in turn for more than three channels.
