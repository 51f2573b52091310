# %% [markdown]
# # How it works
#
# A hierarchical vision transformer has four stages with feature maps of decreasing size. Between
# two stages a *merging* layer halves the map and increases its channels. It is usually one small
# strided convolution, with a receptive field of three pixels, that mixes space and channels in one
# step. Stepwise Patch Merging ([arXiv 2409.06963](https://arxiv.org/abs/2409.06963)) uses two
# steps:
#
# ![Multi-Scale Aggregation, then Guided Local Enhancement](../assets/stepwise_patch_merging.png)

# %% tags=["parameters"] smoke={"side": 8}
side = 28  # height and width of the map

# %%
import keras
import matplotlib.pyplot as plt
import numpy as np
from keras import ops

import keras_spm

keras.utils.set_random_seed(0)
generator = np.random.default_rng(0)
maps = generator.normal(size=(1, side, side, 32)).astype("float32")
merging = keras_spm.layers.StepwisePatchMerging(64)
print(maps.shape, "→", tuple(merging(maps).shape))

# %% [markdown]
# ## Multi-Scale Aggregation
#
# The $C$ channels of the map are split into four groups. Group $k$ gets a depthwise convolution of
# its own size, 3, 5, 7 or 9, that keeps the size of the map. The channels are then shuffled, so
# that each run of four has one channel of every scale, and each run is mapped to eight channels. Batch
# normalization, GELU and a linear map to $C'$ channels follow:
#
# $$X' = W\,\mathrm{GELU}(\mathrm{BN}(G\,\mathrm{shuffle}(D_3 X_1, D_5 X_2, D_7 X_3, D_9 X_4)))$$
#
# ## Guided Local Enhancement
#
# Each window of 2×2 positions gets a *guide* token: batch normalization, GELU and a depthwise
# convolution of 7×7 with stride 2. Guide and window are five tokens $x_0, \dots, x_4$, all
# layer-normalized. The guide attends to the five, and its output, layer-normalized, is the output of
# the window. So an output depends on 15×15 positions of the input map: on 7×7 through the guide, and
# on 4 more on each side through the aggregation. With a strided 3×3 convolution it depends on 3×3.
# This measures it, by a change of the input at one position after the other:


# %%
def receptive_field(layer):
    """Returns where a change of the input changes one output in the middle."""
    point = side // 4
    quiet = np.zeros((1, side, side, 32), "float32") + 0.1 * maps[:, :1, :1]
    base = ops.convert_to_numpy(layer(quiet))[0, point, point]
    changed = np.zeros((side, side))
    batch = np.repeat(quiet, side, axis=0)
    for row in range(side):
        batch[:] = quiet
        batch[np.arange(side), row, np.arange(side)] += generator.normal(size=32)
        outputs = ops.convert_to_numpy(layer(batch))[:, point, point]
        changed[row] = np.abs(outputs - base).max(axis=-1)
    return changed


default = keras_spm.layers.OverlappingPatchEmbedding(64, 3, 2)
figure, axes = plt.subplots(1, 2, figsize=(7, 3.4), layout="constrained")
for axis, (title, layer) in zip(
    axes, (("3×3 convolution", default), ("Stepwise Patch Merging", merging)), strict=True
):
    changed = receptive_field(layer)
    rows = np.flatnonzero(changed.max(axis=1) > 1e-6)
    axis.imshow(np.log10(changed + 1e-8), cmap="viridis")
    axis.set_title(f"{title}: {rows[-1] - rows[0] + 1} pixels", fontsize=10)
    axis.axis("off")
figure.savefig("receptive_field.png", dpi=90)
plt.close(figure)

# %%
keras.utils.load_img("receptive_field.png")

# %% [markdown]
# ## The same numbers for less work
#
# A direct implementation computes queries, keys and values of all five tokens. But only the guide
# asks, and its output alone is kept. So the layer computes
#
# - one query, $q = W_q x_0 + b_q$, instead of five;
# - scores without keys: $q^T (W_k x_i + b_k) = (W_k^T q)^T x_i + q^T b_k$, and $q^T b_k$ is the same
#   for all five tokens, so it cancels in the softmax;
# - the output without values: $\sum_i a_i (W_v x_i + b_v) = W_v \sum_i a_i x_i + b_v$, because the
#   weights $a_i$ sum to one.
#
# The projections of a window cost $3 C'^2$ multiply-adds instead of $15 C'^2$, and nothing is
# approximated. Here is the direct form, with the weights of the layer:


# %%
def direct(layer, tokens):
    """Attention of all five tokens, (windows, 5, channels), of which the guide's is returned."""
    heads, channels = layer.num_heads, tokens.shape[-1]
    kernel, bias = (ops.convert_to_numpy(each) for each in (layer.qkv_kernel, layer.qkv_bias))
    parts = np.split(tokens @ kernel + bias, 3, axis=-1)
    query, key, value = (
        part.reshape(len(tokens), 5, heads, -1).transpose(0, 2, 1, 3) for part in parts
    )
    scores = query @ key.transpose(0, 1, 3, 2) / np.sqrt(channels // heads)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights = weights / weights.sum(-1, keepdims=True)
    return (weights @ value).transpose(0, 2, 1, 3).reshape(len(tokens), 5, channels)[:, 0]


enhancement = merging.guided_local_enhancement
for variable in enhancement.weights:  # Biases start at 0; here they are not.
    variable.assign(variable + 0.1 * generator.normal(size=variable.shape))
wide = ops.convert_to_numpy(merging.multi_scale_aggregation(maps))
guides = enhancement.guide_depthwise(ops.gelu(enhancement.guide_norm(wide), approximate=False))
windows = wide.reshape(side // 2, 2, side // 2, 2, 64).transpose(0, 2, 1, 3, 4).reshape(-1, 4, 64)
tokens = np.concatenate([ops.convert_to_numpy(guides).reshape(-1, 1, 64), windows], axis=1)
tokens = ops.convert_to_numpy(enhancement.token_norm(tokens))
expected = direct(enhancement, tokens.astype("float64")).reshape(1, side // 2, side // 2, 64)
found = ops.convert_to_numpy(enhancement.attend(wide))
print(f"largest difference {np.abs(found - expected).max():.1e} of {np.abs(expected).max():.2f}")

# %% [markdown]
# The tests compare every layer and backbone with the PyTorch reference, on every backend, within
# 1e-5.
#
# ## Odd sizes
#
# The reference takes maps of even height and width. Here a map of any size is merged to half of it,
# rounded up, and window positions outside of the map are masked out of the softmax, not attended to
# as zeros.

# %%
print(tuple(merging(maps[:, : side - 1, : side - 3]).shape))

# %% [markdown]
# ## What a guide looks at
#
# `keras_spm.visualize.attention_map(model, image)` returns the weights of the five tokens in each
# window of a trained network, and draws them. `keras_spm.visualize.grad_cam` shows which parts of
# an image speak for a class.
