"""The residual block of PreActResNet and WideResNet: full pre-activation with two 3 × 3 convolutions.

He et al., "Identity Mappings in Deep Residual Networks", ECCV 2016, Figure 4(e); called B(3,3) by Zagoruyko and
Komodakis, "Wide Residual Networks", BMVC 2016.
"""

from __future__ import annotations

import math

from torch import Tensor, nn


class PreActBlock(nn.Module):
    """BN, ReLU, conv, BN, ReLU, conv, and a shortcut around; [n, entering, h, w] to [n, leaving, h / s, w / s].

    The shortcut is the identity, or a 1 × 1 convolution of the pre-activated input where the shape changes.

    strides: of the two convolutions; s is their product. bias: whether convolutions have one. activated: whether an
        identity shortcut carries ReLU(BN(x)) as well, not x.
    """

    def __init__(
        self,
        entering: int,
        leaving: int,
        strides: tuple[int, int] = (1, 1),
        *,
        bias: bool = False,
        activated: bool = False,
    ) -> None:
        super().__init__()
        first, second = strides
        self.bn1 = nn.BatchNorm2d(entering)
        self.relu1 = nn.ReLU(inplace=True)
        self.conv1 = nn.Conv2d(entering, leaving, 3, first, padding=1, bias=bias)
        self.bn2 = nn.BatchNorm2d(leaving)
        self.relu2 = nn.ReLU(inplace=True)
        self.conv2 = nn.Conv2d(leaving, leaving, 3, second, padding=1, bias=bias)
        stride = math.prod(strides)
        projects = stride != 1 or entering != leaving
        self.shortcut = nn.Conv2d(entering, leaving, 1, stride, bias=bias) if projects else nn.Identity()
        self.activated = activated or projects

    def forward(self, x: Tensor) -> Tensor:
        pre = self.relu1(self.bn1(x))
        residual = self.conv2(self.relu2(self.bn2(self.conv1(pre))))
        return residual + self.shortcut(pre if self.activated else x)  # type: ignore[no-any-return]
