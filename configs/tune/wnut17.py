r"""Naming entities: WNUT-17's six kinds in tweets, with an encoder (Derczynski et al. 2017).

Rows are words with tags (CoNLL); a word's tag is asked for at its first token. Entity-level F1 by
strict IOB2 is the measure: `eval.evaluators` has it.
  jaxllm train --config=configs/tune/wnut17.py --workdir=runs/wnut17 \
    --config.train.init_from=models/bert-base-cased

`:scratch` trains a small encoder from nothing, in minutes on two cores, with a tokenizer of the
tweets' own words. What it has never read it cannot name: it is far below BERT.
  awk '{printf "%s", NF ? $1 " " : "\n"}' data/wnut17train.conll > data/wnut17.txt
  jaxllm prepare --config=configs/data/text.py --workdir=data/wnut17 \
    --config.input.paths="('data/wnut17.txt',)" --config.tokenizer.mask=True \
    --config.tokenizer.vocab_size=4000 --config.input.document=line
  jaxllm train --config=configs/tune/wnut17.py:scratch --workdir=runs/wnut17

`:debug` goes on from a debug run and finds who is named in the plays:
  jaxllm train --config=configs/bert.py:debug --workdir=runs/debug/bert
"""

from jaxllm.core.config import check_variant
from jaxllm.train.config import default_config, finetune, shrink_tuning


def get_config(variant: str = ""):
    """The recipe; variants: scratch, debug (seconds on a CPU)."""
    check_variant(variant, ("scratch", "debug"))
    config = default_config()
    finetune(
        config, "models/bert-base-cased", {"entities": "data/wnut17train.conll"},
        objective="token_classification", length=128, batch=32, rate=5e-5, steps=1000,
    )
    config.data.mixture.entities.validation = "data/emerging.dev.conll"
    config.optimizer.weight_decay = 0.01
    config.eval.evaluators = ("entity_f1",)
    if variant == "scratch":
        config.train.init_from = ""
        config.model.preset = "bert_debug"
        config.model.update(width=128, layers=2, dropout=0.2)
        config.tokenizer.path = "data/wnut17/tokenizer"
        config.optimizer.update(learning_rate=1e-3, weight_decay=0.05)
        config.train.remat = "none"
    if variant == "debug":
        shrink_tuning(config, "bert", {"entities": "names.conll"})
    return config
