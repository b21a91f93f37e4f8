"""TPU kernels of the transformer block; `models/attention.py` and `layers.py` hold the plain forms.

They are given a `KernelMesh` to run at; without one the model uses the plain forms.
"""
