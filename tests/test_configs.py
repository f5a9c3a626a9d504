"""Every recipe is exactly what its golden file says, and every field is read by something.

A field that nothing reads is a promise that the program does not keep; it is found by looking for
its name as an attribute anywhere outside the class that declares it.
"""

import ast
import dataclasses
import importlib.util
import typing
from pathlib import Path

import pytest

from jaxllm.core.axes import MESH_AXES
from jaxllm.core.config import MeshConfig, difference
from jaxllm.core.errors import UserError
from jaxllm.data.prepare import config as prepare
from jaxllm.train import config as train

ROOT = Path(__file__).resolve().parent.parent
RECIPES = sorted(
    file.relative_to(ROOT / "configs").with_suffix("").as_posix()
    for file in (ROOT / "configs").rglob("*.py")
)


def sections(cls):
    """`cls` and every section below it."""
    yield cls
    for hint in typing.get_type_hints(cls).values():
        for inner in (hint, *typing.get_args(hint)):
            if dataclasses.is_dataclass(inner):
                yield from sections(inner)


FIELDS = sorted({
    (cls.__name__, field.name)
    for root in (train.Config, prepare.PrepareConfig)
    for cls in sections(root) if cls is not MeshConfig  # see test_every_mesh_axis_is_a_field
    for field in dataclasses.fields(cls)
    if field.name not in prepare.MODULES  # sections that are read by the names in `stages`
})


@pytest.fixture(scope="module")
def attributes():
    """Names read as attributes anywhere in the package."""
    return {
        node.attr
        for file in (ROOT / "jaxllm").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text()))
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load)
    }


def test_every_field_is_read(attributes):
    unread = [f"{cls}.{name}" for cls, name in FIELDS if name not in attributes]
    assert unread == []


def test_every_mesh_axis_is_a_field():
    """make_mesh reads the axes by name; the others are the pipeline's schedule."""
    fields = {field.name for field in dataclasses.fields(MeshConfig)}
    assert fields == {*MESH_AXES, "microbatches", "repeats"}


def load(recipe):
    file = ROOT / "configs" / f"{recipe}.py"
    spec = importlib.util.spec_from_file_location(recipe.replace("/", "_"), file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.get_config


def variants(recipe):
    """"" and the names that the recipe gives to check_variant, which may be those of SLICES."""
    tree = ast.parse((ROOT / "configs" / f"{recipe}.py").read_text())
    calls = [
        node for node in ast.walk(tree)
        if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "check_variant"
    ]
    assert len(calls) == 1, f"{recipe} must call check_variant once"
    names = [""]
    for node in calls[0].args[1].elts:
        slices = isinstance(node, ast.Starred)
        names += load(recipe).__globals__["SLICES"] if slices else [node.value]
    return names


def package(recipe):
    return prepare if recipe.startswith("data/") else train


CASES = [(recipe, variant) for recipe in RECIPES for variant in variants(recipe)]


@pytest.mark.parametrize(("recipe", "variant"), CASES)
def test_recipe_resolves_and_is_golden(recipe, variant, golden):
    config = load(recipe)(variant)
    if recipe.startswith("data/") and not config.input.paths:
        config.input.paths = ("corpus.txt",)  # the one thing that the user must name
    if variant == "decontaminate":
        config.decontaminate.sets = ("evals.jsonl",)
    package(recipe).resolve_config(config)
    name = recipe.replace("/", "_") + (f".{variant}" if variant else "")
    golden(f"configs/{name}", difference(config, package(recipe).default_config()))


@pytest.mark.parametrize("recipe", RECIPES)
def test_recipe_has_a_docstring_and_refuses_an_unknown_variant(recipe):
    assert ast.get_docstring(ast.parse((ROOT / "configs" / f"{recipe}.py").read_text()))
    with pytest.raises(UserError, match=r"no variant 'debgu'.*'debug'"):
        load(recipe)("debgu")
    assert "debug" in variants(recipe)


def test_no_golden_file_is_left_over():
    known = {
        recipe.replace("/", "_") + (f".{variant}" if variant else "") for recipe, variant in CASES
    }
    found = {file.stem for file in (ROOT / "tests" / "golden" / "configs").glob("*.json")}
    assert found == known


@pytest.mark.parametrize("package", [train, prepare])
def test_defaults_differ_from_themselves_in_nothing(package):
    assert difference(package.default_config(), package.default_config()) == {}


@pytest.mark.parametrize(("change", "message"), [
    ({"train.steps": 0}, r"train\.steps=0 must be at least 1"),
    ({"train.eval_every": -1}, r"train\.eval_every=-1 must not be negative"),
    ({"checkpoint.keep": 0}, r"checkpoint\.keep=0"),
    ({"eval.batches": -1}, r"eval\.batches=-1 must not be negative"),
    ({"model.preset": "gpt3"}, r"model\.preset='gpt3' is unknown.*'gpt2'"),
    ({"model.preset": "gpt2", "data.sequence_length": 2048}, r"longer than the model's 1024"),
    ({"model.attention.heads": 3, "model.attention.kv_heads": 2}, r"heads=3 must be a multiple"),
    ({"model.width": 100}, r"model\.width=100 is no multiple of .*heads=8: use a width of 96"),
    ({"model.attention.head_dim": 9}, r"even number of dimensions, not 9.*head_dim=9"),
    ({"model.architecture": "encoder"}, r"objective='causal' trains .*'masked'"),
    ({"data.objective": "masekd"}, r"data\.objective='masekd' is unknown.*'masked'"),
    ({"data.objective": "prefix_lm"}, r"set model\.bidirectional_prefix=True"),
    ({"model.head.kind": "reward"}, r"head\.kind='reward' cannot learn"),
    ({"model.attention.clip": -5.0}, r"attention\.clip=-5\.0 must be a number at least 0"),
    ({"model.attention.window": -5}, r"attention\.window=-5 must be a number at least 0"),
    ({"model.mlp.width": 0}, r"mlp\.width=0 must be a number at least 1"),
    ({"model.positions.rotary_fraction": 1.5}, r"rotary_fraction=1\.5 must be a number above 0"),
    ({"model.positions.scaling_factor": 0.0}, r"scaling_factor=0\.0 must be a number above 0"),
    ({"model.attention.head_dim": -16}, r"head_dim=-16 must be a number at least 0"),
    ({"model.encoder.layers": 2}, r"model\.encoder has no effect"),
    ({"model.norm.placement": "sandwhich"}, r"placement='sandwhich' is unknown.*'sandwich'"),
    ({"model.attention.pattern": ("locale",)}, r"pattern='locale' is unknown.*'local'"),
    ({"model.family": "lama"}, r"model\.family='lama' is unknown.*'llama'"),
    ({"model.width": 0}, r"model\.width=0 must be at least 1"),
    ({"model.width": -8}, r"model\.width=-8 must be at least 1"),
    ({"model.layers": 0}, r"model\.layers=0 must be at least 1"),
    ({"model.positions.kind": "rop"}, r"model\.positions\.kind='rop' .*'rope'"),
    ({"optimizer.learning_rate": -1.0}, r"optimizer\.learning_rate=-1\.0 .* at least 0\."),
    ({"optimizer.learning_rate": float("nan")}, r"optimizer\.learning_rate=nan must"),
    ({"optimizer.b2": 1.0}, r"optimizer\.b2=1\.0 .* at least 0 and below 1\."),
    ({"optimizer.eps": 0.0}, r"optimizer\.eps=0\.0 .* above 0\."),
    ({"optimizer.weight_decay": float("inf")}, r"optimizer\.weight_decay=inf must"),
    ({"optimizer.final_fraction": 1.5}, r"optimizer\.final_fraction=1\.5 .* at most 1\."),
    ({"optimizer.decay_fraction": 0.0}, r"optimizer\.decay_fraction=0\.0 must"),
    ({"train.label_smoothing": 1.0}, r"train\.label_smoothing=1\.0 must"),
    ({"train.z_loss": -0.1}, r"train\.z_loss=-0\.1 must"),
    ({"eval.sample_tokens": -3}, r"eval\.sample_tokens=-3 must be at least 1"),
    ({"eval.sample_tokens": 5}, r"eval\.sample_tokens=5 has no effect: eval\.prompts is empty"),
    ({"model.dropout": 1.0}, r"model\.dropout=1\.0 .* below 1\."),
    ({"model.attention.dropout": -0.1}, r"model\.attention\.dropout=-0\.1 must"),
    ({"model.norm.eps": 0.0}, r"model\.norm\.eps=0\.0 .* above 0\."),
    ({"model.init.stddev": -1.0}, r"model\.init\.stddev=-1\.0 must"),
    ({"model.positions.theta": 0.0}, r"model\.positions\.theta=0\.0 must"),
])
def test_contradictions_are_refused(change, message):
    config = train.default_config()
    config.update_from_flattened_dict(change)
    with pytest.raises(UserError, match=message):
        train.resolve_config(config)


def test_a_source_of_weight_0_is_left_out():
    config = train.default_config()
    config.data.mixture = {
        "a": {"path": "x", "weight": 0.0}, "b": {"path": "y", "weight": 2.0},
    }
    assert list(train.resolve_config(config).data.mixture) == ["b"]
