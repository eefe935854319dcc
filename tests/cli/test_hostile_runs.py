"""``fedsim compare`` of run directories from strangers: nothing in them is obeyed, and a broken one ends nothing."""

import csv
import io
import json
import os
import re
import shutil
from pathlib import Path

import pytest
import yaml

GOOD = ("good0", "good1")
EVIL = {
    "escapes": "a\x1b[2J\x1b]0;t\x07\x9b31m\r\x08b",
    "order": "a\u202eb\u2066c\u2028d\u200be",
    "lines": "x\n\\input{/etc/passwd}\n\\write18{id}\r\\end{tabular}",
    "markup": "[red]a[/red][link=https://evil.example]b[/link]:boom:",
    "html": "<script>alert(1)</script>&#27;| a | `id` | ![x](https://evil.example/p.png) www.evil.example",
    "formula": "=cmd|' /C calc'!A0",
    "mathematics": "$\\frac{$ $x$",
    "underscore": "_hidden",
    "glyphs": "\u5ba2\u6237\U0001f600",
    "long": "n" * 5000,
}
NAMES = [name for name in EVIL.values() if len(name) < 200]  # a file name holds no more


def write_run(path, *, size=8, seed=0, last=0.5, column="test_accuracy", extra=None, status="done"):
    """A run of three rounds, its settings with those in `extra`."""
    path.mkdir(parents=True)
    text = io.StringIO()
    rows = [["round", column, "bytes_down", "bytes_up"], *([at, last * at / 2, 100 * at, 10 * at] for at in range(3))]
    csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(rows)  # else a \r would end a line
    (path / "metrics.csv").write_bytes(text.getvalue().encode())
    config = {"format_version": 1, "seed": seed, "rounds": 2, "model": {"hidden_size": size}} | (extra or {})
    (path / "config.yaml").write_text(yaml.safe_dump(config))
    best = {"metric": column, "mode": "max", "round": 2}
    (path / "summary.json").write_text(json.dumps({"status": status, "rounds": 2, "best": best}))
    return path


@pytest.fixture
def good(elsewhere):
    """Two good runs in a folder, of two model sizes."""
    for at, name in enumerate(GOOD):
        write_run(elsewhere / "runs" / name, size=8 + at)
    return elsewhere / "runs"


@pytest.fixture(params=EVIL)
def evil(request, good):
    """A name; and runs with it for their directory, a setting, a key, the metric, the status and Hydra's record."""
    name = EVIL[request.param]
    directory = name.replace("/", "").replace("\x00", "") if name in NAMES else "directory"
    for seed in (0, 1):
        path = write_run(
            good / f"{directory} {seed}", size=64, seed=seed, extra={"tags": name, name: name, "day": [name]}
        )
    write_run(good / "stopped", size=32, status=name, extra={"tags": name})
    (path / ".hydra").mkdir()
    choices = {"model": name, name: name}
    record = {"hydra": {"overrides": {"task": [f"{name}={name}"]}, "runtime": {"choices": choices}}}
    (path / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(record))
    (good / f"{directory} broken").mkdir()
    (good / f"{directory} broken" / "metrics.csv").write_text(f"round,a\n0,{name if chr(10) not in name else 'x'}\n")
    return name


def harmless(text):
    """Whether a terminal shows each character, and obeys none."""
    return all(c.isprintable() or c == "\n" for c in text)


OPTIONS = (
    (),
    ("--baseline", "model.hidden_size=8", "--target", "test_accuracy=0.2", "--last", "1"),
    ("--baseline", "model.hidden_size=\x1b[2J"),
    ("--metric", "\x1b[2Jx"),
    ("--keys", "tags,model.hidden_size"),
    ("--keys", "tags"),
    ("--partial", "--by", "best"),
    ("--csv", "-"),
    ("--markdown", "-"),
    ("--latex", "-"),
)


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: " ".join(map(ascii, options)))
def test_nothing_for_a_terminal_to_obey(fedsim, evil, options):
    answer = fedsim("compare", "runs", *options)
    assert answer.code in (0, 2), answer
    assert "Traceback" not in answer.err
    assert harmless(answer.out)
    assert harmless(answer.err)
    assert all(line.startswith(("warning: ", "error: ")) for line in answer.err.splitlines())  # no line is forged
    if answer.code == 0 and "[red]" in evil and "--latex" not in options and "--markdown" not in options:
        assert evil in answer.out  # as it is spelt


def test_a_terminal_gets_no_codes_but_those_of_our_own(fedsim, evil, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "100")
    answer = fedsim("compare", "runs")
    assert answer.code == 0, answer
    assert "\x1b[1m" in answer.out  # the best row is bold
    assert harmless(re.sub("\x1b\\[[0-2]?m", "", answer.out))
    assert harmless(answer.err)


def test_the_metrics_name(fedsim, elsewhere):
    for at, name in enumerate(EVIL.values()):
        for size in (8, 16):
            write_run(elsewhere / f"runs{at}" / str(size), size=size, column=name)
        for options in ((), ("--latex", "-"), ("--markdown", "-"), ("--csv", "-"), ("--plot", "a.svg")):
            answer = fedsim("compare", f"runs{at}", *options)
            assert answer.code == 0, answer
            assert answer.err == ""
            assert harmless(answer.out)


def test_a_status_and_a_fault_are_shown_as_they_are_spelt(fedsim, good):
    write_run(good / "other", size=32, status="[red]\x1b[2Jgone")
    answer = fedsim("compare", "runs")
    assert answer.code == 0
    assert "[red]\\x1b[2Jgone" in answer.out
    assert "[red]\\x1b[2Jgone after round 2" in answer.err


def test_latex_runs_no_command(fedsim, evil):
    answer = fedsim("compare", "runs", "--latex", "-", "--baseline", "model.hidden_size=8")
    assert answer.code == 0, answer
    lines = answer.out.splitlines()
    assert lines[-2:] == [r"\bottomrule", r"\end{tabular}"]
    notes = [line for line in lines if line.startswith("%")]
    assert lines[: len(notes)] == notes
    rows = lines[len(notes) + 2 : -2]
    ours = (r"\textbackslash", r"\textasciitilde", r"\textasciicircum", r"\textasciigrave", r"\textbar", r"\textbf")
    ours = (*ours, r"\pm", r"\geq", r"\leq", r"\&", r"\%", r"\$", r"\#", r"\_", r"\{", r"\}")
    for line in (*notes, *rows):
        text = line.removeprefix("% ").removesuffix(r" \\")
        if text == r"\midrule":
            continue
        commands = re.findall(r"\\(?:[a-zA-Z]+|.)", text)
        assert set(commands) <= set(ours), line
        bare = re.sub(r"\\(?:[a-zA-Z]+|.)", "", text).replace(" & ", "")
        assert not set(bare) & set("&%#_~^`|"), line
        assert bare.count("{") == bare.count("}")
        assert bare.count("$") % 2 == 0  # only our own $\pm$ and the like
        assert "^^" not in line
    assert len({line.count(" & ") for line in rows if line != r"\midrule"}) == 1
    assert not any(line.startswith("*") for line in rows)


def test_markdown_makes_one_table_without_links_and_html(fedsim, evil):
    markdown = pytest.importorskip("markdown")
    answer = fedsim("compare", "runs", "--markdown", "-", "--baseline", "model.hidden_size=8")
    assert answer.code == 0, answer
    lines = answer.out.splitlines()
    *table, empty, notes = lines
    assert len(table) == 2 + 4  # the two good runs, the evil one's seeds in a row, the one with a strange status
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in table}) == 1
    assert empty == ""
    assert notes.endswith(".")
    page = markdown.markdown(answer.out, extensions=["tables"])
    tags = set(re.findall(r"<(/?[a-z]+)", page))
    assert {tag.removeprefix("/") for tag in tags} <= {"table", "thead", "tbody", "tr", "th", "td", "strong", "p"}
    for address in ("://", "www."):
        assert address not in answer.out
    assert "`" not in answer.out  # some programs run code between them
    assert not re.search(r"\{[{%]", answer.out)


def test_markdown_is_what_a_reader_of_commonmark_shows_too(fedsim, evil):
    reader = pytest.importorskip("markdown_it")
    answer = fedsim("compare", "runs", "--markdown", "-")
    tokens = reader.MarkdownIt("commonmark").enable("table").parse(answer.out)
    inline = [child.type for token in tokens for child in token.children or ()]
    assert set(inline) <= {"text", "text_special", "strong_open", "strong_close", "softbreak"}
    assert not [token.type for token in tokens if token.type.startswith(("html", "code", "fence", "heading", "list"))]
    cells = ["".join(child.content for child in token.children) for token in tokens if token.type == "inline"]
    if evil == EVIL["html"]:
        assert EVIL["html"] in cells


@pytest.mark.parametrize("column", ["- x", "+ x", "1. x", "# x", "> x", "    x", "=== x"])
def test_notes_in_markdown_are_one_paragraph(fedsim, elsewhere, column):
    reader = pytest.importorskip("markdown_it")
    write_run(elsewhere / "runs" / "a", column=column)
    answer = fedsim("compare", "runs", "--markdown", "-")
    tokens = reader.MarkdownIt("commonmark").enable("table").parse(answer.out)
    assert [token.type for token in tokens][-3:] == ["paragraph_open", "inline", "paragraph_close"]
    assert tokens[-2].content.count("\n") == 0
    assert "".join(child.content for child in tokens[-2].children).startswith(f"{column.strip()}; sorted by: final")


def is_formula(cell):
    """Whether a spreadsheet would compute a cell."""
    try:
        float(cell)
    except ValueError:
        return len(cell) > 1 and cell.lstrip()[:1] in "=+-@\uff1d\uff0b\uff0d\uff20\t\r"
    return False


FORMULAS = (
    "=1+1",
    "+1+1",
    "-1+1",
    "@SUM(A1)",
    "\t=1+1",
    "\r=1+1",
    "\n=1+1",
    " =1+1",
    "\uff1d1+1",
    "=cmd|' /C calc'!A0",
)


@pytest.mark.parametrize("name", FORMULAS, ids=ascii)
def test_no_cell_of_a_csv_is_a_formula(fedsim, good, name):
    write_run(good / name.strip().replace("/", ""), size=64, extra={"tags": name, name: name}, status=name)
    answer = fedsim("compare", "runs", "--csv", "table.csv")
    assert answer.code == 0, answer
    content = Path("table.csv").read_bytes().decode()
    assert harmless(content)
    rows = list(csv.reader(io.StringIO(content)))
    assert len(rows) == 4
    assert not [cell for row in rows for cell in row if is_formula(cell)]
    shown = "".join(c if c.isprintable() else {"\t": "\\t", "\r": "\\r", "\n": "\\n"}[c] for c in name)
    expected = shown if shown[0] == "\\" else f"'{shown}"
    assert expected in rows[0] or f"config {shown}" in rows[0]  # the setting's name
    assert any(expected in row for row in rows[1:])  # its value


def test_numbers_in_a_csv_stay_numbers(fedsim, good):
    for at, value in enumerate((-0.5, "-0.5", "-1e-05", "+3", "-")):
        write_run(good / f"-{at}", size=64, seed=at, last=-0.5, extra={"tags": value})
    assert fedsim("compare", "runs", "--csv", "t.csv", "--baseline", "model.hidden_size=8").code == 0
    rows = list(csv.DictReader(Path("t.csv").read_text(encoding="utf-8").splitlines()))
    assert {row["tags"] for row in rows} == {"", "-0.5", "-1e-05", "+3", "-"}
    assert {row["final test_accuracy"] for row in rows} == {"0.5", "-0.5"}
    assert "'" not in Path("t.csv").read_text(encoding="utf-8")


@pytest.mark.parametrize("kind", ["svg", "png", "pdf"])
def test_names_in_a_picture_are_only_names(fedsim, evil, kind):
    pytest.importorskip("matplotlib")
    answer = fedsim("compare", "runs", "--plot", f"a.{kind}", "--curves")
    assert answer.code == 0, answer
    assert all(line.startswith("warning: ") for line in answer.err.splitlines())
    assert "Glyph" not in answer.err
    assert Path(f"a.{kind}").stat().st_size > 1000
    if kind == "svg":
        tags = set(re.findall(r"<(\w+)", Path("a.svg").read_text(encoding="utf-8")))
        assert not tags & {"script", "a", "image", "foreignObject"}


@pytest.mark.parametrize("name", EVIL)
def test_a_heat_map_and_panels_of_strange_settings(fedsim, elsewhere, name):
    pytest.importorskip("matplotlib")
    for size in (8, 16, 32, 64):
        for at in range(2):
            extra = {"tags": f"{EVIL[name]}{at}"}
            write_run(elsewhere / "runs" / f"{size}{at}", size=size, last=(size + at) / 100, extra=extra)
    for option in ("--heatmap", "--curves"):
        answer = fedsim("compare", "runs", "--plot", "a.png", option)
        assert (answer.code, answer.err) == (0, ""), option


def test_the_ends_of_lines_are_named_whatever_the_names(fedsim, elsewhere):
    pytest.importorskip("matplotlib")
    from matplotlib.figure import Figure

    from fedsim.compare import curves
    from fedsim.compare.reading import load_runs
    from fedsim.compare.table import compare

    names = ("$\\frac{$", "_hidden", "\u5ba2\u6237", "a\nb", "n" * 500)
    for name in names:
        write_run(elsewhere / "runs" / name[:10].replace("\n", ""), extra={"tags": name})
    figure = Figure(layout="constrained")
    curves.curves(figure, compare(load_runs(["runs"])[0]), ["tags"], "round")
    shown = {text.get_text().strip() for text in figure.axes[0].texts} - {""}
    long = "n" * 24 + "…" + "n" * 23
    assert shown == {"\\$\\frac{\\$", "_hidden", "\\u5ba2\\u6237", "a\\nb", long, "tags"}


def test_many_settings_and_runs_fit_in_a_picture(fedsim, elsewhere):
    pytest.importorskip("matplotlib")
    for at in range(60):
        write_run(elsewhere / "runs" / str(at), extra={f"key{k}": f"{'word ' * 30}{at}" for k in range(60)})
    assert fedsim("compare", "runs", "--plot", "a.svg", "--curves").code == 0


def test_tex_is_not_run_for_names(fedsim, good, monkeypatch):
    """Whatever the user's matplotlibrc says of TeX, which would read files and run commands that a name asks for."""
    matplotlib = pytest.importorskip("matplotlib")
    from matplotlib import texmanager

    def fail(*_, **__):
        raise AssertionError("TeX was asked")

    monkeypatch.setattr(texmanager.TexManager, "make_tex", fail)
    write_run(good / "other", extra={"tags": "\\input{/etc/passwd}"})
    with matplotlib.rc_context({"text.usetex": True}):
        assert fedsim("compare", "runs", "--plot", "a.svg").code == 0


# One bad run never ends a comparison of good ones


ALIASES = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [*{a}, *{a}, *{a}, *{a}]\n" for a, b in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{b}: &{b}\n  <<: [*{a}, *{a}, *{a}, *{a}]\n" for a, b in zip("abcdefghijkl", "bcdefghijklm", strict=True)
)
HUGE = "9" * 401
BROKEN = {
    "config recursive": ("config.yaml", "tags: &r [*r]\n"),
    "config multiplied": ("config.yaml", ALIASES),
    "config merged": ("config.yaml", MERGES),
    "config list": ("config.yaml", "- 1\n- 2\n"),
    "config word": ("config.yaml", "word\n"),
    "config huge": ("config.yaml", f"seed: 0\nmodel: {{hidden_size: {HUGE}}}\n"),
    "config huge seed": ("config.yaml", f"seed: -{HUGE}\n"),
    "config huge hexadecimal": ("config.yaml", f"x: 0x{'f' * 5000}\n"),
    "config huge key": ("config.yaml", f"0x{'f' * 5000}: 1\n"),
    "config huge in a list": ("config.yaml", f"x: [0x{'f' * 5000}]\n"),
    "config date for a key": ("config.yaml", "x: [{2024-01-01: 1}]\n"),
    "config deep": ("config.yaml", f"x: {'[' * 100_000}{']' * 100_000}\n"),
    "config deep mappings": ("config.yaml", f"x: {'{a: ' * 400}1{'}' * 400}\n"),
    "config empty": ("config.yaml", ""),
    "config not UTF-8": ("config.yaml", b"seed: \xff\xfe\n"),
    "config NUL": ("config.yaml", "seed: 0\nx: a\x00b\n"),
    "config code": ("config.yaml", "x: !!python/object/apply:os.system [id]\n"),
    "config no date": ("config.yaml", "x: 2024-13-01\n"),
    "config unhashable": ("config.yaml", "? [a]\n: 1\n"),
    "config folder": ("config.yaml", None),
    "summary list": ("summary.json", "[]"),
    "summary word": ("summary.json", '"done"'),
    "summary status": ("summary.json", '{"status": ["done"]}'),
    "summary huge": ("summary.json", f'{{"status": "done", "rounds": {HUGE}}}'),
    "summary endless": ("summary.json", f'{{"status": "done", "rounds": {"9" * 5000}}}'),
    "summary huge value": (
        "summary.json",
        f'{{"status": "done", "best": {{"metric": "test_accuracy", "mode": "max", "round": 2, "value": {HUGE}}}}}',
    ),
    "summary deep": ("summary.json", "[" * 100_000 + "]" * 100_000),
    "summary empty": ("summary.json", ""),
    "summary not UTF-8": ("summary.json", b'{"status": "\xff"}'),
    "summary NUL": ("summary.json", '{"status": "do\x00ne"}'),
    "summary best": ("summary.json", '{"status": "done", "best": [1]}'),
    "summary best mode": ("summary.json", '{"status": "done", "best": {"metric": "test_accuracy", "mode": {}}}'),
    "metrics empty": ("metrics.csv", ""),
    "metrics not UTF-8": ("metrics.csv", b"round,test_accuracy\n0,\xff\n"),
    "metrics UTF-16": ("metrics.csv", "round,test_accuracy\n0,1\n".encode("utf-16")),
    "metrics NUL": ("metrics.csv", "round,test_accuracy\n0,0.\x001\n"),
    "metrics only NUL": ("metrics.csv", "\x00" * 100 + "\n"),
    "metrics twice": ("metrics.csv", "round,test_accuracy,test_accuracy\n0,0.1,0.9\n"),
    "metrics twice round": ("metrics.csv", "round,round,test_accuracy\n0,5,0.1\n"),
    "metrics words": ("metrics.csv", "round,test_accuracy\n0,a\n"),
    "metrics no round": ("metrics.csv", "test_accuracy\n0.1\n"),
    "metrics huge round": ("metrics.csv", f"round,test_accuracy\n{HUGE},0.1\n"),
    "metrics endless round": ("metrics.csv", f"round,test_accuracy\n{'9' * 5000},0.1\n"),
    "metrics negative round": ("metrics.csv", "round,test_accuracy\n-1,0.1\n"),
    "metrics nan round": ("metrics.csv", "round,test_accuracy\nnan,0.1\n"),
    "metrics quotes": ("metrics.csv", 'round,test_accuracy\n0,"0.1\n1,0.2\n'),
    "metrics ragged": ("metrics.csv", "round,test_accuracy\n0,1\n1,2,3\n"),
    "metrics surplus": ("metrics.csv", "round,test_accuracy\n0,1,2\n"),
    "metrics binary": ("metrics.csv", bytes(range(256)) + b"\n"),
    "metrics folder": ("metrics.csv", None),
    "metrics rows twice": ("metrics.csv", "round,test_accuracy\n0,0.1\n1,0.2\n1,0.9\n"),
    "record not YAML": (".hydra/hydra.yaml", "hydra: [\n"),
    "record multiplied": (".hydra/hydra.yaml", ALIASES),
    "composed list": (".hydra/config.yaml", "[]"),
}
ODD = {
    "no rows": ("metrics.csv", "round,test_accuracy\n"),
    "only rounds": ("metrics.csv", "round\n0\n1\n2\n"),
    "other columns": ("metrics.csv", "round,x\n0,1\n1,1\n2,1\n"),
    "neither way": ("metrics.csv", "round,clients\n0,1\n1,1\n2,1\n"),
    "not finite": (
        "metrics.csv",
        "round,test_accuracy,bytes_up,bytes_down\n0,nan,0,0\n1,inf,inf,1\n2,-inf,nan,1e999\n",
    ),
    "largest": (
        "metrics.csv",
        "round,test_accuracy,bytes_up,bytes_down\n0,1e308,0,0\n1,-1e308,1e308,1\n2,1.7e308,1e308,1\n",
    ),
    "blank names": ("metrics.csv", "round,test_accuracy,,\x1f\n0,1,,\n1,1,,\n2,1,,\n".replace(",,\x1f", ",,x")),
    "summary nan": ("summary.json", '{"status": "done", "rounds": NaN, "final": {"round": 2, "test_accuracy": NaN}}'),
    "summary infinite": (
        "summary.json",
        '{"status": "done", "best": {"metric": "test_accuracy", "mode": "max", "round": 2, "value": Infinity}}',
    ),
    "summary words": (
        "summary.json",
        '{"status": "done", "rounds": "2", "final": {"round": "2"}, "best": {"metric": null}}',
    ),
    "summary true": (
        "summary.json",
        '{"status": "done", "rounds": true, "final": {"round": true, "test_accuracy": true}}',
    ),
    "summary far": ("summary.json", f'{{"status": "done", "final": {{"round": {"9" * 300}, "test_accuracy": 1}}}}'),
    "summary lists": (
        "summary.json",
        '{"status": "done", "columns": [[]], "cumulative": {"a": 1}, "final": [], "best": null}',
    ),
    "summary cumulative": ("summary.json", '{"status": "done", "cumulative": ["test_accuracy", [], {}, null]}'),
    "summary the other way": ("summary.json", '{"status": "done", "columns": {"test_accuracy": "min", "x": ["min"]}}'),
    "config nan": ("config.yaml", "seed: .nan\nmodel: {hidden_size: .inf}\nlr: .nan\n"),
    "config strange": (
        "config.yaml",
        "seed: [1]\nmodel: {_target_: [x]}\n1: {2: 3}\nnull: 1\nx: !!binary aGk=\ny: !!set {a, b}\n",
    ),
    "config like results": (
        "config.yaml",
        "seed: 0\nbytes to x: a\nbytes_up to x: b\nrounds to x: c\nfinal test_accuracy: d\nn: 7\nseeds: 7\np: 7\n"
        "status: 7\nx: 1\nx std: word\ndifference: 7\nreached: 7\nbest round: word\nconfig n: 7\na to b: 7\n",
    ),
    "config many": ("config.yaml", "".join(f"key{k}: {k}\n" for k in range(2000))),
    "record words": (
        ".hydra/hydra.yaml",
        "hydra: {runtime: {choices: {a: [1], b: {c: 1}, 1: 2}}, overrides: {task: 7}}\n",
    ),
    "record huge": (
        ".hydra/hydra.yaml",
        f"hydra: {{runtime: {{choices: {{a: 0x{'f' * 5000}}}}}, overrides: {{task: []}}}}\n",
    ),
    "record list": (".hydra/hydra.yaml", "- 1\n"),
}


def break_run(path, file, content):
    """Put `content` in a file of a good run; None is a folder in its place."""
    target = path / file
    target.parent.mkdir(exist_ok=True)
    if target.parent != path:
        (target.parent / "hydra.yaml").write_text("hydra: {runtime: {choices: {}}, overrides: {task: []}}\n")
    if content is None:
        target.unlink()
        target.mkdir()
    else:
        target.write_bytes(content if isinstance(content, bytes) else content.encode())
    if file == "metrics.csv":
        (path / "summary.json").unlink()  # which would give the file away


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_run_is_named_and_the_good_ones_are_compared(fedsim, good, case):
    break_run(write_run(good / "bad", size=64), *BROKEN[case])
    answer = fedsim("compare", "runs", "--csv", "table.csv", "--baseline", "model.hidden_size=8")
    assert answer.code == 0, answer
    lines = answer.err.splitlines()
    assert len(lines) == 1, answer.err
    assert re.match(r"warning: \S*runs/bad\b", lines[0]) or "runs/bad" in lines[0][:300]
    assert len(lines[0]) <= 2100
    assert "not in this table: 1 run that could not be read" in answer.out
    rows = list(csv.DictReader(Path("table.csv").read_text(encoding="utf-8").splitlines()))
    assert [row["run"] for row in rows] == list(GOOD)
    assert [row["final test_accuracy"] for row in rows] == ["0.5", "0.5"]


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_run_alone_is_refused_in_one_line(refused, elsewhere, case):
    path = write_run(elsewhere / "bad")
    break_run(path, *BROKEN[case])
    message = refused("compare", "bad")
    assert "bad" in message
    assert message.isprintable()
    message = refused("compare", "bad", "bad/../bad")
    assert "bad" in message


@pytest.mark.parametrize("case", ODD)
@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--baseline", "model.hidden_size=8", "--target", "test_accuracy=0.3", "--last", "1", "--partial"),
        ("--by", "best", "--last-rounds", "1", "--at", "1"),
        ("--plot", "a.png", "--x", "bytes_up"),
        ("--plot", "a.svg"),
        ("--plot", "a.png", "--keys", "model.hidden_size,lr", "--heatmap"),
        ("--latex", "-"),
        ("--markdown", "-"),
    ],
    ids=" ".join,
)
def test_an_odd_run_does_not_end_a_comparison(fedsim, good, case, options):
    if "--plot" in options:
        pytest.importorskip("matplotlib")
    break_run(write_run(good / "odd", size=64), *ODD[case])
    write_run(good / "seed", size=64, seed=1)
    for at, name in enumerate(GOOD):  # the heat map's two settings
        shutil.rmtree(good / name)
        write_run(good / name, size=8 + at, extra={"lr": at + 1})
    answer = fedsim("compare", "runs", "--csv", "table.csv", *options)
    if answer.code == 2 and "--keys" in options:
        assert re.match("error: --(keys|heatmap)", answer.err)  # two settings do not tell these runs apart
        return
    assert answer.code == 0, answer
    assert all(line.startswith("warning: ") for line in answer.err.splitlines())
    rows = {row["run"]: row for row in csv.DictReader(Path("table.csv").read_text(encoding="utf-8").splitlines())}
    assert [rows[name]["final test_accuracy"] for name in GOOD] == ["0.5", "0.5"]


@pytest.mark.parametrize("case", ODD)
def test_an_odd_run_alone(fedsim, elsewhere, case):
    break_run(write_run(elsewhere / "bad"), *ODD[case])
    answer = fedsim("compare", "bad", "--plot", "a.png")
    assert answer.code in (0, 2), answer
    assert all(line.startswith(("warning: ", "error: ")) for line in answer.err.splitlines())
    assert answer.code == 0 or answer.err.count("error: ") == 1


SWEEP_FILES = {
    "not YAML": b"a: [\n",
    "recursive": b"a: &r [*r]\n",
    "multiplied": ALIASES.encode(),
    "deep": b"[" * 100_000,
    "not UTF-8": b"\xff\xfe\x00",
    "empty": b"",
    "escapes": b"\x1b[2J\x07\n",
    "cells": b"job,status\n=1+1,\x1b[31m\n1,2,3\n",
}


@pytest.mark.parametrize("file", ["sweep.yaml", "multirun.yaml", "sweep.csv", "optimization_results.yaml"])
@pytest.mark.parametrize("case", SWEEP_FILES)
def test_a_sweeps_own_files_do_not_matter(fedsim, good, file, case):
    (good / file).write_bytes(SWEEP_FILES[case])
    answer = fedsim("compare", "runs")
    assert (answer.code, answer.err) == (0, "")
    answer = fedsim("compare", "runs/*")
    assert answer.code == 0
    assert harmless(answer.out + answer.err)
    assert answer.err.count("\n") <= 1
    assert all(re.search(f"^{name} ", answer.out, re.MULTILINE) for name in GOOD)


@pytest.mark.parametrize("name", ["pipe.csv", "metrics.csv"])
def test_a_pattern_opens_no_pipes(fedsim, good, name):
    """Nobody writes to this pipe: opening it would never come back."""
    (good / "more").mkdir()
    os.mkfifo(good / "more" / name)
    answer = fedsim("compare", "runs/*", "runs/*/*.csv")
    assert answer.code == 0
    assert answer.out


def test_names_that_are_not_unicode(fedsim, good):
    """File names are bytes, and JSON may hold half a pair of surrogates."""
    write_run(good / os.fsdecode(b"\xff\xfe"), size=64, extra={"tags": "a"})
    broken = write_run(good / os.fsdecode(b"\xfd"), size=65)
    (broken / "summary.json").write_text('{"status": "\\ud800"}')
    answer = fedsim("compare", "runs", "--csv", "t.csv", "--latex", "t.tex", "--markdown", "t.md")
    assert answer.code == 0, answer
    assert "\\udcff" in Path("t.csv").read_text(encoding="utf-8")
    assert harmless(answer.out + answer.err)
