"""Names of TPU slices, and the errors for names there are none of."""

import importlib.util
import os

import pytest

from clipjax.common.exits import ConfigError
from clipjax.parallel.accelerators import ACCELERATORS
from clipjax.planning import topologies


@pytest.mark.parametrize(
    ("asked", "name", "chips"),
    [
        ("v5litepod-256", "v5e:16x16", 256),
        ("v5e-256", "v5e:16x16", 256),
        ("V5E-8", "v5e:2x4", 8),
        ("v6e-256", "v6e:16x16", 256),
        ("v6e-1", "v6e:1x1", 1),
        ("v4-8", "v4:2x2x1", 4),
        ("v4-512", "v4:4x8x8", 256),
        ("v5p-512", "v5p:4x8x8", 256),
        ("v5p-8", "v5p:2x2x1", 4),
        ("tpu7x-128", "tpu7x:4x4x4", 64),
        ("v5e:16x16", "v5e:16x16", 256),
        ("v5p:4x8x8", "v5p:4x8x8", 256),
        ("v5e:2x8", "v5e:2x8", 16),
    ],
)
def test_names(asked, name, chips):
    topology = topologies.find(asked)
    assert (topology.name, topology.chips, topology.asked) == (name, chips, asked)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ("v5litepd-256", 'did you mean "v5litepod-256"'),
        ("v5e-255", 'did you mean "v5litepod-256"'),
        ("v5p-500", 'did you mean "v5p-512"'),
        ("v6e-0", "known: v6e-1, v6e-4"),
        ("v5e", "write an accelerator type such as v5litepod-256"),
        ("h100-8", "kinds: v4, v5e, v5p, v6e, tpu7x"),
        ("v5e:4x4x4", "v5e slices are shaped like 4x4; known: v5e:1x1"),
        ("v5p:8x8", "v5p slices are shaped like 2x4x4"),
        ("v5e:0x4", "v5e slices are shaped like"),
    ],
)
def test_an_unknown_name_is_refused_with_the_known_ones(asked, told):
    with pytest.raises(ConfigError) as error:
        topologies.find(asked)
    message = str(error.value)
    assert told in message and f"--topology={asked}" in message and "\n" not in message


def test_every_kind_has_figures():
    assert set(topologies.SHAPES) <= set(ACCELERATORS)
    for kind in topologies.SHAPES:
        accelerator = ACCELERATORS[kind]
        assert accelerator.clock_hz and accelerator.ici_bytes_per_second
        assert accelerator.ici_links in (4, 6) and accelerator.dcn_bytes_per_second
        # Peak FLOPs are a power of two a cycle: matrix units of 128 × 128 or 256 × 256.
        per_cycle = accelerator.peak_flops / accelerator.clock_hz
        powers = [2.0**n for n in range(15, 22)]
        assert min(abs(per_cycle / power - 1) for power in powers) < 0.01, kind


def test_without_libtpu_the_extra_is_named(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r"pip install 'clipjax\[plan\]'"):
        topologies.check_compiler()


def test_the_environment_keeps_the_users_compiler_flags(monkeypatch):
    for name in (
        *("JAX_PLATFORMS", "TPU_SKIP_MDS_QUERY", "TPU_ACCELERATOR_TYPE", "TPU_WORKER_HOSTNAMES"),
        *("ALLOW_MULTIPLE_LIBTPU_LOAD", "JAX_ENABLE_COMPILATION_CACHE"),
    ):
        monkeypatch.setenv(name, "before")  # restored after the test
    monkeypatch.setenv("LIBTPU_INIT_ARGS", "--own_flag=1")
    topologies.prepare_environment("/tmp/dump")
    assert os.environ["JAX_PLATFORMS"] == "cpu"
    assert os.environ["LIBTPU_INIT_ARGS"].startswith("--own_flag=1 --xla_jf_dump_to=/tmp/dump ")
