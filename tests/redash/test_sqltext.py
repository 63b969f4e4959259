"""The guard: same SQL is recognised however Redash spells it, other SQL is not, though Redash hashes both alike."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.model import Parameter
from gateway.redash.sqltext import collision_text, matches, same_text, squeezed
from gateway.redash.template import MOST_TAGS

STATUSES = Parameter(name="statuses", type="enum", multiValuesOptions={"prefix": "'", "suffix": "'", "separator": ","})

# Templates, values and SQL of recorded results (query_create_* and the answers of execute/ and adhoc/).
RECORDED = [
    ("select '{{ code }}' as code", {"code": "AB1"}, "select 'AB1' as code"),
    (
        "select id, amount from orders where amount > {{ min_amount }} order by amount, id limit 5",
        {"min_amount": "9990"},
        "select id, amount from orders where amount > 9990 order by amount, id limit 5",
    ),
    (
        "select count(*) n from orders o join customers c on c.id=o.customer_id where o.amount > {{ min_amount }} and"
        " o.status='{{ status }}' and o.ordered_on between '{{ period.start }}' and '{{ period.end }}' and"
        " c.country='{{ country }}'",
        {"country": "DE", "min_amount": 10, "period": {"end": "2024-12-31", "start": "2024-01-01"}, "status": "paid"},
        "select count(*) n from orders o join customers c on c.id=o.customer_id where o.amount > 10 and"
        " o.status='paid' and o.ordered_on between '2024-01-01' and '2024-12-31' and c.country='DE'",
    ),
    (
        "select status, count(*) n from orders where status in ({{ statuses }}) group by 1 order by 1",
        {"statuses": ["paid", "new"]},
        "select status, count(*) n from orders where status in ('paid','new') group by 1 order by 1",
    ),
    ("select id from orders order by id", {}, "select id from orders order by id LIMIT 1000"),
    ("select   4711\n  as twin /* a comment */", {}, "select 4711 as twin"),
    ("select 101 as a;", {}, "select 101 as a"),
    ("select 101 as a -- note", {}, "select 101 as a"),
]

# Same hash in Redash, other rows: the left one was asked for, the right one came (CONTRACT 7).
COLLISIONS = [
    ("select 'ab' as lit", "select 'a b' as lit"),
    ("select 'a b' as lit", "select 'ab' as lit"),
    ("select 'Cust/*x*/omer' as lit", "select 'Customer' as lit"),
    ('select "my col" from t', 'select "mycol" from t'),
    ("select `my  col` from t", "select `my col` from t"),
    ("select [my  col] from t", "select [my col] from t"),
    ("select $$a b$$", "select $$ab$$"),
    ("select $x$a $$ b$x$", "select $x$a $$b$x$"),
    ("select 'it''s  a'", "select 'it''s a'"),
    (r"select 'it\'s  a'", r"select 'it\'s a'"),
    ("select '''it's  a'''", "select '''it's a'''"),
    ("select a b from t", "select ab from t"),
    ("select 'a' 'b'", "select 'a''b'"),
    ("select 1 - -1", "select 1 --1"),
    ("select 1 .5", "select 1.5"),
    ("select a -- x\n, b from t", "select a -- x , b\n from t"),
    ("select a #x\n, b from t", "select a #x , b\n from t"),
    ("select a //x\n, b from t", "select a //x , b\n from t"),
    ("select j #> '{a b}' from t", "select j #> '{ab}' from t"),
    ("select 1; select 'a b'", "select 1;\nselect 'ab'"),
    ("select /*+ index(a b) */ 1", "select /*+ index(a  b) */ 1"),
    ("ls /*.csv 'a b'", "ls /*.csv 'ab'"),
]

SAME = [
    ("select a,b from t where x=1", "select a , b\nfrom t where x = 1"),
    ("select count(*) from t", "select count( * )  from t"),
    ("select /* one */ a from t", "select /* two\n lines */ a from t"),
    ("select a from t -- note\n;\n", "select a from t"),
    ("select 1; -- first\n select 2 # last", "select 1;\nselect 2"),
    ("select 1;; select 2;", "select 1;\nselect 2"),
    ("select 1; select a from t", "select 1;\nselect a from t LIMIT 1000"),
    ("select a from t -- why\n", "select a from t FETCH NEXT 1000 ROWS ONLY"),
    ("select a\nfrom t", "select TOP 1000 a from t"),
    ("select x::text", "select x :: text"),
    (r"select 'C:\' -- path", r"select 'C:\'"),
    (r"select 'it\'s';  select 2", "select 'it\\'s';\nselect 2"),
    ("select * from #tmp\n; select 2", "select * from #tmp;\nselect 2"),
]


@pytest.mark.parametrize(("template", "values", "returned"), RECORDED)
def test_recorded_answers_match_their_templates(template: str, values: dict[str, object], returned: str) -> None:
    assert matches(template, (STATUSES,), values, returned)


@pytest.mark.parametrize(("asked", "came"), COLLISIONS)
def test_sql_with_the_same_hash_and_another_meaning_does_not_match(asked: str, came: str) -> None:
    assert squeezed(asked).rstrip(";") == squeezed(came).rstrip(";") or ";" in asked
    assert not same_text(asked, came)
    assert same_text(asked, asked)


@pytest.mark.parametrize(("asked", "came"), SAME)
def test_another_spelling_of_the_same_sql_matches(asked: str, came: str) -> None:
    assert same_text(asked, came)


def test_text_parameter_with_a_blank_is_told_from_the_one_without() -> None:
    # adhoc/saved_text_space_2: "Customer12" got the rows of "Customer 12".
    template = "select id, name from customers where name like '%{{ needle }}%' order by id limit 5"
    returned = "select id, name from customers where name like '%Customer 12%' order by id limit 5"
    assert matches(template, (), {"needle": "Customer 12"}, returned)
    assert not matches(template, (), {"needle": "Customer12"}, returned)
    assert not matches(template, (), {"needle": "Cust/*x*/omer 12"}, returned)


def test_values_count_to_the_character_outside_quotes_too() -> None:
    assert not matches("select {{ x }} from t", (), {"x": "a,b"}, "select a, b from t")
    assert not matches("select {{ x }} from t", (), {"x": "a  +  b"}, "select a + b from t")
    assert matches("select  {{ x }}\nfrom t", (), {"x": "a  +  b"}, "select a  +  b from t")
    assert not matches("select a > {{ x }} from t", (), {"x": " 1 "}, "select a > 1 from t")


def test_values_are_pasted_as_python_writes_them() -> None:
    # CONTRACT 6: 9990 and "9990" are the same SQL, 9990.0 is another; pystache takes str() of what is no text.
    assert matches("select {{x}}", (), {"x": 9990}, "select 9990")
    assert not matches("select {{x}}", (), {"x": 9990.0}, "select 9990")
    assert matches("select {{x}}, {{y}}", (), {"x": True, "y": 1e16}, "select True, 1e+16")


def test_lists_without_a_definition_are_joined_with_a_comma() -> None:
    assert same_text("select {{ x }}", "select 1,2", {"x": ["1", "2"]})


def test_unused_parameters_do_not_matter() -> None:
    assert matches("select 1", (), {"unused": "New York"}, "select 1")
    assert matches("select {{#a}}1{{/a}}", (), {"a": "y", "unused": "New York"}, "select 1")


@pytest.mark.parametrize("template", ["{{#a}}'{{a}}'{{/a}}", "'{{{a}}}'", "'{{&a}}'", "{{!note}}'{{a}}'", "'{{> a}}'"])
def test_templates_beyond_plain_tags_need_their_values_in_the_text(template: str) -> None:
    values = {"a": "New York", "period": {"start": "x y"}}
    assert matches(template, (), values, "select 'New York'")
    assert not matches("{{a}}" + template, (), values, "select 'NewYork'")
    assert matches(template, (), values, "select 1"), "a section that was not shown"


def test_open_tags_are_text() -> None:
    assert same_text("select '{{' as a -- x", "select '{{' as a")


@given(st.lists(st.sampled_from(["{{", "}}", "'", '"', "$a$", "--", "/*", "*/", "\n", "a", " ", ";", "[", "#", "\\"])))
def test_any_text_matches_itself(pieces: list[str]) -> None:
    text = "".join(pieces)
    assert same_text(text, text, {"a": " v "}) or "{{" in text


# A small language of SQL for the properties: pieces that may be respaced, and pieces that may not.
WORDS = st.sampled_from(["select", "a", "from", "t1", "limit 5", "42", "where x = y"])
# Without runs of quotes: ''' begins a literal of its own in BigQuery, so that doubt would make them differ.
LITERAL_BODY = st.text("ab' \n-;/*#", max_size=8).map(lambda body: "a" + body.replace("''", "'b'") + "b")
PLAIN = st.text("abc", min_size=1, max_size=4)
VALUES = (
    st.text("ab, +\n", min_size=1, max_size=6).filter(lambda text: text == text.strip()) | st.integers() | st.floats()
)
GAPS = st.sampled_from([" ", "\n", "  ", "\t", " /* note */ ", "\n/* two\nlines */\n"])


@st.composite
def _queries(draw: st.DrawFn) -> tuple[str, dict[str, object], list[str]]:
    """A template, its values, and the pieces of the rendered text; between pieces there is white space."""
    kinds = draw(st.lists(st.sampled_from(["word", "literal", "value", "quoted value"]), min_size=1, max_size=6))
    template, values, rendered = [], {}, []
    for number, kind in enumerate(kinds):
        if kind == "word":
            piece = draw(WORDS)
            template.append(piece)
            rendered.append(piece)
        elif kind == "literal":
            piece = "'" + draw(LITERAL_BODY).replace("''", "'").replace("'", "''") + "'"
            template.append(piece)
            rendered.append(piece)
        else:
            values[f"p{number}"] = value = draw(PLAIN if kind == "quoted value" else VALUES)
            quote = "'" if kind == "quoted value" else ""
            template.append(f"{quote}{{{{ p{number} }}}}{quote}")
            rendered.append(f"{quote}{value}{quote}")
    return draw(GAPS).join(template), values, rendered


@given(_queries(), st.data())
def test_respaced_outside_literals_and_values_it_still_matches(
    query: tuple[str, dict[str, object], list[str]], data: st.DataObject
) -> None:
    template, values, rendered = query
    spaced = "".join(piece + data.draw(GAPS) for piece in rendered).strip()
    assert matches(template, (), values, spaced + data.draw(st.sampled_from(["", ";", " LIMIT 1000", " -- end"])))


@given(_queries(), st.data())
def test_white_space_changed_in_a_literal_or_a_value_never_matches(
    query: tuple[str, dict[str, object], list[str]], data: st.DataObject
) -> None:
    template, values, rendered = query
    exact = [i for i, piece in enumerate(rendered) if piece.startswith("'") or f"{{{{ p{i} }}}}" in template]
    index = data.draw(st.sampled_from(exact)) if exact else 0
    piece = rendered[index]
    if not exact or len(piece) < 2:
        return
    at = data.draw(st.integers(1, len(piece) - 1))
    changed = piece[:at] + data.draw(st.sampled_from([" ", "\n", "/**/"])) + piece[at:]
    assert not matches(template, (), values, " ".join([*rendered[:index], changed, *rendered[index + 1 :]]))


def test_collision_text_is_what_redash_hashes() -> None:
    # `query_hash` of recorded results: md5 over it (CONTRACT 7).
    for text, query_hash in [
        ("select   4711\n  as twin /* a comment */", "44b527ab950efdc114327b8dd2c95103"),
        ("select 101 as a -- note", "5b131ef8a59d68c208489e6de348a8cd"),
        ("select 101 as a;", "5b131ef8a59d68c208489e6de348a8cd"),
        ("select 'ab' as lit", "732225869116a5b6447fd3dde40f0b41"),
    ]:
        assert hashlib.md5(collision_text(text)).hexdigest() == query_hash


def test_colliding_requests_share_their_collision_text() -> None:
    template = "select '{{x}}'"
    assert collision_text(template, (), {"x": "New York"}) == collision_text(template, (), {"x": "NewYork"})
    assert collision_text("select 'a b' -- x\n;") == collision_text("select 'ab' LIMIT 1000")
    assert collision_text(template, (), {"x": "a"}) != collision_text(template, (), {"x": "b"})
    section = "{{#x}}'{{x}}'{{/x}}"
    assert collision_text(section, (), {"x": "a b"}) == collision_text(section, (), {"x": "ab"})


@pytest.mark.parametrize("piece", ["'", "/*", "$a$ ", "{{", "{{ x }}", "\\' ", "'''", "--\n", "[", "; "])
def test_long_texts_of_any_kind_are_compared_in_linear_time(piece: str) -> None:
    # Twice the text in more than about twice the time would take minutes here, and the test's time limit tells.
    text = piece * (MOST_TAGS if "}}" in piece else 100_000 // len(piece))
    assert not same_text(text, text + " z", {"x": "a b"})
