"""CLIP's encoders. `shapes.py` holds their settings, `zoo.py` the public models'."""
