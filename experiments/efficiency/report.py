"""The page and the picture of training speed."""

from typing import Any

from matplotlib.figure import Figure

from experiments.comparison import page, picture

TITLE = "Training speed against length"


def body(results: dict[str, Any]) -> list[str]:
    """Tokens/s and memory by length, then the static estimate."""
    speed, tpu, config = results["speed"]["rows"], results["tpu"]["rows"], results["config"]
    if not speed:
        return []
    names = list(dict.fromkeys(row["model"] for row in speed))
    tested = sorted({row["length"] for row in speed})
    header = [f"{n:,} x {config['tokens_per_step'] // n}" for n in tested]

    def cells(say: Any) -> list[list[str]]:
        found = {(row["model"], row["length"]): say(row) for row in speed}
        return [[page.title_of(name), *(found[name, n] for n in tested)] for name in names]

    lines = [
        f"{page.span([row['parameters'] for row in speed])} parameters, {config['tokens_per_step']:,} tokens per step, "
        f"{config['dtype']}; median of {config['repeats']} steps ± deviation.",
        *page.origin_lines([results[name]["origin"] for name in ("speed", "tpu")]),
        "",
        *page.table(
            ["tokens/s", *header],
            cells(lambda row: f"{row['tokens_per_second']:,.0f} ± {row['std']:,.0f}"),
        ),
        "",
        "What XLA's buffers for a step take (parameters, optimizer, activations):",
        "",
        *page.table(["MiB", *header], cells(lambda row: f"{row['bytes'] / 2**20:,.0f}")),
    ]
    if tpu:
        columns = ["model", "HBM per chip, GiB", "step, s", "tokens/s", "limit"]
        lines += [
            "",
            f"The {config['tpu_preset']} presets' own training step (0.5 million tokens) on {config['tpu_topology']}: "
            "**static estimates** of the compile report, nothing was run.",
            "",
            *page.table(columns, [_tpu(row) for row in tpu]),
        ]
    return lines


def _tpu(row: dict[str, Any]) -> list[str]:
    if "failed" in row:
        return [page.title_of(row["model"]), row["failed"], "", "", ""]
    memory = f"{row['hbm_bytes_per_chip'] / 2**30:.2f} of {row['hbm_limit'] / 2**30:.0f}"
    if not row["fits"]:
        return [page.title_of(row["model"]), f"{memory}: too large", "", "", ""]
    parts = {
        part: row[f"static_{part}_seconds"]
        for part in ("compute", "hbm", "interconnect", "network")
    }
    seconds = row["static_step_seconds"]
    return [
        page.title_of(row["model"]),
        memory,
        f"{seconds:.4f}",
        f"{row['tokens_per_second']:,.0f}",
        max(parts, key=lambda p: parts[p]),
    ]


def figure(results: dict[str, Any]) -> Figure | None:
    """Tokens a second against length, a panel for each family of models."""
    speed = results["speed"]["rows"]
    groups = picture.families(dict.fromkeys(row["model"] for row in speed))
    if not groups:
        return None
    drawn, axes = picture.panels(1, len(groups), TITLE, size=(4.0, 4.8), sharey=True)
    for panel, names in zip(axes[0], groups, strict=True):
        found = {
            name: {
                row["length"]: (row["tokens_per_second"], row["std"])
                for row in speed
                if row["model"] == name
            }
            for name in names
        }
        picture.curves(panel, [(found[name], picture.look(name)) for name in names])
        picture.lengths(panel, sorted({row["length"] for row in speed}), "tokens of a sequence")
        picture.legend_below(panel)
    axes[0][0].set_ylim(bottom=0)
    axes[0][0].set_ylabel("training tokens a second, at equal tokens per step")
    return drawn


REPORT = page.Report(lambda _: TITLE, body, figure)
