"""Adversarial training with one step of FGSM (Goodfellow et al., ICLR 2015, §4): x' = x + step · sign(∇ₓ L).

Setting of the paper (§5.1): perturbation size 1 for each pixel, one step. The network is trained on x' alone. Where the
text and the authors' released code differ: ``unit``, ``start``, ``gradient_mode``, ``clip`` and ``bn_stats``.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from trainer.config import AdversarialTraining
from trainer.data.pixels import PixelScale
from trainer.data.splits import Examples
from trainer.declaration import ConfigError
from trainer.methods.base import Method, gradients, running_stats_frozen, trained_parameters

LEVEL_OF_NORMALIZED = 1 / 255


class AdversarialTrainingMethod(Method):
    """Two passes a mini-batch, three where the step does not start at the image itself in train mode.

    The loss that is returned is that of the clean images.
    """

    def __init__(self, settings: AdversarialTraining, noise: torch.Generator, scale: PixelScale | None) -> None:
        if scale is None or scale.levels is None:
            raise ConfigError("AdversarialTraining: needs images, whose pixels have levels")
        self.settings, self._noise, self._scale, self._levels = settings, noise, scale, scale.levels

    def backward(self, model: nn.Module, batch: Examples) -> Tensor:
        clean_moves = self.settings.bn_stats == "clean"
        if self.settings.start == "image" and self.settings.gradient_mode == "train":
            with running_stats_frozen(model, not clean_moves):
                loss, slope = self._slope(model, batch)
            images = self.adversarial(model, batch, slope)
        else:
            images = self.adversarial(model, batch)  # before the clean pass moves the statistics that it may use
            with torch.no_grad(), running_stats_frozen(model, not clean_moves):
                loss = self.criterion(model(batch.images), batch.labels)
        with running_stats_frozen(model, clean_moves):
            gradients(lambda: self.criterion(model(images), batch.labels), trained_parameters(model), self.max_norm)
        return loss

    def adversarial(self, model: nn.Module, batch: Examples, slope: Tensor | None = None) -> Tensor:
        """x' for each image of ``batch``, normalised as it is. slope: ∇ₓ L there, where it is known already."""
        radius = self._radius(batch.images)
        start = batch.images
        if self.settings.start == "random":
            start = start + radius * (2 * torch.rand(start.shape, generator=self._noise, device=start.device) - 1)
        if slope is None:
            with _mode(model, self.settings.gradient_mode), running_stats_frozen(model):
                slope = self._slope(model, Examples(start, batch.labels))[1]
        moved = torch.clamp(start + radius * slope.sign(), batch.images - radius, batch.images + radius)
        return self._valid(moved) if self.settings.clip == "valid" else moved

    def _slope(self, model: nn.Module, batch: Examples) -> tuple[Tensor, Tensor]:
        """The mean loss at ``batch`` and its gradient with respect to the images; ``.grad`` is left alone."""
        images = batch.images.detach().requires_grad_()
        with torch.enable_grad():
            loss = self.criterion(model(images), batch.labels)
        return loss.detach(), torch.autograd.grad(loss, images)[0]

    def _radius(self, images: Tensor) -> Tensor:
        """The step in normalised units, a number a channel."""
        if self.settings.unit == "normalized":
            return torch.full_like(self._scale.std, self.settings.step * LEVEL_OF_NORMALIZED).to(images)
        return (self.settings.step / self._scale.std).to(images)

    def _valid(self, images: Tensor) -> Tensor:
        """Between the lowest and the highest level."""
        lowest, highest = (self._scale.normalize(torch.full_like(self._scale.mean, v)) for v in (0, self._levels))
        return torch.clamp(images, lowest.to(images), highest.to(images))


@contextlib.contextmanager
def _mode(model: nn.Module, mode: str) -> Iterator[None]:
    """``model`` in train or eval mode, and as it was afterwards (it is in train mode while it is trained)."""
    training = model.training
    model.train(mode == "train")
    try:
        yield
    finally:
        model.train(training)
