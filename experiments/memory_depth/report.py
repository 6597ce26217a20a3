"""The page and the picture of the memory-depth experiment."""

from typing import Any

from matplotlib.figure import Figure

from experiments.comparison import page, picture

TITLE = "Depth of the memory"
STUDIES = {"one_size": "equal parameters", "one_width": "equal feed-forward width"}


def body(results: dict[str, Any]) -> list[str]:
    """Loss by depth and length, then speed."""
    studies = {name: results[name] for name in STUDIES}
    task = studies["one_size"]["task"]
    tested = [str(n) for n in task["lengths"]]
    lines = [*page.training_lines(list(studies.values())), ""]
    for name, title in STUDIES.items():
        models = page.done(studies[name])
        for test in _tests(studies[name]):
            lines += [
                f"Bits per byte of {page.text_of(test)}, at {title}, trained in windows of {task['length']}, "
                "tested in windows of:",
                "",
            ]
            rows = [
                [
                    depth,
                    f"{model['parameters']:,}",
                    *(page.entry(model, ("bits_per_byte", test, n), digits=4) for n in tested),
                ]
                for depth, model in models.items()
            ]
            lines += [*page.table(["L_M", "parameters", *tested], rows), ""]
    speed = {(row["depth"], row["length"]): row for row in results["speed"]["rows"]}
    if speed:
        timed = sorted({length for _, length in speed})
        rows = [
            [depth, *(_speed(speed[depth, n]) for n in timed)]
            for depth in dict.fromkeys(depth for depth, _ in speed)
        ]
        lines += [
            "Training tokens/s, at equal feed-forward width and equal tokens per step, by sequence length:",
            "",
            *page.table(["L_M", *map(str, timed)], rows),
            "",
            *page.origin_lines([results["speed"]["origin"]]),
            "",
        ]
    lines += ["Selection (bits per byte of held-out ends of the training books) by rate:", ""]
    titled = {f"at {title}": results[name] for name, title in STUDIES.items()}
    return [*lines, *page.sweep_table(titled)]


def _tests(study: dict[str, Any]) -> list[str]:
    models = list(page.done(study).values())
    return list(models[0]["results"][0]["bits_per_byte"]) if models else []


def _speed(row: dict[str, Any]) -> str:
    return f"{row['tokens_per_second']:,.0f} ± {row['std']:,.0f}"


def figure(results: dict[str, Any]) -> Figure | None:
    """Bits per byte against length, at equal parameters and at equal width, and speed against length."""
    tests = _tests(results["one_size"])
    if not tests:
        return None
    drawn, axes = picture.panels(1, 3, TITLE)
    rows = results["speed"]["rows"]
    depths = list(dict.fromkeys([*results["one_size"]["models"], *(r["depth"] for r in rows)]))
    looks = {
        depth: {"color": colour, "label": f"{depth} layers" if depth != "1" else "1 layer"}
        for depth, colour in zip(depths, picture.shades(len(depths)), strict=True)
    }
    axes[0][1].sharey(axes[0][0])
    for panel, (name, title) in zip(axes[0], STUDIES.items(), strict=False):
        tested = results[name]["task"]["lengths"]
        path = ("bits_per_byte", tests[0])
        found = page.done(results[name]).items()
        picture.curves(
            panel, [(picture.along(model, path, tested), looks[depth]) for depth, model in found]
        )
        picture.lengths(panel, tested, "tokens of a test window")
        panel.set(title=f"loss at {title}", ylabel=f"bits per byte of {page.text_of(tests[0])}")
    speed = {
        depth: {
            r["length"]: (r["tokens_per_second"], r["std"]) for r in rows if r["depth"] == depth
        }
        for depth in depths
    }
    picture.curves(axes[0][2], [(speed[depth], looks[depth]) for depth in depths if speed[depth]])
    picture.lengths(axes[0][2], sorted({r["length"] for r in rows}), "tokens of a sequence")
    axes[0][2].set(title="training speed at equal width", ylabel="tokens a second")
    axes[0][2].set_ylim(bottom=0)
    picture.legend(drawn, axes[0][0])
    return drawn


REPORT = page.Report(lambda _: TITLE, body, figure)
