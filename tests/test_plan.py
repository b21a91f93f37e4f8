"""The plan program: its figures, tables and errors; real compilations are marked `tpu_compiler`."""

import importlib.util
import json
import os
import subprocess
import sys

import pytest

from clipjax import plan
from clipjax.build import program as build
from clipjax.common.exits import CleanExit, ConfigError
from clipjax.config import check as config_check
from clipjax.parallel.accelerators import ACCELERATORS
from clipjax.planning import figures as planning
from clipjax.planning import topologies
from clipjax.planning.collectives import Collective
from clipjax.planning.compiled import Cost
from clipjax.planning.kernel_costs import Kernel
from tests import processes, tiny

needs_libtpu = pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="needs libtpu, extra [plan]"
)
FIGURES = {
    *("chips", "per_chip_batch", "parameter_count", "fits", "hbm_peak_bytes"),
    *("hbm_available_bytes", "model_flops_per_chip", "estimated_cycles", "compile_seconds"),
    *("estimated_step_seconds", "estimated_mfu", "estimated_mfu_low", "estimated_mfu_high"),
    *("custom_kernels", "collectives", "loss_temp_bytes", "examples_per_second", "chip_hours"),
    "limited_by",
}


def command(*arguments: str) -> subprocess.CompletedProcess:
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    return subprocess.run(
        [sys.executable, "-m", "clipjax.plan", *arguments],
        cwd=processes.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=processes.TIMEOUT,
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "--config is missing"),
        (("--config=tests/tiny.py",), "--topology is missing"),
        (
            ("--config=tests/tiny.py", "--topology=v5e-255"),
            '--topology=v5e-255: unknown (did you mean "v5litepod-256"?); known: v5litepod-1,',
        ),
        (
            ("--config=tests/tiny.py", "--topology=v5e-8", "--json=/nowhere/plan.json"),
            "--json=/nowhere/plan.json: its folder does not exist",
        ),
        (
            ("--config=tests/tiny.py", "--topology=v5e-8", "--sweep", "--sweep_remats=blok"),
            '--sweep_remats: "blok" is unknown (did you mean "block"?)',
        ),
        (
            ("--config=tests/tiny.py", "--topology=v5e-8", "--sweep", "--sweep_micro_batches=a"),
            "--sweep_micro_batches=a: write counts",
        ),
    ],
)
def test_mistakes_are_told_in_one_line(arguments, told):
    ended = command(*arguments)
    assert ended.returncode == 64
    assert told in ended.stderr and len(ended.stderr.splitlines()) == 1


def test_data_are_not_asked_for():
    config = tiny.tiny()
    config.data.source = "tfds"
    with pytest.raises(ConfigError, match="names no data"):
        config_check.check(config)
    config_check.check(config, data=False)


@pytest.mark.parametrize(
    ("total", "warmup", "expected"),
    [
        ("6 steps", "2 steps", (6, 2, 96)),
        ("1.6k examples", "160 examples", (100, 10, 1600)),
        ("32 epochs", "2 steps", (2, 1, None)),
    ],
)
def test_length_of_the_run(total, warmup, expected):
    config = tiny.tiny(total=total)
    config.schedule.warmup = warmup
    assert planning._run_length(config) == expected


def cost(**changes) -> Cost:
    kernel = Kernel("attention.1", 7, 10e6, "its compiled schedule")
    found = Cost(compute=60e6, memory=20e6, kernels=20e6, **changes)
    found.kernel_counts.update({kernel: 2})
    found.collective_counts.update(
        {
            Collective("all-gather", 2**20, 4, False, "parameters"): 3,
            Collective("all-reduce", 2**20, 4, True, "gradients"): 1,
        }
    )
    return found


def speed(found: Cost) -> dict:
    figures = {"model_flops_per_chip": 0.05 * ACCELERATORS["v5e"].peak_flops, "batch_size": 64}
    return planning._speed(found, accelerator=ACCELERATORS["v5e"], figures=figures)


def test_times_and_utilisation():
    found = speed(cost(exposed=50e6))
    assert found["estimated_cycles"] == 150e6
    assert found["estimated_step_seconds"] == pytest.approx(0.1)  # at 1.5 GHz
    assert found["examples_per_second"] == pytest.approx(640)
    assert found["estimated_mfu"] == pytest.approx(0.5)
    # Custom kernels at double and at half: 170 and 140 M cycles.
    assert found["estimated_mfu_low"] == pytest.approx(0.5 * 150 / 170)
    assert found["estimated_mfu_high"] == pytest.approx(0.5 * 150 / 140)


@pytest.mark.parametrize(
    ("changes", "limit"),
    [({}, "compute"), ({"exposed": 90e6}, "communication")],
)
def test_what_limits(changes, limit):
    assert speed(cost(**changes))["limited_by"] == limit
    assert Cost(compute=1, memory=2).limit() == "memory bandwidth"


def test_kernels_and_transfers_are_counted():
    counted = planning._counted(cost())
    assert counted["custom_kernels"] == [
        {"name": "attention.1", "count": 2, "cycles": 10e6, "charged": "its compiled schedule"}
    ]
    assert counted["collectives"] == {
        "all-gather": {"count": 3, "bytes": 3 * 2**20},
        "all-reduce": {"count": 1, "bytes": 2**20},
    }
    assert [(c["carries"], c["crosses_slices"]) for c in counted["collective_contents"]] == [
        ("parameters", False),
        ("gradients", True),
    ]


def figures(**changes) -> dict:
    config = tiny.tiny()
    base = {
        **{"config": "tiny", "asked": "v5e-4", "libtpu": "0.0.1", "note": planning.NOTE},
        **{"topology": "v5e:2x2", "num_slices": 1, "chips": 4, "devices": 4},
        **{"device_kind": "TPU v5 lite", "mesh": {"data": 1, "fsdp": 4, "tensor": 1}},
        **{"model": "custom", "loss": "softmax_gather", "parameter_count": 64449},
        **{"remat": {"vision": "none", "text": "none"}, "batch_size": 64, "micro_batches": 1},
        **{"per_chip_batch": 16.0, "hbm_available_bytes": 16 * 2**30},
        **{"loss_temp_bytes": 2**20, "loss_estimated_cycles": 3e6},
        **{"fits": True, "hbm_peak_bytes": 2**30, "hbm_overflow_bytes": 0, "chip_hours": 8.0},
        "compile_seconds": 3.0,
        "model_flops_per_chip": 0.05 * ACCELERATORS[topologies.find("v5e-4").kind].peak_flops,
    }
    found = cost(exposed=50e6)
    assert config.num_slices == 1
    return base | speed(found) | planning._counted(found) | changes


def test_the_table_says_what_its_figures_are():
    text = plan.describe(figures())
    assert "estimates, not measurements" in text
    assert "tiny on v5e-4 = 4 chips" in text
    assert "fits: 1.00 of 16.00 GiB" in text
    assert "50.0%, 44.1% to 53.6% with custom kernels at double and at half" in text
    assert "640 examples a second; 2.0 hours, 8 chip-hours in all" in text
    assert "attention.1: 2 × 10.000 M cycles, charged its compiled schedule" in text
    assert "all-reduce of gradients BETWEEN SLICES: 1 times, 1.00 MiB" in text
    assert "temporaries of 1.0 MiB, 3.0 M cycles, 2.0% of the step" in text
    assert "limited by  compute" in text


def test_the_table_of_what_does_not_fit():
    not_fitting = planning._does_not_fit(18 * 2**30, 16 * 2**30)
    text = plan.describe(figures(**not_fitting))
    assert "DOES NOT FIT: needs 18.00 of 16.00 GiB on each device, 2.00 too many" in text
    assert "MFU" not in text and "limited by  does not fit" in text


def test_a_program_that_jax_cannot_show():
    class Step:
        def as_text(self):
            raise planning.jax.errors.JaxRuntimeError("INTERNAL: RET_CHECK\nfailure")

    times = planning._times(Step(), accelerator=ACCELERATORS["tpu7x"], figures={}, dump_folder="")
    text = plan.describe(figures(**times))
    assert "no times: jax cannot show this program: INTERNAL: RET_CHECK failure" in text
    assert "fits: 1.00 of 16.00 GiB" in text and "MFU" not in text


def test_variants():
    config = tiny.tiny()
    groups = planning.variants(
        config, devices=32, remats=["none", "block"], micro_batches=[2, 1], meshes=[]
    )
    assert [[c.micro_batches for c in group] for group in groups] == [[1, 2]] * 6
    assert [group[0].model.vision.remat for group in groups] == ["none", "block"] * 3
    assert [tuple(group[0].mesh.values()) for group in groups[::2]] == [
        (1, 32, 1),
        (2, 16, 1),
        (32, 1, 1),
    ]
    assert config.model.text.remat == "none"
    asked = {"devices": 4, "remats": ["none"], "micro_batches": [1]}
    ((varied,),) = planning.variants(config, **asked, meshes=["2x-1x1"])
    assert dict(varied.mesh) == {"data": 2, "fsdp": -1, "tensor": 1}
    with pytest.raises(ConfigError, match="--sweep_meshes: 4 is no mesh"):
        planning.variants(config, **asked, meshes=["4"])


def test_a_sweep_stops_where_it_fits_and_keeps_failures(monkeypatch, capsys):
    def measure(config, **_):
        if config.model.text.remat == "dots":
            raise CleanExit("the TPU compiler failed: of itself")
        fits = config.model.text.remat == "block" or config.micro_batches >= 2
        row = figures(
            remat=dict.fromkeys(("vision", "text"), config.model.text.remat),
            micro_batches=config.micro_batches,
        )
        return row if fits else row | planning._does_not_fit(18 * 2**30, 16 * 2**30)

    monkeypatch.setattr(planning, "measure", measure)
    groups = planning.variants(
        tiny.tiny(),
        devices=4,
        remats=["none", "block", "dots"],
        micro_batches=[1, 2, 4],
        meshes=["1x4x1"],
    )
    rows = plan.sweep(groups, slice_settings={})
    tried = [(row["remat"]["text"], row["micro_batches"], row["fits"]) for row in rows]
    assert tried == [
        ("none", 1, False),
        ("none", 2, True),
        ("block", 1, True),
        *(("dots", count, None) for count in (1, 2, 4)),
    ]
    progress = capsys.readouterr().err.splitlines()
    assert len(progress) == len(rows) and progress[-1].startswith("[9/9] ")
    table = plan.describe_sweep(rows, version="0.0.1").splitlines()
    assert "not measurements" in table[0] and table[-1].startswith("fastest: remat")
    assert "failed: the TPU compiler failed: of itself" in "\n".join(table)
    assert "18.00 of 16.00 GiB: does not fit" in "\n".join(table)


def test_the_step_is_lowered_as_training_does():
    mesh = build.mesh(tiny.tiny())
    program = build.program(tiny.tiny(), mesh=mesh, total_steps=6, warmup_steps=2)
    text = build.lower_step(program).as_text()
    donated = text.count("jax.buffer_donor") + text.count("tf.aliasing_output")
    leaves = len(planning.trees.named_leaves(program.abstract_state))
    assert donated == leaves


@pytest.fixture
def absent(monkeypatch):
    """Environment for libtpu in this process; restored afterwards."""
    for name in (
        *("TPU_SKIP_MDS_QUERY", "TPU_ACCELERATOR_TYPE", "TPU_WORKER_HOSTNAMES"),
        *("ALLOW_MULTIPLE_LIBTPU_LOAD", "JAX_PLATFORMS", "JAX_ENABLE_COMPILATION_CACHE"),
    ):
        monkeypatch.setenv(name, os.environ.get(name, ""))
    topologies.prepare_environment()


def measure(config, name, **options):
    topology = topologies.find(name)
    devices = topologies.devices(topology, num_slices=config.num_slices)
    return planning.measure(config, topology=topology, devices=devices, **options)


@pytest.mark.tpu_compiler
@needs_libtpu
@pytest.mark.parametrize("name", ["v5e:2x2", "v4-8"])
def test_a_step_compiles_for_an_absent_slice(absent, name):
    found = measure(tiny.tiny(batch_size=64), name)
    assert set(found) >= FIGURES
    assert found["chips"] == found["devices"] == 4
    assert found["fits"] and found["limited_by"] in ("compute", "memory bandwidth", "communication")
    assert 0 < found["hbm_peak_bytes"] < found["hbm_available_bytes"]
    assert found["loops_of_unknown_length"] == 0
    assert 0 < found["estimated_mfu_low"] <= found["estimated_mfu"] <= found["estimated_mfu_high"]
    assert {"all-gather", "all-reduce"} <= set(found["collectives"])
    assert "all-to-all" not in found["collectives"]
    json.dumps(found)


@pytest.mark.tpu_compiler
@needs_libtpu
@pytest.mark.parametrize("name", ["v5e:2x2", "v5p-8", "v6e-4"])
def test_our_kernels_compile_for_every_kind_and_serve_both_towers(absent, name):
    config = tiny.tiny(batch_size=32)
    config.model.dtype = "bfloat16"
    config.model.vision.update(image_size=64, patch_size=4, width=128, head_width=64, layers=2)
    config.model.text.update(context_length=77, width=128, heads=2)
    found = measure(config, name, loss_alone=False)
    kernels = {kernel["name"].split(".")[0] for kernel in found["custom_kernels"]}
    assert kernels == {
        *("attention_forward", "attention_backward"),
        *("layer_norm_forward", "layer_norm_backward", "sum_tokens"),
    }
    assert "all-to-all" not in found["collectives"]
    config.kernels = "off"
    assert measure(config, name, loss_alone=False)["custom_kernels"] == []


@pytest.mark.tpu_compiler
@needs_libtpu
def test_layers_count_in_proportion(absent):
    def with_layers(layers):
        config = tiny.tiny(batch_size=64)
        config.model.vision.layers = layers
        return measure(config, "v5e-1", loss_alone=False)["cycles"]["compiler_compute"]

    one, five, nine = (with_layers(layers) for layers in (3, 7, 11))
    assert nine - five == pytest.approx(five - one, rel=0.2) and five > one


@pytest.mark.tpu_compiler
@needs_libtpu
@pytest.mark.parametrize("loss", ["softmax_ring", "softmax_gather"])
def test_parameters_never_cross_slices(absent, loss):
    config = tiny.tiny(batch_size=64, num_slices=2)
    config.mesh.data = 2
    config.loss.name = loss
    found = measure(config, "v5e:2x2")
    assert found["chips"] == 8
    crossing = {c["carries"] for c in found["collective_contents"] if c["crosses_slices"]}
    assert crossing >= {"embeddings", "gradients"}
    assert crossing <= {"embeddings", "log-sum-exps", "gradients", "scalars"}


@pytest.mark.tpu_compiler
@needs_libtpu
def test_an_overflow_is_a_result(tmp_path):
    file = tmp_path / "plan.json"
    ended = command(
        *("--config=tests/tiny.py", "--topology=v5e-1", f"--json={file}"),
        *("--config.batch_size=1048576", "--config.loss.name=softmax_gather"),
    )
    assert ended.returncode == 0, ended.stderr
    assert "DOES NOT FIT" in ended.stdout and "Traceback" not in ended.stderr
    found = json.loads(file.read_text())
    assert set(found) >= FIGURES
    assert found["fits"] is False and found["limited_by"] == "does not fit"
    assert found["hbm_overflow_bytes"] == found["hbm_peak_bytes"] - found["hbm_available_bytes"] > 0


@pytest.mark.tpu_compiler
@needs_libtpu
@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--topology=v5e-8", "--config.batch_size=12"), "config.batch_size=12: does not divide"),
        (("--topology=v5e:3x5",), "--topology=v5e:3x5: the TPU compiler refuses v5e:3x5"),
        (("--topology=v5e-4", "--num_slices=2"), "is not a multiple of config.num_slices=2"),
    ],
)
def test_mistakes_that_only_the_devices_show(arguments, told):
    ended = command("--config=tests/tiny.py", *arguments)
    assert ended.returncode == 64
    assert told in ended.stderr.splitlines()[-1] and "Traceback" not in ended.stderr


@pytest.mark.tpu_compiler
@needs_libtpu
def test_a_sweep_of_real_steps(tmp_path):
    file = tmp_path / "sweep.json"
    ended = command(
        *("--config=tests/tiny.py", "--topology=v5e:2x2", "--sweep", f"--json={file}"),
        *("--sweep_remats=none,block", "--sweep_micro_batches=1", "--sweep_meshes=1x4x1,1x3x1"),
    )
    assert ended.returncode == 0, ended.stderr
    rows = json.loads(file.read_text())["rows"]
    assert [row["fits"] for row in rows] == [True, True, None, None]
    assert "does not make 4 devices" in rows[-1]["reason"]
    assert "fastest: remat" in ended.stdout


KERNEL = """
import json, sys
from clipjax.planning import compiled, kernel_schedules, topologies
from clipjax.parallel.accelerators import ACCELERATORS
topologies.prepare_environment(sys.argv[1])
import jax, jax.numpy as jnp, numpy as np
from jax.experimental import pallas as pl
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P

def kernel(x, y):
    y[...] = jax.lax.fori_loop(0, 20, lambda i, z: jnp.sin(z), x[...])

def double(x):
    block = pl.BlockSpec((8, 128), lambda i: (i, 0))
    shape = jax.ShapeDtypeStruct(x.shape, x.dtype)
    return pl.pallas_call(kernel, out_shape=shape, grid=(32,), in_specs=[block], out_specs=block)(x)

mesh = Mesh(np.array(topologies.devices(topologies.find("v5e-4"))), ("x",))
split = jax.shard_map(double, mesh=mesh, in_specs=P("x"), out_specs=P("x"), check_vma=False)
x = jax.ShapeDtypeStruct((1024, 128), jnp.float32, sharding=NamedSharding(mesh, P("x")))
text = jax.jit(split).lower(x).compile().as_text()
schedules = kernel_schedules.read_dump(sys.argv[1], names=compiled.kernel_names(text))
cost = compiled.read(text, accelerator=ACCELERATORS["v5e"], devices=4, schedules=schedules)
print(json.dumps([[k.name, k.cycles, k.charged] for k in cost.kernel_counts]))
"""


@pytest.mark.tpu_compiler
@needs_libtpu
def test_a_custom_kernel_is_charged_its_schedule(tmp_path):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("JAX_", "XLA_"))}
    ended = subprocess.run(
        [sys.executable, "-c", KERNEL, str(tmp_path)],
        cwd=processes.ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=processes.TIMEOUT,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    ((_, cycles, charged),) = json.loads(ended.stdout.splitlines()[-1])
    assert charged == "its compiled schedule"
    assert 32 * 20 * 10 < cycles < 32 * 20 * 500  # at least a few bundles a turn
