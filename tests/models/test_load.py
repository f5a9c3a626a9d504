"""`--model=`: run directories and checkpoints become the model that was saved; errors say what is.

The run directory is written with core's own writers; parameters are compared bitwise.
"""

import json

import jax
import numpy as np
import pytest

from jaxllm.core.checkpoint import Checkpoints
from jaxllm.core.config import to_dict
from jaxllm.core.errors import UserError
from jaxllm.core.rundir import RunDirectory
from jaxllm.models.load import find_model
from jaxllm.models.tower import Inputs
from jaxllm.nn.compute import make_compute


def write_config(root, model):
    run = RunDirectory(str(root))
    run.create()
    run.config.write_text(json.dumps({"config": {"model": to_dict(model)}}))
    return run


@pytest.fixture(scope="module")
def params(tiny, compute, build):
    return build(tiny["llama"], compute)[1]


@pytest.fixture(scope="module")
def runs(tmp_path_factory, tiny, params):
    """A folder with the runs `first` (steps 2, 4, 9) and `empty` (no checkpoint)."""
    root = tmp_path_factory.mktemp("runs")
    run = write_config(root / "first", tiny["llama"])
    write_config(root / "empty", tiny["llama"])
    checkpoints = Checkpoints(run.checkpoints, keep=5)
    for step in (2, 4, 9):
        state = {"params": jax.tree.map(lambda x: x + step, params), "opt_state": params}  # noqa: B023
        checkpoints.save(step, state, {}, None)
    checkpoints.close()
    return root


def load(name, compute):
    return find_model(str(name)).load(compute, pytest.fail)


@pytest.mark.parametrize(("name", "step"), [
    ("first", 9), ("first@2", 2), ("first/checkpoints/4", 4),
])
def test_loads(runs, params, compute, tiny, name, step):
    model = load(runs / name, compute)
    assert (model.step, model.config) == (step, tiny["llama"])
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b + step), model.params, params)
    hidden = model.bind(model.params).hidden(Inputs(np.array([[1, 2]]), np.array([[0, 1]])))
    assert hidden.shape == (1, 2, 32)


def test_loads_into_shards(runs, params, sharding_of):
    model = load(runs / "first@4", make_compute(sharding_of(fsdp=4, tensor=2)))
    kernel = model.params["head"]["output"]["kernel"]
    assert {shard.data.shape for shard in kernel.addressable_shards} == {(8, 24)}
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b + 4), model.params, params)


@pytest.mark.parametrize(("name", "message"), [
    ("frist", r"there is no .*frist\. Runs in .*: empty, first\."),
    ("first@x", r"the step after '@' must be a number"),
    ("first@5", r"no checkpoint of step 5\. Steps there: 2, 4, 9\.$"),
    ("empty", r"empty has no checkpoint yet"),
    ("", r"is no run directory"),
    ("first/checkpoints", r"is no run directory: it has no config\.json"),
    ("absent/run", r"there is no .*absent/run\.$"),
])
def test_refuses(runs, compute, name, message):
    with pytest.raises(UserError, match=message):
        load(f"{runs}/{name}", compute)


def test_a_path_may_hold_an_at_sign(runs, tmp_path, compute):
    import shutil

    for name in ("me@host/run", "run@9"):
        copy = shutil.copytree(runs / "first", tmp_path / name)
        assert load(copy, compute).step == 9
        assert load(f"{copy}@2", compute).step == 2
        with pytest.raises(UserError, match=r"the step after '@' must be a number"):
            load(f"{copy}@abc", compute)
    (tmp_path / "me").mkdir()  # what stands before the '@' exists too
    assert load(tmp_path / "me@host/run", compute).step == 9


@pytest.mark.parametrize("content", ["{", "[]", '{"config": {}}', '{"config": {"model": 3}}'])
def test_a_damaged_config_is_named(tmp_path, compute, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(UserError, match=r"config\.json is damaged"):
        load(tmp_path, compute)


@pytest.mark.filterwarnings("ignore")
def test_damage_of_the_step_asked_for_is_an_error_of_the_newest_a_warning(
    runs, tmp_path, compute, params
):
    import shutil

    run = shutil.copytree(runs / "first", tmp_path / "first")
    (run / "checkpoints" / "9" / "meta" / "metadata").write_text("{")
    with pytest.raises(UserError, match=r"step 9 is damaged.*Choose another step"):
        load(f"{run}@9", compute)
    warnings = []
    model = find_model(str(run)).load(compute, warnings.append)
    assert model.step == 4 and len(warnings) == 1
    assert (run / "checkpoints" / "9").exists()
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b + 4), model.params, params)
