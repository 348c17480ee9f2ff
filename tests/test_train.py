from pathlib import Path

import numpy as np
import pytest
import torch

from deepspectrumlite import train as train_module
from deepspectrumlite.audio import cut_segments, load_audio
from deepspectrumlite.augment import Augmentation
from deepspectrumlite.data import Segments, scan
from deepspectrumlite.errors import TrainingError
from deepspectrumlite.evaluate import devel_scores, score_segments
from deepspectrumlite.learner import Learner, Phase
from deepspectrumlite.losses import class_weights
from deepspectrumlite.manifest import load_manifest
from deepspectrumlite.model import Classifier
from deepspectrumlite.processes import Processes
from deepspectrumlite.targets import Targets
from deepspectrumlite.train import Batches, draw_seed, fit

CPU = Processes(torch.device("cpu"))
LABELS = ["high", "low", "noise"]
PLAIN = (
    "augment.mixup_alpha=0",
    "augment.cutmix_probability=0",
    "augment.time_shift=0",
    "augment.speed=0",
    "augment.time_masks=0",
    "augment.frequency_masks=0",
)


@pytest.fixture(scope="module")
def table(tones, make_recipe):
    return scan(load_manifest(tones), make_recipe().data)[0]


@pytest.fixture
def cut(table, make_recipe):
    def cut(*splits, table=table, recipe=None, labels=LABELS):
        recipe = recipe or make_recipe()
        targets, found = Targets(recipe.model.output, labels, recipe.data), []
        for split in splits:
            rows = table[table["split"] == split].reset_index(drop=True)
            found.append(Segments(rows, recipe.data, targets.encode(rows)))
        return found

    return cut


@pytest.fixture
def train_tiny(cut):
    """Build a model and fit it: (model, history, its state before)."""

    def train_tiny(recipe, **options):
        torch.manual_seed(recipe.train.seed)
        model = Classifier(recipe, LABELS)
        before = copy_state(model)
        history = fit(model, *cut("train", "devel"), processes=CPU, **options)
        return model, history, before

    return train_tiny


@pytest.fixture
def script_uar(monkeypatch):
    """Let devel UARs be as written; returns the list of the states that were judged."""

    def script(*values):
        judged, real = [], train_module.devel_scores

        def scores(model, devel, processes):
            judged.append(copy_state(model))
            return real(model, devel, processes) | {"devel_uar": values[len(judged) - 1]}

        monkeypatch.setattr(train_module, "devel_scores", scores)
        return judged

    return script


def copy_state(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(one, other):
    assert one.keys() == other.keys()
    return [key for key in one if torch.equal(one[key], other[key])]


def without_seconds(history):
    return [{k: v for k, v in record.items() if k != "seconds"} for record in history]


def test_a_net_learns_to_tell_tones_from_noise(train_tiny, make_recipe, learning_settings, cut):
    model, history, _ = train_tiny(make_recipe(*learning_settings))
    train, devel = (devel_scores(model, part, CPU) for part in cut("train", "devel"))
    assert train["devel_uar"] >= 0.8  # chance is 0.33
    assert devel["devel_uar"] >= 0.8
    assert history[-1]["train_loss"] < 0.8 * history[0]["train_loss"]
    # What is handed over is the last of the best epochs, in its exact state.
    best = [record for record in history if record["best"]][-1]
    assert best["devel_uar"] == max(record["devel_uar"] for record in history)
    assert devel == {key: best[key] for key in devel}
    assert not model.training


def test_history_has_a_record_per_epoch(train_tiny, make_recipe):
    told, steps = [], []
    recipe = make_recipe("train.head_epochs=2", "train.epochs=3", "train.schedule=constant")
    _, history, _ = train_tiny(
        recipe, on_epoch=told.append, progress=lambda *step: steps.append(step)
    )
    assert told == history
    assert [record["epoch"] for record in history] == [1, 2, 3, 4, 5]
    assert [record["phase"] for record in history] == ["head"] * 2 + ["fine_tune"] * 3
    assert {record["learning_rate"] for record in history} == {1e-3}
    # 30 training segments in batches of 4, without the incomplete last one.
    assert [step for step in steps if step[0] == "head epoch 2/2"] == [
        ("head epoch 2/2", n, 7) for n in range(1, 8)
    ]


def test_the_seed_decides_everything(train_tiny, make_recipe):
    one, first, before = train_tiny(make_recipe())
    # What happens to the generators of torch between two runs is of no effect.
    torch.rand(17)
    two, second, _ = train_tiny(make_recipe())
    other, third, before_other = train_tiny(make_recipe("train.seed=1"))
    assert without_seconds(first) == without_seconds(second)
    assert len(same(one.state_dict(), two.state_dict())) == len(one.state_dict())
    assert first[0]["train_loss"] != third[0]["train_loss"]
    weights = "backbone.network.conv_stem.weight"
    assert weights not in same(before, before_other)
    assert weights not in same(one.state_dict(), other.state_dict())


@pytest.mark.parametrize("decay", [0.0, 0.9])
def test_the_head_phase_leaves_the_backbone_alone(train_tiny, make_recipe, decay):
    recipe = make_recipe(
        "train.head_epochs=2", "train.epochs=0", "train.keep=last", f"train.average_decay={decay}"
    )
    model, _, before = train_tiny(recipe)
    unchanged = same(before, model.state_dict())
    backbone = [key for key in before if key.startswith("backbone.")]
    assert sum("running_" in key for key in backbone) > 50
    assert set(backbone) <= set(unchanged)
    assert not any(key.startswith("head.") for key in unchanged)


def test_fine_tune_share_changes_the_last_layers_only(train_tiny, make_recipe):
    recipe = make_recipe(
        "train.head_epochs=0",
        "train.fine_tune_share=0.5",
        "train.keep=last",
        "train.average_decay=0",
    )
    model, _, before = train_tiny(recipe)
    unchanged = set(same(before, model.state_dict()))
    names = {module: name for name, module in model.named_modules()}
    layers = [names[layer] for layer in model.backbone.layers()]
    for number, layer in enumerate(layers):
        own = [key for key in before if key.rpartition(".")[0] == layer]
        assert own
        frozen = number < len(layers) / 2
        assert [key in unchanged for key in own] == [frozen] * len(own), layer


def test_frozen_batch_norm_keeps_its_statistics(train_tiny, make_recipe):
    recipe = make_recipe(
        "train.head_epochs=0",
        "train.batch_norm=frozen",
        "train.keep=last",
        "train.average_decay=0",
    )
    model, _, before = train_tiny(recipe)
    unchanged = set(same(before, model.state_dict()))
    assert all(key in unchanged for key in before if "running_" in key)
    assert "backbone.network.conv_stem.weight" not in unchanged


@pytest.fixture
def draw(make_recipe):
    """The batches of one epoch, of segments with the given labels."""

    def draw(labels, *settings, epoch=0):
        target = np.eye(3, dtype=np.float32)[labels]
        batches = Batches(target, make_recipe(*settings), CPU)
        batches.begin(1, epoch, 0)
        drawn = list(batches)
        assert len(drawn) == len(batches)
        return drawn

    return draw


def flat(batches):
    return [i for batch in batches for i in batch]


def test_the_sampler_draws_classes_equally_often(draw):
    labels = np.array([0] * 900 + [1] * 80 + [2] * 20)
    drawn = flat(draw(labels, "train.balance=sampler", "train.batch_size=10"))
    counts = np.bincount(labels[drawn])
    assert counts.sum() == 1000
    # Five standard deviations of a binomial of 1000 draws at 1/3.
    assert np.abs(counts - 1000 / 3).max() < 5 * np.sqrt(1000 * 2 / 9)
    # The last recording of the rarest class is drawn like its siblings: 1 in 60.
    assert 3 < drawn.count(999) < 35


@pytest.mark.parametrize("balance", ["weights", "none"])
def test_without_the_sampler_each_segment_comes_once(draw, balance):
    drawn = flat(draw([0] * 15 + [1] * 5, f"train.balance={balance}"))
    assert sorted(drawn) == list(range(20))
    assert drawn != list(range(20))


@pytest.mark.parametrize("balance", ["sampler", "none"])
def test_each_epoch_has_an_order_of_its_own(draw, balance):
    settings = (f"train.balance={balance}", "train.batch_size=4")
    first, second = (draw([0, 1] * 10, *settings, epoch=epoch) for epoch in (0, 1))
    assert first != second
    assert first == draw([0, 1] * 10, *settings)
    assert first != draw([0, 1] * 10, *settings, "train.seed=1")


def test_an_incomplete_last_batch_is_dropped_but_not_the_only_one(draw):
    balance = "train.balance=none"
    assert [len(b) for b in draw([0, 1] * 5, balance, "train.batch_size=4")] == [4, 4]
    assert [len(b) for b in draw([0, 1, 1], balance, "train.batch_size=4")] == [3]


def test_seeds_differ_wherever_one_of_their_numbers_does():
    numbers = [(0, 0, 0, 0, 0), (1, 0, 0, 0, 0), (0, 1, 0, 0, 0), (0, 0, 1, 0, 0)]
    numbers += [(0, 0, 0, 1, 0), (0, 0, 0, 0, 1), (0, 0, 12, 3, 0), (0, 0, 1, 23, 0)]
    seeds = [draw_seed(*given) for given in numbers]
    assert len(set(seeds)) == len(seeds)
    assert seeds == [draw_seed(*given) for given in numbers]
    assert all(0 <= seed < 2**63 for seed in seeds)
    torch.Generator().manual_seed(max(seeds))


def test_class_weights_by_hand(make_recipe):
    target = np.eye(3, dtype=np.float32)[[0, 0, 0, 1]]
    weights = class_weights(target, make_recipe("train.balance=weights"))
    assert weights.tolist() == pytest.approx([4 / (3 * 3), 4 / (3 * 1), 4 / 3])
    for balance in ("sampler", "none"):
        recipe = make_recipe(f"train.balance={balance}")
        assert class_weights(target, recipe).tolist() == [1, 1, 1]


def test_loss_of_a_batch_by_hand(make_recipe, tone):
    torch.manual_seed(0)
    settings = ("train.label_smoothing=0.25", "train.balance=weights", "model.dropout=0")
    recipe = make_recipe(*PLAIN, *settings, "train.batch_norm=frozen")
    model = Classifier(recipe, ["a", "b"]).eval()
    waveform = torch.from_numpy(np.stack([tone(name, 1, 0.5) for name in ("low", "noise")]))
    log_p = model(waveform).log().detach().numpy()
    # Of twelve training segments one is of the second class: it weighs 6, the others 6 / 11.
    given = np.eye(2, dtype=np.float32)[[0] * 11 + [1]]
    augmentation = Augmentation(recipe.augment, recipe.data)
    learner = Learner(model, Phase("fine_tune", 1, 1e-3, 1.0), given, 5, augmentation, CPU)
    loss = learner.update(waveform, torch.eye(2), torch.tensor([0, 11]), seed=0)
    target = np.array([[0.875, 0.125], [0.125, 0.875]])
    expected = -(target * log_p * np.array([6 / 11, 6])).sum() / 2
    assert loss.item() == pytest.approx(expected, rel=1e-4)


def test_devel_scores_by_hand(make_recipe, table, cut):
    torch.manual_seed(3)
    recipe = make_recipe()
    labels = LABELS
    model = Classifier(recipe, labels).eval()
    rows = table[table["split"] == "devel"].reset_index(drop=True)
    scores = devel_scores(model, *cut("devel"), CPU)
    by_file = []
    for path in rows["path"]:
        segments = cut_segments(load_audio(Path(path), recipe.data.sample_rate), recipe.data)
        by_file.append(model(torch.from_numpy(segments)).detach().numpy().mean(axis=0))
    truth = np.array([labels.index(label) for label in rows["label"]])
    right = np.argmax(by_file, axis=1) == truth
    of_the_truth = np.array(by_file)[np.arange(len(truth)), truth]
    assert scores["devel_loss"] == pytest.approx(-np.log(of_the_truth).mean(), rel=1e-5)
    assert scores["devel_accuracy"] == pytest.approx(right.mean())
    recalls = [right[truth == number].mean() for number in range(3)]
    assert scores["devel_uar"] == pytest.approx(np.mean(recalls))


@pytest.mark.parametrize(
    ("keep", "uars", "kept"),
    [
        ("best", (0.5, 0.9, 0.7), 1),
        ("last", (0.5, 0.9, 0.7), 2),
        ("best", (0.5, 0.9, 0.9), 2),  # of equals, the later
        ("best", (0.9, 0.5, 0.5), 0),  # the head's epoch, if fine-tuning only spoils it
    ],
)
def test_keep(train_tiny, make_recipe, script_uar, keep, uars, kept):
    judged = script_uar(*uars)
    model, history, _ = train_tiny(make_recipe("train.epochs=2", f"train.keep={keep}"))
    head = "head.0.weight"
    assert [torch.equal(model.state_dict()[head], state[head]) for state in judged] == [
        i == kept for i in range(3)
    ]
    assert len(same(model.state_dict(), judged[kept])) == len(judged[kept])
    assert [record["best"] for record in history] == [
        value == max(uars[: i + 1]) for i, value in enumerate(uars)
    ]


def test_the_lowest_loss_is_the_best_one(train_tiny, make_recipe, monkeypatch):
    losses = iter([3.0, 1.0, 2.0])
    real = train_module.devel_scores
    monkeypatch.setattr(
        train_module, "devel_scores", lambda *given: real(*given) | {"devel_loss": next(losses)}
    )
    _, history, _ = train_tiny(make_recipe("train.epochs=2", "train.monitor=loss"))
    assert [record["best"] for record in history] == [True, True, False]


def test_patience_stops_each_phase(train_tiny, make_recipe, script_uar):
    script_uar(0.5, 0.6, 0.6, 0.4, 0.5, 0.7, 0.6, 0.6)
    _, history, _ = train_tiny(
        make_recipe("train.head_epochs=9", "train.epochs=9", "train.patience=2")
    )
    # The head stops two epochs after 0.6; fine-tuning starts anew, and two after 0.7.
    assert [record["phase"] for record in history] == ["head"] * 4 + ["fine_tune"] * 4


@pytest.mark.parametrize(
    ("phase", "key"), [("head_epochs", "head_learning_rate"), ("epochs", "learning_rate")]
)
@pytest.mark.parametrize("batch_size", [4, 32])
def test_a_loss_that_is_not_finite_names_the_key(train_tiny, make_recipe, phase, key, batch_size):
    # 32: a single batch, whose own loss is finite still; what it leaves behind is not.
    settings = ("train.head_epochs=0", "train.epochs=0", f"train.{phase}=1", f"train.{key}=1e30")
    recipe = make_recipe(*settings, f"train.batch_size={batch_size}", "train.schedule=constant")
    with pytest.raises(TrainingError, match=rf"not finite .* train\.{key} is 1e\+30, .*=0\.001"):
        train_tiny(recipe)


def test_workers_do_not_change_the_result(train_tiny, make_recipe):
    histories = [
        train_tiny(make_recipe("train.head_epochs=3", "train.epochs=0", f"train.workers={n}"))[1]
        for n in (0, 1)
    ]
    assert without_seconds(histories[0]) == without_seconds(histories[1])


def test_scores_are_in_the_order_of_the_segments(make_recipe, cut, monkeypatch):
    (devel,) = cut("devel")
    scored = []
    for settings in ((), ("train.batch_size=5",), ("train.batch_size=2", "train.workers=1")):
        torch.manual_seed(3)
        model = Classifier(make_recipe(*settings), LABELS)
        scored.append(score_segments(model, devel, CPU))
    for scores in scored:
        np.testing.assert_allclose(scores, scored[0], atol=1e-5)
    one_by_one = [model(torch.from_numpy(devel[i][0])[None]).detach().numpy() for i in range(12)]
    np.testing.assert_allclose(scored[0], np.concatenate(one_by_one), atol=1e-5)
    # Shared between processes, whose answers come in the order of their ranks.
    parts = []
    for rank in range(5):
        processes = Processes(torch.device("cpu"))
        processes.count, processes.rank = 5, rank
        monkeypatch.setattr(processes, "gather", lambda part: parts.append(part) or [part] * 5)
        if rank < 4:
            with pytest.raises(ValueError, match="could not broadcast"):
                score_segments(model, devel, processes)
    assert [len(part) for part in parts] == [3, 3, 2, 2]


@pytest.fixture
def numbers(table, cut, make_recipe):
    """Fit a model to numbers: (model, history, devel)."""

    def numbers(*settings, value=lambda label, i: 100 + 10 * LABELS.index(label) + i / 30):
        recipe = make_recipe("model.output=linear", *settings)
        given = [value(label, i) for i, label in enumerate(table["label"])]
        own = table.assign(label=[str(number) for number in given])
        train, devel = cut("train", "devel", table=own, recipe=recipe, labels=["label"])
        torch.manual_seed(0)
        model = Classifier(recipe, ["label"])
        return model, fit(model, train, devel, processes=CPU), devel

    return numbers


def test_a_net_learns_numbers(numbers, learning_settings):
    model, history, devel = numbers(*learning_settings, "train.epochs=14", "train.monitor=mae")
    best = [record for record in history if record["best"]][-1]
    assert best["devel_mae"] == min(record["devel_mae"] for record in history)
    # By the mean of all it would be 6.7 off.
    assert best["devel_mae"] < 4.5
    found = devel_scores(model, devel, CPU)
    assert found["devel_mae"] == pytest.approx(best["devel_mae"], abs=1e-5)
    assert model.offset.item() == pytest.approx(110, abs=1)
    assert model.scale.item() == pytest.approx(8.2, abs=0.3)


def test_a_metric_that_is_not_defined_is_null_in_the_history(numbers, script_uar, monkeypatch):
    real = train_module.devel_scores
    values = iter([np.nan, 0.2, np.nan])
    monkeypatch.setattr(
        train_module, "devel_scores", lambda *given: real(*given) | {"devel_ccc": next(values)}
    )
    _, history, _ = numbers("train.epochs=2", "train.monitor=ccc")
    assert [record["devel_ccc"] for record in history] == [None, 0.2, None]
    assert [record["best"] for record in history] == [True, True, False]


def test_numbers_that_are_all_the_same_are_refused(numbers):
    with pytest.raises(TrainingError, match="label is the same number, 7, in all of train"):
        numbers(value=lambda label, i: 7.0)
