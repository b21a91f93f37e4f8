"""Times a training step, clipjax against open_clip, on CPU or on one GPU, and prints the ratio.

    PYTHONPATH=. python tests/bench/step_vs_open_clip.py
    PYTHONPATH=. python tests/bench/step_vs_open_clip.py --dtype=bfloat16 --batch_size=1024 \\
        --steps=10 --fused

in an environment with clipjax, torch and open_clip_torch 3.3.0, on an idle machine: PyTorch's
threads spin while they wait for a busy core, which flatters clipjax. A step is forward, symmetric
contrastive loss, backward and AdamW, on random data; clipjax's is the one that training compiles,
open_clip's is its own model, loss and parameter groups under PyTorch's AdamW, with bfloat16 as its
`--precision amp_bf16`: both keep float32 weights. Each side has its own process with the same
number of threads; they take turns, a few steps each, so that both meet the same disturbances. The
last line is JSON: median seconds of a step of each side, the median over pairs of clipjax /
open_clip (at most 1.0: not slower), a GPU's peak memory and clipjax's MFU, and the load average
before the first pair, about 1 when nothing else runs.
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
OPEN_CLIP_NAMES = {"ViT-B/32": "ViT-B-32-quickgelu", "ViT-L/14": "ViT-L-14-quickgelu"}


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


def clipjax_step(options):
    """Functions: one step of clipjax, as `clipjax.main` compiles it, its loss; peak memory, MFU."""
    import jax
    import numpy as np

    from clipjax import config
    from clipjax.build import model as build_model
    from clipjax.build import program as build
    from clipjax.parallel import sharding

    batch_size = options.batch_size
    c = config.defaults()
    c.batch_size = batch_size
    c.model = config.model(options.model, dtype=options.dtype, scan=not options.no_scan)
    c.model.vision.remat = c.model.text.remat = options.remat
    c.kernels = options.kernels
    c.loss.embed_dtype = options.dtype
    c.optimizer.learning_rate = LEARNING_RATE
    c.optimizer.beta1, c.optimizer.beta2 = BETAS
    c.optimizer.epsilon = EPSILON
    c.optimizer.weight_decay = WEIGHT_DECAY
    c.schedule.name = "constant"

    mesh = build.mesh(c)
    build_model.check_kernels(c, mesh=mesh)
    program = build.program(c, mesh=mesh, total_steps=1000, warmup_steps=0)
    step = build.compile_step(c, program, mesh=mesh)
    init = jax.jit(program.init, out_shardings=program.out_shardings[0])
    carried = {"state": init(jax.random.key(0))}
    images, texts = random_batch(batch_size)
    batch = {"image": images, "text": texts, "record_id": np.arange(batch_size, dtype=np.uint32)}
    batch = sharding.to_device(batch, mesh=mesh, batch_size=batch_size)

    def run():
        carried["state"], carried["metrics"] = step(carried["state"], batch)

    def loss():
        jax.block_until_ready(carried)
        return float(carried["metrics"]["train/loss"])

    def figures(seconds):
        memory = mesh.devices.flat[0].memory_stats() or {}
        share = build_model.peak_share(build_model.training_flops_per_pair(c), mesh=mesh)
        return {
            "peak_gib": memory.get("peak_bytes_in_use", 0) / 2**30,
            "mfu": share * batch_size / seconds if share else None,
            "device": mesh.devices.flat[0].device_kind,
        }

    return run, loss, figures


def open_clip_step(options):
    """Functions: one step of open_clip's own model, loss and parameter groups; peak memory."""
    import open_clip
    import torch

    torch.set_num_threads(options.threads)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = open_clip.create_model(OPEN_CLIP_NAMES[options.model], pretrained=None, device=device)
    model.set_grad_checkpointing(options.remat != "none")
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
    autocast = torch.autocast(device, torch.bfloat16, enabled=options.dtype == "bfloat16")
    images, texts = random_batch(options.batch_size)
    mean = torch.tensor(open_clip.OPENAI_DATASET_MEAN)
    std = torch.tensor(open_clip.OPENAI_DATASET_STD)
    images = (torch.from_numpy(images) / 255 - mean) / std
    images = images.permute(0, 3, 1, 2).contiguous().to(device)
    texts = torch.from_numpy(texts).long().to(device)
    last = {}

    def run():
        optimizer.zero_grad()
        with autocast:
            image_features, text_features, logit_scale = model(images, texts)
            last["loss"] = criterion(image_features, text_features, logit_scale)
        last["loss"].backward()
        optimizer.step()
        with torch.no_grad():
            model.logit_scale.clamp_(0, 4.6051702)

    def loss():
        if device == "cuda":
            torch.cuda.synchronize()
        return last["loss"].item()

    def figures(seconds):
        del seconds
        peak = torch.cuda.max_memory_allocated() if device == "cuda" else 0
        return {"peak_gib": peak / 2**30}

    return run, loss, figures


def worker(options):
    """For every line on stdin, run steps and print the seconds of one, the loss and the rest."""
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    sides = {"clipjax": clipjax_step, "open_clip": open_clip_step}
    run, loss, figures = sides[options.worker](options)
    for _ in sys.stdin:
        wall, cpu = time.perf_counter(), time.process_time()
        for _ in range(options.steps):
            run()
        last = loss()
        wall = (time.perf_counter() - wall) / options.steps
        cpu = (time.process_time() - cpu) / options.steps
        result = {"seconds": wall, "cpu_seconds": cpu, "loss": last, **figures(wall)}
        print(f"RESULT {json.dumps(result)}", flush=True)


class Worker:
    """One side's process, asked for one step at a time."""

    def __init__(self, name):
        command = [sys.executable, __file__, *sys.argv[1:], "--worker", name]
        env = {**os.environ, "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}  # a GPU is shared
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
        )

    def step(self):
        """The figures of one turn."""
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        for line in self.process.stdout:
            if line.startswith("RESULT "):
                return json.loads(line.removeprefix("RESULT "))
        raise SystemExit("a side ended early; its error is above")

    def close(self):
        self.process.communicate()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=1, help="in a turn")
    parser.add_argument("--model", choices=sorted(OPEN_CLIP_NAMES), default="ViT-B/32")
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--remat", default="none", help="model.{vision,text}.remat; not none: both")
    parser.add_argument("--kernels", default="auto", help="clipjax: config.kernels")
    parser.add_argument("--no_scan", action="store_true", help="clipjax: loop over the layers")
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
        print(
            "   ".join(
                _line(*side) for side in zip(("clipjax", "open_clip"), pairs[-1], strict=True)
            )
        )
    ours.close()
    theirs.close()

    def median(value):
        return statistics.median(value(*pair) for pair in pairs)

    result = {
        **{name: getattr(options, name) for name in ("model", "batch_size", "dtype", "remat")},
        **{name: getattr(options, name) for name in ("kernels", "threads", "pairs", "steps")},
        "device": pairs[-1][0]["device"],
        "clipjax_seconds": median(lambda a, _: a["seconds"]),
        "open_clip_seconds": median(lambda _, b: b["seconds"]),
        "clipjax_cpu_seconds": median(lambda a, _: a["cpu_seconds"]),
        "open_clip_cpu_seconds": median(lambda _, b: b["cpu_seconds"]),
        "ratio": median(lambda a, b: a["seconds"] / b["seconds"]),
        "cpu_ratio": median(lambda a, b: a["cpu_seconds"] / b["cpu_seconds"]),
        "clipjax_peak_gib": pairs[-1][0]["peak_gib"],
        "open_clip_peak_gib": pairs[-1][1]["peak_gib"],
        "load_average": load_average,
    }
    if pairs[-1][0]["mfu"]:
        result["clipjax_mfu"] = median(lambda a, _: a["mfu"])
    print(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in result.items()}))


def _line(name, result):
    """One side's turn, in words."""
    cpu, loss = result["cpu_seconds"], result["loss"]
    return f"{name} {result['seconds']:.4f} s ({cpu:.2f} CPU-s, loss {loss:.3f})"


if __name__ == "__main__":
    main()
