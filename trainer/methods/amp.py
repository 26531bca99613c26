"""Adversarial Model Perturbation (Zheng, Zhang, Mao, CVPR 2021, Algorithm 1), as a pure gradient.

For a mini-batch: Δ ← 0; N times Δ ← Δ + ζ ∇L(θ + Δ), brought back to the ball ‖Δ‖ ≤ ε; then the step on θ uses
∇L(θ + Δ). Settings of the paper (§5.1, §5.2, where ζ is misprinted as γ), N = 1: ε = 0.5, ζ = 1 for PreActResNet18 and
ε = 0.1, ζ = 0.2 for VGG16; Figure 8 has ζ = 2, N = 2. Where the text and the authors' released code differ: ``ball``
and ``bn_stats``, and that the code of 2021 clips every pass (``ClipGradients``). The defaults are the text's.

``amp_gradient`` is for anybody's loop; ``AmpMethod`` is the trainer's use of it.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from trainer.config import Amp
from trainer.data.splits import Examples
from trainer.methods.base import Method, global_norm, gradients, restored, running_stats_frozen, tensor_norms


class AmpStep(NamedTuple):
    """What one mini-batch did, as 0-dimensional tensors on the device (reading one is a synchronisation).

    loss: the clean loss, at θ. delta_norm: the L2 norm of the whole Δ of the last pass. clip_fraction: the share of
    clips, over inner steps (and tensors, for the per-tensor ball), that shortened Δ.
    """

    loss: Tensor
    delta_norm: Tensor
    clip_fraction: Tensor


def amp_gradient(
    closure: Callable[[], Tensor],
    parameters: Iterable[Tensor],
    *,
    epsilon: float,
    inner_lr: float,
    inner_steps: int = 1,
    ball: Literal["global", "per_tensor"] = "global",
) -> Tensor:
    """Leave the AMP gradient, the gradient at θ+Δ, in ``.grad`` and return the clean loss (at θ), detached.

    closure: runs the forward pass and returns the scalar mean loss, without backward; it is called inner_steps + 1
        times and should see the same mini-batch each time.
    parameters: the tensors θ, all that your optimizer trains, or one tensor. They are perturbed and get a gradient; no
        other tensor gets one. Those that need no gradient are left alone.
    epsilon: radius ε of the L2 ball; inner_lr: ζ; inner_steps: N; ball: see ``trainer.config.Amp``.

    Every ``.grad`` is replaced, not accumulated; θ is restored bit for bit, also when closure raises. Raises
    ValueError for settings out of range or no parameters. Costs N + 1 forward and backward passes, and one extra copy
    of the parameters for N = 1, two for more; no host synchronisation.
    """
    settings = Amp(epsilon=epsilon, inner_lr=inner_lr, inner_steps=inner_steps, ball=ball)
    return amp_step(closure, parameters, settings).loss


def amp_step(
    closure: Callable[[], Tensor], parameters: Iterable[Tensor], settings: Amp, max_norm: float | None = None
) -> AmpStep:
    """``amp_gradient``, returning what happened as well. max_norm: clips the gradient of each of the N + 1 passes."""
    listed = [parameters] if isinstance(parameters, Tensor) else parameters
    theta = [parameter for parameter in dict.fromkeys(listed) if parameter.requires_grad]
    if not theta:
        raise ValueError("amp_gradient: no parameter requires a gradient: nothing to perturb")
    with restored(theta) as origin:
        step = ascend(lambda: gradients(closure, theta, max_norm), theta, origin, settings)
        gradients(closure, theta, max_norm)
    return step


def ascend(
    slope: Callable[[], tuple[Tensor, list[Tensor]]], theta: list[Tensor], origin: list[Tensor], settings: Amp
) -> AmpStep:
    """The N inner steps (Algorithm 1, lines 4 to 11); leaves θ+Δ in ``theta``. Δ itself is dropped on return.

    slope: the loss and its gradient at ``theta``, in tensors that may be written to. origin: θ, which is read only.
    """
    loss, delta = slope()
    clips = []
    for step in range(settings.inner_steps):
        with torch.no_grad():
            if step == 0:
                torch._foreach_mul_(delta, settings.inner_lr)
            else:
                torch._foreach_add_(delta, slope()[1], alpha=settings.inner_lr)
                torch._foreach_copy_(theta, origin)
            norm, clipped = _clip(delta, settings)
            clips.append(clipped)
            torch._foreach_add_(theta, delta)
    return AmpStep(loss, norm, torch.stack(clips).mean())


def _clip(delta: list[Tensor], settings: Amp) -> tuple[Tensor, Tensor]:
    """Bring Δ back into its ball in place; return its norm afterwards and the share of clips that shortened it.

    The clip is a multiplication by min(1, ε/‖Δ‖), a tensor: a comparison in Python would wait for the device.
    """
    norms = global_norm(delta) if settings.ball == "global" else torch.stack(tensor_norms(delta))
    scales = (settings.epsilon / norms).clamp(max=1.0)
    torch._foreach_mul_(delta, scales if settings.ball == "global" else list(scales.unbind()))
    return torch.linalg.vector_norm(norms * scales), (norms > settings.epsilon).float().mean()


class AmpMethod(Method):
    """AMP in the trainer: BatchNorm's running statistics as ``bn_stats`` says, and the means of ‖Δ‖ and of clips."""

    def __init__(self, settings: Amp) -> None:
        self.settings = settings
        self._steps: list[AmpStep] = []

    def backward(self, model: nn.Module, batch: Examples) -> Tensor:
        passes = itertools.count()

        def closure() -> Tensor:
            perturbed = next(passes) > 0
            with running_stats_frozen(model, perturbed and self.settings.bn_stats == "clean"):
                return self.criterion(model(batch.images), batch.labels)

        step = amp_step(closure, model.parameters(), self.settings, self.max_norm)
        self._steps.append(step)
        return step.loss

    def observations(self) -> dict[str, float]:
        steps, self._steps = self._steps, []
        norm = torch.stack([step.delta_norm for step in steps]).mean()
        clipped = torch.stack([step.clip_fraction for step in steps]).mean()
        return {"amp/delta_norm": norm.item(), "amp/clip_fraction": clipped.item()}
