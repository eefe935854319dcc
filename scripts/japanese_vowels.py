"""Make `fedsim/data/japanese_vowels.safetensors`, the default data, from the two files that aeon distributes.

    python scripts/japanese_vowels.py           # with the extra `ucr`

Japanese Vowels are by Kudo, Toyama and Shimbo (1999), UCI Machine Learning Repository, doi:10.24432/C5NS47, licensed
under CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/). Changed: the frames of all utterances one after another
as float32, the labels from 0.
"""

import sys
from pathlib import Path

import numpy as np
from safetensors.numpy import save_file

FILE = Path(__file__).resolve().parents[1] / "fedsim" / "data" / "japanese_vowels.safetensors"
SOURCE = "Kudo, Toyama, Shimbo 1999, Japanese Vowels, UCI Machine Learning Repository, doi:10.24432/C5NS47, CC BY 4.0"


def arrays():
    """Frames ``[frames, 12]``, lengths and labels of both splits, as aeon reads them."""
    import aeon
    from aeon.datasets import load_from_ts_file

    found = {}
    for split in ("train", "test"):
        file = (
            Path(aeon.__file__).parent / "datasets" / "data" / "JapaneseVowels" / f"JapaneseVowels_{split.upper()}.ts"
        )
        cases, labels = load_from_ts_file(str(file))
        found[f"{split}_frames"] = np.ascontiguousarray(np.concatenate([series.T for series in cases]), np.float32)
        found[f"{split}_lengths"] = np.array([series.shape[1] for series in cases], np.int64)
        found[f"{split}_targets"] = labels.astype(np.int64) - 1
    return found


if __name__ == "__main__":
    save_file(arrays(), FILE, metadata={"source": SOURCE})
    print(f"{FILE}: {FILE.stat().st_size:,} bytes")
    sys.exit()
