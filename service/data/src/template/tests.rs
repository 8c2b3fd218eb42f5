//! Rendering against transformers' own (tests/fixtures), and the corners of Python that templates lean on.

use serde_json::json;

use super::*;

fn template(source: &str) -> ChatTemplate {
    let tokens = [("bos_token".to_string(), json!("<s>")), ("eos_token".to_string(), json!("</s>"))];
    let now = DateTime::parse_from_rfc3339("2026-11-04T09:05:00+00:00").unwrap();
    ChatTemplate::with_clock(source, &BTreeMap::from(tokens), now).unwrap()
}

fn messages() -> Vec<Json> {
    vec![json!({"role": "user", "content": "hi"}), json!({"role": "assistant", "content": "yo"})]
}

fn render(source: &str) -> String {
    template(source).render(&messages(), &ChatContext::default(), false).unwrap().text
}

#[test]
fn python_shines_through() {
    let check = |source: &str, expected: &str| assert_eq!(render(source), expected, "{source}");
    check("{{ bos_token }}{{ messages[0].content }}{{ missing }}{{ eos_token }}", "<s>hi</s>");
    check("{{ tools is none }} {{ true }} {{ none }} {{ 1.0 }} {{ 1e-7 }} {{ 3 // 2 }}", "True True None 1.0 1e-07 1");
    check("{{ [1, 'a', \"it's\", none, {'k': true}] }}", "[1, 'a', \"it's\", None, {'k': True}]");
    check("{{ {'a': [1, 2.5], 'é': \"\\\"'<>&\"} | tojson }}", "{\"a\": [1, 2.5], \"é\": \"\\\"'<>&\"}");
    check("{{ {'b': [], 'a': [1]} | tojson(indent=2) }}", "{\n  \"b\": [],\n  \"a\": [\n    1\n  ]\n}");
    check("{{ {'b': 1, 'a': 2} | tojson(separators=(',', ':'), sort_keys=true) }}", "{\"a\":2,\"b\":1}");
    check("{{ '  a b '.strip().split(' ')[-1] }}|{{ 'xa'.lstrip('x') }}|{{ 'a'.upper() }}", "b|a|A");
    check("{{ strftime_now('%d %b %Y') }}", "04 Nov 2026");
    check("{% for m in messages %}{% if loop.last %}{% break %}{% endif %}{{ m.role }}{% endfor %}", "user");
    check("{{ messages[::-1][0]['content'] }}{% set ns = namespace(a=1) %}{% set ns.a = 2 %}{{ ns.a }}", "yo2");
    check("{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}", "role=user;content=hi;");
    check("{{ 'a' if messages[0].get('tool_calls') is none }}{{ messages[0].content is string }}", "aTrue");
    check("{{ none is iterable }}{{ 'a' is iterable }}{{ {} is sequence }}{{ 1 is iterable }}", "FalseTrueTrueFalse");
    check("{{ messages[1] }}", "{'role': 'assistant', 'content': 'yo'}");
    check("<b>{{ '<&>' }}\n", "<b><&>");
}

#[test]
fn blocks_are_trimmed_as_transformers_trims_them() {
    let check = |source: &str, expected: &str| assert_eq!(render(source), expected, "{source}");
    check("a\n  {% if true %}\n  b\n  {% endif %}\nc", "a\n  b\nc");
    check("a\n  {%+ if true %}\n b{% endif +%}\nc", "a\n   b\nc");
    check("a\n  {{- 'b' }}\n  {%- if true -%}\n   c {% endif %}", "ab\n   c ".replace("\n   ", "").as_str());
    check("{# note #}\nx", "x");
}

#[test]
fn generation_tags_record_spans_and_leave_no_trace() {
    let source = "{% for m in messages %}\n  {% if m.role == 'assistant' %}\n  {%- generation -%}  \n {{ m.content }}{{ loop.index }}{%- endgeneration %}\nE{% else %}\n{{ m.content }}\n  {% endif %}\n{% endfor %}";
    let plain = source.replace("generation", "if true").replace("endif true", "endif");
    let template = template(source);
    assert!(template.has_generation());
    let mut turns = messages();
    turns.extend(messages());
    let rendered = template.render(&turns, &ChatContext::default(), false).unwrap();
    let spans: Vec<&str> = rendered.generation.iter().map(|span| &rendered.text[span.clone()]).collect();
    assert_eq!(spans, ["yo2", "yo4"]);
    let without = self::template(&plain).render(&turns, &ChatContext::default(), false).unwrap();
    assert_eq!(rendered.text, without.text);
    assert!(without.generation.is_empty());
}

#[test]
fn a_generation_span_keeps_its_assignments_but_reaches_namespaces() {
    let source = "{% set ns = namespace(n=0) %}{% set x = 1 %}{% for m in messages %}{% generation %}{% set ns.n = ns.n + 1 %}{% set x = 9 %}{{ x }}{% endgeneration %}{{ x }}{% endfor %}{{ ns.n }}";
    assert_eq!(render(source), "91912");
}

#[test]
fn reasoning_is_found_under_any_of_its_names() {
    for name in REASONING {
        let turns = [json!({"role": "assistant", "content": "c", name: "why"})];
        let template = template("{{ messages[0].reasoning_content }} {{ messages[0].thinking }}");
        assert_eq!(template.render(&turns, &ChatContext::default(), false).unwrap().text, "why why");
    }
}

#[test]
fn marks_in_a_conversation_are_refused() {
    let turns = [json!({"role": "user", "content": "a\u{FDD0}b\u{FDD1}"})];
    let error = template("{{ messages[0].content }}").render(&turns, &ChatContext::default(), false).unwrap_err();
    assert!(matches!(error, Error::Noncharacter));
}

#[test]
fn refusals_and_failures_say_why() {
    let check = |source: &str, expected: &str| {
        let error = template(source).render(&messages(), &ChatContext::default(), false).unwrap_err().to_string();
        assert!(error.contains(expected), "{error:?} should say {expected:?}");
    };
    check("{{ raise_exception('Roles must alternate') }}", "refuses this conversation: Roles must alternate");
    check("{% macro f() %}{{ raise_exception('deep') }}{% endmacro %}{{ f() }}", "refuses this conversation: deep");
    check("\n{{ missing.attribute }}", "line 2");
    check("{{ strftime_now('%Q') }}", "bad format");
    check("{% for a in range(9999) %}{% for b in range(9999) %}{{ b }}{% endfor %}{% endfor %}", "fuel");
    let error = ChatTemplate::new("{% if %}", &BTreeMap::new()).unwrap_err();
    assert!(matches!(error, Error::Syntax(_)), "{error}");
}

#[test]
fn a_value_that_holds_itself_twice_and_twice_again_is_not_printed() {
    let doubled = "{% set x = [1] %}".to_string() + &"{% set x = [x, x] %}".repeat(60);
    let again = "{% set x = range(99999) | list %}{% for i in range(99999) %}{% set y = x | string %}{% endfor %}";
    for source in
        [doubled.clone() + "{{ x }}", doubled.clone() + "{{ x | tojson }}", doubled + "{{ x | string }}", again.into()]
    {
        let error = template(&source).render(&messages(), &ChatContext::default(), false).unwrap_err().to_string();
        assert!(error.contains("prints values of more than 16777216 bytes"), "{error}");
    }
}

#[test]
fn padding_counts_as_what_is_printed() {
    let fits = template("{{ '{:>5}|{:.2f}'.format(7, 1.5) }}").render(&messages(), &ChatContext::default(), false);
    assert_eq!(fits.unwrap().text, "    7|1.50");
    let kept = "{% set ns = namespace(x=[]) %}{% for i in range(9999) %}{% set ns.x = ns.x + ['{:9999}'.format(i)] %}{% endfor %}";
    for source in ["{{ '{:>1000000000}'.format(1) }}", "{{ '{:.99999999999999999999}'.format(0.1) }}", kept] {
        let error = template(source).render(&messages(), &ChatContext::default(), false).unwrap_err().to_string();
        assert!(error.contains("prints values of more than"), "{error}");
    }
}

#[test]
fn lists_put_into_lists_for_as_long_as_may_be_do_not_exhaust_the_stack() {
    let source = "{% set ns = namespace(x=[]) %}{% for j in range(999) %}{% for i in range(99999) %}{% set ns.x = [ns.x] %}{% endfor %}{% endfor %}";
    let render = || template(source).render(&messages(), &ChatContext::default(), false).unwrap_err().to_string();
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(render).unwrap();
    assert!(thread.join().unwrap().contains("fuel"));
}

#[test]
fn a_template_as_long_as_a_book_is_refused() {
    let error = ChatTemplate::new(&" ".repeat(MAX_TEMPLATE_BYTES + 1), &BTreeMap::new()).unwrap_err().to_string();
    assert!(error.contains("has 262145 bytes; at most 262144 are allowed"), "{error}");
}

#[test]
fn floats_print_as_in_python() {
    for (float, expected) in [
        (1.0, "1.0"),
        (0.1, "0.1"),
        (1e16, "1e+16"),
        (123456789012345.0, "123456789012345.0"),
        (1.5e-5, "1.5e-05"),
        (0.0001, "0.0001"),
        (-0.0, "-0.0"),
        (f64::INFINITY, "inf"),
    ] {
        assert_eq!(python::float_repr(float), expected);
    }
}

#[test]
fn variables_and_tools_reach_the_template() {
    let context = ChatContext {
        tools: Some(json!([{"name": "f"}])),
        variables: serde_json::from_value(json!({"enable_thinking": false})).unwrap(),
    };
    let template = template("{{ tools[0].name }}{{ enable_thinking }}{{ add_generation_prompt }}");
    assert_eq!(template.render(&messages(), &context, true).unwrap().text, "fFalseTrue");
}

#[test]
fn an_opening_that_is_half_a_closing_is_an_error_of_the_template() {
    for source in ["{%}", "a {%} b {% generation %}c{% endgeneration %}", "{% if x %}{%}{% endif %}"] {
        let Err(error) = ChatTemplate::new(source, &BTreeMap::new()) else { panic!("{source}") };
        assert!(matches!(error, Error::Syntax(_)), "{source}: {error}");
    }
}
