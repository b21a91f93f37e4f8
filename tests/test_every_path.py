"""Every path that a user types may be relative, below `~` or remote, or is refused in one line.

The flags are read from the programs' sources and the settings from their table, so that a new one
that takes a path, or may, has to be named here.
"""

import ast
import itertools
import json
import pathlib
import re

import pytest

import clipjax
from clipjax.common import exits
from clipjax.common.exits import ConfigError
from clipjax.common.ranges import Range
from clipjax.config import check as config_check
from clipjax.config import ranges as config_ranges
from clipjax.data import tokenizers
from tests import fake_gcs, one_program, processes, tiny
from tests.data import tars, webdatasets

SOURCES = pathlib.Path(clipjax.__file__).parent
PROGRAMS = sorted(path.stem for path in SOURCES.glob("*.py") if "    cli.run" in path.read_text())
FLAGS_ELSEWHERE = {"dataset": ["build/named_data.py"]}
# Flags of text that name no file, and those whose path is a part of the text, or run as code.
NO_PATHS = {
    "compare": {"metric"},
    "convert": {"format"},
    "dataset": {"source", "name", "split", "image_key", "text_key"},
    "evaluate": {"compare", "labels", "protocols", "query", "template"},
    "plan": {"topology", "sweep_remats", "sweep_micro_batches", "sweep_meshes"},
}
OF_RECORDS = {"dataset": {"path", "against"}, "overlap": {"training"}}
OF_CODE = {"evaluate": {"suite"}, "overlap": {"suite"}}  # `clipjax.common.shipped` opens them
NO_PATH_SETTINGS = {
    *(
        "wandb",
        "checkpoint.keep_best.metric",
        "data.name",
        "data.split",
        "data.image_key",
        "data.text_key",
    ),
    *(f"evals.*.{key}" for key in ("name", "split", "image_key", "text_key")),
    *(f"data.mixture.*.{key}" for key in ("name", "split", "image_key", "text_key")),
}
LOCAL = ("here/it", "~/it")
REMOTE = ("gs://bucket/it", "s3://bucket/it", "hf://org/it", "memory://it", "https://host/it")
SLIPS = ("gs:/bucket/it", "memory:/it", "~nobody_of_this_name/it")


def defined(program, *functions):
    """Names of the flags that a program's sources define with these functions."""
    files = (f"{program}.py", *FLAGS_ELSEWHERE.get(program, ()))
    trees = [ast.parse((SOURCES / file).read_text()) for file in files]
    calls = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    named = [call for call in calls if getattr(call.func, "attr", "") in functions]
    return {call.args[0].value for call in named if isinstance(call.args[0], ast.Constant)}


def one_line(text):
    return len(text.strip().splitlines()) == 1 and "Traceback" not in text


def test_the_programs_are_all_found():
    programs = {"compare", "convert", "dataset", "evaluate", "main", "overlap", "plan", "verify"}
    assert programs <= set(PROGRAMS)
    known = {"common/cli.py", *(f"{program}.py" for program in PROGRAMS)}
    known = known.union(*FLAGS_ELSEWHERE.values())
    for path in SOURCES.rglob("*.py"):
        defines = re.search(r"(DEFINE|define_paths?)\w*\(", path.read_text())
        assert not defines or str(path.relative_to(SOURCES)) in known, path


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_flag_of_text_is_known_to_be_a_path_or_none(program):
    texts = defined(program, "DEFINE_string", "DEFINE_multi_string", "DEFINE_list", "DEFINE")
    known = [table.get(program, set()) for table in (NO_PATHS, OF_RECORDS, OF_CODE)]
    assert texts == set().union(*known), "use cli.define_path, or say here that it names no file"
    assert defined(program, "define_path", "define_paths")


@pytest.mark.parametrize("program", PROGRAMS)
def test_every_path_flag_takes_a_path_or_refuses_it_in_one_line(program, tmp_path):
    flags = sorted(defined(program, "define_path", "define_paths"))
    verb = ["check"] if program == "dataset" else []
    rows = list(itertools.product(flags, (*LOCAL, *REMOTE, *SLIPS)))
    results = one_program.run(
        f"clipjax.{program}",
        [[*verb, f"--{flag}={path}", "--no_such_flag"] for flag, path in rows],
        cwd=tmp_path,
        environment={"HOME": str(tmp_path / "home")},
    )
    for (flag, path), result in zip(rows, results, strict=True):
        assert result.code == exits.BAD_CONFIG and one_line(result.err), result
        refused = f"--{flag}={path}: " in result.err
        assert refused or "no_such_flag" in result.err, result
        assert refused or path not in SLIPS, result
        assert not refused or path not in LOCAL, result
        if not refused:
            value = result.values[flag]
            value = value[0] if isinstance(value, list) else value
            assert value == path.replace("~", str(tmp_path / "home")), result
    assert not list(tmp_path.iterdir())


def settings(ranges=config_ranges.SETTINGS, prefix=""):
    """(key, range) of every setting; "*" stands for names that users choose."""
    for key, value in ranges.items():
        if isinstance(value, Range):
            yield f"{prefix}{key}", value
        elif callable(value):  # an evaluator's, by its kind
            yield from settings(value({"kind": "zero_shot"}), f"{prefix}{key}.")
        else:
            yield from settings(value, f"{prefix}{key}.")


PATH_SETTINGS = {key: r for key, r in settings() if r.holds("it") and not r.holds("gs:/it")}


def test_every_setting_of_text_is_known_to_be_a_path_or_none():
    texts = {key for key, each in settings() if each.holds("an odd text")}
    assert texts - set(PATH_SETTINGS) == NO_PATH_SETTINGS, "give it config_ranges.path"
    assert {"data.path", "data.cache_dir", "tokenizer.path", "init.weights"} <= set(PATH_SETTINGS)


@pytest.mark.parametrize("key", PATH_SETTINGS)
def test_every_path_setting_takes_a_path_or_refuses_it_in_one_line(key):
    for path in (*LOCAL, *REMOTE, *SLIPS[:2]):
        config = tiny.tiny()
        config.data.update(source="tar", path="" if "mixture" in key else "x")
        config.evals["*"] = clipjax.config.evaluator("zero_shot", source="tar", path="x")
        if "mixture" in key:
            config.data.mixture["*"] = clipjax.config.part(1.0, source="tar", path="x")
        group, _, name = key.rpartition(".")
        inner = config
        for part in filter(None, group.split(".")):
            inner = inner[part]
        inner[name] = path
        try:
            config_check.check(config)
            refused = False
        except ConfigError as error:
            assert one_line(str(error)), error
            refused = str(error).startswith(f"config.{key}={path}: ")
        assert not refused or path not in LOCAL, (key, path)
        assert refused or path not in SLIPS, (key, path)


# What is typed before a path of each kind, where its files then are, and whether that is there.
PLACES = {"here": "", "below home": "~/", "in a bucket": "gs://bucket/"}


class World:
    """A folder to work in, a home folder and a bucket, which hold the same files."""

    def __init__(self, folder, bucket):
        self.cwd, self.home, self.bucket = folder / "cwd", folder / "home", bucket
        self.environment = {**bucket.environment, "HOME": str(self.home)}

    def put(self, name, data):
        for folder in (self.cwd, self.home):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)
        self.bucket.put(name, data)

    def read(self, place, name):
        """A file's bytes; fails where it is not there."""
        if place == "in a bucket":
            return self.bucket.objects[name]
        return ((self.cwd if place == "here" else self.home) / name).read_bytes()

    def check_no_odd_folder(self):
        odd = [p for p in self.cwd.rglob("*") if p.name in ("~", "gs:", "memory:", "home")]
        assert not odd, odd

    def run(self, module, commands, **options):
        return one_program.run(
            module, commands, cwd=self.cwd, environment=self.environment, **options
        )


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    pytest.importorskip("gcsfs")
    folder = tmp_path_factory.mktemp("paths")
    tars.write(folder / "made.tar", tars.pairs(40))
    with fake_gcs.serve() as bucket:
        made = World(folder, bucket)
        made.put("in/0.tar", (folder / "made.tar").read_bytes())
        made.put("text.txt", b"caption 1 caption 2\n" * 5)
        made.put("titles.txt", b"caption_3\t99\n")
        made.put("synsets.txt", b"caption_4\n")
        yield made


RECORDS = "--source=tar --path={}in/0.tar --num_workers=0"
DATASET = (  # each line with the file that it leaves
    (f"check {RECORDS} --output={{}}check", "check/check.json"),
    (f"index {RECORDS} --output={{}}index", "index/survey.json"),
    (f"convert {RECORDS} --output={{}}converted", "converted/features.json"),
    ("check --source=tfds --path={}converted --num_workers=0", ""),
    (f"tokenizer {RECORDS} --output={{}}words --vocab_size=280", "words/sentencepiece.model"),
    (
        "queries --text={}text.txt --titles={}titles.txt --synsets={}synsets.txt --min_count=1"
        " --output={}queries.txt",
        "queries.txt",
    ),
    (f"balance {RECORDS} --queries={{}}queries.txt --output={{}}balanced.keep", "balanced.png"),
    (f"dedup {RECORDS} --against=tar:{{}}in/0.tar --output={{}}dedup.keep", "dedup.keep"),
    (f"check {RECORDS} --index={{}}index --keep={{}}balanced.keep", ""),
)


def test_dataset_reads_and_writes_anywhere(world):
    rows = [(place, *row) for place in PLACES for row in DATASET]
    commands = [line.replace("{}", PLACES[place]).split() for place, line, _ in rows]
    for (place, _, file), result in zip(rows, world.run("clipjax.dataset", commands), strict=True):
        assert result.code == exits.DONE, result
        if file:
            assert world.read(place, file) == world.read("here", file) or "index" in file, result
    kept = [world.read(place, "balanced.keep").splitlines()[-1] for place in PLACES]
    assert kept[0] == kept[1] == kept[2]
    files = {"sentencepiece.model": world.read("in a bucket", "words/sentencepiece.model")}
    assert tokenizers.from_files(files, context_length=16).vocab_size == 280
    assert len(world.bucket.names("converted/converted-train.array_record")) == 1
    world.check_no_odd_folder()


def test_dataset_refuses_paths_of_unknown_protocols(world):
    lines = [line.replace("{}", "memory://") for line, _ in DATASET]
    for result in world.run("clipjax.dataset", [line.split() for line in lines]):
        assert result.code in (exits.BAD_CONFIG, exits.BAD_DATA), result
        assert one_line(result.err), result
    world.check_no_odd_folder()


CONFIG = """
import sys
sys.path.insert(0, {root!r})
from tests import tiny
from clipjax import config

def get_config():
    c = tiny.tiny(total="2 steps", batch_size=8)
    c.model.text.vocab_size = 280
    c.data.source = "tar"
    c.evals.held_out = config.evaluator(
        "retrieval", source="tar", path="in/0.tar", every="2 steps", max_examples=16
    )
    return c
"""
SUITE = """
from clipjax.evals import suites

def get_suite():
    own = suites.own("one", path="{}sets/one", n=12)
    return suites.Suite("mine", (own, suites.own("two", path="{}sets/two", n=12)), ("zero_shot",))
"""
# A run in this process leaves, and the next one joins what this one has joined.
BEFORE = """
import jax
from clipjax.parallel import shutdown
def end(code):
    raise SystemExit(code)
shutdown.end = end
jax.distributed.shutdown = lambda: None
"""
SETTINGS = (
    "--config=config.py --config.data.path={}in/0.tar --config.data.index={}index"
    " --config.data.keep={}balanced.keep --config.tokenizer.path={}words"
    " --config.compilation_cache={}cache --config.evals.held_out.path={}in/0.tar"
)
MODELS = (  # program, arguments, the file that they leave
    ("main", f"{SETTINGS} --workdir={{}}run", "run/metrics.jsonl"),
    ("main", f"{SETTINGS} --config.init.weights={{}}run --workdir={{}}tuned", "tuned/config.json"),
    ("verify", "--workdir={}run", ""),
    (
        "compare",
        "--workdir={}run --workdir={}tuned --output={}compared.png"
        " --metric=eval/held_out/text_to_image_recall_at_10",
        "compared.png",
    ),
    ("evaluate", "--workdir={}run", "run/evaluations/step_2.json"),
    ("evaluate", "--workdir={}run --query=caption --images=pictures", ""),
    ("evaluate", "--workdir={}run --image={}pictures/one.jpg --labels=caption,number", ""),
    (
        "evaluate",
        "--weights={}run --suite={place}.py --data={}sets --prompts={}prompts --output={}results",
        "results/mine/report.html",
    ),
    (
        "overlap",
        "--weights={}run --suite={place}.py --data={}sets --training=tar:{}in/0.tar"
        " --output={}results --thresholds={}thresholds.json",
        "results/mine/overlap/overlap.json",
    ),
    ("convert", "--input={}run --format=open_clip --output={}exported", ""),
)


@pytest.mark.slow
def test_models_are_trained_evaluated_and_converted_anywhere(world, tmp_path):
    commands = [line.replace("{}", PLACES[place]) for place in PLACES for line, _ in DATASET]
    world.run("clipjax.dataset", [command.split() for command in commands])
    (world.cwd / "config.py").write_text(CONFIG.format(root=str(processes.ROOT)))
    samples = [{"jpg": tars.picture(i), "cls": b"%d" % (i % 3)} for i in range(12)]
    for name in ("one", "two"):
        webdatasets.write(tmp_path / "sets" / name, samples, names=("a", "b", "c"))
    for file in (tmp_path / "sets").rglob("*.*"):
        world.put(str(file.relative_to(tmp_path)), file.read_bytes())
    world.put("pictures/one.jpg", tars.picture(1))
    world.put("thresholds.json", b'{"one": 0.9}')
    named = {"names": {"0": "a fox", "1": "a pig", "2": "a bear"}, "templates": ["{}"]}
    world.put("prompts/two.json", json.dumps(named).encode())
    for place, prefix in PLACES.items():
        (world.cwd / f"{place.split()[-1]}.py").write_text(SUITE.replace("{}", prefix))
    for program, group in itertools.groupby(MODELS, key=lambda row: row[0]):
        rows = [(place, *row[1:]) for place, row in itertools.product(PLACES, list(group))]
        commands = [
            line.replace("{}", PLACES[place]).replace("{place}", place.split()[-1]).split()
            for place, line, _ in rows
        ]
        results = world.run(f"clipjax.{program}", commands, before=BEFORE)
        for (place, _, file), result in zip(rows, results, strict=True):
            if program == "convert" and place == "in a bucket":
                assert result.code == exits.BAD_CONFIG and one_line(result.err), result
                assert "name a local folder, and copy that to where it goes" in result.err
                continue
            assert result.code == exits.DONE, result
            if file:
                assert world.read(place, file)
    world.check_no_odd_folder()
