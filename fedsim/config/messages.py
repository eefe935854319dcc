"""The errors of Hydra and OmegaConf, as fedsim prints them."""

from __future__ import annotations


def one_line(error: BaseException | None) -> str:
    """An error and its causes in one line, without the hints that Hydra and OmegaConf add for programmers."""
    texts = []
    while error is not None:
        text = " ".join(str(error).split("\nSet the environment")[0].split("\n    full_key:")[0].split())
        key = getattr(error, "full_key", None)
        texts.append(f"{key}: {text}" if key and key not in text else text)
        error = error.__cause__
    return ": ".join(dict.fromkeys(text for text in texts if text)) or "the config cannot be composed"
