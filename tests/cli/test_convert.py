"""`jaxllm convert` and `--model=HF_FOLDER` as typed; every mistake is one paragraph and exit 2."""

import json
import shutil
import struct
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxllm.cli.main import main
from jaxllm.core.rundir import read_metrics
from jaxllm.data.tokenizers.byte import ByteTokenizer
from jaxllm.models.hf.family import family
from jaxllm.models.hf.mapping import tensors
from jaxllm.models.hf.safetensors import INDEX, SINGLE


@pytest.fixture(scope="module")
def original(tiny, compute, tmp_path_factory):
    """A tiny Llama folder with the byte tokenizer."""
    import dataclasses
    from functools import partial

    from jaxllm.models.hf.exporter import write_config, write_tokenizer
    from jaxllm.models.transformer import Transformer
    from jaxllm.nn.module import abstract

    config = dataclasses.replace(tiny["llama"], vocab_size=264)
    _, specs = abstract(partial(Transformer, config=config, compute=compute))
    folder = tmp_path_factory.mktemp("hf") / "llama"
    folder.mkdir()
    rng = np.random.default_rng(0)
    table = tensors(family("llama").names(config), specs)
    save_file(
        {t.name: rng.normal(0, 0.1, t.shape).astype(np.float32) for t in table}, folder / SINGLE
    )
    write_tokenizer(folder, ByteTokenizer())
    write_config(folder, config, np.dtype(np.float32), {}, ByteTokenizer())
    return folder


@pytest.fixture
def folder(original, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(original, tmp_path / "llama")


@pytest.fixture(scope="module")
def run(original, tmp_path_factory):
    """The run directory that it becomes."""
    place = tmp_path_factory.mktemp("runs") / "llama"
    assert main(["convert", f"--model={original}", f"--output={place}"]) == 0
    return place


def edit(folder, **changes):
    theirs = json.loads((folder / "config.json").read_text())
    theirs.update(changes)
    theirs = {key: value for key, value in theirs.items() if value != "gone"}
    (folder / "config.json").write_text(json.dumps(theirs))


def retensor(folder, change):
    given = load_file(folder / SINGLE)
    change(given)
    save_file(given, folder / SINGLE)


def sharded(folder, weight_map):
    (folder / SINGLE).rename(folder / "model-00001-of-00001.safetensors")
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


def header(folder, content):
    (folder / SINGLE).write_bytes(struct.pack("<Q", len(content)) + content)


def truncate(folder):
    data = (folder / SINGLE).read_bytes()
    (folder / SINGLE).write_bytes(data[: len(data) // 2])


def pickled(folder):
    (folder / SINGLE).rename(folder / "pytorch_model.bin")


NORM = "model.norm.weight"
SPOILED = {
    "missing": (
        lambda f: retensor(f, lambda t: t.update(nrom=t.pop(NORM))),
        ["no tensor 'model.norm.weight'", "nrom"],
    ),
    "extra": (
        lambda f: retensor(f, lambda t: t.update({"model.norm.bias": np.zeros(2, np.float32)})),
        ["a tensor 'model.norm.bias'", "model.norm.weight"],
    ),
    "shape": (
        lambda f: retensor(f, lambda t: t.update({NORM: np.zeros(7, np.float32)})),
        [NORM, "[7]", "[32]"],
    ),
    "not a number": (
        lambda f: retensor(f, lambda t: t.update({NORM: np.full(32, np.nan, np.float32)})),
        [NORM, "not finite"],
    ),
    "a pointer of Git LFS": (
        lambda f: (f / SINGLE).write_text("version https://git-lfs.github.com/spec/v1\noid x\n"),
        [SINGLE, "git lfs pull"],
    ),
    "damaged generation config": (
        lambda f: (f / "generation_config.json").write_text("{"), ["generation_config.json"],
    ),
    "no model type": (
        lambda f: (f / "config.json").write_text('{"hidden_size": 32}'), ["has no model_type"],
    ),
    "a class that is not read": (
        lambda f: edit(f, architectures=["LlamaForQuestionAnswering"]),
        ["LlamaForQuestionAnswering is not read", "LlamaForCausalLM"],
    ),
    "a quantised config": (
        lambda f: edit(f, quantization_config={"bits": 4}), ["quantization_config", "bfloat16"],
    ),
    "quantised": (
        lambda f: retensor(f, lambda t: t.update({NORM: np.zeros(32, np.int8)})),
        [NORM, "int8", "quantised"],
    ),
    "unknown type": (lambda f: edit(f, model_type="lama"), ["'lama'", "llama", "gpt2"]),
    "type of no kind": (lambda f: edit(f, model_type=3), ["model_type=3", "llama"]),
    "unsupported option": (
        lambda f: edit(f, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4}),
        ["dynamic", "not implemented"],
    ),
    "unknown key": (lambda f: edit(f, hiden_act="silu"), ["hiden_act", "hidden_act"]),
    "absent key": (lambda f: edit(f, hidden_size="gone"), ["hidden_size"]),
    "a value of the wrong kind": (lambda f: edit(f, num_attention_heads="four"), ["config.json"]),
    "two rope scalings": (
        lambda f: edit(f, rope_scaling={"type": "linear", "factor": 4.0}),
        ["rope_scaling", "linear", "not implemented"],
    ),
    "a text for a size": (lambda f: edit(f, vocab_size="64"), ["'64'", "whole number"]),
    "a text for a switch": (
        lambda f: edit(f, tie_word_embeddings="false"), ["'false'", "true or false"],
    ),
    "pruned heads": (lambda f: edit(f, pruned_heads={"0": [1]}), ["pruned_heads", "{'0': [1]}"]),
    "a list for a number": (lambda f: edit(f, rope_parameters=[1]), ["config.json"]),
    "truncated": (truncate, [SINGLE, "damaged or truncated", "bytes"]),
    "empty file": (lambda f: (f / SINGLE).write_bytes(b""), [SINGLE, "before its header"]),
    "header of no JSON": (lambda f: header(f, b"{"), ["header is no JSON"]),
    "header of a list": (lambda f: header(f, b"[]"), ["header is no JSON object"]),
    "offsets of no numbers": (
        lambda f: header(f, json.dumps({"x": {
            "dtype": "F32", "shape": [1], "data_offsets": [0, 4.5]}}).encode()),
        ["bytes of x"],
    ),
    "unknown dtype": (
        lambda f: header(f, json.dumps({"x": {
            "dtype": "F4", "shape": [1], "data_offsets": [0, 4]}}).encode()),
        ["F4", "BF16"],
    ),
    "tokenizer too large": (
        lambda f: ByteTokenizer(sentinels=100).save(f),
        ["359 tokens", "264 rows"],
    ),
    "pickle only": (pickled, ["pytorch_model.bin", "pickle", "any program"]),
    "no tensors": (lambda f: (f / SINGLE).unlink(), ["no model.safetensors"]),
    "index leads out": (
        lambda f: sharded(f, {"x": "../secret.safetensors"}), ["../secret", "not to be trusted"],
    ),
    "index with an absolute path": (
        lambda f: sharded(f, {"x": "/etc/passwd"}), ["/etc/passwd", "not to be trusted"],
    ),
    "index with a missing shard": (
        lambda f: sharded(f, {"x": "model-00002-of-00002.safetensors"}),
        ["lacks model-00002-of-00002.safetensors"],
    ),
    "index of no map": (lambda f: sharded(f, [1]), ["no index of shards"]),
    "damaged config": (lambda f: (f / "config.json").write_text("{"), ["config.json", "JSON"]),
    "no config": (lambda f: (f / "config.json").unlink(), ["no config.json"]),
    "damaged tokenizer": (lambda f: (f / "bytes.json").write_text("{"), ["tokenizer"]),
}


def refused(capsys, arguments, expected):
    assert main(arguments) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("jaxllm: ") and "Traceback" not in error
    assert all(part in error for part in expected), error


@pytest.mark.parametrize(("spoil", "expected"), SPOILED.values(), ids=SPOILED)
def test_bad_folders_are_one_paragraph(folder, tmp_path, capsys, spoil, expected):
    spoil(folder)
    output = tmp_path / "out" / "run"
    refused(capsys, ["convert", f"--model={folder}", f"--output={output}"], expected)
    assert not list(tmp_path.glob("out/*")) and not list(tmp_path.glob("out/.*"))


def test_other_mistakes(original, run, tmp_path, capsys, monkeypatch):
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "x").touch()
    place = f"--output={tmp_path / 'new'}"
    for arguments, expected in (
        ([f"--model={original}"], ["--output is missing"]),
        ([place], ["--model is missing"]),
        ([f"--model={original}", f"--output={taken}"], ["exists and is not empty"]),
        ([f"--model={original}", f"--output={taken}/x"], ["exists and is not empty"]),
        ([f"--model={original}", "--output=gs://bucket/x"], ["gs://bucket/x", "local disk"]),
        ([f"--model={original}", place, "--dtype=float16"], ["float16", "bfloat16"]),
        ([f"--model={run}", place, "--shard_bytes=0"], ["--shard_bytes=0"]),
        ([f"--model={original}@3", place], ["has no steps"]),
        ([f"--model={run}@3", place], ["no checkpoint of step 3"]),
        ([f"--model={tmp_path}/absent", place], ["there is no"]),
    ):
        refused(capsys, ["convert", *arguments], expected)
    monkeypatch.setattr("shutil.disk_usage", lambda folder: shutil._ntuple_diskusage(1, 1, 10))
    refused(capsys, ["convert", f"--model={original}", place], ["GB are needed", "free"])


def test_a_full_disk_leaves_nothing(run, tmp_path, capsys, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.posix_fallocate", full)
    refused(capsys, ["convert", f"--model={run}", f"--output={tmp_path}/new"], ["disk is full"])
    assert not list(tmp_path.iterdir())


def test_a_damaged_checkpoint_is_refused_or_the_one_before_used(run, tmp_path, capsys):
    copy = shutil.copytree(run, tmp_path / "run")
    for file in (copy / "checkpoints/0/state").rglob("d/*"):
        file.write_bytes(file.read_bytes()[:-40] + b"\0" * 40)
    refused(
        capsys, ["convert", f"--model={copy}", f"--output={tmp_path}/new"],
        ["step 0 is damaged", "Choose another step"],
    )


@pytest.mark.slow
def test_there_and_back_is_the_same_folder(original, run, tmp_path, capsys):
    output = tmp_path / "hf"
    assert main(["convert", f"--model={run}", f"--output={output}"]) == 0
    assert "imported again" in capsys.readouterr().err
    assert (run / "huggingface/config.json").exists()
    for file in original.iterdir():
        if file.name == SINGLE:
            before, after = load_file(file), load_file(output / SINGLE)
            assert before.keys() == after.keys()
            assert all(before[name].tobytes() == after[name].tobytes() for name in before)
        else:
            assert file.read_bytes() == (output / file.name).read_bytes(), file.name
    parity = json.loads((output / "parity.json").read_text())
    assert parity["reimported"] == 0 and parity["versions"]["jaxllm"]


def test_dtype_and_shards(run, tmp_path):
    output = tmp_path / "hf"
    flags = ["--dtype=bfloat16", "--shard_bytes=20000", "--nocheck"]
    assert main(["convert", f"--model={run}", f"--output={output}", *flags]) == 0
    assert not (output / "parity.json").exists()
    assert json.loads((output / "config.json").read_text())["dtype"] == "bfloat16"
    index = json.loads((output / INDEX).read_text())
    files = {file.name for file in output.glob("*.safetensors")}
    assert set(index["weight_map"].values()) == files and len(files) > 2
    again = tmp_path / "again"
    assert main(["convert", f"--model={output}", f"--output={again}", "--dtype=float32"]) == 0
    meta = json.loads((again / "checkpoints/0/meta/metadata").read_text())
    assert {dtype for _, dtype, _ in meta["arrays"].values()} == {"float32"}


def test_generate_from_a_folder_and_from_the_run_say_the_same(original, run, capsys):
    said = []
    for model in (original, run):
        arguments = ["generate", f"--model={model}", "--prompt=ab", "--max_new_tokens=5",
                     "--temperature=0"]
        assert main(arguments) == 0
        said.append(capsys.readouterr().out)
    assert said[0] == said[1] and said[0].startswith("ab")


def typed(*arguments):
    """The exit code; config_flags looks for overrides in sys.argv."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["jaxllm", *arguments])
        return main()


@pytest.mark.thorough
def test_training_starts_from_a_folder_and_its_run_and_eval_measures_both(
    original, run, tmp_path, capsys
):
    data = tmp_path / "data"
    configs = Path(__file__).parents[2] / "configs"
    assert typed(
        "prepare", f"--config={configs}/data/fomc.py:debug", f"--workdir={data}",
        f"--config.tokenizer.path={original}",
    ) == 0
    mixture = [f"--config.data.mixture.fomc.path={data}", f"--config.tune.replay.path={data}",
               f"--config.tune.guard.data=('{data}',)"]
    losses = []
    for model in (original, run):
        workdir = tmp_path / f"from_{len(losses)}"
        assert typed(
            "train", f"--config={configs}/quickstart_domain.py:debug", f"--workdir={workdir}",
            f"--config.train.init_from={model}", "--config.train.steps=2", *mixture,
        ) == 0
        config = json.loads((workdir / "config.json").read_text())["config"]["model"]
        assert config["width"] == 32 and config["vocab_size"] == 264
        losses.append([r["loss"] for r in read_metrics(workdir / "metrics.jsonl") if "loss" in r])
    assert losses[0] == losses[1]
    capsys.readouterr()
    models = f"{original},{run},{tmp_path}/from_0"
    assert typed("eval", f"--model={models}", f"--data={data}", "--batches=1") == 0
    assert "loss (nats per token)" in capsys.readouterr().out
    assert not (original / "metrics.jsonl").exists() and (run / "metrics.jsonl").exists()
    assert typed("report", str(run)) == 0
    refused(capsys, ["report", str(original)], ["no run directory", "Hugging Face"])
    recipe = [f"--config={configs}/quickstart_domain.py:debug", f"--workdir={original}"]
    refused(capsys, ["train", *recipe, f"--config.train.init_from={run}", *mixture],
            ["would overwrite"])
    recipe = f"--config={configs}/quickstart_domain.py:debug"
    assert typed(
        "train", recipe, f"--workdir={run}", f"--config.train.init_from={run}", *mixture
    ) == 2
    assert "hoose another --workdir" in capsys.readouterr().err
