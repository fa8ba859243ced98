"""The README's table of results, made from the newest result of each kind: what was won and what was lost."""

from __future__ import annotations

import common
import shipped
import training
from readme import write_section

METHODS = {
    "default": "**DeepDiffReg** `default`",
    "fast": "**DeepDiffReg** `fast`",
    "greedy": "greedy",
    "ants": "ANTs SyN",
    "fireants": "FireANTs",
}
COLUMNS = (
    ("wall", "wall s"),
    ("cpu", "CPU s"),
    ("peak_mb", "peak MB"),
    ("dice", "Dice"),
    ("hd95", "HD95 mm"),
    ("tre_mean", "TRE mm"),
    ("sdlogj", "SDlogJ"),
    ("folds_pct", "folds %"),
)
LOWER = frozenset(("wall", "cpu", "peak_mb", "hd95", "tre_mean"))


def write_readme() -> None:
    """Fill the section of the README from the results folder."""
    write_section("bench", markdown())


def markdown() -> str:
    """All parts that have been measured, each with its date and machine."""
    makers = (
        ("cases", cases_text),
        ("kernels", kernels_text),
        ("growth", growth_text),
        ("interactive", interactive_text),
        ("slicer", slicer_text),
        ("networks", networks_text),
        ("features", features_text),
        ("shooting", shooting_text),
        ("training", training_text),
        ("shipped", shipped_text),
        ("assist", assist_text),
    )
    results = [(maker, common.latest_result(kind)) for kind, maker in makers]
    return "\n\n".join(maker(result) for maker, result in results if result is not None)


def cases_text(result: dict) -> str:
    """Table of the cases, then wins and losses against the peers and against our own limits."""
    lines = [f"### Real scans\n\n{_about(result['about'])} {_peers(result)}\n"]
    lines += ["| case | method | " + " | ".join(title for _, title in COLUMNS) + " | wall / greedy |"]
    lines += ["|---" * (len(COLUMNS) + 3) + "|"]
    for case, found in result["cases"].items():
        methods = found["methods"]
        best = {key: _best(key, methods) for key, _ in COLUMNS}
        for method, row in methods.items():
            cells = [_cell(row.get(key), row.get(key) is not None and row.get(key) == best[key]) for key, _ in COLUMNS]
            ratio = f"{row['wall'] / methods['greedy']['wall']:.2f}"
            lines.append(f"| {case} | {METHODS[method]} | " + " | ".join(cells) + f" | {ratio} |")
    lines += ["", CASES_NOTE, "", *_wins_and_losses(result)]
    return "\n".join(lines)


CASES_NOTE = (
    "Bold: best of the case. Our times and memory are those of the whole command (start of Python, imports, reading, "
    "registration, inverse, quality checks, report, writing); those of greedy and ANTs are of the registration alone, as "
    "timed by the script that runs them: without the start of Python, imports and preparing the input. That handicap is "
    "ours and is left in. Scores come from one independent script: Dice and HD95 over manual labels, TRE over landmarks, "
    "SDlogJ and folds over the whole image."
)


def _wins_and_losses(result: dict) -> list[str]:
    reached = [row for row in result["limits"] if row["reached"]]
    missed = [row for row in result["limits"] if not row["reached"]]
    lines = [f"Of the {len(result['limits'])} goals set for these cases, {len(reached)} are reached."]
    for title, rows in (("Won", reached), ("Lost", missed)):
        listed = [f"{row['case']} `{row['preset']}` {row['text']}: {row['value']:g}" for row in rows]
        lines += ["", f"**{title}**: " + ("; ".join(listed) or "none") + "."]
    return [
        *lines,
        "",
        "**Where another package is better than `default`**: " + ("; ".join(_behind(result)) or "nowhere") + ".",
    ]


def _behind(result: dict) -> list[str]:
    """Every number of every case in which a peer beats the default preset."""
    found = []
    for case, content in result["cases"].items():
        ours = content["methods"]["default"]
        for peer in ("greedy", "ants"):
            theirs = content["methods"][peer]
            for key, title in (*COLUMNS[:6], ("sdlogj", "SDlogJ")):
                a, b = ours.get(key), theirs.get(key)
                if a is not None and b is not None and (b < a if key in LOWER | {"sdlogj"} else b > a):
                    found.append(f"{case} {title}: {METHODS[peer]} {b:g}, ours {a:g}")
    return found


def kernels_text(result: dict) -> str:
    """One row per kernel and device."""
    lines = []
    for part in result["parts"]:
        if "skipped" in part:
            lines += ["", f"Kernels on a card: {part['skipped']}."]
            continue
        where = "on the CPU" if part["device"] == "cpu" else f"on {result.get('card')}"
        lines += [f"### Kernels {where}, {part['size']}^3 voxels\n\n{_about(result['about'])}\n"]
        lines += [
            "| kernel | what | ns per voxel (quartiles) | in torch operations | factor |",
            "|---|---|---|---|---|",
        ]
        for row in part["rows"]:
            cells = [
                f"{row[who]['median']:.1f} ({row[who]['iqr'][0]:.1f}-{row[who]['iqr'][1]:.1f})"
                for who in ("ours", "torch")
            ]
            lines.append(f"| `{row['name']}` | {row['what']} | {cells[0]} | {cells[1]} | {row['factor']:.1f} |")
        slower = [f"`{row['name']}`" for row in part["rows"] if row["factor"] < 1]
        if part["device"] == "cpu":
            lines += ["", f"Slower than torch: {', '.join(slower) or 'none'}."]
    return "\n".join(lines)


def growth_text(result: dict) -> str:
    """One row per size and device, with the exponents, then the comparison on a card."""
    lines = []
    for part in result["parts"]:
        if "skipped" in part:
            lines += ["", f"Growth on a card: {part['skipped']}."]
            continue
        where = "on the CPU" if part["device"] == "cpu" else f"on {result.get('card')}"
        lines += [f"### Growth with the size of the scan {where}\n\n{_about(result['about'])}\n"]
        lines += [
            "| voxels | s per iteration | ns per voxel | solver: bytes per voxel | whole registration: bytes per voxel | peak in |"
        ]
        lines += ["|---" * 6 + "|"]
        lines += [_growth_row(row) for row in part["rows"]]
        lines += ["", _growth_note(part)]
    return "\n".join([*lines, "", *_card_lines(result.get("comparison", {}))])


def _growth_row(row: dict) -> str:
    solver, whole = row["solver"], row["whole"]
    seconds = solver["iteration_s"]["median"]
    peak = max(whole["stages_bytes_per_voxel"], key=whole["stages_bytes_per_voxel"].get)
    memory = f"{solver['bytes_per_voxel']:.0f} | {whole['bytes_per_voxel']:.0f} | {peak}"
    return f"| {row['size']}^3 | {seconds:.3f} | {1e9 * seconds / solver['finest_voxels']:.0f} | {memory} |"


def _growth_note(part: dict) -> str:
    limit, largest = part["limit_bytes_per_voxel"], part["rows"][-1]
    over = [f"{row['size']}^3" for row in part["rows"] if row["whole"]["bytes_per_voxel"] > limit]
    verdict = f"lost at {', '.join(over)}" if over else "reached at every size"
    line = part["memory_line"]
    return (
        f"Time grows with the number of voxels to the power {part['time_exponent']} (1 is linear), memory to the power "
        f"{part['memory_exponent']}: about {line['fixed_mb']:.0f} MB and {line['bytes_per_voxel']:.0f} bytes per voxel. "
        f"Memory is that of the whole registration (warped scan, inverse, checks and files included) beyond the program and "
        f"the two scans, per voxel of the finest level; goal at most {limit} bytes: {verdict} "
        f"({largest['whole']['bytes_per_voxel']:.0f} at {largest['size']}^3)."
    )


SHOOTING_NOTE = (
    "On the lung RDMM is told that the lung is soft and all else hardly moves, LDDMM has the soft kernel everywhere; on the "
    "brain the weights of RDMM are free, and it stops at half resolution. Lengths are of the deformation beyond the affine part."
)


def shooting_text(result: dict) -> str:
    """The shooting family: real pairs, limits, cost of an iteration."""
    lines = [f"### Shooting (vSVF, LDDMM, RDMM)\n\n{_about(result['about'])} {SHOOTING_NOTE}\n"]
    columns = (*COLUMNS, ("outside_mm", "mean length outside the lung, mm"))
    lines += ["| case | model | " + " | ".join(title for _, title in columns) + " |", "|---" * (len(columns) + 2) + "|"]
    for case, models in result["cases"].items():
        for model, row in models.items():
            lines.append(f"| {case} | {model} | " + " | ".join(_cell(row.get(key)) for key, _ in columns) + " |")
    for title, reached in (("Reached", True), ("Missed", False)):
        rows = [f"{r['case']} {r['text']}: {r['value']:g}" for r in result["limits"] if r["reached"] is reached]
        lines += ["", f"**{title}**: " + ("; ".join(rows) or "none") + "."]
    cost = result["cost"]
    lines += ["", "| voxels | model | s per iteration | bytes per voxel | of these per time step |", "|---" * 5 + "|"]
    lines += [
        f"| {r['size']}^3 | {r['model']} | {r['iteration_s']['median']:.2f} | {r['bytes_per_voxel']:.0f} | "
        f"{r['bytes_per_voxel_and_step']:.1f} |"
        for r in cost["rows"]
    ]
    if "large" in cost:
        large = cost["large"]
        size = "x".join(str(n) for n in large["size"])
        lines += ["", f"RDMM on {size} voxels: {large['peak_mb']} MB at most, goal {large['limit_mb']} MB."]
    return "\n".join(lines)


def _card_lines(found: dict) -> list[str]:
    lines = []
    if found.get("methods"):
        lines += [f"### Same card, same pair: {found['card']}, {found['case']}\n"]
        lines += ["| method | s on the card | card MB | Dice | HD95 mm | SDlogJ | folds % |", "|---" * 7 + "|"]
        for method, row in found["methods"].items():
            values = [_cell(row.get(key)) for key in ("wall", "card_mb", "dice", "hd95", "sdlogj", "folds_pct")]
            lines.append(f"| {METHODS[method]} | " + " | ".join(values) + " |")
    if "skipped" in found:
        lines += ["", f"FireANTs on the same card: {found['skipped']}."]
    return lines


def interactive_text(result: dict) -> str:
    """One line per goal: what a front end waits for."""
    rows, goals, size = result["rows"], result["goals"], " x ".join(map(str, result["size"]))
    cancel = rows["cancel_s"]
    measured = [
        ("worker ready", rows["ready_s"], goals["ready_s"], "s"),
        (
            "first visible change after a landmark",
            rows["first_change_resting_s"]["median"],
            goals["first_change_s"],
            "s",
        ),
        ("the same while the map before is being judged", rows["first_change_judging_s"]["median"], None, "s"),
        ("settled", rows["settled_resting_s"]["median"], goals["settled_s"], "s"),
        ("cancel answered, median", cancel["median"], goals["cancel_s"], "s"),
        ("cancel answered, longest", cancel["longest"], goals["cancel_s"], "s"),
    ]
    return _goals(f"### Interactive use at {size}\n\n{_about(result['about'])}\n", measured)


def slicer_text(result: dict) -> str:
    """Views that follow a map, and what a registration adds to Slicer's process."""
    views, gains = result["views"], result["memory"]["gain_in_copies_of_the_scan"]
    live, final = (views[name] for name in ("live_preview", "final_map"))
    measured = [
        ("preview to one re-rendered slice view", live["update_and_render_one_view_ms"]["median"], 100, "ms"),
        ("preview to three re-rendered slice views", live["update_and_render_three_views_ms"]["median"], None, "ms"),
        ("final map to one re-rendered slice view", final["update_and_render_one_view_ms"]["median"], 100, "ms"),
        ("final map to three re-rendered slice views", final["update_and_render_three_views_ms"]["median"], None, "ms"),
        ("memory that a registration adds to the process", gains["private"], 3, "copies of the scan"),
        ("the same with files of the worker that it maps", gains["resident"], None, "copies of the scan"),
    ]
    size = " x ".join(map(str, views["size"]))
    return _goals(f"### In Slicer's scene and views at {size}\n\n{_about(result['about'])}\n", measured)


def networks_text(result: dict) -> str:
    """Forward passes beside the authors' programs."""
    part = result["parts"][0]
    lines = [
        f"### Networks, one forward pass at {' x '.join(map(str, part['shape']))} on the CPU\n\n{_about(result['about'])}\n",
        "| network | variant | weights | s | Keras s | MB beyond the inputs |",
        "|---|---|---|---|---|---|",
    ]
    for row in part["rows"]:
        keras = "" if row["keras_s"] is None else f"{row['keras_s']:g}"
        seconds, memory = row["forward_s"]["median"], row["beyond_mb"]
        lines.append(
            f"| `{row['network']}` | {row['variant']} | {row['weights']:,} | {seconds:.2f} | {keras} | {memory:.0f} |"
        )
    return "\n".join(
        [*lines, "", "Keras: the authors' programs on another day on the same kind of machine, as a reference."]
    )


def features_text(result: dict) -> str:
    """Feature networks, and a registration on their features, per device."""
    first = result["parts"][0]
    lines = [
        f"### Learned features at {' x '.join(map(str, first['shape']))}: one scan through each network, and a whole registration\n\n"
        f"{_about(result['about'])}\n",
        "| device | network | weights | s per scan | processor s | MB beyond the input |",
        "|---|---|---|---|---|---|",
    ]
    wholes = []
    for part in result["parts"]:
        if "skipped" in part:
            wholes.append(f"{part['device']}: {part['skipped']}.")
            continue
        for row in part["rows"]:
            lines.append(
                f"| {part['device']} | `{row['network']}` | {row['weights']:,} | {row['forward_s']['median']:.2f} | "
                f"{row['processor_s']['median']:.2f} | {row['beyond_mb']:.0f} |"
            )
        one = part["registration"]
        wholes.append(
            f"{part['device']}, method `dio` with `{one['network']}`, {' / '.join(map(str, one['iterations']))} iterations: features of "
            f"both scans {one['features_s']:g} s, optimisation {one['optimise_s']:g} s, in all {one['whole_s']:g} s "
            f"({one['whole_processor_s']:g} s of processor time); "
            f"{one['beyond_mb']:.0f} MB, {one['predicted_mb']} MB were planned for."
        )
    return "\n".join([*lines, "", *wholes])


def training_text(result: dict) -> str:
    """A network trained on slices beside the iterative method."""
    times = f"{result['training_s']:.0f} s, {result['training_processor_s']:.0f} s of processor time"
    trained = f"{result['steps']} steps in {times}, {result['peak_mb']} MB"
    heading = f"### A 2-D VoxelMorph-diff trained on brain slices ({trained}), {result['pairs']} held-out pairs"
    return f"{heading}\n\n{_about(result['about'])}\n\n{training.table(result)}"


def assist_text(result: dict) -> str:
    """Proposed landmarks: errors at known points, by confidence, and what five of them are worth."""
    lines = [
        f"### Assisted prompts, from the affine map\n\n{_about(result['about'])}\n",
        "| case | points | affine map mm | proposal mm | ratio | goal | by confidence, least to most: mm | rank correlation |",
        "|---" * 8 + "|",
    ]
    for name, case in result["cases"].items():
        for group, row in case["proposals"].items():
            thirds = " / ".join(f"{v:.2f}" for v in row["tercile_mm"])
            reached = "reached" if row["ratio"] <= result["goal"] else "missed"
            lines.append(
                f"| {name} | {row['points']} ({group}) | {row['affine_mm']:.2f} | {row['proposed_mm']:.2f} | {row['ratio']:.2f} | "
                f"at most {result['goal']:g}: {reached} | {thirds} | {row['rank_correlation']:.2f} |"
            )
    lines += [
        "",
        f"| case | {result['places']} landmarks | score | affine | named places | random places, mean (s.d.) | better than |",
    ]
    lines += ["|---" * 7 + "|"]
    for name, case in result["cases"].items():
        for what, row in case["places"].items():
            lines.append(
                f"| {name} | {what.replace('_', ' ')} | {'TRE mm' if case['score'] == 'tre_mm' else 'Dice'} | {case['affine']:.3f} | "
                f"{row['named']:.3f} | {row['random_mean']:.3f} ({row['random_sd']:.3f}) | {_beaten(row)} |"
            )
    times = "; ".join(
        f"{name}: {case['point_processor_s']:.2f} s of processor time per proposal, {case['suggest_processor_s']:.1f} s for five places"
        for name, case in result["cases"].items()
    )
    note = "Medians. Centroids of labels are no landmarks where the label is a sheet or a ring; `compact` ones hold their centroid."
    return "\n".join(
        [*lines, "", f"{note} {times}. `Testing/Benchmarks/results/assist.png` shows error against confidence."]
    )


def shipped_text(result: dict) -> str:
    heading = f"**Shipped networks** ({_about(result['about'])}): Dice, landmark error or error of a known warp; one solver and schedule."
    return heading + "\n\n" + shipped.table(result)


def _beaten(row: dict) -> str:
    return "" if row["named_better_than"] is None else f"{row['named_better_than']} of {row['repeats']}"


def _goals(heading: str, measured: list[tuple[str, float, float | None, str]]) -> str:
    """Rows of what, value, goal and unit."""
    lines = [heading, "| what | measured | goal |", "|---|---|---|"]
    for what, value, goal, unit in measured:
        limit = "" if goal is None else f"at most {goal:g}: {'reached' if value <= goal else 'lost'}"
        lines.append(f"| {what} | {value:g} {unit} | {limit} |")
    return "\n".join(lines)


def _about(about: dict) -> str:
    versions = f"torch {about['versions']['torch']}, Python {about['versions']['python']}"
    return f"{about['date'][:10]}, commit {about['commit']}, {about['cpu']}, {about['threads']} threads, {versions}."


def _peers(result: dict) -> str:
    versions = result["peer_versions"]
    return f"greedy {versions['picsl_greedy']}, antspyx {versions['antspyx']}, in the same run, one process at a time."


def _best(key: str, methods: dict) -> float | None:
    values = [row[key] for row in methods.values() if row.get(key) is not None]
    if not values or key in ("sdlogj", "folds_pct"):
        return None
    return min(values) if key in LOWER else max(values)


def _cell(value: float | None, best: bool = False) -> str:
    if value is None:
        return ""
    text = f"{value:.4g}" if abs(value) < 1000 else f"{value:.0f}"
    return f"**{text}**" if best else text
