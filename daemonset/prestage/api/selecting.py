"""What a label selector selects. Pure."""

from __future__ import annotations

from collections.abc import Mapping

from prestage.api.values import LabelSelector, SelectorOperator, SelectorTerm


def selects(selector: LabelSelector, labels: Mapping[str, str]) -> bool:
    """Kubernetes' own rule: all terms hold; an empty selector selects everything."""
    equal = all(labels.get(key) == value for key, value in (selector.match_labels or {}).items())
    return equal and all(_holds(term, labels) for term in selector.match_expressions or ())


def _holds(term: SelectorTerm, labels: Mapping[str, str]) -> bool:
    match term.operator:
        case SelectorOperator.IN:
            return labels.get(term.key) in (term.values or ()) and term.key in labels
        case SelectorOperator.NOT_IN:
            return labels.get(term.key) not in (term.values or ())
        case SelectorOperator.EXISTS:
            return term.key in labels
        case SelectorOperator.DOES_NOT_EXIST:
            return term.key not in labels
