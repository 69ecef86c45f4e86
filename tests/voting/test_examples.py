"""Few-shot prompts taken apart: as people write them, and texts that are none."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from gentool.config.lookup import configs
from gentool.voting.examples import FewShotPrompt, assemble, fill, parse_few_shot, placeholders

# Prompts whose examples and question stand a line each, with nothing before them -> the cue.
LINES = {
    "1+1=2\n2+3=5\n4+4=": "=",
    "1 + 1 = 2\n2 + 3 = 5\n4 + 4 =": " =",
    "1+1= 2\n2+3= 5\n4+4= ": "= ",
    "1+1=2\n2+3=5\n4+4= ": "=",  # the blank was a slip
    "12+5=17\n13+5=": "=",
    "一加一等于二\n二加三等于五\n四加四等于": "等于",
    "1. 1+1=2\n2. 2+3=5\n3. 4+4=": "=",
    "狗 dog\n猫 cat\n鸟 ": " ",
    "狗\tdog\n猫\tcat\n鸟\t": "\t",
    "冰淇淋 ice cream\n狗 dog\n鸟 ": " ",
    "狗 dog\n鸟 ": " ",  # one example
    "大→小\n长→": "→",
    "大|小\n长|": "|",
    "大-小\n长-": "-",
    "大: 小\n长:": ":",
    "- 大: 小\n- 高: 矮\n- 长:": ":",
    "法国的首都是巴黎\n中国的首都是": "的首都是",
    "法国的首都是巴黎\n日本的首都是东京\n中国的首都是": "的首都是",
    "日本首都是东京\n德国首都是柏林\n法国首都是巴黎\n中国首都是": "首都是",
    "苹果是水果\n狗是动物\n坚果是": "是",
    "法国首都巴黎\n日本首都东京\n中国首都": "首都",
    "法国（巴黎）\n日本（东京）\n中国（": "（",
    "“大”的反义词是“小”\n“长”的反义词是“短”\n“高”的反义词是“": "的反义词是“",
    "法国是哪里？巴黎\n中国是哪里？": "？",
    "The capital of France is Paris.\nThe capital of Italy is": " is",
    "I like it => good\nI hate it => bad\nSo what! =>": " =>",
    "小明去学校 小明\n小红昨天在家 小红\n他 ": " ",
    "小明去学校 小明\n小红昨天在家 小红\n小刚去学校 ": " ",
    "输入：大 输出：小\n输入：长 输出：": "输出：",
    "国家：法国 首都：巴黎\n国家：中国 首都：": "首都：",
    "评论：很好。情感：正面\n评论：很差。情感：负面\n评论：一般。情感：": "情感：",
    "问题：1+1=？答案：2\n问题：2+2=？答案：": "答案：",
    # what is asked for is one of the examples
    "大：小\n长：短\n大：": "：",
    "高：矮\n大：小\n长：短\n大：": "：",
    "高=>矮\n大=>小\n长=>短\n大=>": "=>",
    # a placeholder is text
    "大=>小\n{input}=>": "=>",
    "狗 dog\n猫 cat\n{input} ": " ",
}

# Eleven triples, one with a blank before its arrow.
TRIPLES = [
    *("甲写了书->甲，写，书", "乙生于北京->乙，生于，北京", "丙是丁的父亲 ->丙，父亲，丁"),
    *(f"第{i}句话说了什么->第{i}句，说，什么" for i in range(8)),
]


def case(header, examples, question, separator="\n", cue="：", stop="\n"):
    return FewShotPrompt(header, tuple(examples), question, separator, cue, stop)


# What a prompt is taken apart to; the prompt is its parts joined.
CASES = {
    "triples": case("", TRIPLES, "戊唱歌->", cue="->"),
    "Windows": case("", ["1+1=2", "2+3=5"], "4+4=", "\r\n", "="),
    "Windows, blank lines": case("", ["问：a\r\n答：b"], "问：c\r\n答：", "\r\n\r\n", "答："),
    "mixed line ends": case("", ["1+1=2\r", "2+3=5"], "4+4=", "\n", "="),
    "blank lines": case("", ["1+1=2", "2+3=5"], "4+4=", "\n\n", "="),
    "two blank lines": case("", ["问：a\n答：b"], "问：c\n答：", "\n\n\n", "答："),
    "blank line of blanks": case("", ["问：a\n答：b"], "问：c\n答：", "\n \n", "答："),
    "final newline": case("", ["1+1=2", "2+3=5"], "4+4=\n", "\n", "="),
    # questions and answers on lines of their own
    "问题": case("", ["问题：a\n答案：b", "问题：c\n答案：d"], "问题：e\n答案：", cue="答案："),
    "ASCII": case("", ["Q: a\nA: b", "Q: c\nA: d"], "Q: e\nA:", cue="A:"),
    "blank after": case("", ["Q: a\nA: b"], "Q: c\nA: ", cue="A: "),
    "slip after": case("", ["问：a\n答：b"], "问：c\n答： ", cue="答："),
    "bold": case("", ["**Q:** a\n**A:** b"], "**Q:** c\n**A:**", cue="**A:**"),
    "输入": case("", ["输入：大\n输出：小"], "输入：长\n输出：", cue="输出："),
    "parted": case("", ["问题：a\n答案：b"], "问题：c\n答案：", "\n\n", "答案："),
    "all parted": case("", ["Q: a\n\nA: b", "Q: c\n\nA: d"], "Q: e\n\nA:", "\n\n", "A:"),
    "numbered": case("", ["问题1：a\n答案1：b"], "问题2：c\n答案2："),
    "numbered and parted": case("", ["例1：a\n答：b"], "例2：c\n答：", "\n\n", "答："),
    "three lines": case(
        "", ["文本：a\n选项：x/y\n答案：x"], "文本：b\n选项：x/y\n答案：", cue="答案："
    ),
    "no label": case("", ["法国在哪里？\n答：欧洲"] * 2, "中国在哪里？\n答：", cue="答："),
    "colons in questions": case(
        "", ["他说：走。\n答：动词", "我说：书。\n答：名词"], "谁说：好。\n答：", cue="答："
    ),
    "tags": case("", ["<q>a</q>\n<a>b</a>"] * 2, "<q>c</q>\n<a>", cue="<a>"),
    "brackets": case("", ["【题】a\n【答】b"] * 2, "【题】c\n【答】", cue="【答】"),
    "arrow": case("", ["法国\n=> 巴黎"] * 2, "中国\n=>", cue="=>"),
    "dialogue": case("", ["User: hi\nAssistant: hello"], "User: bye\nAssistant:", cue="Assistant:"),
    "placeholder": case("", ["问题：a\n答案：b"], "问题：{input}\n答案：", cue="答案："),
    # instructions
    "header": case("请回答。\n", ["问题：a\n答案：b"] * 2, "问题：e\n答案：", cue="答案："),
    "header, no label": case("请回答\n", ["a？\n答：b"] * 2, "c？\n答：", cue="答："),
    "header apart": case("请回答。\n\n", ["问：a\n答：b"] * 2, "问：e\n答：", "\n\n", "答："),
    "header on top": case("请回答。\n", ["问：a\n答：b"] * 2, "问：e\n答：", "\n\n", "答："),
    "header of lines": case("说明\n\n", ["Q: a\nA: b"], "Q: c\nA:", cue="A:"),
    "header with the cue": case("翻译成英文：\n", ["狗：dog", "猫：cat"], "鸟："),
    "header with blanks": case("Translate the words.\n", ["狗 dog", "猫 cat"], "鸟 ", cue=" "),
    "header with 是": case(
        "你是地理老师\n", ["日本的首都是东京", "法国的首都是巴黎"], "中国的首都是", cue="的首都是"
    ),
    "another list": case("1+1=2\n2+3=5\n\n", ["3+3=6"], "4+4=", cue="="),
    # lines of ### and ---
    "###": case("", ["Q: a\nA: b", "Q: c\nA: d"], "Q: e\nA:", "\n###\n", "A:"),
    "---": case("做题\n\n---\n\n", ["大=>小"], "长=>", "\n\n---\n\n", "=>"),
    "### and lines": case("", ["a：b\n答：c\nd"], "e：f\n答：", "\n###\n", "答：", "\n###"),
    # answers of several lines, or on the line below
    "several lines": case(
        "", ["问：a\n答：第一行\n第二行", "问：b\n答：x"], "问：c\n答：", "\n\n", "答：", "\n\n"
    ),
    "several lines, label": case(
        "", ["问：a\n答：第一行\n第二行", "问：b\n答：x"], "问：c\n答：", "\n", "答：", "\n问："
    ),
    "several lines, numbers": case(
        "", ["问1：a\n答：b\nc", "问2：b\n答：x"], "问3：c\n答：", "\n", "答：", "\n问"
    ),
    "headings": case(
        "", ["### 输入\n大\n### 输出\n小"], "### 输入\n长\n### 输出\n", "\n\n", "### 输出\n"
    ),
    "headings, open": case(
        "", ["### 输入\n大\n### 输出\n小"], "### 输入\n长\n### 输出", "\n\n", "### 输出", "\n\n"
    ),
    "headings, one list": case(
        "", ["### 输入\n大\n### 输出\n小"], "### 输入\n长\n### 输出\n", "\n", "### 输出\n"
    ),
    # one line
    "；": case("", ["大=>小", "高=>矮"], "长=>", "；", "=>", "；"),
    ", ": case("", ["英语 => English", "法语 => French"], "德语 =>", ", ", " =>", ","),
    "blanks here and there": case("", ["大=>小", " 高=>矮"], "长=>", ",", "=>", ","),
    "，": case("", ["1+1=2", "2+3=5"], "4+4=", "，", "=", "，"),
    "。": case("", ["法国的首都是巴黎"], "中国的首都是", "。", "的首都是", "。"),
    ". ": case("", ["1+1=2", "2.5+3=5.5"], "4+4=", ". ", "=", ". "),
    " / ": case("", ["大=>小", "高=>矮"], "长=>", " / ", "=>", "/"),
    " | ": case("", ["大：小", "高：矮"], "长：", " | ", "：", "|"),
    "tab": case("", ["狗 dog", "猫 cat"], "鸟 ", "\t", " ", "\t"),
    "blank": case("", ["大=>小", "高=>矮"], "长=>", " ", "=>", " "),
    "blanks": case("", ["法国 巴黎", "日本 东京"], "中国 ", "   ", " ", "   "),
    "words": case("", ["狗 dog", "猫 cat"], "鸟 ", "；", " ", "；"),
    "commas inside": case("", ["a->b，c", "d->e，f"], "g->", "；", "->", "；"),
    "mark inside": case("", ["a->b,c", "d->e,f"], "g->", "; ", "->", ";"),
    "mark and blank": case("", ["a->b,c", "d->e"], "g->", ", ", "->", ", "),
    "lead": case("反义词：", ["大=>小", "高=>矮"], "长=>", "；", "=>", "；"),
    "line above": case("写反义词\n", ["大=>小", "高=>矮"], "长=>", "；", "=>", "；"),
}

PROSE = (
    *("", " ", "\n", "\n\n\n", "=", "：", "{input}", "{input}=>", "1+1=", "大=>", "a=\nb="),
    *("今天天气不错", "一二三", "今天天气不错，我们去公园，", "今天天气不错，我们去公园"),
    *("今天天气不错。明天天气", "他说：你好。我说：", "问题：一加一等于几？\n答案："),
    *("Q: 1+1=?\nA: ", "请回答。\n问题1：一加一等于几？\n\n答案1："),
    *("今天天气不错\n明天天气", "昨天我们去公园。\n今天我们", "今天天气不错。\n今天天气"),
    *("春天来了，花开了。\n夏天来了，", "床前明月光\n疑是地上霜\n举头望明月", "狗 dog\n猫 cat\n鸟"),
    *("Hello, I am John. My name ", "Once upon a time, there was", "法国\n巴黎\n中国\n"),
    "请把下面的句子翻译成英文：\n今天天气不错",
)


def test_of_lines():
    for prompt, cue in LINES.items():
        *examples, question = prompt.split("\n")
        assert parse_few_shot(prompt) == FewShotPrompt(
            "", tuple(examples), question, "\n", cue, "\n"
        ), prompt


@pytest.mark.parametrize("name", CASES)
def test_how_people_write(name):
    expected = CASES[name]
    assert parse_few_shot(assemble(expected, expected.examples)) == expected


@pytest.mark.parametrize("prompt", PROSE)
def test_no_examples(prompt):
    assert parse_few_shot(prompt) is None


def test_examples_left_out_or_in_another_order():
    parsed = parse_few_shot("反义词：\n大=>小\n高=>矮\n长=>")
    assert parsed is not None
    assert assemble(parsed, parsed.examples[::-1]) == "反义词：\n高=>矮\n大=>小\n长=>"
    assert assemble(parsed, parsed.examples[1:]) == "反义词：\n高=>矮\n长=>"
    assert assemble(parsed, ()) == "反义词：\n长=>"


# Laws

characters = st.sampled_from(
    [*"大小a1=>：:；，。？ \t\n#-{}的是", "\n\n", "\r\n", "问：", "\n答："]
)
prompts = st.one_of(
    st.text(),
    st.lists(characters, max_size=40).map("".join),
    st.builds(
        lambda pairs, cue, separator, last: separator.join([*map(cue.join, pairs), last + cue]),
        st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1),
        st.sampled_from(["=>", "：", " ", "的反义词是", "\n答案：", "\n### B\n"]),
        st.sampled_from(["\n", "\n\n", "\r\n", "；", ", ", "\n---\n", "\n问："]),
        st.text(min_size=1),
    ),
)


@given(prompts)
@example("a=b\n\n\nc=")
@example("\n\na=b\nc=\n\n")
def test_the_parts_make_up_the_prompt(prompt):
    parsed = parse_few_shot(prompt)
    if parsed is None:
        return
    assert assemble(parsed, parsed.examples) == prompt
    assert parsed.examples and all(x.strip() for x in parsed.examples)
    assert parsed.stop and parsed.separator and parsed.cue
    assert parsed.cue.strip() in parsed.question
    assert all(parsed.cue.strip() in x for x in parsed.examples)
    assert not parsed.header or parsed.header + parsed.examples[0] in prompt


words = st.text("大小高矮长短东西xyz", min_size=1, max_size=5)


@given(
    st.lists(st.tuples(words, words), min_size=2, max_size=6, unique_by=lambda pair: pair[0]),
    words,
    st.sampled_from(["=>", "->", "→", "：", " = ", "的反义词是", " "]),
    st.sampled_from(["\n", "\n\n", "\r\n"]),
)
def test_lists_are_found_whole(pairs, last, cue, separator):
    lines = [x + cue + y for x, y in pairs]
    parsed = parse_few_shot(separator.join([*lines, last + cue]))
    assert parsed is not None
    assert (parsed.header, parsed.examples) == ("", tuple(lines))
    assert (parsed.separator, parsed.stop) == (separator, "\n")


@pytest.mark.parametrize(
    "prompt",
    [
        *("\n" * 100_000 + "a=", "a=b\n" + "\n" * 100_000 + "c=", "#" * 100_000, " " * 100_000),
        *(
            "a=b\n" * 20_000 + "c=",
            "a=b，" * 20_000 + "c=",
            "问：a\n答：b\n" * 20_000 + "问：c\n答：",
        ),
        *(
            "=" * 100_000,
            "a=" * 50_000,
            "a\n" + "-" * 100_000 + "x",
            ("a" + " " * 1000 + "\n") * 90,
        ),
    ],
    ids=lambda prompt: repr(prompt[:12]),
)
@pytest.mark.timeout(20)
def test_long_prompts_take_no_time(prompt):
    parsed = parse_few_shot(prompt)
    assert parsed is None or assemble(parsed, parsed.examples) == prompt


# Placeholders


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("", ()),
        ("{input}=>", ("input",)),
        ("{a}和{列名}，{a}、{_b1}", ("a", "列名", "_b1")),
        ("{} {1a} {a b} {a-b} { a } {a", ()),
        ("{{a}} {{}}", ("a",)),
    ],
)
def test_placeholders(text, names):
    assert placeholders(text) == names


def test_fill():
    fields = {"input": "大{label}", "label": "\\1", "1": "x"}
    assert fill("{input}=>{label}{other}{1}{}", fields) == "大{label}=>\\1{other}{1}{}"


@given(st.text(), st.dictionaries(st.text(), st.text()))
def test_only_placeholders_are_filled(text, fields):
    if not set(placeholders(text)) & set(fields):
        assert fill(text, fields) == text


@given(st.lists(st.tuples(st.text(), st.sampled_from(["a", "列名", "_1"])), max_size=5), st.text())
def test_every_placeholder_is_filled_once(pieces, value):
    pieces = [(before.replace("{", ""), name) for before, name in pieces]
    text = "".join(f"{before}{{{name}}}" for before, name in pieces)
    filled = "".join(before + value for before, _ in pieces)
    assert fill(text, dict.fromkeys(placeholders(text), value)) == filled


# The prompts that come with gentool

SHIPPED = {
    "addition": (5, "="),
    "capitals": (4, "的首都是"),
    "opposites": (4, "=>"),
    "sentiment": (4, "情感："),
    "subject": (4, " "),
    "translation": (4, " "),
    "triple": (6, "->"),
}
PATHS = sorted((configs() / "prompts").glob("*.txt"))


def test_every_prompt_that_comes_with_gentool_is_counted():
    assert [path.stem for path in PATHS] == sorted(SHIPPED)


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_prompts_that_come_with_gentool(path):
    prompt = path.read_bytes().decode()
    parsed = parse_few_shot(prompt)
    assert parsed is not None and not prompt.endswith("\n") and not placeholders(prompt)
    assert (len(parsed.examples), parsed.cue) == SHIPPED[path.stem]
    assert (parsed.header, parsed.stop) == ("", "\n")
