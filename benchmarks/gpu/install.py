"""What is installed here, and what is missing of what the package asks for. Imports nothing that may be missing."""

from __future__ import annotations

import argparse
import configparser
import json
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from benchmarks.gpu.units import ROOT

_TOLD = ("torch", "transformers", "accelerate", "peft", "bitsandbytes", "gptqmodel", "compressed-tensors", "deepspeed")


def main() -> None:
    """Print it; fail if the package cannot be imported here."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", choices=["cuda", "cpu"], required=True)
    parser.add_argument("--tiny", action="store_true")
    arguments = parser.parse_args()
    missing = [name for name in required() if not installed(name)]
    if missing:
        sys.exit(f"ImportError: not installed: {', '.join(missing)}")
    listed = subprocess.run(
        [sys.executable, "-m", "hf_unlearn", "list", "formats", "--json"], capture_output=True, text=True
    )
    if listed.returncode:
        sys.exit(listed.stderr)
    from benchmarks.gpu.peak import bf16_peak

    peak = bf16_peak(arguments.device, 512 if arguments.tiny else 8192)
    versions = {name: version(name) for name in _TOLD if installed(name)}
    print(json.dumps({"python": platform.python_version(), "versions": versions, **seen(arguments.device), **peak}))


def required() -> list[str]:
    """Distributions that the package asks for, from its own metadata file: it need not be installed."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    lines = config["options"]["install_requires"].split()
    return [line.split(">=")[0] for line in lines]


def installed(name: str) -> bool:
    """Whether a distribution is there."""
    try:
        version(name)
    except PackageNotFoundError:
        return False
    return True


def seen(device: str) -> dict[str, Any]:
    """The device.

    Raises:
        SystemExit: A GPU was asked for and torch sees none.
    """
    import torch

    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    about: dict[str, Any] = {"device": f"{os.cpu_count()} CPU cores", "main_memory": memory}
    if device == "cuda":
        if not torch.cuda.is_available():
            sys.exit("EnvironmentError: torch sees no GPU here: use --device cpu --tiny, or a CUDA build of torch")
        about["device"] = torch.cuda.get_device_name()
        about["memory"] = torch.cuda.get_device_properties(0).total_memory
        about["cuda"] = torch.version.cuda
    return about


if __name__ == "__main__":
    main()
