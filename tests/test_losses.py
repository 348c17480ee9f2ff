"""Losses per sample against torch's own and by hand; weights of labels and of segments."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from deepspectrumlite.config import parse_recipe
from deepspectrumlite.losses import (
    binary_focal_loss,
    ccc_loss,
    class_weights,
    focal_loss,
    sample_losses,
    sampling_weights,
)

# Far enough apart for probabilities that float32 rounds to 0 and 1.
EXTREME = torch.tensor([[200.0, -200.0, 0.0], [-1e4, 1e4, 20.0]])


def recipe(output="softmax", **train):
    return parse_recipe({"model": {"output": output}, "train": train})


def drawn(*shape, seed=0, scale=3.0):
    return scale * torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def labels_of(n, n_labels):
    return torch.arange(n) * 7 % n_labels


def numbers():
    return drawn(6, 2), drawn(6, 2, seed=1)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0, 1.0], [0.2, 3.0, 1.0, 0.0]])
@pytest.mark.parametrize("loss", ["auto", "cross_entropy"])
def test_cross_entropy(smoothing, weights, loss):
    logits, label, weights = drawn(9, 4), labels_of(9, 4), torch.tensor(weights)
    target = functional.one_hot(label, 4).float()
    found = sample_losses(logits, target, recipe(loss=loss, label_smoothing=smoothing), weights)
    expected = functional.cross_entropy(
        logits, label, weights, label_smoothing=smoothing, reduction="none"
    )
    torch.testing.assert_close(found, expected)
    # Of mixed labels too.
    target = drawn(9, 4, seed=2).softmax(dim=1)
    found = sample_losses(logits, target, recipe(loss=loss, label_smoothing=smoothing), weights)
    expected = functional.cross_entropy(
        logits, target, weights, label_smoothing=smoothing, reduction="none"
    )
    torch.testing.assert_close(found, expected)


@pytest.mark.parametrize("weights", [[1.0, 1.0, 1.0], [0.5, 7.0, 1.0]])
def test_binary_cross_entropy(weights):
    logits, weights = drawn(8, 3), torch.tensor(weights)
    for target in ((drawn(8, 3, seed=1) > 0).float(), drawn(8, 3, seed=2).sigmoid()):
        settings = recipe("sigmoid", label_smoothing=0)
        expected = functional.binary_cross_entropy_with_logits(
            logits, target, pos_weight=weights, reduction="none"
        )
        found = sample_losses(logits, target, settings, weights)
        torch.testing.assert_close(found, expected.mean(dim=1))
        # Smoothed by 0.2: between 0.1 and 0.9.
        smooth = functional.binary_cross_entropy_with_logits(
            logits, 0.1 + 0.8 * target, pos_weight=weights, reduction="none"
        )
        settings = recipe("sigmoid", label_smoothing=0.2)
        found = sample_losses(logits, target, settings, weights)
        torch.testing.assert_close(found, smooth.mean(dim=1))


@pytest.mark.parametrize("output", ["linear", "ordinal"])
@pytest.mark.parametrize("delta", [0.25, 1.0, 4.0])
def test_losses_of_numbers(output, delta):
    logits, target = numbers()
    ones = torch.ones(2)
    expected = {
        "auto": functional.mse_loss(logits, target, reduction="none"),
        "mse": (logits - target) ** 2,
        "mae": functional.l1_loss(logits, target, reduction="none"),
        "huber": functional.huber_loss(logits, target, reduction="none", delta=delta),
        # That of a single sample does not exist: samples are ranked by their errors.
        "ccc": (logits - target) ** 2,
    }
    for loss, values in expected.items():
        # Neither smoothing nor weights of classes matter to numbers.
        settings = recipe(output, loss=loss, huber_delta=delta, label_smoothing=0.5)
        found = sample_losses(logits, target, settings, 9 * ones)
        assert found.shape == (6,)
        torch.testing.assert_close(found, values.mean(dim=1))


def test_focal_by_hand():
    # Probabilities 0.5, 0.25, 0.25 of labels; 0.9 and 0.2 of labels by themselves.
    logits = torch.tensor([[0.5, 0.25, 0.25]]).log()
    for label, p in enumerate((0.5, 0.25, 0.25)):
        target = functional.one_hot(torch.tensor([label]), 3).float()
        expected = -((1 - p) ** 2) * np.log(p)
        found = focal_loss(logits, target, 2)
        assert found.tolist() == pytest.approx([expected])
        settings = recipe(loss="focal", focal_gamma=2.0, label_smoothing=0)
        assert sample_losses(logits, target, settings, torch.tensor([1.0, 1.0, 1.0])).tolist() == (
            pytest.approx([expected])
        )
    p = np.array([0.9, 0.2])
    logits = torch.from_numpy(p[None]).logit().float()
    target, weights = torch.tensor([[1.0, 0.0]]), torch.tensor([3.0, 50.0])
    expected = (3 * 0.1**2 * -np.log(0.9) + 0.2**2 * -np.log(0.8)) / 2
    assert binary_focal_loss(logits, target, weights, 2).tolist() == pytest.approx([expected])
    settings = recipe("sigmoid", loss="focal", focal_gamma=2.0, label_smoothing=0)
    assert sample_losses(logits, target, settings, weights).tolist() == pytest.approx([expected])
    swapped = binary_focal_loss(logits, 1 - target, torch.ones(2), 2).tolist()
    assert swapped == pytest.approx([(0.9**2 * -np.log(0.1) + 0.8**2 * -np.log(0.2)) / 2], 1e-5)


@pytest.mark.parametrize("output", ["softmax", "sigmoid"])
def test_focal_with_gamma_0_is_cross_entropy(output):
    logits, weights = drawn(9, 4), torch.tensor([0.5, 1, 2, 4])
    target = functional.one_hot(labels_of(9, 4), 4).float()
    plain = sample_losses(logits, target, recipe(output), weights)
    focal = sample_losses(logits, target, recipe(output, loss="focal", focal_gamma=0), weights)
    torch.testing.assert_close(focal, plain, rtol=0, atol=0)
    # And gamma does nothing to cross-entropy.
    same = sample_losses(logits, target, recipe(output, focal_gamma=5.0), weights)
    torch.testing.assert_close(same, plain, rtol=0, atol=0)
    # Else easy samples count less, and none more.
    sharp = sample_losses(logits, target, recipe(output, loss="focal", focal_gamma=1.0), weights)
    assert (sharp < plain).all()


@pytest.mark.parametrize("gamma", [0.0, 0.1, 0.5, 1.0, 2.0, 5.0])
def test_focal_gradients_are_finite_where_the_network_is_sure(gamma):
    for target in (torch.eye(3)[[0, 1]], torch.eye(3)[[1, 0]], torch.full((2, 3), 1 / 3)):
        for loss in (
            lambda x, t: focal_loss(x, t, gamma),
            lambda x, t: binary_focal_loss(x, t, torch.ones(3), gamma),
        ):
            logits = EXTREME.clone().requires_grad_()
            values = loss(logits, target)
            values.sum().backward()
            assert torch.isfinite(values).all()
            assert (values >= 0).all()
            assert torch.isfinite(logits.grad).all()


@pytest.mark.parametrize("gamma", [0.5, 2.0])
def test_focal_gradients_by_differences(gamma):
    logits = drawn(4, 3).double().requires_grad_()
    target = drawn(4, 3, seed=1).double().softmax(dim=1)
    assert torch.autograd.gradcheck(lambda x: focal_loss(x, target, gamma), logits)
    weights = torch.tensor([1.0, 2.0, 3.0]).double()
    assert torch.autograd.gradcheck(lambda x: binary_focal_loss(x, target, weights, gamma), logits)


def ccc_by_numpy(x, y):
    """Lin 1989: 2 s_xy / (s_x^2 + s_y^2 + (mean x - mean y)^2), moments by n."""
    covariance = np.cov(x, y, bias=True)
    return 2 * covariance[0, 1] / (np.trace(covariance) + (x.mean() - y.mean()) ** 2)


def test_ccc_against_the_formula():
    logits, target = numbers()
    columns = zip(logits.double().numpy().T, target.double().numpy().T, strict=True)
    expected = 1 - np.mean([ccc_by_numpy(x, y) for x, y in columns])
    assert ccc_loss(logits, target).item() == pytest.approx(expected, rel=1e-5)


def test_ccc_of_simple_batches():
    x = torch.tensor([[0.0], [1.0], [2.0]])
    assert ccc_loss(x, x).item() == pytest.approx(0)
    assert ccc_loss(-x, x - 2).item() == pytest.approx(2)
    # Variances 2/3 and covariance 2/3, means 2 apart: 2 * 2/3 / (4/3 + 4).
    assert ccc_loss(x + 2, x).item() == pytest.approx(1 - 0.25)
    assert ccc_loss(torch.hstack([x, x + 2]), torch.hstack([x, x])).item() == pytest.approx(0.375)


@pytest.mark.parametrize("logits", [[1.0, 1.0], [1.0, 3.0], [1e-6, -1e-6], [1e6, -1e6], [5.0]])
@pytest.mark.parametrize("target", [[1.0, 1.0], [0.0, 0.0], [1.0, 3.0], [-1e6, 5.0], [2.0]])
def test_ccc_gradients_are_finite(logits, target):
    n = min(len(logits), len(target))
    x = torch.tensor(logits)[:n, None].requires_grad_()
    y = torch.tensor(target)[:n, None]
    loss = ccc_loss(x, y)
    loss.backward()
    assert torch.isfinite(x.grad).all()
    assert -1e-6 <= loss.item() <= 2 + 1e-6
    if len(set(target[:n])) == 1:
        assert loss.item() == 1


ONE_OF_THREE = np.eye(3, dtype=np.float32)[[0, 0, 0, 0, 0, 1, 1, 2]]
SEVERAL = np.array(
    [[1, 0, 0], [1, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]], dtype=np.float32
)
STEPS = np.array([[1], [1], [1], [2], [10], [10]], dtype=np.float32)


def test_class_weights_by_hand():
    found = class_weights(ONE_OF_THREE, recipe(balance="weights"))
    assert found.dtype == torch.float32
    assert found.tolist() == pytest.approx([8 / 15, 8 / 6, 8 / 3])
    # All classes together weigh the same: 1 per segment in the mean.
    assert (found.numpy() * ONE_OF_THREE.sum(axis=0)).tolist() == pytest.approx([8 / 3] * 3)
    # Of 6 segments 2 lack the first label, 4 the second; the third is in none.
    found = class_weights(SEVERAL, recipe("sigmoid", balance="weights"))
    assert found.tolist() == pytest.approx([2 / 4, 4 / 2, 6])
    everywhere = class_weights(np.ones((4, 1), np.float32), recipe("sigmoid", balance="weights"))
    assert everywhere.tolist() == [0.25]
    missing = class_weights(ONE_OF_THREE[:7], recipe(balance="weights"))
    assert torch.isfinite(missing).all()


@pytest.mark.parametrize(
    ("output", "target"),
    [("softmax", ONE_OF_THREE), ("sigmoid", SEVERAL), ("ordinal", STEPS), ("linear", STEPS)],
)
def test_no_weights_where_none_are_asked_for(output, target):
    for balance in ("sampler", "none"):
        settings = recipe(output, balance=balance)
        assert class_weights(target, settings).tolist() == [1] * target.shape[1]
    for balance in ("weights", "none"):
        assert sampling_weights(target, recipe(output, balance=balance)) is None


def test_numbers_are_as_they_are():
    assert sampling_weights(STEPS, recipe("linear", balance="sampler")) is None
    for output in ("linear", "ordinal"):
        assert class_weights(STEPS, recipe(output, balance="weights")).tolist() == [1]


def test_sampling_weights_by_hand():
    found = sampling_weights(ONE_OF_THREE, recipe(balance="sampler"))
    assert found.tolist() == pytest.approx([1 / 5] * 5 + [1 / 2] * 2 + [1])
    found = sampling_weights(STEPS, recipe("ordinal", balance="sampler"))
    assert found.tolist() == pytest.approx([1 / 3] * 3 + [1] + [1 / 2] * 2)
    # Labels occur 4, 2 and 0 times, and twice there is none.
    found = sampling_weights(SEVERAL, recipe("sigmoid", balance="sampler"))
    both = (1 / 4 + 1 / 2) / 2
    assert found.tolist() == pytest.approx([1 / 4, both, both, 1 / 2, 1 / 2, 1 / 4])


@pytest.mark.parametrize(("output", "target"), [("softmax", ONE_OF_THREE), ("ordinal", STEPS)])
def test_classes_are_drawn_equally_often(output, target):
    weights = sampling_weights(target, recipe(output, balance="sampler"))
    chances = weights / weights.sum()
    _, label = np.unique(target, axis=0, return_inverse=True)
    assert np.bincount(label.ravel(), chances).tolist() == pytest.approx([1 / 3] * 3)
