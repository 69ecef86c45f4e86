"""Chat templates: where they are found, and that they render as in transformers (4.57.1)."""

from __future__ import annotations

import json
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from test_architecture import brings_in

from gentool.errors import ModelError, UsageError
from gentool.tokenizers import chat
from gentool.tokenizers.chat.named import NAMED

GOLDEN = Path(__file__).parents[1] / "golden" / "chat_templates"
SHARED = Path(__file__).parents[3] / "shared" / "golden" / "chat_templates" / "a"
HELLO = [{"role": "user", "content": "你好"}]


def cases() -> list[Any]:
    """The committed renderings, and all of them where the shared folder is there."""
    made = []
    for folder in (GOLDEN, SHARED):
        if (folder / "golden.json").is_file():
            golden = json.loads((folder / "golden.json").read_text("utf-8"))
            for number, case in enumerate(golden["cases"]):
                template = golden["templates"][case["template"]]
                text = (folder / "templates" / f"{case['template']}.jinja").read_bytes().decode()
                name = f"{'shared' if folder is SHARED else 'own'}-{number}-{case['template']}"
                made.append(pytest.param(text, template, case, id=name))
    return made


def rendered(template: str, messages: list[dict[str, Any]] = HELLO, **more: Any) -> str:
    more = {"add_generation_prompt": False, "special": {}, **more}
    return chat.render(template, messages, **more)


@pytest.mark.parametrize(("text", "template", "case"), cases())
def test_renders_as_transformers(text: str, template: Any, case: Any) -> None:
    names = ("bos_token", "eos_token")
    more = {key: case[key] for key in ("tools", "continue_final_message") if key in case}
    more |= case.get("kwargs", {})
    more |= {"special": {name: template[name] for name in names if template[name]}}
    more |= {"add_generation_prompt": case["add_generation_prompt"]}
    if "error" not in case:
        assert rendered(text, case["messages"], **more) == case["rendered"]
        return
    with pytest.raises(UsageError) as failure:
        rendered(text, case["messages"], **more)
    assert case["error"] in failure.value.message


@pytest.mark.parametrize("name", ["chatml", "mistral"])
def test_a_named_template_renders_as_the_published_one(name: str) -> None:
    golden = json.loads((GOLDEN / "golden.json").read_text("utf-8"))
    special = golden["templates"][name]
    own = [case for case in golden["cases"] if case["template"] == name and "rendered" in case]
    assert own
    for case in own:
        more = {key: case[key] for key in ("continue_final_message",) if key in case}
        made = rendered(
            NAMED[name],
            case["messages"],
            add_generation_prompt=case["add_generation_prompt"],
            special={key: special[key] or "" for key in ("bos_token", "eos_token")},
            **more,
        )
        assert made == case["rendered"]


TURNS = [
    {"role": "system", "content": "短些"},
    {"role": "user", "content": " 你好 "},
    {"role": "assistant", "content": "好"},
    {"role": "user", "content": "再见"},
]


@pytest.mark.parametrize(
    ("name", "messages", "expected"),
    [
        (
            "llama2",
            TURNS,
            "<s>[INST] <<SYS>>\n短些\n<</SYS>>\n\n你好 [/INST] 好 </s><s>[INST] 再见 [/INST]",
        ),
        (
            "llama3",
            TURNS[:2],
            "<s><|start_header_id|>system<|end_header_id|>\n\n短些<|eot_id|>"
            "<|start_header_id|>user<|end_header_id|>\n\n你好<|eot_id|>"
            "<|start_header_id|>assistant<|end_header_id|>\n\n",
        ),
        (
            "gemma",
            TURNS[1:],
            "<s><start_of_turn>user\n你好<end_of_turn>\n<start_of_turn>model\n好<end_of_turn>\n"
            "<start_of_turn>user\n再见<end_of_turn>\n<start_of_turn>model\n",
        ),
    ],
)
def test_named_templates(name: str, messages: list[dict[str, Any]], expected: str) -> None:
    special = {"bos_token": "<s>", "eos_token": "</s>"}
    assert rendered(NAMED[name], messages, add_generation_prompt=True, special=special) == expected


@pytest.mark.parametrize("name", ["gemma", "mistral", "llama2"])
def test_named_templates_refuse_what_their_models_do_not_know(name: str) -> None:
    messages = [*HELLO, {"role": "tool", "content": "1"}]
    with pytest.raises(UsageError, match="no place for the role tool"):
        rendered(NAMED[name], messages, special={"bos_token": "", "eos_token": ""})


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("{% generation %}{{ messages[0].content }}{% endgeneration %}", "你好"),
        ("{% for i in range(9) %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", "01"),
        ("  {% if true %}\nx\n  {% endif %}\ny", "x\ny"),
        ("{{ {'a': '<é&>', 'b': [1, none]} | tojson }}", '{"a": "<é&>", "b": [1, null]}'),
        ("{{ {'a': 1} | tojson(indent=2) }}", '{\n  "a": 1\n}'),
        ("{{ bos_token }}|{{ unknown }}", "|"),
        ("{{ 'a' ~ 1 ~ none }}{{ [1, 'x'] }}{{ true }}", "a1None[1, 'x']True"),
        (
            "{{ '%s-%03d' % ('a', 7) }}{{ '{}{x}'.format(1, x=2) }}{{ '%s' | format(3) }}",
            "a-007123",
        ),
        ("{{ 'a\n\nb' | indent(2) }}|{{ 'a\nb' | indent(2, first=true) }}", "a\n\n  b|  a\n  b"),
        ("{{ ['a', 'b'] | join(', ') }}{{ messages | map(attribute='role') | join }}", "a, buser"),
        ("{{ strftime_now('%Y') }}", f"{datetime.now():%Y}"),
        ("{{ messages | selectattr('role', 'equalto', 'user') | list | length }}", "1"),
        ("{{ x.y if x is defined else tools is none }}", "True"),
        (
            "{% set n = namespace(a=1) %}{% for m in [1] %}{% set n.a = 2 %}{% endfor %}{{ n.a }}",
            "2",
        ),
    ],
)
def test_the_environment_of_transformers(template: str, expected: str) -> None:
    assert rendered(template) == expected


def test_variables() -> None:
    tools = [{"type": "function", "function": {"name": "天气"}}]
    template = "{{ bos_token }}{{ tools | tojson }}{{ thinking }}{{ add_generation_prompt }}"
    made = rendered(template, tools=tools, special={"bos_token": "<s>"}, thinking=False)
    assert made == f"<s>{json.dumps(tools, ensure_ascii=False)}FalseFalse"


@pytest.mark.parametrize(
    ("template", "content", "expected"),
    [
        ("{{ messages[0].content }}!", "好 ", "好 "),  # with its white space
        ("{{ messages[0].content | trim }}!", " 好 ", "好"),  # the template took it away
        ("好{{ messages[0].content }}!", "好", "好好"),  # the last place is its own
    ],
)
def test_continue_final_message(template: str, content: str, expected: str) -> None:
    message = {"role": "assistant", "content": content}
    assert rendered(template, [message], continue_final_message=True) == expected


def test_what_cannot_be_continued() -> None:
    with pytest.raises(UsageError, match="does not keep the text"):
        rendered(
            "{{ messages[0].content | upper }}",
            [{"role": "user", "content": "a"}],
            continue_final_message=True,
        )
    with pytest.raises(UsageError, match="both set"):
        rendered("x", continue_final_message=True, add_generation_prompt=True)
    with pytest.raises(UsageError, match="no messages"):
        rendered("x", [])


@pytest.mark.parametrize("template", ["{% if %}", "{{ x | nofilter }}", "{% for x in y %}"])
def test_a_wrong_template_is_the_models_fault(template: str) -> None:
    with pytest.raises(ModelError, match="template is wrong: line 1"):
        rendered(template)


def test_files_in_the_order_of_transformers(tmp_path: Path) -> None:
    def write(name: str, content: object) -> None:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        text = content if isinstance(content, str) else json.dumps(content)
        path.write_bytes(text.encode())

    def default(tools: bool = False) -> str | None:
        template = chat.chosen(chat.folder_templates(tmp_path), tools)
        return template and template.text

    assert default() is None
    write("chat_template.json", {"chat_template": "of processors"})
    assert default() == "of processors"
    write("tokenizer_config.json", {"chat_template": "configured\r\n"})
    assert default() == "configured\r\n"
    named = [{"name": "default", "template": "a"}, {"name": "tool_use", "template": "b"}]
    write("tokenizer_config.json", {"chat_template": named})
    assert default() == "a"
    assert default(tools=True) == "b"
    write("chat_template.jinja", "of a file\r\n")
    assert default(tools=True) == "of a file\r\n"  # byte for byte, and alone
    write("additional_chat_templates/tool_use.jinja", "another file")
    assert (default(), default(tools=True)) == ("of a file\r\n", "another file")


@pytest.mark.parametrize("wrong", [1, [{"name": "default"}], ["x"], {"default": "x"}])
def test_wrong_types_name_file_and_key(tmp_path: Path, wrong: object) -> None:
    path = tmp_path / "tokenizer_config.json"
    path.write_text(json.dumps({"chat_template": wrong}))
    with pytest.raises(ModelError) as failure:
        chat.folder_templates(tmp_path)
    assert f"{path}: chat_template" in failure.value.message


def test_a_name_that_no_file_can_have(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="does not exist"):
        chat.template_named("x" * 3000, tmp_path)


def test_a_template_by_name_or_file(tmp_path: Path) -> None:
    (tmp_path / "mine.jinja").write_bytes("我\r\n".encode())
    (tmp_path / "tokenizer_config.json").write_text('{"chat_template": "x"}')
    assert chat.template_named("chatml", tmp_path).text == NAMED["chatml"]
    assert chat.template_named("mine.jinja", tmp_path).text == "我\r\n"
    assert chat.template_named("tokenizer_config.json", tmp_path).text == "x"
    with pytest.raises(UsageError) as failure:
        chat.template_named("chatmal", tmp_path)
    assert failure.value.hint == "did you mean chatml?"
    (tmp_path / "mine.jinja").write_bytes(b"\xff")
    with pytest.raises(ModelError, match="not UTF-8"):
        chat.template_named("mine.jinja", tmp_path)
    (tmp_path / "mine.jinja").write_text("x" * (chat.MAX_CHARACTERS + 1))
    with pytest.raises(ModelError, match="more than"):
        chat.template_named("mine.jinja", tmp_path)


def test_special_tokens_by_name(tmp_path: Path) -> None:
    config = {"bos_token": {"content": "<s>"}, "eos_token": "</s>", "unk_token": None}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert chat.special_texts(tmp_path) == {"bos_token": "<s>", "eos_token": "</s>"}
    (tmp_path / "special_tokens_map.json").write_text('{"eos_token": "<e>", "pad_token": "<p>"}')
    assert chat.special_texts(tmp_path)["eos_token"] == "<e>"  # an old folder's map comes first
    config |= {"added_tokens_decoder": {}}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    assert chat.special_texts(tmp_path)["eos_token"] == "</s>"


def test_jinja2_is_imported_only_to_render() -> None:
    assert "jinja2" not in brings_in("gentool.generation.session")
    assert "jinja2" not in brings_in("gentool.cli.complete")


def test_without_jinja2_an_error_says_what_to_install() -> None:
    code = (
        "import sys; sys.modules['jinja2'] = None\n"
        "from gentool.tokenizers.chat import render\n"
        "try: render('x', [{}], add_generation_prompt=True, special={})\n"
        "except Exception as e: print(e.message, '|', e.hint)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("chat templates need jinja2")
    assert "gentool[chat]" in done.stdout
