"""CLIP's encoders; the names a model's settings may take are here, readable without jax."""

ACTIVATIONS = ("quick_gelu", "gelu")
REMAT_POLICIES = ("none", "block", "mlp", "dots")
