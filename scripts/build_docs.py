"""Build the site: run the changed notebooks, then Sphinx; any warning is an error.

    python -m scripts.build_docs             # docs/_build/html/index.html
    python -m scripts.build_docs --no-run    # with the notebooks as they were last executed

No network is needed, and no page loads anything from elsewhere. The notebooks are attached to the
site as files, with outputs in notebooks-with-outputs/. At the end every link within the site is
followed.
"""

import argparse
import os
import shutil
import sys
from html.parser import HTMLParser
from urllib.parse import unquote, urlsplit

from scripts import reference_pages
from scripts.notebooks import KINDS, ROOT, execute, paired, sources

SITE = ROOT / "docs" / "_build" / "html"
LOADED = {"script": "src", "img": "src", "link": "href", "iframe": "src", "source": "src"}


class Page(HTMLParser):
    """What a page holds: its anchors, where it links to, and what it loads."""

    def __init__(self, path):
        super().__init__()
        self.anchors, self.links, self.loads = set(), [], []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag, attributes):
        """Called for every tag."""
        given = dict(attributes)
        self.anchors.update(given[name] for name in ("id", "name") if given.get(name))
        if tag == "a" and "href" in given:
            self.links.append(given["href"])
        if tag in LOADED and given.get(LOADED[tag]) and given.get("rel") != "canonical":
            self.loads.append(given[LOADED[tag]])

    def has(self, fragment):
        """Whether there is a place of this name."""
        return unquote(fragment) in self.anchors


def faults(site):
    """Links that lead nowhere, and whatever is loaded from another place: lines of text."""
    pages = {path: Page(path) for path in site.rglob("*.html")}
    for path, page in pages.items():
        name = path.relative_to(site)
        for address in [*page.links, *page.loads]:
            parts = urlsplit(address)
            if parts.scheme or parts.netloc:
                if address in page.loads and parts.scheme != "data":
                    yield f"{name} loads {address} from elsewhere"
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            if not target.exists():
                yield f"{name} links to {address}, which is not there"
            elif parts.fragment and target in pages and not pages[target].has(parts.fragment):
                yield f"{name} links to {address}: no such place on that page"


def processor_seconds():
    """Seconds of the processor that this process and the kernels it ran have used."""
    used = os.times()
    return used.user + used.system + sum(getattr(used, kind) for kind in KINDS)


def main():
    """Command line."""
    from sphinx.cmd.build import main as sphinx  # following links needs no Sphinx

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-run", action="store_true", help="show the notebooks as last executed")
    run = not parser.parse_args().no_run
    reference_pages.write()
    for source in sources():
        source.with_suffix(".ipynb").write_text(paired(source))
        if run:
            _, seconds = execute(source)
            print(f"{source.name}: {seconds} s")
    shutil.rmtree(SITE, ignore_errors=True)
    strict = ["--fail-on-warning", "--keep-going", "--quiet", "--fresh-env"]
    places = ["-d", str(SITE.parent / "doctrees"), "-c", str(ROOT / "docs"), str(ROOT), str(SITE)]
    if code := sphinx([*strict, *places]):
        return code
    wrong = sorted(set(faults(SITE)))
    print(f"{processor_seconds():.0f} seconds of the processor")
    print("\n".join(wrong) or f"open {(SITE / 'index.html').relative_to(ROOT)}")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
