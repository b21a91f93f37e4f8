"""One step's loss and gradients against PyTorch's, ViT-B/32 whole; marked interop."""

import numpy as np
import pytest

pytestmark = pytest.mark.interop
BATCH = 8
TOLERANCE = 1e-3


def test_the_gradients_of_one_step(tmp_path):
    import jax
    import jax.numpy as jnp
    import open_clip
    import torch

    from clipjax import losses
    from clipjax.build import pretrained
    from clipjax.models import clip
    from clipjax.parallel import mesh as meshes
    from clipjax.parallel.mesh import BATCH_AXES
    from clipjax.weights import openai
    from tests.weights import parity, peers, small

    theirs = peers.save_open_clip(tmp_path / "model", peers.open_clip_config("ViT-B-32-quickgelu"))
    variables, run = pretrained.read(tmp_path / "model")
    model = run["config"]["model"]
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (BATCH, 224, 224, 3)).astype(np.uint8)
    ids = np.concatenate([parity.ids_of(77, 49_408, siglip=False)] * 3)[:BATCH].copy()
    ids[:, 1] = np.arange(BATCH) + 400  # no two captions alike

    mesh = meshes.make_mesh({"data": 1, "fsdp": -1, "tensor": 1})
    module, loss = clip.from_dict(model), losses.get("softmax_gather")

    def step(params):
        outputs = module.apply({"params": params}, pixels, jnp.asarray(ids, jnp.int32))
        return loss(**outputs, mesh=mesh, batch_axes=BATCH_AXES)[0]

    ours, grads = jax.jit(jax.value_and_grad(step))(variables["params"])

    normal = parity.normalised(pixels, mean=model["image_mean"], std=model["image_std"])
    image = theirs.encode_image(torch.as_tensor(normal), normalize=True)
    text = theirs.encode_text(torch.as_tensor(ids).long(), normalize=True)
    value = open_clip.ClipLoss()(image, text, theirs.logit_scale.exp())
    value.backward()

    assert abs(float(ours) - float(value)) <= 1e-5 * abs(float(value))
    found = small.theirs(jax.tree.map(np.asarray, grads), layout=openai.layout(model))
    wanted = {name: p.grad.numpy() for name, p in theirs.named_parameters()}
    assert found.keys() == wanted.keys()
    largest = max(float(np.abs(g).max()) for g in wanted.values())
    errors = {
        name: float(np.abs(found[name] - g).max()) / max(float(np.abs(g).max()), 1e-4 * largest)
        for name, g in wanted.items()
    }
    worst = max(errors, key=errors.__getitem__)
    print(f"\nloss {float(ours):.6f}, largest error of a gradient {errors[worst]:.1e} ({worst})")
    assert errors[worst] <= TOLERANCE, worst
