"""Open every built page as a reader would, at desktop and at phone width: ``python docs/check.py docs/_build/html``.

Links, anchors and images must lead somewhere; no page may be wider than the screen, show what is too small to read,
formulas that are not drawn or text that is cut off, or write an error to the console.
Needs selenium, chromium and its driver. Screenshots of the first screen of each page go to ``--screenshots``.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import threading
from functools import partial
from html.parser import HTMLParser
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urldefrag, urljoin, urlparse

WIDTHS = {"desktop": (1280, 900), "phone": (390, 844)}
SMALLEST_PRINT = 10.5  # pixels
_SITE = "http://docs.local/"


class _Page(HTMLParser):
    """The anchors of a page, and what it points to."""

    def __init__(self) -> None:
        super().__init__()
        self.anchors: set[str] = set()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        for name in ("id", "name"):
            if given.get(name):
                self.anchors.add(str(given[name]))
        for name in ("href", "src"):
            if given.get(name) is not None:
                self.targets.append(str(given[name]))
        if given.get("srcset"):
            self.targets += [part.split()[0] for part in str(given["srcset"]).split(",")]


def broken_links(site: Path) -> list[str]:
    """Links, images, scripts and styles of the site's pages that lead nowhere inside the site."""
    pages = {path: _Page() for path in sorted(site.rglob("*.html"))}
    for path, page in pages.items():
        page.feed(path.read_text(encoding="utf-8"))
    broken = []
    for path, page in pages.items():
        here = urljoin(_SITE, path.relative_to(site).as_posix())
        for target in page.targets:
            url, anchor = urldefrag(urljoin(here, target))
            if not url.startswith(_SITE):
                continue
            leads_to = site / unquote(urlparse(url).path).lstrip("/")
            leads_to = leads_to / "index.html" if leads_to.is_dir() else leads_to
            if not leads_to.is_file():
                broken.append(f"{path.relative_to(site)}: {target} leads nowhere")
            elif anchor and leads_to in pages and unquote(anchor) not in pages[leads_to].anchors:
                broken.append(f"{path.relative_to(site)}: {target} has no such anchor")
    return broken


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def make_driver(profile: str) -> Any:
    """A headless Chromium that fetches nothing for itself."""
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    binary = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if binary is None or driver is None:
        raise SystemExit("docs/check.py needs chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = binary
    for flag in (
        "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
        "disable-component-update", "disable-sync", "hide-scrollbars", f"user-data-dir={profile}",
        "host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
    ):  # fmt: skip
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=Service(driver))


_WIDER = """
const wide = arguments[0], found = [];
for (const element of document.querySelectorAll('body *')) {
  const box = element.getBoundingClientRect();
  if (box.right <= wide + 1 || box.width === 0) continue;
  let inside = element.parentElement, scrolls = false;
  while (inside && inside !== document.body) {
    if (getComputedStyle(inside).overflowX !== 'visible') { scrolls = true; break; }
    inside = inside.parentElement;
  }
  if (!scrolls && getComputedStyle(element).position !== 'fixed') found.push(element.tagName + '.' + element.className);
}
return document.documentElement.scrollWidth > wide + 1 ? found.slice(0, 5).concat(['page']) : [];
"""
# What readers cannot read: small print, formulas that were not drawn, and text beyond the edge of what does not scroll.
_ILLEGIBLE = """
const found = [], name = e => e.tagName + '.' + e.className + ' “' + e.textContent.trim().slice(0, 30) + '”';
const seen = e => e.checkVisibility && e.checkVisibility({checkVisibilityCSS: true});
for (const e of document.querySelectorAll('article td, article th, article p, article li, article pre, article math')) {
  if (!seen(e) || !e.textContent.trim()) continue;
  const size = parseFloat(getComputedStyle(e).fontSize), box = e.getBoundingClientRect();
  if (size < arguments[0]) found.push(name(e) + ' is in ' + size + ' px');
  if (e.tagName === 'MATH' || e.tagName === 'math') {
    if (box.height < 5 || box.width < 3) found.push(name(e) + ' is not drawn');
  }
  let inside = e.parentElement;
  while (inside && inside.tagName !== 'ARTICLE') {
    const style = getComputedStyle(inside).overflowX, edge = inside.getBoundingClientRect();
    if (style === 'auto' || style === 'scroll') break;
    if ((style === 'hidden' || style === 'clip') && box.right > edge.right + 1) {
      found.push(name(e) + ' is cut off'); break;
    }
    inside = inside.parentElement;
  }
}
return found.slice(0, 5);
"""
_IMAGES = "return [...document.images].filter(i => i.complete && i.naturalWidth === 0 && i.src).map(i => i.src)"


def look_at(driver: Any, address: str, size: tuple[int, int], picture: Path | None) -> list[str]:
    """What is wrong with a page on a screen of a size."""
    width, height = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.get(address)
    driver.execute_script("document.querySelectorAll('img[loading=lazy]').forEach(i => i.loading = 'eager')")
    wrong = [f"image {source} does not load" for source in driver.execute_script(_IMAGES)]
    wider = driver.execute_script(_WIDER, width)
    if wider:
        wrong.append(f"is wider than {width} pixels, because of {wider}")
    wrong += driver.execute_script(_ILLEGIBLE, SMALLEST_PRINT)
    wrong += [f"console: {entry['message']}" for entry in driver.get_log("browser") if entry["level"] == "SEVERE"]
    if picture is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        driver.save_screenshot(str(picture))
    return wrong


def look_at_all(site: Path, screenshots: Path | None, only: str) -> list[str]:
    """What is wrong with any page on any screen."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(site)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    wrong = []
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        driver = make_driver(profile)
        try:
            for path in sorted(site.rglob("*.html")):
                name = path.relative_to(site).as_posix()
                if only not in name:
                    continue
                for screen, size in WIDTHS.items():
                    picture = screenshots / screen / f"{name.replace('/', '_')}.png" if screenshots else None
                    address = f"http://127.0.0.1:{server.server_port}/{name}"
                    wrong += [f"{name} ({screen}): {what}" for what in look_at(driver, address, size, picture)]
        finally:
            driver.quit()
            server.shutdown()
    return wrong


def main() -> None:
    """Check a built site; the exit status is 1 if anything is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("site", type=Path, nargs="?", default=Path(__file__).parent / "_build" / "html")
    parser.add_argument("--screenshots", type=Path, default=None, help="a folder for them")
    parser.add_argument("--only", default="", help="only pages whose path contains this")
    parser.add_argument("--no-browser", action="store_true", help="links alone")
    given = parser.parse_args()
    pages = sum(1 for _ in given.site.rglob("*.html"))
    if not pages:
        raise SystemExit(f"There are no pages in {given.site}: build them first (make docs).")
    wrong = broken_links(given.site)
    if not given.no_browser:
        wrong += look_at_all(given.site, given.screenshots, given.only)
    print("\n".join(wrong) if wrong else f"{pages} pages, nothing wrong.")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
