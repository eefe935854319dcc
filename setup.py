"""The one thing that pyproject.toml cannot say: found packages plus one that lives elsewhere (configs/)."""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=["fedsim", "fedsim.*"]), "fedsim.configs"])
