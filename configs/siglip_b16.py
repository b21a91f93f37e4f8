"""SigLIP B/16: every pair judged by itself, so no softmax over the batch.

python -m clipjax.main --config=configs/siglip_b16.py --workdir=gs://BUCKET/siglip_b16 \
    --config.data.name=NAME --config.data.path=gs://BUCKET/tensorflow_datasets

Towers, loss, its bias and scale, batch, decay and beta2 of SigLIP (Zhai et al. 2023, section 4):
patches pooled by attention, no class token, text that looks both ways, 64 tokens. Blocks start as
CLIP's do, not as big_vision's.

Planned for v5e-256 (`python -m clipjax.plan --config=configs/siglip_b16.py --topology=v5e-256`, the
compiler's estimate): 293 M cycles = 0.196 s a step, MFU 46.3 % (40 to 50), 1.6 of 15.8 GiB a chip.
"""

from clipjax import config


def get_config():
    c = config.defaults()
    c.model = config.model("SigLIP-B/16")
    c.loss.name = "sigmoid_ring"
    c.total = "9G examples"
    c.optimizer.learning_rate = 1e-3
    c.optimizer.weight_decay = 1e-4
    c.optimizer.beta2 = 0.95
    c.optimizer.clip_norm = 1.0
    c.schedule.warmup = "6500 steps"
    c.model.vision.remat, c.model.text.remat = "block", "block"
    c.mesh.data, c.mesh.fsdp = -1, 16
    return c
