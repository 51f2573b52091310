"""Stepwise Patch Merging as the paper's formulas read, in plain PyTorch: a yardstick.

Every convolution is a convolution, all five tokens of a window ask, and keys and values are
made. It computes what `keras_spm.layers.StepwisePatchMerging` computes in evaluation and in
training, for maps of even size.
"""

import torch
from torch import nn
from torch.nn import functional


class TextbookMerging(nn.Module):
    """(batch, height, width, channels) to (batch, height / 2, width / 2, output_dim).

    Args:
        dim: int, channels of the input.
        output_dim: int, channels of the output.
        kernel_sizes: of the scales.
        expansion: int, inner width over the input's.
        num_heads: int, attention heads within a window.
        guide_kernel_size: of the guide's convolution.

    Reference:
        Yu et al., Stepwise Patch Merging, arXiv 2409.06963.
    """

    def __init__(
        self,
        dim,
        output_dim,
        kernel_sizes=(3, 5, 7, 9),
        expansion=2,
        num_heads=8,
        guide_kernel_size=7,
    ):
        super().__init__()
        run, inner = dim // len(kernel_sizes), dim * expansion
        self.num_heads = num_heads
        self.scales = nn.ModuleList(
            nn.Conv2d(run, run, size, padding=size // 2, groups=run) for size in kernel_sizes
        )
        self.grouped = nn.Conv2d(dim, inner, 1, groups=run)
        self.norm = nn.BatchNorm2d(inner)
        self.projection = nn.Conv2d(inner, output_dim, 1)
        self.guide_norm = nn.BatchNorm2d(output_dim)
        self.guide = nn.Conv2d(
            output_dim,
            output_dim,
            guide_kernel_size,
            stride=2,
            padding=guide_kernel_size // 2,
            groups=output_dim,
        )
        self.token_norm = nn.LayerNorm(output_dim)
        self.qkv = nn.Linear(output_dim, 3 * output_dim)
        self.output_norm = nn.LayerNorm(output_dim)

    def forward(self, maps):
        maps = self.aggregate(maps.permute(0, 3, 1, 2))
        guides = self.guide(functional.gelu(self.guide_norm(maps)))
        batch, channels, rows, columns = guides.shape
        windows = maps.reshape(batch, channels, rows, 2, columns, 2)
        windows = windows.permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, channels)
        guides = guides.permute(0, 2, 3, 1).reshape(-1, 1, channels)
        tokens = self.token_norm(torch.cat([guides, windows], dim=1))
        return self.output_norm(self.attend(tokens)[:, 0]).reshape(batch, rows, columns, channels)

    def aggregate(self, maps):
        """Multi-Scale Aggregation, on (batch, channels, height, width)."""
        runs = maps.chunk(len(self.scales), dim=1)
        runs = [scale(run) for scale, run in zip(self.scales, runs, strict=True)]
        shuffled = torch.stack(runs, dim=2).flatten(1, 2)
        return self.projection(functional.gelu(self.norm(self.grouped(shuffled))))

    def attend(self, tokens):
        """Self-attention of each window's tokens, (windows, 5, channels)."""
        windows, count, channels = tokens.shape
        qkv = self.qkv(tokens).reshape(windows, count, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        mixed = scores.softmax(dim=-1) @ value
        return mixed.transpose(1, 2).reshape(windows, count, channels)
