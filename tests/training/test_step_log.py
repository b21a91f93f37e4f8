"""What a terminal shows of a step's evaluations."""

from clipjax.training.logging import step_log


def test_evaluations_are_lines_that_a_terminal_shows_whole():
    recalls = {
        f"eval/held_out/{way}_recall_at_{k}": 0.0123456 * k
        for way in ("image_to_text", "text_to_image")
        for k in (1, 5, 10)
    }
    metrics = {**recalls, "eval/objects/top1_accuracy": 0.25, "eval/objects/prompts_hash": "ab12"}
    lines = step_log.evaluation_lines(12000, metrics)
    assert all(len(line) <= 100 for line in lines)
    assert lines[0].startswith("step 12,000, held_out: image_to_text_recall_at_1 0.01235, ")
    assert lines[-1] == "step 12,000, objects: top1_accuracy 0.25"
    assert all(line.startswith("    ") for line in lines[1:-1]) and len(lines) > 2
    told = " ".join(line.strip() for line in lines)
    for key, value in recalls.items():  # a metric and its value stay on one line
        assert any(f"{key.split('/')[2]} {value:.4g}" in line for line in lines)
    assert "ab12" not in told and "\u00a0" not in told


def test_a_name_longer_than_a_line_is_not_cut():
    (line,) = step_log.evaluation_lines(1, {f"eval/x/{'m' * 120}": 1.0})[1:]
    assert line == f"    {'m' * 120} 1"
    assert step_log.evaluation_lines(1, {"eval/x/hash": "text"}) == []
