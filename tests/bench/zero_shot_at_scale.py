"""Cost of zero-shot classification with 1,000 classes × 80 templates at ViT-B/32 size, by stage.

    JAX_PLATFORMS=cpu python tests/bench/zero_shot_at_scale.py

Text and image encoders run on a sample and are extrapolated by count ("extrapolated" in the line
says what to); tokens, class means and judging are measured whole. The bare encoder and the
evaluation, which decodes too, take turns; CPU-seconds hold on a machine that others use. Prints one
JSON line.
"""

import argparse
import io
import json
import time

import jax
import numpy as np
from PIL import Image

from clipjax import config
from clipjax.build import model as build_model
from clipjax.data import images as image_files
from clipjax.data.tokenizers import sentencepiece as sentencepiece_tokenizer
from clipjax.evals import classification, embed, prompts
from clipjax.models import clip
from clipjax.parallel import mesh as meshes

CLASSES, TEMPLATES, VALIDATION = 1000, 80, 50_000


def clock(call):
    """(result, seconds)."""
    result, seconds, _ = both_clocks(call)
    return result, seconds


def both_clocks(call):
    """(result, seconds, CPU-seconds of all threads)."""
    began, spent = time.perf_counter(), time.process_time()
    result = call()
    return result, time.perf_counter() - began, time.process_time() - spent


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--texts", type=int, default=128)
    parser.add_argument("--images", type=int, default=96)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--batch", type=int, default=32)
    sample = parser.parse_args()

    c = config.defaults()
    c.model = config.model("ViT-B/32", dtype="float32")
    mesh = meshes.make_mesh({"data": 1, "fsdp": -1, "tensor": 1})
    module = build_model.model(c, mesh=mesh)
    variables = jax.jit(clip.initialise(module))(jax.random.key(0))
    names = tuple((f"thing number {i} of its kind",) for i in range(CLASSES))
    templates = tuple(f"a photo, the {i}th, of a {{}}." for i in range(TEMPLATES))
    asked = prompts.Prompts(tuple(map(str, range(CLASSES))), names, templates)
    texts, owners, _ = asked.texts()
    words = sentencepiece_tokenizer.train_sentencepiece(texts[:2000], vocab_size=400, exact=False)
    tokenizer = sentencepiece_tokenizer.SentencePieceTokenizer(words, context_length=77)
    embedder = embed.Embedder(module, mesh=mesh, batch_size=sample.batch)
    never = lambda: False  # noqa: E731

    _, tokenize = clock(lambda: tokenizer.encode(texts))
    some = texts[: sample.texts]
    embedder.texts(variables, some[: sample.batch], tokenizer=tokenizer, poll=never)  # compiles
    _, encode = clock(lambda: embedder.texts(variables, some, tokenizer=tokenizer, poll=never))
    rng = np.random.default_rng(0)
    unit = rng.normal(size=(len(texts), 512)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    weights, mean = clock(lambda: classification.class_weights(unit, owners=owners))

    photo = Image.fromarray(rng.integers(0, 256, (400, 500, 3), dtype=np.uint8)).resize((500, 400))
    file = io.BytesIO()
    photo.save(file, "JPEG", quality=90)
    load = lambda i: {"image": image_files.decode_eval(file.getvalue(), size=224)}  # noqa: E731
    batch = np.stack([load(0)["image"]] * sample.batch)
    bare = jax.jit(lambda v, x: module.apply(v, x, method="encode_image"))
    bare(variables, batch).block_until_ready()  # compiles
    embedder.pixels(variables, load, length=sample.batch, poll=never)

    def run_bare():
        for _ in range(sample.images // sample.batch):
            bare(variables, batch).block_until_ready()

    def run_evaluation():
        return embedder.pixels(variables, load, length=sample.images, poll=never)

    took = {"bare": [], "evaluation": []}  # (seconds, CPU-seconds) of each round
    for _ in range(sample.rounds):  # alternating, for a machine that others use too
        took["bare"].append(both_clocks(run_bare)[1:])
        found, *seconds = both_clocks(run_evaluation)
        took["evaluation"].append(seconds)
    image_embed = np.resize(found, (VALIDATION, 512))
    labels = rng.integers(0, CLASSES, VALIDATION).astype(np.int32)
    classes = tuple(names[0] for names in asked.names)
    judge = lambda: classification.judge(  # noqa: E731
        image_embed, weights, labels=labels, classes=classes, mesh=mesh
    )
    judge()
    _, judging = clock(judge)
    images_a_second = sample.images / float(np.median(np.array(took["evaluation"])[:, 0]))
    ratio, ratio_cpu = np.median(np.array(took["bare"]) / np.array(took["evaluation"]), axis=0)
    line = {
        "bench": "zero_shot_at_scale",
        "devices": f"{jax.device_count()} × {jax.devices()[0].device_kind}",
        "prompts": len(texts),
        "seconds": {
            "tokenize": round(tokenize, 2),
            "class_means": round(mean, 2),
            "judge_50000_images": round(judging, 2),
        },
        "sample": {"texts": sample.texts, "images": sample.images},
        "extrapolated_seconds": {
            "encode_80000_prompts": round(encode / len(some) * len(texts)),
            "encode_50000_images": round(VALIDATION / images_a_second),
        },
        "images_per_second": round(images_a_second, 2),
        "of_the_bare_encoder": round(ratio, 3),
        "of_the_bare_encoder_by_cpu_seconds": round(ratio_cpu, 3),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main()
