"""Files of a test's own."""

import pytest

from fedsim.data.csv import Csv
from fedsim.errors import UserError


@pytest.fixture
def table(tmp_path, monkeypatch):
    """Return ``table(text, name)``, which writes a file and returns its path; nothing is cached elsewhere."""
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path / "cache"))

    def write(text, name="a.csv"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True, parents=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return str(path)

    return write


@pytest.fixture
def load():
    """Return ``load(path, **settings)``: windows of two rows of the column y, as they are written."""

    def read(path, **settings):
        return Csv(**{"path": path, "target_column": "y", "window": 2, "scale": "none"} | settings).load(0)

    return read


@pytest.fixture
def refusal(load):
    """Return ``refusal(path, **settings)``: the line with which a table is refused."""

    def read(path, **settings):
        with pytest.raises(UserError) as error:
            load(path, **settings)
        assert "\n" not in str(error.value)
        return str(error.value)

    return read
