"""The measurements of `real_size` as a page."""

_GIB = 2**30


def render(result: dict) -> str:
    """The page of a result of `benchmarks.real_size.measure`."""
    name, machine = result["geometry"], result["machine"]
    conditions = ", ".join(f"{key} {value}" for key, value in result["conditions"].items())
    start = f"{machine['start_bytes'] / _GIB:.1f} GiB, {machine['start_seconds']:.1f} s"
    lines = [
        f"# Commands on a model of {result['parameters'] / 1e9:.2f} G parameters",
        "",
        f"Made by `python -m benchmarks real_size --geometry={name}`, on a folder with the",
        "geometry of Qwen3-VL and random bfloat16 weights. *Peak* is the memory of the process and",
        "all that it starts that the kernel cannot take back. *Resident* also counts mapped files,",
        "which it can drop. *Least* is start-up, bytes at the pace of the disk and FLOPs at the",
        f"pace of a float32 matrix product: {machine['start_seconds']:.1f} s,"
        f" {machine['read'] / 1e6:,.0f} MB/s read,",
        f"{machine['written'] / 1e6:,.0f} MB/s written, {machine['flops'] / 1e9:,.0f} GFLOP/s,",
        "measured on this machine. The linear algebra of a conversion is not in it.",
        "",
        "The columns for 8B are extrapolated, not measured: what exceeds a bare start of ivx",
        f"({start}) is multiplied by the ratio of the parameters, {result['ratio_8b']:.2f}.",
        "",
        f"Conditions: {conditions}.",
        "",
        "| command | peak, GiB | limit | resident | time, s | least | 8B: GiB | 8B: minutes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    return "\n".join([*lines, *map(_row, result["steps"])]) + "\n"


def _row(row: dict) -> str:
    if row["code"]:
        return (
            f"| {row['what']} | failed with code {row['code']} | | | {row['seconds']:.0f} | | | |"
        )
    limit = f"{row['memory_limit'] / _GIB:.1f}" if "memory_limit" in row else ""
    least = f"{row['least_seconds']:.0f}" if "least_seconds" in row else ""
    over = " (over)" if "memory_limit" in row and row["peak"] > row["memory_limit"] else ""
    cells = [
        row["what"],
        f"{row['peak'] / _GIB:.1f}{over}",
        limit,
        f"{row['resident'] / _GIB:.1f}",
        f"{row['seconds']:.0f}",
        least,
        f"{row['peak_8b'] / _GIB:.0f}",
        f"{row['seconds_8b'] / 60:.0f}",
    ]
    return f"| {' | '.join(cells)} |"
