"""Who says what in made-up plays of each layout; roles, speeches and shares are counted by hand."""

import pytest

from fedsim.data.play_heads import LAYOUTS
from fedsim.data.plays import NoRoles, describe, read_play
from fedsim.data.text import Text
from fedsim.errors import UserError

SAID = {"ANN": ["Who is there?", "Come in."], "BOB": ["It is I.", "Thank you."]}
"""What Ann and Bob say in turn in each of the plays of `PLAYS`."""


def turns(head, between="\n\n"):
    """A play of four speeches, each after ``head(name)``."""
    pairs = [(name, SAID[name][k]) for k in (0, 1) for name in SAID]
    return between.join(head(name) + speech for name, speech in pairs)


PLAYS = {
    "colon_line": turns(lambda name: f"{name}:\n"),
    "colon_line without blank lines": turns(lambda name: f"{name}:\n", "\n"),
    "colon_line with directions": turns(lambda name: f"{name} [aside]:\n"),
    "colon": turns(lambda name: f"{name}: "),
    "colon without blank lines": turns(lambda name: f"{name}: ", "\n"),
    "colon with directions": turns(lambda name: f"{name} (to the\nfloor): "),
    "capitals_dot": turns(lambda name: f"{name}. "),
    "capitals_dot on a line": turns(lambda name: f"{name}.\n"),
    "capitals_dot with directions": turns(lambda name: f"{name} (turns round). "),
    "capitals_dot indented": turns(lambda name: f"  {name}. ", "\n"),
    "capitals": turns(lambda name: f"{name}\n"),
    "capitals without blank lines": turns(lambda name: f"{name}\n", "\n"),
    "capitals centred": turns(lambda name: f"{name:>30}\n"),
    "capitals, then a blank line": turns(lambda name: f"{name}\n\n"),
    "capitals and a gap": turns(lambda name: f"{name}  "),
    "capitals and a tab": turns(lambda name: f"{name}\t"),
    "capitals with directions": turns(lambda name: f"{name} [softly]\n"),
    "dash": turns(lambda name: f"{name}.--"),
    "dash with directions": turns(lambda name: f"{name} (aside).--"),
    "dash in one character": turns(lambda name: f"{name}.\N{EM DASH}"),
    "italic": turns(lambda name: f"_{name}._ "),
    "italic with directions": turns(lambda name: f"_{name}_ (laughing). "),
    "italic and a dash": turns(lambda name: f"_{name}._--"),
    "italic on a line": turns(lambda name: f"_{name}_\n"),
    "italic in Markdown": turns(lambda name: f"**{name}:** "),
}


@pytest.mark.parametrize("name", PLAYS)
def test_each_layout_gives_the_same_roles(name):
    play = read_play(PLAYS[name])
    assert play.layout == name.split(",")[0].split()[0]
    assert play.spoken == SAID
    assert play.kept == 1
    assert read_play(PLAYS[name], play.layout) == play


@pytest.mark.parametrize("layout", ["colon_line", "colon", "dot", "dash", "italic"])
def test_names_that_are_not_in_capitals(layout):
    """The ghost comes once: in small letters that may be a sentence, unless it is on a line of its own with a colon."""
    marks = {"colon_line": "{}:\n", "colon": "{}: ", "dot": "{}. ", "dash": "{}.--", "italic": "_{}._ "}
    names = ["Ham", "First Clown", "Mrs. Alving", "K. John", "1. Citizen"]
    text = "\n\n".join(marks[layout].format(name) + f"Speech {k}." for k in (1, 2) for name in names)
    play = read_play(text + "\n\n" + marks[layout].format("Ghost") + "Swear.")
    assert play.layout == layout
    spoken = {name: ["Speech 1.", "Speech 2."] for name in names}
    if layout == "colon_line":
        assert play.spoken == spoken | {"Ghost": ["Swear."]}
    else:
        spoken["1. Citizen"][1] += "\n\n" + marks[layout].format("Ghost") + "Swear."
        assert play.spoken == spoken
        assert play.once == ("Ghost",)


def test_every_layout_has_a_play():
    assert {name.split(",")[0].split()[0] for name in PLAYS} | {"dot"} == set(LAYOUTS)


FARCE = f"""\
A FARCE

by Nobody

PERSONS

ANN, a maid.
BOB, a footman.

ACT I

SCENE. A hall.

ANN.
Who is there?

BOB.
Yes.
No. I.

[Exit Ann.]

A GHOST.
{"Boo. " * 20}

ACT II

SCENE I. The same.

ANN.
Come in.

BOB (aside).
Thank you.

THE END
"""


def test_a_play_with_a_front_and_acts():
    """Characters without white space and names.

    Front: AFARCE 6, byNobody 8, PERSONS 7, ANN,amaid. 10, BOB,afootman. 13, ACTI 4, SCENE.Ahall. 12: 60 in all.
    Ann: Whoisthere? 11, Comein. 7. Bob: Yes. 4, No.I. 5, [ExitAnn.] 10, Thankyou. 9, THEEND 6. The ghost: Boo. 4 by 20.
    From ACT II on: ACTII 5, SCENEI.Thesame. 15. Together 60 + 18 + 34 + 80 + 20 = 212, of which 132 are said: 62.3%.
    """
    play = read_play(FARCE)
    assert play.spoken == {
        "ANN": ["Who is there?", "Come in."],
        "BOB": ["Yes.\nNo. I.\n\n[Exit Ann.]", "Thank you.\n\nTHE END"],
        "A GHOST": [" ".join(20 * ["Boo."])],
    }
    assert (play.size, play.before, play.between) == (212, 60, 20)
    assert describe({"a.txt": play}) == [
        "read as a play with heads 'NAME.' in capitals: 3 roles (ANN 2, BOB 2, A GHOST 1), 62.3% of the text kept; "
        "left out: 28.3% before the first name, 9.4% between the heading of an act or scene and the next name"
    ]


def test_less_than_half_is_refused():
    """With one Boo, 56 of 136 characters are said: 41.2%."""
    with pytest.raises(NoRoles, match=r"'NAME\.' in capitals \(ANN 2, BOB 2, A GHOST 1\), only 41\.2% of the text"):
        read_play(FARCE.replace("Boo. " * 20, "Boo."))


def test_names_such_as_first_citizen_among_capitals():
    """They come back, at the place of the others; the direction Exit does too, and Farewell is indented."""
    blocks = ["CAIUS", "    One.", "First Citizen", "    Two.", "CAIUS", "    Three.", "    Farewell", "Exit"]
    blocks += ["First Citizen", "    Four.", "TITUS", "    Five.", "    Farewell", "Exit", "TITUS", "    Six."]
    play = read_play("\n\n".join(blocks))
    assert {name: len(parts) for name, parts in play.spoken.items()} == {"CAIUS": 2, "First Citizen": 2, "TITUS": 2}
    assert play.spoken["CAIUS"] == ["One.", "Three.\n\n    Farewell\n\nExit"]


LONG = "The gentleman who was introduced by the old nurse"


@pytest.mark.parametrize("name", [LONG, "2nd Lord"])
def test_a_long_name_or_one_that_starts_with_a_digit(name):
    """It is a role if it comes back, and speech, with a note, if it does not."""
    text = PLAYS["colon_line"] + f"\n\n{name}:\nGood night."
    once = read_play(text)
    assert once.spoken["BOB"][1] == f"Thank you.\n\n{name}:\nGood night."
    assert describe({"a.txt": once})[1] == (
        "heads that come only once, and are long, start with a digit or may be sentences, were read as speech: "
        f"1 ({name})"
    )
    twice = read_play(text + f"\n\n{name}:\nGood morning.")
    assert twice.spoken == SAID | {name: ["Good night.", "Good morning."]}
    assert len(describe({"a.txt": twice})) == 1


def test_more_repeats_win():
    """Six heads 'NAME.' against four lines with a colon: "Sir:" and "Friend:" come back too."""
    letters = ["\n\nSir:\nNo.", "\n\nFriend:\nYes.", "\n\nSir:\nNo.", "\n\nFriend:\nYes.", "", ""]
    play = read_play("\n\n".join(f"{name}. It says so.{k}" for name, k in zip("AB" * 3, letters, strict=True)))
    assert play.layout == "capitals_dot"
    assert {name: len(parts) for name, parts in play.spoken.items()} == {"A": 3, "B": 3}


PROSE = "It was a dark night, and nobody came.\n" * 20
NO_PLAYS = {
    "prose": (PROSE, "no line looks like the name of a role"),
    "one line with a colon": (
        PROSE + "\nShe said what follows:\n" + PROSE,
        r"1 line looks like a head of the form 'NAME:' on a line of its own \(She said what follows\), but no",
    ),
    "one that comes back": (
        (PROSE + "\nShe said:\n") * 3 + PROSE,
        r"3 lines look like heads of the form 'NAME:' .*\(She said\), but only one name comes back",
    ),
    "two in a long book": (
        ((PROSE + "\n") * 20 + "She said:\n" + PROSE + "\nHe said:\n") * 3 + PROSE,
        r"6 lines look like heads of the form 'NAME:' .*\(She said, He said\), but these are too few for a play",
    ),
    "titles at the beginning of lines": (("Mr. Elk and\nMrs. Elk saw the sea.\n" + PROSE) * 5, "no line looks like"),
    "chapters": ("".join(f"CHAPTER {k}.\n\n{PROSE}\n" for k in ("I", "II", "I", "II")), "no line looks like"),
    "directions": (("Exit.\n\n_Exeunt._\n\nACT I\n\nSCENE 1\n\n" + PROSE) * 4, "no line looks like"),
    "a word that ends sentences": (
        ("Never. Often. He said never. Never. Never.\nOften. Often he said never. Often. Often.\n" * 5),
        "no line looks like",
    ),
    "most before the first name": (
        PROSE + "\n" + PLAYS["colon_line"],
        r"read as a play with 'NAME:' on a line of its own \(ANN 2, BOB 2\), only 5\.2% of the text would be kept",
    ),
}


@pytest.mark.parametrize("name", NO_PLAYS)
def test_what_is_no_play_is_refused(name, tmp_path):
    """The prose has 20 lines of 30 characters without white space, the speeches 11 + 7 + 6 + 9: 33 of 633 are 5.2%."""
    text, message = NO_PLAYS[name]
    with pytest.raises(NoRoles, match=message):
        read_play(text)
    path = tmp_path / "a.txt"
    path.write_text(text)
    with pytest.raises(UserError, match=message) as error:
        Text(path=str(path)).load(0)
    assert str(error.value).startswith(f"data.path={path}: a.txt: ")
    assert "set data.clients_by=chunk (a client per data.chunk_size characters) or file" in str(error.value)
    assert "data.layout" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_layout_that_is_forced_needs_no_repeats_but_two_heads():
    text = PROSE + "\nANN: Yes.\n\n" + PROSE + "\nANN: " + PROSE
    with pytest.raises(NoRoles):
        read_play(text)
    assert list(read_play(text, "colon").spoken) == ["ANN"]
    with pytest.raises(NoRoles, match="no line looks like the name of a role"):
        read_play(text, "italic")


def test_blocks_without_repeats_are_a_play_if_every_paragraph_is_one():
    play = read_play("Ann:\nHo.\n\nBob:\nHa.\n")
    assert play.spoken == {"Ann": ["Ho."], "Bob": ["Ha."]}
