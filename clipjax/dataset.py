"""Look at, index, convert and curate data sets: `python -m clipjax.dataset VERB --path=… `.

    check      read a sample: sizes, captions, duplicates, broken records by shard, a contact sheet
    bench      examples a CPU-second by stage, and the cores that a slice needs
    index      walk all shards once, for `config.data.index`
    convert    any source → array_record with smaller JPEGs; stop and go on at any time
    tokenizer  train a SentencePiece vocabulary on the captions
    queries    a list of queries from texts, titles and synsets, as the paper's
    balance    choose pairs so that no query takes more than its share
    dedup      leave out copies, whatever their captions, and what is in evaluation sets

Data are named by `--config` (its `data`), or by `--path`, `--source` and so on. Exit codes:
`clipjax/common/exits.py`.
"""

import os
from collections.abc import Callable
from typing import Any

from absl import flags

from clipjax.build import named_data
from clipjax.common import cli, files
from clipjax.common.counts import counted
from clipjax.common.exits import ConfigError, DataError

OUTPUT = cli.define_path("output", None, "Folder or file to write, local or gs://.")
NUM_WORKERS = flags.DEFINE_integer("num_workers", os.cpu_count() or 1, "Processes; 0 is this one.")
LIMIT = flags.DEFINE_integer(
    "limit", 10_000, "check, bench: records to look at, spread over all; 0 is all.", lower_bound=0
)
SIDE = flags.DEFINE_integer(
    "side", 384, "convert: longest that an image's shorter side stays.", lower_bound=2
)
QUALITY = flags.DEFINE_integer("quality", 90, "convert: of the JPEGs.", 1, 95)
SHARD_RECORDS = flags.DEFINE_integer(
    "shard_records", 10_000, "convert: records of the source in a shard.", lower_bound=1
)
IMAGE_SIZE = flags.DEFINE_integer("image_size", 224, "bench: pixels.", lower_bound=8)
RATE = flags.DEFINE_float(
    "rate", 0.0, "bench: examples a second that a slice takes, as clipjax.plan prints.", 0.0
)
HOSTS = flags.DEFINE_integer("hosts", 1, "bench: hosts of that slice.", lower_bound=1)
VOCAB_SIZE = flags.DEFINE_integer("vocab_size", 49_408, "tokenizer: ids, specials included.")
MAX_CAPTIONS = flags.DEFINE_integer("max_captions", 1_000_000, "tokenizer: captions to read.")
TEXT = cli.define_paths("text", "queries: files of running text.", protocols=None)
TITLES = cli.define_paths(
    "titles", "queries: files of titles, TITLE or TITLE\tVIEWS.", protocols=None
)
SYNSETS = cli.define_paths("synsets", "queries: WordNet's index files, or lists.", protocols=None)
MIN_COUNT = flags.DEFINE_integer("min_count", 100, "queries: of a word or bigram.", lower_bound=1)
MIN_INFORMATION = flags.DEFINE_float("min_information", 10.0, "queries: of a bigram, in bits.")
MIN_VIEWS = flags.DEFINE_integer("min_views", 70, "queries: of a title.")
MAX_QUERIES = flags.DEFINE_integer("max_queries", 500_000, "queries: in all.", lower_bound=1)
QUERIES = cli.define_path("queries", None, "balance: file of queries, one a line.", protocols=None)
PER_QUERY = flags.DEFINE_integer("per_query", 20_000, "balance: pairs of a query.", lower_bound=1)
LOWER_CASE = flags.DEFINE_bool("lower_case", False, 'balance: "Dog" matches "dog".')
SEED = flags.DEFINE_integer("seed", 0, "balance: of the draw.")
AGAINST = flags.DEFINE_multi_string("against", [], "dedup: evaluation sets, SOURCE:PATH.")
DISTANCE = flags.DEFINE_integer(
    "distance", 4, "dedup: bits of 64 that hashes of copies differ in.", 0, 7
)


def check() -> None:
    """`check`: findings as text, and with --output as check.json and sheet.png."""
    from clipjax.curation import check
    from clipjax.pictures import canvas

    output = _output("check.json") if OUTPUT.value else ""
    source = _source()
    findings, indices = check.check(source, limit=LIMIT.value, num_workers=NUM_WORKERS.value)
    summed = check.summary(findings, source=source)
    print(check.describe({**summed, "source": named_data.described(source)}))
    if output:
        files.write_json(f"{output}/check.json", summed)
        sheet = check.sheet(source, indices)
        if sheet is not None:
            files.write(f"{output}/sheet.png", canvas.encoded(sheet, ending=".png"))
        print(f"{OUTPUT.value}: check.json{', sheet.png' if sheet is not None else ''}")
    else:
        print(
            "--output=FOLDER keeps this as check.json, with a contact sheet of images and captions"
        )


def bench() -> None:
    """`bench`: a table, on this process."""
    from clipjax.curation import bench
    from clipjax.data import captions
    from clipjax.data.examples import TrainExamples
    from clipjax.data.tokenizers import sentencepiece as sentencepiece_tokenizer

    source = _source()
    sample = captions.sample(source, limit=10_000)
    model = sentencepiece_tokenizer.train_sentencepiece(sample, vocab_size=600, exact=False)
    examples = TrainExamples(
        source,
        tokenizer=sentencepiece_tokenizer.SentencePieceTokenizer(model, context_length=77),
        image_size=IMAGE_SIZE.value,
        seed=0,
    )
    count = min(LIMIT.value or len(source), len(source), 2000)
    rates = bench.stages(examples, count=count)
    print(bench.describe(rates, rate=RATE.value, hosts=HOSTS.value))


def index() -> None:
    """`index`: a folder for `config.data.index`."""
    import functools

    from clipjax.build import data as build_data
    from clipjax.curation import index
    from clipjax.data import sources
    from clipjax.data.sources import shard_paths, sharded

    output = _output(sharded.SURVEY)
    data, _ = named_data.settings(image_size=IMAGE_SIZE.value)
    with named_data.errors_of_flags():
        ending = sources.entry(data.source).ending
    if ending and NUM_WORKERS.value:
        with named_data.errors_of_flags():
            paths = shard_paths.expand(data.path, ending=ending)
        make = functools.partial(build_data.source_at, data=data)
        index.walk(paths, make=make, num_workers=NUM_WORKERS.value)
    source = _source()
    written = index.write(source, folder=output)
    print(
        f"{OUTPUT.value}: {counted(len(source), 'record')} in"
        f" {counted(len(source.paths), 'shard')}, {counted(written, 'index', 'indexes')};"
        f" train with --config.data.index={OUTPUT.value}"
    )


def convert() -> None:
    """`convert`: a folder for `config.data.path`, source tfds."""
    from clipjax.curation import convert

    output = _output(convert.SETTINGS)
    counts = convert.convert(
        _source(),
        folder=output,
        side=SIDE.value,
        quality=QUALITY.value,
        shard_records=SHARD_RECORDS.value,
        num_workers=NUM_WORKERS.value,
    )
    left_out = ", ".join(f"{count:,} {reason}" for reason, count in counts["left out"].items())
    print(
        f"{OUTPUT.value}: {counted(counts['written'], 'record')} written, left out:"
        f" {left_out or 'none'}; train with --config.data.source=tfds"
        f" --config.data.path={OUTPUT.value}"
    )


def tokenizer() -> None:
    """`tokenizer`: a folder for `config.tokenizer.path`."""
    from clipjax.data import captions, tokenizers
    from clipjax.data.tokenizers import sentencepiece as sentencepiece_tokenizer

    output = _output(sentencepiece_tokenizer.MODEL_FILE)
    sample = captions.sample(_source(), limit=MAX_CAPTIONS.value)
    with sample.blamed():
        model = sentencepiece_tokenizer.train_sentencepiece(
            sample, vocab_size=VOCAB_SIZE.value, setting="--vocab_size"
        )
    tokenizers.publish({sentencepiece_tokenizer.MODEL_FILE: model}, folder=output)
    print(f"{OUTPUT.value}: train with --config.tokenizer.path={OUTPUT.value}")


def queries() -> None:
    """`queries`: a file for --queries."""
    from clipjax.curation import queries

    output = _output()
    chosen, counts = queries.build(
        texts=TEXT.value,
        titles=TITLES.value,
        synsets=SYNSETS.value,
        min_count=MIN_COUNT.value,
        min_information=MIN_INFORMATION.value,
        min_views=MIN_VIEWS.value,
        limit=MAX_QUERIES.value,
    )
    files.write(output, "".join(f"{query}\n" for query in chosen))
    kinds = ", ".join(f"{count:,} {kind}" for kind, count in counts.items())
    print(f"{OUTPUT.value}: {counted(len(chosen), 'query', 'queries')}: {kinds}")


def balance() -> None:
    """`balance`: a file for `config.data.keep`, and beside it the statistics and a picture."""
    from clipjax.curation import balance, matching
    from clipjax.data.sources import selection
    from clipjax.pictures import canvas, plot

    output = _output()
    listed = matching.read_queries(_needed(QUERIES))
    result = balance.balance(
        _source(),
        matcher=matching.Matcher(listed, lower_case=LOWER_CASE.value),
        path=output,
        per_query=PER_QUERY.value,
        seed=SEED.value,
        num_workers=NUM_WORKERS.value,
    )
    print(balance.describe(result, queries=listed, per_query=PER_QUERY.value))
    stem = output.removesuffix(selection.ENDING)
    counts = zip(listed, result["before"], result["after"], strict=True)
    rows = [("query", "before", "after"), *counts]
    files.write(f"{stem}.counts.tsv", "".join("\t".join(map(str, row)) + "\n" for row in rows))
    figure = balance.plot(result, per_query=PER_QUERY.value)
    files.write(f"{stem}.png", canvas.encoded(plot.rendered(figure), ending=".png"))
    print(f"{stem}.counts.tsv, {stem}.png; train with --config.data.keep={OUTPUT.value}")


def dedup() -> None:
    """`dedup`: a file for `config.data.keep`."""
    from clipjax import config
    from clipjax.build import data as build_data
    from clipjax.curation import dedup

    output = _output()
    against = {}
    for one in AGAINST.value:
        kind, colon, path = one.partition(":")
        if not colon:
            raise ConfigError(f"--against={one}: write SOURCE:PATH, such as folder:/data/imagenet")
        settings = config.records(source=kind, path=path, split="test")
        try:
            against[one] = build_data.source(settings, image_size=IMAGE_SIZE.value, seed=0)
        except (ConfigError, DataError) as error:
            raise type(error)(f"--against={one}: {error}") from None
    result = dedup.dedup(
        _source(),
        against=against,
        path=output,
        distance=DISTANCE.value,
        num_workers=NUM_WORKERS.value,
    )
    print(dedup.describe(result))
    print(f"train with --config.data.keep={OUTPUT.value}")


VERBS: dict[str, Callable[[], None]] = {
    verb.__name__: verb
    for verb in (check, bench, index, convert, tokenizer, queries, balance, dedup)
}


def _source() -> Any:
    """The data that the flags name; ConfigError if they name none."""
    return named_data.source(image_size=IMAGE_SIZE.value)


def _needed(flag: Any) -> Any:
    """A flag's value; ConfigError if it is not given."""
    if not flag.value:
        raise ConfigError(f"--{flag.name} is missing")
    return flag.value


def _output(name: str = "") -> str:
    """The path --output; an error now if it, or the file `name` in it, could not be written."""
    output = _needed(OUTPUT).rstrip("/")
    files.check_writable(f"{output}/{name}" if name else output, setting="--output")
    return output


if __name__ == "__main__":
    cli.run_verb(VERBS)
