"""A config small enough for tests, and how to run it in this process."""

import json
import pathlib

from clipjax import config
from clipjax.common import exits
from clipjax.config import check as config_check


def tiny(**changes):
    """Scenes of 32 pixels, one layer a tower, 6 steps of 16 pairs, in float32."""
    c = config.defaults()
    c.batch_size = 16
    c.total = "6 steps"
    c.log_every = "1 steps"
    c.compilation_cache = ""
    c.model = config.model("custom", embed_dim=16, dtype="float32")
    c.model.vision.update(image_size=32, patch_size=16, width=32, layers=1, head_width=16)
    c.model.text.update(context_length=24, vocab_size=384, width=32, heads=2, layers=1)
    c.loss.embed_dtype = "float32"
    c.optimizer.learning_rate = 1e-3
    c.schedule.warmup = "2 steps"
    c.data.source = "scenes"
    c.data.num_workers = 0
    c.tokenizer.max_captions = 1000
    c.checkpoint.every = "2 steps"
    with c.unlocked():
        c.update(changes)
    return c


def tiny_resnet(**changes):
    """`tiny` with a ResNet of two blocks for images."""
    c = tiny(**changes)
    text = c.model.text
    vision = {"kind": "resnet", "image_size": 32, "width": 4, "layers": (1, 1), "head_width": 8}
    c.model = config.model("custom", embed_dim=16, dtype="float32", vision=vision)
    c.model.text = text
    return c


def run(c, workdir, *, allow_config_change=False) -> int:
    """The exit code of training it, as `main` would give."""
    from clipjax import train

    try:
        config_check.check(c)
        return train.train(c, workdir=str(workdir), allow_config_change=allow_config_change)
    except exits.CleanExit as error:
        print(f"clipjax: {error}")
        return error.code


def lines(workdir) -> list[dict]:
    """The lines of `metrics.jsonl`."""
    text = (pathlib.Path(workdir) / "metrics.jsonl").read_text()
    return [json.loads(line) for line in text.splitlines()]


def values(workdir) -> dict[int, dict]:
    """Step → everything its line says but timing; a step written twice must say the same."""
    found: dict[int, dict] = {}
    for line in lines(workdir):
        if "train/loss" not in line:
            continue
        kept = {k: v for k, v in line.items() if not k.startswith(("perf/", "time/"))}
        assert found.setdefault(line["step"], kept) == kept, f"step {line['step']} changed"
    return found


get_config = tiny  # `--config=tests/tiny.py` for runs in processes of their own
