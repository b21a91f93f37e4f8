"""Other programs' CLIP weights, read and written, one format a module; `formats.py` knows them.

`arrays.py` says which array of theirs is which parameter of ours, `files.py` reads and writes what
cannot run code, `torch_pickles.py` is the guarded door to what can.
"""
