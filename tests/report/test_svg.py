"""SVG files from a cache bring nothing into the report but shapes and text; its policy stops what would get in."""

from __future__ import annotations

import glob
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page, Request, sync_playwright

from isoflop.plotting import new_figure, svg
from isoflop.report.rendering import read_picture, render
from isoflop.report.svg import inline
from isoflop.runtime.errors import UserError

PWN = "document.title='PWNED'"
HOSTILE = [
    f"<script>{PWN}</script>",
    f'<image href="x" onerror="{PWN}"/>',
    f'<image href="data:image/svg+xml;base64,AAAA" onload="{PWN}"/>',
    f'<a href="javascript:{PWN}"><text>x</text></a>',
    f'<g onclick="{PWN}" onmouseover="{PWN}"><path d="M0 0"/></g>',
    '<foreignObject><iframe xmlns="http://www.w3.org/1999/xhtml" srcdoc="x"></iframe></foreignObject>',
    f'<animate attributeName="href" values="javascript:{PWN}"/>',
    f'<set attributeName="onload" to="{PWN}"/>',
    '<use href="http://evil.invalid/x.svg#a"/>',
    '<use href="data:image/svg+xml,x#a"/>',
    '<path d="M0 0" style="fill: url(http://evil.invalid/x)"/>',
    '<path d="M0 0" fill="URL(//evil.invalid/x)"/>',
    '<path d="M0 0" style="background: red; position: fixed; fill: red"/>',
    "<style>@import 'http://evil.invalid/x'; * {display: none}</style>",
    '<path d="M0 0" clip-path="url(http://evil.invalid/x)"/>',
    f'<h:img xmlns:h="http://www.w3.org/1999/xhtml" src="x" onerror="{PWN}"/>',
    f"<title>&lt;img src=x onerror={PWN}&gt;</title>",
    "<?xml-stylesheet href='http://evil.invalid/x'?><!-- --><path d='M0 0'/>",
]
REMAINS = ("<script", "onerror", "onload", "onclick", "javascript:", "<iframe", "foreign", "<animate", "<set",
           "evil.invalid", "svg+xml", "<style", "position", "<img", "<a ", "import")  # fmt: skip


def svg_of(inside: str) -> str:
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 9 9" onload="{PWN}">{inside}</svg>'


@pytest.mark.parametrize("inside", HOSTILE)
def test_what_does_not_draw_is_removed(inside: str) -> None:
    page = str(inline(svg_of(inside), "mine"))
    assert not [word for word in REMAINS if word in page.replace("&lt;img src=x onerror", "")]
    assert page.startswith("<svg viewBox")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no svg",
        "<svg",
        "<html/>",
        '<!DOCTYPE svg [<!ENTITY a "aaaa"><!ENTITY b "&a;&a;">]><svg viewBox="0 0 1 1">&b;</svg>',
        svg_of("<g>" * 3000 + "</g>" * 3000),
    ],
)
def test_what_is_no_plain_svg_is_one_line(text: str, tmp_path: Path) -> None:
    (tmp_path / "scaling.svg").write_text(text)
    with pytest.raises(UserError, match=r"scaling: got .*; fix: "):
        read_picture(tmp_path / "scaling.svg")


def test_a_figure_of_matplotlib_keeps_what_it_draws() -> None:
    figure = new_figure(3, 2)
    axes = figure.subplots()
    axes.plot([1, 2, 3], [1, 4, 9], ls="--", color="#0072b2")
    axes.imshow([[0, 1], [1, 0]])
    axes.set_title("one & more")
    drawn = str(inline(svg(figure), "mine"))
    assert drawn.count("<use href=") >= 6 and drawn.count("clip-path=") >= 2 and "stroke-dasharray" in drawn
    assert 'href="data:image/png;base64,' in drawn and "&amp; more" in drawn and "var(--line-1)" in drawn


@pytest.fixture(scope="module")
def browser_page() -> Iterator[Page]:
    found = [shutil.which(name) for name in ("chromium", "chromium-browser", "google-chrome")]
    program = next(filter(None, found), None) or next(iter(glob.glob("/ms-playwright/chromium-*/*/chrome")), None)
    if not program:
        pytest.skip("needs Chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program)
        yield browser.new_page()
        browser.close()


def test_nothing_runs_in_the_page(browser_page: Page, tmp_path: Path) -> None:
    page = render("document.html")
    inside = "".join(str(inline(svg_of(one), f"n{index}")) for index, one in enumerate(HOSTILE))
    past_the_list = svg_of("".join(HOSTILE))  # the policy alone must stop it too
    for body in (inside, past_the_list):
        file = tmp_path / "page.html"
        file.write_text(page.replace("<body>", f'<body><table class="sortable"><thead><tr><th>a</thead></table>{body}'))
        failed: list[str | None] = []

        def note(request: Request, failed: list[str | None] = failed) -> None:
            failed.append(request.failure)

        browser_page.on("requestfailed", note)
        browser_page.goto(file.as_uri())
        for shape in browser_page.query_selector_all("svg path, svg g, svg a"):
            shape.dispatch_event("click")
        browser_page.wait_for_timeout(200)
        assert browser_page.title() == "isoflop:"
        blocked = {"csp", "origin"} if body is past_the_list else set()  # by the browser; nothing was sent
        assert set(failed) <= blocked
        assert browser_page.query_selector("th button"), "the page's own script has to run"
