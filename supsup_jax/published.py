"""The numbers that the paper publishes, in one place (Wortsman et al., 2020; figures as arXiv v1 counts them)."""

LENET_250, FC_250, LENET_2500 = (f"GNu/MNISTPerm/{name}-tasks" for name in ("LeNet-250", "FC-250", "LeNet-2500"))
HOPSUPSUP = "GNu/SplitMNIST/hopsupsup"
SPLITIMAGENET = "GG/splitimagenet/rn50-"
SPLITCIFAR100 = "GG/splitcifar100"

# Read off the published figures to about 0.05 points. Where a curve of PSP ends, the figure does: it is below 88 %.
ACCURACIES: dict[str, dict[int, float]] = {
    f"{LENET_250}/upper_bound": {10: 94.95, 50: 95.01, 100: 94.99, 150: 94.96, 200: 94.91, 250: 94.87},
    f"{LENET_250}/supsup_h": {10: 93.67, 50: 93.68, 100: 93.68, 150: 93.66, 200: 93.65, 250: 93.63},
    f"{LENET_250}/supsup_g": {10: 93.67, 50: 93.68, 100: 93.68, 150: 93.66, 200: 93.65, 250: 93.63},
    f"{LENET_250}/batche": {10: 88.86, 50: 88.33, 100: 88.23, 150: 88.23, 200: 88.22, 250: 88.21},
    f"{LENET_250}/psp": {10: 94.65},
    f"{FC_250}/upper_bound": {10: 96.76, 50: 96.70, 100: 96.68, 150: 96.66, 200: 96.64, 250: 96.61},
    f"{FC_250}/supsup_h": {10: 96.28, 50: 96.17, 100: 96.05, 150: 95.96, 200: 95.93, 250: 95.67},
    f"{FC_250}/supsup_g": {10: 96.28, 50: 96.17, 100: 96.05, 150: 95.96, 200: 95.93, 250: 95.91},
    f"{FC_250}/batche": {10: 92.84, 50: 92.40, 100: 92.36, 150: 92.34, 200: 92.33, 250: 92.32},
    f"{FC_250}/psp": {10: 97.16, 50: 94.74, 100: 88.0},
    f"{LENET_2500}/upper_bound": {10: 94.71, 2500: 94.71},
    f"{LENET_2500}/supsup_h": {10: 93.5, 500: 93.5, 1000: 93.5, 1500: 93.5, 2000: 93.5, 2500: 93.45},
    f"{LENET_2500}/supsup_g": {10: 93.5, 500: 93.5, 1000: 93.5, 1500: 93.5, 2000: 93.5, 2500: 93.45},
    "NNs/supsup": {10: 93.59, 500: 93.49, 1000: 93.47, 1500: 93.46, 2000: 93.45, 2500: 92.54},
}
"""Accuracy in % after so many tasks, by the name of the experiment, as curves show it."""

DEVIATIONS: dict[tuple[str, int], float] = {("NNs/supsup", 2500): 0.42}
"""Standard deviations of these, where the figure has bars."""

BELOW: dict[tuple[str, int], float] = {(f"{LENET_250}/psp", 50): 88.0, (f"{FC_250}/psp", 150): 88.0}
"""Accuracies in % that a curve is below, where the figure ends."""

IN_TEXT: dict[str, dict[int, float]] = {f"{SPLITCIFAR100}/rn18-lowerbound": {20: 24.5}}
"""Accuracy in % after so many tasks that the text gives, where the figure has no point of it."""

MEMORY: dict[str, dict[int, float]] = {HOPSUPSUP: {5: 97.43}}
"""Accuracy in % after so many tasks, by the name of the experiment, as Section 3.5 has it."""

SPLITIMAGENET_TABLE: dict[tuple[str, float | None], tuple[float, float]] = {
    ("upperbound", None): (92.55, 10222.81),
    ("supsup", 16.0): (89.58, 195.18),
    ("supsup", 8.0): (88.68, 100.98),
    ("supsup", 4.0): (86.37, 65.50),
    ("batche", None): (81.50, 124.99),
}
"""The table in Figure 3: accuracy in % after 100 tasks, and megabytes, by the script and the scale of its densities."""
