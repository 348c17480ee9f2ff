"""A batch's update: in parts, in few bits, compiled, with SapAugment's memory."""

import copy
from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

from deepspectrumlite.augment import Augmentation, sap_policy
from deepspectrumlite.learner import Learner, Phase
from deepspectrumlite.losses import sample_losses
from deepspectrumlite.model import Classifier
from deepspectrumlite.optim import set_training_mode
from deepspectrumlite.processes import Processes

pytestmark = pytest.mark.usefixtures("one_thread")

N_SEGMENTS = 12
PLAIN = (
    "augment.mixup_alpha=0",
    "augment.cutmix_probability=0",
    "augment.time_shift=0",
    "augment.speed=0",
    "augment.time_masks=0",
    "augment.frequency_masks=0",
    "model.dropout=0",
    "train.batch_norm=frozen",
)
SAP = (
    "augment.mixup_alpha=0",
    "augment.time_shift=0",
    "augment.speed=0",
    "augment.strength=sapaugment",
    "augment.cutmix_probability=0.5",
)


def calibrate(model):
    """Give BatchNorm statistics of some images, or frozen it lets hardly anything through."""
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    momentum = [norm.momentum for norm in norms]
    for norm in norms:
        norm.momentum = 1.0
    with torch.no_grad():
        model.train().logits(torch.rand(16, 3, 32, 32))
    for norm, value in zip(norms, momentum, strict=True):
        norm.momentum = value


@pytest.fixture
def make_learner(make_recipe, small_settings):
    """A learner that begins to fine-tune the whole network; always with the same weights."""

    def make_learner(*settings, steps=50):
        recipe = make_recipe(*small_settings, *settings)
        torch.manual_seed(3)
        model = Classifier(recipe, ["high", "low", "noise"])
        calibrate(model)
        n_outputs = model.n_outputs
        target = np.eye(3, dtype=np.float32)[np.arange(N_SEGMENTS) % 3][:, :n_outputs]
        phase = Phase("fine_tune", 1, recipe.train.learning_rate, 1.0)
        augmentation = Augmentation(recipe.augment, recipe.data)
        processes = Processes(torch.device("cpu"))
        learner = Learner(model, phase, target, steps, augmentation, processes)
        set_training_mode(model, recipe.train)
        return learner

    return make_learner


@pytest.fixture(scope="module")
def batch(tone):
    """(6, num_samples), (6, 3), (6,): two of each class, of twelve segments."""
    names = ["high", "low", "noise"] * 2
    waveform = torch.from_numpy(np.stack([tone(name, i, 0.5) for i, name in enumerate(names)]))
    return waveform, torch.eye(3).repeat(2, 1), torch.tensor([9, 4, 2, 0, 7, 5])


def state_of(learner):
    return {key: value.clone() for key, value in learner.model.state_dict().items()}


def differing(one, other):
    return [key for key in one if not torch.equal(one[key], other[key])]


@pytest.mark.parametrize("parts", [2, 3])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_parts_give_the_update_of_the_whole(make_learner, batch, parts, optimizer):
    settings = (*PLAIN, f"train.optimizer={optimizer}", "train.schedule=constant")
    learners = [make_learner(*settings, f"train.accumulate={n}") for n in (1, parts)]
    before, losses = state_of(learners[0]), []
    for learner in learners:
        losses.append(learner.update(*batch, seed=1).item())
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    one, other = (dict(learner.model.named_parameters()) for learner in learners)
    for name, parameter in one.items():
        torch.testing.assert_close(parameter.grad, other[name].grad, rtol=1e-3, atol=1e-5)
        assert parameter.grad.abs().max() > 1e-4, name
    if optimizer == "sgd":  # AdamW's first step is the sign of the gradient, of noise too
        for name, parameter in one.items():
            torch.testing.assert_close(parameter, other[name], rtol=1e-4, atol=1e-6)
    assert len(differing(before, state_of(learners[1]))) > 50


def test_uneven_parts_weigh_by_their_size(make_learner, batch):
    settings = (*PLAIN, "train.optimizer=sgd", "train.schedule=constant", "train.batch_size=8")
    # Five segments in two parts: of three and of two.
    short = [part[:5] for part in batch]
    learners = [make_learner(*settings, f"train.accumulate={n}") for n in (1, 2)]
    losses = [learner.update(*short, seed=1).item() for learner in learners]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    one, other = (dict(learner.model.named_parameters()) for learner in learners)
    for name, parameter in one.items():
        torch.testing.assert_close(parameter.grad, other[name].grad, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(("n", "parts"), [(5, 4), (6, 4), (3, 2), (2, 2)])
def test_no_part_is_a_single_segment(make_learner, batch, n, parts):
    # With adapting BatchNorm a single one would be refused by torch.
    learner = make_learner(
        "train.batch_norm=adapt", "train.batch_size=8", f"train.accumulate={parts}"
    )
    assert np.isfinite(learner.update(*[part[:n] for part in batch], seed=1).item())


def test_gradients_of_one_batch_do_not_leak_into_the_next(make_learner, batch):
    learner = make_learner(*PLAIN, "train.accumulate=3", "train.learning_rate=1e-30")
    learner.update(*batch, seed=1)
    first = learner.model.head[0].weight.grad.clone()
    assert first.abs().max() > 1e-3
    learner.update(*batch, seed=1)
    torch.testing.assert_close(learner.model.head[0].weight.grad, first)


def test_the_seed_decides_what_an_update_does(make_learner, batch):
    # Dropout, MixUp, masks, everything.
    results = []
    for seed, disturbed in ((5, False), (5, True), (6, False)):
        learner = make_learner("model.dropout=0.5", "augment.noise_share=0.5")
        if disturbed:
            torch.manual_seed(99)
            torch.rand(17)
            learner.generator.manual_seed(99)
        loss = learner.update(*batch, seed=seed).item()
        results.append((loss, state_of(learner)))
    (loss, state), (same_loss, same_state), (other_loss, other_state) = results
    assert loss == same_loss
    assert differing(state, same_state) == []
    assert loss != other_loss
    assert "head.0.weight" in differing(state, other_state)


def test_dropout_follows_the_seed_alone(make_learner, batch):
    losses = {
        seed: make_learner(*PLAIN, "model.dropout=0.5").update(*batch, seed=seed).item()
        for seed in (1, 2)
    }
    assert losses[1] != losses[2]
    again = make_learner(*PLAIN, "model.dropout=0.5").update(*batch, seed=1).item()
    assert again == losses[1]


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_few_bits(make_learner, batch, precision):
    settings = (
        *PLAIN,
        "train.batch_norm=adapt",
        "train.learning_rate=3e-3",
        "train.schedule=constant",
    )
    learner = make_learner(*settings, f"train.precision={precision}")
    exact = make_learner(*settings)
    seen, inputs = [], []
    learner.model.backbone.register_forward_pre_hook(lambda _, given: inputs.append(given[0].dtype))
    learner.model.head[0].register_forward_hook(lambda _, __, out: seen.append(out.dtype))
    losses, expected = [], []
    for seed in range(25):
        losses.append(learner.update(*batch, seed=seed).item())
        expected.append(exact.update(*batch, seed=seed).item())
    # The network computes in few bits, on images of float32; its weights stay float32.
    assert set(seen) == {getattr(torch, precision)}
    assert set(inputs) == {torch.float32}
    assert {p.dtype for p in learner.model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in learner.model.parameters()} == {torch.float32}
    assert np.isfinite(losses).all()
    assert losses[0] == pytest.approx(expected[0], rel=0.05)
    assert losses[0] != expected[0]
    assert losses[-1] < 0.8 * losses[0]
    assert all(torch.isfinite(value).all() for value in learner.model.state_dict().values())


def test_updates_that_overflow_are_skipped_and_the_scale_is_remembered(
    make_learner, batch, recwarn
):
    learner = make_learner(*PLAIN, "train.precision=float16")
    before, scale = state_of(learner), 2.0**40
    learner.scaler.load_state_dict(learner.scaler.state_dict() | {"scale": scale})
    learner.update(*batch, seed=0)
    assert differing(before, state_of(learner)) == []
    assert learner.scaler.get_scale() == scale / 2
    other = make_learner(*PLAIN, "train.precision=float16")
    other.load_state_dict(copy.deepcopy(learner.state_dict()))
    assert other.scaler.get_scale() == scale / 2
    # The schedule went on, and told nobody.
    assert other.schedule.last_epoch == 1
    assert not recwarn.list


@pytest.mark.parametrize("rank_from", ["history", "batch"])
def test_the_front_end_is_float32_whatever_the_precision(make_learner, batch, rank_from):
    # SapAugment's extra pass too.
    settings = (*SAP, f"augment.rank_from={rank_from}")
    images = []
    for precision in ("float32", "bfloat16"):
        learner = make_learner(*settings, f"train.precision={precision}")
        found = []
        learner.model.frontend.register_forward_hook(
            lambda _, __, image, found=found: found.append(image)
        )
        learner.update(*batch, seed=0)
        assert [image.dtype for image in found] == [torch.float32]
        images.append(found[0])
    assert torch.equal(*images)


def test_compiled(make_learner, batch, monkeypatch):
    # Without its code generator, which takes minutes: how it is wrapped is ours to get right.
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    settings = (*PLAIN, "train.optimizer=sgd", "train.schedule=constant")
    plain, compiled = make_learner(*settings), make_learner(*settings, "train.compile=true")
    for seed in range(2):
        losses = [one.update(*batch, seed=seed).item() for one in (plain, compiled)]
        assert losses[0] == pytest.approx(losses[1], rel=1e-3)
    one, other = plain.model.state_dict(), compiled.model.state_dict()
    assert isinstance(compiled.network, torch._dynamo.OptimizedModule)
    # The same names: a model trained with it is loaded without.
    assert one.keys() == other.keys()
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], rtol=1e-2, atol=1e-4, msg=key)


# SapAugment


def test_no_extra_pass_leaves_a_trace(make_learner, batch):
    learner = make_learner(*SAP, "augment.rank_from=batch", "model.dropout=0.5")
    before, seen = state_of(learner), []
    modes = [module.training for module in learner.model.modules()]
    learner.model.head[-1].register_forward_hook(
        lambda module, _, out: seen.append((module.training, out.requires_grad))
    )
    waveform, target, index = batch
    learner.generator.manual_seed(0)
    image, _ = learner.augmented_images(waveform, target, index)
    assert seen == [(False, False)]
    assert not image.requires_grad
    assert all(parameter.grad is None for parameter in learner.model.parameters())
    # BatchNorm's statistics and counts.
    assert sum("running_" in key for key in before) > 20
    assert differing(before, state_of(learner)) == []
    assert [module.training for module in learner.model.modules()] == modes
    seen.clear()
    learner.update(*batch, seed=0)
    assert seen == [(False, False), (True, True)]


@pytest.mark.parametrize("settings", [("augment.rank_from=history",), ("augment.strength=random",)])
def test_no_extra_pass_where_none_is_needed(make_learner, batch, settings):
    learner, calls = make_learner(*SAP, *settings), []
    learner.model.backbone.register_forward_hook(lambda *_: calls.append(1))
    learner.update(*batch, seed=0)
    assert calls == [1]


@pytest.mark.parametrize("accumulate", [1, 3])
def test_losses_are_remembered_at_their_segments(make_learner, batch, accumulate):
    # No CutMix and no masks to speak of: the loss of the segment itself.
    learner = make_learner(
        *PLAIN,
        "augment.strength=sapaugment",
        "augment.cutmix_probability=1",
        "augment.cutmix_area=1e-9",
        f"train.accumulate={accumulate}",
    )
    waveform, target, index = batch
    model, recipe = learner.model, learner.recipe
    with torch.no_grad():
        logits = model.logits(model.frontend(waveform))
    expected = torch.full((N_SEGMENTS,), torch.inf)
    expected[index] = sample_losses(logits, target, recipe, torch.ones(3))
    assert torch.isinf(learner.losses).all()
    learner.update(*batch, seed=0)
    torch.testing.assert_close(learner.losses, expected, rtol=1e-4, atol=1e-5)
    # The next update overwrites its own only.
    other = (waveform[:2], target[:2], torch.tensor([1, 4]))
    learner.update(*other, seed=0)
    changed = (learner.losses != expected).nonzero().flatten().tolist()
    assert changed == [1, 4]
    assert torch.isfinite(learner.losses[changed]).all()


def test_strengths_follow_the_ranks(make_learner, batch, monkeypatch):
    learner, given = make_learner(*SAP), []
    real = learner.augmentation.images
    monkeypatch.setattr(
        learner.augmentation,
        "images",
        lambda image, target, strength, generator: (
            given.append(strength) or real(image, target, strength, generator)
        ),
    )
    waveform, target, _ = batch
    index = torch.tensor([3, 1, 4, 11, 5, 9])
    learner.losses[index] = torch.tensor([0.7, 0.1, torch.inf, 0.3, 2.0, torch.inf])
    learner.update(waveform, target, index, seed=0)
    policy = sap_policy(6, 0.5, 10.0)
    # From easy to hard: 1, 11, 3, 5, and those of which nothing is known, in their order.
    expected = torch.empty(6)
    expected[torch.tensor([1, 3, 0, 4, 2, 5])] = policy
    torch.testing.assert_close(given[0], expected)
    assert given[0].argmax() == 1
    assert given[0][5] == given[0].min() < 0.01


def test_ranks_of_an_extra_pass_are_those_of_its_losses(make_learner, batch, monkeypatch):
    learner, given = make_learner(*SAP, "augment.rank_from=batch", "augment.sap_a=0.3"), []
    waveform, target, index = batch
    model = learner.model
    with torch.no_grad():
        model.eval()
        logits = model.logits(model.frontend(waveform))
        set_training_mode(model, learner.recipe.train)
    losses = sample_losses(logits, target, learner.recipe, torch.ones(3))
    # Misleading, and not to be looked at.
    learner.losses[index] = -losses
    real = learner.augmentation.images
    monkeypatch.setattr(
        learner.augmentation,
        "images",
        lambda image, target, strength, generator: (
            given.append(strength) or real(image, target, strength, generator)
        ),
    )
    learner.update(*batch, seed=0)
    assert given[0].argsort(descending=True, stable=True).tolist() == losses.argsort().tolist()
    assert given[0].sort(descending=True).values.tolist() == sap_policy(6, 0.3, 10.0).tolist()


def test_strength_is_random_unless_asked_for(make_learner, batch, monkeypatch):
    learner, given = make_learner(), []
    real = learner.augmentation.images
    monkeypatch.setattr(
        learner.augmentation,
        "images",
        lambda image, target, strength, generator: (
            given.append(strength) or real(image, target, strength, generator)
        ),
    )
    learner.update(*batch, seed=0)
    assert given == [None]
    assert torch.isinf(learner.losses).all()


def test_a_state_is_all_that_an_update_depends_on(make_learner, batch):
    settings = (*SAP, "model.dropout=0.5", "train.average_decay=0.9")
    one, other = make_learner(*settings), make_learner(*settings)
    for seed in range(3):
        one.update(*batch, seed=seed)
    saved = copy.deepcopy(one.state_dict())
    # Somewhere else entirely.
    nn.init.normal_(other.model.head[0].weight)
    other.update(*batch, seed=77)
    other.load_state_dict(saved)
    for learner in (one, other):
        learner.update(*batch, seed=4)
    first, second = one.state_dict(), other.state_dict()
    assert differing(first["model"], second["model"]) == []
    assert differing(first["averaged"]["model"], second["averaged"]["model"]) == []
    assert first["averaged"]["n_updates"] == second["averaged"]["n_updates"] == 4
    assert torch.equal(first["losses"], second["losses"])
    assert first["schedule"] == second["schedule"]
    assert differing(saved["model"], first["model"]) != []
