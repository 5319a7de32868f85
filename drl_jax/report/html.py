"""Pages of HTML in one file: text, tables and images, without scripts and without anything from elsewhere."""

import base64
import html
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple


class Html(str):
    """Text that is HTML already. Any other text is escaped where it comes into a page."""


class Section(NamedTuple):
    """A part of a page.

    Attributes:
      name: of the address in the page, such as "scores".
      title: its heading.
      body: what follows.
    """

    name: str
    title: str
    body: Html


def page(title: str, summary: Html, sections: Sequence[Section]) -> str:
    """Makes a page with a list of its sections.

    Args:
      title: of the page.
      summary: what comes before the sections.
      sections: in their order.

    Returns:
      The content of the file.
    """
    links = join(_element("a", section.title, href=f"#{section.name}") for section in sections)
    bodies = join(
        _element("section", join([_element("h2", each.title), each.body]), id=each.name) for each in sections
    )
    body = join(
        [
            _element("header", join([_element("h1", title), summary])),
            _element("nav", links, aria_label="Sections"),
            _element("main", bodies),
        ]
    )
    return _PAGE.format(title=escape(title), policy=_POLICY, style=_STYLE, body=body)


def escape(value: object) -> Html:
    """Makes HTML of a text; leaves HTML as it is."""
    return value if isinstance(value, Html) else Html(html.escape(str(value)))


def join(parts: Iterable[object]) -> Html:
    """Puts texts and HTML together."""
    return Html("\n".join(escape(part) for part in parts))


def paragraph(text: object) -> Html:
    """Makes a paragraph."""
    return _element("p", text)


def code(text: str) -> Html:
    """Makes a block of code, which scrolls where it is too wide."""
    return _element("pre", _element("code", text), tabindex=0)


def details(summary: str, body: Html) -> Html:
    """Makes a part that is shown when its summary is opened."""
    return _element("details", join([_element("summary", summary), body]))


def image(png: bytes, caption: str, *, is_plot: bool = False) -> Html:
    """Makes an image with its caption, which describes it.

    Args:
      png: the content of a PNG file.
      caption: the text below it.
      is_plot: whether it has words, which must not become too small: it scrolls on a narrow screen.
    """
    source = f"data:image/png;base64,{base64.b64encode(png).decode()}"
    shown = _start("img", src=source, alt=caption)
    if is_plot:
        shown = _element("div", shown, class_="scroll plot", tabindex=0, role="region", aria_label=caption)
    return _element("figure", join([shown, _element("figcaption", caption)]))


def table(caption: str, header: Sequence[object], rows: Sequence[Sequence[object]]) -> Html:
    """Makes a table, which scrolls where it is too wide. Numbers are on the right, as `number` writes them.

    Args:
      caption: the text above it.
      header: of the columns.
      rows: the first cell of each is its heading.
    """
    columns = zip(*rows, strict=True)
    kinds = [{"class_": "number"} if any(map(_is_number, column[1:] or column)) else {} for column in columns]
    heads = [
        _element("th", cell, scope="col", **(kind if i else {}))
        for i, (cell, kind) in enumerate(zip(header, kinds or [{}] * len(header), strict=True))
    ]
    lines = [
        _element("tr", join([_element("th", _shown(first), scope="row"), *map(_cell, rest)]))
        for first, *rest in rows
    ]
    body = [_element("thead", _element("tr", join(heads))), _element("tbody", join(lines))]
    content = _element("table", join([_element("caption", caption), *body]))
    return _element("div", content, class_="scroll", tabindex=0, role="region", aria_label=caption)


def facts(pairs: Iterable[tuple[str, object]]) -> Html:
    """Makes a list of names with what there is to say about each."""
    return _element("dl", join(join([_element("dt", k), _element("dd", v)]) for k, v in pairs))


def number(value: float) -> str:
    """Writes a number with five digits; a whole number with all of them."""
    return f"{value:,}" if isinstance(value, int) else f"{value:.5g}"


def symbols(text: str) -> Html:
    """Makes HTML of a text with indices, as in x_t and σ_{t+1}."""
    return Html(re.sub(r"_(?:\{(.+?)\}|(\w))", r"<sub>\1\2</sub>", html.escape(text)))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _shown(value: Any) -> object:
    return number(value) if _is_number(value) else "–" if value is None else value


def _cell(value: object) -> Html:
    return _element("td", _shown(value), **({"class_": "number"} if _is_number(value) else {}))


def _element(tag: str, content: object, **attributes: Any) -> Html:
    return Html(f"{_start(tag, **attributes)}{escape(content)}</{tag}>")


def _start(tag: str, **attributes: Any) -> Html:
    named = (f' {k.rstrip("_").replace("_", "-")}="{html.escape(str(v))}"' for k, v in attributes.items())
    return Html(f"<{tag}{''.join(named)}>")


# A browser that follows it loads nothing but what is in the page.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --ink: #1d2126; --soft: #59626d; --paper: #fff; --shade: #f3f5f7;
  --line: #d5dae0; --link: #0a58a8; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #a3acb8; --paper: #15181c;
  --shade: #1f242a; --line: #3a424c; --link: #7db8f5; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 64rem; padding: 1rem 1rem 4rem; background: var(--paper); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: .5rem 0 1rem; }
h2 { font-size: 1.25rem; margin: 2.5rem 0 .75rem; padding-top: .75rem; border-top: 1px solid var(--line); }
a { color: var(--link); }
:focus-visible { outline: 3px solid var(--link); outline-offset: 2px; }
nav { display: flex; flex-wrap: wrap; gap: .3rem 1.1rem; margin-top: 1rem; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .25rem 1.25rem; margin: 0; }
dt { color: var(--soft); } dd { margin: 0; min-width: 0; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; margin: 1rem 0; }
table { border-collapse: collapse; font-size: .92rem; font-variant-numeric: tabular-nums; }
caption { text-align: left; color: var(--soft); padding-bottom: .3rem; }
th, td { text-align: left; padding: .3rem .8rem .3rem 0; vertical-align: top;
  border-bottom: 1px solid var(--line); }
tbody th { font-weight: normal; } thead th { font-weight: 600; vertical-align: bottom; }
.number { text-align: right; white-space: nowrap; }
sub { line-height: 0; } caption { max-width: min(60rem, calc(100vw - 2rem)); }
.plot img { min-width: 44rem; } figure .scroll { margin: 0; }
figure { margin: 1.25rem 0; } img { display: block; max-width: 100%; height: auto; background: #fff; }
figcaption { color: var(--soft); font-size: .92rem; margin-top: .4rem; }
pre { overflow-x: auto; padding: .8rem; font-size: .85rem; background: var(--shade);
  border: 1px solid var(--line); }
details { margin: 1rem 0; } summary { cursor: pointer; color: var(--link); }
@media (max-width: 34rem) { dl { grid-template-columns: 1fr; gap: 0; } dd { margin-bottom: .5rem; } }
"""
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<title>{title}</title>
<style>{style}</style>
</head>
<body>
{body}
</body>
</html>
"""
