"""The table of public files in docs/your-own-data.md: each command, as printed, on a small file of that layout."""

import gzip
import re
import shlex
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import fedsim
from fedsim.cli import main as cli

PAGE = Path(fedsim.__file__).parents[1] / "docs" / "your-own-data.md"
ROW = re.compile(r"^\| (?P<name>[^|]+) \| `(?P<command>fedsim run data=csv [^`]+)` \|$", re.M)
COMMANDS = {match["name"].partition(",")[0]: match["command"] for match in ROW.finditer(PAGE.read_text())}
HOURS = pd.date_range("2013-03-01", periods=400, freq="h")


def wave(k=0, rows=400):
    return (10 + 5 * np.sin(2 * np.pi * (np.arange(rows) + 3 * k) / 24)).round(2)


def air_quality():
    """Decimal commas, -200 for missing values, two empty fields at every line's end, and empty lines of them."""
    lines = ["Date;Time;CO(GT);T;RH;;"]
    for k, hour in enumerate(HOURS):
        value = "-200" if k % 50 == 9 else f"{wave()[k]:.2f}".replace(".", ",")
        lines.append(f"{hour:%d/%m/%Y};{hour:%H.%M.%S};2,6;{value};48,9;;")
    Path("AirQualityUCI.csv").write_text("\r\n".join([*lines, ";;;;;;", ";;;;;;"]) + "\r\n")


def jena():
    """A day twice, and a later one before it."""
    times = pd.date_range("2009-01-01 00:10", periods=400, freq="10min")
    order = [*range(100), *range(150, 200), *range(100, 400)]
    rows = [f"{times[k]:%d.%m.%Y %H:%M:%S},996.52,{wave()[k]},265.4,1.03" for k in order]
    Path("jena_climate_2009_2016.csv").write_text(
        '"Date Time","p (mbar)","T (degC)","Tpot (K)","wv (m/s)"\n' + "\n".join(rows) + "\n"
    )


def electricity():
    rows = "\n".join(",".join(f"{wave(k)[row]:.0f}" for k in range(5)) for row in range(300))
    Path("electricity.txt.gz").write_bytes(gzip.compress(rows.encode()))


def ett():
    for name in ("ETTh1.csv", "ETTh2.csv"):
        columns = {name: wave(k) for k, name in enumerate(["HUFL", "HULL", "MUFL", "MULL", "LUFL", "LULL", "OT"])}
        pd.DataFrame({"date": HOURS, **columns}).to_csv(name, index=False)


def household():
    minutes = pd.date_range("2006-12-16 17:24", periods=400, freq="min")
    lines = ["Date;Time;Global_active_power;Global_reactive_power;Voltage"]
    lines += [
        f"{m.day}/{m.month}/{m.year};{m:%H:%M:%S};{'?;?;?' if k % 90 == 5 else f'{wave()[k]};0.418;234.840'}"
        for k, m in enumerate(minutes)
    ]
    Path("household_power_consumption.txt").write_text("\n".join(lines) + "\n")


def beijing():
    for k, station in enumerate(["Aotizhongxin", "Changping"]):
        lines = ['"No","year","month","day","hour","PM2.5","TEMP","wd","station"']
        for row, t in enumerate(HOURS):
            value = "NA" if row % 31 == 7 else wave(k)[row]
            wind = "NA" if row % 67 == 3 else f'"{["NNW", "N", "ENE"][row % 3]}"'
            lines.append(f'{row + 1},{t.year},{t.month},{t.day},{t.hour},{value},-0.7,{wind},"{station}"')
        Path(f"PRSA_Data_{station}_20130301-20170228.csv").write_text("\n".join(lines) + "\n")


def prices():
    """As yfinance 0.2 writes them: three lines of names."""
    lines = ["Price,Close,High,Volume", "Ticker,AAPL,AAPL,AAPL", "Date,,,"]
    lines += [
        f"{day:%Y-%m-%d},{wave()[k]},{wave()[k] + 1},{1000 + k % 7}"
        for k, day in enumerate(pd.bdate_range(HOURS[0], periods=300))
    ]
    Path("AAPL.csv").write_text("\n".join(lines) + "\n")


def m4():
    """Rows of two lengths; the shorter end in empty fields."""
    lines = [",".join(f'"V{k}"' for k in range(1, 202))]
    for k in range(4):
        length = 200 - 40 * (k % 2)
        lines.append(f'"H{k + 1}",' + ",".join([*(f'"{v}"' for v in wave(k)[:length]), *[""] * (200 - length)]))
    Path("Hourly-train.csv").write_text("\n".join(lines) + "\n")


def monash():
    head = [
        "# Dataset Information",
        "@relation Electricity",
        "@attribute series_name string",
        "@attribute state string",
    ]
    head += [
        "@attribute start_timestamp date",
        "@frequency half_hourly",
        "@missing false",
        "@equallength false",
        "@data",
    ]
    rows = [f"T{k + 1}:NSW:2002-01-01 00-00-00:" + ",".join(map(str, wave(k)[: 200 + 20 * k])) for k in range(3)]
    Path("australian_electricity_demand_dataset.tsf").write_text("\n".join([*head, *rows]) + "\n")


def physionet_2012():
    """A measurement per line; hours:minutes since admission; descriptors at 00:00, -1 where unknown, as here Weight."""
    Path("set-a").mkdir()
    ids = range(132539, 132559)
    for k, patient in enumerate(ids):
        lines = [
            "Time,Parameter,Value",
            f"00:00,RecordID,{patient}",
            f"00:00,Age,{50 + k}",
            "00:00,Weight,-1",
            "00:00,Weight,80",
        ]
        for hour in range(20 + k % 5):
            lines.append(f"{hour:02d}:{7 + k:02d},HR,{70 + (hour * 7 + k) % 20}")
            lines += [f"{hour:02d}:{7 + k:02d},Temp,{36 + hour % 3}"] if hour % 4 == 0 else []
        lines += [f"47:{10 + k},Urine,{60 + k}"] if k % 2 else []
        Path(f"set-a/{patient}.txt").write_text("\n".join(lines) + "\n")
    rows = "".join(f"{patient},6,1,5,-1,{int(k % 3 == 0)}\n" for k, patient in enumerate(ids))
    Path("Outcomes-a.txt").write_text(f"RecordID,SAPS-I,SOFA,Length_of_stay,Survival,In-hospital_death\n{rows}")


def physionet_2019():
    """A file per patient, pipes between fields, NaN where nothing was measured."""
    Path("training_setA").mkdir()
    for k in range(6):
        rows = [
            f"{70 + (h * 7 + k) % 20}|{'NaN' if h % 5 else 36 + h % 3}|NaN|{60 + k}|{h + 1}|{int(h > 30)}"
            for h in range(12 if k == 5 else 80)
        ]
        text = "\n".join(["HR|Temp|EtCO2|Age|ICULOS|SepsisLabel", *rows])
        Path(f"training_setA/p{k:06d}.psv").write_text(text + "\n")


def ucr():
    rows = [f"{k % 2 + 1}\t" + "\t".join(f"{v:.4f}" for v in wave(k, 30)) for k in range(40)]
    Path("ECG5000_TRAIN.tsv").write_text("\n".join(rows) + "\n")


def robots():
    """Windows of 128 rows that a second table labels, with the group that each was recorded in."""
    names = ["row_id", "series_id", "measurement_number", "orientation_X", "linear_acceleration_Z"]
    rows = [f"{s}_{k},{s},{k},{wave(s)[k]},{-9.8 + k % 3}" for s in range(24) for k in range(128)]
    Path("X_train.csv").write_text("\n".join([",".join(names), *rows]) + "\n")
    labels = [f"{s},{s % 3},{['tiled', 'carpet'][s // 3 % 2]}" for s in range(24)]
    Path("y_train.csv").write_text("\n".join(["series_id,group_id,surface", *labels]) + "\n")


FILES = {
    "UCI Air Quality": air_quality,
    "Jena climate": jena,
    "Electricity": electricity,
    "ETT": ett,
    "UCI household power": household,
    "Beijing air": beijing,
    "Share prices": prices,
    "M4": m4,
    "Monash archive": monash,
    "PhysioNet 2012": physionet_2012,
    "PhysioNet 2019": physionet_2019,
    "UCR archive": ucr,
    "CareerCon robots": robots,
}


def test_every_row_of_the_page_has_its_files():
    assert [*COMMANDS] == [*FILES]


NOTES = {
    "UCI Air Quality": "2 blank row(s) at the end of AirQualityUCI.csv are left out",
    "Jena climate": "50 of 450 rows have a time that their client has already",
    "UCI household power": "15 missing values are the last ones before them",
    "Beijing air": "column 'wd': a feature for each of its 4 words (data.categories): 'ENE', 'N', 'NA', 'NNW'",
    "M4": "2 rows of Hourly-train.csv end early",
    "PhysioNet 2012": "20 measurements of 20 files repeat one at the same time: their mean is taken",
    "PhysioNet 2019": "1 of 6 clients have too few rows to test on",
}
CLIENTS = {"Electricity": 5, "ETT": 2, "Beijing air": 2, "M4": 4, "Monash archive": 3, "PhysioNet 2019": 6}
CLIENTS["CareerCon robots"] = 3
SEQUENCES = {"PhysioNet 2012": 20, "UCR archive": 40, "CareerCon robots": 24}


@pytest.mark.parametrize("name", FILES)
def test_a_public_layout(name, tmp_path, monkeypatch, capsys):
    """The plan of the command, with the clients and sequences that the files hold, and what was done to them."""
    monkeypatch.setenv("FEDSIM_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.chdir(tmp_path)
    FILES[name]()
    monkeypatch.setattr(sys, "argv", [*shlex.split(COMMANDS[name]), "--dry-run"])
    with pytest.raises(SystemExit) as exit_info:
        cli.main()
    out, err = capsys.readouterr()
    assert exit_info.value.code in (0, None), err
    plan = " ".join(out.split())
    assert NOTES.get(name, "") in plan
    assert f"clients {CLIENTS.get(name, 10)}, " in plan
    train, test = (int(re.search(rf"{part} samples (\d+)", plan)[1]) for part in ("training", "test"))
    if name in SEQUENCES:
        assert train + test == SEQUENCES[name]
    else:
        assert train > test > 0
