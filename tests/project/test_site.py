"""The site that `make docs` builds: its links, what it loads, what it shows."""

import functools
import http.server
import importlib
import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

import mmnextvit
from mmnextvit import apis

import pytest
from markdown_it import MarkdownIt

pytest.importorskip('mkdocs', reason='needs the extra docs')

from docs.site_hooks import DOCUMENTED
from tests.conftest import ROOT
from tests.helpers.chromium import Page, find_chromium, open_chromium

pytestmark = pytest.mark.slow

# Elements whose numbers tell whether a page means here what it means on GitHub.
COUNTED = {'h1', 'h2', 'h3', 'li', 'ol', 'ul', 'table', 'td', 'tr', 'pre', 'img', 'p'}
LOADING = {'audio', 'embed', 'iframe', 'img', 'object', 'script', 'source', 'video'}


def build(config: Path, site: Path) -> subprocess.CompletedProcess:
    """What MkDocs says about a site, with warnings as errors."""
    command = [sys.executable, '-m', 'mkdocs', 'build', '--strict']
    return subprocess.run(
        [*command, '-f', str(config), '-d', str(site)],
        capture_output=True,
        text=True,
        env={**os.environ, 'NO_MKDOCS_2_WARNING': '1'},
    )


@pytest.fixture(scope='module')
def site(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp('site')
    result = build(ROOT / 'mkdocs.yml', folder)
    assert result.returncode == 0, result.stderr
    return folder


class Elements(HTMLParser):
    """The elements of a page, and the text inside of `article`."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.counts: Counter[str] = Counter()
        self.is_counting = '<article' not in html
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self.is_counting |= tag == 'article'
        if self.is_counting and tag in COUNTED:
            self.counts[tag] += 1

    def handle_endtag(self, tag: str) -> None:
        self.is_counting &= tag != 'article'


def read_pages(site: Path) -> dict[Path, Elements]:
    pages = {path: Elements(path.read_text()) for path in site.rglob('*.html')}
    assert len(pages) > 40
    return pages


def find_loaded(page: Elements) -> list[str]:
    """What a browser loads for a page without a click."""
    loaded = []
    for tag, attrs in page.elements:
        if tag in LOADING:
            loaded += [
                attrs[key] for key in ('src', 'data', 'poster') if attrs.get(key)
            ]
            assert not attrs.get('srcset')
        elif tag == 'link' and attrs.get('rel') not in ('canonical', 'next', 'prev'):
            loaded.append(attrs['href'])
    return [address for address in loaded if address]


def is_elsewhere(address: str) -> bool:
    """Whether an address is of another server than the page's."""
    parts = urlsplit(address)
    return bool(parts.netloc) or parts.scheme not in ('', 'data')


def test_nothing_is_loaded_from_elsewhere(site):
    for path, page in read_pages(site).items():
        loaded = find_loaded(page)
        assert loaded and not [one for one in loaded if is_elsewhere(one)], path
    styles = list(site.rglob('*.css'))
    assert styles
    for path in styles:
        text = path.read_text()
        named = re.findall(r'url\(\s*["\']?([^)"\']+)', text)
        named += re.findall(r'@import\s*["\']([^"\']+)', text)
        assert not [one for one in named if is_elsewhere(one)], path


def test_what_is_elsewhere_is_seen():
    """Else the test above proves nothing."""
    html = (
        '<link rel="preconnect" href="https://a.b"><script src="//a.b/c.js"></script>'
    )
    loaded = find_loaded(Elements(html))
    assert loaded == ['https://a.b', '//a.b/c.js']
    assert all(map(is_elsewhere, loaded))


def test_every_link_leads_to_a_page_of_the_site(site):
    pages = read_pages(site)
    anchors = {
        path: {attrs.get('id') or attrs.get('name') for _, attrs in page.elements}
        for path, page in pages.items()
    }
    missing = set()
    for path, page in pages.items():
        for tag, attrs in page.elements:
            link = attrs.get('href') if tag in ('a', 'link') else attrs.get('src')
            if not link or is_elsewhere(link):
                continue
            parts = urlsplit(link)
            folder = site if path.name == '404.html' else path.parent
            target = path
            if parts.path:
                target = Path(
                    os.path.normpath(folder / unquote(parts.path).lstrip('/'))
                )
                target = target / 'index.html' if target.is_dir() else target
            is_there = target.is_relative_to(site) and target.is_file()
            if is_there and parts.fragment and target in anchors:
                is_there = unquote(parts.fragment) in anchors[target]
            if not is_there:
                missing.add(f'{path.relative_to(site)}: {link}')
    assert not missing


def test_pages_mean_what_they_mean_on_github(site):
    """As many lists, tables, paragraphs and so on as CommonMark has in them."""
    markdown = MarkdownIt('commonmark', {'html': True}).enable('table')
    paths = [
        p for part in ('.', 'docs', 'benchmarks') for p in (ROOT / part).glob('*.md')
    ]
    assert len(paths) > 20
    for path in paths:
        expected = Elements(markdown.render(path.read_text())).counts
        name = path.relative_to(ROOT)
        name = name.parent if name.name == 'README.md' else name.with_suffix('')
        assert Elements((site / name / 'index.html').read_text()).counts == expected, (
            name
        )


def test_what_pages_link_to_is_shown(site):
    text = (site / 'configs' / 'yolov5_nextvit_s.py' / 'index.html').read_text()
    assert re.sub('<[^>]+>', '', text).count('_base_') > 0


def test_every_documented_name_is_public_and_shown(site):
    text = (site / 'docs' / 'api' / 'index.html').read_text()
    for module, names in DOCUMENTED.values():
        assert set(names) <= set(importlib.import_module(module).__all__)
    ids = set(re.findall(r'id="(mmnextvit[\w.]*)"', text))
    named = {f'{m}.{name}' for m, names in DOCUMENTED.values() for name in names}
    assert named <= ids
    assert not re.findall(r':(?:class|func|meth|mod):', text)


def test_all_of_the_package_and_apis_is_documented():
    named = {name for _, names in DOCUMENTED.values() for name in names}
    assert {*mmnextvit.__all__, *apis.__all__} - {'__version__'} <= named


@pytest.fixture
def other(tmp_path) -> Path:
    """A repository with one page, and the package."""
    (tmp_path / 'docs').mkdir()
    shutil.copy(ROOT / 'docs' / 'site_hooks.py', tmp_path / 'docs')
    shutil.copy(ROOT / 'mkdocs.yml', tmp_path)
    for name in ('benchmarks', 'CHANGELOG.md', 'CONTRIBUTING.md', 'SECURITY.md'):
        (tmp_path / name).touch()
    (tmp_path / 'mmnextvit').symlink_to(ROOT / 'mmnextvit')
    (tmp_path / 'README.md').write_text('# Page\n')
    (tmp_path / 'docs' / 'python.md').write_text('# Python\n')
    return tmp_path


def test_a_broken_link_ends_the_build(other):
    (other / 'README.md').write_text('# Page\n\n[a link](docs/missing.md)\n')
    result = build(other / 'mkdocs.yml', other / 'site')
    assert result.returncode != 0
    assert 'docs/missing.md' in result.stderr


def test_a_page_in_no_section_ends_the_build(other):
    (other / 'docs' / 'new.md').write_text('# New\n')
    result = build(other / 'mkdocs.yml', other / 'site')
    assert result.returncode != 0
    assert 'docs/new.md: in no section of the site' in result.stderr


def test_search_finds_and_asks_nobody_else(site, tmp_path):
    program = find_chromium()
    if program is None:
        pytest.skip('there is no Chromium')
    handler = functools.partial(QuietHandler, directory=str(site))
    with (
        http.server.ThreadingHTTPServer(('127.0.0.1', 0), handler) as server,
        open_chromium(program, tmp_path / 'profile') as browser,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        address = f'http://127.0.0.1:{server.server_port}/'
        page = Page(browser)
        page.open(f'{address}?q=TimmFeatures')
        page.wait(
            "[...document.querySelectorAll('.md-search-result__link')]"
            ".some(link => link.href.includes('/docs/api/'))"
        )
        for path in ('docs/api/', 'docs/model_zoo/'):
            page.open(address + path)
        server.shutdown()
    assert len(page.requests) > 5
    elsewhere = [
        url for url in page.requests if not url.startswith((address, 'data:', 'blob:'))
    ]
    assert not elsewhere
    assert not page.errors


class QuietHandler(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass
