"""CSV and TSV equal Redash's own, byte for byte: recorded pairs (results_get/odd_*, byid_user_*, emptyrows_*)."""

from __future__ import annotations

import json

from support.renderings import rendered

from gateway.redash.renderings import DateFormats

COLUMNS = (
    "id:integer u: n:float f:float b:boolean d:date ts:datetime tstz:datetime t: iv: uu: j: arr: by: nul:"  # name:type
)
ROWS = r"""[
{"id": 9223372036854775807, "u": "héllo ☃ 日本 \"q\" \\ back", "n": 1.2345678901234567e+19, "f": null, "b": true,
 "d": "2024-02-29", "ts": "2024-02-29T12:34:56.789", "tstz": "2024-02-29T10:34:56.789Z", "t": "12:34:56.789",
 "iv": "1 day, 2:03:04", "uu": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "j": {"k": [1, null, "é"]}, "arr": [1, 2, 3],
 "by": "deadbeef", "nul": null},
{"id": 9007199254740993, "u": "", "n": null, "f": null, "b": null, "d": null, "ts": null, "tstz": null, "t": null,
 "iv": null, "uu": null, "j": null, "arr": null, "by": null, "nul": null},
{"id": 0, "u": "x", "n": 10000000000.0, "f": 0.1, "b": true, "d": "2024-01-01", "ts": "2024-01-01T00:00:00",
 "tstz": "2024-01-01T00:00:00Z", "t": "01:02:03", "iv": "0:00:00", "uu": "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12",
 "j": 1.0, "arr": null, "by": null, "nul": ""},
{"id": -1, "u": "tab\tnl\nend", "n": 0.1, "f": null, "b": false, "d": "0044-03-15", "ts": "1999-12-31T23:59:59",
 "tstz": "1999-12-31T23:59:59Z", "t": "00:00:00", "iv": "-90 days, 0:00:00",
 "uu": "00000000-0000-0000-0000-000000000000", "j": [], "arr": [], "by": "", "nul": null}]"""

ODD = {
    "columns": [{"name": name, "type": kind or None} for name, kind in (c.split(":") for c in COLUMNS.split())],
    "rows": json.loads(ROWS),
}
ODD_CSV = (
    "id,u,n,f,b,d,ts,tstz,t,iv,uu,j,arr,by,nul\r\n"
    '9223372036854775807,"héllo ☃ 日本 ""q"" \\ back",1.2345678901234567e+19,,true,29/02/24,29/02/24 12:34,'
    '29/02/24 10:34,12:34:56.789,"1 day, 2:03:04",a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11,'
    "\"{'k': [1, None, 'é']}\",\"[1, 2, 3]\",deadbeef,\r\n"
    "9007199254740993,,,,,,,,,,,,,,\r\n"
    "0,x,10000000000.0,0.1,true,01/01/24,01/01/24 00:00,01/01/24 00:00,01:02:03,0:00:00,"
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12,1.0,,,\r\n"
    '-1,"tab\tnl\nend",0.1,,false,15/03/44,31/12/99 23:59,31/12/99 23:59,00:00:00,"-90 days, 0:00:00",'
    "00000000-0000-0000-0000-000000000000,[],[],,\r\n"
)
ODD_TSV = (
    "id\tu\tn\tf\tb\td\tts\ttstz\tt\tiv\tuu\tj\tarr\tby\tnul\r\n"
    '9223372036854775807\t"héllo ☃ 日本 ""q"" \\ back"\t1.2345678901234567e+19\t\ttrue\t29/02/24\t29/02/24 12:34\t'
    "29/02/24 10:34\t12:34:56.789\t1 day, 2:03:04\ta0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11\t"
    "{'k': [1, None, 'é']}\t[1, 2, 3]\tdeadbeef\t\r\n"
    "9007199254740993\t\t\t\t\t\t\t\t\t\t\t\t\t\t\r\n"
    "0\tx\t10000000000.0\t0.1\ttrue\t01/01/24\t01/01/24 00:00\t01/01/24 00:00\t01:02:03\t0:00:00\t"
    "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a12\t1.0\t\t\t\r\n"
    '-1\t"tab\tnl\nend"\t0.1\t\tfalse\t15/03/44\t31/12/99 23:59\t31/12/99 23:59\t00:00:00\t-90 days, 0:00:00\t'
    "00000000-0000-0000-0000-000000000000\t[]\t[]\t\t\r\n"
)


def test_csv_equals_the_recorded_one() -> None:
    assert rendered(ODD) == ODD_CSV.encode()


def test_tsv_equals_the_recorded_one() -> None:
    assert rendered(ODD, "tsv") == ODD_TSV.encode()


def test_no_rows_leave_the_header() -> None:
    assert rendered({"columns": [{"name": "id", "type": "integer"}], "rows": []}) == b"id\r\n"


def test_other_settings_of_the_organisation_give_other_dates() -> None:
    data = {"columns": [{"name": "d", "type": "datetime"}], "rows": [{"d": "2024-02-29T12:34:56"}]}
    assert rendered(data, "csv", DateFormats("YYYY-MM-DD", "YYYY-MM-DD HH:mm:ss")) == b"d\r\n2024-02-29 12:34:56\r\n"


def test_what_is_no_date_stays_and_what_a_row_lacks_is_empty() -> None:
    data = {
        "columns": [{"name": "d", "type": "date"}, {"name": "b", "type": "boolean"}, {"name": "x", "type": None}],
        "rows": [{"d": "soon", "b": "maybe", "x": True, "more": 1}, {"d": 5}, {"d": "2024-02"}, {"d": "2024"}],
    }
    assert rendered(data) == b"d,b,x\r\nsoon,maybe,True\r\n5,,\r\n01/02/24,,\r\n01/01/24,,\r\n"
