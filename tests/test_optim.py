import copy
import math

import pytest
import torch
from torch import nn

from deepspectrumlite.config import MONITORS, TrainSection, parse_recipe
from deepspectrumlite.model import Classifier
from deepspectrumlite.optim import (
    OPTIMIZERS,
    Best,
    MovingAverage,
    make_optimizer,
    make_schedule,
    set_training_mode,
    unfreeze_last,
)

NAN = math.nan


def small_model(backbone="mobilenet_v2"):
    torch.manual_seed(0)
    recipe = parse_recipe(
        {
            "data": {"sample_rate": 8000, "segment_seconds": 0.5, "hop_seconds": 0.5},
            "frontend": {"n_mels": 32, "image_height": 32, "image_width": 32},
            "model": {"backbone": backbone, "weights": "random", "units": 8},
        }
    )
    return Classifier(recipe, ["a", "b"])


def batch(seed=0):
    return torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def batch_norms(module):
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def statistics(norms):
    return [(m.running_mean.clone(), m.running_var.clone()) for m in norms]


@pytest.mark.parametrize(
    ("backbone", "share", "n_frozen"),
    [
        ("mobilenet_v2", 0.0, 104),
        ("mobilenet_v2", 0.3, 73),  # 31.2 of 104 layers learn.
        ("mobilenet_v2", 0.7, 31),  # 72.8
        ("mobilenet_v2", 1.0, 0),
        ("squeezenet", 0.3, 17),  # 7.5 of 25, to the even number.
        ("squeezenet", 0.02, 25),  # Half a layer is none.
    ],
)
def test_the_first_layers_are_frozen_by_their_number(backbone, share, n_frozen):
    model = small_model(backbone)
    unfreeze_last(model, 1 - share)
    unfreeze_last(model, share)
    learns = [
        {p.requires_grad for p in layer.parameters(recurse=False)}
        for layer in model.backbone.layers()
    ]
    assert learns == [{False}] * n_frozen + [{True}] * (len(learns) - n_frozen)
    assert all(p.requires_grad for p in model.head.parameters())


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_batch_norm_adapts_exactly_where_its_layer_learns(share):
    model = small_model()
    unfreeze_last(model, share)
    set_training_mode(model, TrainSection(batch_norm="adapt"))
    norms = batch_norms(model.backbone)
    assert len(norms) == 52
    assert [m.training for m in norms] == [m.weight.requires_grad for m in norms]
    before = statistics(norms)
    model.logits(batch())
    for norm, (mean, variance) in zip(norms, before, strict=True):
        changed = not torch.equal(norm.running_mean, mean)
        assert changed == norm.weight.requires_grad
        assert changed == (not torch.equal(norm.running_var, variance))
        assert norm.num_batches_tracked == int(changed)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_frozen_batch_norm_stays_as_it_was(share):
    model = small_model()
    unfreeze_last(model, share)
    set_training_mode(model, TrainSection(batch_norm="frozen"))
    assert not any(m.training for m in model.backbone.modules())
    # The head drops units all the same.
    assert all(m.training for m in model.head.modules())
    norms = batch_norms(model.backbone)
    before = statistics(norms)
    model.logits(batch()).sum().backward()
    for norm, (mean, variance) in zip(norms, before, strict=True):
        assert torch.equal(norm.running_mean, mean)
        assert torch.equal(norm.running_var, variance)
        assert norm.num_batches_tracked == 0
    # Its weights learn nevertheless.
    assert (norms[-1].weight.grad is not None) == (share > 0)
    assert (norms[0].weight.grad is not None) == (share == 1)


def test_training_mode_returns_after_an_evaluation():
    model = small_model()
    unfreeze_last(model, 0.3)
    set_training_mode(model, TrainSection())
    expected = [m.training for m in model.modules()]
    model.eval()
    set_training_mode(model, TrainSection())
    assert [m.training for m in model.modules()] == expected
    unfreeze_last(model, 1.0)
    set_training_mode(model, TrainSection())
    assert all(m.training for m in model.modules())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_makes_a_step_that_lowers_the_loss(name):
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Linear(8, 1))
    x = torch.randn(16, 4)
    before = copy.deepcopy(network.state_dict())
    section = TrainSection(optimizer=name, weight_decay=0.0)
    optimizer = make_optimizer(list(network.parameters()), section, 1e-3)
    assert type(optimizer) is OPTIMIZERS[name]
    losses = []
    for _ in range(2):
        loss = (network(x) - 3).square().mean()
        losses.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert losses[1] < losses[0]
    after = network.state_dict()
    for key in ("0.weight", "1.weight", "1.bias", "2.weight", "2.bias"):
        assert not torch.equal(before[key], after[key]), key


def test_all_optimizers_of_the_recipe_are_there():
    allowed = TrainSection.model_json_schema()["properties"]["optimizer"]["enum"]
    assert sorted(allowed) == sorted(OPTIMIZERS)


def test_first_steps_of_sgd_and_adam_are_those_of_the_formula():
    start, gradient = torch.tensor([[2.0, -1.0]]), torch.tensor([[0.5, -4.0]])

    def run(n_steps, **values):
        weight = nn.Parameter(start.clone())
        optimizer = make_optimizer([weight], TrainSection(weight_decay=0.0, **values), 0.1)
        for _ in range(n_steps):
            weight.grad = gradient.clone()
            optimizer.step()
        return weight.detach()

    # The second step of sgd goes (1 + momentum) times as far.
    found = run(2, optimizer="sgd", momentum=0.5)
    torch.testing.assert_close(found, start - 0.1 * gradient * (1 + 1.5))
    # Adam's first step is the learning rate, whatever the gradient.
    torch.testing.assert_close(run(1, optimizer="adam"), start - 0.1 * gradient.sign())


@pytest.mark.parametrize(
    ("name", "factor"),
    # By the learning rate times the decay: decoupled in AdamW, the only gradient in SGD.
    [("adamw", 1 - 0.1 * 0.5), ("sgd", 1 - 0.1 * 0.5)],
)
def test_vectors_are_not_decayed(name, factor):
    torch.manual_seed(0)
    model = small_model("squeezenet")
    unfreeze_last(model, 0.1)
    learning = [p for p in model.parameters() if p.requires_grad]
    before = [p.detach().clone() for p in learning]
    optimizer = make_optimizer(learning, TrainSection(optimizer=name, weight_decay=0.5), 0.1)
    for parameter in learning:
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    # AReLU's alpha and beta have no dimension at all.
    assert {p.ndim for p in learning} == {0, 1, 2, 4}
    for old, new in zip(before, learning, strict=True):
        expected = old * factor if old.ndim > 1 else old
        torch.testing.assert_close(new.detach(), expected, rtol=1e-6, atol=0)


def test_every_parameter_is_in_one_group():
    model = small_model()
    parameters = list(model.parameters())
    groups = make_optimizer(parameters, TrainSection(weight_decay=0.3), 0.1).param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    assert sorted(id(p) for g in groups for p in g["params"]) == sorted(map(id, parameters))
    assert {p.ndim for p in groups[0]["params"]} == {2, 4}
    assert {p.ndim for p in groups[1]["params"]} == {0, 1}


def rates(schedule, steps, peak=0.5):
    """The learning rate of each step, and the one after the last."""
    parameters = [nn.Parameter(torch.zeros(2, 2)), nn.Parameter(torch.zeros(2))]
    section = TrainSection(schedule=schedule, optimizer="sgd")
    optimizer = make_optimizer(parameters, section, peak)
    schedule = make_schedule(optimizer, section, peak, steps)
    found = []
    for _ in range(steps):
        optimizer.step()
        found.append({group["lr"] for group in optimizer.param_groups})
        schedule.step()
    found.append({group["lr"] for group in optimizer.param_groups})
    assert all(len(rate) == 1 for rate in found)
    return [rate.pop() for rate in found]


@pytest.mark.parametrize("steps", [1, 2, 10, 57])
def test_constant_schedule(steps):
    assert rates("constant", steps) == [0.5] * (steps + 1)


@pytest.mark.parametrize("steps", [1, 2, 10, 57])
def test_cosine_schedule_falls_from_the_peak_to_nothing(steps):
    expected = [0.25 * (1 + math.cos(math.pi * k / steps)) for k in range(steps + 1)]
    assert rates("cosine", steps) == pytest.approx(expected, abs=1e-9)
    assert expected[0] == 0.5


def test_onecycle_schedule_rises_to_the_peak_and_falls():
    found = rates("onecycle", 99)
    assert found[0] == pytest.approx(0.5 / 25)
    # The peak is at 30 % of the steps.
    assert found[29] == max(found) == pytest.approx(0.5)
    assert found[:30] == sorted(found[:30])
    assert found[29:] == sorted(found[29:], reverse=True)
    assert found[-1] == pytest.approx(0.5 / 25 / 1e4)
    # Half-way up, and half-way down, of a cosine.
    rise = [0.5 / 25 + (0.5 - 0.5 / 25) * (1 - math.cos(math.pi * k / 29)) / 2 for k in range(30)]
    assert found[:30] == pytest.approx(rise)
    assert found[29 + 35] == pytest.approx((0.5 + 0.5 / 25e4) / 2)


@pytest.mark.parametrize("steps", [1, 2, 3, 4, 10, 200])
def test_onecycle_schedule_of_any_length_stays_below_the_peak(steps):
    found = rates("onecycle", steps)
    assert max(found) <= 0.5 + 1e-12
    assert min(found) > 0
    assert found[-1] == pytest.approx(0.5 / 25 / 1e4)


def test_average_is_the_exponential_one_of_weights_and_statistics():
    torch.manual_seed(0)
    # The parts of a classifier that change.
    network = nn.Module()
    network.backbone, network.head = nn.Linear(3, 4), nn.BatchNorm1d(4)
    averaged = MovingAverage(network, 0.8)
    expected = None
    for _ in range(4):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        network.head(network.backbone(torch.randn(6, 3)))
        averaged.update()
        now = {k: v.clone() for k, v in network.state_dict().items()}
        if expected is None:
            # It begins with the weights after the first step.
            expected = now
        else:
            expected = {
                k: 0.8 * expected[k] + 0.2 * now[k] if now[k].is_floating_point() else now[k]
                for k in now
            }
        found = averaged.model.state_dict()
        for key in expected:
            if expected[key].is_floating_point():
                torch.testing.assert_close(found[key], expected[key], msg=key)
    assert {"head.running_mean", "head.running_var", "backbone.weight"} <= expected.keys()
    assert not torch.equal(found["head.running_var"], network.head.running_var)
    assert averaged.n_updates == 4


def test_average_of_a_model_is_a_model_of_its_own():
    model = small_model()
    averaged = MovingAverage(model, 0.9)
    assert isinstance(averaged.model, Classifier)
    assert averaged.model.labels == model.labels
    assert averaged.model.recipe == model.recipe
    assert not any(module.training for module in averaged.model.modules())
    with torch.no_grad():
        model.head[0].weight.zero_()
    assert averaged.model.head[0].weight.abs().sum() > 0
    averaged.update()
    assert averaged.model.head[0].weight.abs().sum() == 0


def test_average_of_a_model_is_of_all_its_float_tensors():
    model = small_model()
    averaged = MovingAverage(model, 0.75)
    averaged.update()
    before = copy.deepcopy(model.state_dict())
    with torch.no_grad():
        for value in model.state_dict().values():
            if value.is_floating_point():
                value.add_(1)
    averaged.update()
    found = averaged.model.state_dict()
    assert sum("running_" in key for key in found) == 104
    for key, value in before.items():
        # These are fitted when training is over.
        learned = not key.startswith("frontend.") and key not in ("temperature", "conformal")
        if learned and value.is_floating_point():
            torch.testing.assert_close(found[key], value + 0.25, msg=key)


def test_average_goes_on_from_its_state():
    model = small_model()
    one, two = MovingAverage(model, 0.9), MovingAverage(model, 0.9)
    one.update()
    saved = copy.deepcopy(one.state_dict())
    with torch.no_grad():
        model.head[0].weight.add_(1)
    one.update()
    two.load_state_dict(saved)
    two.update()
    for key, value in one.model.state_dict().items():
        assert torch.equal(two.model.state_dict()[key], value), key
    # A first update would have taken the weights as they are.
    assert not torch.equal(two.model.head[0].weight, model.head[0].weight)
    assert two.n_updates == 2


class Scores:
    """Feeds devel values to Best; the weight of the model is the number of the epoch."""

    def __init__(self, output="softmax", **values):
        self.recipe = parse_recipe({"model": {"output": output}, "train": values})
        self.best = Best(self.recipe)
        self.model = nn.Linear(1, 1, bias=False)
        self.epoch = 0

    def update(self, *values):
        found = []
        for value in values:
            self.epoch += 1
            nn.init.constant_(self.model.weight, self.epoch)
            names = MONITORS[self.recipe.model.output]
            scores = {f"devel_{name}": 0.5 for name in names}
            scores[f"devel_{self.recipe.monitor}"] = value
            found.append(self.best.update(self.model, scores))
        return found

    def kept(self):
        """The epoch whose weights are handed over."""
        nn.init.constant_(self.model.weight, -1)
        self.best.restore(self.model)
        return self.model.weight.item()


@pytest.mark.parametrize(
    ("monitor", "values", "better", "kept"),
    [
        ("uar", [0.3, 0.7, 0.5], [True, True, False], 2),
        ("accuracy", [0.9, 0.7, 0.5], [True, False, False], 1),
        ("macro_f1", [0.1, 0.2, 0.3], [True, True, True], 3),
        ("loss", [0.9, 0.4, 0.6], [True, True, False], 2),
        ("loss", [0.2, 0.3, 0.4], [True, False, False], 1),
        # Of equal epochs the later.
        ("uar", [0.7, 0.5, 0.7, 0.6], [True, False, True, False], 3),
        ("loss", [0.4, 0.4, 0.5], [True, True, False], 2),
        ("uar", [0.0, 0.0], [True, True], 2),
        ("auto", [0.3, 0.7, 0.5], [True, True, False], 2),
    ],
)
def test_the_best_epoch_is_kept(monitor, values, better, kept):
    scores = Scores(monitor=monitor, keep="best")
    assert scores.update(*values) == better
    assert scores.kept() == kept


@pytest.mark.parametrize(
    ("output", "monitor", "values", "better", "kept"),
    [
        # Of errors the lowest, of correlations the highest, which may be negative.
        ("linear", "mae", [3.0, 1.0, 2.0], [True, True, False], 2),
        ("linear", "rmse", [1.0, 3.0, 1.0], [True, False, True], 3),
        ("linear", "ccc", [-0.5, -0.2, -0.3], [True, True, False], 2),
        ("linear", "auto", [0.5, 0.8, 0.1], [True, True, False], 2),
        ("ordinal", "mae", [1.0, 2.0, 3.0], [True, False, False], 1),
        ("ordinal", "uar", [0.1, 0.2, 0.1], [True, True, False], 2),
        ("sigmoid", "auto", [0.2, 0.1, 0.3], [True, False, True], 3),
        # Of constant predictions there is no correlation: worse than any, and no progress.
        ("linear", "pearson", [NAN, -0.9, NAN], [True, True, False], 2),
        ("linear", "ccc", [0.1, NAN, 0.05], [True, False, False], 1),
        ("linear", "spearman", [NAN, NAN, NAN], [True, True, True], 3),
        ("linear", "mae", [NAN, 5.0, NAN], [True, True, False], 2),
    ],
)
def test_the_best_epoch_of_other_outputs(output, monitor, values, better, kept):
    scores = Scores(output, monitor=monitor)
    assert scores.update(*values) == better
    assert scores.kept() == kept


def test_a_metric_that_is_not_there_is_no_progress():
    scores = Scores("linear", patience=3)
    scores.update(NAN, NAN)
    assert not scores.best.ran_out_of_patience
    scores.update(NAN)
    assert scores.best.ran_out_of_patience
    late = Scores("linear", patience=3)
    late.update(NAN, NAN, -0.5)
    assert late.best.epochs_since == 0


@pytest.mark.parametrize("values", [[0.5, 0.7, 0.6], [NAN, 0.7, 0.7], [NAN]])
def test_what_is_best_goes_on_from_its_state(values):
    scores = Scores("linear", patience=9)
    scores.update(*values)
    other = Scores("linear", patience=9)
    other.update(0.99)
    other.best.load_state_dict(copy.deepcopy(scores.best.state_dict()))
    assert other.best.epochs_since == scores.best.epochs_since
    assert other.kept() == scores.kept()
    assert other.update(0.65) == scores.update(0.65)


@pytest.mark.parametrize("monitor", ["uar", "loss"])
def test_the_last_epoch_is_kept_where_the_recipe_says_so(monitor):
    scores = Scores(monitor=monitor, keep="last")
    assert scores.update(0.3, 0.7, 0.5) == ([True, True, False] if monitor == "uar" else [1, 0, 0])
    assert scores.kept() == 3


def test_kept_weights_do_not_follow_the_model():
    scores = Scores()
    scores.update(0.9)
    with torch.no_grad():
        scores.model.weight.add_(100)
    assert scores.kept() == 1


def test_nothing_is_restored_before_the_first_epoch():
    assert Scores().kept() == -1


def test_patience_counts_epochs_that_are_not_better():
    scores = Scores(patience=2)
    assert not scores.best.ran_out_of_patience
    for value, stop in ((0.5, False), (0.4, False), (0.6, False), (0.5, False), (0.55, True)):
        scores.update(value)
        assert scores.best.ran_out_of_patience == stop
    # An equal epoch is kept, but it is no progress.
    level = Scores(patience=2)
    level.update(0.5, 0.5, 0.5)
    assert level.best.ran_out_of_patience
    assert level.kept() == 3


def test_patience_starts_anew_with_each_phase_and_the_best_stays():
    scores = Scores(patience=2)
    scores.update(0.8, 0.3, 0.3)
    assert scores.best.ran_out_of_patience
    scores.best.new_phase()
    assert not scores.best.ran_out_of_patience
    assert scores.update(0.6) == [False]
    assert not scores.best.ran_out_of_patience
    scores.update(0.7)
    assert scores.best.ran_out_of_patience
    assert scores.kept() == 1


def test_no_patience_means_no_stop():
    scores = Scores(patience=0)
    scores.update(0.9, *[0.1] * 50)
    assert not scores.best.ran_out_of_patience
