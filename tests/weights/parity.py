"""Our features against other programs', on the same random weights, images and captions.

A case yields one row a direction; `tests/bench/parity_table.py` prints them, `test_parity.py` holds
them to their limits.
"""

import dataclasses
import pathlib
from collections.abc import Callable, Iterator

import numpy as np
import transformers

import clipjax
from clipjax import convert
from clipjax.data import images as image_files
from tests.weights import peers

LIMITS = {"image": 1e-4, "text": 1e-4, "logits": 1e-3}


@dataclasses.dataclass(frozen=True)
class Row:
    """The largest differences of one comparison."""

    model: str
    direction: str
    image: float
    text: float
    logits: float


def ours(path: pathlib.Path, pictures: list, ids: np.ndarray) -> tuple[dict, "clipjax.Model"]:
    """Our features of the model at a path."""
    model = clipjax.load(path)
    image = model.encode_image(pictures)
    shards = max(8, len(ids))  # the embedder takes texts; ids go past the tokenizer
    padded = np.concatenate([ids, np.repeat(ids[:1], shards - len(ids), 0)]).astype(np.int32)
    text = np.asarray(model.module.apply(model.variables, padded, method="encode_text"))[: len(ids)]
    logits = model.logit_scale * image @ text.T + float(
        model.variables["params"].get("logit_bias", 0.0)
    )
    return {"image": image, "text": text, "logits": logits}, model


def compare(name: str, direction: str, a: dict, b: dict) -> Row:
    return Row(name, direction, **{key: float(np.abs(a[key] - b[key]).max()) for key in LIMITS})


def pixels_of(model: "clipjax.Model", pictures: list) -> np.ndarray:
    """The peers' input: normalised in float64 from the uint8 that we prepare."""
    settings = model.config.model
    shape = {"size": settings.vision.image_size, "resize": settings.image_resize}
    raw = np.stack([image_files.prepare_eval(image, **shape) for image in pictures])
    return normalised(raw, mean=settings.image_mean, std=settings.image_std)


def normalised(pixels: np.ndarray, *, mean, std) -> np.ndarray:
    """uint8 [B, H, W, 3] as PyTorch's models take it, float32 [B, 3, H, W]."""
    normal = (pixels / 255.0 - np.asarray(mean)) / np.asarray(std)
    return normal.astype(np.float32).transpose(0, 3, 1, 2)


def ids_of(length: int, vocab_size: int, *, siglip: bool) -> np.ndarray:
    rng = np.random.default_rng(0)
    ids = np.full((3, length), 1 if siglip else 0)
    for row, words in zip(ids, (3, 9, length - 2), strict=True):
        row[1 : 1 + words] = rng.integers(3, vocab_size - 2, words)
        if not siglip:
            row[0], row[min(words + 1, length - 1)] = vocab_size - 2, vocab_size - 1
        else:
            row[0] = 5
    return ids


def round_trip(
    name: str,
    folder: pathlib.Path,
    peer,
    *,
    own: str,
    others: dict[str, Callable],
    siglip: bool = False,
    source: pathlib.Path | None = None,
    label: str = "",
    tokenizer: str = "",
) -> Iterator[Row]:
    """Rows of one model: into clipjax, and out into each of `others`."""
    source = source or folder
    config = clipjax_config(folder)
    ids = ids_of(config["context_length"], config["vocab_size"], siglip=siglip)
    pictures = peers.squares(config["image_size"])
    mine, model = ours(source, pictures, ids)
    theirs = peers.features(peer, pixels_of(model, pictures), ids)
    yield compare(name, label or f"{own} → clipjax", mine, theirs)
    pixels = pixels_of(model, pictures)
    del model
    for to, load in others.items():
        target = folder.with_name(f"{folder.name}-{to}")
        convert.convert(str(source), to=to, output=str(target), tokenizer=tokenizer)
        yield compare(name, f"clipjax → {to}", peers.features(load(target), pixels, ids), theirs)


def clipjax_config(folder: pathlib.Path) -> dict:
    from clipjax.weights import formats

    foreign = formats.open_foreign(folder)
    assert foreign is not None
    return {**foreign.model["text"], "image_size": foreign.model["vision"]["image_size"]}


BOTH = {"open_clip": peers.load_open_clip, "huggingface": peers.load_transformers}


def vit(name: str, root: pathlib.Path, **towers: dict) -> Iterator[Row]:
    """A model of open_clip's settings, perhaps of fewer layers."""
    config = peers.open_clip_config(name, **towers)
    folder = root / name.replace("/", "-")
    model = peers.save_open_clip(folder, config)
    yield from round_trip(_label(name, towers), folder, model, own="open_clip", others=BOTH)


def resnet(name: str, root: pathlib.Path) -> Iterator[Row]:
    """One of the paper's ResNets whole, its BatchNorm with averages of its own."""
    folder = root / name
    config = peers.open_clip_config(f"{name}-quickgelu", text={"layers": 2})
    model = peers.save_open_clip(folder, config)
    others = {"open_clip": peers.load_open_clip}
    label = f"{name}, text of 2 layers"
    yield from round_trip(label, folder, model, own="open_clip", others=others)


def transformers_clip(root: pathlib.Path) -> Iterator[Row]:
    """transformers' own defaults: ViT-B/32 whole."""
    folder = root / "hf-clip"
    config = transformers.CLIPConfig()
    config.text_config.eos_token_id = 49_407
    model = peers.save_transformers(folder, config, transformers.CLIPModel)
    others = {"huggingface": peers.load_transformers}
    yield from round_trip("ViT-B/32", folder, model, own="huggingface", others=others)


def release(root: pathlib.Path) -> Iterator[Row]:
    """A TorchScript archive with float16 matrices, of 2 layers."""
    from clipjax.weights import formats

    towers = {"vision": {"layers": 2}, "text": {"layers": 2}}
    folder = root / "released"
    model = peers.save_open_clip(folder, peers.open_clip_config("ViT-B-32-quickgelu", **towers))
    peers.save_release(root / "ViT.pt", model)
    made = root / "from-pt"
    convert.convert(str(root / "ViT.pt"), to="open_clip", output=str(made), trust_pickle=True)
    assert formats.open_foreign(made) is not None
    rounded = peers.load_open_clip(made)
    found = rounded.state_dict()
    for name, value in model.state_dict().items():
        wanted = value.half().float() if peers.is_half(name, value) else value
        assert (found[name] == wanted).all(), name
    label = "OpenAI's .pt → clipjax"
    others = {"huggingface": peers.load_transformers}
    yield from round_trip("ViT-B/32, 2 layers", made, rounded, own="", label=label, others=others)


def siglip_open_clip(root: pathlib.Path, *, spiece: pathlib.Path) -> Iterator[Row]:
    """SigLIP B/16 whole, text of 2 layers, exact GELU as open_clip computes it."""
    config = peers.open_clip_config("ViT-B-16-SigLIP", text={"layers": 2})
    folder = root / "oc-siglip"
    model = peers.save_open_clip(folder, config, squash=True)
    (folder / "spiece.model").write_bytes(spiece.read_bytes())
    yield from round_trip(
        "SigLIP B/16, text of 2 layers, exact GELU",
        folder,
        model,
        own="open_clip",
        others=BOTH,
        siglip=True,
    )


def siglip_transformers(root: pathlib.Path, *, spiece: pathlib.Path) -> Iterator[Row]:
    """SigLIP B/16 whole, text of 2 layers, tanh GELU."""
    config = transformers.SiglipConfig()
    config.text_config.num_hidden_layers = 2
    folder = root / "hf-siglip"
    model = peers.save_transformers(folder, config, transformers.SiglipModel)
    (folder / "spiece.model").write_bytes(spiece.read_bytes())
    others = {"huggingface": peers.load_transformers}
    yield from round_trip(
        "SigLIP B/16, text of 2 layers",
        folder,
        model,
        own="huggingface",
        others=others,
        siglip=True,
    )


def _label(name: str, towers: dict[str, dict]) -> str:
    short = name.removesuffix("-quickgelu")
    short = f"{short[:-3]}/{short[-2:]}"
    cut = {changes["layers"] for changes in towers.values()}
    return short + (f", {cut.pop()} layers" if cut else "")


FEW = {"vision": {"layers": 4}, "text": {"layers": 4}}
CASES: dict[str, Callable[..., Iterator[Row]]] = {
    "vitb32": lambda root, spiece: vit("ViT-B-32-quickgelu", root),
    "vitl14": lambda root, spiece: vit("ViT-L-14-quickgelu", root, **FEW),
    "vith14": lambda root, spiece: vit("ViT-H-14", root, **FEW),
    "rn50": lambda root, spiece: resnet("RN50", root),
    "rn50x4": lambda root, spiece: resnet("RN50x4", root),
    "clip_of_transformers": lambda root, spiece: transformers_clip(root),
    "release": lambda root, spiece: release(root),
    "siglip_of_open_clip": lambda root, spiece: siglip_open_clip(root, spiece=spiece),
    "siglip_of_transformers": lambda root, spiece: siglip_transformers(root, spiece=spiece),
}
