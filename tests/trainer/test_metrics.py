from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from torch import Tensor
from torchmetrics.functional.classification import multiclass_calibration_error

from trainer.metrics import ClassificationMetrics, classification_metrics

BINS = 15


def softmax(row: np.ndarray) -> np.ndarray:
    powers = np.exp(row - row.max())
    return np.asarray(powers / powers.sum())


def bin_of(confidence: float) -> int:
    """The k for which the confidence lies in (k/15, (k+1)/15]."""
    return next(k for k in range(BINS) if k / BINS < confidence <= (k + 1) / BINS)


def reference(logits: Tensor, labels: Tensor) -> ClassificationMetrics:
    """From the definitions, one example after the other."""
    rows, truth = logits.double().numpy(), labels.tolist()
    wrong, losses = 0, []
    bins: list[list[tuple[float, bool]]] = [[] for _ in range(BINS)]
    for row, label in zip(rows, truth, strict=True):
        probabilities = softmax(row)
        guess = int(probabilities.argmax())
        wrong += guess != label
        losses.append(math.log(np.exp(row - row.max()).sum()) + row.max() - row[label])
        bins[bin_of(probabilities[guess])].append((probabilities[guess], guess == label))
    ece = 0.0
    for members in bins:
        if members:
            confidence, correct = (sum(column) / len(members) for column in zip(*members, strict=True))
            ece += len(members) / len(rows) * abs(confidence - correct)
    return ClassificationMetrics(error=wrong / len(rows), nll=sum(losses) / len(rows), ece=ece)


def assert_near(found: ClassificationMetrics, expected: ClassificationMetrics, rel: float = 1e-12) -> None:
    assert dataclasses.asdict(found) == pytest.approx(dataclasses.asdict(expected), rel=rel, abs=1e-12)


def normal(examples: int, classes: int, scale: float = 3.0) -> tuple[Tensor, Tensor]:
    source = torch.Generator().manual_seed(classes)
    logits = scale * torch.randn(examples, classes, generator=source, dtype=torch.float64)
    labels = torch.randint(classes, (examples,), generator=source)
    labels[::2] = logits.argmax(dim=1)[::2]  # or the many classes would leave nothing right
    return logits, labels


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_equals_the_definitions(dtype: torch.dtype, classes: int) -> None:
    logits, labels = normal(120, classes)
    found = classification_metrics(logits.to(dtype), labels)
    assert_near(found, reference(logits.to(dtype), labels))
    assert 0.1 < found.error < 0.6
    assert found.ece > 0.01


def test_one_class_and_one_example() -> None:
    assert classification_metrics(torch.zeros(1, 1), torch.zeros(1)) == ClassificationMetrics(0.0, 0.0, 0.0)


def exactly(confidence: float, *logits: float) -> tuple[float, list[float]]:
    """A row whose softmax has this maximum to the last bit, whichever way it is computed."""
    assert softmax(np.array(logits)).max() == confidence
    return confidence, list(logits)


LN2 = math.log(2)
ON_EDGES = [
    exactly(1 / 15, *[0.0] * 15),
    exactly(2 / 15, *[LN2] * 7, 0.0),
    exactly(1 / 5, *[-3.5] * 5),
    exactly(1 / 3, *[1e4] * 3),
    exactly(2 / 5, LN2, LN2, 0.0),
    exactly(1 / 2, 7.0, 7.0),
    exactly(1.0, 100.0, 0.0),
]


@pytest.mark.parametrize(("confidence", "logits"), ON_EDGES, ids=[f"{row[0]:.3f}" for row in ON_EDGES])
def test_a_confidence_on_an_edge_belongs_to_the_bin_below(confidence: float, logits: list[float]) -> None:
    """Seen through a second example just above the edge, over-confident where the first is under-confident.

    In one bin their gaps would cancel; in two they add up. Another one just below shares the bin of the first.
    """
    classes = len(logits) + 1
    first = torch.tensor([*logits, -1e9], dtype=torch.float64)
    for shift, together in ((1e-6, False), (-1e-6, True)):
        near = _row_with_confidence(confidence + shift, classes)
        if near is None:
            continue
        rows, labels = torch.stack([first, near]), torch.tensor([0, classes - 1])
        gaps = (confidence - 1) / 2, (confidence + shift) / 2
        same_bin = together or bin_of(confidence + shift) == bin_of(confidence)
        expected = abs(sum(gaps)) if same_bin else sum(map(abs, gaps))
        assert classification_metrics(rows, labels).ece == pytest.approx(expected, abs=1e-9)


def _row_with_confidence(confidence: float, classes: int) -> Tensor | None:
    """The first class has the given probability and the others share the rest; None where that is no maximum."""
    others = (1 - confidence) / (classes - 1)
    if not 0 < others < confidence:
        return None
    return torch.tensor([confidence, *[others] * (classes - 1)], dtype=torch.float64).log()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("size", [1e4, 1e38])
def test_large_logits_do_not_overflow(size: float, dtype: torch.dtype) -> None:
    logits = torch.tensor([[size, -size, 0.0], [-size, size, 0.0], [size, size, -size]], dtype=dtype)
    labels = torch.tensor([0, 0, 1])
    exact = logits[0, 0].item()
    found = classification_metrics(logits, labels)
    assert found.error == pytest.approx(2 / 3)
    assert found.nll == pytest.approx((2 * exact + LN2) / 3, rel=1e-12)
    assert found.ece == pytest.approx(1 / 3 * 1.0 + 1 / 3 * 0.5)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_perfect_and_worst_predictions(classes: int) -> None:
    labels = torch.arange(50) % classes
    certain = 1e4 * torch.nn.functional.one_hot(labels, classes).float()
    assert classification_metrics(certain, labels) == ClassificationMetrics(error=0.0, nll=0.0, ece=0.0)
    assert classification_metrics(certain, (labels + 1) % classes) == ClassificationMetrics(1.0, 1e4, 1.0)


@pytest.mark.parametrize("classes", [2, 10, 1000])
def test_the_uniform_prediction(classes: int) -> None:
    labels = torch.arange(2 * classes) % classes
    found = classification_metrics(torch.zeros(2 * classes, classes), labels)
    assert_near(found, ClassificationMetrics(error=1 - 1 / classes, nll=math.log(classes), ece=0.0))


@pytest.mark.parametrize("dtype", [torch.int8, torch.int32, torch.int64], ids=str)
def test_labels_may_be_any_integers_and_logits_may_carry_a_graph(dtype: torch.dtype) -> None:
    logits, labels = normal(20, 10)
    expected = classification_metrics(logits, labels)
    assert classification_metrics(logits.requires_grad_(), labels.to(dtype)) == expected


@pytest.mark.parametrize(
    ("logits", "labels"),
    [((0, 3), (0,)), ((3,), (3,)), ((3, 2), (2,)), ((3, 2), (3, 1)), ((2, 3, 4), (2,)), ((), ()), ((3, 0), (3,))],
)
def test_bad_shapes_and_no_examples_are_refused(logits: tuple[int, ...], labels: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be"):
        classification_metrics(torch.zeros(logits), torch.zeros(labels, dtype=torch.int64))


@st.composite
def predictions(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """Logits in steps of 1/16, so that ties are found and no rounding decides which class is first."""
    examples, classes = draw(st.integers(1, 12)), draw(st.integers(1, 6))
    steps = draw(hnp.arrays(np.int64, (examples, classes), elements=st.integers(-2000, 2000)))
    labels = draw(hnp.arrays(np.int64, examples, elements=st.integers(0, classes - 1)))
    return torch.from_numpy(steps).double() / 16, torch.from_numpy(labels)


@settings(deadline=None, max_examples=150)
@given(predictions())
def test_equals_the_definitions_and_is_in_range(case: tuple[Tensor, Tensor]) -> None:
    found = classification_metrics(*case)
    assert_near(found, reference(*case))
    assert 0 <= found.error <= 1
    assert 0 <= found.ece <= 1
    assert found.nll >= 0


@settings(deadline=None, max_examples=50)
@given(predictions(), st.randoms(use_true_random=False))
def test_the_order_of_examples_does_not_matter(case: tuple[Tensor, Tensor], random: object) -> None:
    logits, labels = case
    order = list(range(len(labels)))
    random.shuffle(order)  # type: ignore[attr-defined]
    assert_near(classification_metrics(logits[order], labels[order]), classification_metrics(logits, labels))


@pytest.mark.parametrize("classes", [2, 10, 100])
@pytest.mark.parametrize("scale", [0.5, 3.0])
def test_ece_is_torchmetrics_where_no_confidence_is_a_bins_edge(classes: int, scale: float) -> None:
    logits, labels = normal(3000, classes, scale)
    probabilities = logits.softmax(dim=1)
    theirs = multiclass_calibration_error(probabilities, labels, num_classes=classes, n_bins=BINS, norm="l1")
    assert (probabilities.max(dim=1).values < 1).all()
    assert classification_metrics(logits, labels).ece == pytest.approx(theirs.item(), abs=1e-6)


def test_ece_differs_from_torchmetrics_by_its_bins_edges_alone() -> None:
    """Their bins are [lo, hi) with one more for 1.0; ours (lo, hi]: an example on the edge 0.8 counts below it."""
    confidence = torch.tensor([0.8] * 10 + [0.79] * 10 + [0.81] * 10, dtype=torch.float64)
    logits = torch.stack([confidence, 1 - confidence], dim=1).log()
    labels = torch.tensor([0] * 10 + [0] * 10 + [1] * 10)
    ours = classification_metrics(logits, labels).ece
    below = abs(0.8 * 10 + 0.79 * 10 - 20) / 30 + 0.81 * 10 / 30  # 0.8 with 0.79
    above = abs(0.79 * 10 - 10) / 30 + abs(0.8 * 10 + 0.81 * 10 - 10) / 30  # 0.8 with 0.81
    theirs = multiclass_calibration_error(logits.softmax(1).clamp(max=1), labels, num_classes=2, n_bins=BINS)
    assert ours == pytest.approx(below, abs=1e-9)
    assert theirs.item() == pytest.approx(above, abs=1e-6)
