"""Figures of the activations: all with their derivatives, and the formula of SmeLU printed in the report."""

from pathlib import Path

import matplotlib
import numpy as np

from analysis.labels import activation_label
from figures.style import FAINT, INK, QUIET, STYLE, activation_style, add_title, panels, save

__all__ = ["activation_shapes", "smelu_printed_formula"]


@matplotlib.rc_context(STYLE)
def activation_shapes(path) -> Path:
    """Every built-in activation and its derivative; for gated units the gate (second half set to 1)."""
    import activations

    names, columns = activations.BUILT_IN, 4
    rows = -(-len(names) // columns)
    drawn, axes = panels(1.55 * rows, rows, columns, sharex=True, sharey=True)
    for ax, name in zip(axes.flat, names):
        record, x = activations.record(name), np.linspace(-3.5, 3.5, 1401)
        y, slope = value_and_slope(name, record.gated, x)
        ax.axhline(0, color=FAINT, linewidth=0.7)
        ax.axvline(0, color=FAINT, linewidth=0.7)
        ax.plot(x, y, color=activation_style(name)["color"])
        ax.plot(x, slope, color=INK, linewidth=0.9, linestyle=(0, (3, 1.5)))
        ax.set_title(record.label)
        notes = [
            record.smoothness.replace("-infinity", "∞"),
            "learnable" if record.learnable else "",
            "gated" if record.gated else "",
        ]
        ax.text(-3.4, 3.0, "\n".join(filter(None, notes)), size=6.5, color=QUIET, va="top")
    for ax in axes.flat[len(names) :]:
        ax.set_axis_off()
    for ax in axes.flat[len(names) - columns : len(names)]:  # the lowest of each column
        ax.tick_params(labelbottom=True)
        ax.set_xlabel("x", labelpad=1)
    axes[0, 0].set(ylim=(-2.0, 3.2), xlim=(-3.5, 3.5))
    line = "Solid: the function. Dashed: its derivative. Learnable ones as they start. Of gated units the gate."
    add_title(drawn, f"The {len(names)} activations", line)
    return save(drawn, path)


def value_and_slope(name, gated, x):
    """(values, derivatives) of an activation at the points x, (N,) float64; for gated units those of the gate."""
    import torch

    import activations

    inputs = torch.tensor(x, dtype=torch.float64, requires_grad=True)
    module = activations.get_activation(name).double()
    full = torch.stack([inputs, torch.ones_like(inputs)], dim=1) if gated else inputs[:, None]
    outputs = module(full)[:, 0]
    (slope,) = torch.autograd.grad(outputs.sum(), inputs)
    return outputs.detach().numpy(), slope.numpy()


@matplotlib.rc_context(STYLE)
def smelu_printed_formula(path) -> Path:
    """The formula printed in section 2.3 of the 2025 report, next to the SmeLU that was used."""
    drawn, axes = panels(2.9, 1, 2, sharey=True)
    for ax, (name, beta) in zip(axes[0], (("smelu_05", 0.5), ("smelu_1", 1.0))):
        x = np.linspace(-3, 3, 1201)
        real, _ = value_and_slope(name, False, x)
        for part in (x[x < beta], x[x >= beta]):
            printed = (part + beta) / (1 + np.exp(-part)) if part[0] >= beta else part
            ax.plot(part, printed, color="#D55E00", linestyle=(0, (4, 1.5)))
        ax.plot(x, real, color=activation_style(name)["color"])
        jump = 2 * beta / (1 + np.exp(-beta))
        ax.plot([beta, beta], [beta, jump], color="#D55E00", linewidth=0.8, linestyle=":")
        ax.text(-1.9, -2.2, "printed", color="#D55E00")
        ax.text(-2.6, 0.15, "run", color=activation_style(name)["color"])
        ax.text(beta - 0.1, jump, f"jump of {jump - beta:.3f}", color="#D55E00", ha="right", va="bottom")
        ax.set(title=activation_label(name), xlabel="x")
    line = (
        "Printed: (x + β) / (1 + e⁻ˣ) if x ≥ β; x otherwise. It jumps at β, and lets negative inputs pass unchanged. "
        "Run: 0 up to −β; (x + β)² / 4β from there to β; x from β on."
    )
    add_title(drawn, "SmeLU: the formula printed in the report, and the real one", line)
    return save(drawn, path)
