"""Chat templates that have a name, for models whose files hold none. Ours: they follow the formats
that the models were trained with, and refuse what those do not know.
"""

from __future__ import annotations

CHATML = """\
{% for message in messages %}
<|im_start|>{{ message.role }}
{{ message.content }}<|im_end|>
{% endfor %}
{% if add_generation_prompt %}
<|im_start|>assistant
{% endif %}
"""

# a system text stands inside the first question; each question begins a text of its own
LLAMA2 = """\
{% set ns = namespace(system='') %}
{% for message in messages %}
{% if message.role == 'system' and loop.first %}
{% set ns.system = '<<SYS>>\\n' + message.content.strip() + '\\n<</SYS>>\\n\\n' %}
{% elif message.role == 'user' %}
{{- bos_token }}[INST] {{ ns.system + message.content.strip() }} [/INST]{% set ns.system = '' %}
{% elif message.role == 'assistant' %}
{{- ' ' + message.content.strip() + ' ' }}{{ eos_token }}
{%- else %}
{{ raise_exception('llama2 has no place for the role ' + message.role) }}
{% endif %}
{% endfor %}
"""

LLAMA3 = """\
{{ bos_token }}
{%- for message in messages %}
{{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' }}
{{- message.content | trim }}
{{- '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

GEMMA = """\
{{ bos_token }}
{%- for message in messages %}
{% if message.role not in ('user', 'assistant') %}
{{ raise_exception('gemma has no place for the role ' + message.role) }}
{% endif %}
{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('the roles must alternate: user, assistant, user, …') }}
{% endif %}
{{- '<start_of_turn>' + ('model' if message.role == 'assistant' else 'user') + '\\n' }}
{{- message.content | trim }}
{{- '<end_of_turn>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<start_of_turn>model\\n' }}
{%- endif %}
"""

MISTRAL = """\
{{ bos_token }}
{%- for message in messages %}
{% if message.role not in ('user', 'assistant') %}
{{ raise_exception('mistral has no place for the role ' + message.role) }}
{% endif %}
{% if (message.role == 'user') != (loop.index0 % 2 == 0) %}
{{ raise_exception('the roles must alternate: user, assistant, user, …') }}
{% endif %}
{% if message.role == 'user' %}
{{- '[INST] ' + message.content + ' [/INST]' }}
{%- else %}
{{- message.content + eos_token + ' ' }}
{%- endif %}
{% endfor %}
"""

NAMED = {
    "chatml": CHATML,  # Qwen and Yi, too
    "gemma": GEMMA,
    "llama2": LLAMA2,
    "llama3": LLAMA3,
    "mistral": MISTRAL,
}

# texts that end an answer; a model's own end tokens need not be among them
ENDS_OF_TURN = ("<|im_end|>", "<|eot_id|>", "<end_of_turn>", "<|end|>", "<｜end▁of▁sentence｜>")
