"""The built site in a browser; it needs a site, and Chromium.

python -m scripts.build_docs && pip install playwright && pytest --slow tests/test_site.py
"""

import functools
import http.server
import shutil
import threading

import pytest

from scripts import build_docs

playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")

SITE = build_docs.SITE
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if not CHROMIUM or not (SITE / "index.html").exists():
    pytest.skip("needs Chromium, and the site built", allow_module_level=True)

pytestmark = pytest.mark.slow
PAGES = sorted(
    str(path.relative_to(SITE)) for path in SITE.rglob("*.html") if "_modules" not in path.parts
)
WIDTHS = (400, 1280)
WIDER_THAN_THE_PAGE = """() => {
    const page = document.documentElement, wide = [];
    if (page.scrollWidth > page.clientWidth) wide.push(`page ${page.scrollWidth}`);
    for (const image of document.querySelectorAll("article img"))
        if (image.getBoundingClientRect().right > page.clientWidth) wide.push(image.alt);
    return wide;
}"""
NOT_LOADED = """() => [...document.images].filter(i => !(i.complete && i.naturalWidth))
                        .map(i => i.alt || i.src.slice(0, 80))"""
NO_ALT = """() => [...document.querySelectorAll("article img")].filter(i => !i.alt)
                    .map(i => i.src.slice(0, 80))"""


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *_):
        pass


@pytest.fixture(scope="module")
def address():
    handler = functools.partial(Quiet, directory=SITE)
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()


@pytest.fixture(scope="module")
def browser():
    with playwright.sync_playwright() as driver:
        yield driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])


@pytest.fixture(params=["light", "dark"])
def scheme(request):
    return request.param


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", PAGES)
def test_a_page_loads_whole(address, browser, name, width):
    """No console errors, nothing from elsewhere, every figure there, nothing wider than a page."""
    page = browser.new_page(viewport={"width": width, "height": 800})
    complaints, asked = [], []
    page.on("console", lambda m: complaints.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda request: asked.append(request.url))
    page.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
    page.goto(f"{address}/{name}", wait_until="networkidle")
    page.evaluate("() => document.fonts.ready")
    assert complaints == []
    assert [url for url in asked if not url.startswith((address, "data:", "blob:"))] == []
    assert page.evaluate(NOT_LOADED) == []
    assert page.evaluate(NO_ALT) == []
    assert page.evaluate(WIDER_THAN_THE_PAGE) == []
    page.close()


def test_mathematics_is_set(address, browser):
    """MathJax comes with the site and has done its work wherever a page holds a formula."""
    pages = [name for name in PAGES if 'class="math' in (SITE / name).read_text(encoding="utf-8")]
    assert pages
    page = browser.new_page()
    page.goto(f"{address}/{pages[0]}", wait_until="networkidle")
    page.wait_for_selector("mjx-container")
    page.close()


def test_figures_can_be_read_on_a_dark_page(address, browser, scheme):
    """A figure brings its own light ground, so that its dark ink is seen in both schemes."""
    page = browser.new_page(color_scheme=scheme)
    pages = [n for n in PAGES if n.startswith("notebooks/")]
    page.goto(f"{address}/{pages[-1]}", wait_until="networkidle")
    corner = """() => { const i = document.querySelector("article img[src^='data:']");
        const c = document.createElement("canvas"); c.width = c.height = 1;
        const x = c.getContext("2d"); x.drawImage(i, 0, 0, 1, 1, 0, 0, 1, 1);
        return [...x.getImageData(0, 0, 1, 1).data]; }"""
    red, green, blue, opaque = page.evaluate(corner)
    assert min(red, green, blue) > 240 and opaque == 255
    page.close()


def test_no_dead_links():
    assert sorted(set(build_docs.faults(SITE))) == []
