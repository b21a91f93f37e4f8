"""The samples' sheet and the contact sheet: panels, frames, marks, wrapped text."""

import numpy as np
import pytest
from PIL import ImageColor

from clipjax.pictures import canvas
from clipjax.pictures.sheets import contact_sheet, samples
from tests.pictures import synthetic


def rgb(name: str) -> np.ndarray:
    return np.array(ImageColor.getrgb(name))


def places(picture, tile: np.ndarray) -> list[tuple[int, int]]:
    """Where (x, y) the tile, uint8 [S, S, 3], stands in the picture, up to what is drawn on it."""
    pixels = np.asarray(picture)
    top = len(tile) // 2
    inner = tile[top : top + 40, 4:60]  # below the badge, and taller than an enlarged pixel
    found = []
    for y, x in np.argwhere((pixels[:-40, :-56] == inner[0, 0]).all(axis=-1)):
        if np.array_equal(pixels[y : y + 40, x : x + 56], inner):
            found.append((int(x) - 4, int(y) - top))
    return found


@pytest.mark.parametrize(
    ("side", "shown"), [(8, 160), (32, 160), (64, 192), (150, 150), (224, 224)]
)
def test_samples_shows_every_image_enlarged_by_whole_pixels(side, shown):
    images = [synthetic.image(i, side=side) for i in range(7)]
    assert canvas.tile_side(images) == shown
    sheet = samples.draw(
        images, captions=["a fox"] * 7, tokens=[["a", "fox"]] * 7, title="Examples"
    )
    times = shown // side
    for one in images:
        large = one.repeat(times, axis=0).repeat(times, axis=1)
        assert len(places(sheet, large)) == 1


def test_large_images_are_shrunk_and_others_padded():
    wide = canvas.tile(np.zeros((100, 400, 3), np.uint8), side=200)
    assert wide.size == (200, 200)
    assert canvas.tile_side([np.zeros((100, 400, 3), np.uint8)]) == canvas.LARGEST_TILE
    assert tuple(np.asarray(wide)[100, 100]) == (0, 0, 0)
    assert tuple(np.asarray(wide)[10, 100]) == tuple(rgb(canvas.HAIRLINE))


def test_samples_writes_captions_and_tokens_below_and_marks_what_is_cut():
    def draw(*, captions, tokens, truncated):
        return np.asarray(
            samples.draw(
                [synthetic.image(0)],
                captions=captions,
                tokens=tokens,
                truncated=truncated,
                title="Examples",
            )
        )

    whole = draw(captions=["a fox"], tokens=[["a", "fox"]], truncated=[False])
    cut = draw(captions=["a fox"], tokens=[["a", "fox"]], truncated=[True])
    red = (cut == rgb(canvas.RED)).all(axis=-1)
    assert red.sum() > 300
    assert not (whole == rgb(canvas.RED)).all(axis=-1).any()
    long = draw(captions=["fox " * 400], tokens=[["fox"] * 75], truncated=[True])
    assert long.shape[0] < 2.2 * whole.shape[0]
    assert (long == rgb(canvas.RED)).all(axis=-1).sum() == red.sum()


@pytest.mark.parametrize(
    "text", ["word " * 90, "x" * 400, "日本語" * 80, "", "a\nb\tc", "\u202e\x00"]
)
def test_wrapped_text_fits(text):
    lines = canvas.wrap(text, size=13, width=150, lines=3)
    assert 1 <= len(lines) <= 3
    assert all(canvas.font(13).getlength(line) <= 150 for line in lines)
    assert (lines[-1].endswith(canvas.ELLIPSIS)) == (len(text) > 100)
    assert not any(ord(c) < 32 for line in lines for c in line)


def test_a_long_file_name_keeps_its_end():
    name = canvas.keep_end("holiday/2024/" * 9 + "fox.jpeg", size=11, width=100)
    assert name.startswith(canvas.ELLIPSIS) and name.endswith("fox.jpeg")
    assert canvas.font(11).getlength(name) <= 100


def test_without_matplotlib_there_is_still_a_font(monkeypatch):
    monkeypatch.setattr(canvas.importlib.util, "find_spec", lambda name: None)
    canvas.font.cache_clear()
    try:
        assert canvas.wrap("a fox above a pizza", size=13, width=80, lines=5) != []
    finally:
        canvas.font.cache_clear()


def draw_contact_sheet(**changes):
    right = np.zeros((3, 5), bool)
    right[0, 0] = right[1, 3] = True  # the third query's image is not among its best
    arguments = {
        "images": [[synthetic.image(5 * q + k) for k in range(5)] for q in range(3)],
        "scores": np.linspace(0.9, -0.2, 15).reshape(3, 5),
        "right": right,
        "notes": ["its image is at rank 1 of 9", "", "its image is at rank 7 of 9"],
        "title": "held_out, step 20",
    }
    arguments.update(changes)
    sheet = contact_sheet.draw(["a fox", "a very long query " * 20, "a pizza"], **arguments)
    return sheet, arguments


def test_contact_sheet_frames_right_and_wrong():
    sheet, arguments = draw_contact_sheet()
    pixels = np.asarray(sheet)
    seen = []
    for q, row in enumerate(arguments["images"]):
        for k, one in enumerate(row):
            large = one.repeat(3, axis=0).repeat(3, axis=1)
            ((x, y),) = places(sheet, large)
            right = arguments["right"][q, k]
            color = canvas.GREEN if right else canvas.RED
            wide = contact_sheet.FRAME[bool(right)]
            for at in (
                (y + 96, x - 1),
                (y + 96, x - wide),
                (y - 1, x + 96),
                (y + 191 + wide, x + 96),
            ):
                assert tuple(pixels[at]) == tuple(rgb(color))
            assert tuple(pixels[y + 96, x - wide - 1]) != tuple(rgb(color))
            disc = pixels[y + 4 : y + 30, x + 162 : x + 188]
            assert (np.abs(disc.astype(int) - rgb(color)).max(axis=-1) < 16).mean() > 0.3
            seen.append((x, y))
    assert len({x for x, _ in seen}) == 5 and len({y for _, y in seen}) == 3


def test_contact_sheet_without_truth_has_no_marks():
    names = [[f"folder/{q}_{k}.jpeg" for k in range(5)] for q in range(3)]
    sheet, _ = draw_contact_sheet(right=None, notes=None, names=names)
    pixels = np.asarray(sheet)
    background = [synthetic.image(5 * q + k) for q in range(3) for k in range(5)]
    assert all(len(places(sheet, one.repeat(3, axis=0).repeat(3, axis=1))) for one in background)
    for color in (canvas.GREEN, canvas.RED):
        assert (pixels == rgb(color)).all(axis=-1).sum() < 5


def test_best_images_come_first():
    embed = np.eye(4, dtype=np.float32)
    query = np.array([[0.1, 0.9, 0.3, 0.2]], np.float32)
    index, scores = contact_sheet.best(query, embed, count=5)
    np.testing.assert_array_equal(index, [[1, 2, 3, 0]])
    np.testing.assert_allclose(scores, [[0.9, 0.3, 0.2, 0.1]])


def test_png_carries_its_texts():
    sheet, _ = draw_contact_sheet()
    content = canvas.png(sheet, title="title", description="é · 日本", attribution="CC BY-SA 4.0")
    texts = canvas.png_texts(content)
    assert (texts["Title"], texts["Description"]) == ("title", "é · 日本")
    assert texts["Copyright"] == "CC BY-SA 4.0"
