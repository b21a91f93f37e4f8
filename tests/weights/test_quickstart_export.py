"""A model that quickstart trained ranks scenes alike in clipjax, open_clip and transformers.

CLIPJAX_QUICKSTART names a finished work directory to take instead of training 200 steps here.
"""

import os
import subprocess
import sys

import numpy as np
import pytest

pytestmark = pytest.mark.interop
SCENES = 64
QUERIES = [
    "a fox to the left of a hamburger",
    "a cat above a guitar",
    "a dog",
    "a Pizza!",
    "something never seen: naïve 日本 12",
]


@pytest.fixture(scope="module")
def workdir(tmp_path_factory):
    if "CLIPJAX_QUICKSTART" in os.environ:
        return os.environ["CLIPJAX_QUICKSTART"]
    folder = tmp_path_factory.mktemp("quickstart") / "run"
    command = [sys.executable, "-m", "clipjax.main", "--config=configs/quickstart.py"]
    short = ["--config.total=200 steps", "--config.schedule.warmup=20 steps"]
    env = {key: value for key, value in os.environ.items() if key != "XLA_FLAGS"}
    subprocess.run([*command, f"--workdir={folder}", *short], check=True, env=env)
    return str(folder)


def test_the_same_scenes_in_the_same_order(workdir, tmp_path):
    import open_clip
    import torch
    import transformers
    from PIL import Image

    import clipjax
    from clipjax import convert
    from clipjax.data import sources
    from tests.weights import peers

    model = clipjax.load(workdir)
    scenes = sources.get("scenes")(split="test", image_size=model.image_size, seed=0)
    pictures = [image_of(scenes, i) for i in range(SCENES)]
    ours = model.encode_text(QUERIES) @ model.encode_image(pictures).T

    for to in ("open_clip", "huggingface"):
        convert.convert(workdir, to=to, output=str(tmp_path / to))
    pil = [Image.fromarray(picture) for picture in pictures]

    theirs, _, prepare = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}/open_clip")
    tokenizer = open_clip.get_tokenizer(f"local-dir:{tmp_path}/open_clip")
    theirs.eval()
    with torch.no_grad():
        image = theirs.encode_image(torch.stack([prepare(p) for p in pil]), normalize=True)
        text = theirs.encode_text(tokenizer(QUERIES), normalize=True)
    same(ours, (text @ image.T).numpy())

    loaded = peers.load_transformers(tmp_path / "huggingface")
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "huggingface")
    fast = transformers.AutoTokenizer.from_pretrained(tmp_path / "huggingface")
    ids = fast(QUERIES, padding="max_length", truncation=True, return_tensors="pt").input_ids
    with torch.no_grad():
        found = loaded(input_ids=ids, **processor(images=pil, return_tensors="pt"))
    image, text = (
        x / x.norm(dim=-1, keepdim=True) for x in (found.image_embeds, found.text_embeds)
    )
    same(ours, (text @ image.T).numpy())


def same(ours, theirs):
    np.testing.assert_allclose(theirs, ours, atol=1e-4)
    np.testing.assert_array_equal(np.argsort(-theirs, 1), np.argsort(-ours, 1))


def image_of(scenes, index):
    """uint8 [S, S, 3] of a record."""
    from clipjax.data import images

    return images.decode_eval(scenes[index]["image"], size=scenes.image_size)


def test_the_vocabulary_gives_the_same_ids(workdir, tmp_path):
    """10,000 captions through the `tokenizer.json` of the export."""
    import tokenizers

    import clipjax
    from clipjax.data.captions import clean
    from clipjax.data.tokenizers.sentencepiece import SentencePieceTokenizer
    from clipjax.weights import tokenizer_files
    from tests.data import fakes
    from tests.data.test_clip_tokenizer import captions

    own = clipjax.load(workdir).tokenizer
    long = SentencePieceTokenizer(own.model, context_length=1000)
    content = tokenizer_files.for_transformers(own)["tokenizer.json"]
    fast = tokenizers.Tokenizer.from_str(content.decode())
    texts = [fakes.sentence(i) for i in range(5000)] + [clean(c) for c in captions(5000, noisy=0)]
    rows = long.encode(texts)[0]
    for text, row in zip(texts, rows, strict=True):
        assert fast.encode(text).ids == row[: row.argmax() + 1].tolist(), repr(text)
