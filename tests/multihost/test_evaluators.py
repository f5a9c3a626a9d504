"""What a run measures of its validation rows and samples, on two processes as on one."""

import pytest

from jaxllm.core.rundir import read_metrics
from tests.multihost.processes import Processes
from tests.multihost.test_training import RUN
from tests.train.conftest import TEXT, prepare_text

RECIPE = """
from jaxllm.train.config import default_config, finetune

def get_config():
    config = default_config()
    finetune(
        config, "", {{"rows": "sample:rows/{rows}"}}, objective="{objective}", length=64, batch=8,
        rate=1e-3, steps=2,
    )
    config.model.preset = "{preset}"
    config.model.update(width=32, layers=1, vocab_size=264)
    config.data.mixture.rows.validation_share = 0.2
    config.data.update(truncate=True, {fields})
    config.tokenizer.path = {tokenizer!r}
    config.train.update(remat="none", log_every=1, eval_every=2)
    config.eval.update(evaluators=("{evaluator}",), batches=2, prompts={prompts})
    return config
"""


@pytest.mark.slow
@pytest.mark.parametrize(("preset", "objective", "rows", "evaluator"), [
    ("bert_debug", "classification", "decisions.jsonl", "classification"),
    ("t5_debug", "seq2seq", "summaries.jsonl", "generation"),
])
def test_two_processes_measure_as_one(tmp_path, preset, objective, rows, evaluator):
    writes = objective == "seq2seq"
    tokenizer = prepare_text(tmp_path / "corpus", TEXT) / "tokenizer"
    recipe = tmp_path / "recipe.py"
    recipe.write_text(RECIPE.format(
        preset=preset, objective=objective, rows=rows, evaluator=evaluator,
        tokenizer=str(tokenizer), fields="target_length=16" if writes else "",
        prompts='("The Committee",)' if writes else "()",
    ))
    with (
        Processes(RUN, [recipe, f"{tmp_path / 'two'}:2"], 2) as two,
        Processes(RUN, [recipe, f"{tmp_path / 'one'}:2"], 1, devices=2) as one,
    ):
        two.finish(0, 0)
        one.finish(0)
    mine, other = (
        [r for r in read_metrics(tmp_path / name / "metrics.jsonl")
         if r["split"] in (f"validation/{evaluator}", "samples")]
        for name in ("two", "one")
    )
    assert len(mine) == len(other) == 1 + writes
    for a, b in zip(mine, other, strict=True):
        assert a.keys() == b.keys()
        for name, value in a.items():
            expected = pytest.approx(b[name], abs=1e-6) if isinstance(value, float) else b[name]
            assert value == expected, name
