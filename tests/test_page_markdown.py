"""Markdown of a model on the page: harmless, and the same however it arrives."""

from html.entities import html5
from typing import Any

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
    grown, whole, kept = run(module_page, "page/markdown-view.js", STREAMED, [sample, step])

    assert grown == whole
    assert "<p>" in whole
    assert kept, "a finished block was made anew, and the reader's selection with it"


RENDERED = """
const [text, step] = argument;
const target = document.createElement("div");
const view = new module.MarkdownView(target);
for (let end = step; end < text.length; end += step) view.update(text.slice(0, end), false);
view.update(text, true);
const all = (name) => [...target.querySelectorAll(name)].map((one) => one.textContent);
return {
  text: target.innerText || target.textContent,
  strong: all("strong"), em: all("em"), del: all("del"), code: all("code"), math: all(".math"),
  pre: all("pre"), li: all("li"), p: all("p"),
};
"""
STEPS = pytest.mark.parametrize("step", [1, 3, 10_000])


def rendered(page: Page, text: str, step: int = 10_000) -> Any:
    return run(page, "page/markdown-view.js", RENDERED, [text, step])


MATH = [
    r"\(a^2\)",
    r"\[ a_1 \, b_2 \]",
    r"$$\int x\,dx$$",
    "$a_1 + b_1$",
    r"$a*b*c$",
    r"\(x * y * z\)",
    r"$\{a\}$",
]
MATH_BLOCKS = [
    "$$\na\n=\nb\n$$",
    "\\[\n- a \\\\\n\n+ b_1 * c_1\n\\]",
    "$$\n\\begin{aligned}\n a &= b \\\\\n # c\n\\end{aligned}\n$$",
]


@STEPS
@pytest.mark.parametrize("math", MATH)
def test_mathematics_is_shown_as_it_was_written(module_page: Page, math: str, step: int) -> None:
    text = f"Be {math}, *so* and {math}.\n\n- in a list {math}\n\n| a |\n|---|\n| {math} |\n"

    found = rendered(module_page, text, step)

    assert found["math"] == [math] * 4
    assert found["em"] == ["so"]


@STEPS
@pytest.mark.parametrize("math", MATH_BLOCKS)
def test_mathematics_on_lines_of_its_own_is_no_markdown(
    module_page: Page, math: str, step: int
) -> None:
    found = rendered(module_page, f"Before\n{math}\nafter *it*\n\n{math}\n\nEnd", step)

    assert found["math"] == [math] * 2
    assert found["em"] == ["it"]
    assert found["li"] == []


def test_no_backslash_of_mathematics_is_eaten_while_it_comes(module_page: Page) -> None:
    text = r"So \(a_1 * b\,c * d\) is"

    for end in range(5, len(text)):
        shown = run(
            module_page,
            "page/markdown-view.js",
            """
            const target = document.createElement("div");
            new module.MarkdownView(target).update(argument, false);
            return target.textContent;
            """,
            text[:end],
        )
        assert shown.strip() == text[:end].strip()


@STEPS
def test_money_code_and_escapes_are_no_mathematics(module_page: Page, step: int) -> None:
    text = (
        r"$5 *and* $10, US$5 *or* A$6, `\(a\)`, `$a$` \\(x\\) \$a *b* c\$ $ x *y* $"
        "\n\n```\n$$\n\\(a\\)\n```\n\n$$ never ended *d*"
    )

    found = rendered(module_page, text, step)

    assert found["math"] == []
    assert found["em"] == ["and", "or", "b", "y", "d"]
    assert found["code"] == [r"\(a\)", "$a$", "$$\n\\(a\\)\n"]


@STEPS
def test_mathematics_beside_east_asian_letters(module_page: Page, step: int) -> None:
    math = [r"$x\,y$", r"$\{1,2\}$", "$a_1*b_1*c$", r"$\alpha*\beta*$"]
    text = (
        f"设{math[0]}为集合{math[1]}的元素\n的{math[2]}在 これ{math[3]}は\n\n价格$5和$10，*共*$15元"
    )

    found = rendered(module_page, text, step)

    assert found["math"] == math
    assert found["em"] == ["共"]


@STEPS
@pytest.mark.parametrize("name", ["align", "pmatrix", "equation*", "tikzcd"])
def test_bare_environments_are_shown_as_they_were_written(
    module_page: Page, name: str, step: int
) -> None:
    inner = rf"\begin{{{name}}}a&=\{{b_1*c*d\\ \begin{{{name}}}e\end{{{name}}}\\f\end{{{name}}}"
    block = inner.replace(r"\\", "\\\\\n\n")

    found = rendered(module_page, f"So {inner}, *so*.\n\n{inner}\n\nAnd\n{block}\n\nend", step)

    assert found["math"] == [inner, inner, block]
    assert found["em"] == ["so"]


@STEPS
@pytest.mark.parametrize(
    "math",
    [
        r"\(a\,b",
        r"\(a*b*c",
        r"$$x\,y",
        r"$x\,y",
        r"\[a\{b*c*d",
        r"\begin{align}a\,b*c*d\\",
        "$$\nx\\,y\n=",
        "\\[\na*b*c\\;d",
        "\\begin{align}\na*b*c\\;d\n- e",
    ],
)
def test_an_answer_cut_inside_a_formula_is_shown_as_it_was_written(
    module_page: Page, math: str, step: int
) -> None:
    for before in ("*so*\n\n", "*so*\n", *(["Then *so*: "] if "\n" not in math else [])):
        found = rendered(module_page, before + math, step)

        assert (found["math"], found["em"]) == ([math], ["so"])


def test_a_formula_may_be_long_and_hold_blank_lines(module_page: Page) -> None:
    long = r"a\,b + " * 1500
    parts = ["\\[ a\\,b \\\\", "c\\;d*e*f \\]"]
    texts = {
        rf"x \({long}\) *y*": [rf"\({long}\)"],
        f"$$\n{long}\n$$\n*y*": [f"$$\n{long}\n$$"],
        f"so ${long}z$ *y*": [f"${long}z$"],
        f"Text *y*: {parts[0]}\n\n{parts[1]} more": parts,
        "$$\n" + "word\n\n" * 1000 + "*y*\n$$": [],
        r"\(no formula\_here) *y* [z\]": [],
    }

    for text, math in texts.items():
        found = rendered(module_page, text)
        assert found["math"] == math, text[:30]
        assert found["em"] == ["y"]


@STEPS
def test_bold_beside_east_asian_punctuation(module_page: Page, step: int) -> None:
    lines = {
        "**注意：**请先保存": "注意：",
        "这是**“术语”**的意思": "“术语”",
        "含**「重点」**内容": "「重点」",
        "**“문서”**는 원칙": "“문서”",
        "**复现：**10 轮对话": "复现：",
        "**これは（重要）**です": "これは（重要）",
        "见**《红楼梦》**第一回": "《红楼梦》",
        "前**𠮷。**𠮷后": "𠮷。",
        "**Note:** and **bold**s": "Note:",
    }

    found = rendered(module_page, "\n".join(lines), step)

    assert found["strong"] == [*lines.values(), "bold"]
    assert "*" not in found["text"]


@STEPS
def test_beside_ascii_the_rule_is_commonmarks(module_page: Page, step: int) -> None:
    kept = r"**Warning:**text, ** x **, snake_case_name, 2 * 3 * 4, \*\*否：\*\*是"

    found = rendered(
        module_page, f"{kept} `**注：**a` [x](https://a.example/**注：**b)\n\na**'b'**c", step
    )

    assert (found["strong"], found["em"]) == ([], [])
    assert "**Warning:**text" in found["text"]
    assert found["code"] == ["**注：**a"]


def test_emphasis_in_emphasis_is_commonmarks(module_page: Page) -> None:
    text = (
        "***a** b* **c*d*e** *f **g*** *h [i*](https://x.example) **`j**` k** _l_ __m__ ~~n **o**~~"
    )

    found = rendered(module_page, text)

    assert found["em"] == ["a b", "d", "f g", "l"]
    assert found["strong"] == ["a", "cde", "g", "`j**` k".replace("`", ""), "m", "o"]
    assert found["del"] == ["n o"]


@STEPS
def test_a_range_is_not_struck_out(module_page: Page, step: int) -> None:
    ranges = "身高3~5米，体重8~10公斤\nage (1~3), height (80~100)\n~one~ ~~~three~~~ "

    found = rendered(module_page, f"{ranges}\n~~gone~~ stays, ~~删除。~~后", step)

    assert found["del"] == ["gone", "删除。"]
    assert found["text"].count("~") == 12


NESTED = "```markdown\n# t\n```js\nx\n```\nend\n```\n\n1. after\n2. all\n"


@STEPS
@pytest.mark.parametrize("name", ["markdown", "md", "MDX", "md title"])
def test_markdown_that_holds_fences_is_one_block(module_page: Page, name: str, step: int) -> None:
    found = rendered(module_page, NESTED.replace("markdown", name), step)

    assert found["code"] == ["# t\n```js\nx\n```\nend\n"]
    assert found["li"] == ["after", "all"]


@STEPS
def test_other_fences_end_where_they_did(module_page: Page, step: int) -> None:
    texts = {
        "```js\na\n```py\nb\n```\nc *d*": ["a\n```py\nb\n"],
        "```markdown\na\n```\nb *d*\n```js\nc\n```": ["a\n", "c\n"],
        "```markdown\na\n```js\nb\n```\nc *d*": ["a\n```js\nb\n"],
        "````markdown\n```js\na\n```\n````\n*d*": ["```js\na\n```\n"],
        "- x\n  ```md\n  ```js\n  a\n  ```\n  b\n  ```\n- *d*": ["```js\na\n```\nb\n"],
    }

    for text, blocks in texts.items():
        found = rendered(module_page, text, step)
        assert found["code"] == blocks, text
        assert found["em"] == ["d"], text


KEPT = {
    "| op | meaning |\n|---|---|\n| `a || b` | logical or |": ["`a || b`", "logical or"],
    "|a|\n|-|\n|b|c|": ["b", "c"],
    "|a|\n|-|\n|b||`c|\n|x \\| y|\\||z": ["b", "`c", "x | y", "|", "z"],
    "> - |a|b|\n>   |-|-|\n>   |`x|y`|*z*|`u|v|": ["x|y", "z", "`u", "v"],
    "Sources:\n\n[1]: https://a.example/paper\n[2]: https://b.example": [
        "[1]: https://a.example/paper",
        "[2]: https://b.example",
    ],
    "[Note]: important": ["[Note]: important"],
    "[12:30]: hello": ["[12:30]: hello"],
    "[Q]: why?\n[A]: because\n[A]: twice": ["[Q]: why?", "[A]: because", "[A]: twice"],
    '- [x y]: <z "> "a *title*"\n- b': ['[x y]: <z "> "a *title*"', "b"],
    "> [^1]: footnote\n\nsee [^1], [Q] and ![Q]\n\n[Q]: no": [
        "[^1]: footnote",
        "see [^1], [Q] and ![Q]",
        "[Q]: no",
    ],
    "call f[0](x) and [go](/there 'now')": ["call f[0](x) and [go](/there 'now')"],
    "#": ["#"],
    ">": [">"],
    "> >": ["> >"],
    "a\n\n- >": ["a", ">"],
    "- ##": ["##"],
    '```python title="app.py"\nx\n```': ['python title="app.py"', "x"],
    "```print(1) and more\nx\n```": ["print(1) and more", "x"],
    "~~~a~~~ b\nx": ["a~~~ b", "x"],
    "- ```a\\_b {c=1}\n  x\n  ```": ["a\\_b {c=1}", "x"],
    f"```{'word ' * 200}\nx\n```": [f"```{'word ' * 200}\nx\n```"],
}


@STEPS
@pytest.mark.parametrize("text", KEPT, ids=lambda text: text[:40])
def test_no_text_is_lost(module_page: Page, text: str, step: int) -> None:
    shown = rendered(module_page, text, step)["text"]

    at = 0
    for part in KEPT[text]:
        plain = part if "```" in part else part.replace("`a || b`", "a || b")
        assert plain in shown[at:]
        at = shown.index(plain, at) + len(plain)


def test_the_title_and_the_address_of_a_link_are_told(module_page: Page) -> None:
    text = (
        '[a](https://a.example "The *title*") [](https://b.example) [c]\n\n[c]: https://c.example'
    )

    found = run(
        module_page,
        "page/markdown-view.js",
        """
        const target = document.createElement("div");
        new module.MarkdownView(target).update(argument, true);
        const links = [...target.querySelectorAll("a")];
        return links.map((one) => [one.textContent, one.getAttribute("href"), one.title]);
        """,
        text,
    )

    a, b, c = (f"https://{name}.example" for name in "abc")
    assert found == [["a", a, f"The *title*\n{a}"], [b, b, b], ["c", c, c], [c, c, c]]


def test_a_text_that_shows_nothing_is_known(module_page: Page) -> None:
    blank = ["", "\n\n", "   \n ", "\u200b", "\ufeff \t", "&nbsp;\n&#8203;&#xA0;", "\u3164\u2800"]
    seen = ["a", "\n.", "&nbsp", "&amp;", "\\", ">", "🙂", "\u200b中", "&#33;", "\n" * 99_999 + "x"]

    for text in blank + seen:
        found = run(module_page, "page/blank.js", "return module.isBlank(argument)", text)
        assert found == (text in blank), text[:9]


ENTITIES = {
    "p = &current; q = &region;": "p = &current; q = &region;",
    "&notit; &ampere; &copy &lt &#60 &foo; &COPYING; &times_x;": None,
    "&copy; &reg; &notin; &timesb; &ltri; &nbsp;! &amp;lt; &#38;gt; &#233;&#xe9;": (
        "© ® ∉ ⊠ ◃ \xa0! &lt; &gt; éé"
    ),
    r"\&copy; `&copy;` <b>&current;</b> &lt\;": "&copy; &copy; <b>&current;</b> &lt;",
    "a\0b `c\0d`": "a\ufffdb c\ufffdd",
    "[a&current;](https://a.example/?b&current;)": "a&current;",
    "https://a.example/?b=1&current;x": None,
}


@STEPS
def test_only_whole_known_names_are_characters(module_page: Page, step: int) -> None:
    for text, shown in ENTITIES.items():
        found = rendered(module_page, text, step)["p"]
        assert found == [shown or text]
        assert rendered(module_page, f"- {text}", step)["li"] == [shown or text]
        table = rendered(module_page, f"|a|\n|-|\n|{text}|", step)["text"]
        assert (shown or text) in table


def test_every_name_that_html_knows_is_the_same_here(module_page: Page) -> None:
    names = [name for name in html5 if name.endswith(";")]

    for at in range(0, len(names), 400):
        some = names[at : at + 400]
        found = rendered(module_page, "\n\n".join(f"&{name}." for name in some))
        assert found["p"] == [f"{html5[name]}." for name in some]


def test_no_beginning_of_a_word_is_taken_for_a_name(module_page: Page) -> None:
    words = [f"&{name}ment;" for name in html5 if not name.endswith(";")]

    assert rendered(module_page, "\n\n".join(words))["p"] == words


def test_a_nul_in_code_is_shown_as_well(module_page: Page) -> None:
    assert rendered(module_page, "```\na\0b\n```")["code"] == ["a\ufffdb\n"]


def test_hostile_markdown_becomes_nothing_but_text_and_honest_links(module_page: Page) -> None:
    for end in [*range(0, len(HOSTILE), 5), len(HOSTILE)]:
        found = run(
            module_page,
            "page/markdown-view.js",
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
        "page/markdown.js",
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

    made = run(
        module_page, "page/markdown.js", "return argument.map(module.completed)", list(pairs)
    )

    assert dict(zip(pairs, made, strict=True)) == pairs
