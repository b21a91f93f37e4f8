"""Plain inputs for the pictures' tests."""

import json
import math

import numpy as np


def image(seed: int, *, side: int = 64) -> np.ndarray:
    """uint8 [side, side, 3] that is nowhere blank."""
    return np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)


def write_log(path, *, steps=200, every=10, resume_at=None, nan_at=()):
    """A `metrics.jsonl`; at `resume_at` it goes back by 50 steps, and it ends in half a line."""
    with open(path, "w") as file:
        order = list(range(every, steps + 1, every))
        if resume_at is not None:
            cut = order.index(resume_at) + 1
            order = order[:cut] + [step for step in order if step > resume_at - 50]
        for step in order:
            line = {
                "step": step,
                "examples_seen": step * 8,
                "data/records_hash": 2**32 - 1,
                "train/loss": math.nan if step in nan_at else 5 * math.exp(-step / 100),
                "train/logit_scale": 14.3 + step / 100,
                "train/learning_rate": 1e-3,
                "train/image_to_text_accuracy": step / 1000,
                "train/text_to_image_accuracy": step / 900,
                "perf/examples_per_second": 100 + step,
                "perf/data_wait_fraction": 0.01,
                "note": "not a number",
            }
            file.write(json.dumps(line) + "\n")
            if step % 50 == 0:
                values = {"step": step, "eval/held_out/text_to_image_recall_at_1": step / 400}
                file.write(json.dumps(values) + "\n")
        file.write('{"step": 9')
    return str(path)
