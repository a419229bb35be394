"""Whether a processor multiplies matrices of bfloat16 faster than those of float32."""

from __future__ import annotations

from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")
# AVX512-BF16 and AMX of x86; BF16 of Arm. Without them each number is widened first, which takes longer than float32.
_INSTRUCTIONS = frozenset({"avx512_bf16", "amx_bf16", "bf16", "svebf16"})


def multiplies_bf16() -> bool | None:
    """Whether this machine's processor has instructions for it; ``None`` where the system does not say (not Linux)."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    named = [line.partition(":")[2] for line in lines if line.lower().startswith(("flags", "features"))]
    return None if not named else bool(_INSTRUCTIONS & set(named[0].split()))
