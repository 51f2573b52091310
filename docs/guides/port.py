# %% [markdown]
# # Port a model
#
# Names and shapes of tensors that fit do not prove that a network computes the same: a transposed
# square matrix fits, and so does another epsilon. `keras_spm.compare` runs a network on the input
# of its original and finds the first stage at which they differ, and by how much. Here the original
# is transformers' PVT v2 with random weights, and the mistake is its epsilon. This page needs
# PyTorch and transformers.

# %% tags=["parameters"] smoke={"size": 32}
size = 64  # pixels

# %%
import torch
import transformers

import keras_spm

torch.manual_seed(0)
dims = dict(hidden_sizes=[16, 32, 64, 128], depths=[1, 1, 1, 1], num_attention_heads=[1, 2, 4, 8])
config = transformers.PvtV2Config(
    **dims, mlp_ratios=[4] * 4, sr_ratios=[8, 4, 2, 1], layer_norm_eps=1e-2, drop_path_rate=0.0
)
original = transformers.PvtV2Model(config).eval()
images = torch.randn(1, 3, size, size)
with torch.inference_mode():
    maps = original(images, output_hidden_states=True).hidden_states
reference = {"images": images, **dict(zip(("P2", "P3", "P4", "P5"), maps, strict=True))}
print([tuple(each.shape) for each in maps])

# %% [markdown]
# ## Load, then compare
#
# `compare` takes the normalized input of the original, and any of its maps and outputs: `"P2"` to
# `"P5"`, `"pooled"`, `"logits"`. Images and maps are channels first, as here, or channels last; maps
# can be sequences, too.

# %%
variant = dict(
    embed_dims=dims["hidden_sizes"],
    depths=dims["depths"],
    num_heads=dims["num_attention_heads"],
    mlp_ratios=[4] * 4,
    sr_ratios=[8, 4, 2, 1],
)
backbone = keras_spm.PVTv2(**variant, embedding_norm_epsilon=1e-6)
keras_spm.load_torch_weights(backbone, original.state_dict())
print(keras_spm.compare(backbone, reference))

# %% [markdown]
# Everything loaded, and the first stage already differs: something in it is another. This original
# was given `layer_norm_eps=1e-2`, which is not in its tensors. The published models have 1e-6:

# %%
config.layer_norm_eps = 1e-6
state = original.state_dict()
original = transformers.PvtV2Model(config).eval()
original.load_state_dict(state)
with torch.inference_mode():
    maps = original(images, output_hidden_states=True).hidden_states
reference |= dict(zip(("P2", "P3", "P4", "P5"), maps, strict=True))
comparison = keras_spm.compare(backbone, reference)
print(comparison)

# %% [markdown]
# The tolerance is 1e-5 of the largest value of each output, the rounding of float32 over a network.
# `comparison.first_mismatch` is the name of the first stage that differs, or `None`.
#
# ## New names
#
# [Add a family or a task](extend.md) shows how a layout, the names of a code base, is registered.
# `zoo/port.py` converts a checkpoint to a preset folder, and `zoo/verify.py` compares its outputs with
# those of the original code, on images of several sizes, and measures its accuracy.
