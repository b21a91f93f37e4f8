"""The linear probe at ImageNet's size: memory by compiling, and a run at a hundredth of the rows.

    PYTHONPATH=. python tests/bench/imagenet_probe.py [--topology v5e-8] [--rows 12811]

Compiles one chunk of L-BFGS for 1,281,167 × 1,024 features and 1,000 classes on 8 devices:
simulated CPU ones, and those of a TPU topology where libtpu is installed. Then fits that many rows
of a thousand Gaussian classes on the simulated devices. Prints one JSON line.
"""

import argparse
import json
import os
import resource
import time

import numpy as np

ROWS, WIDTH, CLASSES = 1_281_167, 1024, 1000


def compiled_memory(devices):
    """Bytes on a device: arguments, temporaries, and the peak."""
    import jax
    import jax.numpy as jnp

    from clipjax.evals.probe import logistic, solver
    from clipjax.parallel import mesh as meshes
    from clipjax.parallel import sharding
    from clipjax.planning import compile_memory

    mesh = meshes.make_mesh({"data": 1, "fsdp": -1, "tensor": 1}, devices=devices)
    length, block = logistic.padded(ROWS, mesh=mesh)
    split, whole = sharding.batch_sharding(mesh), sharding.replicated(mesh)

    def shape(*dims, dtype=jnp.float32, placed=whole):
        return jax.ShapeDtypeStruct(dims, dtype, sharding=placed)

    params = {"weights": shape(WIDTH, CLASSES), "bias": shape(CLASSES)}
    state = jax.eval_shape(lambda p: solver.begin(p, mesh=mesh), params)
    state = jax.tree.map(lambda x: shape(*x.shape, dtype=x.dtype), state)
    data = (
        shape(length, WIDTH, placed=split),
        shape(length, dtype=jnp.int32, placed=split),
        shape(length, placed=split),
        shape(WIDTH),
        shape(),
    )
    began = time.process_time()
    compiled = solver.advance.lower(
        state, *data, family=solver.softmax, mesh=mesh, block=block
    ).compile()
    found = compiled.memory_analysis()
    return {
        "device": devices[0].device_kind,
        "devices": len(devices),
        "arguments_mib": round(found.argument_size_in_bytes / 2**20),
        "temporaries_mib": round(found.temp_size_in_bytes / 2**20),
        "peak_mib": round(compile_memory.peak_bytes(found) / 2**20),
        "compile_cpu_seconds": round(time.process_time() - began, 1),
    }


def fitted(rows, *, penalty):
    """A fit of Gaussian classes in WIDTH dimensions."""
    from clipjax.evals.probe import logistic
    from clipjax.parallel import mesh as meshes

    mesh = meshes.make_mesh({"data": 1, "fsdp": -1, "tensor": 1})
    rng = np.random.default_rng(0)
    labels = rng.integers(0, CLASSES, rows)
    means = rng.normal(size=(CLASSES, WIDTH)).astype(np.float32)
    features = means[labels] + 2 * rng.normal(size=(rows, WIDTH)).astype(np.float32)
    began, wall = time.process_time(), time.perf_counter()
    placed = logistic.Rows(features, labels, classes=CLASSES, mesh=mesh)
    ready = time.process_time()
    fit = placed.fit(penalty)
    scores = fit.scores(features[:2000])
    return {
        "rows": rows,
        "penalty": penalty,
        "iterations": fit.iterations,
        "converged": fit.converged,
        "loss": round(fit.loss, 5),
        "training_accuracy": float(np.mean(scores.argmax(1) == labels[:2000])),
        "placing_cpu_seconds": round(ready - began, 1),
        "fit_cpu_seconds": round(time.process_time() - ready, 1),
        "wall_seconds": round(time.perf_counter() - wall, 1),
        "peak_host_gib": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20, 2),
    }


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--topology", default="v5e-8")
    parser.add_argument("--rows", type=int, default=ROWS // 100)
    parser.add_argument("--penalty", type=float, default=1e3)
    arguments = parser.parse_args()
    os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"
    from clipjax.common.exits import ConfigError
    from clipjax.planning import topologies

    topologies.prepare_environment()
    import jax

    found = {"compiled": [compiled_memory(jax.devices())]}
    try:
        topologies.check_compiler()
        slice_of = topologies.devices(topologies.find(arguments.topology))
        found["compiled"].append(compiled_memory(slice_of))
    except ConfigError as error:
        found["tpu"] = str(error)
    if arguments.rows:
        found["run"] = fitted(arguments.rows, penalty=arguments.penalty)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
