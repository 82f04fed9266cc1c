"""The page of an encoder in an installed Chromium: words, places, concepts, the tree, found pictures."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator

import pytest
import uvicorn
from colours import png_of, two_colours
from playwright.sync_api import Page, expect, sync_playwright

from serve.api import create_api
from serve.settings import ModelSettings, ServeSettings

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs an installed Chromium or Chrome")
IMAGE = png_of(two_colours((255, 0, 0), (0, 0, 255)))


@pytest.fixture(scope="module")
def address(colour_models: dict[str, ModelSettings], make_service) -> Iterator[str]:
    app = create_api(make_service(ServeSettings(models=colour_models)))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=0, log_level="error"))
    thread = threading.Thread(target=server.run)
    thread.start()
    deadline = time.monotonic() + 30
    while not server.started:
        assert time.monotonic() < deadline, "the server did not start"
        time.sleep(0.01)
    yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/"
    server.should_exit = True
    thread.join()


@pytest.fixture(params=[1200, 390])
def page(request: pytest.FixtureRequest, address: str) -> Iterator[Page]:
    """The picture of two colours is shown; whatever the page says on its console as an error fails the test."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        opened, wrong = browser.new_page(viewport={"width": request.param, "height": 900}), []
        opened.set_default_timeout(15_000)
        opened.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
        opened.on("pageerror", lambda error: wrong.append(str(error)))
        opened.goto(address)
        opened.set_input_files("[data-part=file]", {"name": "a.png", "mimeType": "image/png", "buffer": IMAGE})
        expect(opened.locator(".active li")).to_have_count(2)
        yield opened
        assert opened.evaluate("document.documentElement.scrollWidth") <= request.param
        browser.close()
        assert wrong == []


def test_what_an_encoder_sees(page: Page) -> None:
    # a place: the left half is red alone
    expect(page.locator(".insight [data-part=where]")).to_have_text("Concepts of the picture")
    box = page.locator(".stage canvas").bounding_box()
    assert box is not None
    page.locator(".stage canvas").click(position={"x": box["width"] / 8, "y": box["height"] / 2})
    expect(page.locator(".active .name")).to_have_text(["concept 0"])
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    expect(page.locator(".active .name")).to_have_text(["concept 2"])
    # the picture by a concept
    page.locator(".active .colour").click()
    expect(page.locator(".insight .caption")).to_have_text("Where concept 2 is.")
    page.get_by_role("button", name="Whole picture").click()
    expect(page.locator(".active li")).to_have_count(2)
    # words
    page.get_by_label("Words, with commas between them").fill("red, green, blue")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page.locator(".parted h4 span:first-of-type")).to_have_text(["red", "blue"])
    assert "50\u00a0% · cosine 0.94" in page.locator(".parted h4").first.inner_text()
    expect(page.get_by_text("The parts add up to the cosine.")).to_have_count(2)
    assert "words=red" in page.url


def test_the_tree_is_walked_and_pictures_are_found(page: Page) -> None:
    page.get_by_role("button", name="About concept 2").click()
    expect(page.get_by_role("heading", name="More general")).to_be_visible()
    page.locator("[data-part=parents] button").click()
    expect(page.locator("#concept-name")).to_have_text("red")
    expect(page.locator("[data-part=children] button")).to_have_text(["concept 1", "concept 2"])
    page.get_by_role("button", name="Close").click()
    page.get_by_role("button", name="All concepts").click()
    expect(page.locator(".cards li")).to_have_count(4)
    page.get_by_label("only where trees begin").check()
    expect(page.locator(".cards .about b")).to_have_text(["red"])
    page.get_by_label("Find pictures of").fill("yellow")
    page.get_by_role("button", name="Find").click()
    expect(page.locator(".found img").first).to_be_visible()
    page.locator(".found .shot").first.click()
    expect(page.locator(".active li").first).to_be_visible()
