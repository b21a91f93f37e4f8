"""Times one training step of ViT-B/32 on CPU, clipjax against open_clip, and prints the ratio.

    PYTHONPATH=. python tests/bench/step_vs_open_clip.py

in an environment with clipjax, torch and open_clip_torch 3.3.0, on an idle machine: PyTorch's
threads spin while they wait for a busy core, which flatters clipjax. A step is forward, symmetric
contrastive loss, backward and AdamW, in float32, on random data; clipjax's is the one that training
compiles, open_clip's is its own model, loss and parameter groups under PyTorch's AdamW. Each side
has its own process with the same number of threads; they take turns, one step each, so that both
meet the same disturbances. The last line is JSON: median seconds of each side, the median over
pairs of clipjax / open_clip (at most 1.0: not slower), and the load average before the first pair,
about 1 when nothing else runs.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

LEARNING_RATE, BETAS, EPSILON, WEIGHT_DECAY = 5e-4, (0.9, 0.98), 1e-6, 0.2  # the paper's for ViT
CONTEXT_LENGTH, VOCAB_SIZE, IMAGE_SIZE = 77, 49_408, 224


def random_batch(batch_size):
    """uint8 images [B, H, W, 3] and captions int32 [B, T] that end with the end-of-text token."""
    import numpy as np

    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch_size, IMAGE_SIZE, IMAGE_SIZE, 3)).astype(np.uint8)
    texts = np.zeros((batch_size, CONTEXT_LENGTH), np.int32)
    for text, length in zip(texts, rng.integers(5, CONTEXT_LENGTH, batch_size), strict=True):
        text[:length] = rng.integers(1, VOCAB_SIZE - 2, length)
        text[0], text[length] = VOCAB_SIZE - 2, VOCAB_SIZE - 1
    return images, texts


def clipjax_step(batch_size, options):
    """A function that runs one step of clipjax, as `clipjax.main` compiles it; returns the loss."""
    import jax
    import numpy as np

    from clipjax import build, config
    from clipjax.parallel import sharding

    c = config.defaults()
    c.batch_size = batch_size
    c.model = config.model("ViT-B/32", dtype="float32", scan=not options.no_scan)
    c.model.vision.remat = c.model.text.remat = options.remat
    c.loss.embed_dtype = "float32"
    c.optimizer.learning_rate = LEARNING_RATE
    c.optimizer.beta1, c.optimizer.beta2 = BETAS
    c.optimizer.epsilon = EPSILON
    c.optimizer.weight_decay = WEIGHT_DECAY
    c.schedule.name = "constant"

    mesh = build.mesh(c)
    program = build.program(c, mesh=mesh, total_steps=1000, warmup_steps=0)
    step = build.compile_step(c, program, mesh=mesh)
    init = jax.jit(program.init, out_shardings=program.out_shardings[0])
    carried = {"state": init(jax.random.key(0))}
    images, texts = random_batch(batch_size)
    batch = {"image": images, "text": texts, "record_id": np.arange(batch_size, dtype=np.uint32)}
    batch = sharding.to_device(batch, mesh=mesh, batch_size=batch_size)

    def run():
        carried["state"], metrics = step(carried["state"], batch)
        jax.block_until_ready(carried)
        return float(metrics["train/loss"])

    return run


def open_clip_step(batch_size, options):
    """A function that runs one step of open_clip's own model, loss and parameter groups."""
    import open_clip
    import torch

    torch.set_num_threads(options.threads)
    model = open_clip.create_model("ViT-B-32-quickgelu", pretrained=None)
    model.train()
    criterion = open_clip.ClipLoss()
    named = [(name, p) for name, p in model.named_parameters() if p.requires_grad]
    plain = [p for name, p in named if p.ndim < 2 or "bn" in name or "ln" in name]
    decayed = [p for name, p in named if not (p.ndim < 2 or "bn" in name or "ln" in name)]
    optimizer = torch.optim.AdamW(
        [
            {"params": plain, "weight_decay": 0.0},
            {"params": decayed, "weight_decay": WEIGHT_DECAY},
        ],
        lr=LEARNING_RATE,
        betas=BETAS,
        eps=EPSILON,
        fused=options.fused or None,
    )
    images, texts = random_batch(batch_size)
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD)
    images = (torch.from_numpy(images) / 255 - mean) / std
    images = images.permute(0, 3, 1, 2).contiguous()
    texts = torch.from_numpy(texts).long()

    def run():
        optimizer.zero_grad()
        image_features, text_features, logit_scale = model(images, texts)
        loss = criterion(image_features, text_features, logit_scale)
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6051702)
        return loss.item()

    return run


def worker(options):
    """Run a step and print its wall and CPU seconds and its loss for every line on stdin."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    run = {"clipjax": clipjax_step, "open_clip": open_clip_step}[options.worker](
        options.batch_size, options
    )
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        loss = run()
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
        print(f"RESULT {wall} {cpu} {loss}", flush=True)


class Worker:
    """One side's process, asked for one step at a time."""

    def __init__(self, name):
        command = [sys.executable, __file__, *sys.argv[1:], "--worker", name]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def step(self):
        """(wall seconds, CPU seconds, loss) of one step."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("RESULT "):
                return tuple(float(word) for word in line.split()[1:])
        raise SystemExit("a side ended early; its error is above")

    def close(self):
        self.process.communicate()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--no_scan", action="store_true", help="clipjax: loop over the layers")
    parser.add_argument("--remat", default="none", help="clipjax: model.{vision,text}.remat")
    parser.add_argument("--fused", action="store_true", help="torch: AdamW(fused=True)")
    parser.add_argument("--worker", choices=("clipjax", "open_clip"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return worker(options)

    ours, theirs = Worker("clipjax"), Worker("open_clip")
    for side in (ours, theirs, ours, theirs):  # compile, and fill the allocators
        side.step()
    load_average = os.getloadavg()[0]
    pairs = []
    for _ in range(options.pairs):
        pairs.append((ours.step(), theirs.step()))
        (wall, cpu, loss), (their_wall, their_cpu, their_loss) = pairs[-1]
        print(
            f"clipjax {wall:.3f} s ({cpu:.2f} CPU-s, loss {loss:.3f})   "
            f"open_clip {their_wall:.3f} s ({their_cpu:.2f} CPU-s, loss {their_loss:.3f})"
        )
    ours.close()
    theirs.close()
    result = {
        "model": "ViT-B/32",
        "batch_size": options.batch_size,
        "threads": options.threads,
        "pairs": options.pairs,
        "clipjax_seconds": statistics.median(a[0] for a, _ in pairs),
        "open_clip_seconds": statistics.median(b[0] for _, b in pairs),
        "clipjax_cpu_seconds": statistics.median(a[1] for a, _ in pairs),
        "open_clip_cpu_seconds": statistics.median(b[1] for _, b in pairs),
        "ratio": statistics.median(a[0] / b[0] for a, b in pairs),
        "cpu_ratio": statistics.median(a[1] / b[1] for a, b in pairs),
        "load_average": load_average,
    }
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in result.items()}))


if __name__ == "__main__":
    main()
