"""Pictures of a run, drawn from plain arrays, texts and dicts; `report.Report` keeps its folder.

`samples` and `contact_sheet` need Pillow only; `curves` and `confusion` need matplotlib, from extra
[quickstart], and import it when they are called.
"""
