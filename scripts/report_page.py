"""The picture of a page of `fedsim report` in docs/report.md: runs the tutorial's sweep, and photographs its report.

python scripts/report_page.py docs/report.png      # needs chromium, and Pillow, which comes with matplotlib
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

SWEEP = (
    *("-m", "aggregator=fedavg,median,scaffold", "seed=0,1,2", "partition=dirichlet", "partition.alpha=0.1"),
    *("rounds=20", "threads=1", "console=none", "hydra.sweep.dir=outputs/sweep"),
)
REPORT = ("outputs/sweep", "--baseline", "aggregator=fedavg", "--target", "test_accuracy=0.9")
SIZE = (1180, 1560)
COLOURS = 64  # enough for a page, and a quarter of the bytes


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file", type=Path)
    file = parser.parse_args().file.absolute()
    browser = next(
        (found for name in ("chromium", "chromium-browser", "google-chrome") if (found := shutil.which(name))), None
    )
    if browser is None:
        sys.exit("needs chromium on the PATH")
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        for words in (("run", *SWEEP), ("report", *REPORT)):
            subprocess.run([sys.executable, "-m", "fedsim", *words], cwd=folder, check=True)
        page, shot = Path(folder, "report.html"), Path(folder, "shot.png")
        options = (
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--hide-scrollbars",
            f"--user-data-dir={folder}/browser",
        )
        size = f"--window-size={SIZE[0]},{SIZE[1]}"
        subprocess.run([browser, *options, size, f"--screenshot={shot}", page.as_uri()], check=True)
        Image.open(shot).convert("RGB").quantize(COLOURS).save(file, optimize=True)


if __name__ == "__main__":
    main()
