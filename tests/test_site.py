"""The built site in a browser; it needs a site, and Chromium.

python -m scripts.build_docs && pip install playwright && pytest --slow tests/test_site.py
"""

import functools
import http.server
import json
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
LOADS = [  # pages of the reference are alike; a narrow screen finds what is too wide
    (name, width) for name in PAGES for width in WIDTHS
    if width == 400 or not name.startswith("docs/reference/")
]  # fmt: skip
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


@pytest.mark.parametrize("name, width", LOADS)
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


@pytest.mark.parametrize(
    "query, first",
    {
        "attention mask": "docs/concepts.html",
        "bounding box": "docs/concepts.html",
        "residual": "docs/concepts.html",
        "held-out": "docs/concepts.html",
        "exercises": "docs/teaching.html",
        "rope delta": "docs/concepts.html",
        "processor settings": "docs/reference/processor_settings.html",
    }.items(),
)
def test_search_finds_the_right_page_first(address, browser, query, first):
    page = browser.new_page()
    page.goto(f"{address}/search.html?q={query}")
    link = page.wait_for_selector("#search-results ul.search > li a")
    page.wait_for_function("() => /finished/.test(document.body.innerText)")
    link = page.query_selector("#search-results ul.search > li a")
    assert link.get_attribute("href").split("?")[0].split("#")[0] == first
    page.close()


def test_the_landing_page_fits_one_screen(address, browser):
    """Pitch, figure, commands, answer and the three ways in, on a laptop's screen."""
    page = browser.new_page(viewport={"width": 1280, "height": 800})
    page.goto(f"{address}/index.html", wait_until="networkidle")
    ends = "() => document.querySelector('.landing').getBoundingClientRect().bottom"
    assert page.evaluate(ends) <= 800
    shown = page.inner_text(".landing")
    for part in ("pip install .", "A black square at the top left", "Learn", "Teach", "Port"):
        assert part in shown
    assert page.query_selector(".landing-figure img")
    page.close()


def test_folded_cells_are_called_solution():
    for name in PAGES:
        page = (SITE / name).read_text(encoding="utf-8")
        assert "Show code cell" not in page and "Hide code cell" not in page
        if name.startswith("notebooks/"):
            assert page.count(">Solution<") >= 2


def test_notebooks_with_outputs_hold_outputs():
    files = sorted((SITE / "notebooks-with-outputs").glob("*.ipynb"))
    assert [f.name for f in files] == [f.name for f in sources_in("notebooks")]
    for file in files:
        cells = json.loads(file.read_text(encoding="utf-8"))["cells"]
        shown = [o.get("data", {}) for cell in cells for o in cell.get("outputs", ())]
        assert sum("image/png" in data for data in shown) >= 2, file.name
        assert not any("<img" in "".join(data.get("text/html", "")) for data in shown), file.name


def sources_in(folder):
    return sorted((build_docs.ROOT / folder).glob("*.ipynb"))


def test_pages_of_the_reference_are_small_and_link_to_their_source():
    pages = sorted((SITE / "docs" / "reference").glob("*.html"))
    assert len(pages) > 60
    for page in pages:
        assert page.stat().st_size < 300_000, page.name
        assert "_modules/tinyqwenvl/" in page.read_text(encoding="utf-8"), page.name


def test_no_dead_links():
    assert sorted(set(build_docs.faults(SITE))) == []
