"""The web page in an installed Chromium: what it shows is what the API answers, and all of it can be used."""

from __future__ import annotations

import base64
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
import uvicorn
from playwright.sync_api import Browser, Page, expect, sync_playwright

from raytrain_xai.report.overlay import overlay_heatmap, signed_scale
from raytrain_xai.runners.catalogue import build_catalogue
from raytrain_xai.runners.tasks import Crew
from raytrain_xai.sections import ResourcesConfig
from serve.api import create_api
from serve.security.keys import add_key, new_key
from serve.service import Service
from serve.settings import ModelSettings, MonitorSettings, SecuritySettings, ServeSettings, VersionSettings

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
FLAGS = (
    "--disable-gpu --disable-quic --no-first-run --disable-background-networking --disable-component-update "
    "--disable-sync --no-sandbox"
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs an installed Chromium or Chrome")
STEP = ".step[data-concept]"
SAMPLE = "#sample=shapes%40new%2F0"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=30_000)  # waiting costs nothing where the machine is quick
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        yield started
        started.close()


@pytest.fixture(scope="module")
def folder(concept_runs: dict[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A concept run with a catalogue, beside a place for flags and a file of keys."""
    at = tmp_path_factory.mktemp("page")
    shutil.copytree(concept_runs["Final"], at / "run")
    build_catalogue(str(at / "run"), Crew(0, ResourcesConfig()), lambda _: None, split="train")
    return at


@pytest.fixture(scope="module")
def settings(folder: Path, served_models: dict[str, ModelSettings]) -> ServeSettings:
    shapes = ModelSettings(versions={"new": VersionSettings(run=str(folder / "run"))})
    models = {"shapes": shapes, "plain": served_models["plain"]}
    return ServeSettings(models=models, monitor=MonitorSettings(feedback=str(folder / "flags")))


@pytest.fixture(scope="module")
def address(settings: ServeSettings, make_service: Callable[[ServeSettings], Service]) -> Iterator[str]:
    with _Served(make_service(settings)) as served:
        yield served


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    """An empty tab; whatever the page says on its console as an error fails the test."""
    context = browser.new_context(viewport={"width": 1200, "height": 900}, reduced_motion="reduce")
    opened, wrong = context.new_page(), []
    opened.set_default_timeout(30_000)
    opened.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    yield opened
    context.close()
    assert [text for text in wrong if "Failed to load resource" not in text] == []


class _Served:
    """The API on a free port of loopback, in a thread."""

    def __init__(self, service: Service) -> None:
        config = uvicorn.Config(create_api(service), host="127.0.0.1", port=0, log_level="error")
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run)

    def __enter__(self) -> str:
        self._thread.start()
        deadline = time.monotonic() + 30
        while not self._server.started:
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.01)
        return f"http://127.0.0.1:{self._server.servers[0].sockets[0].getsockname()[1]}/"

    def __exit__(self, *_: object) -> None:
        self._server.should_exit = True
        self._thread.join()


def _ask(address: str, operation: str, image: bytes, **options: Any) -> dict[str, Any]:
    url = f"{address}v1/models/shapes@new:{operation}"
    return (
        httpx.post(url, content=image, params=options, headers={"Content-Type": "image/png"}).raise_for_status().json()
    )


def _upload(page: Page, address: str, image: bytes) -> None:
    page.goto(address)
    page.set_input_files("[data-part=file]", {"name": "noise.png", "mimeType": "image/png", "buffer": image})
    expect(page.locator(STEP)).to_have_count(10)


def _choose_another_class(page: Page) -> str:
    name = str(page.locator(".score input:not(:checked)").first.get_attribute("value"))
    page.locator(f'.score input[value="{name}"]').click()
    return name


def _pixels(page: Page) -> str:
    return page.evaluate("document.querySelector('.stage canvas').toDataURL()")


def _numbers(texts: list[str]) -> list[float]:
    return [float(text.replace("\u2212", "-").replace("\u00a0%", "")) for text in texts]


def test_it_shows_what_the_api_answers(page: Page, address: str, png: bytes) -> None:
    _upload(page, address, png)
    [trace] = _ask(address, "trace", png)["traces"]
    [traced] = trace["traced"]
    names = page.locator(".scores .name").all_text_contents()
    assert names == [score["name"] for score in trace["classes"]]
    expect(page.locator(".scores input:checked")).to_have_value(traced["name"])
    assert page.locator("button.name").all_text_contents() == [concept["name"] for concept in traced["concepts"]]
    values = _numbers(page.locator(".step .value").all_text_contents())
    parts = [traced["bias"], *(c["contribution"] for c in traced["concepts"]), traced["rest"]["contribution"]]
    assert values == pytest.approx([*parts, traced["logit"]], abs=0.0051)
    assert sum(values[:-1]) == pytest.approx(values[-1], abs=0.005 * len(values))
    assert f"{traced['logit']:.3f}".replace("-", "\u2212") in page.locator("[data-part=exact]").inner_text()


def test_the_heatmap_has_the_colours_of_the_reports(page: Page, address: str) -> None:
    generator = torch.Generator().manual_seed(0)
    picture = torch.randint(0, 256, (1, 3, 40, 60), generator=generator, dtype=torch.uint8)
    halves = torch.randn(1, 12, 18, generator=generator).half()
    stretched = torch.nn.functional.interpolate(halves[:, None].float(), size=(40, 60), mode="bilinear")[:, 0]
    rgba = np.dstack([picture[0].permute(1, 2, 0).numpy(), np.full((40, 60), 255, np.uint8)])
    sent = {"format": "fp16", "width": 18, "height": 12, "unit": 0.5, "scale": 0.5 * float(signed_scale(stretched)[0])}
    sent["data"] = base64.b64encode(halves.numpy().astype("<f2").tobytes()).decode()
    page.goto(address)
    painted = page.evaluate(
        """async ([map, rgba, strength]) => {
            const { paint, readMap } = await import("/page/heatmap.js");
            const pixels = new ImageData(Uint8ClampedArray.from(rgba), 60, 40);
            paint(pixels, readMap(map), strength);
            return [...pixels.data];
        }""",
        [sent, rgba.flatten().tolist(), 1],
    )
    painted = np.array(painted).reshape(40, 60, 4)
    expected = overlay_heatmap(picture, halves.float())[0].numpy().astype(int)
    assert np.abs(painted[..., :3] - expected).max() <= 1
    assert (painted[..., 3] == 255).all()


def test_pointing_at_a_concept_shows_where_it_is_and_asks_once(page: Page, address: str, png: bytes) -> None:
    _upload(page, address, png)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "concept_maps=pixels" in request.url else None)
    whole = _pixels(page)
    row = page.locator(STEP).nth(1)
    key = row.get_attribute("data-concept")
    with page.expect_response(lambda response: "concept_maps=pixels" in response.url):
        row.hover()
        assert _pixels(page) != whole  # the map of the layer's positions, before any request
    expect(page.locator(".caption")).to_contain_text(row.locator("button.name").inner_text())
    page.mouse.move(0, 0)
    assert _pixels(page) == whole
    row.hover()
    page.wait_for_timeout(250)  # longer than pointing at it has to last
    assert len(asked) == 1
    assert httpx.URL(asked[0]).params["concept"] == key


def test_switching_a_concept_off_tells_what_the_model_answers_then(page: Page, address: str, png: bytes) -> None:
    _upload(page, address, png)
    page.click("[data-part=experiment]")
    key = page.locator(STEP).first.get_attribute("data-concept")
    page.locator(STEP).first.get_by_role("switch").click()
    expect(page.locator(".scores.changed")).to_be_visible()
    [answer] = _ask(address, "intervene", png, change=f"{key}:0", classes=20)["interventions"]
    after = {score["name"]: score["probability"] for score in answer["changed"]}
    for row in page.locator(".score").all():
        shown = re.search(r"→ (?:[<>] )?(\d+) %", row.locator(".value").inner_text().replace("\u00a0", " "))
        assert shown is not None
        assert int(shown[1]) == pytest.approx(100 * after[row.locator(".name").inner_text()], abs=1)
    assert httpx.QueryParams(page.url.partition("#")[2])["change"] == f"{key}:0"
    page.click("[data-part=reset]")
    expect(page.locator(".scores.changed")).to_have_count(0)
    assert "change" not in page.url


def test_two_versions_stand_side_by_side(page: Page, address: str) -> None:
    page.goto(f"{address}#model=plain%40a&against=plain%40b&sample=shapes%40new%2F1")
    expect(page.locator(".which")).to_have_text(["plain, version a (75 %)", "plain, version b (25 %)"])
    expect(page.locator(".verdict b")).not_to_have_count(0)
    expect(page.locator(".panel.plain:not(.busy)")).to_have_count(2)
    left, right = (panel.bounding_box() for panel in page.locator(".panel").all())
    assert left is not None
    assert right is not None
    assert (left["y"], left["width"]) == (right["y"], right["width"])
    assert page.locator(".panel.plain .fall:visible").count() == 0  # no concepts: heatmaps only
    expect(page.locator(".of-map").first).to_contain_text("heatmap")


def test_a_link_brings_the_picture_along(page: Page, address: str, png: bytes) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    _upload(page, address, png)
    name = _choose_another_class(page)
    expect(page.locator(".step.total")).to_contain_text(name)
    page.click("[data-part=link]")
    expect(page.locator("[data-part=said]")).to_contain_text("small copy of the picture")
    link = page.evaluate("navigator.clipboard.readText()")
    fresh = page.context.new_page()
    fresh.goto(link)
    expect(fresh.locator(".step.total")).to_contain_text(name)
    assert fresh.locator(".stage canvas").evaluate("canvas => [canvas.width, canvas.height]") == [512, 341]  # 60 x 40


def test_renaming_is_seen_everywhere(page: Page, address: str) -> None:
    page.goto(f"{address}{SAMPLE}")
    first = page.locator("button.name").first
    first.click()
    sheet = page.locator("#concept")
    expect(sheet.locator("figure")).not_to_have_count(0)
    concept = page.locator(STEP).first.get_attribute("data-concept") or ""
    sheet.get_by_role("button", name="Rename").click()
    sheet.locator("input[maxlength]").fill("round edge")
    page.keyboard.press("Enter")
    expect(sheet.locator("h2")).to_have_text("round edge")
    expect(sheet.locator("[data-part=history]")).to_contain_text("round edge")
    page.keyboard.press("Escape")
    expect(sheet).to_be_hidden()
    page.wait_for_function("!location.hash.includes('concept=')")
    expect(first).to_have_text("round edge")
    layer, _, number = concept.rpartition("/")
    stored = httpx.get(f"{address}v1/models/shapes@new/concepts/{number}", params={"layer": layer}).json()
    assert (stored["name"], stored["named_by"]) == ("round edge", "user")
    page.click("[data-part=toConcepts]")
    page.fill("[data-part=search]", "ROUND")
    expect(page.locator(".concept")).to_have_count(1)


def test_a_flag_keeps_the_box_that_was_drawn(page: Page, address: str, folder: Path, png: bytes) -> None:
    _upload(page, address, png)
    page.click("[data-part=judge]")
    canvas = page.locator("#flag canvas").bounding_box()
    assert canvas is not None
    at = [
        (canvas["x"] + canvas["width"] * x, canvas["y"] + canvas["height"] * y) for x, y in ((0.75, 0.5), (0.25, 0.25))
    ]
    page.mouse.move(*at[0])
    page.mouse.down()
    page.mouse.move(*at[1], steps=3)
    page.mouse.up()
    page.fill("#flag [data-part=note]", "the edge decides")
    page.click("#flag [data-part=submit]")
    expect(page.locator("[data-part=said]")).to_contain_text("Thank you")
    [record] = [json.loads(path.read_text()) for path in (folder / "flags").rglob("*.json")]
    assert (record["verdict"], record["note"]) == ("wrong_reason", "the edge decides")
    assert record["box"] == pytest.approx([15, 10, 45, 20], abs=1)


def test_it_asks_for_a_key_and_goes_on(
    page: Page, settings: ServeSettings, make_service: Callable[[ServeSettings], Service], folder: Path
) -> None:
    token, key = new_key("reader", "explain")
    add_key(folder / "keys.jsonl", key)
    guarded = settings.model_copy(update={"security": SecuritySettings(keys=str(folder / "keys.jsonl"))})
    with _Served(make_service(guarded)) as address:
        page.goto(f"{address}{SAMPLE}")
        expect(page.locator("#key [data-part=detail]")).to_be_empty()
        page.locator("#key input").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.locator("#key [data-part=detail]")).not_to_be_empty()  # why that one was refused
        page.locator("#key input").fill(token)
        page.keyboard.press("Enter")
        expect(page.locator(STEP)).to_have_count(10)
        images = (
            "[...document.querySelectorAll('.samples img')].every(image => image.complete && image.naturalWidth > 0)"
        )
        page.wait_for_function(images)
        page.locator("button.name").first.click()
        page.locator("#concept [data-part=edit]").click()
        page.locator("#concept input[maxlength]").fill("mine")
        page.keyboard.press("Enter")
        expect(page.locator("#key")).to_contain_text("may do more")  # this key may not edit
        page.locator("#key [data-part=cancel]").click()
        expect(page.locator("#concept [data-part=message]")).not_to_be_empty()


def test_all_of_it_can_be_used_without_a_mouse(page: Page, address: str) -> None:
    page.goto(f"{address}{SAMPLE}")
    expect(page.locator(STEP)).to_have_count(10)
    names = page.locator("button.name")
    names.first.focus()
    page.keyboard.press("ArrowDown")
    expect(names.nth(1)).to_be_focused()
    expect(page.locator(".step.shown button.name")).to_have_text(names.nth(1).inner_text())
    page.keyboard.press("Enter")
    expect(page.locator("#concept")).to_be_visible()
    page.keyboard.press("Escape")
    expect(names.nth(1)).to_be_focused()
    page.locator(".scores input:checked").focus()
    page.keyboard.press("ArrowDown")
    expect(page.locator(".scores input").nth(1)).to_be_checked()
    expect(page.locator(".step.total")).to_contain_text(page.locator(".scores .name").nth(1).inner_text())
    page.go_back()
    expect(page.locator(".scores input").first).to_be_checked()


@pytest.mark.parametrize("fragment", ["", SAMPLE, "#view=concepts", f"{SAMPLE}&against=plain%40a&change=Final%2F1%3A0"])
def test_it_fits_on_a_phone(page: Page, address: str, fragment: str) -> None:
    page.set_viewport_size({"width": 390, "height": 844})
    page.goto(f"{address}{fragment}")
    page.wait_for_load_state("networkidle")
    assert page.evaluate("document.documentElement.scrollWidth") == 390


def test_what_goes_wrong_is_said_in_words(page: Page, address: str, png: bytes) -> None:
    _upload(page, address, png)
    page.set_input_files("[data-part=file]", {"name": "text.png", "mimeType": "image/png", "buffer": b"no picture"})
    expect(page.locator("[data-part=said]")).to_contain_text("text.png is no picture that this browser can read")
    page.route("**/v1/models/*:trace**", lambda route: route.abort())
    _choose_another_class(page)
    expect(page.locator(".problem")).to_contain_text("The service does not answer")
    page.unroute("**/v1/models/*:trace**")
    page.click("[data-part=retry]")
    expect(page.locator(".problem")).to_be_hidden()
    expect(page.locator(STEP)).to_have_count(10)
