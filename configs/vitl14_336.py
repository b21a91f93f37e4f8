"""ViT-L/14@336px as the paper makes it: one more epoch of a trained ViT-L/14 at 336 pixels.

python -m clipjax.main --config=configs/vitl14_336.py --workdir=gs://BUCKET/vitl14_336 \
    --config.init.weights=gs://BUCKET/vitl14 \
    --config.data.name=NAME --config.data.path=gs://BUCKET/tensorflow_datasets

Learning rate 2e-5 (table 20), FixRes-like (section 2.5). The position table is interpolated from
16 × 16 to 24 × 24. The paper names no warm-up for this epoch; 2,000 steps are kept.

Planned for v5e-256 (`python -m clipjax.plan --config=configs/vitl14_336.py --topology=v5e-256`, the
TPU compiler's estimate): 2,220 M cycles = 1.480 s a step, MFU 52.0 % (42 to 59), 7.2 of 15.8 GiB.
"""

from clipjax import config


def get_config():
    c = config.defaults()
    c.model = config.model("ViT-L/14@336px")
    c.total = "400M examples"
    c.optimizer.learning_rate = 2e-5
    c.loss.name = "softmax_ring"
    c.model.vision.remat, c.model.text.remat = "block", "block"
    c.mesh.data, c.mesh.fsdp = -1, 16
    return c
