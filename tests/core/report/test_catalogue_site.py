"""The pages of a catalogue: what is written, how much of it, and that every reference leads somewhere."""

from __future__ import annotations

import io
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from raytrain_xai.concept_runs.catalogue_files import Catalogue, Subject, read_catalogue, write_index, write_table
from raytrain_xai.concept_runs.catalogue_tables import SCHEMAS
from raytrain_xai.report.catalogue_site import decode_map, map_strip, write_site
from raytrain_xai.storage import locate, read_bytes

CLASSES = ("cat", "</script><b>dog")
LEVELS = 16


def png(values: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(values).save(buffer, format="PNG")
    return buffer.getvalue()


def made_up(folder: Path | str, num_concepts: int) -> Catalogue:
    """Concept 1 is never active, the others have two examples of images 0 and 1000 + k."""
    alive = [k for k in range(num_concepts) if k != 1]
    concepts = [
        {
            "concept": k, "proposed": "cat 1" if k == 2 else None, "images": 2 if k != 1 else 0,
            "frequency": 0.123456789 if k != 1 else 0.0, "positions": 5, "activation": 3.0,
            "class_entropy": 0.5 if k != 1 else None, "labels": [1, 0] if k != 1 else [],
            "label_shares": [0.75, 0.25] if k != 1 else [], "answers": 2, "mean_contribution": -0.5 if k != 1 else None,
            "classes": [1] if k != 1 else [], "class_contributions": [-1.0] if k != 1 else [], "always_on": k == 0,
            "spatial_size": 0.1 if k != 1 else None,
        }
        for k in range(num_concepts)
    ]  # fmt: skip
    one = png(np.full((28, 28), 255, dtype=np.uint8))
    examples = [
        {
            "concept": k, "rank": rank, "row": row, "activation": 2.0 - rank, "contribution": 0.1, "y": 0.5, "x": 0.5,
            "size": 0.1, "map": one,
        }
        for k in alive
        for rank, row in enumerate((0, 1000 + k))
    ]  # fmt: skip
    images = [
        {"row": row, "id": f"image {row}", "labels": [0], "answer": 1, "jpeg": b"jpeg"}
        for row in [0, *(1000 + k for k in alive)]
    ]
    partners = [{"concept": 0, "partner": 2, "positions": 4, "overlap": 0.5}]
    at = locate(str(folder))
    for name, rows in {"concepts": concepts, "examples": examples, "images": images, "coactivation": partners}.items():
        write_table(at, name, pa.Table.from_pylist(rows, schema=SCHEMAS[name]))
    subject = Subject("runs/late?x=1", "Final", num_concepts, "f", "data", "val", "d", 9, 2)
    totals = {
        "images": 9, "answers": 9, "alive": len(alive), "always_on": 1, "always_on_share": 0.25,
        "concepts_per_image": 3.5, "concepts_for_80_percent": 2.0,
    }  # fmt: skip
    catalogue = Catalogue(at, subject, CLASSES, totals)
    write_index(catalogue)
    return catalogue


def value_of(file: Path) -> Any:
    """The JSON inside a script."""
    text = file.read_text(encoding="utf-8").strip()
    return json.loads(re.sub(r"^(const CATALOGUE = |detail\(\d+, )|\)?;$", "", text))


def test_every_concept_is_in_the_list_and_in_its_file(tmp_path: Path) -> None:
    page = write_site(made_up(tmp_path, 130), {0: "Räder"})
    assert page == str(tmp_path / "index.html")
    listed = value_of(tmp_path / "data" / "concepts.js")
    columns = listed["concepts"]
    assert {len(column) for column in columns.values()} == {130}
    assert columns["name"][:3] == ["Räder", "", "cat 1"]
    assert columns["given"][:3] == [1, 0, 0]
    assert columns["frequency"][2] == 0.1235
    assert (columns["entropy"][1], columns["label"][1], columns["shown"][1], columns["cells"][1]) == (None, -1, [], 0)
    details = [value_of(tmp_path / "data" / f"detail-{number}.js") for number in range(3)]
    assert [len(part["concepts"]) for part in details] == [64, 64, 2]
    assert details[0]["concepts"][0]["partners"] == [[2, 4, 0.5]]
    assert details[0]["concepts"][2]["examples"] == [[0, 2.0, 0.1, 0.1], [1002, 1.0, 0.1, 0.1]]
    assert details[0]["images"]["1002"] == ["image 1002", [0], 1]
    assert set(details[2]["images"]) == {"0", "1128", "1129"}


def test_every_picture_that_is_shown_is_there_once(tmp_path: Path) -> None:
    write_site(made_up(tmp_path, 130), {})
    columns = value_of(tmp_path / "data" / "concepts.js")["concepts"]
    for k, rows in enumerate(columns["shown"]):
        assert (tmp_path / "maps" / "0" / f"{k}.png").is_file() == bool(rows)
        assert all((tmp_path / "thumbs" / str(row // 1000) / f"{row}.jpg").is_file() for row in rows)
    assert len(list((tmp_path / "thumbs").rglob("*.jpg"))) == 130


def test_the_page_needs_nothing_from_elsewhere_and_nothing_breaks_out(tmp_path: Path) -> None:
    page = Path(write_site(made_up(tmp_path, 3), {0: "</script><img src=x>"})).read_text(encoding="utf-8")
    assert not re.search(r"https?:|//cdn|@import", page)
    assert re.findall(r'(?:src|href)="([^"]*)"', page) == ["data/concepts.js"]
    assert page.count("</script>") == 2  # names and classes are in files of data
    assert "Concepts of late</h1>" in page
    assert "1 are always on and have 25 % of it" in page


@pytest.mark.parametrize("count", [1, 16])
def test_maps_keep_their_levels_and_their_edges(count: int) -> None:
    generator = np.random.default_rng(0)
    maps = [generator.integers(0, 256, (28, 28)).astype(np.uint8) for _ in range(count)]
    strip = Image.open(io.BytesIO(map_strip(maps)))
    assert strip.size == (30 * count, 30)
    levels = np.asarray(strip).astype(int)
    for number, values in enumerate(maps):
        cell = levels[:, 30 * number : 30 * (number + 1)]
        assert np.abs(cell[1:-1, 1:-1] * 255 / (LEVELS - 1) - values).max() <= 255 / (LEVELS - 1) / 2 + 1
        assert (cell[0, 1:-1] == cell[1, 1:-1]).all()
        assert (cell[1:-1, -1] == cell[1:-1, -2]).all()
    alpha = np.asarray(strip.convert("RGBA"))[..., 3]
    assert alpha[levels == 0].max() == 0
    assert (np.diff([alpha[levels == level].max() for level in range(LEVELS)]) > 0).all()
    assert (decode_map(png(maps[0])) == maps[0]).all()


def test_a_catalogue_on_s3_has_the_same_files(s3_storage: str, tmp_path: Path) -> None:
    """Tables and pages alike; the second page of requests too."""
    folder, question, options = s3_storage.partition("?")
    remote = made_up(f"{folder}/catalogue{question}{options}", 200)
    write_site(read_catalogue(remote.at), {})
    write_site(made_up(tmp_path, 200), {})
    local = sorted(file for file in tmp_path.rglob("*") if file.is_file() and file.name != "catalogue.json")
    assert len(local) > 400
    for file in local[::41]:
        assert read_bytes(remote.at.child(*file.relative_to(tmp_path).parts)) == file.read_bytes()
