"""clipjax: CLIP pre-training on TPU pods. Importing it loads neither jax nor numpy."""

__version__ = "0.1.0"
