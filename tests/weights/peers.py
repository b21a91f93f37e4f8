"""Models that other programs build, with random weights, in their own files; and their features.

Used by the parity table (`tests/bench/parity_table.py`) and by the tests marked interop.
"""

import json
import logging
import os
import pathlib
import warnings

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import numpy as np
import open_clip
import torch
import transformers
from PIL import Image
from safetensors.torch import save_file

warnings.filterwarnings("ignore")
logging.getLogger("transformers").setLevel(logging.ERROR)
transformers.utils.logging.disable_progress_bar()

TEXTS = ["a diagram", "a photo of a dog.", "naïve café — 2021 😀"]
HALF = ("in_proj_", "out_proj.", "mlp.", "conv", "proj")  # what the release keeps in float16


def stir(model: torch.nn.Module) -> torch.nn.Module:
    """Every parameter moved from where it began, so that no gain is 1 and no bias 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            spread = 0.1 * float(parameter.std()) if parameter.numel() > 1 else 0.0
            parameter += max(spread, 0.02) * torch.randn(parameter.shape, generator=generator)
        for name, buffer in model.named_buffers():  # BatchNorm's averages, which begin as 0 and 1
            if name.endswith(("running_mean", "running_var")):
                buffer += 0.2 * torch.rand(buffer.shape, generator=generator)
    return model.eval()


def images(size: int, count: int = 3) -> list[Image.Image]:
    """Pictures wider than high, to be resized and cropped."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 24, 30, 3), np.uint8)
    return [Image.fromarray(x).resize((size * 3 // 2, size * 5 // 4), 3) for x in small]


def squares(size: int, count: int = 3) -> list[Image.Image]:
    """Pictures of the model's own size, which every program takes as they are."""
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (count, 8, 8, 3), np.uint8)
    return [Image.fromarray(x).resize((size, size), 3) for x in small]


def merges_of(byte_pairs) -> list[tuple[str, str]]:
    """The merges of a model of `tokenizers`, which only its state tells."""
    state = json.loads(byte_pairs.__getstate__())
    return [tuple(m.split(" ") if isinstance(m, str) else m) for m in state["merges"]]


def open_clip_config(name: str, **towers: dict) -> dict:
    """open_clip's own settings of a model, some of them changed."""
    config = json.loads(json.dumps(open_clip.get_model_config(name)))
    for tower, changes in towers.items():
        config[f"{tower}_cfg"] |= changes
    return config


def save_open_clip(folder: pathlib.Path, config: dict, *, squash: bool = False) -> torch.nn.Module:
    """A model of these settings in a folder of open_clip's, loaded from there by open_clip."""
    folder.mkdir(parents=True)
    images = {"resize_mode": "squash", "mean": [0.5] * 3, "std": [0.5] * 3} if squash else {}
    content = {"model_cfg": config, "preprocess_cfg": images}
    (folder / "open_clip_config.json").write_text(json.dumps(content))
    torch.manual_seed(0)
    model = stir(open_clip.create_model(f"local-dir:{folder}", load_weights=False))
    save_file(dict(model.state_dict()), folder / "open_clip_model.safetensors")
    return model


def load_open_clip(folder: pathlib.Path) -> torch.nn.Module:
    """As open_clip loads it: strictly, or it raises."""
    return open_clip.create_model(f"local-dir:{folder}").eval()


def save_transformers(folder: pathlib.Path, config, kind) -> torch.nn.Module:
    """A model of these settings in a folder of transformers'."""
    torch.manual_seed(0)
    model = stir(kind(config))
    model.save_pretrained(folder)
    return model


def load_transformers(folder: pathlib.Path) -> torch.nn.Module:
    """As transformers loads it; nothing may be missing, left over or of another shape."""
    kind = json.loads((folder / "config.json").read_text())["architectures"][0]
    model, info = getattr(transformers, kind).from_pretrained(folder, output_loading_info=True)
    assert not any(info.values()), info
    return model.eval()


def is_half(name: str, value: torch.Tensor) -> bool:
    """Whether the release keeps it in float16."""
    return value.ndim > 0 and any(part in name for part in HALF)


def save_release(file: pathlib.Path, model: torch.nn.Module) -> None:
    """A TorchScript archive as OpenAI's: matrices in float16, three numbers beside the weights."""

    class Archive(torch.nn.Module):
        def forward(self, image, text):
            return image

    def add(root: torch.nn.Module, name: str, value: torch.Tensor) -> None:
        *path, last = name.split(".")
        for part in path:
            if not hasattr(root, part):
                root.add_module(part, torch.nn.Module())
            root = getattr(root, part)
        root.register_parameter(last, torch.nn.Parameter(value, requires_grad=False))

    archive = Archive()
    for name, value in model.state_dict().items():
        add(archive, name, value.half() if is_half(name, value) else value.clone())
    for name, value in (("input_resolution", 224), ("context_length", 77), ("vocab_size", 49408)):
        archive.register_buffer(name, torch.tensor(value))
    torch.jit.save(torch.jit.script(archive), str(file))


def features(model: torch.nn.Module, pixels: np.ndarray, ids: np.ndarray) -> dict[str, np.ndarray]:
    """Embeddings of unit length, and logits, of any of these models.

    Args:
      model: of open_clip or transformers.
      pixels: float32 [B, 3, H, W], normalised.
      ids: int [B, T].
    """
    pixels, ids = torch.as_tensor(pixels), torch.as_tensor(ids).long()
    with torch.no_grad():
        if hasattr(model, "encode_image"):
            image, text = model.encode_image(pixels), model.encode_text(ids)
            bias = getattr(model, "logit_bias", None)
        else:
            found = model(input_ids=ids, pixel_values=pixels)
            image, text = found.image_embeds, found.text_embeds
            bias = getattr(model, "logit_bias", None)
        image = image / image.norm(dim=-1, keepdim=True)
        text = text / text.norm(dim=-1, keepdim=True)
        logits = model.logit_scale.exp() * image @ text.T + (0 if bias is None else bias)
    return {"image": image.numpy(), "text": text.numpy(), "logits": logits.numpy()}
