"""How synthetic documents word their examples: literal tables of patterns with weights. Those held
out of training stand in held_out.py."""

from __future__ import annotations

Weighted = dict[str, int]

SEPARATORS: Weighted = {"\n": 62, "，": 14, "；": 10, " / ": 6, "。": 8}

ADDITION_FORMATS: Weighted = {
    "{a}+{b}={c}": 20,
    "{a} + {b} = {c}": 5,
    "{a}+{b} = {c}": 2,
    "{a}+{b}= {c}": 2,
    "{a}+{b}=>{c}": 3,
    "{a}+{b}→{c}": 2,
    "{a}+{b}：{c}": 1,
    "{a}加{b}等于{c}": 6,
    "{a}加{b}得{c}": 2,
    "{a} 加 {b} 等于 {c}": 1,
    "{a}加上{b}是{c}": 2,
    "{a}+{b}等于{c}": 3,
    "{a}+{b}的结果是{c}": 2,
    "{a}和{b}的和是{c}": 2,
    "问：{a}+{b}=？\n答：{c}": 4,
    "问：{a}加{b}等于几？\n答：{c}": 3,
    "问题：{a}+{b}=？答案：{c}": 2,
    "计算：{a}+{b} 答案：{c}": 2,
    "计算：{a}+{b}={c}": 2,
    "题目：{a}+{b}\n答案：{c}": 2,
    "输入：{a}+{b}\n输出：{c}": 2,
    "Q: {a}+{b}=?\nA: {c}": 1,
}
# The same with the numbers written in Chinese.
CHINESE_ADDITION_FORMATS: Weighted = {
    "{a}加{b}等于{c}": 8,
    "{a}加{b}得{c}": 2,
    "{a}加上{b}是{c}": 2,
    "{a}加{b}={c}": 1,
    "{a}+{b}={c}": 3,
    "{a}和{b}的和是{c}": 2,
    "问：{a}加{b}等于几？\n答：{c}": 3,
}

# The country stands first in these, so that a prompt can end where the capital is due.
CAPITAL_FORMATS: Weighted = {
    "{country}=>{capital}": 6,
    "{country}->{capital}": 4,
    "{country}→{capital}": 4,
    "{country}：{capital}": 6,
    "{country}:{capital}": 2,
    "{country} {capital}": 4,
    "{country}-{capital}": 2,
    "{country}={capital}": 2,
    "{country}（{capital}）": 2,
    "{country}的首都是{capital}": 10,
    "{country}的首都：{capital}": 3,
    "{country}首都{capital}": 3,
    "{country}首都：{capital}": 2,
    "国家：{country}\n首都：{capital}": 4,
    "国家：{country} 首都：{capital}": 2,
    "问：{country}的首都是哪里？\n答：{capital}": 5,
    "问：{country}的首都是哪座城市？\n答：{country}的首都是{capital}。": 3,
    "问题：{country}的首都在哪里？答案：{capital}": 2,
    "输入：{country}\n输出：{capital}": 2,
}
REVERSE_CAPITAL_FORMATS: Weighted = {
    "{capital}=>{country}": 2,
    "{capital}→{country}": 2,
    "{capital}：{country}": 2,
    "{capital}是{country}的首都": 4,
    "首都：{capital}\n国家：{country}": 2,
    "问：{capital}是哪个国家的首都？\n答：{country}": 3,
}
CAPITAL_SENTENCES: Weighted = {
    "{country}的首都是{capital}。": 6,
    "{capital}是{country}的首都。": 4,
    "{country}的首都在{capital}。": 1,
    "{country}首都是{capital}。": 1,
    "{country}这个国家的首都是{capital}。": 1,
    "{capital}，{country}的首都。": 1,
    "{country}把首都设在{capital}。": 1,
}

OPPOSITE_FORMATS: Weighted = {
    "{x}→{y}": 3,
    "{x}=>{y}": 3,
    "{x}->{y}": 3,
    "{x}：{y}": 3,
    "{x}-{y}": 2,
    "{x} {y}": 2,
    "{x}的反义词是{y}": 5,
    "“{x}”的反义词是“{y}”": 3,
    "{x}的反面是{y}": 1,
    "反义词：{x}-{y}": 2,
    "{x}和{y}是一对反义词": 1,
    "词语：{x}\n反义词：{y}": 2,
    "问：{x}的反义词是什么？\n答：{y}": 3,
    "输入：{x}\n输出：{y}": 1,
}
MEASURE_FORMATS: Weighted = {
    "{x}：一{y}{x}": 4,
    "{x}→一{y}{x}": 3,
    "{x}=>一{y}{x}": 3,
    "一（{y}）{x}": 3,
    "一{y}{x}": 4,
    "两{y}{x}": 2,
    "{x}=>{y}": 2,
    "一（ ）{x}：{y}": 4,
    "一（ ）{x}=>{y}": 4,
    "一（ ）{x}→{y}": 3,
    "一（ ）{x} {y}": 2,
    "一（　）{x}：{y}": 1,
    "一(){x}=>{y}": 1,
    "问：一（ ）{x}\n答：{y}": 2,
    "填空：一（ ）{x}\n答案：{y}": 2,
    "{x}的量词是{y}": 3,
    "{x}的量词是“{y}”": 2,
    "问：{x}用什么量词？\n答：一{y}{x}": 3,
    "名词：{x}\n量词：{y}": 2,
}
TRANSLATION_FORMATS: Weighted = {
    "{x} {y}": 3,
    "{x}=>{y}": 3,
    "{x}->{y}": 2,
    "{x}：{y}": 3,
    "{x} = {y}": 2,
    "{x}的英语是{y}": 3,
    "{x}用英语说是{y}": 2,
    "中文：{x}\n英文：{y}": 3,
    "问：{x}用英语怎么说？\n答：{y}": 3,
    "把“{x}”翻译成英文：{y}": 2,
    "{y} {x}": 3,
    "{y}=>{x}": 3,
    "{y}->{x}": 2,
    "{y}：{x}": 3,
    "{y} = {x}": 1,
    "{y}的意思是{x}": 3,
    "{y}的中文是{x}": 2,
    "英文：{y}\n中文：{x}": 3,
    "问：{y}是什么意思？\n答：{x}": 2,
    "把“{y}”翻译成中文：{x}": 2,
}
SENTIMENT_FORMATS: Weighted = {
    "{x}=>{y}": 4,
    "{x}->{y}": 2,
    "{x}→{y}": 2,
    "{x}：{y}": 2,
    "{x}（{y}）": 1,
    "{x} {y}": 1,
    "句子：{x}\n情感：{y}": 3,
    "评论：{x}\n分类：{y}": 3,
    "评论：{x}\n情感：{y}": 2,
    "评价：{x}\n结果：{y}": 1,
    "“{x}”的情感是{y}": 2,
    "问：“{x}”是{p}还是{n}？\n答：{y}": 2,
    "输入：{x}\n输出：{y}": 2,
}
SENTIMENT_LABELS: tuple[tuple[str, str], ...] = (
    ("正面", "负面"),
    ("正面", "负面"),
    ("正面", "负面"),
    ("好评", "差评"),
    ("积极", "消极"),
    ("满意", "不满意"),
    ("好", "坏"),
)
MAPPING_FORMATS: Weighted = {
    "{x}→{y}": 4,
    "{x}=>{y}": 4,
    "{x}->{y}": 4,
    "{x}：{y}": 2,
    "输入：{x}\n输出：{y}": 3,
    "问：{x}\n答：{y}": 1,
}
# Wordings for the copying rules, tried besides the bare mappings above.
COPY_FORMATS: Weighted = {"{x} {y}": 6, "重复：{x} {y}": 1, "跟我读：{x}\n{y}": 2}
FIRST_FORMATS: Weighted = {"{x}的第一个字是{y}": 3, "“{x}”的第一个字是“{y}”": 2}
LAST_FORMATS: Weighted = {"{x}的最后一个字是{y}": 3, "“{x}”的最后一个字是“{y}”": 2}
REVERSE_FORMATS: Weighted = {"{x}倒过来是{y}": 3, "把“{x}”倒过来写：{y}": 2}
NEXT_FORMATS: Weighted = {
    "{x}→{y}": 3,
    "{x}=>{y}": 3,
    "{x}的下一个是{y}": 3,
    "{x}：{y}": 1,
    "{x}后面是{y}": 3,
    "{x}之后是{y}": 2,
    "问：{x}的后面是什么？\n答：{y}": 2,
}
CATEGORY_FORMATS: Weighted = {
    "{x}：{y}": 4,
    "{x}=>{y}": 4,
    "{x}->{y}": 2,
    "{x}→{y}": 3,
    "{x} {y}": 2,
    "{x}属于{y}": 3,
    "{x}（{y}）": 1,
    "词语：{x}\n类别：{y}": 3,
    "问：{x}属于哪一类？\n答：{y}": 3,
    "输入：{x}\n输出：{y}": 2,
}
# Bare ways to write a question x and its answer y: dates, units, sums in words.
ANSWER_FORMATS: Weighted = {
    "{x}=>{y}": 3,
    "{x}->{y}": 2,
    "{x}→{y}": 3,
    "{x}：{y}": 2,
    "{x}={y}": 2,
    "输入：{x}\n输出：{y}": 2,
}
DATE_PATTERNS: tuple[str, ...] = (
    "{y}年{m}月{d}日",
    "{y}-{m:02}-{d:02}",
    "{y}/{m}/{d}",
    "{y}.{m}.{d}",
    "{y}/{m:02}/{d:02}",
    "{d:02}/{m:02}/{y}",
    "{m}月{d}日",
    "{m}/{d}",
)
NEXT_DAY_FORMATS: Weighted = {
    "{x}的第二天是{y}": 4,
    "{x}的后一天是{y}": 2,
    "{x}之后是{y}": 1,
    "问：{x}的第二天是几月几日？\n答：{y}": 2,
    "{x}→{y}": 1,
}
UNIT_FORMATS: Weighted = {
    "{x}={y}": 5,
    "{x}等于{y}": 3,
    "{x}是{y}": 2,
    "{x}=>{y}": 2,
    "{x} = {y}": 1,
    "问：{x}等于多少{u}？\n答：{y}": 3,
    "{x}有多少{u}？{y}": 2,
}
PROBLEM_FORMATS: Weighted = {
    "问：{x}\n答：{y}": 4,
    "{x}答：{y}": 3,
    "{x}\n答案：{y}": 3,
    "题目：{x}\n答案：{y}": 3,
    "{x}=>{y}": 1,
    "{x}{y}": 2,
    "应用题：{x}\n答：{y}": 1,
}
# A story of one step for each operation; {n} and {o} are people, {x} things with the measure {u}.
PROBLEMS: dict[str, tuple[str, ...]] = {
    "+": (
        "{n}有{a}{u}{x}，{o}又给了他{b}{u}，{n}现在有几{u}{x}？",
        "{n}有{a}{u}{x}，{o}有{b}{u}{x}，他们一共有几{u}{x}？",
        "盒子里有{a}{u}{x}，又放进{b}{u}，现在有几{u}{x}？",
        "桌上有{a}{u}{x}，地上有{b}{u}{x}，一共有几{u}？",
        "{n}上午买了{a}{u}{x}，下午又买了{b}{u}，一共买了几{u}{x}？",
        "{n}有{a}{u}{x}，{o}比{n}多{b}{u}，{o}有几{u}{x}？",
    ),
    "-": (
        "{n}有{a}{u}{x}，给了{o}{b}{u}，{n}还剩几{u}{x}？",
        "盒子里有{a}{u}{x}，拿走{b}{u}，还剩几{u}？",
        "{n}有{a}{u}{x}，丢了{b}{u}，还有几{u}{x}？",
        "商店有{a}{u}{x}，卖掉了{b}{u}，还剩几{u}{x}？",
        "{n}有{a}{u}{x}，{o}比{n}少{b}{u}，{o}有几{u}{x}？",
        "{n}要{a}{u}{x}，已经有{b}{u}，还差几{u}？",
    ),
    "×": (
        "每个盒子里有{a}{u}{x}，{b}个盒子里一共有几{u}{x}？",
        "{n}每天用{a}{u}{x}，{b}天一共用几{u}？",
        "一{u}{x}{a}元，买{b}{u}要多少元？",
        "{b}个人每人有{a}{u}{x}，一共有几{u}{x}？",
    ),
}
CALCULATION_FORMATS: Weighted = {
    "{a}{o}{b}={c}": 10,
    "{a} {o} {b} = {c}": 3,
    "{a}{o}{b}=>{c}": 1,
    "{a}{w}{b}等于{c}": 4,
    "问：{a}{o}{b}=？\n答：{c}": 2,
    "问：{a}{w}{b}等于几？\n答：{c}": 2,
    "计算：{a}{o}{b}={c}": 1,
}
