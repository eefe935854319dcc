"""Words, sentences, vocabulary and clients of small texts that can be checked by eye."""

import binascii
import json
import re
from collections import Counter
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fedsim.data.dataset import IGNORE, Task, WordTokens
from fedsim.data.fitted import Fitted
from fedsim.data.population import build_population
from fedsim.data.vocabulary import TOKENIZERS, Vocabulary, cut_sentences, sentence_rows, window_rows
from fedsim.data.words import Words
from fedsim.errors import FieldError, UserError
from fedsim.partition.natural import Natural

PLAY = """\
ANN:
A b. A c!

BOB:
B a? C.
D a.

ANN:
A b c d e.
"""


@pytest.fixture
def write(tmp_path):
    def write(content, name="a.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return str(path)

    return write


def shown(data, part="train"):
    """Each client's samples as pairs of inputs and targets, in words."""
    tokens, split = data.fitted.vocabulary, getattr(data, part)
    found = {name: [] for name in data.client_names}
    for row, client in enumerate(split.clients):
        steps = split.lengths[row]
        words = ([tokens[k] for k in side[row, :steps]] for side in (split.inputs, split.targets))
        found[data.client_names[client]].append(tuple(" ".join(side) for side in words))
    return found


def sentences(data, part="train"):
    """Each client's samples, as the words that are predicted."""
    return {name: [target for _, target in pairs] for name, pairs in shown(data, part).items()}


def test_by_hand(write):
    """ANN says a b. | a c! | a b c d e., of which the last is the test; BOB b a? | c. | d a., of which the last is.

    Training words: a 3, b 2, c 2, "." 2, "!" 1, "?" 1, so of the four most frequent a is 1, and then . b c, in
    the order of the code points. 5 is unknown, 6 the beginning, 7 the end. What has 3 tokens or more has no end.
    """
    data = Words(path=write(PLAY), length=3, vocabulary_size=4).load(0)
    assert data.task is Task.SEQUENCE_LABELLING
    assert data.client_names == ("ANN", "BOB")
    assert data.fitted.vocabulary == ("<padding>", "a", ".", "b", "c", "<unknown>", "<begin>", "<end>")
    assert (data.num_outputs, data.vocabulary_size, data.words) == (8, 8, WordTokens((5, 6), 7))
    assert data.train.inputs.tolist() == [[6, 1, 3], [6, 1, 4], [6, 3, 1], [6, 4, 2]]
    assert data.train.targets.tolist() == [[1, 3, 2], [1, 4, 5], [3, 1, 5], [4, 2, 7]]
    assert data.train.lengths.tolist() == [3, 3, 3, 3]
    assert data.train.clients.tolist() == [0, 0, 1, 1]
    assert data.test.targets.tolist() == [[1, 3, 4], [5, 1, 2]]
    assert data.test.clients.tolist() == [0, 1]
    assert data.notes[1:] == (
        "1 of 6 sentences have more than 3 tokens (the longest 6), of which the first are kept (data.length, or "
        "data.sample=window)",
        "18.2% of the training and 16.7% of the test words are not among the 4 words of the vocabulary "
        "(data.vocabulary_size, data.oov_buckets)",  # 2 of 11, the end left out; 1 of 6
    )


def test_padding(write):
    """ "b a?" and the end fill 4 of 6 steps."""
    data = Words(path=write("ANN:\nB a? B a? B.\n\nBOB:\nA.\n\nANN:\nA."), length=6).load(0)
    b, a, question, begin, end = (data.fitted.vocabulary.index(t) for t in ("b", "a", "?", "<begin>", "<end>"))
    assert data.train.inputs[0].tolist() == [begin, b, a, question, 0, 0]
    assert data.train.targets[0].tolist() == [b, a, question, end, IGNORE, IGNORE]
    assert data.train.lengths[0] == 4


def test_windows_cut_nothing_off(write):
    """One role: "a b." "c d e." for training, with ends, in pieces of 3; "f." is the test."""
    path = write("ANN:\nA b. C d e.\n\nBOB:\nA b.\n\nANN:\nF.")
    data = Words(path=path, sample="window", length=3, test_fraction=0.3).load(0)
    assert shown(data)["ANN"] == [("<begin> a b", "a b ."), (". <end> c", "<end> c d"), ("d e .", "e . <end>")]
    assert shown(data, "test")["ANN"] == [("<begin> <unknown> .", "<unknown> . <end>")]


@given(
    lines=st.lists(st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=9), min_size=1, max_size=8),
    length=st.integers(1, 12),
    buckets=st.integers(1, 3),
)
def test_every_word_is_predicted_from_those_before_it(lines, length, buckets):
    """Reference: plain Python, a sentence and a token at a time."""
    vocabulary = Vocabulary(("c", "a", "e"), buckets)

    def name(number):
        token = vocabulary.tokens[number]
        return "?" if token.startswith("<unknown") else token

    def pairs(rows):
        return [
            list(zip(map(name, x[:n]), map(name, y[:n]), strict=True))
            for x, y, n in zip(rows.inputs, rows.targets, rows.lengths, strict=True)
        ]

    known = [[word if word in "cae" else "?" for word in line] for line in lines]
    wanted = []
    for line in known:
        whole = ["<begin>", *line, "<end>"][: length + 1]
        wanted.append([*pairwise(whole)])
    rows = sentence_rows(lines, vocabulary, length)
    assert pairs(rows) == wanted
    stream = ["<begin>", *(token for line in known for token in (*line, "<end>"))]
    steps = [*pairwise(stream)]
    windows = window_rows(lines, vocabulary, length)
    assert pairs(windows) == [steps[k : k + length] for k in range(0, len(steps), length)]
    for found in (rows, windows):
        padded = np.arange(length) >= found.lengths[:, None]
        assert (found.inputs[padded] == 0).all()
        assert (found.targets[padded] == IGNORE).all()


def test_a_word_always_has_the_same_bucket(write):
    """Its CRC-32 checksum modulo 3, from the first number behind the only word on."""
    vocabulary = Vocabulary(("a",), 3)
    numbers = vocabulary.number_all(["cat", "dog", "a", "bird", "cat"])
    assert numbers == [
        2 + binascii.crc32(b"cat") % 3,
        2 + binascii.crc32(b"dog") % 3,
        1,
        *(2 + binascii.crc32(word) % 3 for word in (b"bird", b"cat")),
    ]
    assert len(vocabulary) == 7
    assert vocabulary.tokens[2:5] == ("<unknown 1>", "<unknown 2>", "<unknown 3>")


@pytest.mark.parametrize(
    ("tokenizer", "words"),
    [
        ("words", ["Don't", "e-mail", "x", "_", "y", ",", "3", ".", "5", "-", "(", "ok", ")"]),
        ("words_only", ["Don't", "e-mail", "x", "y", "3", "5", "ok"]),
        ("whitespace", ["Don't", "e-mail", "x_y,", "3.5", "-", "(ok)"]),
    ],
)
def test_tokenizers(tokenizer, words):
    assert TOKENIZERS[tokenizer].findall("Don't e-mail x_y, 3.5 - (ok)") == words


def test_where_sentences_end():
    """At marks before white space, with what they close, and at blank lines; not within 3.5 or before a letter."""
    text = 'It is 3.5. "Is it?" She asked... (Yes!) no\n \nheading\nmore.end'
    parts = [" ".join(part.split()) for part in cut_sentences(text)]
    assert parts == ["It is 3.5.", '"Is it?"', "She asked...", "(Yes!)", "no", "heading more.end"]
    assert "".join(cut_sentences(text)) == text


def test_a_long_run_of_marks_takes_no_time():
    text = "." * 200_000 + "a" + "?'" * 100_000
    assert cut_sentences(text) == [text]


@pytest.mark.parametrize(
    ("sample", "wanted"),
    [
        ("sentence", ["a b .", "a c d .", "e"]),
        ("line", ["a b . a c", "d .", "e"]),
        ("text", ["a b . a c d . e"]),
    ],
)
def test_samples(sample, wanted, write):
    rows = [{"client": "x", "text": "a b. a c\nd.\n\ne"}, {"client": "x", "text": "last"}]
    data = Words(path=write("\n".join(map(json.dumps, rows)), "a.jsonl"), sample=sample).load(0)
    assert [text.removesuffix(" <end>") for text in sentences(data)["x"]] == wanted


def test_capitals_stay_if_asked(write):
    data = Words(path=write(PLAY), lowercase=False).load(0)
    assert {"A", "b", "B", "a"} <= {*data.fitted.vocabulary}


def test_max_samples_keeps_the_first_and_the_vocabulary_is_of_these(write):
    table = pd.DataFrame({"client": ["x"] * 10 + ["y"] * 2, "text": [f"w{k}" for k in range(12)]})
    data = Words(path=write(table.to_csv(index=False), "a.csv"), max_samples=2).load(0)
    assert sentences(data) == {"x": ["w0 <end>", "w1 <end>"], "y": ["w10 <end>"]}
    assert sentences(data, "test") == {"x": ["<unknown> <end>"], "y": ["<unknown> <end>"]}
    assert data.fitted.vocabulary[1:-3] == ("w0", "w1", "w10")
    assert (
        data.notes[0]
        == "left out 7 of 10 training sentences, those behind each client's first 2 samples (data.max_samples)"
    )
    windows = Words(path=write(table.to_csv(index=False), "a.csv"), max_samples=2, sample="window", length=3).load(0)
    assert sentences(windows)["x"] == ["w0 <end> w1", "<end> w2 <end>"]


def test_the_vocabulary_against_a_counter(write):
    rng = np.random.default_rng(0)
    table = pd.DataFrame({"client": rng.integers(0, 5, 200), "text": ""})
    table["text"] = [" ".join(words) for words in rng.choice([*"abcdefghij"], (200, 4))]
    data = Words(path=write(table.to_csv(index=False), "a.csv"), vocabulary_size=6, test_fraction=0.2).load(0)
    counts = Counter()
    for _, own in table.groupby("client"):
        counts.update(" ".join(own["text"][: len(own) - int(np.ceil(0.2 * len(own)))]).split())
    wanted = pd.Series(counts).sort_index().sort_values(ascending=False, kind="stable").index[:6]
    assert data.fitted.vocabulary[1:7] == tuple(wanted)


def test_tables(write, tmp_path):
    """Clients in the order in which they come first; rows without text are left out, with a note."""
    rows = 'who,what\nu2,"Hello, you."\nu1,a b\nu2,\nu1,c d\nu2,bye\n'
    named = {"client_column": "who", "text_column": "what"}
    data = Words(path=write(rows, "a.csv"), **named).load(0)
    assert data.client_names == ("u2", "u1")
    assert sentences(data) == {"u2": ["hello , you . <end>"], "u1": ["a b <end>"]}
    assert data.notes[0] == "left out 1 of 5 rows, which have no text (data.text_column)"
    tabs = Words(path=write(rows.replace(",", "\t").replace('"Hello\t you."', "Hello, you."), "a.tsv"), **named).load(0)
    assert sentences(tabs) == sentences(data)
    folder = tmp_path / "lines"
    lines = [{"who": 7, "what": "a b"}, {"what": "c d", "who": 7}]
    write("\n".join(map(json.dumps, lines)), "lines/a.jsonl")
    write(json.dumps({"who": "x", "what": "e. f."}), "lines/b.jsonl")
    assert sentences(Words(path=str(folder), **named).load(0)) == {"7": ["a b <end>"], "x": ["e . <end>"]}


def test_a_folder_has_a_client_per_file(write, tmp_path):
    write("A b. C d.", "texts/one.txt")
    write("E f. G.", "texts/two.txt")
    data = Words(path=str(tmp_path / "texts")).load(0)
    assert sentences(data) == {"one.txt": ["a b . <end>"], "two.txt": ["e f . <end>"]}
    chunks = Words(path=str(tmp_path / "texts"), clients_by="chunk", chunk_size=5, sample="line", lowercase=False)
    with pytest.raises(UserError, match=r"data\.test_fraction=null: no client has a test sample"):
        chunks.load(0)


def leaf(users):
    return {
        "users": [*users],
        "num_samples": [len(x) for x in users.values()],
        "user_data": {name: {"x": x, "y": [0] * len(x)} for name, x in users.items()},
    }


def test_leaf_texts_that_are_not_split(write):
    """LEAF's own cut: of 3 samples the first max(1, int(0.9 x 3)) = 2 train."""
    data = Words(path=write(leaf({"u": ["a b.", "c. d", "e"], "v": ["f"]}), "all.json")).load(0)
    assert sentences(data) == {"u": ["a b . <end>", "c . <end>", "d <end>"], "v": ["f <end>"]}
    assert sentences(data, "test") == {"u": ["<unknown> <end>"], "v": []}


def test_leaf_tweets_that_are_split(write, tmp_path):
    tweet = ["1", "Mon Apr 06 22:19:45 PDT 2009", "NO_QUERY", "me", "So nice!", "training"]
    write(leaf({"me": [tweet]}), "sent140/train/a.json")
    write(leaf({"me": [[*tweet[:4], "So so", "training"]], "you": [tweet]}), "sent140/test/a.json")
    data = Words(path=str(tmp_path / "sent140"), tokenizer="words_only").load(0)
    assert (sentences(data), sentences(data, "test")) == ({"me": ["so nice <end>"]}, {"me": ["so so <end>"]})
    assert data.notes == ("left out 1 test samples of 1 users who have no training samples: split the files by sample",)


def test_leaf_tokens_of_reddit(write, tmp_path):
    """A comment is cut into pieces of ten tokens, here four, with a beginning, an end and padding in them."""
    comment = [["<BOS>", "see", "<URL>", ","], ["it's", "<EOS>", "<PAD>", "<PAD>"]]
    write(leaf({"me": [comment, [["<BOS>", "ok", "<EOS>", "<PAD>"]]]}), "reddit/train/a.json")
    write(leaf({"me": [comment]}), "reddit/test/a.json")
    path = str(tmp_path / "reddit")
    data = Words(path=path, tokenizer="whitespace", sample="text", lowercase=False).load(0)
    assert sentences(data) == {"me": ["see <URL> , it's <end>", "ok <end>"]}
    with pytest.raises(UserError, match=r"lists of tokens; take data\.tokenizer=whitespace, and data\.sample=text or"):
        Words(path=path).load(0)


def test_a_vocabulary_file(write):
    """With counts, the highest first and equal ones as they come; b and c have none of the 2 numbers."""
    path, counts = write(PLAY), write("d\t5\na 9\nc 5\n", "word_count")
    data = Words(path=path, vocabulary_file=counts).load(0)
    assert data.fitted.vocabulary[1:4] == ("a", "d", "c")
    assert Words(path=path, vocabulary_file=counts, vocabulary_size=2).load(0).fitted.vocabulary[1:3] == ("a", "d")
    plain = Words(path=path, vocabulary_file=write("\ufeffb\r\n\nA\n", "words")).load(0)
    assert plain.fitted.vocabulary[1:3] == ("b", "A")
    assert any("have capitals, such as 'A', and are never met (data.lowercase)" in note for note in plain.notes)


@pytest.mark.parametrize(
    ("content", "size", "message"),
    [
        ("", None, r"data\.vocabulary_file=\S+: has no words"),
        ("a 1\nb", None, r"line 2 is not a word and a count, as the first line is: 'b'"),
        ("a\nb 1", None, r"line 2 is not a word, as the first line is: 'b 1'"),
        ("a x", None, r"line 1 is not a word and a count"),
        ("a 1\na 2", None, r"line 2 has the word 'a' again"),
        ("a 1\nb 2", 3, r"data\.vocabulary_size=3: \S+ has only 2 words; null takes all"),
    ],
)
def test_vocabulary_files_that_are_none(content, size, message, write):
    with pytest.raises(UserError, match=message):
        Words(path=write(PLAY), vocabulary_file=write(content, "v"), vocabulary_size=size).load(0)


def test_others_are_prepared_with_a_models_vocabulary(write):
    known = Words(path=write(PLAY), vocabulary_size=3).load(0).fitted
    other = Words(path=write(PLAY.replace("A b", "D d"), "b.txt"), vocabulary_size=9).load_as(0, known)
    assert other.fitted == known
    assert Words(path=write(PLAY)).load_as(0, Fitted()).fitted != known


def test_batches_are_int64_and_arrays_stay_small(write):
    """A population keeps the 2 bytes a token of a small vocabulary; what a batch takes is as everywhere."""
    data = Words(path=write(PLAY)).load(0)
    assignment = Natural().assign(data, None, 0)
    population = build_population(data, assignment, validation_fraction=0, seed=0, dtype=torch.float32)
    train = population.train
    assert train.inputs.dtype == train.targets.dtype == torch.int16
    index = torch.tensor([1, 0])
    assert train.take(index).dtype == train.take_targets(index).dtype == torch.int64
    assert train.take_targets(index).tolist() == data.train.targets[[1, 0]].tolist()
    assert population.words == data.words


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"path": ""}, "path=: name a file or a folder"),
        ({"vocabulary_file": ""}, "vocabulary_file="),
        ({"form": "csv"}, "form=csv: must be one of"),
        ({"form": "table"}, "has an effect only with a path"),
        ({"encoding": "latin-1"}, "has an effect only with a path"),
        ({"sample": "word"}, "sample=word: must be one of"),
        ({"tokenizer": "bpe"}, "tokenizer=bpe: must be one of"),
        ({"length": 0}, "length=0: must be at least 1"),
        ({"oov_buckets": 0}, "oov_buckets=0"),
        ({"max_samples": 0}, "max_samples=0"),
        ({"test_fraction": 1.0}, r"test_fraction=1\.0"),
        ({"clients_by": "role"}, "clients_by=role: must be one of"),
        ({"chunk_size": 10}, "has an effect only with clients_by=chunk"),
        ({"layout": "none"}, "layout=none: must be one of"),
        ({"encoding": "nonsense", "path": "a"}, "an encoding that Python knows"),
    ],
)
def test_fields_out_of_range(settings, message):
    with pytest.raises(FieldError, match=message):
        Words(**settings)


@pytest.mark.parametrize(
    ("name", "content", "settings", "message"),
    [
        (
            "a.csv",
            "who,text\n1,a\n",
            {},
            r"data\.client_column=client: a\.csv has no such column; it has 'who', 'text'",
        ),
        ("a.csv", "client,text\n,a\n", {}, r"a\.csv, line 2 has no client in the column 'client'"),
        ("a.jsonl", '{"client": 1, "text": [1]}', {}, r"'\[1\]' in the column 'text' is not a text"),
        ("a.csv", "client,text\n1,.\n", {"tokenizer": "words_only"}, "no client's text has a word"),
        (
            "a.csv",
            "client,text\n1,a\n",
            {"clients_by": "file"},
            r"data\.clients_by=file: has an effect only with data\.",
        ),
        (
            "a.csv",
            "client,text\n1,a\n",
            {"layout": "dot"},
            r"data\.layout=dot: has an effect only with data\.form=text",
        ),
        ("a.txt", PLAY, {"text_column": "b"}, r"data\.text_column=b: has an effect only with data\.form=table"),
        ("a.txt", PLAY, {"layout": "dot", "clients_by": "file"}, r"only with data\.clients_by=speaker"),
        ("a.txt", "No play.", {}, r"set data\.clients_by=chunk"),
        ("a.json", leaf({"u": ["a"]}), {"encoding": "latin-1"}, "has no effect on LEAF's JSON"),
        ("a.json", {"users": 1}, {}, "is not a file of LEAF"),
        ("a.json", leaf({"u": [3]}), {}, "is not a sample of text"),
        (
            "a.txt",
            PLAY,
            {"length": 2_000_000_000},
            r"data\.length=2000000000: 6 samples of 2,000,000,000 tokens would take",
        ),
    ],
)
def test_files_that_are_refused(name, content, settings, message, write):
    with pytest.raises(UserError, match=message) as error:
        Words(path=write(content, name), **settings).load(0)
    assert "\n" not in str(error.value)


def test_windows_of_characters_belong_to_another_source(write):
    path = write({**leaf({"u": ["abc", "bcd"]}), "user_data": {"u": {"x": ["abc", "bcd"], "y": ["d", "e"]}}}, "a.json")
    with pytest.raises(UserError, match=r"windows of 3 characters.*data=leaf"):
        Words(path=path).load(0)


def test_split_files_have_no_fraction(write, tmp_path):
    for part in ("train", "test"):
        write(leaf({"u": ["a", "b"]}), f"leaf/{part}/a.json")
    with pytest.raises(
        UserError, match=re.escape("data.test_fraction=0.1: has an effect only with files that are not")
    ):
        Words(path=str(tmp_path / "leaf"), test_fraction=0.1).load(0)
