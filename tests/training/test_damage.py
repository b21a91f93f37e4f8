"""Damaged checkpoints: found out, put aside, and never trained on."""

import pathlib
import random
import re
import shutil

import jax
import numpy as np
import pytest

from clipjax import verify
from clipjax.common import exits
from clipjax.parallel import mesh as meshes
from clipjax.parallel import sharding
from clipjax.training.checkpoint import digest
from clipjax.training.checkpoint.write import Checkpoints
from clipjax.training.resume import restore_newest
from tests.training import test_checkpoint

# Of a step whose first file is damaged, tensorstore goes on to read the others, and tells the event
# loop that orbax has closed meanwhile.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
MADE = test_checkpoint.program(test_checkpoint.FSDP)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A work directory with steps 1 and 2, and their states."""
    folder = tmp_path_factory.mktemp("run")
    checkpoints = Checkpoints(str(folder))
    states = {}
    for step in (1, 2):
        states[step] = jax.jit(MADE.init, out_shardings=MADE.out_shardings[0])(jax.random.key(step))
        checkpoints.save(step, states[step], run={"step": step, "config": {"seed": [1, 2.5, "x"]}})
    checkpoints.close()
    return folder, states


def as_made(step):
    """The same shapes at every step."""
    return MADE.abstract_state


def equal(a, b):
    return all(
        np.array_equal(np.asarray(x), np.asarray(y))
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    )


def damage(folder, choose):
    """Flip a bit, truncate or delete one file; says what was done."""
    file = choose.choice(sorted(path for path in folder.rglob("*") if path.is_file()))
    kind = choose.choice(["flip", "flip", "flip", "truncate", "delete"])
    data = bytearray(file.read_bytes())
    if kind == "delete":
        file.unlink()
    elif kind == "truncate" or not data:
        file.write_bytes(data[: choose.randrange(len(data) + 1)])
    else:
        place = choose.randrange(len(data))
        data[place] ^= 1 << choose.randrange(8)
        file.write_bytes(data)
    return f"{kind} {file.relative_to(folder)}"


def trials(folder, states, tmp_path, *, count, seed):
    """Damage step 2 `count` times; how often it was found out, harmless, and silent."""
    choose = random.Random(seed)
    outcomes = {"found": 0, "harmless": 0, "silent": 0}
    for trial in range(count):
        copy = tmp_path / str(trial)
        shutil.copytree(folder, copy)
        done = damage(copy / "checkpoints" / "2", choose)
        checkpoints = Checkpoints(str(copy))
        told = []
        try:
            found = restore_newest(checkpoints, as_made, check=told.append)
        except exits.CheckpointError:  # step 1 was not damaged
            raise AssertionError(f"{done}: step 1 was not gone back to") from None
        assert found is not None, done
        step, state = found
        whole = equal(state, states[step]) and told[-1]["config"] == {"seed": [1, 2.5, "x"]}
        outcome = "silent" if not whole else "found" if step == 1 else "harmless"
        outcomes[outcome] += 1
        assert outcome != "silent", f"trial {trial}: {done}"
        assert (copy / "damaged" / "2").exists() == (step == 1)
        checkpoints.close()
        shutil.rmtree(copy)
    print(f"{count} damaged checkpoints: {outcomes}")
    return outcomes


def test_damage_is_found_or_harmless(run, tmp_path):
    outcomes = trials(*run, tmp_path, count=25, seed=0)
    assert outcomes["found"] > 0  # most of a step's files are superseded ones: harmless


@pytest.mark.slow
def test_five_hundred_damages_are_found_or_harmless(run, tmp_path):
    trials(*run, tmp_path, count=500, seed=20261124)


@pytest.mark.parametrize("kind", ["deleted", "emptied", "halved"])
def test_each_file_in_turn_is_told_by_name_or_harmless(tmp_path, kind):
    placed = jax.sharding.NamedSharding(
        jax.make_mesh((8,), ("x",)), jax.sharding.PartitionSpec("x")
    )
    values = {"w": jax.random.normal(jax.random.key(0), (64, 64)), "b": {"n": np.arange(8)}}
    state = jax.tree.map(lambda x: jax.device_put(x, placed), values)
    like = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state
    )
    whole = Checkpoints(str(tmp_path / "run"))
    whole.save(2, state, run={"config": [1, "x"]})
    whole.close()
    saved = tmp_path / "run" / "checkpoints"
    told = {}
    for file in sorted(path.relative_to(saved) for path in saved.rglob("*") if path.is_file()):
        copy = tmp_path / "copy" / "checkpoints"
        shutil.copytree(saved, copy)
        data = (copy / file).read_bytes()
        (copy / file).write_bytes(data[: len(data) // 2] if kind == "halved" else b"")
        if kind == "deleted":
            (copy / file).unlink()
        try:
            checkpoints = Checkpoints(str(copy.parent), read_only=True)
            assert checkpoints.read_run(2)["config"] == [1, "x"], file
            assert equal(checkpoints.restore(2, like), state), file
        except exits.CheckpointError as error:
            told[str(file)] = str(error)
        shutil.rmtree(copy.parent)
    for file, text in told.items():
        assert "step 2" in text and "bound method" not in text
        # Of a value's file tensorstore tells whose values it holds, and of most others the name.
        assert file in text or re.search(r'Error reading "(w|b\.n)/', text), f"{file}: {text}"
    assert {"2/run/metadata", "2/state/manifest.ocdbt"} <= told.keys()
    assert any("/d/" in file for file in told)


def test_a_flipped_value_is_told_by_step_and_array(run, tmp_path, caplog):
    folder, states = run
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    largest = max(
        (copy / "checkpoints" / "2" / "state").rglob("d/*"), key=lambda p: p.stat().st_size
    )
    data = bytearray(largest.read_bytes())
    data[len(data) // 2] ^= 16
    largest.write_bytes(data)
    found = restore_newest(Checkpoints(str(copy)), as_made, check=lambda run: None)
    assert found is not None and found[0] == 1 and equal(found[1], states[1])
    assert "step 2" in caplog.text and "moved to" in caplog.text


def test_an_array_that_the_files_forget_is_damage(run, tmp_path, caplog):
    folder, states = run
    copy = tmp_path / "run"
    shutil.copytree(folder, copy)
    listing = copy / "checkpoints" / "2" / "state" / "_METADATA"
    assert "token_embedding" in listing.read_text()
    listing.write_text(listing.read_text().replace("token_embedding", "token_embeddimg"))
    found = restore_newest(Checkpoints(str(copy)), as_made, check=lambda run: None)
    assert found is not None and found[0] == 1 and equal(found[1], states[1])
    assert "tell nothing of" in caplog.text and "token_embedding" in caplog.text


def test_all_damaged_is_an_error_and_starts_nothing_anew(run, tmp_path):
    copy = tmp_path / "run"
    shutil.copytree(run[0], copy)
    for step in ("1", "2"):
        (copy / "checkpoints" / step / "state" / "manifest.ocdbt").write_bytes(b"")
    with pytest.raises(exits.CheckpointError, match="all 2 checkpoints are damaged"):
        restore_newest(Checkpoints(str(copy)), as_made, check=lambda run: None)


def test_a_new_run_has_nothing_to_go_on_from(tmp_path):
    found = restore_newest(Checkpoints(str(tmp_path)), as_made, check=lambda run: None)
    assert found is None


def test_verify_reads_all_and_changes_nothing(run, tmp_path, capsys):
    assert verify.run(str(run[0])) == exits.DONE
    assert capsys.readouterr().out.count("whole") == 2
    copy = tmp_path / "run"
    shutil.copytree(run[0], copy)
    text = copy / "checkpoints" / "2" / "run" / "metadata"
    text.write_text(text.read_text().replace("2.5", "2.6"))
    before = sorted(pathlib.Path(copy).rglob("*"))
    assert verify.run(str(copy)) == exits.CHECKPOINT_IO
    told = capsys.readouterr().out.splitlines()
    assert "whole" in told[0] and "step 2" in told[1] and "JSON is not what was saved" in told[1]
    assert sorted(pathlib.Path(copy).rglob("*")) == before


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
def test_every_single_change_changes_the_digest(dtype):
    rng = np.random.default_rng(0)
    x = jax.numpy.asarray(rng.integers(0, 2, (7, 12)), dtype)
    wanted = digest.digest({"x": x})
    values = np.array(x)
    raw = values.view(np.uint8).reshape(-1)
    for trial in range(60):
        place = rng.integers(len(raw))
        bit = np.uint8(1 if dtype == "bool" else 1 << rng.integers(8))
        raw[place] ^= bit
        found = digest.digest({"x": jax.numpy.asarray(values)})
        assert digest.differing(found, wanted) == ["x"], trial
        raw[place] ^= bit
    swapped = values[::-1].copy()
    assert digest.differing(digest.digest({"x": jax.numpy.asarray(swapped)}), wanted) == ["x"]
    assert digest.digest({"x": jax.numpy.asarray(values)}) == wanted


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int32", "uint8", "bool"])
def test_a_hosts_array_has_the_digest_of_a_devices(dtype, monkeypatch):
    monkeypatch.setattr(digest, "PIECE", 7)  # which divides no size here but [7, 12]'s
    rng = np.random.default_rng(0)
    shapes = ((), (7, 12), (3, 5, 4), (0, 2))
    tree = {
        str(s): np.asarray(rng.integers(-9, 9, s)).astype(jax.numpy.dtype(dtype)) for s in shapes
    }
    tree["turned"] = tree["(7, 12)"].T
    assert digest.digest(tree) == digest.digest(jax.tree.map(jax.numpy.asarray, tree))


def test_no_flipped_bit_of_ten_thousand_is_missed():
    rng = np.random.default_rng(0)
    values = rng.integers(0, 2**32, 96, dtype=np.uint32)
    flipped = np.repeat(values[None], 10_000, axis=0)
    rows = np.arange(len(flipped))
    flipped[rows, rng.integers(96, size=len(rows))] ^= np.uint32(1) << rng.integers(
        32, size=len(rows), dtype=np.uint32
    )
    sums = np.asarray(jax.jit(jax.vmap(digest._leaf))(flipped))
    wanted = np.asarray(digest._leaf(jax.numpy.asarray(values)))
    assert (sums != wanted).all(axis=1).sum() == len(rows)  # either half alone would tell


SHARDINGS = (
    {"data": 8, "fsdp": 1, "tensor": 1},
    {"data": 1, "fsdp": 8, "tensor": 1},
    {"data": 2, "fsdp": 4, "tensor": 1},
    {"data": 2, "fsdp": 2, "tensor": 2},
    {"data": 1, "fsdp": 1, "tensor": 8},
)


def test_the_digest_does_not_see_the_sharding():
    """Of five, and of one device; each splits a table of its own along other axes."""
    wide = {"params": {"text": {"token_embedding": np.zeros((256, 128), np.float32)}}}
    block = {"attention": {"query": {"kernel": np.zeros((1, 128, 8, 16), np.float32)}}}
    wide["params"]["text"]["blocks"] = block
    rng = np.random.default_rng(0)
    values = jax.tree.map(lambda x: rng.normal(size=x.shape).astype(x.dtype), wide)
    wanted = digest.digest(jax.device_put(values, jax.devices()[0]))
    placements = set()
    for sizes in SHARDINGS:
        placed = sharding.shardings(values, mesh=meshes.make_mesh(sizes))
        placements.add(tuple(str(leaf.spec) for leaf in jax.tree.leaves(placed)))
        assert digest.digest(jax.device_put(values, placed)) == wanted, sizes
    assert len(placements) >= 4, "all alike"
