"""The page holds what the blocks hold, loads nothing, and nothing in a record can change that."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from html import escape
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import resources
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib import image

from qwenprof import formatting
from qwenprof.diagnosis.finding import Finding
from qwenprof.record.record import Record
from qwenprof.report import html
from qwenprof.report.section import (
    Block,
    Bullets,
    Code,
    Figure,
    Inline,
    Section,
    Table,
    code,
    paragraph,
    published,
    strong,
)
from qwenprof.report.telling import telling
from qwenprof.report.writing import composed, figures, title

TEMPLATES = resources.files("qwenprof.report") / "templates"
CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
VOID = {"meta", "link", "img", "br", "hr", "input"}
TAGS = {
    *("html", "head", "meta", "title", "link", "style", "script", "body", "a", "header", "footer"),
    *("h1", "h2", "p", "nav", "ol", "ul", "li", "main", "section", "div", "dl", "dt", "dd"),
    *("figure", "figcaption", "table", "thead", "tbody", "tr", "th", "td", "details", "summary"),
    *("img", "pre", "code", "strong", "i", "span"),
}


def white_png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    image.imsave(buffer, np.ones((height, width, 3)), format="png")
    return buffer.getvalue()


PICTURE = white_png(320, 160)


@dataclass
class Element:
    tag: str
    attributes: dict[str, str]
    children: list[Element | str] = field(default_factory=list)

    @property
    def text(self) -> str:
        return "".join(each if isinstance(each, str) else each.text for each in self.children)

    def all(self, *tags: str) -> list[Element]:
        return [each for each in self.walk() if each.tag in tags]

    def walk(self) -> Iterator[Element]:
        for child in self.children:
            if isinstance(child, Element):
                yield child
                yield from child.walk()


class Tree(HTMLParser):
    """Builds a tree; fails where a tag is closed that is not the open one."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open = [Element(tag="", attributes={})]

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        assert len({name for name, _ in attrs}) == len(attrs), f"an attribute twice in <{tag}>"
        element = Element(tag=tag, attributes={name: value or "" for name, value in attrs})
        self.open[-1].children.append(element)
        if tag not in VOID:
            self.open.append(element)

    def handle_endtag(self, tag: str) -> None:
        assert tag == self.open.pop().tag

    def handle_data(self, data: str) -> None:
        self.open[-1].children.append(data)

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


def tree_of(page: str) -> Element:
    tree = Tree()
    tree.feed(page)
    tree.close()
    assert len(tree.open) == 1, f"not closed: {[each.tag for each in tree.open]}"
    return tree.open[0]


def section(name: str = "part", heading: str = "Part") -> Section:
    return Section(name=name, order=1, title=heading, compose=lambda _: [])


def picture_of(*blocks: Block) -> dict[str, bytes]:
    return {block.stem: PICTURE for block in blocks if isinstance(block, Figure)}


def page_of(*blocks: Block, name: str = "part") -> str:
    return html.render("A report", [(section(name), blocks)], picture_of(*blocks))


def table_of(*rows: Sequence[Inline], align: str = "", folded: str | None = None) -> Table:
    header = tuple(f"column {i}" for i, _ in enumerate(rows[0]))
    cells = tuple(tuple(row) for row in rows)
    return Table(header=header, rows=cells, align=align or "l" * len(header), folded=folded)


def everything(text: str) -> list[Block]:
    """Blocks of every kind, which hold `text` wherever a text can be."""
    return [
        paragraph(text, code(text), strong(text), published(text)),
        Bullets(items=((text,), (strong(text), text))),
        Table(
            header=(text, ""),
            rows=((text, code(text)), (strong(text), published(text))),
            align="lr",
            caption=text,
            folded=text,
        ),
        Figure(stem="plot", alt=text, caption=text, draw=lambda _: None),
        Code(text=text, language=text),
        Code(text=f"+{text}\n-{text}", language="diff"),
    ]


def hostile_page(hostile: str) -> str:
    blocks = everything(hostile)
    return html.render(
        hostile,
        [(section('"><script>', hostile), blocks), (section("summary", hostile), blocks)],
        picture_of(*blocks),
        subtitle=hostile,
        footer=hostile,
    )


@pytest.fixture(scope="module")
def pieces(simulated_gpu: Record, findings: list[Finding]) -> list[tuple[Section, list[Block]]]:
    return composed(telling(simulated_gpu, findings))


@pytest.fixture(scope="module")
def page(simulated_gpu: Record, pieces: list[tuple[Section, list[Block]]]) -> str:
    pictures = {figure.stem: PICTURE for figure in figures(pieces)}
    return html.render(title(simulated_gpu), pieces, pictures, subtitle="A device", footer="End")


def text_of(cell: Inline) -> str:
    return formatting.clean(cell if isinstance(cell, str) else cell.text)


# What the page holds


def test_every_table_has_every_cell(page: str, pieces: list[tuple[Section, list[Block]]]) -> None:
    tables = [block for _, blocks in pieces for block in blocks if isinstance(block, Table)]
    shown = tree_of(page).all("table")
    assert len(shown) == len(tables) > 10
    for table, element in zip(tables, shown, strict=True):
        assert [each.text for each in element.all("th")] == list(map(text_of, table.header))
        assert [[cell.text for cell in row.all("td")] for row in element.all("tr")[1:]] == [
            list(map(text_of, row)) for row in table.rows
        ]


def test_every_figure_is_in_the_page_itself(
    page: str, pieces: list[tuple[Section, list[Block]]]
) -> None:
    wanted = figures(pieces)
    shown = tree_of(page).all("img")
    assert [each.attributes["alt"] for each in shown] == [figure.alt for figure in wanted]
    for element in shown:
        kind, _, content = element.attributes["src"].partition(",")
        assert kind == "data:image/png;base64"
        assert base64.b64decode(content) == PICTURE
        assert (element.attributes["width"], element.attributes["height"]) == ("320", "160")


def test_a_figure_without_its_picture_is_an_error() -> None:
    figure = Figure(stem="lost", alt="", caption="", draw=lambda _: None)
    with pytest.raises(KeyError, match="lost"):
        html.render("A report", [(section(), [figure])], {})


def test_the_contents_lead_to_every_section(
    page: str, pieces: list[tuple[Section, list[Block]]]
) -> None:
    tree = tree_of(page)
    links = [each.attributes["href"] for each in tree.all("nav")[0].all("a")]
    assert links == [f"#{each.name}" for each, _ in pieces]
    ids = [each.attributes["id"] for each in tree.walk() if "id" in each.attributes]
    assert len(set(ids)) == len(ids)
    assert {link[1:] for link in links} <= set(ids)


def test_anchors_differ_even_where_names_do_not() -> None:
    names = ["main", "a b", "a-b", "a-b", "a-b-2", "", "\u202e"]
    rendered = html.render("A report", [(section(name), [paragraph("x")]) for name in names], {})
    ids = [each.attributes["id"] for each in tree_of(rendered).all("section", "main")]
    assert ids[:3] == ["main", "main-2", "a-b"]
    assert len(set(ids)) == len(names) + 1
    assert all(re.fullmatch(r"[a-z0-9-]+", each) for each in ids)


def test_headings_are_in_order_and_the_language_is_told(page: str) -> None:
    tree = tree_of(page)
    assert [each.tag for each in tree.all("h1", "h2", "h3")[:2]] == ["h1", "h2"]
    assert len(tree.all("h1")) == 1
    assert tree.all("html")[0].attributes["lang"] == "en"
    assert all(each.attributes["scope"] == "col" for each in tree.all("th"))


def test_an_empty_record_still_makes_a_page(empty_record: Record) -> None:
    rendered = html.render("A report", composed(telling(empty_record)), {})
    assert "Not measured." in tree_of(rendered).text


def test_spans_keep_the_space_between_them() -> None:
    rendered = page_of(paragraph("It is ", strong("slow"), ": ", code("a.b"), " takes ", "2 s."))
    assert tree_of(rendered).all("p")[0].text == "It is slow: a.b takes 2 s."


def test_the_summary_opens_with_the_verdict_and_its_answers() -> None:
    rendered = page_of(
        paragraph(strong("It is slow.")),
        Bullets(items=((strong("Culprit:"), " ", code("a.b")), (strong("Gain:"), " 2 x"))),
        paragraph("More."),
        name="summary",
    )
    card = next(each for each in tree_of(rendered).walk() if "verdict" in each.attributes.values())
    assert [each.text.strip() for each in card.all("p", "dt", "dd")] == [
        "It is slow.",
        "Culprit",
        "a.b",
        "Gain",
        "2 x",
    ]


@pytest.mark.parametrize(
    "blocks",
    [
        [paragraph("One.")],
        [table_of(("1",))],
        [paragraph("One."), Bullets(items=(("plain",), ()))],
        [paragraph("One."), table_of(("1",))],
    ],
)
def test_a_summary_of_any_shape_is_shown_whole(blocks: list[Block]) -> None:
    text = tree_of(page_of(*blocks, name="summary")).all("section")[0].text
    assert all(word in text for word in ("One.", "plain", "1") if word in repr(blocks))


def test_published_numbers_are_set_apart_and_explained() -> None:
    tree = tree_of(page_of(table_of(("1 s", published("2 s")))))
    cells = [each.text for each in tree.all("td") if each.all("i")]
    assert cells == ["2 s"]
    assert "this run did not measure" in tree.text
    assert "this run did not measure" not in tree_of(page_of(table_of(("1 s", "2 s")))).text


def test_a_folded_table_is_folded() -> None:
    details = tree_of(page_of(table_of(("1",), folded="More & more"))).all("details")
    assert [each.all("summary")[0].text for each in details] == ["More & more"]
    assert details[0].all("td")[0].text == "1"


def test_a_row_may_be_longer_than_the_header() -> None:
    table = Table(header=("a",), rows=(("1", "2", "3"),), align="r")
    assert [each.text for each in tree_of(page_of(table)).all("td")] == ["1", "2", "3"]


def test_code_keeps_its_lines_and_a_diff_its_colours() -> None:
    tree = tree_of(
        page_of(Code(text="if a:\n\tb"), Code(text="@@ 1 @@\n-a\n+b\n c", language="diff"))
    )
    plain, diff = tree.all("pre")
    assert plain.text == "if a:\n    b"
    assert diff.text == "@@ 1 @@\n-a\n+b\n c"
    assert [each.attributes.get("class") for each in diff.all("span")] == [
        "place",
        "removed",
        "added",
        None,
    ]


def test_code_that_is_cut_says_so() -> None:
    shown = tree_of(page_of(Code(text="x" * 61_234))).all("pre")[0].text
    assert shown.endswith("x\n[1,234 more characters are not shown]")


# What a record cannot do


def test_hostile_text_opens_nothing(hostile: str) -> None:
    rendered = hostile_page(hostile)
    tree = tree_of(rendered)
    assert {each.tag for each in tree.walk()} <= TAGS
    assert len(tree.all("script")) == len(tree.all("style")) == 1
    assert not any(name.startswith("on") for each in tree.walk() for name in each.attributes)
    assert "<script>alert(1)</script>" in tree.all("main")[0].text
    assert "alice" not in rendered
    assert "bob" not in rendered
    assert not set("\u202e\x00\x1b\r") & set(rendered)


def test_nothing_is_loaded_and_nothing_is_linked(page: str, hostile: str) -> None:
    for rendered in (page, hostile_page(hostile)):
        tree = tree_of(rendered)
        sources = [
            value
            for each in tree.walk()
            for name, value in each.attributes.items()
            if name in ("src", "href", "srcset", "action", "data", "poster")
        ]
        assert all(value.startswith(("data:", "#")) for value in sources)
        assert not any("style" in each.attributes for each in tree.walk())
        assert not re.search(r"@import|url\(|fetch\(|://", tree.all("style")[0].text)
        assert not re.search(r"import|fetch|XMLHttp|innerHTML|://", tree.all("script")[0].text)


@given(st.text(max_size=60), st.text(alphabet="<>&\"'`=/ -!x\n\\", max_size=60))
@settings(deadline=None, max_examples=50)
def test_any_text_is_shown_as_it_is(anything: str, markup: str) -> None:
    table = Table(header=(anything, markup), rows=((markup, code(anything)),), align="ll")
    tree = tree_of(page_of(table, Code(text=markup)))
    cells = tree.all("th", "td")
    assert [each.text for each in cells] == [
        formatting.clean(formatting.without_homes(each))
        for each in (anything, markup, markup, anything)
    ]
    assert tree.all("pre")[0].text == "\n".join(markup.splitlines())


def test_a_cell_of_ten_thousand_characters_is_shortened_and_may_break() -> None:
    cell = tree_of(page_of(table_of(("x" * 10_000,)))).all("td")[0]
    assert len(cell.text) == 240
    assert cell.attributes["class"] == "long"


def test_the_policy_admits_this_style_and_this_script_alone(page: str) -> None:
    tree = tree_of(page)
    policy = next(each for each in tree.all("meta") if "http-equiv" in each.attributes)
    rules = dict(rule.strip().split(" ", 1) for rule in policy.attributes["content"].split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag in ("style", "script"):
        digest = hashlib.sha256(tree.all(tag)[0].text.encode()).digest()
        assert rules[f"{tag}-src"] == f"'sha256-{base64.b64encode(digest).decode()}'"


# What a column is sorted by


@pytest.mark.parametrize(
    ("cell", "expected"),
    [
        ("55.3 ms [54.1, 56.0]", 0.0553),
        ("1.2 GiB", 1.2 * 1024**3),
        ("99.4 %", 0.994),
        ("1,230 x", 1230),
        ("172 GFLOP", 172e9),
        ("224 TFLOPS [221, 226]", 224e12),
        ("1.79 TB/s", 1.79e12),
        ("16.1 s, n = 1", 16.1),
        ("858 ms (64 patches)", 0.858),
        ("12.0 % (software power cap)", 0.12),
        ("32.0 B", 32),
        ("2.20e-06", 2.2e-6),
        ("-163 ms", -0.163),
        ("+695 us", 0.000695),
        ("415,347,712", 415_347_712),
        ("0", 0),
    ],
)
def test_a_quantity_is_sorted_by_its_magnitude(cell: str, expected: float) -> None:
    for each in (cell, strong(cell), published(cell)):
        assert float(html.magnitude(each) or "nan") == pytest.approx(expected)


@pytest.mark.parametrize(
    "cell",
    [
        *("not measured", "not measured (skipped)", "-", "", "unknown", "nan", "inf", "1e999"),
        *("24 of 24", "1 to 1,000", "1, 2, 4", "[1, 20, 38]", "2x16x16", "2 x 3 = 6"),
        *("2.14.1", "2026-11-24", "4b", "bf16", "1,23", "3 parsecs", "٣", "9.8 or newer"),
    ],
)
def test_what_is_no_quantity_is_sorted_as_text(cell: str) -> None:
    assert html.magnitude(cell) is None


def test_a_name_is_no_quantity() -> None:
    assert html.magnitude(code("1e5")) is None


def test_less_than_a_share_comes_before_that_share() -> None:
    assert float(html.magnitude("< 0.1 %") or "nan") < float(html.magnitude("0.10 %") or "nan")


@given(st.floats(min_value=1e-8, max_value=1e11))
def test_the_order_is_that_of_what_was_measured(value: float) -> None:
    for write in (formatting.seconds, formatting.size, formatting.flop_rate, formatting.times):
        smaller, larger = (html.magnitude(write(each)) for each in (value, value * 1.02))
        assert smaller is not None
        assert larger is not None
        assert float(smaller) < float(larger)
        assert float(smaller) == pytest.approx(
            value, rel=0.006, abs=0.006 * (write is formatting.size)
        )


def test_the_page_carries_the_magnitude() -> None:
    cells = tree_of(page_of(table_of(("1.5 ms", "text"), align="rl"))).all("td")
    assert [each.attributes for each in cells] == [{"class": "number", "data-sort": "0.0015"}, {}]


# How it looks


def luminance(colour: str) -> float:
    """Relative luminance, WCAG 2.2."""
    channels = [int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return float(np.dot(linear, (0.2126, 0.7152, 0.0722)))


def contrast(one: str, other: str) -> float:
    low, high = sorted(map(luminance, (one, other)))
    return (high + 0.05) / (low + 0.05)


@pytest.mark.parametrize("theme", [0, 1, 2], ids=["light", "dark", "print"])
def test_every_text_can_be_read_on_every_ground(theme: int) -> None:
    css = (TEMPLATES / "report.css").read_text(encoding="utf-8")
    palette = dict(
        re.findall(
            r"--(\w+): (#[0-9a-f]{6});", re.findall(r":root \{(.*?)\}", css, re.DOTALL)[theme]
        )
    )
    grounds = {name: palette.pop(name) for name in ("ground", "raised")}
    del palette["line"]
    assert set(palette) == {"ink", "quiet", "accent", "published", "added", "removed"}
    for text, colour in palette.items():
        for ground, under in grounds.items():
            assert contrast(colour, under) >= 4.5, f"{text} on {ground}"
    assert (luminance(grounds["ground"]) < 0.05) == (theme == 1)


# In a real browser

in_chromium = pytest.mark.skipif(not CHROMIUM, reason="no Chromium on PATH to open the page with")

# A page of its own, so that the report's policy does not bind it; the report lies in a frame of
# the same origin and is pressed there as a reader would.
DRIVER = """<!DOCTYPE html><meta charset="utf-8"><body><pre id="seen"></pre>
<iframe id="report" width="420" height="600" srcdoc="%s"></iframe><script>
const frame = document.getElementById("report");
frame.addEventListener("load", () => {
  const page = frame.contentDocument, table = page.querySelector("#sorted table");
  const state = () => [
    table.tHead.rows[0].cells[1].getAttribute("aria-sort"),
    [...table.tBodies[0].rows].map((row) => row.cells[1].textContent),
  ];
  const button = table.tHead.rows[0].cells[1].querySelector("button");
  const seen = { states: [state()] };
  button.focus();
  seen.focused = page.activeElement === button;
  for (let i = 0; i < 3; i++) { button.click(); seen.states.push(state()); }
  const folded = () => page.querySelectorAll("details:not([open])").length;
  seen.folded = [folded()];
  for (const name of ["beforeprint", "afterprint"]) {
    frame.contentWindow.dispatchEvent(new Event(name));
    seen.folded.push(folded());
  }
  seen.scripts = page.scripts.length;
  seen.unnamed = [...page.querySelectorAll("button")].filter(
    (each) => !each.textContent && !each.ariaLabel).length;
  seen.overflow = page.documentElement.scrollWidth - page.documentElement.clientWidth;
  frame.remove();
  document.getElementById("seen").textContent = JSON.stringify(seen);
});
</script></body>"""


def chromium(folder: Path, address: str, *options: str) -> str:
    """Opens a page, returns what comes out; no console message of any kind may come of it."""
    done = subprocess.run(
        [
            CHROMIUM,
            *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"),
            *("--no-first-run", "--disable-background-networking", "--disable-component-update"),
            *("--enable-logging=stderr", "--v=0", f"--user-data-dir={folder / 'profile'}"),
            "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
            *(*options, address),
        ],
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert "CONSOLE" not in done.stderr, done.stderr
    return done.stdout


@contextmanager
def served(content: str) -> Iterator[tuple[str, list[str]]]:
    """A server of one page: its address, and every path that it has been asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_response(200)
            self.send_header("Content-Type", "text/html; charset=utf-8")
            self.end_headers()
            self.wfile.write(content.encode())

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/report.html", asked
        server.shutdown()


@in_chromium
def test_pressing_a_header_sorts_by_magnitude(tmp_path: Path, hostile: str) -> None:
    times = ["10.0 ms [9.9, 10.1]", "not measured", "900 us", "1.20 s", "-"]
    wide: Sequence[Inline] = ["w" * 10_000, hostile, *("123 TFLOPS [121, 125]",) * 10]
    rendered = html.render(
        hostile,
        [
            (section("sorted"), [table_of(*((f"row {time}", time) for time in times), align="lr")]),
            (section("wide"), [table_of(wide, wide), *everything(hostile)]),
        ],
        {"plot": PICTURE},
    )
    file = tmp_path / "driver.html"
    file.write_text(DRIVER % escape(rendered), encoding="utf-8")
    dom = chromium(tmp_path, file.as_uri(), "--dump-dom")
    seen = json.loads(next(each.text for each in tree_of(dom).all("pre")))
    up, down = ["900 us", times[0], "1.20 s"], ["1.20 s", times[0], "900 us"]
    missing = {"not measured", "-"}
    (start, first), (one, rising), (two, falling), (three, last) = seen["states"]
    assert (start, one, two, three) == ("none", "ascending", "descending", "none")
    assert (first, rising[:3], falling[:3], last) == (times, up, down, times)
    assert set(rising[3:]) == set(falling[3:]) == missing
    assert seen["focused"]
    assert seen["folded"] == [1, 0, 1]
    assert (seen["scripts"], seen["unnamed"], seen["overflow"]) == (1, 0, 0)


@in_chromium
def test_the_report_is_dark_in_the_dark_and_asks_nobody(tmp_path: Path, page: str) -> None:
    """Served, so that the page's own requests can be told from those that Chromium makes."""
    shot, log = tmp_path / "shot.png", tmp_path / "net.json"
    with served(page) as (address, asked):
        chromium(
            tmp_path,
            address,
            *(f"--screenshot={shot}", "--window-size=1300,6000", "--hide-scrollbars"),
            *("--blink-settings=preferredColorScheme=0", f"--log-net-log={log}"),
        )
    assert asked == ["/report.html"]
    events = json.loads(log.read_text(encoding="utf-8"))["events"]
    requests = [event.get("params", {}) for event in events]
    assert address in {request.get("url") for request in requests}
    origin = address.rpartition("/")[0]
    assert not [request for request in requests if request.get("initiator") == origin]
    pixels = image.imread(shot)[..., :3]
    assert pixels.shape == (6000, 1300, 3)
    assert pixels[5, 5].max() < 0.15
    is_white = (pixels > 0.99).all(axis=-1)
    assert is_white.sum(axis=1).max() > 300, "the picture lies on a white card"
    assert is_white.mean() < 0.2
