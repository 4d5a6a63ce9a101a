"""Tables of the kernels' benchmarks, for `tables.py`."""

from __future__ import annotations

from typing import Any

Rows = list[list[object]]
Table = tuple[list[str], Rows, str]


def clock_of(result: dict[str, Any]) -> str:
    """Whose time was counted."""
    return "Time of the processor" if result["clock"] == "cpu" else "Time by the clock on the wall"


def attention_cpu(result: dict[str, Any]) -> Table:
    """Streaming and full attention beside the other ways, and which rows were left out."""
    sides = ("no bias", "from rings", "eager", "sdpa + mask", "flex", "ours")
    rows: Rows = []
    left_out: dict[str, list[str]] = {}
    order = ("heads", "dtype", "left", "count", "frames", "mode")
    for r in sorted(result["rows"], key=lambda r: (r["kind"] == "full", *(r[k] for k in order))):
        what = f"{r['count']} x {r['frames']}" + (f", left {r['left']}" if r["kind"] == "stream" else f", {r['mode']}")
        what = f"{'streams' if r['kind'] == 'stream' else 'whole'} {what}, {r['heads']} heads, {r['dtype']}"
        if "left_out" in r:
            left_out.setdefault("memory" if "MB" in r["left_out"] else "time", []).append(what)
            continue
        times = [f"{r['ms'][s]:.2f}" if s in r["ms"] else "" for s in sides]
        from_rings = f"{r['ours_to_from_rings']:.2f}" if "ours_to_from_rings" in r else ""
        rows.append([what, *times, f"{r['ours_to_no_bias']:.2f}", from_rings])
    head = ["ms", *sides, "ours / no bias", "ours / from rings"]
    counts = ", ".join(f"{len(names)} for {why}" for why, names in left_out.items())
    note = f"{clock_of(result)}, one thread. Rows left out by the limits of the command: {counts or 'none'}."
    return head, rows, note


def attention_cuda(result: dict[str, Any]) -> Table:
    """The same on a GPU, with shares of its roofs and the memory that a call adds."""
    head, rows, note = attention_cpu(result)
    order = ("heads", "dtype", "left", "count", "frames", "mode")
    measured = [r for r in result["rows"] if "left_out" not in r]
    measured.sort(key=lambda r: (r["kind"] == "full", *(r[k] for k in order)))
    for cells, r in zip(rows, measured, strict=True):
        share = r["share_of_copy_bandwidth"] if r["kind"] == "stream" else r["share_of_flop"]
        of_flex = f"{r['ms']['flex'] / r['ms']['ours']:.2f}" if "flex" in r["ms"] else ""
        cells += [of_flex, f"{100 * share:.0f} %", "" if r["peak_mb"] is None else f"{r['peak_mb']:.0f}"]
    head += ["flex / ours", "of the roof", "peak MB"]
    left_out = note.split("Rows left out")[1]
    roof = "Roof: bytes of streams, arithmetic of whole utterances"
    return head, rows, f"Time between events of the device. {roof}. Rows left out{left_out}"


def cpu_step(result: dict[str, Any]) -> Table:
    """One step of WavLM-base by each way."""
    rows: Rows = [
        [
            r["way"],
            f"{r['transformer_ms']:.1f}",
            f"{r['of_eager_float32']:.2f}",
            "" if r["whole_ms"] is None else f"{r['whole_ms']:.1f}",
            f"{r['error']:.0e}",
        ]
        for r in sorted(result["rows"], key=lambda r: r["of_eager_float32"])
    ]
    note = f"{clock_of(result)}, {result['rounds']} rounds in turn, each way beside eager float32 in the same call."
    if result["missing"]:
        note += " Not had: " + "; ".join(f"{name} (`{why}`)" for name, why in result["missing"].items()) + "."
    head = ["way, one stream, context 250,16,0", "transformer ms", "of eager float32", "from samples ms", "error"]
    return head, rows, note


def front_end_cpu(result: dict[str, Any]) -> Table:
    """Front end, position and head beside eager torch and torch.compile."""
    sides = ("eager", "compiled", "ours")
    rows: Rows = [
        [
            f"{r['part']}, {r['size']}, {r['dtype']}, {r['streams']} x {r['chunk']}",
            *(f"{r['ms'][s]:.2f}" for s in sides),
            f"{r['times_faster_than_compiled']:.2f}",
            f"{100 * r['share_of_roof']:.0f} %",
        ]
        for r in result["rows"]
    ]
    head = ["ms", *sides, "times faster than compiled", "of the roof"]
    return head, rows, f"{clock_of(result)}, one thread; ours is the formula here."


def front_end_cuda(result: dict[str, Any]) -> Table:
    """The same on a GPU."""
    head, rows, _ = front_end_cpu(result)
    return head, rows, "Ours are the kernels."
