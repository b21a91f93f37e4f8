"""CLIP's encoders. `config.py` holds their settings, `zoo.py` the public models'."""
