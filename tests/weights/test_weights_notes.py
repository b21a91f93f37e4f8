"""What a run or an evaluation does otherwise than its weights were trained for, or was not told, is
said where their figures are."""

import clipjax
from clipjax import config
from clipjax.api import Model
from clipjax.build import model as build_model
from clipjax.build import pretrained
from clipjax.evals.suites import summary
from clipjax.parallel import mesh as meshes
from clipjax.run import suites as run_suites
from clipjax.weights.preprocessing import PREPROCESSOR
from tests import tiny
from tests.weights import small


def starting_from(folder, model, **changes):
    c = tiny.tiny()
    c.init.weights = str(folder)
    c.model = config.model("custom", dtype="float32", **model)
    for key, value in changes.items():
        c.model[key] = value
    return c


def test_what_a_run_computes_otherwise_than_its_weights_were_trained_for(tmp_path):
    model = small.model(activation="gelu")
    small.write(tmp_path / "a", model, to="open_clip")
    assert build_model.weights_notes(starting_from(tmp_path / "a", model)) == []
    assert build_model.weights_notes(tiny.tiny()) == []
    other = starting_from(tmp_path / "a", model, activation="quick_gelu", image_resize="squash")
    where = f"config.init.weights={tmp_path / 'a'} was trained with"
    assert build_model.weights_notes(other) == [
        f"config.model.vision.activation is quick_gelu, and {where} gelu",
        f"config.model.text.activation is quick_gelu, and {where} gelu",
        f"config.model.image_resize is squash, and {where} crop",
    ]
    other.init.towers = ("text",)
    (note,) = build_model.weights_notes(other)
    assert "text.activation" in note


def test_of_a_tower_s_own_settings_too(tmp_path):
    """Where a tower has the activation that the other model has for both."""
    model = small.model(activation="gelu")
    small.write(tmp_path / "a", model, to="huggingface")
    same = starting_from(tmp_path / "a", model, activation="quick_gelu")
    same.model.vision.activation = same.model.text.activation = "gelu"
    same.model.text.causal = False
    (note,) = build_model.weights_notes(same)
    assert note.startswith("config.model.text.causal is False, and ")


def test_load_says_what_it_took_for_want_of_a_file(tmp_path, caplog):
    small.write(tmp_path / "a", small.model(), to="huggingface")
    clipjax.load(tmp_path / "a")
    assert not caplog.records
    (tmp_path / "a" / PREPROCESSOR).unlink()
    model = clipjax.load(tmp_path / "a")
    (line,) = [record.getMessage() for record in caplog.records]
    assert line == f"{tmp_path / 'a'}: {model.run['notes'][0]}"


def test_what_was_taken_for_want_of_a_file_stands_beside_a_suite_s_figures(tmp_path):
    model = small.model()
    small.write(tmp_path / "a", model, to="huggingface")
    (tmp_path / "a" / PREPROCESSOR).unlink()
    variables, run = pretrained.read(tmp_path / "a")
    (note,) = run["notes"]
    (said,) = build_model.weights_notes(starting_from(tmp_path / "a", model))
    assert note in said
    mesh = meshes.make_mesh({"data": 1, "fsdp": -1, "tensor": 1})
    measured = run_suites.evaluated_model(Model(variables, run=run, mesh=mesh), path="a")
    assert measured.weights["notes"] == [note]
    content = {"suite": "s", "model": "m", "compare": "", "weights": measured.weights}
    empty = {"rows": [], "missing": {}, "failed": {}, "protocols": {}, "averages": {}}
    assert note in summary.as_markdown(content | empty)
