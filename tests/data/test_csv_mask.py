"""missing=mask: what was seen, how long ago, and windows without a target, recomputed with pandas."""

import numpy as np
import pandas as pd
import pytest

LABELLED = {"task": "classification", "target_column": "label"}


def test_mask_by_hand(table, load):
    """Rows 0 to 5 of x are -, 1, -, -, 4, 5, and then 5 always. Times are hours 0, 1, 2, 3, 5, 6, ...

    Seen is 0 1 0 0 1 1. Since the last earlier value, or the start: 0, 1 (no value before, so since the start),
    1 (2 - 1), 2 (3 - 1), 4 (5 - 1), 1 (6 - 5). Of 20 rows 8 test, and 20 - 8 - 3 = 9 train, from row 0 on.
    The mean of the training rows: 1, 1, 1, 4, 5, 5, 5, 5 (rows 1 to 8) is 27/8.
    """
    hours = [0, 1, 2, 3, *range(5, 21)]
    x = ["", 1, "", "", 4, *[5] * 15]
    times = [f"2024-01-01T{hour:02d}:00" for hour in hours]
    text = "t,x,y\n" + "".join(f"{t},{v},{k}\n" for k, (t, v) in enumerate(zip(times, x, strict=True)))
    data = load(table(text), time_column="t", missing="mask", test_fraction=0.4, gaps="ignore")
    assert data.train.take().shape == (7, 2, 4)  # x, y, x_seen, x_since
    rows = np.concatenate([data.train.take()[:1, 0], data.train.take()[:, 1]])
    assert rows[:6, 0].tolist() == [27 / 8, 1, 1, 1, 4, 5]
    assert rows[:6, 2].tolist() == [0, 1, 0, 0, 1, 1]
    assert rows[:6, 3].tolist() == [0, 1, 1, 2, 4, 1]
    note = "3 missing values are the last ones before them, else the training mean, as NAME_seen and NAME_since say"
    assert f"{note} (data.missing=mask): 'x'" in data.notes


def made_up():
    """Two clients of 60 rows, a third of whose values are missing."""
    rng = np.random.default_rng(1)
    frame = pd.DataFrame({"who": np.repeat(["a", "b"], 60), "x": rng.normal(5, 2, 120), "z": rng.normal(size=120)})
    frame["y"] = rng.normal(size=120)
    for name in ("x", "y"):
        frame.loc[rng.random(120) < 0.3, name] = np.nan
    return frame


@pytest.mark.parametrize("scale", ["global", "client"])
def test_mask_against_pandas(table, load, scale):
    """All training windows: values, masks and times since, scaled over the rows up to the last that trains."""
    frame = made_up()
    window, horizon, fraction = 3, 2, 0.3
    settings = {"client_column": "who", "window": window, "horizon": horizon, "test_fraction": fraction}
    data = load(table(frame.to_csv(index=False)), missing="mask", scale=scale, **settings)
    rows = 60 - int(60 * fraction) - window - horizon  # the rows before the gap between training and test
    columns = []
    for name in ("x", "z", "y"):
        columns.append(frame.groupby("who")[name].ffill())
    for name in ("x", "y"):
        seen = frame[name].notna()
        place = frame.groupby("who").cumcount()
        last = place.where(seen).groupby(frame["who"]).transform(lambda s: s.ffill().shift()).fillna(0)
        columns += [seen.astype(float), place - last]
    wide = pd.concat(columns, axis=1, keys=["x", "z", "y", "x_seen", "x_since", "y_seen", "y_since"])
    place = frame.groupby("who").cumcount()
    starts = [*range(rows - window - horizon + 1)]
    kept = {}
    for who, own in frame.groupby("who"):
        y = own["y"].to_numpy()
        kept[who] = [k for k in starts if not np.isnan(y[k + window : k + window + horizon]).any()]
    ends = {who: max(own) + window + horizon for who, own in kept.items()}  # up to where a window reaches
    training = place < frame["who"].map(ends)
    groups = frame["who"] if scale == "client" else pd.Series("all", frame.index)
    mean = wide[training].groupby(groups[training]).mean().loc[groups].set_axis(frame.index)
    filled = wide.fillna(mean)
    own = filled[training].groupby(groups[training])
    center, spread = (own.agg(f).loc[groups].set_axis(frame.index) for f in ("mean", lambda v: v.std(ddof=0)))
    scaled = (filled - center) / spread
    for name in ("x_seen", "y_seen"):
        scaled[name] = filled[name]
    inputs, targets = [], []
    for who in ("a", "b"):
        begin = 60 * (who == "b")
        for k in kept[who]:
            inputs.append(scaled.iloc[begin + k : begin + k + window].to_numpy())
            targets.append(scaled["y"].iloc[begin + k + window : begin + k + window + horizon].to_numpy())
    np.testing.assert_allclose(data.train.take(), np.stack(inputs), atol=1e-5)
    np.testing.assert_allclose(data.train.targets, np.stack(targets), atol=1e-5)
    # a target that was never measured is in no test window either
    lost = next(note for note in data.notes if "need a missing target" in note)
    test = {
        who: [k for k in range(42, 56) if frame["y"][60 * (who == "b") + k + 3 :][:2].notna().all()] for who in "ab"
    }
    assert len(data.test) == sum(map(len, test.values()))
    every = 2 * (len(starts) + 14)
    assert lost.startswith(f"{every - len(data.train) - len(data.test)} of {every} windows")


def test_labels_that_are_missing(table, load):
    """20 rows; the labels of rows 1 and 18 are missing, at which no window of one row ends."""
    text = "x,label\n" + "".join(f"{k},{'' if k in (1, 18) else 'ab'[k % 2]}\n" for k in range(20))
    data = load(table(text), missing="mask", window=1, **LABELLED)
    # 4 test rows, 16..19, 20 - 4 - 1 = 15 training rows
    assert data.train.take().ravel().tolist() == [0, *range(2, 15)]
    assert data.test.take().ravel().tolist() == [16, 17, 19]
    assert data.test.targets.tolist() == [0, 1, 1]
    assert "2 of 19 windows need a missing target, and are left out (data.missing=mask)" in data.notes


def test_a_client_without_any_target_is_left_out(table, load, refusal):
    text = "who,x,y\n" + "".join(f"{who},{k},{k if who == 'a' else ''}\n" for who in "ab" for k in range(20))
    settings = {"client_column": "who", "feature_columns": ["x"], "missing": "mask"}
    data = load(table(text), **settings)
    assert data.client_names == ("a",)
    assert "left out 1 clients without a training window that has a target: 'b'" in data.notes
    none = table("x,y\n" + "".join(f"{k},\n" for k in range(20)), "b.csv")
    assert "no window for training has a target" in refusal(none, **settings | {"client_column": None})


def test_the_mask_of_a_sequence_begins_with_it(table, load):
    """The last value of one sequence is not the first of the next."""
    text = "s,x,label\n" + "".join(
        f"{s},{s}.5,{s % 2}\n{s},,{s % 2}\n" if s % 2 else f"{s},,0\n{s},1,0\n" for s in range(10)
    )
    data = load(table(text), sequence_column="s", missing="mask", **LABELLED)
    for inputs, target in zip(data.train.take(), data.train.targets, strict=True):
        assert inputs[:, 1].tolist() == ([1, 0] if target else [0, 1])
        assert inputs[:, 2].tolist() == [0, 1]
    first = data.train.take()[data.train.targets == 0][:, 0, 0]
    values = [
        v for s, t in zip(data.train.take(), data.train.targets, strict=True) for v in ([s[0, 0]] * 2 if t else [1])
    ]
    np.testing.assert_allclose(first, np.mean(values), rtol=1e-6)  # the mean of the training sequences' rows


def test_names_that_are_taken(table, refusal):
    text = "x,x_seen,y\n" + "".join(f"{'' if k == 3 else k},1,{k}\n" for k in range(20))
    assert "data.missing=mask would add a column 'x_seen'" in refusal(table(text), missing="mask")


def test_nothing_is_missing(table, load):
    path = table("x,y\n" + "".join(f"{k},{k}\n" for k in range(20)))
    one, two = load(path, missing="mask", scale="global"), load(path, scale="global")
    np.testing.assert_array_equal(one.train.take(), two.train.take())
