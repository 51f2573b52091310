"""Dense models of transformers at their published size, from and to saved folders."""

import keras
import numpy as np
import pytest
import torch
import transformers

import keras_spm
from keras_spm.weights.formats import write_safetensors
from tests.helpers import difference

pytestmark = pytest.mark.filterwarnings("ignore:The first images have negative pixels")

CLASSES = 150
# Variants of SegFormer with other than the default configuration.
SEGFORMER = {
    "b0": {},
    "b2": {"hidden_sizes": [64, 128, 320, 512], "depths": [3, 4, 6, 3], "decoder_hidden_size": 768},
}
ON_TORCH = keras.config.backend() == "torch"


def _random(model, scale=0.05):
    """Gives every tensor of transformers' model random values, running statistics included."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn_like(parameter)
        for name, buffer in model.named_buffers():
            if "running" in name:
                buffer.copy_(torch.rand_like(buffer) + 0.5)
    return model.eval()


def _segformer(variant, cls):
    configuration = transformers.SegformerConfig(num_labels=CLASSES, **SEGFORMER[variant])
    return _random(cls(configuration))


def _upernet():
    backbone = transformers.SwinConfig(out_features=["stage1", "stage2", "stage3", "stage4"])
    configuration = transformers.UperNetConfig(
        backbone_config=backbone, num_labels=CLASSES, auxiliary_in_channels=384
    )
    return _random(transformers.UperNetForSemanticSegmentation(configuration), 0.02)


MODELS = {
    "segformer_b0": lambda: _segformer("b0", transformers.SegformerForSemanticSegmentation),
    "segformer_b2": lambda: _segformer("b2", transformers.SegformerForSemanticSegmentation),
    "mit_b0": lambda: _segformer("b0", transformers.SegformerForImageClassification),
    "upernet_swin_tiny": _upernet,
}


def _images(size):
    return np.random.default_rng(0).normal(size=(1, size, size, 3)).astype("float32")


def _expected(reference, images):
    with torch.no_grad():
        logits = reference(torch.tensor(images).permute(0, 3, 1, 2)).logits
    return (logits if logits.ndim == 2 else logits.permute(0, 2, 3, 1)).numpy()


def _outputs(model, images):
    """The classifier's logits, or the decoder's, before upsampling for SegFormer."""
    if isinstance(model, keras_spm.SemanticSegmenter) and model.head.name == "decoder":
        model = model if isinstance(model.head, keras_spm.heads.UPerNet) else _decoder(model)
    # Not eagerly: JAX compiles every operation.
    return model.predict(255 * images, verbose=0)


def _decoder(model):
    return keras.Model(model.input, model.get_layer("decoder").output)


@pytest.mark.parametrize(
    "name",
    MODELS
    if ON_TORCH
    else ["segformer_b0", pytest.param("upernet_swin_tiny", marks=pytest.mark.release)],
)
def test_logits_at_full_size_and_back(tmp_path, name):
    reference = MODELS[name]()
    reference.save_pretrained(tmp_path / "theirs")
    task = keras_spm.ImageClassifier if name == "mit_b0" else keras_spm.SemanticSegmenter
    model = task.from_preset(tmp_path / "theirs", mean=(0, 0, 0), std=(1, 1, 1))
    report = model.load_report
    assert report.layout == "transformers" and not report.missing_keys
    images = _images(128)
    expected = _expected(reference, images)
    assert np.abs(expected).max() > 0.3
    assert difference(_outputs(model, images), expected) <= 1e-4
    if not ON_TORCH:
        return  # The rest is the same on every backend.
    state = keras_spm.to_torch_state_dict(model, "transformers")
    reference.config.save_pretrained(tmp_path / "ours")
    write_safetensors(tmp_path / "ours" / "model.safetensors", state)
    again, said = type(reference).from_pretrained(tmp_path / "ours", output_loading_info=True)
    assert not any(said.values()), said
    assert difference(_expected(again.eval(), images), expected) <= 1e-5
    _check_parameters_and_macs(model, reference)


def _check_parameters_and_macs(model, reference):
    """MACs at 128x128, by PyTorch's counter of what runs in transformers' model."""
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    # Of a classifier: part of transformers' UPerNet, but not used.
    unused = sum(p.numel() for n, p in reference.named_parameters() if ".swin.layernorm." in n)
    parameters = sum(p.numel() for p in reference.parameters()) - unused
    assert sum(np.prod(v.shape) for v in model.trainable_variables) == parameters
    reference.auxiliary_head = None  # In training only.
    # The counter does not know PyTorch's fused attention on CPU.
    with FlopCounterMode(display=False) as counter, sdpa_kernel(SDPBackend.MATH):
        _expected(reference, _images(128))
    counted = counter.get_total_flops() / 2
    assert model.macs((1, 128, 128, 3)) == pytest.approx(counted, rel=0.005)
