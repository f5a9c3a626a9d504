"""Against peft: ten steps of training, its folders read, ours loaded by it, merged models."""

import json
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxllm.core.display import make_display
from jaxllm.core.errors import UserError
from jaxllm.models.adapters.adapter import Adapter, linears_of
from jaxllm.models.adapters.config import AdapterConfig
from jaxllm.models.adapters.peft import PeftFolder, is_peft_folder
from jaxllm.models.adapters.peft_export import write_adapter
from jaxllm.models.adapters.start import start_params
from jaxllm.models.convert import convert
from jaxllm.models.hf.importer import flatten_arrays, nested
from jaxllm.models.load import Model, find_model
from jaxllm.models.tower import Inputs
from jaxllm.models.transformer import Transformer
from jaxllm.nn.module import abstract, bind
from jaxllm.train.state import merged, parted

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

STEPS, RATE = 10, 3e-3
IDS = np.random.default_rng(0).integers(0, 64, (STEPS, 2, 12)).astype(np.int32)
KINDS = {
    "lora": {"r": 4, "lora_alpha": 6},
    "rslora": {"r": 4, "lora_alpha": 6, "use_rslora": True},
    "dora": {"r": 4, "lora_alpha": 6, "use_dora": True},
    "patterns": {"r": 4, "lora_alpha": 6, "rank_pattern": {"mlp.down_proj": 2},
                 "alpha_pattern": {"v_proj": 3}},
}
LLAMA = ["q_proj", "v_proj", "o_proj", "down_proj"]


def theirs(folder, targets, **options):
    """A peft model with adapters that are not zero."""
    base = transformers.AutoModelForCausalLM.from_pretrained(str(folder), dtype=torch.float32)
    torch.manual_seed(1)
    model = peft.get_peft_model(base, peft.LoraConfig(target_modules=targets, **options))
    with torch.no_grad():
        for name, param in model.named_parameters():
            if "lora_B" in name:
                param.normal_(std=0.05)
    return model


def their_logits(model, ids=IDS[0]):
    with torch.no_grad():
        return model.eval()(torch.tensor(ids.astype(np.int64))).logits.numpy()


def our_logits(model, ids=IDS[0]):
    inputs = Inputs(ids, np.broadcast_to(np.arange(ids.shape[1], dtype=np.int32), ids.shape))

    @jax.jit
    def run(params):
        bound = model.bind(params)
        return bound.logits(bound.hidden(inputs))

    return np.asarray(run(model.params))


def our_loss(structure, params, ids, key=None):
    model = bind(structure, params)
    positions = jnp.broadcast_to(jnp.arange(ids.shape[1] - 1, dtype=jnp.int32), ids[:, 1:].shape)
    logits = model.logits(model.hidden(Inputs(ids[:, :-1], positions), key))
    return optax.softmax_cross_entropy_with_integer_labels(logits, ids[:, 1:]).mean()


@pytest.mark.parametrize("kind", [
    "lora", pytest.param("dora", marks=pytest.mark.thorough),
    *(pytest.param(kind, marks=pytest.mark.slow) for kind in ("rslora", "patterns")),
])
def test_ten_steps_move_the_adapters_as_in_peft(bases, compute, tmp_path, kind):
    _, folder = bases("llama")
    model = theirs(folder.folder, LLAMA, **KINDS[kind])
    model.save_pretrained(tmp_path / "before")
    optimizer = torch.optim.AdamW(
        [p for p in model.parameters() if p.requires_grad], RATE, weight_decay=0.0
    )
    model.train()
    for ids in IDS:
        ids = torch.tensor(ids.astype(np.int64))
        model(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    model.save_pretrained(tmp_path / "after")

    before = PeftFolder(tmp_path / "before").trained(folder.config, compute)
    after = PeftFolder(tmp_path / "after").trained(folder.config, compute)
    structure, specs = abstract(partial(Transformer, config=before.config, compute=compute))
    saved = find_model(f"{folder.name}+{tmp_path / 'before'}")
    params = start_params(saved, structure, specs, jax.random.key(0), pytest.fail)
    trained = jax.tree.map(lambda spec: spec.trained, specs)
    ours, frozen = parted(params, trained)
    assert set(flatten_arrays(ours)) == set(before.leaves)
    transformation = optax.adamw(RATE, weight_decay=0.0)

    @jax.jit
    def step(ours, state, ids):
        loss = lambda p: our_loss(structure, merged(p, frozen), ids)  # noqa: E731
        updates, state = transformation.update(jax.grad(loss)(ours), state, ours)
        return optax.apply_updates(ours, updates), state

    state = transformation.init(ours)
    for ids in IDS:
        ours, state = step(ours, state, ids)
    moved = 0.0
    for name, value in flatten_arrays(ours).items():
        np.testing.assert_allclose(value, after.leaves[name], atol=1e-4, err_msg=name)
        moved = max(moved, np.abs(value - before.leaves[name]).max())
    assert moved > 1e-2


@pytest.mark.parametrize("kind", ["lora", "dora"])
def test_dropout_meets_what_it_meets_in_peft(bases, compute, tmp_path, monkeypatch, kind):
    """The loss and its gradients, with every third place dropped in both instead of random ones."""
    def kept(x, rate):
        return (np.arange(x.shape[-1]) % 3 != 0) / (1 - rate)

    class Dropped(torch.nn.Module):
        def forward(self, x):
            return x * torch.tensor(kept(x, 0.25), dtype=x.dtype)

    monkeypatch.setattr(
        "jaxllm.nn.layers.dropout",
        lambda x, rate, key: x * kept(x, rate).astype(x.dtype) if rate and key is not None else x,
    )
    _, folder = bases("llama")
    targets = ["q_proj", "v_proj", "down_proj"]  # inputs of one dimension with us too
    model = theirs(folder.folder, targets, **KINDS[kind], lora_dropout=0.25)
    for module in model.modules():
        if hasattr(module, "lora_dropout"):
            module.lora_dropout["default"] = Dropped()
    model.save_pretrained(tmp_path / "adapter")
    ids = torch.tensor(IDS[0].astype(np.int64))
    loss = model.train()(ids, labels=ids).loss
    loss.backward()
    with torch.no_grad():  # a gradient in the place of each parameter, to be read like one
        for param in model.parameters():
            if param.requires_grad:
                param.copy_(param.grad)
    model.save_pretrained(tmp_path / "gradients")

    adapter = PeftFolder(tmp_path / "adapter").trained(folder.config, compute)
    expected = PeftFolder(tmp_path / "gradients").trained(folder.config, compute)
    structure, specs = abstract(partial(Transformer, config=adapter.config, compute=compute))
    saved = find_model(f"{folder.name}+{tmp_path / 'adapter'}")
    params = start_params(saved, structure, specs, jax.random.key(0), pytest.fail)
    ours, frozen = parted(params, jax.tree.map(lambda spec: spec.trained, specs))
    value, grads = jax.jit(jax.value_and_grad(lambda p: our_loss(
        structure, merged(p, frozen), IDS[0], jax.random.key(1)
    )))(ours)
    assert float(value) == pytest.approx(loss.item(), rel=1e-5)
    for name, grad in flatten_arrays(grads).items():
        np.testing.assert_allclose(grad, expected.leaves[name], atol=1e-5, err_msg=name)


FAMILIES = {
    "llama": LLAMA, "gpt2": ["c_attn", "mlp.c_proj"], "bloom": ["query_key_value", "dense"],
    "phi3": ["qkv_proj", "gate_up_proj"], "gemma3": ["q_proj", "down_proj"],
}


@pytest.mark.parametrize(("family", "kind"), [
    ("llama", "lora"), ("gpt2", "dora"),
    *(pytest.param(family, kind, marks=pytest.mark.slow) for family in FAMILIES
      for kind in ("lora", "dora") if (family, kind) not in (("llama", "lora"), ("gpt2", "dora"))),
])
def test_a_folder_of_peft_is_read(bases, compute, tmp_path, family, kind):
    _, folder = bases(family)
    model = theirs(folder.folder, FAMILIES[family], **KINDS[kind])
    model.save_pretrained(tmp_path / "adapter")
    read = find_model(f"{folder.name}+{tmp_path / 'adapter'}").load(compute, pytest.fail)
    assert read.config.adapter == AdapterConfig()  # merged
    np.testing.assert_allclose(our_logits(read), their_logits(model), atol=1e-4, rtol=1e-4)


def draw(config, compute):
    """The parameters of an adapter, none of them zero."""
    specs = linears_of(config, compute).specs
    return {
        name: (jnp.abs if name.endswith("magnitude") else jnp.asarray)(
            jax.random.normal(jax.random.key(i), spec.shape) / 8
        )
        for i, (name, spec) in enumerate(specs.items()) if spec.trained
    }


EXPORTS = [
    ("llama", {"r": 4, "target_modules": ("all-linear",), "use_rslora": True}),
    pytest.param(
        "llama", {"r": 3, "init_lora_weights": "pissa", "rank_pattern": ("v_proj=2",)},
        marks=pytest.mark.thorough,
    ),
    pytest.param(
        "gpt2", {"r": 4, "use_dora": True, "target_modules": ("c_attn",)},
        marks=pytest.mark.thorough,
    ),
]
MORE_EXPORTS = [
    ("llama", {"r": 4, "use_dora": True, "target_modules": ("attention.output", "down_proj")}),
    ("llama", {"r": 4, "lora_alpha": 5.0, "modules_to_save": ("lm_head", "input_layernorm")}),
    ("gpt2", {"r": 4, "target_modules": ("all-linear",), "rank_pattern": ("attention.key=2",)}),
    ("gpt2", {"r": 4, "bias": "all", "target_modules": ("attention.query", "mlp.up")}),
    ("gpt2", {"r": 4, "bias": "lora_only", "target_modules": ("mlp.c_proj",)}),
    ("bloom", {"r": 4}), ("phi3", {"r": 4, "target_modules": ("mlp.up", "qkv_proj")}),
    ("gemma3", {"r": 4, "use_dora": True}),
]


@pytest.mark.parametrize(("family", "lora"), [
    *EXPORTS, *(pytest.param(*case, marks=pytest.mark.slow) for case in MORE_EXPORTS),
], ids=lambda x: str(x)[:60])
def test_an_adapter_run_becomes_a_folder_that_peft_loads(
    bases, model_of, write_run, compute, tmp_path, family, lora
):
    base, folder = bases(family)
    config = model_of(family, **lora)
    leaves = draw(config, compute)
    write_run(
        tmp_path / "run", config, nested(leaves), init_from=str(folder.name),
        meta={"base": folder.fingerprint},
    )
    with make_display() as display:
        parity = convert(str(tmp_path / "run"), str(tmp_path / "peft"), display)
        convert(str(tmp_path / "run"), str(tmp_path / "merged"), display, merge=True)
    assert is_peft_folder(tmp_path / "peft") and parity["reimported"] < 1e-4
    ours = our_logits(find_model(str(tmp_path / "run")).load(compute, pytest.fail))
    theirs = transformers.AutoModelForCausalLM.from_pretrained(str(folder.folder))
    loaded = peft.PeftModel.from_pretrained(theirs, str(tmp_path / "peft"))
    np.testing.assert_allclose(their_logits(loaded), ours, atol=1e-4, rtol=1e-4)
    whole = transformers.AutoModelForCausalLM.from_pretrained(str(tmp_path / "merged"))
    np.testing.assert_allclose(their_logits(whole), ours, atol=1e-4, rtol=1e-4)
    plain = our_logits(base.load(compute, pytest.fail))
    assert np.abs(plain - ours).max() > 1e-2  # the adapter says something


def test_pissa_starts_as_in_peft_and_keeps_the_function(bases, model_of, compute, tmp_path):
    base, folder = bases("llama")
    lora = {"r": 4, "lora_alpha": 6.0, "init_lora_weights": "pissa"}
    config = model_of("llama", **lora)
    structure, specs = abstract(partial(Transformer, config=config, compute=compute))
    params = start_params(base, structure, specs, jax.random.key(0), pytest.fail)
    model = find_model(str(folder.folder)).load(compute, pytest.fail)
    adapted = Model(config, compute, structure, params, 0)
    np.testing.assert_allclose(our_logits(adapted), our_logits(model), atol=1e-4)
    hf = transformers.AutoModelForCausalLM.from_pretrained(str(folder.folder))
    theirs = peft.get_peft_model(hf, peft.LoraConfig(target_modules=["q_proj", "v_proj"], **lora))
    state = theirs.state_dict()
    for layer in range(2):
        ours = params["decoder"]["layers"]["layer"]["attention"]["query"]
        prefix = f"base_model.model.model.layers.{layer}.self_attn.q_proj"
        a, b = (state[f"{prefix}.lora_{n}.default.weight"].numpy() for n in "AB")
        mine = [np.asarray(ours["lora"][n]["kernel"][layer]) for n in "ab"]
        np.testing.assert_allclose(
            mine[0] @ mine[1].reshape(4, -1), (b @ a).T, atol=1e-5
        )
        rest = state[f"{prefix}.base_layer.weight"].numpy().T
        np.testing.assert_allclose(
            np.asarray(ours["kernel"][layer]).reshape(rest.shape), rest, atol=1e-5
        )


@pytest.mark.parametrize(("change", "message"), [
    ({"peft_type": "IA3"}, r"peft_type='IA3' is not read"),
    ({"init_lora_weights": "pissa"}, r"init_lora_weights='pissa' changed the base too"),
    ({"layer_replication": [[0, 2]]}, r"layer_replication=.* is not read"),
    ({"r": 5}, r"the factors of .* make them \[5, 64\]"),
])
def test_folders_that_mean_something_else_are_refused(bases, compute, tmp_path, change, message):
    _, folder = bases("llama")
    theirs(folder.folder, ["q_proj"], r=4).save_pretrained(tmp_path)
    content = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(UserError, match=message):
        find_model(f"{folder.name}+{tmp_path}").load(compute, pytest.fail)


@pytest.mark.thorough
def test_another_base_and_a_lone_adapter_are_refused(bases, model_of, compute, tmp_path):
    _, folder = bases("llama")
    config = model_of("llama", r=4)
    adapter = Adapter(config, compute, draw(config, compute))
    write_adapter(tmp_path / "peft", adapter, str(folder.name), "0" * 64)
    with pytest.raises(UserError, match="is an adapter of another base than"):
        find_model(f"{folder.name}+{tmp_path / 'peft'}").load(compute, pytest.fail)
    with pytest.raises(UserError, match=r"is an adapter of PEFT, .* BASE\+"):
        find_model(str(tmp_path / "peft"))
    _, other = bases("gemma3")
    theirs(folder.folder, ["q_proj"], r=4).save_pretrained(tmp_path / "theirs")
    with pytest.raises(UserError, match=r"It is an adapter of another base|the base has no linear"):
        find_model(f"{other.name}+{tmp_path / 'theirs'}").load(compute, pytest.fail)
