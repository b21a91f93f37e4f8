"""The parity table's rows within their limits; marked interop."""

import pytest

pytestmark = pytest.mark.interop


@pytest.fixture(scope="module")
def spiece(tmp_path_factory):
    from tests.weights import vocabulary

    return vocabulary.t5_like(tmp_path_factory.mktemp("spiece"))


@pytest.mark.parametrize(
    "case",
    [
        *("vitb32", "vitl14", "vith14", "rn50", "rn50x4", "clip_of_transformers", "release"),
        *("siglip_of_open_clip", "siglip_of_transformers"),
    ],
)
def test_the_same_features(case, spiece, tmp_path):
    from tests.weights import parity

    rows = list(parity.CASES[case](tmp_path, spiece))
    assert rows
    for row in rows:
        for key, limit in parity.LIMITS.items():
            assert getattr(row, key) <= limit, row


def test_every_case_is_tested():
    from tests.weights import parity

    assert set(parity.CASES) == set(test_the_same_features.pytestmark[-1].args[1])


@pytest.mark.parametrize("half", ["float16", "bfloat16"])
def test_peers_load_what_is_in_half_precision(half, tmp_path):
    """transformers by default in that precision, open_clip in its own; the values are the same."""
    import json

    import torch
    import transformers

    from clipjax import convert
    from clipjax.data.tokenizers import clip as clip_tokenizer
    from tests.weights import peers

    tower = {"hidden_size": 64, "num_attention_heads": 1, "num_hidden_layers": 1}
    config = transformers.CLIPConfig(
        vision_config=tower | {"image_size": 64}, text_config=tower, projection_dim=32
    )
    config.text_config.eos_token_id = 49_407
    model = peers.save_transformers(tmp_path / "a", config, transformers.CLIPModel)
    model.to(getattr(torch, half)).save_pretrained(tmp_path / "a")
    (tmp_path / "a" / "merges.txt").write_bytes(clip_tokenizer.packaged_merges())
    for source, to in (("a", "open_clip"), ("open_clip", "huggingface")):
        convert.convert(str(tmp_path / source), to=to, output=str(tmp_path / to))
    own, made = (
        json.loads((tmp_path / x / "config.json").read_text()) for x in ("a", "huggingface")
    )
    assert made["torch_dtype"] == own["dtype"] == half

    loaded = peers.load_transformers(tmp_path / "huggingface")
    assert loaded.dtype == model.dtype == getattr(torch, half)
    expected = dict(model.named_parameters())
    for name, value in loaded.named_parameters():
        assert torch.equal(value, expected.pop(name)), name
    assert not expected
    found = peers.load_open_clip(tmp_path / "open_clip")
    assert found.visual.proj.dtype == torch.float32
    assert torch.equal(found.visual.proj.T, model.visual_projection.weight.float())


def test_a_siglip_2_is_prepared_as_transformers_prepares_it(tmp_path):
    """Pixels of pictures that are not square, and ids of captions, from an exported folder."""
    import numpy as np
    import transformers

    import clipjax
    from clipjax.data.tokenizers.siglip import GemmaTokenizer
    from clipjax.weights import formats
    from tests.weights import parity, peers, small, vocabulary

    model = small.siglip(vocab_size=400)
    file = vocabulary.gemma_like(tmp_path)
    tokenizer = GemmaTokenizer(file.read_bytes(), context_length=8)
    variables = {"params": small.params(model)}
    formats.write(
        tmp_path / "out", to="huggingface", model=model, variables=variables, tokenizer=tokenizer
    )
    ours = clipjax.load(tmp_path / "out")
    pictures = peers.images(32)
    assert pictures[0].width != pictures[0].height

    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "out", backend="pil")
    pixels = processor(images=pictures, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(parity.pixels_of(ours, pictures), pixels, atol=1e-6)

    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    captions = ["A photo,  of the DOG", "naïve 犬 🦊 17", "", "the cat " * 9]
    settings = {"padding": "max_length", "truncation": True, "max_length": 8}
    expected = theirs(captions, return_tensors="np", **settings)["input_ids"]
    np.testing.assert_array_equal(ours.tokenizer.encode(captions)[0], expected)

    made = theirs.backend_tokenizer.model  # transformers' own class for such folders
    own = transformers.Siglip2Tokenizer(
        vocab=theirs.get_vocab(), merges=peers.merges_of(made), add_eos_token=True
    )
    np.testing.assert_array_equal(
        own(captions, padding_side="right", return_tensors="np", **settings)["input_ids"], expected
    )
