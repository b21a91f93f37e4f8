"""Checkpoints of earlier versions, kept in tests/golden, are read bit for bit and trained on.

JAX_PLATFORMS=cpu python tests/test_released_checkpoints.py    # at a release: add this version's

Each is the second step of a tiny run of four. One that can no longer be read is not written anew:
the reader has to learn it.
"""

import hashlib
import json
import os
import pathlib
import sys
import tarfile
import tempfile

import pytest

ROOT = pathlib.Path(__file__).parent.parent
GOLDEN = ROOT / "tests" / "golden"
WRITTEN = sorted(GOLDEN.glob("checkpoint_*.tar.xz"))


def settings(**changes):
    """Of the run: 5,889 parameters, with a moving average, part of them in bfloat16."""
    from tests import tiny

    c = tiny.tiny(total="4 steps", ema_decay=0.9, **changes)
    c.model.embed_dim = 8
    c.model.vision.update(image_size=16, patch_size=8, width=8, layers=1, head_width=8)
    c.model.text.update(context_length=8, vocab_size=290, width=8, heads=1, layers=1)
    c.optimizer.bfloat16_weights = (r"text/.*kernel",)
    return c


def leaves(workdir) -> dict[str, str]:
    """Kind and sha256 of every array of step 2, restored onto all devices as training does."""
    import numpy as np

    from clipjax.build import program as build
    from clipjax.common import trees
    from clipjax.training.checkpoint import digest
    from clipjax.training.checkpoint.write import Checkpoints

    c = settings()
    program = build.program(c, mesh=build.mesh(c), total_steps=4, warmup_steps=2)
    state = Checkpoints(str(workdir), read_only=True).restore(2, program.abstract_state)
    return {
        name: f"{digest.kind(leaf)} {hashlib.sha256(np.asarray(leaf).tobytes()).hexdigest()}"
        for name, leaf in trees.named_leaves(state)
    }


def embedding(workdir) -> list[float]:
    """Of a text, by what `clipjax.load` makes of the step's folder alone."""
    import clipjax

    model = clipjax.load(workdir / "checkpoints" / "2")
    return [round(float(x), 6) for x in model.encode_text(["a red circle"])[0]]


def test_the_version_at_hand_is_among_them():
    import clipjax

    names = [path.name for path in WRITTEN]
    assert f"checkpoint_{clipjax.__version__}.tar.xz" in names, f"run {__doc__.splitlines()[2]}"
    assert all(path.stat().st_size < 200_000 for path in WRITTEN)


@pytest.mark.parametrize("archive", WRITTEN, ids=lambda path: path.name.split("_")[1][:-7])
def test_every_bit_comes_back_and_training_goes_on(archive, tmp_path):
    from tests import tiny

    wanted = json.loads(archive.with_suffix("").with_suffix(".json").read_text())
    with tarfile.open(archive) as tar:
        tar.extractall(tmp_path, filter="data")
    assert leaves(tmp_path) == wanted["leaves"]
    assert embedding(tmp_path) == pytest.approx(wanted["text_embed"], abs=1e-5)
    assert tiny.run(settings(), tmp_path) == 0
    losses = {str(step): line["train/loss"] for step, line in tiny.values(tmp_path).items()}
    assert losses == pytest.approx(wanted["losses"], rel=1e-4)


def nobodys(info: tarfile.TarInfo) -> tarfile.TarInfo:
    """A member without the writer's name and clock."""
    return info.replace(uid=0, gid=0, uname="", gname="", mtime=0, deep=False)


def write() -> pathlib.Path:
    """Train, and keep step 2 in tests/golden under this version's name."""
    import sentencepiece

    import clipjax
    from tests import tiny

    with tempfile.TemporaryDirectory() as folder:
        workdir, words = pathlib.Path(folder) / "run", pathlib.Path(folder) / "words"
        sentencepiece.SentencePieceTrainer.Train(  # without NFKC's tables, 240 kB
            sentence_iterator=iter(["a red circle", "a blue square"] * 9),
            model_prefix=str(words),
            **{"model_type": "bpe", "vocab_size": 288, "hard_vocab_limit": False},
            **{"normalization_rule_name": "identity", "byte_fallback": True},
            **{"pad_id": 0, "unk_id": 1, "bos_id": -1, "eos_id": -1, "minloglevel": 2},
        )
        c = settings()
        c.tokenizer.path = f"{words}.model"
        assert tiny.run(c, workdir) == 0
        losses = {step: tiny.values(workdir)[step]["train/loss"] for step in (3, 4)}
        found = {"losses": losses, "text_embed": embedding(workdir), "leaves": leaves(workdir)}
        archive = GOLDEN / f"checkpoint_{clipjax.__version__}.tar.xz"
        with tarfile.open(archive, "w:xz") as tar:
            for name in ("config.json", "tokenizer", "checkpoints/2"):
                tar.add(workdir / name, arcname=name, filter=nobodys)
    archive.with_suffix("").with_suffix(".json").write_text(json.dumps(found, indent=1) + "\n")
    return archive


if __name__ == "__main__":
    sys.path[:0] = [str(ROOT)]
    from tests import devices

    os.environ["XLA_FLAGS"] = devices.xla_flags(1)
    print(write().relative_to(ROOT))
