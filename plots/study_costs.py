"""The cost model's split of a pass's time: what of it computes, communicates or starts up."""

from dataclasses import dataclass

from results import section
from study_results import Layer, Study

BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
GEMMS = {"forward": 2, "backward": 4}  # two products; their input and weight gradients


@dataclass(frozen=True)
class Costs:
    """Seconds of one all-to-all of all rows and of one pass's GEMMs over them: start-up, and what
    is shared among chunks."""

    exchange_startup: float
    exchange: float
    compute_startup: float
    compute: float


@dataclass(frozen=True)
class Split:
    """Where a pass's time goes. Its sum, without `hidden`, is the time."""

    compute: float
    startup: float  # of compute, and of that communication which is exposed
    exposed: float  # communication that nothing computes beside, without its start-up
    hidden: float  # communication beside compute, start-up included

    def total(self) -> float:
        return self.compute + self.startup + self.exposed


def line_of(fit: dict, slope: str) -> tuple[float, float] | None:
    """Start-up and slope; None when the fit is no line."""
    values = fit.get("alpha_s"), fit.get(slope)
    numbers = all(isinstance(value, (int, float)) and value >= 0 for value in values)
    return values if numbers else None


def costs_of(study: Study, layer: Layer, pass_name: str) -> Costs | None:
    """From the cluster's fits and the layer's sizes; None where these are no lines, or unknown."""
    fits = section(study.cluster, "fits")
    dtype = layer.values.get("dtype", study.setting("dtype"))
    exchange = line_of(section(section(fits, "all_to_all"), str(study.ranks)), "beta_s_per_byte")
    gemm = line_of(section(section(fits, "gemm"), str(dtype)), "beta_s_per_flop")
    activation = layer.values.get("activation", study.setting("activation"))
    if not exchange or not gemm or dtype not in BYTES or activation not in ("relu", "gelu"):
        return None
    factor = layer.values.get("capacity_factor", study.setting("capacity_factor"))
    copies = float(layer.values.get("top_k", study.setting("top_k") or 1))
    rows = copies * float(factor or 1) * layer.tokens
    flops = 2 * rows * layer.model_dim * layer.hidden_dim
    count = GEMMS[pass_name]
    return Costs(exchange[0], exchange[1] * rows * layer.model_dim * BYTES[dtype],
                 count * gemm[0], count * gemm[1] * flops)


def split(costs: Costs, degree: int) -> Split:
    """PipeMoE's model: T(1) = 2d + e and T(r) = max(2rd, 2d + re), with d and e of one chunk.
    Compute hides communication as far as the two run together."""
    exchange = costs.exchange_startup + costs.exchange / degree
    busy = degree * costs.compute_startup + costs.compute
    communication = 2 * degree * exchange
    exposed = 2 * exchange
    if degree > 1:
        exposed = max(exposed, communication - busy)
    starting = exposed * costs.exchange_startup / exchange if exchange else 0
    return Split(compute=costs.compute, startup=degree * costs.compute_startup + starting,
                 exposed=exposed - starting, hidden=communication - exposed)
