"""A report's page as a browser reads it."""

import base64
from html.parser import HTMLParser


class ReadPage(HTMLParser):
    """What a page holds and asks for.

    Attributes:
        images: The content of the images that stand in it.
        outside: Addresses that a browser would load from elsewhere.
        links: Where its links lead to.
        alts: What images say of themselves.
        ids: Of its elements.
        texts: Its texts, without space around them.
        scripts: How many scripts and event handlers it has.
        title: Of the document.
    """

    def __init__(self) -> None:
        super().__init__()
        self.images: list[bytes] = []
        self.outside: list[str] = []
        self.links: set[str] = set()
        self.alts: list[str] = []
        self.ids: set[str] = set()
        self.texts: list[str] = []
        self.scripts = 0
        self.title = ''
        self._open = ''

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._open = tag
        values = {name: value or '' for name, value in attrs}
        self.scripts += tag == 'script' or any(name.startswith('on') for name in values)
        self.ids |= {values['id']} if 'id' in values else set()
        if tag == 'img':
            self.alts.append(values['alt'])
        if tag == 'a':
            self.links.add(values['href'])
            return
        for name in ('src', 'href', 'srcset', 'data', 'poster', 'action'):
            address = values.get(name)
            if address is None or address == 'data:,':
                continue
            kind, _, content = address.partition(';base64,')
            if kind in ('data:image/png', 'data:image/jpeg'):
                self.images.append(base64.b64decode(content, validate=True))
            else:
                self.outside.append(address)

    def handle_data(self, data: str) -> None:
        text = data.strip()
        if self._open == 'title' and text:
            self.title = text
        elif self._open == 'style':
            if 'url(' in text or '@import' in text:
                self.outside.append(text)
        elif text:
            self.texts.append(text)

    def handle_endtag(self, tag: str) -> None:
        self._open = ''


def read_page(html: str) -> ReadPage:
    """A page's HTML, read."""
    page = ReadPage()
    page.feed(html)
    page.close()
    return page
