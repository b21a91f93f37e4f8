"""RN50x4 exactly as the paper trains it (tables 18 to 20): 32 epochs of 400M pairs at 32,768.

python -m clipjax.main --config=configs/rn50x4.py --workdir=gs://BUCKET/rn50x4 \
    --config.data.name=NAME --config.data.path=gs://BUCKET/tensorflow_datasets

The ResNets' Adam has beta2 0.999 and epsilon 1e-8. The paper does not say whether BatchNorm sees
one device's images or all; here it sees the global batch.
"""

from clipjax import config


def get_config():
    c = config.defaults()
    c.model = config.model("RN50x4")
    c.optimizer.learning_rate = 5e-4
    c.optimizer.beta2 = 0.999
    c.optimizer.epsilon = 1e-8
    c.loss.name = "softmax_ring"
    c.model.vision.remat, c.model.text.remat = "block", "block"
    c.mesh.data, c.mesh.fsdp = -1, 16
    return c
