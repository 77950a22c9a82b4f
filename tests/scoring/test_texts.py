"""The built-in scorer, held against transformers and PEFT on one text at a time."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import AutoModelForCausalLM, PreTrainedTokenizerFast

import lego_ray
from lego_ray.errors import BadInput, InvalidOption
from lego_ray.scoring.rows import CHOOSE, REPORT, read_rows, rows_by_task
from lego_ray.scoring.texts import score_texts
from tests.tiny_models import gpt2

WORDS = [f"w{number}" for number in range(37)]
# Batches of several texts against one text at a time, in float32.
ROUNDING = 1e-5


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base model with a tokenizer, three adapters, and texts of two tasks."""
    root = tmp_path_factory.mktemp("texts")
    torch.manual_seed(0)
    base = gpt2()
    base.save_pretrained(root / "base")
    words = {word: number for number, word in enumerate(["<unk>", "<s>", "</s>", *WORDS])}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = WhitespaceSplit()
    as_fast: Any = PreTrainedTokenizerFast
    fast = as_fast(tokenizer_object=tokenizer, eos_token="</s>", unk_token="<unk>")
    fast.save_pretrained(root / "base")
    for number in range(3):
        torch.manual_seed(number + 1)
        config = LoraConfig(r=2, lora_alpha=4, target_modules=["c_attn"], fan_in_fan_out=True)
        model = get_peft_model(
            AutoModelForCausalLM.from_pretrained(root / "base", dtype=torch.float32), config
        )
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.5)
        model.save_pretrained(str(root / "zoo" / f"a{number}"))
    generator = torch.Generator().manual_seed(7)
    rows = []
    for task, count in (("one", 7), ("two", 6)):
        for length in range(2, 2 + count):
            at = torch.randint(len(WORDS), (length,), generator=generator).tolist()
            rows.append({"task": task, "text": " ".join(WORDS[n] for n in at)})
    rows.append({"task": "two", "prompt": "w1 w2 w3 ", "text": "w4 w5"})
    (root / "texts.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    return root


def plainly(model: Any, ids: Sequence[int], prompt: int) -> float:
    """The mean log-likelihood of the tokens after a prompt, a text by itself."""
    logits = model(torch.tensor([ids])).logits[0]
    each = [torch.log_softmax(logits[at - 1], -1)[ids[at]] for at in range(prompt, len(ids))]
    return float(torch.stack(each).mean())


def test_scores_are_those_of_one_text_at_a_time_with_the_adapter_merged(place: Path) -> None:
    texts, base = str(place / "texts.jsonl"), str(place / "base")
    found = {
        name: score_texts(str(place / "zoo" / name), texts=texts, base=base)
        for name in ("a0", "a1", "a0")  # the second look at a0 is after a1 was taken off
    }
    for name, score in found.items():
        model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        merged = PeftModel.from_pretrained(model, place / "zoo" / name).merge_and_unload().eval()
        wanted: dict[str, list[float]] = {}
        for row in read_rows(texts):
            ids = [3 + WORDS.index(word) for word in f"{row.prompt}{row.text}".split()]
            prompt = len(row.prompt.split()) or 1
            wanted.setdefault(row.task, []).append(plainly(merged, ids, prompt))
        for task, values in wanted.items():
            assert score["rows"][task] == pytest.approx(values, abs=ROUNDING)
            assert score["tasks"][task] == pytest.approx(fmean(values), abs=ROUNDING)
        assert score["score"] == pytest.approx(fmean(map(fmean, wanted.values())), abs=ROUNDING)
    assert found["a0"]["score"] != found["a1"]["score"]


def test_a_search_by_texts_is_at_least_as_good_as_the_presets(place: Path, tmp_path: Path) -> None:
    record = lego_ray.tune(
        place / "zoo",
        output=tmp_path / "merged",
        rank=4,
        score_texts=place / "texts.jsonl",
        base=place / "base",
        base_model="tiny/base",
        trials=8,
    )
    assert record.failed == 0
    trials = [json.loads(file.read_text()) for file in (tmp_path / "merged-study/trials").iterdir()]
    assert record.best["value"] == max(trial["value"] for trial in trials)
    assert set(record.best["tasks"]) == {"one", "two"}
    for name in ("adaptive", "paper"):
        assert record.differences[name]["error"] is not None
    assert record.warnings == ()
    mine = score_texts(
        str(tmp_path / "merged"),
        split=REPORT,
        texts=str(place / "texts.jsonl"),
        base=str(place / "base"),
    )
    assert mine["score"] == pytest.approx(record.report["best"]["score"], abs=ROUNDING)


def test_halves_are_disjoint_even_and_of_no_order(place: Path) -> None:
    rows = read_rows(str(place / "texts.jsonl"))
    choose, report = (rows_by_task(rows, split) for split in (CHOOSE, REPORT))
    for task, mine in rows_by_task(rows, "all").items():
        assert {*choose[task], *report[task]} == set(mine)
        assert not {*choose[task]} & {*report[task]}
        assert 0 <= len(choose[task]) - len(report[task]) <= 1
    backwards = rows_by_task(rows[::-1], CHOOSE)
    assert {task: set(mine) for task, mine in backwards.items()} == {
        task: set(mine) for task, mine in choose.items()
    }


def test_equal_rows_are_in_the_same_half(tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"text": "a"}\n{"text": "b"}\n\n{"text": "a"}\n')
    rows = read_rows(str(file))
    for split in (CHOOSE, REPORT):
        [mine] = rows_by_task(rows, split).values()
        assert len({row.text for row in mine}) == 1


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "the file has fewer than two"),
        ('{"text": "a"}', "task text has fewer than two"),
        ('{"text": "a"}\n{"text": "a"}', "task text has fewer than two"),
        ('{"text": "a"}\n{"text": "b"', r"rows\.jsonl:2 is not JSON"),
        ('{"text": "a"}\n["b"]', r"rows\.jsonl:2 has no text"),
        ('{"text": ""}', r"rows\.jsonl:1 has no text"),
        ('{"text": "a", "task": 3}', "task is 3, not text"),
    ],
)
def test_what_is_not_a_file_of_texts_is_bad_input(tmp_path: Path, text: str, problem: str) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text(text)
    with pytest.raises(InvalidOption, match=problem):
        read_rows(str(file))


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"base": ""}, "it needs the base model"),
        ({"base": "s3://models/base"}, "is not a directory of this machine"),
        ({"score_texts": "nowhere.jsonl"}, "cannot be read"),
    ],
)
def test_texts_that_cannot_be_scored_are_bad_input(
    place: Path, tmp_path: Path, options: dict[str, str], problem: str
) -> None:
    given: dict[str, Any] = {
        "score_texts": place / "texts.jsonl",
        "base": place / "base",
        **options,
    }
    with pytest.raises(BadInput, match=problem):
        lego_ray.tune(place / "zoo", output=tmp_path / "merged", rank=4, **given)
