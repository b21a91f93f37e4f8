"""Evaluation sets in the WebDataset folder layout, written for tests as CLIP_benchmark has it."""

import io

import numpy as np

from tests.data import tars


def npy(values):
    file = io.BytesIO()
    np.save(file, np.asarray(values))
    return file.getvalue()


def write(folder, samples, *, split="test", shards=2, names=None, templates=None, kind=""):
    """`samples`: dicts of member extension → bytes, split evenly over the shards; the folder."""
    (folder / split).mkdir(parents=True, exist_ok=True)
    (folder / split / "nshards.txt").write_text(str(shards))
    for shard, indices in enumerate(np.array_split(np.arange(len(samples)), shards)):
        entries = [(f"s{i:07d}.{ext}", data) for i in indices for ext, data in samples[i].items()]
        tars.write(folder / split / f"{shard}.tar", entries)
    if names is not None:
        (folder / "classnames.txt").write_text("\n".join(names) + "\n")
    if templates is not None:
        content = "\n".join(templates) + "\n"
        (folder / "zeroshot_classification_templates.txt").write_text(content)
    if kind:
        (folder / "dataset_type.txt").write_text(kind)
    return folder


def of_source(folder, source, *, names, templates, **options):
    """The records of a source with `labels`, in that order of classes."""
    labels = list(source.labels)
    samples = [
        {"png": record["image"], "cls": str(labels.index(record["label"])).encode()}
        for record in map(source.__getitem__, range(len(source)))
    ]
    return write(folder, samples, names=names, templates=templates, **options)


def captioned(folder, source, **options):
    """The records of a source with captions."""
    samples = []
    for index in range(len(source)):
        record = source[index]
        texts = [record["text"]] if isinstance(record["text"], str) else record["text"]
        samples.append({"png": record["image"], "txt": "\n".join(texts).encode()})
    return write(folder, samples, kind="retrieval", **options)
