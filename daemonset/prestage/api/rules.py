"""Rules over several fields, each said once: as CEL for the API server and as Python for us. Pure.

Names are those on the wire. Every message says what to write instead.
"""

from __future__ import annotations

import ipaddress

from prestage.api.marks import Fields, Rule


def exactly_with(name: str, of: str, *values: str, message: str) -> Rule:
    """`name` is there where `of` has one of `values`, and nowhere else."""
    return Rule(f"has(self.{name}) == ({_is(of, values)})", message, lambda it: (it[name] is not None) == (it[of] in values))


def exactly_without(name: str, of: str, *values: str, message: str) -> Rule:
    """`name` is there but where `of` has one of `values`."""
    return Rule(f"has(self.{name}) != ({_is(of, values)})", message, lambda it: (it[name] is not None) != (it[of] in values))


def only_with(name: str, of: str, *values: str, message: str) -> Rule:
    """`name` may be there where `of` has one of `values`."""
    return Rule(f"!has(self.{name}) || {_is(of, values)}", message, lambda it: it[name] is None or it[of] in values)


def flag_only_with(name: str, of: str, *values: str, message: str) -> Rule:
    """The boolean `name` may be true where `of` has one of `values`."""
    return Rule(f"!self.{name} || {_is(of, values)}", message, lambda it: not it[name] or it[of] in values)


def flag_never_with(name: str, other: str, *, message: str) -> Rule:
    """The boolean `name` is false where `other` is there."""
    return Rule(f"!self.{name} || !has(self.{other})", message, lambda it: not it[name] or it[other] is None)


def not_both(one: str, other: str, *, message: str) -> Rule:
    """At most one of the two."""
    return Rule(f"!has(self.{one}) || !has(self.{other})", message, lambda it: it[one] is None or it[other] is None)


def at_least_one(one: str, other: str, *, message: str) -> Rule:
    """One of the two, or both."""
    return Rule(f"has(self.{one}) || has(self.{other})", message, lambda it: it[one] is not None or it[other] is not None)


def needs(name: str, other: str, *, message: str) -> Rule:
    """`name` only together with `other`."""
    return Rule(f"!has(self.{name}) || has(self.{other})", message, lambda it: it[name] is None or it[other] is not None)


def as_any_of(name: str, *others: str, message: str) -> Rule:
    """`name` is there where any of `others` is, and nowhere else."""
    either = " || ".join(f"has(self.{other})" for other in others)
    return Rule(
        f"has(self.{name}) == ({either})",
        message,
        lambda it: (it[name] is not None) == any(it[other] is not None for other in others),
    )


def not_where_begins(name: str, other: str, beginning: str, *, message: str) -> Rule:
    """`name` is not there where the text `other` begins so."""
    return Rule(
        f"!has(self.{name}) || !self.{other}.startsWith('{beginning}')",
        message,
        lambda it: it[name] is None or not str(it[other]).startswith(beginning),
    )


def immutable(message: str, *names: str) -> Rule:
    """Of a field, or of some fields of a value."""
    cel = " && ".join(f"self.{name} == oldSelf.{name}" for name in names) if names else "self == oldSelf"
    return Rule(cel, message)


def network(message: str) -> Rule:
    """Of a text: an IPv4 or IPv6 network."""

    def holds(it: Fields) -> bool:
        try:
            ipaddress.ip_network(str(it["self"]), strict=False)
        except ValueError:
            return False
        return True

    return Rule("isCIDR(self)", message, holds)


def _is(name: str, values: tuple[str, ...]) -> str:
    if len(values) == 1:
        return f"self.{name} == '{values[0]}'"
    return f"self.{name} in [{', '.join(repr(value) for value in values)}]"
