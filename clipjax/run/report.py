"""What a training run shows in WORKDIR/report: chosen from its data and evaluations, then drawn.

`train` opens it on the lead process and lets it listen to the log; nothing here can end a run.
"""

import copy
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from clipjax import losses
from clipjax.config import Config
from clipjax.data.examples import TrainExamples
from clipjax.data.source import Source
from clipjax.evals import classification
from clipjax.evals.evaluator import Evaluator
from clipjax.pictures.report import Report

SAMPLES = 12


class RunReport:
    """WORKDIR/report of a run: listens to its log, on the process that writes.

    Args:
      workdir: local or remote; the report is named after it.
      log: path of the local, flushed `metrics.jsonl`.
      evaluators: by name.
      config: the run's settings.
      total_steps: of the whole run.
      source: whose images it shows, and whose `attribution`.
      notes: sentences without which the figures of training are misread.
      say: prints a line, past the progress bar.
    """

    def __init__(
        self,
        workdir: str,
        *,
        log: str,
        evaluators: Mapping[str, Evaluator],
        config: Config,
        total_steps: int,
        source: Source,
        notes: Sequence[str] = (),
        say: Callable[[str], None] = print,
    ) -> None:
        self.report = Report(
            f"{workdir.rstrip('/')}/report",
            title=os.path.basename(workdir.rstrip("/")),
            log=log,
            chance=chance_levels(evaluators, batch_size=config.batch_size, loss=config.loss.name),
            total_steps=total_steps,
            notes=[f"train: {note}" for note in notes],
            attribution=source.attribution,
            say=say,
        )

    def samples(self, examples: TrainExamples, *, start: int) -> None:
        """Draw the training examples from global position `start` on."""
        drawn = self.report.attempt(lambda: training_samples(examples, start=start), what="samples")
        if drawn is not None:
            self.report.samples(**drawn)

    def step(self, step: int) -> None:
        """Draw the curves anew, at most once a minute."""
        self.report.progress(step)

    def evaluation(self, step: int, *, details: Mapping[str, Any]) -> None:
        """Draw what the evaluators of a step left behind, then the curves and the page.

        Args:
          step: finished training steps.
          details: evaluator's name → its `details`: a zero-shot Result becomes a confusion matrix,
            a dict the arguments of a contact sheet (`pictures.sheets.retrieved`), None nothing.
        """
        self.report.evaluation(
            step,
            sheets={name: detail for name, detail in details.items() if isinstance(detail, dict)},
            confusions={
                name: {"counts": detail.confusion, "names": detail.classes}
                for name, detail in details.items()
                if isinstance(detail, classification.Result)
            },
        )

    def end(self, step: int, *, complete: bool) -> None:
        """Draw for the last time, and print the table against guessing and the page's path."""
        self.report.finish(step, complete=complete)
        print(f"\n{self.report.table()}\n\n{self.report.index}", flush=True)


def chance_levels(
    evaluators: Mapping[str, Evaluator], *, batch_size: int, loss: str
) -> dict[str, float]:
    """Metric → what guessing scores, in training and in each evaluator.

    Args:
      evaluators: by name.
      batch_size: global, the pairs that compete in training.
      loss: its name.
    """
    levels = {
        f"eval/{name}/{metric}": level
        for name, evaluator in evaluators.items()
        for metric, level in evaluator.chance.items()
    }
    for direction in ("image_to_text", "text_to_image"):
        levels[f"train/{direction}_accuracy"] = 1 / batch_size
    if guessing := losses.NAMES[loss].guessing:
        levels["train/loss"] = guessing(batch_size)
    return levels


class _Remembering:
    """A tokenizer that remembers the text it was last given."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.context_length: int = tokenizer.context_length
        self.text = ""

    def encode(self, texts: Sequence[str]) -> Any:
        self.text = texts[0]
        return self.tokenizer.encode(texts)


def training_samples(
    examples: TrainExamples, *, start: int, count: int = SAMPLES
) -> dict[str, Any]:
    """The arguments of `Report.samples` for `count` positions, exactly as training sees them."""
    remembering = _Remembering(examples.tokenizer)
    same = copy.copy(examples)
    same.tokenizer = remembering
    samples: dict[str, Any] = {
        "images": [],
        "captions": [],
        "tokens": [],
        "truncated": [],
        "first": start,
    }
    for position in range(start, start + count):
        example = same[position]
        samples["images"].append(example["image"])
        samples["captions"].append(remembering.text)
        samples["tokens"].append(decoded_tokens(example["text"], tokenizer=examples.tokenizer))
        samples["truncated"].append(example["truncated"])
    return samples


def decoded_tokens(ids: np.ndarray, *, tokenizer: Any) -> list[str]:
    """Each token of one caption, int [T], decoded alone, between the tokenizer's start, if it has
    one, and its end of text."""
    kept = list(map(int, ids))
    kept = kept[: kept.index(tokenizer.end_id)] if tokenizer.end_id in kept else kept
    return [tokenizer.decode([token]) for token in kept if token != tokenizer.start_id]
