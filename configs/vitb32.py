"""ViT-B/32 exactly as the paper trains it (tables 18 to 20): 32 epochs of 400M pairs at 32,768.

python -m clipjax.main --config=configs/vitb32.py --workdir=gs://BUCKET/vitb32 \
    --config.data.name=NAME --config.data.path=gs://BUCKET/tensorflow_datasets

Planned for v5e-256 (`python -m clipjax.plan --config=configs/vitb32.py --topology=v5e-256`, the TPU
compiler's estimate): 128 M cycles = 0.085 s a step, MFU 33.8 % (29 to 37), 0.7 of 15.8 GiB a chip.
"""

from clipjax import config


def get_config():
    c = config.defaults()
    c.model = config.model("ViT-B/32")
    c.optimizer.learning_rate = 5e-4
    c.loss.name = "softmax_ring"
    c.model.vision.remat, c.model.text.remat = "block", "block"
    c.mesh.data, c.mesh.fsdp = -1, 16
    return c
