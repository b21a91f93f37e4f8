"""A CLIP that reads real handwritten digits, from scratch in a few minutes on one core.

JAX_PLATFORMS=cpu python -m clipjax.main --config=configs/digits.py --workdir=runs/digits

Zero-shot classification of held-out digits three times: by the captions of training together, by
one sentence that no caption contains, and by names in the wrong places. The last must be near 0,
below chance: whoever scores well there does not read the names.

A batch holds each digit about 13 times, and only one caption counts as right: the training loss
cannot fall below ln(12.8) = 2.55, and accuracy within the batch stays low. Nothing is wrong then.
"""

from clipjax import config


def get_config():
    c = config.defaults()
    c.batch_size = 128
    c.total = "800 steps"
    c.log_every = "10 steps"

    c.model = config.model("custom", activation="gelu", embed_dim=64, scan=False, dtype="float32")
    c.model.vision.update(image_size=32, patch_size=8, width=96, layers=3, head_width=32)
    c.model.text.update(context_length=20, vocab_size=384, width=64, heads=2, layers=1)
    c.loss.embed_dtype = "float32"

    c.optimizer.learning_rate = 2e-3
    c.optimizer.clip_norm = 1.0
    c.schedule.warmup = "30 steps"

    c.data.source = "digits"
    c.data.num_workers = 0

    c.checkpoint.every = "400 steps"
    for name, changes in {
        "ensemble": {},
        "unseen_template": {"templates": ("a drawing of the numeral {}",)},
        "permuted_names": {"permute_names": True},
    }.items():
        c.evals[name] = config.evaluator("zero_shot", every="400 steps", **changes)
    return c
