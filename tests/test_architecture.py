"""The house: arrows between rooms run downwards, nothing goes in circles, and no file is too long to know."""

import importlib.util
from pathlib import Path

import pytest

import fedsim

PACKAGE = Path(fedsim.__file__).parent
SCRIPT = PACKAGE.parent / "scripts" / "rooms.py"

ORDER = (
    ("api", "cli"),
    ("runs",),
    ("config",),
    ("federation",),
    ("asynchrony", "attacks", "audits", "baselines", "devices", "links", "personalization", "privacy", "topology"),
    ("corrections", "evaluation", "samplers"),
    ("aggregation",),
    ("server",),
    ("core",),
    ("clients",),
    ("models",),
    ("report",),
    ("compare", "data", "parallel", "partition", "recording"),
    ("root",),
)
"""Which rooms may import which: those further down, and rooms of one line each other unless that makes a circle."""


@pytest.fixture(scope="module")
def house():
    spec = importlib.util.spec_from_file_location("rooms", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_arrows_run_downwards(house):
    places = {room: number for number, line in enumerate(ORDER) for room in line}
    arrows = house.rooms(PACKAGE)
    assert set(arrows) == set(places)
    upwards = [where for room in arrows for other, where in arrows[room].items() if places[other] < places[room]]
    assert not upwards, "these imports run upwards: " + "; ".join(upwards)


def test_at_most_twelve_floors_of_rooms_and_no_circle(house, capsys):
    floors = house.floors(house.rooms(PACKAGE))
    print(house.listing(PACKAGE))
    assert max(floors.values()) <= 12
    assert capsys.readouterr().out.count("\n") == max(floors.values())


def test_no_circle_of_files(house):
    assert house.floors(house.imports(PACKAGE))["errors"] == 1


def test_a_circle_is_named_with_the_import_that_closes_it(house, tmp_path):
    for name, text in {"a/x": "from p.b import y\n", "b/y": "import p.c.z\n", "c/z": "from p.a import x\n"}.items():
        file = tmp_path / "p" / f"{name}.py"
        file.parent.mkdir(parents=True)
        file.write_text(text)
        (file.parent / "__init__.py").write_text("")
    (tmp_path / "p" / "__init__.py").write_text("")
    with pytest.raises(ValueError, match=r"a circle: a -> b -> c -> a \(p/c/z\.py:1 imports p\.a\.x\)"):
        house.floors(house.rooms(tmp_path / "p"))


def test_the_picture_has_every_room(house):
    picture = house.draw(PACKAGE)
    assert all(f">{room}</text>" in picture for room in house.rooms(PACKAGE))


@pytest.mark.parametrize("file", sorted(PACKAGE.rglob("*.py")), ids=lambda file: str(file.relative_to(PACKAGE)))
def test_no_file_is_too_long(file):
    assert len(file.read_text(encoding="utf-8").splitlines()) <= 400


def test_the_round_has_no_special_case():
    text = (PACKAGE / "federation" / "round.py").read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 130
    assert "isinstance" not in text
    assert "getattr" not in text


def test_the_reference_imports_nothing_of_what_it_checks(house):
    arrows = house.imports(PACKAGE)
    engine = {"clients.stacked", "models.stacked", "models.torch_kernels", "models.numba_kernels"}

    def reached(module):
        found, waiting = set(), [module]
        while waiting:
            for other in arrows[waiting.pop()]:
                if other not in found:
                    found.add(other)
                    waiting.append(other)
        return found

    assert not engine & reached("clients.sequential")
