"""Models in plain PyTorch: the textbook merging layer, transformers and timm."""

import sys
import types
from collections.abc import Callable

import torch
from case import LEARNING_RATE, NUM_CLASSES, WEIGHT_DECAY, Case, UnavailableError
from textbook import TextbookMerging
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode


class TorchSteps:
    """Steps of a PyTorch module; `outputs_of` extracts the logits from its result."""

    def __init__(
        self,
        module: torch.nn.Module,
        case: Case,
        channels_first: bool = True,
        outputs_of: Callable = lambda outputs: outputs,
    ) -> None:
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.module = module.to(self.device)
        self.call = torch.compile(self.module) if case.compiled else self.module
        self.outputs_of = outputs_of
        inputs = torch.from_numpy(case.inputs()).to(self.device)
        self.inputs = inputs.permute(0, 3, 1, 2).contiguous() if channels_first else inputs
        self.optimizer = torch.optim.AdamW(
            module.parameters(), LEARNING_RATE, weight_decay=WEIGHT_DECAY
        )
        self.autocast = case.dtype == "bfloat16"

    def _outputs(self):
        with torch.autocast(self.device, torch.bfloat16, enabled=self.autocast):
            return self.outputs_of(self.call(self.inputs))

    def forward(self) -> None:
        self.module.eval()
        with torch.inference_mode():
            self._outputs().float().cpu()

    def train(self) -> None:
        self.module.train()
        self.optimizer.zero_grad()
        outputs = self._outputs().float()
        if outputs.ndim == 4:  # The map of a merging layer.
            loss = outputs.mean(dim=(1, 2)).square().mean()
        else:
            labels = torch.arange(len(outputs), device=self.device) % NUM_CLASSES
            loss = torch.nn.functional.cross_entropy(outputs, labels)
        loss.backward()
        self.optimizer.step()
        loss.item()

    def macs(self) -> int:
        # PyTorch does not count all fused attention kernels.
        counter = FlopCounterMode(display=False)
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH), counter:
            self.module.eval()(self.inputs[:1])
        return counter.get_total_flops() // 2


def make_textbook(case: Case) -> TorchSteps:
    """Returns the steps of a `TextbookMerging`."""
    if not case.channels:
        raise UnavailableError("textbook provides merging layers only")
    return TorchSteps(TextbookMerging(*case.channels), case, channels_first=False)


def make_transformers(case: Case) -> TorchSteps:
    """Returns the steps of transformers' Swin or PVT v2."""
    import transformers

    family, variant = case.variant()
    if family == "Swin":
        config = transformers.SwinConfig(
            embed_dim=variant["embed_dim"],
            depths=list(variant["depths"]),
            num_heads=list(variant["num_heads"]),
            drop_path_rate=0.0,
            num_labels=NUM_CLASSES,
        )
        module = transformers.SwinForImageClassification(config)
    else:
        config = transformers.PvtV2Config(
            hidden_sizes=list(variant["embed_dims"]),
            depths=list(variant["depths"]),
            mlp_ratios=list(variant["mlp_ratios"]),
            linear_attention=variant["linear_attention"],
            num_labels=NUM_CLASSES,
        )
        module = transformers.PvtV2ForImageClassification(config)
    return TorchSteps(module, case, outputs_of=lambda outputs: outputs.logits)


def make_timm(case: Case) -> TorchSteps:
    """Returns the steps of timm's Swin or PVT v2."""
    if not torch.cuda.is_available():
        # timm imports torchvision, whose wheels for CUDA fail here, but uses no operator of it.
        name = "torchvision._meta_registrations"
        sys.modules.setdefault(name, types.ModuleType(name))
    import timm

    family, _ = case.variant()
    name = case.model + ("_patch4_window7_224" if family == "Swin" else "")
    return TorchSteps(timm.create_model(name, num_classes=NUM_CLASSES), case)
