"""Whose bundles may be used: a file that says which keys may provide which images.

[keys]
ci = "ci.pub"                       # a PEM file; relative paths begin at the policy's directory
[[allow]]
images = ["registry.lan/*"]         # shell patterns of HOST/NAME:TAG
keys = ["ci"]                       # one of these has to have signed
max-age-days = 90                   # optional: since the bundle was made
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from hyperbuild.builder.signing import load_key, signed_payload
from hyperbuild.builder.statement import read_statement
from hyperbuild.converter.errors import (
    ContentError,
    InputError,
    UnavailableError,
    VerificationError,
)
from hyperbuild.converter.toml import read_toml

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from datetime import datetime
    from pathlib import Path

    from securesystemslib.signer import Key


#: Clocks that differ by no more than this are taken for right.
_SKEW = timedelta(hours=1)


@dataclass(frozen=True, slots=True)
class Rule:
    """One of keys has to have signed a bundle, no longer ago than max_age."""

    keys: tuple[Key, ...]
    max_age: timedelta | None = None

    def accept(self, envelopes: Iterable[bytes], digest: str, what: str, now: datetime) -> bytes:
        """Return the first of envelopes that is good for the manifest or document of digest.

        VerificationError says why none is; what is how it names the bundle.
        """
        why = "is not signed"
        for envelope in envelopes:
            try:
                payload = signed_payload(envelope, list(self.keys))
                if payload is None:
                    why = "is signed, but by no key that may"
                    continue
                statement = read_statement(payload)
            except ContentError as error:
                why = f"has a signature that is none ({error})"
                continue
            if digest not in statement.digests:
                why = "has a signature that is another bundle's"
            elif statement.made - now > _SKEW:
                why = f"says that it was made on {statement.made:%Y-%m-%d}, which is still to come"
            elif self.max_age and now - statement.made > self.max_age:
                why = (
                    f"was made on {statement.made:%Y-%m-%d}, longer ago than the "
                    f"{self.max_age.days} days that the policy allows"
                )
            else:
                return envelope
        raise VerificationError(f"{what} {why}; have it signed by who may (hyperbuild push --sign)")


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules by patterns of names, in order: the first that fits a name is its rule."""

    path: Path
    rules: tuple[tuple[tuple[str, ...], Rule], ...]

    def rule_for(self, name: str) -> Rule:
        """Return the rule for bundles called name; VerificationError if none allows it."""
        for patterns, rule in self.rules:
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                return rule
        raise VerificationError(
            f"{name} is allowed by no rule of {self.path}; use another image, or add a rule"
        )


def rule_of(paths: Iterable[Path]) -> Rule | None:
    """Return the rule that one of the keys in these files has to have signed; None without any."""
    keys = tuple(load_key(path) for path in paths)
    return Rule(keys) if keys else None


def read_policy(path: Path) -> Policy:
    """Read a policy and its keys; InputError names what is wrong, and where."""
    fields = read_toml(path, "policy")
    _known(fields, ("keys", "allow"), str(path))
    keys = {
        name: _key(path, name, file)
        for name, file in _table(fields.get("keys"), f"{path}: [keys]").items()
    }
    allowed = fields.get("allow")
    if not isinstance(allowed, list) or not allowed:
        raise InputError(f"{path}: no [[allow]]; say which images which keys may provide")
    rules = [
        _rule(_table(rule, f"{path}: [[allow]]"), keys, f"{path}: [[allow]] {number}")
        for number, rule in enumerate(allowed, start=1)
    ]
    return Policy(path, tuple(rules))


def _key(path: Path, name: str, file: object) -> Key:
    where = f"{path}: [keys] {name}"
    try:
        return load_key(path.parent / _text(file, where))
    except UnavailableError as error:
        raise InputError(f"{where}: {error}; correct the path") from error


def _rule(
    fields: Mapping[str, Any], keys: Mapping[str, Key], where: str
) -> tuple[tuple[str, ...], Rule]:
    _known(fields, ("images", "keys", "max-age-days"), where)
    names = _texts(fields.get("keys"), f"{where} keys")
    unknown = [name for name in names if name not in keys]
    if unknown:
        raise InputError(f"{where}: no key {unknown[0]!r} under [keys]; name it there")
    days = fields.get("max-age-days")
    if days is not None and (type(days) is not int or not 0 < days < 1 << 16):
        raise InputError(f"{where}: max-age-days is not a number of days; say 90, for one")
    rule = Rule(tuple(keys[name] for name in names), timedelta(days=days) if days else None)
    return _texts(fields.get("images"), f"{where} images"), rule


def _known(fields: Mapping[str, Any], names: tuple[str, ...], where: str) -> None:
    for name in fields:
        if name not in names:
            raise InputError(f"{where}: {name!r} is unknown; there are {', '.join(names)}")


def _table(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise InputError(f"{where} is missing or no table; see docs/bundles.md")
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str) or not value:
        raise InputError(f"{where} is no text; correct it")
    return value


def _texts(value: object, where: str) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise InputError(f"{where} is missing or no list; see docs/bundles.md")
    return tuple(_text(item, where) for item in value)
