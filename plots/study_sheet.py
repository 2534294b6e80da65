"""What all figures of a study have in common: heading, words, footer."""

import style
from page import (GAP, MARGIN, ROW_POINTS, SMALL_ROW, TEXT_ROW, TITLE_ROW, Page)
from results import basis_words, cluster_words, counted
from study_results import Layer, Study

LINES = 4  # of text at most under a heading
FOOTER_GAP = 0.14


def layer_words(layer: Layer) -> tuple[str, str]:
    """Its tokens, and its sizes; each short enough for a narrow panel."""
    values = layer.values
    tokens = f"{layer.tokens:,} tokens".replace(",", "\u2009")
    if {"batch_size", "sequence_length"} <= set(values):
        tokens = f"batch {values['batch_size']} × {values['sequence_length']} tokens"
    sizes = f"M {layer.model_dim}, H {layer.hidden_dim}"
    if "experts_per_rank" in values:
        sizes += f", {counted(int(values['experts_per_rank']), 'expert')} a GPU"
    return tokens, sizes


def small_print(study: Study) -> str:
    """Where the figure comes from, and what it is not."""
    cluster = ", ".join(filter(None, [study.cluster["name"], cluster_words(study.cluster)]))
    parts = [f"study {study.name}", study.note, f"network level {study.network}",
             f"cluster {cluster}", basis_words(study.basis), study.program,
             f"commit {study.commit}"]
    if study.failed:
        parts.insert(1, f"{counted(study.failed, 'layer')} failed and not shown")
    return "  ·  ".join(filter(None, parts))


def sheet(study: Study, heading: str, text: str, height: float) -> Page:
    """A page with heading, `text` beneath it and footer; its free rows are `height` inches high."""
    lines = style.wrapped(text, style.TEXT, ROW_POINTS, LINES)
    footer = style.wrapped(small_print(study), style.SMALL, ROW_POINTS, most_lines=4)
    foot = FOOTER_GAP + SMALL_ROW * len(footer)
    page = Page(2 * MARGIN + TITLE_ROW + TEXT_ROW * len(lines) + GAP + height + foot)
    page.below = foot + MARGIN - FOOTER_GAP
    for line in footer:
        page.line(SMALL_ROW, line, style.SMALL, color=style.QUIET)
    page.below = page.height - MARGIN
    page.line(TITLE_ROW, style.shortened(heading, style.TITLE, ROW_POINTS, "bold"), style.TITLE,
              weight="bold")
    for line in lines:
        page.line(TEXT_ROW, line, style.TEXT, color=style.QUIET)
    page.take(GAP)
    return page
