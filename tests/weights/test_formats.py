"""Formats without their programs: bits that come back, names and shapes that are accounted for."""

import base64
import json

import numpy as np
import pytest
from safetensors import numpy as safetensors_numpy

import clipjax
from clipjax import convert
from clipjax.build import pretrained
from clipjax.common.exits import ConfigError, DataError
from clipjax.data import tokenizers
from clipjax.data.tokenizers.sentencepiece import train_sentencepiece
from clipjax.data.tokenizers.siglip import GemmaTokenizer, SiglipTokenizer
from clipjax.models import config as model_config
from clipjax.models import transformer, zoo
from clipjax.weights import (
    arrays,
    big_vision,
    formats,
    huggingface,
    huggingface_folder,
    openai,
    tokenizer_json,
)
from clipjax.weights.foreign import shapes_of
from tests.weights import small, vocabulary

VITS = ("ViT-B/32", "ViT-B/16", "ViT-L/14", "ViT-L/14@336px")
RESNETS = ("RN50", "RN101", "RN50x4", "RN50x16", "RN50x64")
MODELS = {
    "released": small.model(),
    "exact gelu": small.model(activation="gelu", vision={"mlp_ratio": 3.0}),
    "other pixels": small.model(image_mean=(0.5, 0.5, 0.5), image_std=(0.4, 0.5, 0.6)),
    "both sides resized": small.model(image_resize="squash"),
    "tanh": small.model(activation="gelu_tanh", layer_norm_epsilon=1e-6, text={"mlp_ratio": 2.0}),
}
ONLY_OPEN_CLIP = {
    "bias": small.model(logit_bias=True),
    "last": small.model(text={"pooling": "last", "causal": False, "projection_bias": True}),
    "no ln_pre": small.model(vision={"ln_pre": False}),
    "resnet": {
        **small.model(),
        "vision": {"kind": "resnet", "image_size": 64, "width": 16, "layers": (1, 2, 1, 1)},
    },
}


class Shapes:
    """`arrays.Tensors` without values."""

    def __init__(self, shapes):
        self.shapes, self.dtypes = shapes, {}

    def read(self, name):
        raise AssertionError(f"{name} was read before the names were compared")


def released_shapes(name):
    """Every name and shape of a released state dict, written down anew."""
    model = zoo.get(name)
    text, embed = model["text"], model["embed_dim"]
    found = dict(resnet_shapes(model) if name in RESNETS else vit_shapes(model))
    found |= dict(blocks("", text["width"], text["layers"]))
    found |= dict(weight_and_bias("ln_final", text["width"]))
    return found | {
        "positional_embedding": (77, text["width"]),
        "token_embedding.weight": (49_408, text["width"]),
        "text_projection": (text["width"], embed),
        "logit_scale": (),
        **dict.fromkeys(("input_resolution", "context_length", "vocab_size"), ()),
    }


def weight_and_bias(name, out, *into):
    return [(f"{name}.weight", (out, *into)), (f"{name}.bias", (out,))]


def blocks(prefix, width, layers):
    for i in range(layers):
        block = f"{prefix}transformer.resblocks.{i}"
        yield from weight_and_bias(f"{block}.ln_1", width)
        yield from weight_and_bias(f"{block}.ln_2", width)
        yield f"{block}.attn.in_proj_weight", (3 * width, width)
        yield f"{block}.attn.in_proj_bias", (3 * width,)
        yield from weight_and_bias(f"{block}.attn.out_proj", width, width)
        yield from weight_and_bias(f"{block}.mlp.c_fc", 4 * width, width)
        yield from weight_and_bias(f"{block}.mlp.c_proj", width, 4 * width)


def vit_shapes(model):
    vision = model["vision"]
    width, patch = vision["width"], vision["patch_size"]
    yield from blocks("visual.", width, vision["layers"])
    yield from weight_and_bias("visual.ln_pre", width)
    yield from weight_and_bias("visual.ln_post", width)
    yield "visual.class_embedding", (width,)
    yield "visual.positional_embedding", ((vision["image_size"] // patch) ** 2 + 1, width)
    yield "visual.proj", (width, model["embed_dim"])
    yield "visual.conv1.weight", (width, 3, patch, patch)


def resnet_shapes(model):
    vision = model["vision"]
    width, last = vision["width"], 32 * vision["width"]
    into = 3
    for i, out in enumerate((width // 2, width // 2, width), 1):
        yield from convolution(f"visual.conv{i}", f"visual.bn{i}", out, into, 3)
        into = out
    for stage, count in enumerate(vision["layers"]):
        inner = width * 2**stage
        for i in range(count):
            block = f"visual.layer{stage + 1}.{i}"
            yield from convolution(f"{block}.conv1", f"{block}.bn1", inner, into, 1)
            yield from convolution(f"{block}.conv2", f"{block}.bn2", inner, inner, 3)
            yield from convolution(f"{block}.conv3", f"{block}.bn3", 4 * inner, inner, 1)
            if i == 0:
                shortcut = f"{block}.downsample"
                yield from convolution(f"{shortcut}.0", f"{shortcut}.1", 4 * inner, into, 1)
            into = 4 * inner
    for name in ("q", "k", "v"):
        yield from weight_and_bias(f"visual.attnpool.{name}_proj", last, last)
    yield from weight_and_bias("visual.attnpool.c_proj", model["embed_dim"], last)
    tokens = (vision["image_size"] // 32) ** 2 + 1
    yield "visual.attnpool.positional_embedding", (tokens, last)


def convolution(conv, norm, out, into, size):
    yield f"{conv}.weight", (out, into, size, size)
    yield from weight_and_bias(norm, out)
    yield f"{norm}.running_mean", (out,)
    yield f"{norm}.running_var", (out,)
    yield f"{norm}.num_batches_tracked", ()


@pytest.mark.parametrize("name", VITS + RESNETS)
def test_a_released_state_dict_is_told_by_its_shapes_and_fits(name):
    found = released_shapes(name)
    model = openai.model_of(found)
    assert model_config.complete(model) == model_config.complete(
        {**zoo.get(name), "logit_bias": False}
    )
    layout, wanted = openai.layout(model), shapes_of(model)
    with pytest.raises(AssertionError, match="was read before"):
        arrays.read(Shapes(found), layout=layout, shapes=wanted, ignored=openai.IGNORED)
    for changed, message in (
        ({**found, "visual.extra": (3,)}, r"visual\.extra has no place in this model"),
        ({k: v for k, v in found.items() if k != "ln_final.bias"}, r"ln_final\.bias .*missing"),
        ({**found, "text_projection": (3, 4)}, r"text_projection is \[3, 4\], not"),
    ):
        with pytest.raises(DataError, match=message):
            arrays.read(Shapes(changed), layout=layout, shapes=wanted, ignored=openai.IGNORED)


@pytest.mark.parametrize(
    ("to", "name"),
    [(to, name) for to in formats.WRITERS for name in MODELS]
    + [("open_clip", name) for name in ONLY_OPEN_CLIP],
)
def test_written_and_read_again_is_the_same_bits(to, name, tmp_path):
    model = {**MODELS, **ONLY_OPEN_CLIP}[name]
    variables, tokenizer = small.variables(model), small.tokenizer()
    given = {"model": model, "variables": variables, "tokenizer": tokenizer}
    formats.write(tmp_path / "a", to=to, **given)
    found, run = pretrained.read(tmp_path / "a")
    small.assert_equal(found, variables)
    read = model_config.complete(run["config"]["model"])
    assert {**read, "dtype": "float32"} == model_config.complete(
        {**model, "dtype": "float32", "param_dtype": "float32", "scan": True}
        | {"logit_bias": model.get("logit_bias", False)}
        | {tower: {**model[tower], "remat": "none"} for tower in ("vision", "text")}
    )
    again = pretrained.tokenizer_of(run)
    assert again.hash == tokenizer.hash
    formats.write(tmp_path / "b", to=to, model=model, variables=found, tokenizer=again)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes(), file.name


@pytest.mark.parametrize("name", ONLY_OPEN_CLIP)
def test_what_a_program_does_not_have_is_refused_and_leaves_nothing(name, tmp_path):
    model = ONLY_OPEN_CLIP[name]
    with pytest.raises(DataError, match="CLIPModel has no model with"):
        small.write(tmp_path / "out", model, to="huggingface")
    assert not list(tmp_path.iterdir())


def test_from_anywhere_to_anywhere(tmp_path, capsys):
    model, tokenizer = small.model(), small.tokenizer()
    params = small.params(model)
    given = {"model": model, "variables": {"params": params}, "tokenizer": tokenizer}
    formats.write(tmp_path / "first", to="open_clip", **given)
    last = tmp_path / "first"
    for i, to in enumerate(("huggingface", "clipjax", "open_clip")):
        line = convert.convert(str(last), to=to, output=str(tmp_path / str(i)))
        assert f"format {to}" in line and "\n" not in line
        last = tmp_path / str(i)
        small.assert_equal(pretrained.read(last)[0]["params"], params)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "1", "2", "first"]
    loaded = clipjax.load(last)
    odds = loaded.zero_shot(small.images(), ["cat", "dog"], templates=["the {}"])
    np.testing.assert_allclose(odds.sum(1), 1, rtol=1e-5)
    with pytest.raises(ConfigError, match="exists already"):
        convert.convert(str(last), to="open_clip", output=str(tmp_path / "first"))


def test_progress_is_shown_of_what_is_large(tmp_path, capfd, monkeypatch):
    """To its end, whatever a file holds besides."""
    model = small.siglip()
    kept = small.theirs(small.params(model), layout=big_vision.layout([], prefix="params/"))
    rest = {"opt/mu": np.zeros(1 << 20, np.float32)}
    np.savez_compressed(tmp_path / "model.npz", **kept, **rest)
    for bytes_, shown in ((arrays.LARGE, False), (1, True)):
        monkeypatch.setattr(arrays, "LARGE", bytes_)
        pretrained.read_variables(tmp_path / "model.npz")
        assert ("100%" in capfd.readouterr().err) == shown


def test_blocks_one_after_another_are_written_like_stacked_ones():
    params = small.params(small.model())
    for layout in (openai.layout(small.model()), huggingface.layout()):
        found = small.theirs(transformer.unstack_blocks(params), layout=layout)
        small.assert_equal(found, small.theirs(params, layout=layout))


def test_one_model_in_several_files(tmp_path):
    model, tokenizer = small.model(), small.tokenizer()
    params = small.params(model)
    formats.write(
        tmp_path / "whole",
        to="huggingface",
        model=model,
        variables={"params": params},
        tokenizer=tokenizer,
    )
    file = tmp_path / "whole" / huggingface_folder.WEIGHTS
    tensors = safetensors_numpy.load_file(file)
    file.unlink()
    places = {name: f"part-{i % 2}.safetensors" for i, name in enumerate(sorted(tensors))}
    for part in set(places.values()):
        mine = {name: tensors[name] for name in tensors if places[name] == part}
        safetensors_numpy.save_file(mine, tmp_path / "whole" / part)
    index = tmp_path / "whole" / huggingface_folder.INDEX
    index.write_text(json.dumps({"weight_map": places}))
    small.assert_equal(pretrained.read_variables(tmp_path / "whole")["params"], params)
    index.write_text(json.dumps({"weight_map": {**places, "x": "../part-0.safetensors"}}))
    with pytest.raises(DataError, match=r"'\.\./part-0\.safetensors' is not in this folder"):
        pretrained.read_variables(tmp_path / "whole")


def test_another_order_of_the_vocabulary_is_found_out(tmp_path):
    model, tokenizer = small.model(), small.tokenizer()
    formats.write(
        tmp_path / "a",
        to="huggingface",
        model=model,
        variables=small.variables(model),
        tokenizer=tokenizer,
    )
    file = tmp_path / "a" / "tokenizer.json"
    content = json.loads(file.read_text())
    vocabulary = content["model"]["vocab"]
    vocabulary["cat</w>"], vocabulary["dog</w>"] = vocabulary["dog</w>"], vocabulary["cat</w>"]
    file.write_text(json.dumps(content))
    with pytest.raises(DataError, match="its vocabulary gives 'cat</w>' the id 517"):
        clipjax.load(tmp_path / "a")


def test_a_tokenizer_of_another_size_is_refused(tmp_path):
    model = small.model(text={"vocab_size": 600})
    small.write(tmp_path / "a", model, to="open_clip")
    with pytest.raises(ConfigError, match=r"has 600 ids, .* makes 520; .*--tokenizer"):
        clipjax.load(tmp_path / "a")


def test_a_run_trained_with_other_rules_is_refused(tmp_path):
    model, tokenizer = small.model(), small.tokenizer()
    formats.write(
        tmp_path / "a",
        to="open_clip",
        model=model,
        variables=small.variables(model),
        tokenizer=tokenizer,
    )
    variables, run = pretrained.read(tmp_path / "a")
    assert base64.b64decode(run["tokenizer"]["clip_merges.txt"]) == tokenizer.model
    run["tokenizer_rules"]["cleaning"] = "none"
    pretrained.write_checkpoint(tmp_path / "b", variables, run=run)
    with pytest.raises(ConfigError, match="trained with tokenizer cleaning 'none'"):
        clipjax.load(tmp_path / "b")


def test_a_siglip_through_transformers_files(tmp_path):
    model = small.siglip()
    params = small.params(model)
    spiece = vocabulary.t5_like(tmp_path, vocab_size=320)
    tokenizer = SiglipTokenizer(spiece.read_bytes(), context_length=8)
    formats.write(
        tmp_path / "a",
        to="huggingface",
        model=model,
        variables={"params": params},
        tokenizer=tokenizer,
    )
    found, run = pretrained.read(tmp_path / "a")
    small.assert_equal(found["params"], params)
    assert pretrained.tokenizer_of(run).hash == tokenizer.hash
    read = run["config"]["model"]
    assert (read["activation"], read["layer_norm_epsilon"]) == ("gelu_tanh", 1e-6)
    assert read["image_resize"] == "squash"
    with pytest.raises(DataError, match="resizes both sides of an image, this model crops"):
        formats.write(
            tmp_path / "c",
            to="huggingface",
            model={**model, "image_resize": "crop"},
            variables={"params": params},
            tokenizer=tokenizer,
        )
    with pytest.raises(DataError, match="no SigLIP of these sizes"):
        convert.convert(str(tmp_path / "a"), to="open_clip", output=str(tmp_path / "b"))
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("stacked", [False, True])
@pytest.mark.parametrize("prefix", ["", "params/"])
def test_a_siglip_from_big_vision(stacked, prefix, tmp_path):
    model = small.siglip()
    params = small.params(model)
    kinds = ("img/Transformer", "txt/Encoder_0")
    names = [f"{prefix}{kind}/encoderblock/x" for kind in kinds] if stacked else []
    tensors = small.theirs(params, layout=big_vision.layout(names, prefix=prefix))
    assert len(tensors) == 28 + 16 * (2 if stacked else 2 + 3)
    extra = {"opt/step": np.int32(3)} if prefix else {}
    np.savez(tmp_path / "model.npz", **tensors, **extra)
    small.assert_equal(pretrained.read_variables(tmp_path / "model.npz")["params"], params)
    opened = formats.open_foreign(tmp_path / "model.npz")
    assert model_config.complete(opened.model) == model_config.complete(model)
    with pytest.raises(ConfigError, match=r"spiece\.model.*--tokenizer"):
        pretrained.read(tmp_path / "model.npz")


def test_siglips_tokenizer(tmp_path):
    spiece = vocabulary.t5_like(tmp_path, vocab_size=320)
    tokenizer = SiglipTokenizer(spiece.read_bytes(), context_length=40)
    ids, truncated = tokenizer.encode(["A photo, of the_DOG!", "the cat " * 30, ""])
    assert tokenizer.decode(ids[0]) == "a photo of the dog"
    assert truncated.tolist() == [False, True, False]
    assert ids[:, -1].tolist() == [1, 1, 1] and (ids[2] == 1).all()
    assert tokenizers.rules(tokenizer)["padding"] == 1
    with pytest.raises(ConfigError, match="whose piece 1 is </s>"):
        model = train_sentencepiece(["the cat"] * 20, vocab_size=270)
        SiglipTokenizer(model, context_length=8)


def test_siglip_2_s_tokenizer(tmp_path):
    """Gemma's vocabulary: lower case, spaces and punctuation kept, one end, padding."""
    model = vocabulary.gemma_like(tmp_path).read_bytes()
    tokenizer = GemmaTokenizer(model, context_length=24)
    ids, truncated = tokenizer.encode(["A  Photo, of the DOG!", "the cat " * 30, ""])
    assert tokenizer.decode(ids[0]) == "a  photo, of the dog!"
    assert truncated.tolist() == [False, True, False]
    assert ids[1, -1] == 1 and (ids[1, :-1] > 1).all() and ids[2].tolist() == [1] + [0] * 23
    assert tokenizers.rules(tokenizer)["padding"] == 0
    fast = tokenizer_json.make(tokenizer)
    for text in ("A  Photo, of the DOG!", "naïve 犬 🦊 17", ""):
        row = tokenizer.encode([text])[0][0].tolist()
        assert fast.encode(text).ids == row[: row.index(1) + 1]
    with pytest.raises(ConfigError, match="Gemma's, whose piece 1 is <eos>"):
        GemmaTokenizer(train_sentencepiece(["the cat"] * 20, vocab_size=270), context_length=8)


def test_a_siglip_2_through_transformers_files(tmp_path):
    model = small.siglip(vocab_size=400)
    params = small.params(model)
    file = vocabulary.gemma_like(tmp_path)
    tokenizer = GemmaTokenizer(file.read_bytes(), context_length=8)
    given = {"model": model, "variables": {"params": params}, "tokenizer": tokenizer}
    formats.write(tmp_path / "a", to="huggingface", **given)
    found, run = pretrained.read(tmp_path / "a")
    small.assert_equal(found["params"], params)
    again = pretrained.tokenizer_of(run)
    assert (type(again), again.hash) == (GemmaTokenizer, tokenizer.hash)

    (tmp_path / "a" / "tokenizer.model").unlink()
    with pytest.raises(ConfigError, match=r"SigLIP 2's tokenizer\.model.*--tokenizer"):
        pretrained.read(tmp_path / "a")
    convert.convert(
        str(tmp_path / "a"), to="clipjax", output=str(tmp_path / "b"), tokenizer=str(file)
    )
    assert type(pretrained.tokenizer_of(pretrained.read(tmp_path / "b")[1])) is GemmaTokenizer
