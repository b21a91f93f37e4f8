"""LiT: a text tower learns to read what a frozen ViT-B/16 sees (Zhai et al. 2022, "LiT").

python -m clipjax.main --config=configs/lit_b16.py --workdir=gs://BUCKET/lit_b16 \
    --config.init.weights=gs://BUCKET/vitb16 \
    --config.data.name=NAME --config.data.path=gs://BUCKET/tensorflow_datasets

The image tower comes from `init.weights` and stays as it is, bit for bit; no gradient and no
optimizer state of it exist. `init.towers = ("vision", "text")` starts from a trained text tower
too. Learning rate and decay of LiT's section 3; it trains with Adafactor, here it is AdamW.
"""

from clipjax import config


def get_config():
    c = config.defaults()
    c.batch_size = 16_384
    c.total = "900M examples"
    c.model = config.model("ViT-B/16")
    c.init.towers = ("vision",)
    c.loss.name = "softmax_ring"
    c.optimizer.learning_rate_factors = ((r"vision/.*", 0.0), (r".*", 1.0))
    c.optimizer.learning_rate = 1e-3
    c.optimizer.weight_decay = 1e-4
    c.optimizer.clip_norm = 1.0
    c.schedule.warmup = "10000 steps"
    c.model.text.remat = "block"
    c.mesh.data, c.mesh.fsdp = -1, 16
    return c
