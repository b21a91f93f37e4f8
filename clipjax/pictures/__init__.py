"""Pictures of a run, drawn from plain arrays, texts and dicts; `report.Report` keeps its folder.

All are drawn with Pillow, but for `curves`, which imports matplotlib (extra [quickstart]) when it
is called.
"""
