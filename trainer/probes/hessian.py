"""Largest eigenvalue and trace of the Hessian H = ∇²L(θ), through curvlinops (Dangel et al.) and SciPy.

The eigenvalue by Lanczos (ARPACK), the trace by Hutchinson's estimator: the mean of zᵀHz, z of random signs.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import ArpackNoConvergence, eigsh
from torch import Tensor, nn

from trainer.declaration import ConfigError
from trainer.measurement import Measurement
from trainer.methods.base import trained_parameters
from trainer.probe_config import Hessian
from trainer.trained import Sample, TrainedModel


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Torch's own forward-mode derivatives and a package that curvlinops needs call torch.jit, which is deprecated.

    And where vmap has no rule it goes from column to column, of which there is one here.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "`torch.jit.script`", FutureWarning)
        warnings.filterwarnings("ignore", "There is a performance drop", UserWarning)
        yield


with _quiet():
    from curvlinops import HessianLinearOperator, hutchinson_trace


def measure_hessian(probe: Hessian, trained: TrainedModel) -> Measurement:
    """``probe/hessian/largest_eigenvalue`` and ``probe/hessian/trace``.

    Arrays: ``eigenvalue`` []; ``trace_samples`` [trace_samples], whose mean is the trace. Raises ConfigError when
    Lanczos needs more ``iterations`` or the network cannot be differentiated twice.
    """
    operator = hessian(trained.model, trained.sample("train", probe.examples))
    try:
        with _quiet():
            eigenvalue, traces = _largest_eigenvalue(operator, probe), _trace_samples(operator, probe)
    except RuntimeError as error:
        if not isinstance(error, NotImplementedError) and not re.search("transform|vmap|functorch", str(error)):
            raise
        why = str(error).splitlines()[0]
        raise ConfigError(f"Hessian: torch cannot differentiate this network twice ({why}): leave it out") from error
    metrics = {"probe/hessian/largest_eigenvalue": eigenvalue, "probe/hessian/trace": float(traces.mean())}
    return Measurement(metrics, {"eigenvalue": np.array(eigenvalue), "trace_samples": traces})


class _Batches:
    """The sample anew each time that it is iterated over: normalised images are never all in memory."""

    def __init__(self, sample: Sample) -> None:
        self._sample = sample

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        return ((chunk.images, chunk.labels) for chunk in self._sample.chunks())


class _Copy(nn.Module):
    """Of the images: a network that starts with a ReLU in place may not change what it is differentiated at."""

    def forward(self, images: Tensor) -> Tensor:
        return images.clone()


def hessian(model: nn.Module, sample: Sample) -> HessianLinearOperator:
    """H as a linear operator on the flattened trained parameters of ``model``."""
    return HessianLinearOperator(
        nn.Sequential(_Copy(), model),
        nn.CrossEntropyLoss(),
        trained_parameters(model),
        _Batches(sample),
        num_data=sample.size,
        check_deterministic=False,  # twice the data, for what eval mode sees to
    )


def _largest_eigenvalue(operator: HessianLinearOperator, probe: Hessian) -> float:
    start = np.random.RandomState(probe.seed).standard_normal(operator.shape[0])
    precision = np.float64 if operator.dtype == torch.float64 else np.float32
    try:
        (found,) = eigsh(
            operator.to_scipy(dtype=precision),
            k=1,
            which="LA",
            v0=start.astype(precision),
            maxiter=probe.iterations,
            tol=probe.tolerance,
            return_eigenvectors=False,
        )
    except ArpackNoConvergence:
        probe.require(False, "iterations", "more for the largest eigenvalue to be found, or raise tolerance")
    return float(found)


def _trace_samples(operator: HessianLinearOperator, probe: Hessian) -> NDArray[np.float64]:
    """One vector at a time: the library would hold activations for all of them at once."""
    with _seeded(operator.device, probe.seed):
        return np.array([hutchinson_trace(operator, num_matvecs=1).item() for _ in range(probe.trace_samples)])


@contextlib.contextmanager
def _seeded(device: torch.device, seed: int) -> Iterator[None]:
    """The library draws from torch's global stream on ``device``: seeded within, as it was afterwards."""
    on_cuda = device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else []):
        if on_cuda:
            torch.cuda.manual_seed(seed)
        else:
            torch.default_generator.manual_seed(seed)
        yield
