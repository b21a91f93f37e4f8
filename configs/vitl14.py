"""ViT-L/14 exactly as the paper trains it (tables 18 to 20): 32 epochs of 400M pairs at 32,768.

python -m clipjax.main --config=configs/vitl14.py --workdir=gs://BUCKET/vitl14 \
    --config.data.name=NAME --config.data.path=gs://BUCKET/tensorflow_datasets

Planned for v5e-256 (`python -m clipjax.plan --config=configs/vitl14.py --topology=v5e-256`, the TPU
compiler's estimate): 922 M cycles = 0.614 s a step, MFU 55.6 % (47 to 61), 9.6 of 15.8 GiB a chip.
"""

from clipjax import config


def get_config():
    c = config.defaults()
    c.model = config.model("ViT-L/14")
    c.optimizer.learning_rate = 4e-4
    c.loss.name = "softmax_ring"
    c.model.vision.remat, c.model.text.remat = "mlp", "block"
    c.mesh.data, c.mesh.fsdp = -1, 16
    return c
