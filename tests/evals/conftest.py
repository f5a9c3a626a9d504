"""A tiny random Llama in a Hugging Face folder, and a folder of small benchmarks."""

import json
import random
import shutil

import pytest

WORDS = ["river", "stone", "blue", "seven", "walk", "garden", "night", "open", "letter", "sun"]


@pytest.fixture(scope="session")
def llama(tmp_path_factory):
    """A folder that transformers wrote: a model of two layers and a byte-level BPE tokenizer."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    folder = tmp_path_factory.mktemp("models") / "llama"
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator([" ".join(WORDS * 3)], trainers.BpeTrainer(
        vocab_size=300, special_tokens=["<s>", "</s>"],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False,
    ))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A", special_tokens=[("<s>", 0)])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>",
        chat_template="{{ bos_token }}{% for m in messages %}<{{ m.role }}>{{ m.content }}\n"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}",
    )
    fast.save_pretrained(folder)
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=len(fast), hidden_size=32, intermediate_size=48, num_hidden_layers=2,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
        rope_theta=20000.0, initializer_range=0.2, bos_token_id=0, eos_token_id=1,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def benchmarks(tmp_path_factory):
    """Six questions of each benchmark, in the files that the task files of the package read."""
    rng, root = random.Random(0), tmp_path_factory.mktemp("benchmarks")

    def text(least=3, most=9):
        return " ".join(rng.choices(WORDS, k=rng.randint(least, most)))

    def write(name, content):
        (root / name).parent.mkdir(exist_ok=True)
        (root / name).write_text(content)

    for split in ("dev", "test"):
        rows = [",".join([text(), *(text(1, 3) for _ in range(4)), str(rng.randrange(4))])
                for _ in range(6)]
        header = "question,choice0,choice1,choice2,choice3,answer"
        write(f"mmlu/{split}_marketing_{split}.csv", "\n".join([header, *rows]) + "\n")
    examples = [{"input": text(), "target": rng.choice(["Yes", "No"])} for _ in range(6)]
    write("bbh/navigate.json", json.dumps({"examples": examples}))
    rows = [{"goal": text(), "sol1": text(), "sol2": text()} for _ in range(6)]
    write("piqa/valid.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    write("piqa/valid-labels.lst", "".join(f"{rng.randrange(2)}\n" for _ in rows))
    items = "".join(
        f'<item id="{i}" asks-for="{kind}" most-plausible-alternative="{rng.randint(1, 2)}">'
        f"<p>{text()}.</p><a1>{text()}.</a1><a2>{text()}.</a2></item>"
        for i, kind in enumerate(["cause", "effect"] * 3)
    )
    write("copa/copa-dev.xml", f"<copa-corpus>{items}</copa-corpus>")
    return root


@pytest.fixture(scope="session")
def all_benchmarks(benchmarks, tmp_path_factory):
    """`benchmarks`, and the files of the package's other tasks: all that `--tasks=local` reads."""
    rng, root = random.Random(1), tmp_path_factory.mktemp("all") / "benchmarks"
    shutil.copytree(benchmarks, root)
    for subject in ("abstract_algebra", "college_computer_science", "high_school_biology",
                    "us_foreign_policy"):
        for split in ("dev", "test"):
            rows = (root / f"mmlu/{split}_marketing_{split}.csv").read_text().splitlines()
            (root / f"mmlu/{split}_{subject}_{split}.csv").write_text(
                "\n".join([rows[0], *(f"why {row}" for row in rows[1:])]) + "\n")
    for subset in ("boolean_expressions", "date_understanding", "object_counting", "word_sorting"):
        examples = [
            {"input": " ".join(rng.choices(WORDS, k=rng.randint(3, 40))), "target": "True"}
            for _ in range(6)
        ]
        (root / f"bbh/{subset}.json").write_text(json.dumps({"examples": examples}))
    rows = [
        {"example_id": i, "question_polarity": ("neg", "nonneg")[i % 2], "category": "Religion",
         "context_condition": ("ambig", "disambig")[i // 2 % 2],
         "answer_info": {"ans0": ["blue", "blue"], "ans1": ["Unknown", "unknown"],
                         "ans2": ["stone", "stone"]},
         "additional_metadata": {"stereotyped_groups": ["stone"]},
         "context": " ".join(rng.choices(WORDS, k=9)), "question": "Who?", "ans0": "The blue one",
         "ans1": "Unknown", "ans2": "The stone one", "label": i % 3}
        for i in range(8)
    ]
    (root / "bbq").mkdir()
    (root / "bbq/Religion.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    sentence = "The $OCCUPATION told the $PARTICIPANT that $NOM_PRONOUN saw the"
    tables = {
        "winogender/templates.tsv": ["occupation\tother\tanswer\tsentence", *(
            f"walker\tsun\t{i % 2}\t{sentence} {word}." for i, word in enumerate(WORDS))],
        "openbookqa/dev.tsv": ["ID\tQuestion Stem\tChoices\tAnswer Key", *(
            f"{i}\tthe {word} is\t(A) blue (B) open (C) a river (D) a walk\tA"
            for i, word in enumerate(WORDS))],
    }
    for name, lines in tables.items():
        (root / name).parent.mkdir()
        (root / name).write_text("\n".join(lines) + "\n")
    return root

@pytest.fixture(scope="module")
def trained(tmp_path_factory, data):
    """A run of three steps on the module's own prepared `data`."""
    from tests.train.conftest import make_recipe
    from tests.train.test_loop import run

    recipe = make_recipe(data)
    recipe.train.steps = 3
    workdir = tmp_path_factory.mktemp("run") / "base"
    run(recipe, workdir)
    return workdir
