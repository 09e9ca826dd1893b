"""Whatever a model writes, and however much: the page shows it, and never stands still for it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from chatstream.cli.import_aichatbot import import_files
from tests.browser import ServerProcess, browser, complaints, module_page, new_page, run

__all__ = ["browser", "complaints", "module_page", "new_page"]

SIZE = 262_144
LONGEST_TASK = 200
"""Of the main thread's own time (ms): what else the machine does is not counted."""

HOSTILE = [
    *("~a ~~b", "_a__b", "a   b", "[a](b[a](b", "`", "`` ` ", "![", "<", "*a**b", "&", "[", "*a "),
    *("**a", "| a ", "http://a.b/! ", "a@b.c ", "\\(", "\\[a\n", "$a$ ", "語**。", "~~", "(", "\t"),
    *(
        "> ",
        "- ",
        "1. ",
        "> - ",
        "\n",
        "a\n",
        "a\n\n",
        "- a\n\n",
        "```\n",
        "```md\n```js\n",
        "a\n=\n",
    ),
    *(
        "[a]: b\n",
        "[^1]: a\n\n",
        "| a | b |\n",
        "中文段落，没有空格。",
        "    a\n",
        "x",
        "* * *\n",
        "$$\n",
    ),
    *(
        "The quick brown fox jumps over the lazy dog. ",
        "[a]: <b\n\n",
        "> ```\n",
        "![a](b)",
        "a\\\n",
    ),
    *("&current;", "&a", "`|", "|a|`b", "[a]: http://a.b\n\n", "```a b\n```\n", "~~~a b "),
    *(
        "\\[a\\,\n",
        "\\(\\,",
        "\\]",
        "[\\]",
        "\\begin{a}\n",
        "\\begin{a}\\end{b}",
        "$a\\,b ",
        "$$\\,\n",
    ),
]


def repeated(unit: str, size: int = SIZE) -> str:
    return (unit * (size // len(unit) + 1))[:size]


def nested(levels: int) -> str:
    return "".join(f"{'  ' * level}- a\n" for level in range(levels))


SHAPES = {
    "rows longer than the header": "|a|\n|-|\n" + "|`b|c`|`d|\n" * 2000,
    "a row of 5,000 cells": "|a|\n|-|\n" + "|b`" * 5000,
    "a table of 2,000 columns": "|a" * 2000
    + "|\n"
    + "|-" * 2000
    + "|\n"
    + ("|b" * 2000 + "|\n") * 40,
    "a table of 20,000 rows": "|a|b|\n|-|-|\n" + "|1|2|\n" * 20_000,
    "lists 500 deep": nested(500),
    "emphasis in emphasis": "*a " * 20_000 + "b*" * 20_000,
    "links in links": "[" * 20_000 + "a" + "](b)" * 20_000,
    "runs of backticks": " ".join("`" * size for size in range(1, 700)),
    "a block of code": "```\n" + "x\n" * 130_000 + "```\n",
    "a list of 4,000 items": "".join(f"{n}. **b** `c` [d](http://e.f) g\n" for n in range(4000)),
    "ordinary markdown": "## Title\n\nSome **bold** `code`\n\n- one\n- two\n\n```js\na\n```\n\n"
    * 900,
}

SHOW = """
const [text, steps] = argument;
const frame = () => new Promise((done) => requestAnimationFrame(() => setTimeout(done)));
const target = document.createElement("div");
target.className = "answer markdown";
document.querySelector("main .column").replaceChildren(target);
const view = new module.MarkdownView(target, true);
for (let step = 1; step <= steps; step++) {
  await frame();
  view.update(text.slice(0, (text.length * step) / steps), step === steps);
}
while (target.getAttribute("aria-busy") === "true") await frame();
for (let count = 0; count < 3; count++) await frame();
const shown = target.textContent;
target.remove();
return shown;
"""


def longest_task(browser: Browser, page: Page, job: Callable[[], str]) -> tuple[float, str]:
    """Do a job; return how long the longest task of the page's main thread was (ms)."""
    browser.start_tracing(page=page, categories=["toplevel"])
    try:
        done = job()
    finally:
        events = json.loads(browser.stop_tracing())["traceEvents"]
    named = (e for e in events if e.get("name") == "thread_name")
    main = {(e["pid"], e["tid"]) for e in named if e["args"]["name"] == "CrRendererMain"}
    tasks = (e for e in events if "RunTask" in e.get("name", ""))
    times = [e["tdur"] / 1000 for e in tasks if (e["pid"], e["tid"]) in main and "tdur" in e]
    assert times, "the browser does not tell how long its tasks are"
    return max(times), done


def watched(browser: Browser, page: Page, text: str, steps: int = 1) -> tuple[float, str]:
    """Show a text that comes in so many steps; return the longest task (ms) and what is shown."""
    return longest_task(
        browser, page, lambda: str(run(page, "page/markdown-view.js", SHOW, [text, steps]))
    )


def letters(text: str) -> str:
    return "".join(character for character in text if character.isalnum())


@pytest.mark.parametrize("unit", HOSTILE, ids=repr)
def test_no_text_makes_the_page_stand_still(browser: Browser, module_page: Page, unit: str) -> None:
    longest, shown = watched(browser, module_page, repeated(unit))

    assert longest < LONGEST_TASK
    if not any(sign in unit for sign in ("[", "1.", "`", "~~")):
        assert letters(shown) == letters(repeated(unit))


@pytest.mark.parametrize("unit", HOSTILE, ids=repr)
def test_neither_does_one_that_is_just_short_enough_to_be_parsed(
    browser: Browser, module_page: Page, unit: str
) -> None:
    longest, _ = watched(browser, module_page, repeated(unit, 32_000))

    assert longest < LONGEST_TASK


@pytest.mark.parametrize("steps", [1, 25])
@pytest.mark.parametrize("name", SHAPES)
def test_long_and_deep_texts_are_shown_whole(
    browser: Browser, module_page: Page, name: str, steps: int
) -> None:
    longest, shown = watched(browser, module_page, SHAPES[name], steps)

    assert longest < LONGEST_TASK
    words = {"a", "b", "x", "Title", "one"} & set(SHAPES[name].split())
    assert all(word in shown for word in words)


@pytest.mark.parametrize("unit", ["~a ~~b", "a\n", "x", "```\n", "[a](b[a](b", "- a\n\n"], ids=repr)
def test_a_text_that_grows_does_not_either(browser: Browser, module_page: Page, unit: str) -> None:
    longest, _ = watched(browser, module_page, repeated(unit), 25)

    assert longest < LONGEST_TASK


@pytest.mark.parametrize(
    "unit", [">", "> ", "- ", "1. ", "[", "(", "*", "**a ", "_a ", "![", "[a]("]
)
@pytest.mark.parametrize("times", [1000, 8000, 40_000])
def test_deep_nesting_is_shown_as_text(module_page: Page, unit: str, times: int) -> None:
    shown = run(
        module_page,
        "page/markdown-view.js",
        """
        const target = document.createElement("div");
        const view = new module.MarkdownView(target);
        view.update(argument.slice(0, argument.length / 2), false);
        view.update(argument, true);
        return target.textContent;
        """,
        unit * times + "end",
    )

    assert shown.removesuffix("\n") == unit * times + "end"


def test_pieces_hold_the_text_and_nothing_else(module_page: Page) -> None:
    texts = ["", "a", "a\n" * 1000, "x" * 9999, "🙂" * 5000, "word " * 2000, "\n" * 999, "a\n\n"]
    texts += [f"{'y' * 4095}🙂{'z' * 100}", "line of some words\n" * 3000]

    found = run(
        module_page,
        "page/pieces.js",
        """
        return argument.map((text) => {
          const whole = document.createElement("div");
          module.showPieces(whole, text);
          const grown = document.createElement("div");
          for (let at = 0; at < text.length; at += 997) module.showPieces(grown, text.slice(0, at));
          module.showPieces(grown, text);
          const sizes = [...whole.children].map((piece) => piece.textContent.length);
          return [whole.textContent, grown.innerHTML === whole.innerHTML, Math.max(0, ...sizes)];
        });
        """,
        texts,
    )

    assert [text for text, _, _ in found] == texts
    assert all(same and longest <= 4096 for _, same, longest in found)


def test_a_history_full_of_such_texts_loads_without_standing_still(
    browser: Browser, new_page: Callable[[str], Page], tmp_path: Path
) -> None:
    units = [">", "~a ~~b", "a\n", "[a](b[a](b"]
    entries: list[Any] = []
    for unit in units:
        entries.append({"role": "user", "message": repeated("a\n", 50_000)})
        entries.append({"role": "assistant", "message": repeated(unit, 48_000)})
    (tmp_path / "old.json").write_text(json.dumps({"default": entries}))
    (folder := tmp_path / "server").mkdir()
    import_files(folder / "data", tmp_path / "old.json", None)
    with ServerProcess(folder, "http://127.0.0.1:9/v1") as server:
        page = new_page("about:blank")

        def load() -> str:
            page.goto(server.url)
            expect(page.locator(".turn")).to_have_count(4)
            expect(page.locator('.answer[aria-busy="true"]')).to_have_count(0)
            return json.dumps(
                page.eval_on_selector_all(".answer", "all => all.map((one) => one.textContent)")
            )

        longest, shown = longest_task(browser, page, load)

    assert json.loads(shown) == [repeated(unit, 48_000) for unit in units]
    assert longest < LONGEST_TASK
