"""A model on a set whose embeddings, prompts and classifier the test gives."""

import types

import jax

from clipjax.evals.evaluated import EvaluatedModel, EvaluatedSet
from clipjax.parallel import mesh as meshes


def on_set(data, *, embedder=None, weights=None, **fields):
    """An EvaluatedSet of `data`.

    Args:
      embedder: what it calls to embed: functions `images` and `texts`.
      weights: the zero-shot classifier, float32 [C, E].
      fields: of EvaluatedSet, or its `image_embed` and `features`.
    """
    given = {name: fields.pop(name) for name in ("image_embed", "features") if name in fields}
    model = EvaluatedModel(
        embedder=types.SimpleNamespace(**embedder or {}),
        tokenizer=None,
        image_size=8,
        mesh=meshes.make_mesh({"data": 1, "fsdp": 1, "tensor": 1}, devices=jax.devices()[:1]),
        name="mine",
        weights={"id": "w"},
        logit_scale=10.0,
    )
    fields.setdefault("open_train", lambda: data)
    evaluated = EvaluatedSet(model, data, **fields)
    classifier = types.SimpleNamespace(ensemble=weights)
    prompts = types.SimpleNamespace(hash="h"), "given"
    vars(evaluated).update(given, classifier=classifier, _prompts=prompts)
    return evaluated
