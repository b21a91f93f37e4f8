"""Other programs' CLIP weights, read and written, one format a module; `formats.py` knows them.

`weight_files.py` says which files hold a model, `wrappers.py` which arrays in them, `arrays.py`
which array of theirs is which parameter of ours. What the arrays do not say comes from the format's
settings (`settings.py` reads them, `preprocessing.py` transformers' images) or from what the user
named (`model_configs.py`), and is never guessed. `files.py` reads and writes what cannot run code,
`torch_pickles.py` is the guarded door to what can.
"""
