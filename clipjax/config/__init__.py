"""Every setting clipjax has, its default and its meaning; `configs/*.py` start from `defaults()`.

A setting is **run-defining** unless `OPERATIONAL` lists it: run-defining settings may not change
within a work directory, operational ones may change at every restart. Durations are strings:
"2000 steps", "12.8G examples", "32 epochs". Config files are Python and run as code.
"""

import fnmatch
from typing import Any

from ml_collections import ConfigDict

from clipjax.common import urls
from clipjax.models import zoo

Config = Any  # an ml_collections.ConfigDict, whose settings no type checker can know

# Free to change between restarts of one run: they alter where, how fast and how often, not what.
OPERATIONAL = (
    "log_every",
    "micro_batches",
    "mesh",
    "num_slices",
    "wandb",
    "join_seconds",
    "heartbeat_seconds",
    "watchdog_seconds",
    "profile",
    "compilation_cache",
    "compiler_options",
    "kernels",
    "sharding_rules",
    "checkpoint",
    "evals",
    "model.scan",
    "model.vision.remat",
    "model.text.remat",
    "loss.block_size",
    "stages.*.micro_batches",
    "data.path",
    "data.index",
    "data.keep",
    "data.cache_dir",
    "data.cache_gigabytes",
    "data.num_workers",
    "data.max_bad_fraction",
    "data.mixture.*.path",
    "data.mixture.*.index",
    "data.mixture.*.keep",
    "tokenizer.path",
    "tokenizer.max_captions",
)


def model(name: str, **changes: Any) -> Config:
    """The `model` settings for a released model by name; see `clipjax.models.zoo`.

    Args:
      name: a name of the zoo ("ViT-B/32", …), or "custom" for a shape of your own, which `changes`
        must then complete.
      **changes: settings to change; dicts (`vision`, `text`) are merged.
    """
    resnet = changes.get("vision", {}).get("kind") == "resnet"
    base = "RN50" if resnet else "ViT-B/32"
    shape = zoo.get(base if name == "custom" else name)
    c: Config = ConfigDict()
    c.name = name  # a zoo name, checked against the shape below; "custom" for any other shape
    c.embed_dim = shape["embed_dim"]  # E, the joint embedding
    c.activation = shape["activation"]  # "quick_gelu" (as released), "gelu" or "gelu_tanh"
    c.layer_norm_epsilon = shape["layer_norm_epsilon"]
    c.logit_bias = shape.get("logit_bias", False)  # of the logits; the sigmoid loss needs it
    c.image_mean = shape["image_mean"]  # of pixels in [0, 1], red green blue
    c.image_std = shape["image_std"]
    c.image_resize = shape.get("image_resize", "crop")  # or "squash": both sides, as SigLIP
    c.vision = ConfigDict(shape["vision"])  # the fields of a tower of `models/config.py`
    c.vision.remat = "none"  # what the backward pass recomputes: "none", "block", "mlp", "dots"
    c.text = ConfigDict(shape["text"])
    c.text.remat = "none"  # as for vision
    c.scan = True  # layers under one lax.scan: compiles in constant time
    c.dtype = "bfloat16"  # of matmul operands; statistics, softmax and logits are float32
    c.param_dtype = "float32"  # of the stored parameters
    with c.ignore_type():  # 4 and 3.7 are both an mlp_ratio; `models/config.py` checks types
        c.update(changes)
    return c


def defaults() -> Config:
    """A complete config: the paper's recipe on ViT-B/32 (Radford et al. 2021, tables 18 to 20)."""
    c: Config = ConfigDict()
    c.seed = 0  # of initialisation, data order and augmentation
    c.batch_size = 32_768  # global, in image-text pairs
    c.micro_batches = 1  # parts in which the towers take the batch; the loss sees it whole
    c.total = "12.8G examples"  # length of the run; the schedule ends here
    c.stages = ConfigDict()  # name → settings of a part of the run before the last, see `stage`
    c.patch_dropout = 0.0  # share of an image's patches that training leaves out, at random (FLIP)
    c.ema_decay = 0.0  # of a moving average of the weights, which is then evaluated; 0 is off
    c.log_every = "50 steps"  # metrics stay on the device between log steps
    c.wandb = ""  # Weights & Biases project; "" is off
    c.join_seconds = 600  # that a host waits for the others to start, then it ends with 70
    c.heartbeat_seconds = 60  # a host silent for so long is taken for dead; the others end with 70
    c.watchdog_seconds = 1800.0  # without a finished step, save or evaluated batch; 0 is off
    c.profile = ""  # steps to trace, "100:105"; `touch WORKDIR/profile` traces the next; "" is off
    c.kernels = (
        "auto"  # our TPU kernels: "auto" is on TPUs, "on" (elsewhere slow, for tests), "off"
    )
    c.compiler_options = "auto"  # preset of parallel/compiler_options.py; "none"
    c.compilation_cache = "~/.cache/clipjax"  # of compiled programs, private to you; "" is off

    c.mesh = ConfigDict()  # devices by axis; one axis may be -1: all that remain
    c.mesh.data = 1  # replicas of the parameters; where it is -1, fsdp is at most what is set
    c.mesh.fsdp = -1  # parameters and optimizer state split, gathered where needed
    c.mesh.tensor = 1  # heads and MLP width split
    c.num_slices = 1  # TPU slices joined by a data-centre network; they split `data`
    c.sharding_rules = ()  # (regex, rule) pairs before the built-in ones, see parallel/sharding.py

    c.init = ConfigDict()  # where weights come from when the work directory holds none
    c.init.weights = ""  # a run, a step, or what `clipjax.convert` reads; "" is from scratch
    c.init.towers = ("vision", "text")  # which towers to take; logit_scale comes with both
    c.init.resize_positions = True  # interpolate position tables of another size

    c.model = model("ViT-B/32")

    c.loss = ConfigDict()
    c.loss.name = "softmax_gather"  # see clipjax/losses
    c.loss.block_size = 1024  # rows and columns of logits at once, ring losses
    c.loss.duplicates = "negative"  # equal captions or images in a batch: or "positive", "mask"
    c.loss.embed_dtype = "bfloat16"  # embeddings enter the logits' matmul as; logits are float32

    c.optimizer = ConfigDict()
    c.optimizer.name = "adamw"  # or "lion", "adafactor", "muon"
    c.optimizer.learning_rate = 5e-4  # peak
    c.optimizer.weight_decay = 0.2  # decoupled; multiplied by the learning rate
    c.optimizer.beta1 = 0.9
    c.optimizer.beta2 = 0.98
    c.optimizer.epsilon = 1e-6
    c.optimizer.clip_norm = 0.0  # of the global gradient norm; 0 is off (the paper names none)
    c.optimizer.skip_spikes_above = 0.0  # of the usual gradient norm; 0 is off
    # (regex, factor) lists over parameter names; first match wins, every parameter must match.
    c.optimizer.decay_factors = (
        (r".*/(bias|scale)", 0.0),  # gains and biases, as the paper
        (r"logit_(scale|bias)", 0.0),
        (r".*", 1.0),
    )
    c.optimizer.learning_rate_factors = ((r".*", 1.0),)  # 0 freezes: no update, no state
    c.optimizer.layer_decay = 1.0  # learning rate of each block relative to the next; 1 is off
    # Regexes of parameters stored in bfloat16, rounded stochastically: (r"text/.*",) as the paper.
    c.optimizer.bfloat16_weights = ()
    c.optimizer.moments_dtype = "float32"  # "bfloat16" halves their memory, rounded stochastically

    c.schedule = ConfigDict()
    c.schedule.name = "cosine"  # "cosine" to zero, "constant", or "rsqrt": 1 / √(1 + t / timescale)
    c.schedule.warmup = "2000 steps"  # linear from zero
    c.schedule.cooldown = ""  # linear to zero at the end of "constant" and "rsqrt"; "" is off
    c.schedule.timescale = "10000 steps"  # of "rsqrt"

    c.data = records()
    c.data.mixture = ConfigDict()  # name → settings of several sources, see `part`; then no source
    c.data.cache_dir = ""  # of indexes and copies of remote shards; "" is ~/.cache/clipjax
    c.data.cache_gigabytes = 100.0  # at most so much of copies; two windows of shards must fit
    c.data.num_workers = 8  # loader processes a host; 0 loads in this process
    c.data.max_bad_fraction = 0.01  # unreadable records before the run stops with exit 65

    c.tokenizer = ConfigDict()
    c.tokenizer.kind = "sentencepiece"  # own; "clip": the release's byte pairs; "siglip": T5's as
    # SigLIP uses it; "gemma": as SigLIP 2
    # Its file; "" is that of init.weights, else one trained on the captions ("clip": installed).
    c.tokenizer.path = ""
    c.tokenizer.max_captions = 1_000_000  # captions read to train it

    c.checkpoint = ConfigDict()
    c.checkpoint.every = "1000 steps"
    c.checkpoint.every_minutes = 30.0  # also after so many minutes; 0 is off
    c.checkpoint.keep_last = 3
    c.checkpoint.keep_every = ""  # keep these for good, "10000 steps"; "" is off
    c.checkpoint.keep_best = ConfigDict()
    c.checkpoint.keep_best.metric = ""  # "eval/<name>/…"; "" is off
    c.checkpoint.keep_best.mode = "max"  # "max" or "min"

    c.evals = ConfigDict()  # name → settings, see `evaluator`
    return c


def records(**changes: Any) -> Config:
    """Settings of one source of image-text pairs, `config.data`; `changes` from the defaults."""
    c: Config = ConfigDict()
    c.source = "tfds"  # see clipjax/data/sources
    c.path = ""  # shards, a table or a folder, local or remote; tfds: the data_dir
    c.name = ""  # tfds: builder name, "coco_captions", "my_set:1.0.0"
    c.split = "train"
    c.image_key = ""  # member, feature or column of the image; "" is found by type or name
    c.text_key = ""  # of the caption, caption list or label; several fields: "recaption,txt"
    c.text_weights = ()  # chances of these fields; () takes the first one that has text
    c.order = "global"  # all records shuffled; "window" goes through a few shards at a time
    c.window = 8  # shards read together, order "window"
    c.keep = ""  # a selection that `clipjax.dataset balance` or `dedup` wrote; "" is all records
    c.index = ""  # what `clipjax.dataset index` wrote, local or remote; "" looks into each shard
    c.update(changes)
    return c


def part(weight: float, **changes: Any) -> Config:
    """Settings of one source of a mixture, `config.data.mixture.<name>`.

    Args:
      weight: its share of the examples, in proportion to the other parts'.
      **changes: settings to change from those of `records`.
    """
    c = records()
    c.weight = float(weight)
    c.update(changes)
    return c


def stage(until: str, **changes: Any) -> Config:
    """Settings of a part of the run, `config.stages.<name>`; the config's own are the last part.

    Args:
      until: examples seen when it ends, "30M examples"; stages follow each other by it.
      **changes: settings to change from those of the run.
    """
    c: Config = ConfigDict()
    c.until = until
    c.batch_size = 0  # global; 0 is the run's, here and below
    c.micro_batches = 0
    c.image_size = 0
    c.context_length = 0
    c.patch_dropout = -1.0  # -1 is the run's
    c.update(changes)
    return c


def evaluator(kind: str, **changes: Any) -> Config:
    """Settings of one evaluator, `config.evals.<name>`.

    Args:
      kind: what it measures: "loss", "retrieval", "zero_shot", or "likelihood", which is zero_shot
        for models that predict captions.
      **changes: settings to change from the defaults below.
    """
    c: Config = ConfigDict()
    c.kind = kind
    c.every = "5000 steps"  # also at the end
    c.batch_size = 0  # global; 0 is the training batch, at most 1024
    c.source = ""  # as `data`; "" follows from path's ending, or is the training run's, with path
    c.path = ""
    c.name = ""
    c.split = "test"
    c.image_key, c.text_key = "", ""
    c.keep, c.index = "", ""
    c.max_examples = 0  # images spread over the set; 0 is all
    if kind in ("zero_shot", "likelihood"):
        # Table of class names: built in, or a JSON file, {"names": {"label key": "name" or ["name",
        # "alias"], …}, "templates": ["a photo of a {}."]}; "" is the data's own.
        c.classes = ""
        c.templates = ()  # prompts, texts with one {} for the name; () is the table's
        c.permute_names = False  # a control that must fail: every class gets the next one's names
        if isinstance(changes.get("templates"), str):
            changes["templates"] = (changes["templates"],)
    c.update(changes)
    return c


def is_operational(key: str) -> bool:
    """Whether the flattened key ("data.path") may change between restarts of a run."""
    return any(
        key == name or key.startswith(f"{name}.") or fnmatch.fnmatchcase(key, name)
        for name in OPERATIONAL
    )


def to_keep(config: Config) -> dict[str, Any]:
    """The settings as they are stored with a run: addresses without passwords or signatures."""
    return urls.shown_in(config.to_dict())


def flatten(config: Config, prefix: str = "") -> dict[str, Any]:
    """{"data.path": value, …} with tuples for lists, so that JSON and Python configs compare."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        name = f"{prefix}{key}"
        if hasattr(value, "items"):
            flat.update(flatten(value, f"{name}."))
        else:
            flat[name] = _as_tuple(value)
    return flat


def _as_tuple(value: Any) -> Any:
    return tuple(_as_tuple(v) for v in value) if isinstance(value, list | tuple) else value


def changed(old: dict[str, Any], new: dict[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Run-defining settings that differ: key → (old, new), from two flattened configs.

    A key that an older clipjax did not know had its default there, so that its runs go on; any
    other key that only one side has counts with None on the other.
    """
    defaults_now = flatten(defaults())
    keys = [key for key in {**old, **new} if not is_operational(key)]
    pairs = {key: (old.get(key, defaults_now.get(key)), new.get(key)) for key in keys}
    return {key: (before, now) for key, (before, now) in pairs.items() if before != now}
