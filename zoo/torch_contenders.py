"""The contenders in PyTorch alone: the textbook, transformers and timm."""

import torch
from contenders import CLASSES
from contenders import LEARNING_RATE
from contenders import WEIGHT_DECAY
from contenders import UnavailableError
from textbook import TextbookMerging
from torch.nn.attention import SDPBackend
from torch.nn.attention import sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


class _TorchSteps:
    """Steps of a PyTorch module; `outputs_of` finds the logits in what it returns."""

    def __init__(self, module, contender, channels_first=True, outputs_of=lambda outputs: outputs):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.module = module.to(self.device)
        self.call = torch.compile(self.module) if contender.compiled else self.module
        self.outputs_of = outputs_of
        inputs = torch.from_numpy(contender.inputs()).to(self.device)
        self.inputs = inputs.permute(0, 3, 1, 2).contiguous() if channels_first else inputs
        self.optimizer = torch.optim.AdamW(
            module.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY
        )
        self.half = contender.dtype == "bfloat16"

    def _outputs(self):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.half):
            return self.outputs_of(self.call(self.inputs))

    def forward(self):
        self.module.eval()
        with torch.inference_mode():
            self._outputs().float().cpu()

    def train(self):
        self.module.train()
        self.optimizer.zero_grad()
        outputs = self._outputs().float()
        if outputs.ndim == 4:  # A merging layer's maps.
            loss = outputs.mean(dim=(1, 2)).square().mean()
        else:
            labels = torch.arange(len(outputs), device=self.device) % CLASSES
            loss = torch.nn.functional.cross_entropy(outputs, labels)
        loss.backward()
        self.optimizer.step()
        loss.item()

    def macs(self):
        # Attention as the products that it is, since fused kernels are not all counted.
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            self.module.eval()(self.inputs[:1])
        return counter.get_total_flops() // 2


def make_textbook(contender):
    if not contender.channels:
        raise UnavailableError("the textbook has merging layers alone")
    return _TorchSteps(TextbookMerging(*contender.channels), contender, channels_first=False)


def make_transformers(contender):
    import transformers

    family, figures = contender.figures()
    if family == "Swin":
        config = transformers.SwinConfig(
            embed_dim=figures["embed_dim"],
            depths=list(figures["depths"]),
            num_heads=list(figures["num_heads"]),
            drop_path_rate=0.0,
            num_labels=CLASSES,
        )
        module = transformers.SwinForImageClassification(config)
    else:
        config = transformers.PvtV2Config(
            hidden_sizes=list(figures["embed_dims"]),
            depths=list(figures["depths"]),
            mlp_ratios=list(figures["mlp_ratios"]),
            linear_attention=figures["linear_attention"],
            num_labels=CLASSES,
        )
        module = transformers.PvtV2ForImageClassification(config)
    return _TorchSteps(module, contender, outputs_of=lambda outputs: outputs.logits)


def make_timm(contender):
    import timm

    family, _ = contender.figures()
    name = contender.model + ("_patch4_window7_224" if family == "Swin" else "")
    return _TorchSteps(timm.create_model(name, num_classes=CLASSES), contender)
