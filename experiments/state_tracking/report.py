"""The page and the picture of the state-tracking experiment."""

from typing import Any

from matplotlib.figure import Figure

from experiments.comparison import page, picture

TITLE = "State tracking: word problems of groups"
NAMES = {
    "parity": "parity",
    "s5_swaps": "S5 in transpositions",
    "z60": "integers modulo 60",
    "a5": "A5, even permutations of five",
    "s5": "S5, permutations of five",
}
MEASURES = {
    "element": "Right prefix products, per cent of the first L elements' (chance is 100 / order)",
    "word": "Words of which all first L prefix products are right, per cent",
}


def body(results: dict[str, Any]) -> list[str]:
    """Accuracy by group, model and length."""
    groups = results["groups"]
    lines = [*page.training_lines(list(groups.values())), ""]
    for measure, said in MEASURES.items():
        for name, study in groups.items():
            if not study["models"]:
                continue
            task = study["task"]
            tested = [str(n) for n in task["test_lengths"]]
            rows = [
                [page.title_of(model), *(page.entry(found, (measure, n), 100, 1) for n in tested)]
                for model, found in study["models"].items()
            ]
            lines += [f"{said}: {NAMES[name]}, trained at up to {task['train_length']}, L =", ""]
            lines += [*page.table(["model", *tested], rows), ""]
    lines += ["Selection (loss on other words, twice as long as in training) by rate:", ""]
    return [*lines, *page.sweep_table(groups)]


def figure(results: dict[str, Any]) -> Figure | None:
    """Accuracy against length, a panel for each group."""
    groups = {name: study for name, study in results["groups"].items() if page.done(study)}
    if not groups:
        return None
    drawn, axes = picture.panels(1, len(groups), TITLE, sharey=True)
    for panel, (name, study) in zip(axes[0], groups.items(), strict=True):
        tested = study["task"]["test_lengths"]
        picture.curves(
            panel,
            [
                (picture.along(m, ("element",), tested, 100), picture.look(n))
                for n, m in page.done(study).items()
            ],
        )
        picture.lengths(panel, tested, "elements of a word", study["task"]["train_length"])
        picture.percent(panel, "right prefix products, %" if panel is axes[0][0] else "")
        panel.set_title(NAMES[name])
    picture.legend(drawn, axes[0][0])
    return drawn


REPORT = page.Report(lambda _: TITLE, body, figure)
