"""The page of the tree in an installed Chromium: it unfolds, finds, leads from one concept to another, fits a phone."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image
from playwright.sync_api import sync_playwright

from raytrain_xai.concepts.code import SparseCode
from raytrain_xai.concepts.relations import RelationRule, relations
from raytrain_xai.insight.described import PICTURE_SCHEMA, PICTURES, Described, DescribedSubject, description_of
from raytrain_xai.insight.description import describe_images
from raytrain_xai.report.tree_page import render_tree
from raytrain_xai.storage import locate, write_bytes

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs an installed Chromium or Chrome")
NAMES = {0: "animal", 1: "dog", 2: 'pug & "friends" </script>', 4: "car 1"}


def described(folder: Path) -> Described:
    """25 images of 4 patches: 0 animal, 1 dog below it, 2 pug below dog with the synonym 3, 4 alone, 5 never active."""
    z = torch.zeros(100, 6)
    z[:40, 0] = z[:20, 1] = z[:10, 2] = z[:9, 3] = z[50:60, 4] = 1.0
    code = SparseCode(z.view(25, 4, 6), torch.arange(6).expand(25, 4, 6), 6)
    sums = describe_images(code, 0, torch.zeros(25, 4, dtype=torch.uint8), 1)
    at = description_of(locate(str(folder)))
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (200, 0, 0)).save(buffer, format="JPEG")
    rows = [{"row": row, "data": "d", "id": str(row), "jpeg": buffer.getvalue()} for row in range(25)]
    table = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=PICTURE_SCHEMA), table)
    write_bytes(at.child(PICTURES), table.getvalue())
    subject = DescribedSubject("runs/zoo", "f" * 64, 6, ("d",), "train", ("0",), 16, None, (2, 2), 25)
    groups = torch.tensor([0, 0, 1, 1, 1, 1])
    return Described(at, subject, ("dog",), (2, 4), sums, relations(sums.seen, groups, RelationRule(0.8, 5, 0.5)))


def test_the_tree(tmp_path: Path) -> None:
    page_file = tmp_path / "tree.html"
    page_file.write_text(render_tree(described(tmp_path), NAMES))
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(page_file.as_uri())
        assert page.inner_text("#count") == "1 trees"
        assert page.locator("#tree h2").all_inner_texts() == ["animal"]
        for depth in range(3):
            page.locator("#tree summary").nth(depth).click()
        assert page.locator("#tree h2").all_inner_texts() == ["animal", "dog", 'pug & "friends" </script>']
        assert page.locator("#tree .body p").inner_text() == "Same as concept 3"
        mark = page.locator("#tree .many .patch i").first
        assert mark.get_attribute("style") == "left: 0%; top: 0%; width: 50%; height: 50%;"
        page.click("#tree .body p button")
        assert page.inner_text("#count") == "1 found"
        assert page.locator("#tree h2").all_inner_texts() == ["concept 3"]
        assert page.locator("#tree .body p").inner_text() == 'A synonym; see pug & "friends" </script>'
        page.fill("#search", "1")  # a number, not the "1" in a name
        assert page.locator("#tree h2").all_inner_texts() == ["dog"]
        page.locator("#tree summary").first.click()
        assert page.locator("#tree .body p").first.inner_text() == "Below animal"
        page.fill("#search", "CAR")
        assert page.locator("#tree h2").all_inner_texts() == ["car 1"]
        page.select_option("#kind", "single")
        assert page.locator("#tree h2").all_inner_texts() == ["car 1"]
        page.select_option("#kind", "all")
        assert page.inner_text("#count") == "5 active concepts"
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth")
        assert not errors
        browser.close()
