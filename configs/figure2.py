"""The paper's Figure 2: how fast CLIP learns, against what it replaced.

python -m clipjax.main --config=configs/figure2.py:WAY [--workdir=DIR] --config.data.…
JAX_PLATFORMS=cpu python -m clipjax.main --config=configs/figure2.py:WAY,scenes

WAY is one of
  caption        a language model of the caption, the image as its first 4 tokens
  words          prediction of the caption's words, in any order
  bag_of_words   contrast with the mean of the caption's word embeddings
  transformer    contrast with a text transformer, as CLIP is; the default

All with an RN50 and one pass over 400 M pairs; the vocabulary is the release's. The paper gives
no settings for them: they are those of RN50's table 20. With `scenes` the same in small, with the
quickstart's image tower on its data, which takes minutes on a CPU.
"""

import dataclasses

from ml_collections import ConfigDict

from clipjax import config
from clipjax.models import config as model_config

WAYS = {
    "caption": "captioning",
    "words": "word_prediction",
    "bag_of_words": "bag_of_words",
    "transformer": "transformer",
}
PREDICTING = ("caption", "words")


def get_config(variant="transformer"):
    way, _, scale = variant.partition(",")
    if way not in WAYS or scale not in ("", "scenes"):
        raise ValueError(f'"{variant}" is none of {", ".join(WAYS)}, each perhaps with ",scenes"')
    c = _scenes() if scale else _rn50()
    kind = model_config.TOWERS["text"][WAYS[way]]
    known = [field.name for field in dataclasses.fields(kind) if field.name in c.model.text]
    text = kind(**{**{name: c.model.text[name] for name in known}, "kind": WAYS[way]})
    c.model.name = "custom"
    c.model.text = ConfigDict(dataclasses.asdict(text))
    if way in PREDICTING:
        c.loss.name = "likelihood"
    if scale:
        measure = "likelihood" if way in PREDICTING else "zero_shot"
        c.evals.objects = config.evaluator(measure, every="100 steps", source="objects")
    return c


def _rn50():
    c = config.defaults()
    c.total = "400M examples"
    c.model = config.model("RN50")
    c.optimizer.learning_rate = 5e-4
    c.optimizer.beta2 = 0.999
    c.optimizer.epsilon = 1e-8
    c.model.vision.remat, c.model.text.remat = "block", "block"
    c.micro_batches = 4
    c.mesh.data, c.mesh.fsdp = -1, 16
    return c


def _scenes():
    c = config.defaults()
    c.batch_size = 128
    c.total = "1000 steps"
    c.log_every = "10 steps"
    c.model = config.model("custom", embed_dim=96, scan=False, dtype="float32")
    c.model.vision.update(image_size=48, patch_size=8, width=96, layers=3, head_width=32)
    c.model.text.update(context_length=18, vocab_size=560, width=96, heads=3, layers=2)
    c.loss.embed_dtype = "float32"
    c.optimizer.learning_rate = 2e-3
    c.optimizer.learning_rate_factors = ((r".*position_embedding", 8.0), (r".*", 1.0))
    c.optimizer.weight_decay = 0.1
    c.optimizer.clip_norm = 1.0
    c.schedule.warmup = "60 steps"
    c.data.source = "scenes"
    c.data.num_workers = 0
    c.tokenizer.max_captions = 10_000
    c.checkpoint.every = "500 steps"
    return c
