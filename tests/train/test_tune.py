"""The section `tune`: replay's share, what stays frozen, L2 to the base, the forgetting guard."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch

from jaxllm.core.errors import UserError
from jaxllm.data.config import DataConfig, SourceConfig
from jaxllm.data.mixture import WeightedTurns, weights
from jaxllm.models.config import preset
from jaxllm.nn.compute import make_compute
from jaxllm.train.config import OptimizerConfig, default_config, resolve_config
from jaxllm.train.forgetting import Guard, rows
from jaxllm.train.losses import LossOptions, class_cross_entropy
from jaxllm.train.origin import with_labels, with_steps
from jaxllm.train.state import init_state, make_setup, merged, parted
from jaxllm.train.step import jit_train_step
from jaxllm.train.tune import GuardConfig, ReplayConfig, check_tune, with_replay

from ..golden.test_golden import batch


@pytest.mark.parametrize("share", [0.1, 0.25, 0.9])
def test_replay_has_its_share_of_the_examples(share):
    mixture = {"a": SourceConfig("a", 3.0), "b": SourceConfig("b", 1.0)}
    found = with_replay(mixture, ReplayConfig("general", share))
    turns = WeightedTurns([source.weight for source in found.values()])
    names = [list(found)[turns[index][0]] for index in range(2000)]
    assert names.count("replay") == pytest.approx(2000 * share, abs=1)
    assert names.count("a") == pytest.approx(3 * names.count("b"), abs=4)


@pytest.mark.parametrize("rows", [set(), {"a", "b"}, {"replay"}, {"a", "b", "replay"}])
def test_replay_keeps_its_share_at_any_temperature(rows):
    """Of 90 and 10 examples T = 2 makes 3 : 1, of text as of rows; replay is a tenth all the same.
    """
    mixture = with_replay({"a": SourceConfig("a"), "b": SourceConfig("b")}, ReplayConfig("x"))
    epochs = {"a": 90, "b": 10, "replay": 5000}
    found = weights(DataConfig(mixture=mixture, mixture_temperature=2.0), epochs, rows)
    total = sum(found.values())
    shares = {name: weight / total for name, weight in found.items()}
    assert shares == pytest.approx({"a": 0.675, "b": 0.225, "replay": 0.1})


@pytest.mark.parametrize(("replay", "steps"), [("", 25), ("general", 14)])
def test_a_source_of_ones_own_may_be_called_replay(replay, steps):
    """An epoch is of all that is the run's own: 100 and 100 rows; with replay of 100 + 11."""
    config = default_config()
    config.data.mixture = {"a": {"path": "a"}}
    if replay:
        config.tune.replay.path = replay
    else:
        config.data.mixture.replay = {"path": "b"}
    config.data.global_batch_size, config.train.epochs = 8, 1.0
    epochs = {"a": 100, "replay": 100}
    found = with_steps(resolve_config(config), SimpleNamespace(epochs=epochs))
    assert found.train.steps == steps


def test_replay_is_refused_where_it_means_nothing():
    with pytest.raises(UserError, match="name the same source"):
        with_replay({"replay": SourceConfig("x")}, ReplayConfig("y"))
    with pytest.raises(UserError, match="is empty"):
        with_replay({}, ReplayConfig("y"))
    with pytest.raises(UserError, match=r"tune\.replay\.share=1\.0 must be a number above 0"):
        with_replay({"a": SourceConfig("a")}, ReplayConfig("y", 1.0))


@pytest.mark.parametrize("field, value, wrong", [
    ("tune.replay.share", 1.0, "tune.replay.share=1.0"),
    ("tune.l2_to_base", -1.0, "tune.l2_to_base=-1.0"),
    ("tune.l2_to_base", 0.1, "needs a model to start from"),
    ("tune.method", "lora", "needs a model to start from"),
    ("tune.replay.share", 0.3, "tune.replay.share=0.3 has no effect"),
    ("tune.guard.action", "halt", "tune.guard.action='halt' is unknown"),
    ("tune.guard.action", "stop", "tune.guard.action='stop' has no effect"),
])
def test_values_that_cannot_work(field, value, wrong):
    config = default_config()
    config.data.mixture = {"a": {"path": "a", "weight": 1.0}}
    config.update_from_flattened_dict({field: value})
    with pytest.raises(UserError, match=wrong):
        resolve_config(config)


def test_a_guard_without_a_base_is_refused():
    config = dataclasses.replace(resolve_tune(), guard=GuardConfig(("data",)))
    with pytest.raises(UserError, match=r"guard\.data needs a model"):
        check_tune(config, "")


def resolve_tune():
    return resolve_config(default_config()).tune


def test_parted_and_merged_are_inverse():
    tree = {"a": {"x": 1, "y": 2}, "b": {"z": {"w": 3}}, "c": 4}
    mask = {"a": {"x": True, "y": False}, "b": {"z": {"w": False}}, "c": True}
    ours, others = parted(tree, mask)
    assert ours == {"a": {"x": 1}, "c": 4} and others == {"a": {"y": 2}, "b": {"z": {"w": 3}}}
    assert merged(ours, others) == merged(others, ours) == tree


@pytest.mark.parametrize("given, wrong", [
    (("b", "a"), "in another order"), (("a", "b", "c"), "has 3 labels"),
])
def test_a_head_keeps_the_classes_that_it_has(given, wrong):
    model = preset("bert_debug")
    head = dataclasses.replace(
        model.head, kind="sequence_classification", labels=2, label_names=("a", "b")
    )
    model = dataclasses.replace(model, head=head)
    assert with_labels(model, ("a", "b")) == model
    with pytest.raises(UserError, match=wrong):
        with_labels(model, given)


MODEL = dataclasses.replace(preset("llama_debug"), vocab_size=64).completed()


def trained_for(steps, l2=0.0):
    """The state after some steps, and the one before."""
    optimizer = OptimizerConfig(name="sgd", learning_rate=0.1, momentum=0.0, weight_decay=0.0,
                                max_grad_norm=0.0, schedule="constant")
    setup = make_setup(MODEL, make_compute(), optimizer, 20, l2)
    before = init_state(setup, 1)
    kept = jax.device_get(before.params)
    state, step = before, jit_train_step(setup, LossOptions(), 1, 0)
    for index in range(steps):
        state, _ = step(state, batch(index))
    return jax.device_get(state), kept


@pytest.mark.thorough
def test_l2_to_base_is_the_gradient_of_the_penalty():
    """θ' = θ - η(g + λ(θ - θ₀)): the first step is plain, the second is pulled back."""
    (plain, base), (pulled, _) = trained_for(2), trained_for(2, 0.5)
    once, _ = trained_for(1)
    expected = jax.tree.map(
        lambda two, one, zero: two - 0.1 * 0.5 * (one - zero), plain.params, once.params, base
    )
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7),
        pulled.params, expected,
    )
    jax.tree.map(np.testing.assert_array_equal, pulled.reference, base)


def test_the_reference_is_in_no_checkpoint():
    state, _ = trained_for(1, 0.5)
    assert set(state.saved()) == {"step", "finite", "params", "opt_state"}


@pytest.mark.parametrize("per_token", [False, True])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_class_losses_equal_torch(per_token, smoothing):
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(4, 6, 5) if per_token else (4, 5)).astype(np.float32)
    targets = rng.integers(0, 5, (4, 6))
    weights = (rng.random((4, 6)) < 0.7).astype(np.float32)
    weights[:, 0] = 1
    if not per_token:
        targets, weights = targets[:, 0], weights[:, 0]
    options = LossOptions(label_smoothing=smoothing)
    sums = class_cross_entropy(*map(jnp.asarray, (scores, targets, weights)), options)
    theirs = torch.nn.functional.cross_entropy(
        torch.tensor(scores).reshape(-1, 5), torch.tensor(targets).reshape(-1),
        label_smoothing=smoothing, reduction="none",
    ).numpy()
    np.testing.assert_allclose(sums.loss, (theirs * weights.reshape(-1)).sum(), rtol=1e-5)
    assert sums.weight == weights.sum()
    right = (scores.argmax(-1) == targets) * weights
    assert sums.correct == right.sum()


def record(step, split, loss):
    return {"step": step, "split": split, "loss": loss}


def test_the_guard_compares_with_step_0_and_knows_the_best():
    guard = Guard(GuardConfig(("general",), tolerance=0.1, action="restore"), [])
    validation = {0: 3.0, 5: 2.5, 10: 2.0, 15: 1.5}
    general = {0: 2.0, 5: 2.05, 10: 2.09, 15: 2.3}
    found = {
        step: guard.take(step, [
            record(step, "validation", validation[step]),
            record(step, "forgetting/general", general[step]),
        ]) for step in validation
    }
    assert found[0] == found[5] == found[10] == []
    assert found[15] == [("general", pytest.approx(0.3))]
    assert guard.restores and not guard.stops and guard.best_step([5, 10, 15]) == 10
    assert guard.best_step([5, 15]) == 5


def test_a_guard_goes_on_from_the_records_of_its_run():
    before = [record(0, "forgetting/general", 2.0), record(5, "forgetting/general", 2.5),
              record(5, "validation", 1.0)]
    guard = Guard(GuardConfig(("general",), tolerance=0.1, action="stop"), before)
    assert guard.stops and guard.best_step([5]) is None
    assert guard.knows("forgetting/general") and not guard.knows("forgetting/other")


def test_a_step_that_was_restored_counts_as_it_is_now():
    general, validation = "forgetting/general", "validation"
    before = [record(0, general, 2.0), record(5, validation, 1.5), record(5, general, 2.0),
              record(9, validation, 1.0), record(9, general, 3.0),
              record(9, validation, 1.6), record(9, general, 2.0)]
    guard = Guard(GuardConfig(("general",), tolerance=0.1, action="restore"), before)
    assert not guard.restores and guard.best_step([5, 9]) == 5


def test_what_was_not_finite_is_over_any_tolerance():
    guard = Guard(GuardConfig(("g",)), [record(0, "forgetting/g", 2.0)])
    assert guard.take(1, [record(1, "forgetting/g", None)]) == [("g", float("inf"))]


def test_rows_are_base_last_and_difference():
    records = [
        record(0, "validation", 4.0), record(0, "forgetting/g", 2.0), record(0, "train", 5.0),
        record(5, "validation", 3.0), record(5, "forgetting/g", 2.5), record(9, "validation", 2.0),
        record(9, "train", 1.0),
    ]
    assert list(rows(records)) == [("validation", 4.0, 2.0, -2.0), ("g", 2.0, 2.5, 0.5)]
