"""Reads public benchmarks as their authors publish them, for the task files beside this one.

Each function is a `custom_dataset` of lm-evaluation-harness: it is given the run's metadata, of
which `task_data` (`--task_data=DIR`) is the folder that holds a folder for each benchmark, and the
task's `dataset_kwargs`, and gives the splits with the columns of the packaged task.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Iterable, Mapping
from typing import Any
from xml.etree import ElementTree

from etils import epath

from jaxllm.core.errors import UserError
from jaxllm.core.paths import path

PRONOUNS = {  # Rudinger et al. 2018, by gender: nominative, accusative, possessive
    "male": ("he", "him", "his"), "female": ("she", "her", "her"),
    "neutral": ("they", "them", "their"),
}


def mmlu(task_data: str = "", subject: str = "", **rest: Any) -> Mapping[str, Any]:
    """`mmlu/{dev,test}_SUBJECT_{dev,test}.csv`: question, choice0 … choice3, answer (0 … 3)."""
    def split(name: str) -> Iterable[dict[str, Any]]:
        file = _file(task_data, "mmlu", f"{name}_{subject}_{name}.csv")
        for row in csv.DictReader(io.StringIO(file.read_text(), newline="")):
            choices = [row[f"choice{i}"] for i in range(4)]
            yield {"question": row["question"], "choices": choices, "answer": int(row["answer"])}

    return _splits(dev=split("dev"), test=split("test"))


def bbh(task_data: str = "", subset: str = "", **rest: Any) -> Mapping[str, Any]:
    """`bbh/SUBSET.json`: examples of input and target."""
    file = _file(task_data, "bbh", f"{subset}.json")
    return _splits(test=json.loads(file.read_text())["examples"])


def bbq(task_data: str = "", category: str = "", **rest: Any) -> Mapping[str, Any]:
    """`bbq/CATEGORY.jsonl`, without the columns that the task does not read."""
    lines = _file(task_data, "bbq", f"{category}.jsonl").read_text().split("\n")
    names = ("example_id", "question_polarity", "context_condition", "category", "answer_info",
             "context", "question", "ans0", "ans1", "ans2", "label")
    rows = []
    for row in map(json.loads, filter(None, lines)):
        groups = row["additional_metadata"]["stereotyped_groups"]
        kept = {name: row[name] for name in names}
        rows.append({**kept, "additional_metadata": {"stereotyped_groups": groups}})
    return _splits(test=rows)


def bbq_results(doc: Mapping[str, Any], results: Any) -> dict[str, Any]:
    """lm-eval's accuracy and bias scores of an answer, without those of other categories."""
    from lm_eval.tasks.bbq import utils

    found = utils.process_results_multiple_choice(doc, results)
    names = ("acc", "accuracy_amb", "accuracy_disamb", "amb_bias_score", "disamb_bias_score")
    return {name: found[name] for name in names}


def winogender(task_data: str = "", gender: str = "", **rest: Any) -> Mapping[str, Any]:
    """`winogender/templates.tsv` with the pronouns of one gender, or of all three."""
    lines = _file(task_data, "winogender", "templates.tsv").read_text().splitlines()[1:]
    rows = []
    for occupation, other, answer, template in (line.split("\t") for line in lines if line):
        for kind in [gender] if gender else list(PRONOUNS):
            marks = re.findall(r"\$(NOM|ACC|POSS)_PRONOUN", template)
            forms = dict(zip(("NOM", "ACC", "POSS"), PRONOUNS[kind], strict=True))
            text = template.replace("$OCCUPATION", occupation).replace("$PARTICIPANT", other)
            text = re.sub(r"\$(NOM|ACC|POSS)_PRONOUN", lambda m, f=forms: f[m[1]], text)
            rows.append({
                "sentence": text, "pronoun": forms[marks[0]], "occupation": occupation,
                "participant": other, "label": int(answer), "gender": kind,
            })
    return _splits(test=rows)


def copa(task_data: str = "", **rest: Any) -> Mapping[str, Any]:
    """`copa/copa-dev.xml` with the columns of SuperGLUE's COPA."""
    root = ElementTree.fromstring(_file(task_data, "copa", "copa-dev.xml").read_text().encode())
    return _splits(validation=[
        {
            "premise": item.findtext("p"), "choice1": item.findtext("a1"),
            "choice2": item.findtext("a2"), "question": item.get("asks-for"),
            "label": int(item.get("most-plausible-alternative")) - 1,
        }
        for item in root.iter("item")
    ])


def openbookqa(task_data: str = "", **rest: Any) -> Mapping[str, Any]:
    """`openbookqa/dev.tsv`: the choices "(A) … (B) …" are one column there."""
    text = _file(task_data, "openbookqa", "dev.tsv").read_text()
    rows = []
    for row in csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE):
        parts = re.split(r"\s*\(([A-D])\)\s*", row["Choices"])[1:]
        rows.append({
            "question_stem": row["Question Stem"],
            "choices": {"label": parts[::2], "text": parts[1::2]},
            "answerKey": row["Answer Key"],
        })
    return _splits(validation=rows)


def piqa(task_data: str = "", **rest: Any) -> Mapping[str, Any]:
    """`piqa/valid.jsonl` with the labels of `piqa/valid-labels.lst`."""
    rows = _file(task_data, "piqa", "valid.jsonl").read_text().split("\n")
    labels = _file(task_data, "piqa", "valid-labels.lst").read_text().split()
    return _splits(validation=[
        {**{name: row[name] for name in ("goal", "sol1", "sol2")}, "label": int(label)}
        for row, label in zip(map(json.loads, filter(None, rows)), labels, strict=False)
    ])


def _splits(**rows: Iterable[Mapping[str, Any]]) -> Mapping[str, Any]:
    import datasets

    found = {name: list(examples) for name, examples in rows.items()}
    if empty := [name for name, examples in found.items() if not examples]:
        raise UserError(
            f"--task_data: the {empty[0]} split of a task holds no example: its file there is "
            "empty. docs/evaluation.md says where the files are from."
        )
    return datasets.DatasetDict({
        name: datasets.Dataset.from_list(examples) for name, examples in found.items()
    })


def _file(task_data: str, folder: str, name: str) -> epath.Path:
    if not task_data:
        raise UserError(
            f"The task reads {folder}/{name} from a folder of benchmarks: name it with "
            "--task_data=DIR."
        )
    file = path(task_data) / folder / name
    if not file.exists():
        raise UserError(
            f"--task_data={task_data}: the task reads {folder}/{name}, which is not there. "
            "docs/evaluation.md says where the files are from."
        )
    return file
