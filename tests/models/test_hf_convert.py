"""`convert` for every family, both ways: bitwise, strict in transformers, the same outputs.

Families are discovered by their debug presets. The folders are written by transformers where it is
installed, so that names and shapes are its own.
"""

import dataclasses
import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file

from jaxllm.core.checkpoint import Checkpoints
from jaxllm.core.config import to_dict
from jaxllm.core.display import make_display
from jaxllm.core.errors import UserError
from jaxllm.core.rundir import RunDirectory
from jaxllm.data.config import DataConfig
from jaxllm.data.tokenizers.byte import ByteTokenizer
from jaxllm.models.config import presets
from jaxllm.models.convert import convert
from jaxllm.models.hf.family import family
from jaxllm.models.load import find_model
from jaxllm.nn.config import HeadConfig
from tests.parity.cases import cases

ROWS = 262  # of the embedding; the byte tokenizer has 259 ids
DEBUG = {name: config for name, config in presets().items() if name.endswith("_debug")}
EVERY_HEAD = ("llama_debug", "bert_debug", "bart_debug")  # a family of each architecture


def configs():
    """Every family with its usual head, and some with each that transformers has for them."""
    for name, config in DEBUG.items():
        owner, kinds = family(config.family), set()
        for theirs, head in owner.architectures.items():
            if head.kind in kinds or (kinds and name not in EVERY_HEAD):
                continue  # an older name of the same class, or the parity cases' business
            kinds.add(head.kind)
            labels = 3 if head.kind.endswith("classification") else 0
            head = dataclasses.replace(head, labels=labels)
            made = dataclasses.replace(config, vocab_size=ROWS, head=head)
            quick = {"llama_debug": [], "t5_debug": [pytest.mark.thorough]}
            marks = [pytest.mark.slow] if len(kinds) > 1 else quick.get(name, [pytest.mark.slow])
            yield pytest.param(made.completed(), id=f"{name}-{theirs}", marks=marks)


def write_run(root, config, build, compute, seed=0, tokenizer=True, drawn=True):
    run = RunDirectory(root)
    run.create()
    data = to_dict(DataConfig(sequence_length=16))
    run.config.write_text(json.dumps({"config": {"model": to_dict(config), "data": data}}))
    params = build(config, compute, seed)[1]
    if drawn:
        params = jax.tree.map(
            lambda x: jax.random.normal(jax.random.key(x.size), x.shape, x.dtype) / 5, params
        )
    checkpoints = Checkpoints(run.checkpoints, keep=5)
    checkpoints.save(3, {"params": params}, {}, None)
    checkpoints.close()
    if tokenizer:
        ByteTokenizer().save(run.tokenizer)
    return params


def run_convert(source, output, **options):
    with make_display() as display:
        return convert(str(source), str(output), display, **options)


def same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def params_of(model, compute):
    return find_model(str(model)).load(compute, pytest.fail).params


@pytest.mark.parametrize("config", list(configs()))
def test_a_run_becomes_a_folder_that_transformers_loads_and_back(
    config, build, compute, tmp_path
):
    params = write_run(tmp_path / "run", config, build, compute)
    parity = run_convert(tmp_path / "run", tmp_path / "hf")
    assert json.loads((tmp_path / "hf/parity.json").read_text()) == parity
    assert parity["reimported"] == 0 and parity["tokens"] in (32, 64)
    if parity["transformers"] is not None:  # strict: it raises for a key too many or too few
        assert parity["transformers"] < 1e-4 * max(1, parity["largest_logit"])
    same(params, params_of(tmp_path / "hf", compute))
    assert run_convert(tmp_path / "hf", tmp_path / "again") is None
    same(params, params_of(tmp_path / "again", compute))
    run_convert(tmp_path / "again", tmp_path / "hf2", check=False)
    files = sorted(p.name for p in (tmp_path / "hf").iterdir() if p.name != "parity.json")
    assert files == sorted(p.name for p in (tmp_path / "hf2").iterdir())
    for name in files:
        assert (tmp_path / "hf" / name).read_bytes() == (tmp_path / "hf2" / name).read_bytes()


@pytest.mark.parametrize(("changes", "message"), [
    ({"head": HeadConfig("masked_lm", bias=True)}, "no .llama. model with .*masked_lm.; its heads"),
    ({"architecture": "encoder_decoder"}, r"cannot say model\.architecture='encoder_decoder'"),
    ({"architecture": "encoder"}, r"cannot say model\.architecture='encoder'"),
])
def test_a_model_that_no_folder_can_say_is_refused(changes, message, build, compute, tmp_path):
    config = dataclasses.replace(DEBUG["llama_debug"], vocab_size=ROWS, **changes).completed()
    write_run(tmp_path / "run", config, build, compute)
    with pytest.raises(UserError, match=message):
        run_convert(tmp_path / "run", tmp_path / "hf")
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_a_run_with_a_parameter_that_is_not_finite_is_refused(build, compute, tmp_path):
    def broken(config, compute, seed):
        structure, params = build(config, compute, seed)
        return structure, {**params, "embedding": {"table": params["embedding"]["table"] * np.nan}}

    config = dataclasses.replace(DEBUG["llama_debug"], vocab_size=ROWS).completed()
    write_run(tmp_path / "run", config, broken, compute, drawn=False)
    with pytest.raises(UserError, match=r"embedding\.table .*model\.embed_tokens\.weight.*finite"):
        run_convert(tmp_path / "run", tmp_path / "hf")


def every_family():
    """The parity cases; a family's first is quick."""
    seen = set()
    for name in cases():
        family = name.partition(".")[0]
        yield pytest.param(name, marks=[pytest.mark.slow] if family in seen else [])
        seen.add(family)


@pytest.mark.parametrize("name", list(every_family()))
def test_a_folder_of_transformers_comes_back_bit_for_bit(name, tmp_path):
    transformers, torch = (pytest.importorskip(n) for n in ("transformers", "torch"))
    case = cases()[name]
    config = getattr(transformers, case.config)(**case.options)
    torch.manual_seed(0)
    model = getattr(transformers, case.model)(config)
    model.save_pretrained(tmp_path / "hf")
    if model.can_generate():
        model.generation_config.save_pretrained(tmp_path / "hf")
    run_convert(tmp_path / "hf", tmp_path / "run")
    run_convert(tmp_path / "run", tmp_path / "again", check=False)
    before, after = (load_file(tmp_path / n / "model.safetensors") for n in ("hf", "again"))
    assert before.keys() == after.keys()
    assert all(before[n].dtype == after[n].dtype for n in before)
    assert all(before[n].tobytes() == after[n].tobytes() for n in before)
    for file in (tmp_path / "hf").glob("*.json"):
        assert file.read_bytes() == (tmp_path / "again" / file.name).read_bytes(), file.name


@pytest.mark.parametrize("kind", ["BertForPreTraining", "T5WithLMHeadModel"])
def test_another_class_comes_back_as_the_one_that_it_was_read_as(kind, tmp_path):
    """A head for next sentences is not read, and an old name is no class any more."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    name = "bert.masked_lm" if kind.startswith("Bert") else "t5.v1.0"
    case = cases()[name]
    config = getattr(transformers, case.config)(**case.options)
    made = kind if kind.startswith("Bert") else case.model
    getattr(transformers, made)(config).save_pretrained(tmp_path / "hf")
    text = (tmp_path / "hf/config.json").read_text().replace(f'"{made}"', f'"{kind}"')
    (tmp_path / "hf/config.json").write_text(text)
    run_convert(tmp_path / "hf", tmp_path / "run")
    assert run_convert(tmp_path / "run", tmp_path / "again")["transformers"] < 1e-4
    written = json.loads((tmp_path / "again/config.json").read_text())
    assert written["architectures"] == [case.model]
