"""Runs made by hand, and the page that is written of them, read back."""

import html.parser
import json

import pandas as pd
import pytest
import yaml

from fedsim.compare.table import Question
from fedsim.report import command

VOID = {"meta", "link", "br", "wbr", "img", "hr", "input"}


class Page(html.parser.HTMLParser):
    """A page read by a parser that knows nothing of how it was made.

    Attributes:
        tags: every element's name and attributes.
        text: what is outside of elements.
        tables: a list of rows of cells, header first, for each table.
        pairs: term to description of all lists.
        open: elements that were not closed.
    """

    def __init__(self, content):
        super().__init__(convert_charrefs=True)
        self.tags, self.text, self.tables, self.pairs, self.open = [], "", [], {}, []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        elif tag == "dt":
            self.term, self.pairs[""] = "", ""
        elif tag == "dd":
            self.pairs[self.term] = ""

    def handle_startendtag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data
        if {"td", "th"} & set(self.open):
            self.tables[-1][-1][-1] += data.strip("\n")
        elif "dt" in self.open:
            self.term += data
        elif "dd" in self.open and "small" not in self.open:
            self.pairs[self.term] += data

    def table(self, *header):
        """The rows of the table whose header begins like this."""
        (found,) = [rows for rows in self.tables if tuple(rows[0][: len(header)]) == header]
        return found


@pytest.fixture
def make_run(tmp_path):
    """Return ``make_run(name, scores, ...)``: a run with these scores in rounds 0, 1, ...; returns its folder."""

    def make(
        name, scores=(0.1, 0.5, 0.4), *, metric="test_accuracy", mode="max", seed=0, size=8, clients=None, **summary
    ):
        path = tmp_path / "runs" / name
        path.mkdir(parents=True)
        rows = [{"round": at, metric: score, "bytes_down": 100 * at} for at, score in enumerate(scores)]
        pd.DataFrame(rows).to_csv(path / "metrics.csv", index=False)
        config = {"format_version": 1, "model": {"_target_": "fedsim.models.recurrent.GRU", "hidden_size": size}}
        config |= {"stop": {"metric": None, "patience": None}, "seed": seed, "rounds": len(scores) - 1, "threads": None}
        (path / "config.yaml").write_text(yaml.safe_dump(config | summary.pop("config", {}), sort_keys=False))
        content = {"status": "done", "rounds": len(scores) - 1, "best": {"metric": metric, "mode": mode}}
        (path / "summary.json").write_text(json.dumps(content | summary))
        if clients is not None:
            table = pd.DataFrame({"client": range(len(clients)), "name": "c", "train_samples": 3, "test_samples": 2})
            table.assign(**{metric: clients}).to_csv(path / "clients.csv", index=False)
        return path

    return make


@pytest.fixture
def page(tmp_path):
    """Return ``page(**question)``: the page of all runs, parsed, with its source in `raw`."""

    def read(*paths, **question):
        file = tmp_path / "page.html"
        command.write(paths or [str(tmp_path / "runs")], Question(**question), file)
        raw = file.read_text(encoding="utf-8")
        found = Page(raw)
        found.raw = raw
        assert not found.open
        return found

    return read
