# %% [markdown]
# # LoRA, quantization, memory
#
# Methods of every backbone and task, for training with less memory and for smaller files.

# %% tags=["parameters"] smoke={"count": 32, "epochs": 1}
count = 1257  # images to train on
epochs = 10

# %%
import os

import keras
import numpy as np

import keras_spm

keras.utils.set_random_seed(0)
(images, labels), _, (test_images, test_labels), _ = keras_spm.data.load_digits()
images, labels = images[:count], labels[:count]


def accuracy(model):
    return np.mean(model.predict(test_images, verbose=0).argmax(1) == test_labels)


def trainable(model):
    return sum(int(np.prod(variable.shape)) for variable in model.trainable_variables)


backbone = keras_spm.PVTv2SPM.from_preset("mini", load_weights=False)
model = keras_spm.ImageClassifier(backbone, num_classes=10)
model.optimizer.learning_rate = 1e-3
first = labels < 5  # Digits 0 to 4.
model.fit(images[first], labels[first], batch_size=32, epochs=epochs, verbose=0)
print(f"trained on digits 0 to 4: {accuracy(model):.1%} of all digits")

# %% [markdown]
# ## LoRA
#
# `enable_lora` trains low-rank matrices in the attention and MLP layers of the backbone, and the
# head, and freezes the rest. At first the outputs do not change.

# %%
before = trainable(model)
model.enable_lora(rank=8)
print(f"{trainable(model):,} of {before:,} parameters are trained")
model.optimizer.learning_rate = 3e-3
model.fit(images, labels, batch_size=32, epochs=epochs, verbose=0)
print(f"with LoRA: {accuracy(model):.1%}")
model.save_lora_weights("digits.safetensors")
print(f"file of LoRA and the head: {os.path.getsize('digits.safetensors') / 1e3:.0f} kB")
model.merge_lora()  # Adds the matrices to the kernels, for example before an export.
print(f"merged: {accuracy(model):.1%}")

# %% [markdown]
# `load_lora_weights` reads the file into the network that it was trained on. The recipe is
# `keras-spm train classification_lora`.
#
# ## Quantization
#
# `quantize` works in place: dense layers compute in int8, convolutions and Guided Local Enhancement
# store their kernels in int8. `filters="^(?!head)"` leaves out the head, `"int4"` and `"float8"`
# are other modes, and `keras.quantizers.Int8QuantizationConfig(activation_quantizer=None)`
# quantizes kernels only.

# %%
model.save("float32.keras", include_optimizer=False)
model.quantize("int8")
model.save("int8.keras", include_optimizer=False)
sizes = [os.path.getsize(f"{name}.keras") / 1e6 for name in ("float32", "int8")]
print(f"int8: {accuracy(model):.1%}, file of {sizes[1]:.2f} MB instead of {sizes[0]:.2f} MB")

# %% [markdown]
# Quantized models are saved, loaded, fused and shared as presets like any other.
#
# ## Fusion
#
# `keras_spm.fuse` folds batch normalizations for inference:

# %%
fused = keras_spm.fuse(model)
difference = np.abs(
    fused.predict(test_images[:8], verbose=0) - model.predict(test_images[:8], verbose=0)
).max()
print(f"largest difference of a logit {difference:.1e}")

# %% [markdown]
# ## Memory
#
# `from_preset("b1", gradient_checkpointing=True)` recomputes the activations of blocks in the
# backward pass: less memory, but slower. [Results](../results.md) has the measured memory.
# `model.freeze(up_to_stage=2)` trains the last stages alone. `dtype="mixed_bfloat16"` computes in
# half precision; normalization of images, softmax and losses stay in float32.
