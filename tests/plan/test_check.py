"""`jaxllm check`: what fails before the first step, told at once with the flag to change."""

import json
import re
import shutil

import pytest

from jaxllm.cli.main import main
from jaxllm.core.errors import UserError
from jaxllm.plan import compile as ahead
from jaxllm.plan.check import Check, check
from jaxllm.plan.compile import Compiled, devices_of
from jaxllm.plan.hlo import collectives
from jaxllm.plan.slices import parse_slice
from jaxllm.train.config import default_config, resolve_config
from jaxllm.train.program import PRESETS, check_accepted, xla_options

from .helpers import small_tpu_recipe

RECIPE = "--config=configs/llama3_8b.py:v5p-8"

# A loop of 5 around a gather; a condition that counts to 3 without saying so; a call.
PROGRAM = """HloModule step, is_scheduled=true

%add (a: f32[], b: f32[]) -> f32[] {
  ROOT %sum = f32[] add(f32[] %a, f32[] %b)
}

%body (p: (s32[], f32[8])) -> (s32[], f32[8]) {
  %gathered = bf16[16,8]{1,0} all-gather(bf16[4,8]{1,0} %x), dimensions={0}
  %scattered = f32[4,8]{1,0} reduce-scatter(f32[16,8]{1,0} %y), to_apply=%add
}

%condition (p: (s32[], f32[8])) -> pred[] {
  %limit = s32[] constant(3)
  ROOT %less = pred[] compare(s32[] %i, s32[] %limit), direction=LT
}

%inner (p: f32[8]) -> f32[8] {
  %loop.2 = (s32[], f32[8]) while((s32[], f32[8]) %t), condition=%condition, body=%body
}

ENTRY %main (p: f32[8]) -> f32[8] {
  %loop = (s32[], f32[8]) while((s32[], f32[8]) %t), condition=%other, body=%body, """ + (
    """backend_config={"known_trip_count":{"n":"5"}}
  %called = f32[8]{0} call(f32[8] %p), to_apply=%inner
  %reduced = f32[128]{0} all-reduce(f32[128]{0} %z), to_apply=%add
}
""")


def test_collectives_are_counted_as_often_as_their_loops_run():
    found = collectives(PROGRAM)
    assert {kind: t.count for kind, t in found.items()} == {
        "all-gather": 8, "reduce-scatter": 8, "all-reduce": 1,
    }
    assert found["all-gather"].bytes == 8 * 16 * 8 * 2
    assert found["reduce-scatter"].bytes == 8 * 4 * 8 * 4
    assert found["all-reduce"].bytes == 128 * 4


def run(capsys, *flags):
    code = main(["check", *flags])
    out = capsys.readouterr()
    return code, out.out, out.err


def test_cheap_things_are_looked_at_without_a_compiler(capsys, tmp_path):
    file = tmp_path / "new" / "check.json"
    code, out, err = run(capsys, RECIPE, "--nocompile", f"--output={file}")
    assert code == 0 and not err
    assert "4 chips, 4 devices, 1 host;" in out and "Cloud calls it v5p-8" in out
    assert "not on this machine: not looked at" in out
    assert "rows of a step for each group of devices, " in out and " for each host" in out
    content = json.loads(file.read_text())
    assert content["failures"] == [] and content["compiled"] is None


@pytest.mark.parametrize(("flags", "words"), [
    (["--topology=v5p-12"], ["counts TensorCores", "v5p:2x2x1 (4 chips"]),
    (["--topology=v9-8"], ["no chip"]),
    (["--config.mesh.tensor=3"], ["multiply to 4"]),
    (["--topology=v5p-128", "--config.mesh.tensor=64", "--config.mesh.fsdp=1"],
     ["mesh.tensor=64", "heads=32"]),
    (["--config.mesh.context=4", "--config.mesh.fsdp=1", "--config.data.sequence_length=8190"],
     ["mesh.context=4", "data.sequence_length=8190"]),
    (["--config.data.global_batch_size=6"], ["global_batch_size=6", "4 or", "8"]),
    (["--workdir=."], ["GB are free", "checkpoint.keep"]),
])
def test_bad_input_names_the_flag_and_what_works(capsys, flags, words):
    code, _, err = run(capsys, RECIPE, "--nocompile", *flags)
    assert code == 2 and "Traceback" not in err
    for word in words:
        assert word in err, err


def test_a_checkpoint_is_as_large_wherever_the_optimizer_lies(capsys):
    sizes = [
        re.search(r"checkpoints +([\d.]+) GB each", run(capsys, RECIPE, "--nocompile", flag)[1])[1]
        for flag in ("--config.optimizer.placement=device", "--config.optimizer.placement=host")
    ]
    assert sizes == ["96.4", "96.4"]  # 12 bytes of each of 8,030,261,248 parameters


@pytest.fixture
def compiled_as(monkeypatch):
    """Checks a recipe on v5e:2x2, with a compiler that says of the step what is given."""
    def checked(**said):
        step = Compiled(**dict(
            accumulation=1, placement="device", compiler="jax", arguments=0, temporaries=0,
            outputs=0, aliased=0, total=1, code=0, seconds=1.0, traffic={}, kernels=0, program=None,
        ) | said)
        monkeypatch.setattr("jaxllm.plan.check.devices_of", lambda where: [])
        monkeypatch.setattr("jaxllm.plan.check.compile_for", lambda *arguments: step)
        monkeypatch.setattr("jaxllm.plan.check.save_for", lambda *arguments: 2e6)
        values = default_config()
        values.model.preset, values.train.remat = "llama_debug", "auto"
        values.mesh.data, values.mesh.fsdp = 1, -1
        return check(resolve_config(values), "v5e:2x2", save_to="kept")

    return checked


@pytest.mark.parametrize(("said", "fix"), [
    ({"remat": "kv_offload"}, "raise train.grad_accumulation or set train.remat='full'."),
    ({"remat": "full", "placement": "host"}, "set optimizer.placement='device'."),
    ({"remat": "kv_offload", "placement": "host"}, "'device' or raise train.grad_accumulation or"),
])
def test_more_than_the_host_has_is_refused(compiled_as, said, fix):
    found = compiled_as(**said, host=41e9)  # 80 % of 400 GB for 8 chips
    assert "41.00 GB" in found.failures[0] and "v5e is 40.0 GB" in found.failures[0]
    assert fix in found.failures[0] and "compiled step" not in dict(found.facts)


def test_what_auto_came_to_is_told_in_flags_for_the_run(compiled_as):
    facts = dict(compiled_as(remat="kv_offload", accumulation=2, placement="host", host=1).facts)
    flags = (
        "--config.train.remat=kv_offload --config.train.grad_accumulation=2 "
        "--config.optimizer.placement=host"
    )
    assert facts["train.remat='auto'"] == f"came to {flags}"
    assert facts["compiled step"] == f"2 MB in kept; jaxllm train --compiled=kept {flags} loads it"


def test_without_a_slice_it_asks_for_one(capsys):
    code, _, err = run(capsys, "--config=configs/llama.py")
    assert code == 2 and "--topology is missing" in err


def test_all_failures_are_told_at_once(capsys):
    code, out, err = run(
        capsys, RECIPE, "--nocompile", "--config.data.global_batch_size=6", "--workdir=."
    )
    assert code == 2 and "global_batch_size" in err and "GB are free" in err
    assert out.count("FAILS") == 2


def test_a_prepared_folder_is_read(capsys, small_data):
    flags = [f"--config.data.mixture.text.path={small_data}", "--config.model.vocab_size=1024"]
    code, out, err = run(capsys, RECIPE, "--nocompile", *flags, "--config.model.preset=llama_21m",
                         "--config.data.sequence_length=64")
    assert code == 0, err
    assert re.search(r"data text +[\d,]+ tokens, tokenizer \w{12}", out)
    assert "fingerprint of the data" in out
    flags[1] = "--config.model.vocab_size=100"
    code, _, err = run(capsys, RECIPE, "--nocompile", *flags, "--config.data.sequence_length=64")
    assert code == 2 and "model.vocab_size=100" in err and "at least 259" in err


@pytest.fixture(scope="module")
def small_data(tmp_path_factory):
    from tests.train.conftest import TEXT, prepare_text

    return prepare_text(tmp_path_factory.mktemp("corpus"), TEXT)


def test_no_compiler_gives_the_command(monkeypatch):
    monkeypatch.setattr(ahead.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"no libtpu.*pip install -e '\.\[tpu\]'"):
        devices_of(parse_slice("v6e-16"))
    with pytest.raises(UserError, match=r"pip install -e '\.\[cuda\]'"):
        devices_of(parse_slice("h200:8"))


class Device:
    """As much of a jax device as options are chosen by."""

    def __init__(self, kind):
        self.device_kind = kind


def test_options_follow_the_chip_and_the_recipe(monkeypatch):
    values = default_config()
    values.train.xla_options = ("xla_dump_to=/tmp/x", "--xla_rwb=False", "xla_a = true")
    train = resolve_config(values).train
    monkeypatch.setattr("jaxllm.train.program._version", lambda package: "0.0.50.1")
    own = {"xla_dump_to": "/tmp/x", "xla_rwb": False, "xla_a": True}
    assert xla_options(train, Device("TPU v6 lite")) == {**PRESETS[0].options, **own}
    assert xla_options(train, Device("cpu")) == own
    monkeypatch.setattr("jaxllm.train.program._version", lambda package: "0.1.2")
    assert xla_options(train, Device("TPU v6 lite")) == own  # nobody tried the preset there
    values.train.xla_options = ("novalue",)
    with pytest.raises(UserError, match="write name=value"):
        xla_options(resolve_config(values).train, Device("cpu"))


@pytest.mark.parametrize("written", ["false", "False", "TRUE"])
def test_a_boolean_option_is_taken_as_people_write_it(written):
    import jax

    values, device = default_config(), jax.devices()[0]
    values.train.xla_options = (f"xla_cpu_use_xnnpack={written}", "xla_embed_ir_in_executable=true")
    check_accepted(xla_options(resolve_config(values).train, device), device)
    values.train.xla_options = ("xla_cpu_use_xnnpack=maybe",)
    with pytest.raises(UserError, match=r"xla_cpu_use_xnnpack.*'maybe'"):
        check_accepted(xla_options(resolve_config(values).train, device), device)


def test_an_option_that_the_compiler_does_not_know_is_refused_early():
    import jax

    with pytest.raises(UserError, match=r"xla_no_such_thing"):
        check_accepted({"xla_no_such_thing": "1"}, jax.devices()[0])


def test_what_is_found_is_kept_in_order():
    def fails():
        raise UserError("mesh.tensor=3 does not fit.")

    found = Check(parse_slice("v5p-8"), resolve_config(default_config()))
    found.look("one", lambda: "fine")
    found.look("two", fails)
    assert found.facts == [("one", "fine"), ("two", "FAILS")] and not found.passed


CHIPS = ("v4:2x2x1", "v5e:2x2", "v5p:2x2x1", "v6e:2x2", "tpu7x:2x2x1")


@pytest.mark.skipif(not shutil.which("python") or not ahead.importlib.util.find_spec("libtpu"),
                    reason="needs the tpu extra: JAXLLM_EXTRAS=…,tpu")
@pytest.mark.parametrize("topology", [
    chip if chip.startswith("v6e") else pytest.param(chip, marks=pytest.mark.thorough)
    for chip in CHIPS
])
def test_the_step_compiles_for_every_generation(topology):
    """Two layers; the kernel is splash, gradients are scattered, the state's memory is reused."""
    found = check(small_tpu_recipe(), topology)
    assert found.passed, found.failures
    step = found.compiled
    assert step.kernels >= 3 and step.traffic["reduce-scatter"].count >= 2 * 4
    assert step.aliased > 0.95 * step.outputs
    assert 0 < step.total < 2e9


@pytest.mark.slow
@pytest.mark.skipif(not ahead.importlib.util.find_spec("libtpu"), reason="needs the tpu extra")
def test_what_is_offloaded_leaves_the_device():
    """Attention's output, keys, values and inputs of 8 layers, and the moments of Adam."""
    values = default_config()
    values.model.preset = "llama_21m"
    values.model.layers, values.model.vocab_size, values.model.width = 8, 1024, 512
    values.model.attention.heads = values.model.attention.kv_heads = 2
    values.model.attention.head_dim = 128
    values.data.sequence_length, values.data.global_batch_size = 2048, 16
    values.train.remat = "kv"
    here = check(resolve_config(values), "v6e:2x2")
    values.train.remat, values.optimizer.placement = "kv_offload", "host"
    there = check(resolve_config(values), "v6e:2x2")
    assert here.passed and there.passed, there.failures
    layer = 4 * 2048 * (2 * (3 * 2 * 128 + 512) + 4 * 2)  # of a device, with log Z of two heads
    moments = here.compiled.arguments - there.compiled.arguments
    assert moments > 0.6 * here.compiled.arguments
    assert here.compiled.host == 0
    assert there.compiled.host == pytest.approx(8 * layer + moments, rel=0.02)
    assert there.compiled.total < here.compiled.total
    assert there.compiled.aliased > 0.95 * there.compiled.outputs
    assert there.compiled.remat == "kv_offload" and there.compiled.placement == "host"
