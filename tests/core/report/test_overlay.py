"""Colours of heatmaps by hand, boxes by pixel."""

from __future__ import annotations

import base64
import io

import pytest
import torch
from PIL import Image

from raytrain_xai.report.overlay import (
    BOX_COLOUR,
    data_uri,
    draw_boxes,
    on_white,
    overlay_heatmap,
    signed_colours,
    signed_scale,
    to_picture,
)


def test_scale_is_the_995th_of_1000_absolute_values_per_map() -> None:
    ramp = torch.arange(1.0, 1001.0).view(1, 10, 100)
    maps = torch.cat([-ramp, 3 * ramp])
    assert signed_scale(maps).tolist() == [995.0, 2985.0]


def test_scale_of_a_sparse_map_is_its_peak_and_of_an_empty_one_is_one() -> None:
    sparse = torch.zeros(2, 20, 20)
    sparse[0, 3, 4] = -7.0
    assert signed_scale(sparse).tolist() == [7.0, 1.0]


def test_colours_are_blue_white_red() -> None:
    colours = signed_colours(torch.tensor([-2.0, -1.0, -0.5, 0.0, 0.25, 1.0, 9.0]))
    expected = [[0, 0, 1], [0, 0, 1], [0.5, 0.5, 1], [1, 1, 1], [1, 0.75, 0.75], [1, 0, 0], [1, 0, 0]]
    assert colours.tolist() == expected


def test_overlay_multiplies_lightened_grey_with_the_colour() -> None:
    images = torch.zeros(1, 3, 1, 4, dtype=torch.uint8)
    images[0, :, 0, 1:] = 255  # black, white, white, white
    attr = torch.tensor([[[4.0, 2.0, 0.0, -4.0]]])  # scale 4
    # Black becomes .45 · 255 = 115 (114.75), white stays 255; half red is (1, .5, .5).
    assert overlay_heatmap(images, attr)[0, 0].tolist() == [[115, 0, 0], [255, 128, 128], [255, 255, 255], [0, 0, 255]]


def test_overlay_of_an_empty_map_is_the_grey_picture() -> None:
    images = torch.tensor([[[[200]], [[100]], [[50]]]], dtype=torch.uint8)
    grey = 0.299 * 200 + 0.587 * 100 + 0.114 * 50  # 124.2
    expected = round(0.45 * 255 + 0.55 * grey)  # 183
    assert overlay_heatmap(images, torch.zeros(1, 1, 1))[0, 0, 0].tolist() == [expected] * 3


def test_overlay_resizes_the_map_to_the_picture() -> None:
    images = torch.full((2, 3, 8, 6), 255, dtype=torch.uint8)
    attr = torch.stack([torch.full((2, 2), 3.0), torch.full((2, 2), -0.1)])
    overlays = overlay_heatmap(images, attr)
    assert overlays.shape == (2, 8, 6, 3)
    assert overlays[0].unique(dim=0).flatten(0, 1).unique(dim=0).tolist() == [[255, 0, 0]]
    assert overlays[1].flatten(0, 1).unique(dim=0).tolist() == [[0, 0, 255]]


def test_overlay_refuses_float_images_and_other_lengths() -> None:
    with pytest.raises(ValueError, match="float32"):
        overlay_heatmap(torch.rand(1, 3, 4, 4), torch.zeros(1, 4, 4))
    with pytest.raises(ValueError, match="1 and 2"):
        overlay_heatmap(torch.zeros(1, 3, 4, 4, dtype=torch.uint8), torch.zeros(2, 4, 4))


def test_box_frame_lies_on_the_outermost_pixels_inside_the_box() -> None:
    drawn = draw_boxes(Image.new("RGB", (20, 20), (9, 9, 9)), [(4, 5, 10, 12)])
    pixels = torch.frombuffer(bytearray(drawn.tobytes()), dtype=torch.uint8).view(20, 20, 3)
    yellow = (pixels == torch.tensor(BOX_COLOUR, dtype=torch.uint8)).all(-1)
    rows, columns = yellow.nonzero(as_tuple=True)
    assert (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1) == (4, 5, 10, 12)  # half-open
    assert int(yellow.sum()) == 2 * 6 + 2 * 7 - 4  # a frame, one pixel wide
    assert pixels[8, 7].tolist() == [9, 9, 9]  # the inside is left alone


def test_boxes_empty_after_rounding_are_not_drawn() -> None:
    blank = Image.new("RGB", (8, 8), (0, 0, 0))
    assert draw_boxes(blank, [(3.2, 3, 3.4, 6), (5, 5, 5, 5)]).tobytes() == blank.tobytes()


def test_transparent_pixels_turn_white() -> None:
    rgba = torch.tensor([[[10, 20, 30, 255], [10, 20, 30, 0]]], dtype=torch.uint8)
    flat = on_white(to_picture(rgba))
    assert [flat.getpixel((0, 0)), flat.getpixel((1, 0))] == [(10, 20, 30), (255, 255, 255)]


def test_data_uri_holds_the_picture() -> None:
    head, _, body = data_uri(Image.new("RGB", (16, 9), (40, 80, 120))).partition(",")
    assert head == "data:image/jpeg;base64"
    decoded = Image.open(io.BytesIO(base64.b64decode(body)))
    assert decoded.size == (16, 9)
    assert max(abs(a - b) for a, b in zip(decoded.getpixel((8, 4)), (40, 80, 120), strict=True)) <= 3
