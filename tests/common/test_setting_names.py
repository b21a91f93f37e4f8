"""Slips and other programs' words for settings lead to the setting that was meant."""

import pytest

from clipjax import config, convert, losses, optim
from clipjax.common.registry import closest
from clipjax.common.setting_names import ELSEWHERE, closest_setting
from clipjax.data import sources

KNOWN = list(config.flatten(config.defaults()))


@pytest.mark.parametrize(
    ("written", "meant"),
    [
        ("optimizer.lr", "optimizer.learning_rate"),
        ("lr", "optimizer.learning_rate"),
        ("learning_rate", "optimizer.learning_rate"),
        ("schedule.learning_rate", "optimizer.learning_rate"),
        ("optimizer.wd", "optimizer.weight_decay"),
        ("optimizer.beta_2", "optimizer.beta2"),
        ("batchsize", "batch_size"),
        ("optimizer.batch_size", "batch_size"),
        ("epochs", "total"),
        ("schedule.steps", "total"),
        ("warmup", "schedule.warmup"),
        ("schedule.warmup_steps", "schedule.warmup"),
        ("model.vision.layer", "model.vision.layers"),
        ("model.text.layer", "model.text.layers"),
        ("patch_size", "model.vision.patch_size"),
        ("grad-clip-norm", "optimizer.clip_norm"),
        ("grad_clip_norm", "optimizer.clip_norm"),
        ("force_patch_dropout", "patch_dropout"),
        ("workers", "data.num_workers"),
        ("data.workers", "data.num_workers"),
        ("accum_freq", "micro_batches"),
        ("precision", "model.dtype"),
        ("train-data", "data.path"),
        ("keep_best.metrics", "checkpoint.keep_best.metric"),
        ("xyzzy", None),
        ("", None),
    ],
)
def test_the_setting_that_was_meant(written, meant):
    wanted = f' (did you mean "{meant}"?)' if meant else ""
    assert closest_setting(written, KNOWN) == wanted


@pytest.mark.parametrize(
    ("written", "names", "meant"),
    [
        ("webdataset", sources.SOURCES, "tar"),
        ("WebDataset", sources.SOURCES, "tar"),
        ("tfrecords", sources.SOURCES, "tfrecord"),
        ("siglip", losses.LOSSES, "sigmoid_ring"),
        ("softmax", losses.LOSSES, "softmax_ring"),
        ("clip", losses.LOSSES, "softmax_gather"),
        ("const", optim.SCHEDULES, "constant"),
        ("adam", optim.OPTIMIZERS, "adamw"),
        *(
            (name, convert.FORMATS, "huggingface")
            for name in ("transformers", "HF", "hugging_face")
        ),
        *((name, convert.FORMATS, "open_clip") for name in ("openclip", "open-clip", "OpenCLIP")),
    ],
)
def test_the_name_that_was_meant(written, names, meant):
    assert closest(written, names) == f' (did you mean "{meant}"?)'
    assert closest("webdataset", ["adamw"]) == ""


def test_other_programs_words_lead_to_settings_there_are():
    assert set(ELSEWHERE.values()) <= set(KNOWN)
    assert closest_setting("epochs", ["optimizer.name"]) == ""
    assert closest_setting("lr", []) == ""
