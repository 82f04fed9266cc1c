"""The page of a sweep in an installed Chromium: its table sorts, filters, grows, and fits on a phone."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from playwright.sync_api import Page, sync_playwright

from raytrain_xai.config import validated
from raytrain_xai.report.sweep_page import write_sweep_report
from raytrain_xai.storage import locate
from raytrain_xai.sweep_config import SweepConfig
from raytrain_xai.sweeps.table import Sweep, TrialRow

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs an installed Chromium or Chrome")


def trial(i: int) -> TrialRow:
    """F1 falls with the number; every tenth failed, and has no metrics."""
    metrics = {} if i % 10 == 9 else {"f1": 0.9 - i / 1000}
    status, error = ("finished", None) if metrics else ("failed", "RunError: <b>loss</b> is not finite")
    values = {"optim.lr": 10 ** (-4 + i / 100), "guidance.loss": "energy" if i % 2 else "l1"}
    return TrialRow(f"{i:04d}-a", status, 0, None, values, metrics, metrics, f"trials/{i:04d}-a", 1, 9.0, 9.0, error)


def first_cells(page: Page) -> list[str]:
    return page.eval_on_selector_all("#trials tbody th", "cells => cells.map(cell => cell.textContent)")


def test_the_table_of_trials(tmp_path: Path) -> None:
    config = validated(SweepConfig, {"name": "s", "storage": str(tmp_path), "base": {}}, "test")
    (tmp_path / "s" / "trials" / "0003-a").mkdir(parents=True)
    (tmp_path / "s" / "trials" / "0003-a" / "report.html").write_text("<title>third</title>")
    sweep = Sweep(locate(str(tmp_path / "s")), config, [trial(i) for i in range(150)], [])
    address = Path(write_sweep_report(sweep)).as_uri()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page(viewport={"width": 390, "height": 800}, color_scheme="dark")
        errors: list[str] = []
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(address)
        assert page.inner_text("#count") == "150 of 150 runs"
        assert len(first_cells(page)) == 100
        page.click("#more")
        assert len(first_cells(page)) == 150
        assert page.is_hidden("#more")
        page.click("thead button:text-is('F1, test')")  # the best first
        assert first_cells(page)[:2] == ["0000-a", "0001-a"]
        page.click("thead button:text-is('F1, test')")
        assert first_cells(page)[0] == "0148-a"
        assert page.get_attribute("th:has(button:text-is('F1, test'))", "aria-sort") == "ascending"
        page.fill("#filter", "energy finite")
        assert page.inner_text("#count") == "15 of 150 runs"  # 9, 19, ... are odd
        assert page.inner_text("#trials tbody td.text >> nth=0") == "RunError: <b>loss</b> is not finite"
        page.fill("#filter", "")
        page.select_option("#status", "finished")
        assert page.inner_text("#count") == "135 of 150 runs"
        assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")
        page.fill("#filter", "0003-a")
        page.click("#trials tbody a")
        assert page.title() == "third"
        assert errors == []
        browser.close()
