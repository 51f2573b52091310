"""Stepwise Patch Merging in plain PyTorch, a direct implementation of the paper's formulas.

All five tokens of a window are queries, and keys and values are materialized. The results equal
those of `keras_spm.layers.StepwisePatchMerging` in inference and in training, for maps of even
height and width.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional


class TextbookMerging(nn.Module):
    """Halves a map and changes its channels.

    Args:
        dim: channels of the input.
        output_dim: channels of the output.
        kernel_sizes: kernel sizes of the scales.
        expansion: ratio of inner channels to input channels.
        num_heads: attention heads within a window.
        guide_kernel_size: kernel size of the guide's convolution.

    Input: (batch, height, width, dim). Output: (batch, height / 2, width / 2, output_dim).

    Reference:
        Yu et al., Stepwise Patch Merging, arXiv 2409.06963.
    """

    def __init__(
        self,
        dim: int,
        output_dim: int,
        kernel_sizes: Sequence[int] = (3, 5, 7, 9),
        expansion: int = 2,
        num_heads: int = 8,
        guide_kernel_size: int = 7,
    ) -> None:
        super().__init__()
        group, inner = dim // len(kernel_sizes), dim * expansion
        self.num_heads = num_heads
        self.scales = nn.ModuleList(
            nn.Conv2d(group, group, size, padding=size // 2, groups=group) for size in kernel_sizes
        )
        self.grouped = nn.Conv2d(dim, inner, 1, groups=group)
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

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        maps = self.aggregate(maps.permute(0, 3, 1, 2))
        guides = self.guide(functional.gelu(self.guide_norm(maps)))
        batch, channels, rows, columns = guides.shape
        windows = maps.reshape(batch, channels, rows, 2, columns, 2)
        windows = windows.permute(0, 2, 4, 3, 5, 1).reshape(-1, 4, channels)
        guides = guides.permute(0, 2, 3, 1).reshape(-1, 1, channels)
        tokens = self.token_norm(torch.cat([guides, windows], dim=1))
        return self.output_norm(self.attend(tokens)[:, 0]).reshape(batch, rows, columns, channels)

    def aggregate(self, maps: torch.Tensor) -> torch.Tensor:
        """Applies Multi-Scale Aggregation to (batch, channels, height, width)."""
        groups = maps.chunk(len(self.scales), dim=1)
        groups = [scale(group) for scale, group in zip(self.scales, groups, strict=True)]
        shuffled = torch.stack(groups, dim=2).flatten(1, 2)
        return self.projection(functional.gelu(self.norm(self.grouped(shuffled))))

    def attend(self, tokens: torch.Tensor) -> torch.Tensor:
        """Applies self-attention to the tokens of each window, (windows, 5, channels)."""
        windows, count, channels = tokens.shape
        qkv = self.qkv(tokens).reshape(windows, count, 3, self.num_heads, -1)
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        scores = query @ key.transpose(-2, -1) * query.shape[-1] ** -0.5
        mixed = scores.softmax(dim=-1) @ value
        return mixed.transpose(1, 2).reshape(windows, count, channels)
