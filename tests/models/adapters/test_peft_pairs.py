"""Against peft: encoder-decoders, and encoders with a head of classes; read, written, equal."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.core.display import make_display
from jaxllm.models.adapters.adapter import linears_of
from jaxllm.models.convert import convert
from jaxllm.models.hf import parity
from jaxllm.models.hf.importer import nested
from jaxllm.models.load import find_model
from jaxllm.nn.config import HeadConfig

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

RNG = np.random.default_rng(0)
IDS = {name: RNG.integers(4, 64, (1, 12)).astype(np.int32) for name in ("encoder", "decoder")}
TARGETS = {"t5": ["q", "v", "wi", "wo"], "bart": ["q_proj", "fc1", "out_proj"]}
CLASSES = HeadConfig("sequence_classification", labels=3, pooling="first", dense=True)


def their_outputs(model, ids):
    given = {"input_ids": torch.tensor(ids["encoder"].astype(np.int64))}
    if "decoder" in ids:
        given["decoder_input_ids"] = torch.tensor(ids["decoder"].astype(np.int64))
    with torch.no_grad():
        return model.eval()(**given).logits.numpy()


def outputs(name, compute, ids=IDS):
    return parity.ours(find_model(str(name)).load(compute, pytest.fail), ids)


def drawn(config, compute):
    """What a run of this configuration trained, none of it zero."""
    specs = linears_of(config, compute).specs
    return {
        name: (jnp.abs if name.endswith("magnitude") else jnp.asarray)(
            jax.random.normal(jax.random.key(i), spec.shape) / 8
        )
        for i, (name, spec) in enumerate(specs.items()) if spec.trained
    }


@pytest.mark.parametrize("family, dora", [
    ("t5", False), pytest.param("t5", True, marks=pytest.mark.slow),
    pytest.param("bart", False, marks=pytest.mark.slow),
    pytest.param("bart", True, marks=pytest.mark.thorough),
])
def test_an_encoder_decoder_of_peft_is_read(bases, compute, tmp_path, family, dora):
    _, folder = bases(family)
    base = transformers.AutoModelForSeq2SeqLM.from_pretrained(str(folder.folder))
    torch.manual_seed(1)
    model = peft.get_peft_model(base, peft.LoraConfig(
        target_modules=TARGETS[family], r=4, lora_alpha=6, use_dora=dora,
    ))
    with torch.no_grad():
        for name, param in model.named_parameters():
            if "lora_B" in name:
                param.normal_(std=0.05)
    model.save_pretrained(tmp_path / "adapter")
    found = outputs(f"{folder.name}+{tmp_path / 'adapter'}", compute)
    np.testing.assert_allclose(found, their_outputs(model, IDS), atol=1e-4, rtol=1e-4)
    assert np.abs(found - outputs(folder.name, compute)).max() > 1e-3


@pytest.mark.parametrize("family, lora", [
    pytest.param("t5", {"r": 4, "target_modules": ("all-linear",)}, marks=pytest.mark.thorough),
    pytest.param("bart", {"r": 4}, marks=pytest.mark.thorough),
    pytest.param("t5", {"r": 4, "use_dora": True}, marks=pytest.mark.slow),
    pytest.param("bart", {"r": 4, "bias": "all", "target_modules": ("all-linear",)},
                 marks=pytest.mark.slow),
])
def test_an_encoder_decoder_becomes_a_folder_that_peft_loads(
    bases, model_of, write_run, compute, tmp_path, family, lora
):
    _, folder = bases(family)
    config = model_of(family, **lora)
    write_run(tmp_path / "run", config, nested(drawn(config, compute)),
              init_from=str(folder.name), meta={"base": folder.fingerprint})
    with make_display() as display:
        found = convert(str(tmp_path / "run"), str(tmp_path / "peft"), display)
    assert found["reimported"] < 1e-4
    base = transformers.AutoModelForSeq2SeqLM.from_pretrained(str(folder.folder))
    loaded = peft.PeftModel.from_pretrained(base, str(tmp_path / "peft"))
    ours = outputs(tmp_path / "run", compute)
    np.testing.assert_allclose(their_outputs(loaded, IDS), ours, atol=1e-4, rtol=1e-4)
    assert np.abs(ours - outputs(folder.name, compute)).max() > 1e-2


@pytest.mark.thorough
@pytest.mark.parametrize("base_has_head", [
    False, True,
])
def test_a_head_of_classes_goes_along(
    bases, model_of, write_run, build, compute, tmp_path, base_has_head
):
    """The base is a masked model, whose head starts anew, or has a head of classes already."""
    if base_has_head:
        params = jax.tree.map(
            lambda x: jax.random.normal(jax.random.key(x.size), x.shape, x.dtype) / 8,
            build(model_of("bert", head=CLASSES), compute)[1],
        )
        write_run(tmp_path / "base", model_of("bert", head=CLASSES), params)
        with make_display() as display:
            convert(str(tmp_path / "base"), str(tmp_path / "hf"), display, check=False)
        folder = find_model(str(tmp_path / "hf"))
    else:
        _, folder = bases("bert")
    config = model_of("bert", head=CLASSES, r=4)
    write_run(tmp_path / "run", config, nested(drawn(config, compute)),
              init_from=str(folder.name), meta={"base": folder.fingerprint})
    with make_display() as display:
        convert(str(tmp_path / "run"), str(tmp_path / "peft"), display)
    base = transformers.AutoModelForSequenceClassification.from_pretrained(
        str(folder.folder), num_labels=3
    )
    loaded = peft.PeftModel.from_pretrained(base, str(tmp_path / "peft"))
    ids = {"encoder": IDS["encoder"]}
    ours = outputs(tmp_path / "run", compute, ids)
    np.testing.assert_allclose(their_outputs(loaded, ids), ours, atol=1e-4, rtol=1e-4)
    if base_has_head:
        again = outputs(f"{folder.name}+{tmp_path / 'peft'}", compute, ids)
        np.testing.assert_allclose(again, ours, atol=1e-4, rtol=1e-4)
