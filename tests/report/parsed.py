"""A page as a parser sees it, without a browser."""

from __future__ import annotations

from html.parser import HTMLParser

LOADING = {"src", "srcset", "href", "data", "poster", "action", "background", "xlink:href"}
EMPTY = {"meta", "link", "img", "source", "wbr", "br", "hr", "input", "col"}


class Page(HTMLParser):
    """Elements, texts and addresses of a page; `faults` lists tags that do not match."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.faults: list[str] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        self.faults += [f"<{tag}> is not closed" for tag in self._open]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in EMPTY:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if not self._open or self._open.pop() != tag:
            self.faults.append(f"</{tag}> closes nothing")

    def handle_data(self, data: str) -> None:
        if self._open and self._open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        return " ".join("".join(self.texts).split())

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]

    @property
    def addresses(self) -> list[str]:
        return [value for _, found in self.elements for name, value in found.items() if name in LOADING]

    @property
    def ids(self) -> set[str]:
        return {found["id"] for _, found in self.elements if "id" in found}
