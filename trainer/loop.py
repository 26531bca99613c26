"""Training one trial: a generator of epoch records that knows nothing of who listens."""

from __future__ import annotations

import contextlib
import copy
import math
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map_only

from trainer.checkpoint import Checkpoint, load_checkpoint, load_network, unsaved_buffers
from trainer.config import REVISION, TrialConfig
from trainer.data.batches import batches
from trainer.data.load import TrialData, load
from trainer.data.splits import Subset
from trainer.declaration import ConfigError
from trainer.machine import Machine
from trainer.methods.registry import build_method
from trainer.metrics import classification_metrics
from trainer.models.registry import build_model
from trainer.precision import set_precision
from trainer.records import EpochRecord
from trainer.settings import set_for_training
from trainer.streams import augmentation, generator, own_randomness, stream_seed

CHECKPOINT_EVERY_SECONDS = 10.0
EVALUATION_BATCH = 200  # small, for the caches of a CPU
CHECK_EVERY_BATCHES = 50  # reading a number waits for the device
NO_MEMORY = ("can't allocate memory", "out of memory", "alloc_failed")
"""How the CPU's allocator, CUDA, and cuBLAS and cuDNN say it."""


class Diverged(ArithmeticError):  # noqa: N818  an outcome, as StopIteration is
    """A number that should be finite is not. A terminal outcome of the trial, not a fault of the program."""


class OutOfMemory(RuntimeError):  # noqa: N818
    """The trial does not fit on its device. The message says what to change."""


def train(
    trial: TrialConfig,
    machine: Machine,
    checkpoint: Path | str | None = None,
    *,
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[EpochRecord]:
    """Train ``trial`` and yield one EpochRecord an epoch, from epoch 1 on.

    checkpoint: a file to resume from and to save to, about every 10 s, when stopped and at the end. With one, a record
        is yielded only once a checkpoint that holds it is on disk, and a resumed trial first yields the records it has:
        the whole sequence, metrics and timestamps, is then the same however often the trial was interrupted.
    stop: asked before every batch; once it says True the generator ends without the epoch under way.

    Raises Diverged after the last good record, OutOfMemory, ConfigError for a trial or data that this code cannot
    train, OSError when the checkpoint cannot be written. Sets torch's threads and cuDNN's determinism for the process.
    """
    if trial.revision != REVISION:
        raise ConfigError(f"TrialConfig.revision = {trial.revision}: this code trains revision {REVISION}")
    path = None if checkpoint is None else Path(checkpoint)
    stored = load_checkpoint(path, trial.trial_id) if path else None
    records = list(stored.records) if stored else []
    diverged = stored.diverged if stored else None
    yield from records
    if diverged is None and len(records) < trial.epochs:
        set_for_training(machine.threads)
        with _memory_errors(trial, machine):
            session = _Session(trial, machine)
            if stored:
                session.load_state(stored.state, path)
        diverged = yield from _epochs(session, records, path, stop)
    if diverged is not None:
        raise Diverged(diverged)


def _epochs(
    session: _Session, records: list[EpochRecord], checkpoint: Path | None, stop: Callable[[], bool]
) -> Generator[EpochRecord, None, str | None]:
    """Train on from the end of ``records``; the reason is returned when the trial diverged."""
    trial, yielded, saved_at, diverged = session.trial, len(records), time.monotonic(), None
    state, over = session.state(), False
    while not over:
        try:
            with _memory_errors(trial, session.machine):
                record = session.epoch(len(records) + 1, stop)
            if record is not None:
                records.append(record)
                state = session.state()
            elif len(records) == yielded:
                return None
            over = record is None or len(records) == trial.epochs
        except Diverged as error:
            diverged, over = str(error), True
        if checkpoint is not None:
            if not over and time.monotonic() - saved_at < CHECKPOINT_EVERY_SECONDS:
                continue
            Checkpoint(trial.trial_id, tuple(records), state, diverged).save(checkpoint)
            saved_at = time.monotonic()
        yield from records[yielded:]
        yielded = len(records)
    return diverged


@contextlib.contextmanager
def _memory_errors(trial: TrialConfig, machine: Machine) -> Iterator[None]:
    """Raise OutOfMemory for what CUDA's allocator, the CPU's and Python's raise when there is no more."""
    try:
        yield
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        typed = isinstance(error, torch.OutOfMemoryError | MemoryError)
        if not typed and not any(words in str(error).lower() for words in NO_MEMORY):
            raise
        raise OutOfMemory(
            f"out of memory on {machine.device}: train fewer trials at a time, or declare a batch_size below"
            f" {trial.batch_size}, a narrower model{', or precision bfloat16' if trial.precision == 'float32' else ''}"
        ) from error


class _Session:
    """Model, optimizer, scheduler, data and random streams of one trial in the middle of its training."""

    def __init__(self, trial: TrialConfig, machine: Machine) -> None:
        self.trial, self.machine = trial, machine
        self.data = load(trial, machine)
        self.model = initial_model(trial, machine, self.data)
        self._refuse_batch_of_one()
        self.noise = generator(trial.seed, "noise", machine.device)
        self.method = build_method(trial.method, self.noise, self.data.scale, trial.clip_gradients)
        self.method.attach(self.model)
        self.optimizer = torch.optim.SGD(
            self.model.parameters(),
            lr=trial.lr,
            momentum=trial.momentum,
            weight_decay=trial.weight_decay,
            nesterov=trial.momentum_form == "nesterov",
        )
        self.scheduler = torch.optim.lr_scheduler.MultiStepLR(self.optimizer, list(trial.lr_milestones), trial.lr_decay)
        self.order = generator(trial.seed, "order")

    def state(self) -> dict[str, Any]:
        """A copy of everything that the next epoch depends on, as plain tensors on the CPU and numbers."""
        state = {
            "device": self.machine.device,
            "model": self.model.state_dict(),
            "unsaved_buffers": unsaved_buffers(self.model),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "order": self.order.get_state(),
            "noise": self.noise.get_state(),
        }
        copied: dict[str, Any] = tree_map_only(Tensor, lambda tensor: tensor.to("cpu", copy=True), state)
        return copied

    def load_state(self, state: Any, source: object) -> None:
        """The inverse of ``state``. Raises ConfigError, naming ``source``, for the state of another kind of device."""
        if state["device"] != self.machine.device:
            raise ConfigError(
                f"{source}: this trial was begun on {state['device']}, and its random numbers are that device's:"
                f" go on there, or delete {source} to start anew on {self.machine.device}"
            )
        load_network(self.model, state)
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.order.set_state(state["order"])
        self.noise.set_state(state["noise"])

    def epoch(self, number: int, stop: Callable[[], bool]) -> EpochRecord | None:
        """Train one epoch and evaluate, or None when stopped in the middle. Raises Diverged."""
        started, lr = time.perf_counter(), self.scheduler.get_last_lr()[0]
        with own_randomness(self.trial.seed, number, self.machine.device):
            criterion = self._train_epoch(number, stop)
            if criterion is None:
                return None
            self.scheduler.step()
            metrics: dict[str, float] = {"train/criterion": float(criterion), "lr": float(lr)}
            metrics |= self.method.observations()
            _refuse_non_finite(metrics, number)
            metrics |= self._evaluate(last=number == self.trial.epochs)
        _refuse_non_finite(metrics, number)
        metrics["epoch_seconds"] = time.perf_counter() - started
        return EpochRecord(number, time.time_ns() // 1_000_000, metrics)

    def _train_epoch(self, number: int, stop: Callable[[], bool]) -> Tensor | None:
        """Mean of the clean batch losses over the epoch's examples, or None when stopped."""
        self.model.train()
        train, scale, clip = self.data.train, self.data.scale, self.trial.clip_gradients
        outer_norm = clip.max_norm if clip is not None and clip.passes == "outer" else None
        order = torch.randperm(len(train), generator=self.order)
        total = torch.zeros((), device=self.machine.device)
        augment, randomness = self.trial.augment, augmentation(self.trial.seed, number)
        fed = batches(train, order, self.trial.batch_size, scale, augment=augment, randomness=randomness)
        for count, batch in enumerate(fed, start=1):
            if stop():
                return None
            total += self.method.backward(self.model, batch) * len(batch.labels)
            if outer_norm is not None:
                nn.utils.clip_grad_norm_(self.model.parameters(), outer_norm, foreach=True)
            self.optimizer.step()
            if count % CHECK_EVERY_BATCHES == 0:
                _refuse_non_finite({"train/criterion": total.item()}, number)
        return total / len(order)

    def _evaluate(self, last: bool) -> dict[str, float]:
        self.model.eval()
        metrics: dict[str, float] = {}
        for part, subset in (("val", self.data.val), ("test", self.data.test)):
            if subset is not None:
                logits, labels = self._predict(subset)
                found = classification_metrics(logits, labels)
                metrics |= {f"{part}/error": found.error, f"{part}/nll": found.nll, f"{part}/ece": found.ece}
                if part == "test":
                    metrics["test/criterion"] = self.method.criterion(logits.double(), labels).item()
        if last:
            found = classification_metrics(*self._predict(self.data.train))
            metrics |= {"train/error": found.error, "train/nll": found.nll}
        return metrics

    @torch.no_grad()
    def _predict(self, subset: Subset) -> tuple[Tensor, Tensor]:
        """Logits [n, classes] of the model as it is, and labels [n], on the CPU: there sums have one order."""
        order = torch.arange(len(subset))
        found = [(self.model(b.images), b.labels) for b in batches(subset, order, EVALUATION_BATCH, self.data.scale)]
        logits, labels = zip(*found, strict=True)
        return torch.cat(logits).cpu(), torch.cat(labels).cpu()

    def _refuse_batch_of_one(self) -> None:
        """BatchNorm cannot normalise over one number; better said before the first epoch than in its last batch.

        Where it normalises over an image's pixels as well, one image may do: tried on a copy.
        """
        examples, size = len(self.data.train), self.trial.batch_size
        if size > 1 and examples % size != 1:
            return
        first = next(batches(self.data.train, torch.arange(1), 1, self.data.scale))
        try:
            with torch.no_grad(), own_randomness(self.trial.seed, 0, self.machine.device):
                copy.deepcopy(self.model).train()(first.images)
        except ValueError as error:
            raise ConfigError(
                f"TrialConfig.batch_size = {size}: leaves a batch of one of {examples} training images,"
                " which BatchNorm cannot normalise: choose another batch size"
            ) from error


def initial_model(trial: TrialConfig, machine: Machine, data: TrialData) -> nn.Module:
    """The trial's network with its initial weights, on the device, in the trial's precision and memory format."""
    shape = data.train.stored.images.shape[1:]
    model = build_model(trial.model, shape, data.classes, stream_seed(trial.seed, "init"), machine.code_dir)
    if trial.memory_format == "channels_last":
        try:
            model = model.to(memory_format=torch.channels_last)
        except RuntimeError as error:  # weights of five dimensions have no such format
            trial.require(False, "memory_format", f"'contiguous' for this network ({str(error).splitlines()[0]})")
    model = model.to(machine.device)
    set_precision(model, trial.precision, machine.device)
    return model


def _refuse_non_finite(metrics: dict[str, float], epoch: int) -> None:
    for name, value in metrics.items():
        if not math.isfinite(value):
            raise Diverged(f"{name} is {value} in epoch {epoch}")
