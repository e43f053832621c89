"""Walk every link of the built site: each file, and each place in a file, that a page points to must be there."""

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

CODE = re.compile(r"<pre\b.*?</pre>", re.DOTALL)  # most of a page, and without links
TARGETS = {
    "a": "href",
    "link": "href",
    "img": "src",
    "script": "src",
    "source": "src",
    "iframe": "src",
}


class Page(HTMLParser):
    """The places that a page has, and the targets that it names."""

    def __init__(self, path: Path):
        super().__init__()
        self.places, self.targets = set(), []
        self.feed(CODE.sub("", path.read_text(encoding="utf-8")))

    def handle_starttag(self, tag, attrs):
        attrs = dict(attrs)
        self.places.update(v for k in ("id", "name") if (v := attrs.get(k)))
        if target := attrs.get(TARGETS.get(tag, "")):
            self.targets.append(target)


def broken_links(site: Path) -> list[str]:
    """`page: target (why)` for each link into the site that leads nowhere."""
    site = site.resolve()
    pages = {path: Page(path) for path in sorted(site.rglob("*.html"))}
    found = []
    for path, page in pages.items():
        for target in dict.fromkeys(page.targets):
            parts = urlsplit(target)
            if parts.scheme or parts.netloc or (path.name == "404.html"):
                continue  # another site; and the page for lost readers is served from any folder
            there = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            there = there / "index.html" if there.is_dir() else there
            if not there.is_relative_to(site):
                why = "leaves the site"
            elif not there.is_file():
                why = "no such file"
            elif (
                parts.fragment
                and there in pages
                and unquote(parts.fragment) not in pages[there].places
            ):
                why = "no such place in that page"
            else:
                continue
            found.append(f"{path.relative_to(site)}: {target} ({why})")
    return found


if __name__ == "__main__":
    lost = broken_links(Path(sys.argv[1] if len(sys.argv) > 1 else "_site"))
    sys.exit("\n".join([f"{len(lost)} broken links:", *lost]) if lost else 0)
