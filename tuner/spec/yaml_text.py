"""Reading YAML that a user or somebody else's search holds: values alone, no larger and no deeper than a spec ever is,
and a key that stands twice in one mapping is an error, not the last one's value."""

from __future__ import annotations

from typing import Any

import yaml

LONGEST = 2**16  # characters: without libyaml PyYAML reads some 70,000 a second
DEEPEST = 20  # lists and mappings inside each other, of which its time is the square; a spec has 4


# libyaml reads eight times as fast; PyYAML has it unless it was built without.
_Fast: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


class _Loader(_Fast):
    def construct_yaml_int(self, node: yaml.ScalarNode) -> int:
        value = super().construct_yaml_int(node)
        if abs(value) >= 2**63:
            raise yaml.constructor.ConstructorError(None, None, "a number beyond 64 bits", node.start_mark)
        return value

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key for key, _ in node.value]  # before what `<<` brings, which they may replace
        mapping = super().construct_mapping(node, deep)
        if len(mapping) < len(node.value):
            seen: set[Any] = set()
            for key_node in keys:
                key = self.construct_object(key_node, deep=True)
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"key {key!r} stands twice", key_node.start_mark
                    )
                seen.add(key)
        return mapping


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)


def read_yaml(text: str) -> Any:
    """What ``text`` says. ``ValueError``, one sentence, whatever is wrong with it."""
    if len(text) > LONGEST:
        raise ValueError(f"it is longer than {LONGEST} characters")
    try:
        _check_events(text)
        return yaml.load(text, Loader=_Loader)
    # beside YAML's own: a date that there is not, a tag whose value it cannot have (!!bool x, !!int "")
    except (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError) as error:
        raise ValueError(" ".join(str(error).split()) or type(error).__name__) from None


def _check_events(text: str) -> None:
    """``ValueError`` for aliases, with which a few hundred bytes name billions of values, and for depth."""
    depth, loader = 0, _Fast(text)
    while (event := loader.get_event()) is not None:
        if isinstance(event, yaml.ScalarEvent):
            continue
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"alias *{event.anchor} is not allowed")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > DEEPEST:
            raise ValueError(f"more than {DEEPEST} levels")
